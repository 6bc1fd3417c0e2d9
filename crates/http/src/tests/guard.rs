//! Who is let in: loopback names, pages, keys and their scopes.

use super::Api;
use crate::Scope;

const SALE: &str = r#"{"amount":1,"currency":"EUR"}"#;

#[tokio::test]
async fn without_keys_only_names_of_this_machine_are_answered() {
    let api = Api::new().await;
    for host in ["localhost:8080", "127.0.0.1", "[::1]:8080"] {
        assert_eq!(
            api.ask("GET", "/v1/orders", &[("host", host)], "").await.status,
            200,
            "{host}"
        );
    }
    for path in ["/v1/orders", "/healthz", "/"] {
        let answer = api.ask("GET", path, &[("host", "evil.example")], "").await;
        assert_eq!(answer.code(421), "host-not-allowed");
    }
    assert_eq!(
        api.ask("GET", "http://evil.example/v1/orders", &[], "").await.code(421),
        "host-not-allowed"
    );
    // A mount refuses in its type's own form.
    let answer = api.ask("GET", "/work-order", &[("host", "evil.example")], "").await;
    assert_eq!(answer.status, 421);
    assert!(answer.json()["message"].is_string());
}

#[tokio::test]
async fn without_keys_a_foreign_page_changes_nothing() {
    let api = Api::new().await;
    for origin in ["https://evil.example", "null", "http://localhost.evil.example"] {
        let answer = api.ask("POST", "/sale", &[("origin", origin)], SALE).await;
        assert_eq!(
            (answer.status, answer.json()["error"].as_str()),
            (403, Some("origin-not-allowed")),
            "{origin}"
        );
    }
    assert_eq!(
        api.ask("POST", "/v1/orders", &[("origin", "null")], "{}")
            .await
            .code(403),
        "origin-not-allowed"
    );
    let ours = [("origin", "http://localhost:3000")];
    assert_eq!(api.ask("POST", "/sale", &ours, SALE).await.status, 202);
    assert_eq!(api.get("/sale").await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_allows_what_its_scopes_say() {
    let (api, keys) = Api::keyed(&[Scope::Submit, Scope::Read, Scope::Operate]).await;
    let [(submitter, submit), (_, read), (_, operate)] = keys.try_into().unwrap();
    let bearer = |secret: &str| format!("Bearer {secret}");
    let status = async |method: &str, path: &str, secret: &str, body: &str| {
        api.ask(method, path, &[("authorization", &bearer(secret))], body)
            .await
            .status
    };
    assert_eq!(status("POST", "/sale", &submit, SALE).await, 202);
    assert_eq!(status("GET", "/sale", &submit, "").await, 403);
    assert_eq!(status("POST", "/sale", &read, SALE).await, 403);
    assert_eq!(status("GET", "/v1/orders", &read, "").await, 200);
    assert_eq!(status("GET", "/metrics", &read, "").await, 200);
    assert_eq!(status("POST", "/v1/dead-letters/discard", &submit, "{}").await, 403);
    assert_eq!(
        status("POST", "/v1/dead-letters/redrive", &operate, r#"{"filter":{}}"#).await,
        200
    );
    assert_eq!(status("GET", "/v1/orders", "cmd_x_y", "").await, 401);
    let named = api.ask("GET", "/v1/orders", &[("x-api-key", &read)], "").await;
    assert_eq!(named.json()["items"].as_array().unwrap().len(), 1);
    let id = named.json()["items"][0]["id"].as_str().unwrap().to_owned();
    let events = api
        .ask("GET", &format!("/v1/orders/{id}/events"), &[("x-api-key", &read)], "")
        .await
        .json();
    assert_eq!(events["items"][0]["data"]["by"], format!("key:{}", submitter.id));
    // Everyone may have these; a mount speaks its own language; preflights carry no keys.
    for path in [
        "/healthz",
        "/readyz",
        "/docs",
        "/docs/problems/unauthorized",
        "/openapi.json",
    ] {
        assert_eq!(api.get(path).await.status, 200, "{path}");
    }
    assert_eq!(api.get("/metrics").await.code(401), "unauthorized");
    assert_eq!(api.get("/v1/orders").await.header("www-authenticate"), "Bearer");
    let spanish = api.post("/work-order", "{}").await;
    assert_eq!(
        (spanish.status, spanish.json()["message"].as_str()),
        (401, Some("Falta una clave de acceso válida"))
    );
    assert_eq!(
        api.ask("OPTIONS", "/work-order", &[("origin", "https://a.example")], "")
            .await
            .status,
        204
    );
    // With keys, names and pages do not matter.
    let headers = [
        ("host", "orders.example"),
        ("origin", "https://a.example"),
        ("x-api-key", &submit),
    ];
    assert_eq!(api.ask("POST", "/sale", &headers, SALE).await.status, 202);
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_its_caller() {
    let (api, keys) = Api::keyed(&[Scope::Submit, Scope::Submit]).await;
    let mut ids = Vec::new();
    for (_, secret) in &keys {
        let answer = api
            .ask(
                "POST",
                "/sale",
                &[("x-api-key", secret), ("idempotency-key", "k")],
                SALE,
            )
            .await;
        assert!(!answer.headers.contains_key("idempotency-replayed"));
        ids.push(answer.json()["orderId"].clone());
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn an_address_for_others_stays_closed_without_keys() {
    let elsewhere = |options: &mut crate::Options| options.listen = ([0, 0, 0, 0], 0).into();
    let api = Api::with(elsewhere, &[]).await;
    assert_eq!(api.get("/v1/orders").await.code(401), "unauthorized");
    let said_out_loud = |options: &mut crate::Options| {
        elsewhere(options);
        options.insecure = true;
    };
    let api = Api::with(said_out_loud, &[]).await;
    assert_eq!(
        api.ask("GET", "/v1/orders", &[("host", "orders.example")], "")
            .await
            .status,
        200
    );
}
