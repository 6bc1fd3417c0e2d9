//! The link for one order: what it shows, to whom, and until when.

use serde_json::{Value, json};

use super::Api;

async fn link(api: &Api, order: &str, body: &str) -> String {
    let made = api.ask("POST", &format!("/v1/orders/{order}/links"), &[], body).await;
    assert_eq!(made.status, 201);
    let url = made.json()["url"].as_str().unwrap().to_owned();
    url[url.find("/v1/links/").unwrap()..].to_owned()
}

#[tokio::test]
async fn a_link_shows_one_order_and_nothing_else() {
    let api = Api::new().await;
    let order = api.submitted("waiting", r#"{"secret":"hunter2"}"#).await;
    let path = link(&api, &order, "").await;
    let view = api.get(&path).await;
    assert_eq!(view.headers["cache-control"], "no-store");
    assert_eq!(view.headers["referrer-policy"], "no-referrer");
    let view = view.json();
    assert_eq!(
        (&view["reference"], &view["final"], &view["failed"]),
        (&json!(order), &json!(false), &json!(false))
    );
    assert_eq!(view["history"].as_array().unwrap().len(), 1);
    assert!(!view.to_string().contains("hunter2"), "the data is not shown: {view}");

    let page = api.ask("GET", &path, &[("accept", "text/html")], "").await;
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let text = &page.text;
    assert!(
        text.contains(&order) && !text.contains("http://") && !text.contains("https://"),
        "{text}"
    );

    let cancel = r#"{"reason":"<b>sold out</b>"}"#;
    let cancelled = api
        .ask("POST", &format!("/v1/orders/{order}/cancel"), &[], cancel)
        .await;
    assert_eq!(cancelled.status, 202);
    let view = api.get(&path).await.json();
    assert_eq!(view["final"], json!(true));
    assert_eq!(view["history"][1]["reason"], "<b>sold out</b>");
    let page = api.ask("GET", &path, &[("accept", "text/html")], "").await;
    let text = &page.text;
    assert!(text.contains("&lt;b&gt;sold out") && !text.contains("<b>"), "{text}");

    // A final order's stream ends by itself; opened again where it ended, there is no more.
    let stream = api.ask("GET", &path, &[("accept", "text/event-stream")], "").await;
    let text = &stream.text;
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(data).unwrap(), view);
    let last = text.lines().find_map(|line| line.strip_prefix("id: ")).unwrap();
    let again = [("accept", "text/event-stream"), ("last-event-id", last)];
    assert_eq!(api.ask("GET", &path, &again, "").await.status, 204);
}

#[tokio::test]
async fn a_link_that_was_changed_has_expired_or_was_made_void_shows_nothing() {
    let api = Api::new().await;
    let order = api.submitted("waiting", "{}").await;
    let path = link(&api, &order, r#"{"expiresIn":3600}"#).await;
    let token = path.strip_prefix("/v1/links/").unwrap();
    for at in [1, 12, 30, token.len() - 3] {
        let mut changed = token.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let path = format!("/v1/links/{}", String::from_utf8(changed).unwrap());
        let answer = api.get(&path).await;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (404, &json!("unknown-link")),
            "{at}"
        );
        let page = api.ask("GET", &path, &[("accept", "text/html")], "").await;
        assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    }
    let expired = super::super::links::token_for_tests(&api.app, &order, -1).await;
    let answer = api.get(&format!("/v1/links/{expired}")).await;
    assert_eq!((answer.status, &answer.json()["code"]), (410, &json!("link-expired")));
    for body in [r#"{"expiresIn":0}"#, r#"{"expiresIn":7776001}"#] {
        let answer = api.ask("POST", &format!("/v1/orders/{order}/links"), &[], body).await;
        assert_eq!(answer.json()["code"], "invalid-request", "{body}");
    }
    let rotated = api.ask("POST", "/v1/links/rotate-key", &[], "").await;
    assert_eq!(rotated.status, 204);
    assert_eq!(api.get(&path).await.status, 404);
    assert_eq!(api.get(&link(&api, &order, "").await).await.status, 200);
}
