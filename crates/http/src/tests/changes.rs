//! Changing orders on `/v1`: patches, transitions, cancels, and the conditions that they carry.

use serde_json::json;

use super::Api;

#[tokio::test]
async fn a_patch_needs_the_tag_of_what_it_changes() {
    let api = Api::new().await;
    let id = api.submitted("waiting", r#"{"who":"a","n":1.0,"keep":1E2}"#).await;
    let path = format!("/v1/orders/{id}");
    let patch = r#"{"n":2.50,"keep":1E2}"#;
    assert_eq!(api.patch(&path, patch).await.code(428), "precondition-required");
    assert_eq!(
        api.ask("PATCH", &path, &[("if-match", "\"99\"")], patch)
            .await
            .code(412),
        "precondition-failed"
    );
    let tag = api.get(&path).await.header("etag").to_owned();
    let changed = api.ask("PATCH", &path, &[("if-match", &tag)], patch).await;
    assert_eq!(changed.status, 200);
    assert!(
        changed.text.contains(r#""data":{"who":"a","n":2.50,"keep":1E2}"#),
        "{changed:?}"
    );
    assert_ne!(changed.header("etag"), tag);
    assert_eq!(
        api.ask("PATCH", &path, &[("if-match", &tag)], patch).await.code(412),
        "precondition-failed"
    );
    let any = api.ask("PATCH", &path, &[("if-match", "*")], r#"{"n":null}"#).await;
    assert_eq!(
        any.json()["data"],
        serde_json::from_str::<serde_json::Value>(r#"{"who":"a","keep":1E2}"#).unwrap()
    );
    let events = api.get(&format!("{path}/events")).await.json();
    assert_eq!(events["items"][1]["data"]["changed"], json!(["/n"]));
}

#[tokio::test]
async fn a_patch_is_checked_as_a_submission_is() {
    let api = Api::new().await;
    let id = api
        .submitted(
            "storefront-order",
            r#"{"userId":"u","products":[{"sku":"a","quantity":1}]}"#,
        )
        .await;
    let path = format!("/v1/orders/{id}");
    let any = [("if-match", "*")];
    let problem = api
        .ask("PATCH", &path, &any, r#"{"products":[{"sku":"","quantity":0}]}"#)
        .await
        .problem(422);
    assert_eq!(problem["code"], "invalid-data");
    let pointers: Vec<_> = problem["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["pointer"].clone())
        .collect();
    assert!(pointers.contains(&json!("/products/0/quantity")), "{problem}");
    assert_eq!(
        api.ask("PATCH", &path, &any, r#"{"userId":"v"}"#).await.code(409),
        "fixed"
    );
    assert_eq!(api.ask("PATCH", &path, &any, "[1]").await.code(422), "invalid-data");
    assert_eq!(api.ask("PATCH", &path, &any, "{").await.code(400), "malformed-json");
    let merge = [("if-match", "*"), ("content-type", "application/merge-patch+json")];
    let answer = api.ask("PATCH", &path, &merge[..], "").await;
    assert_eq!(answer.code(400), "malformed-json");
}

#[tokio::test]
async fn a_transition_goes_where_the_status_leads() {
    let api = Api::new().await;
    let id = api.submitted("waiting", r#"{"a":1}"#).await;
    let path = format!("/v1/orders/{id}/transition");
    let problem = api.post(&path, r#"{"to":"lost"}"#).await.problem(422);
    assert_eq!(
        (&problem["code"], &problem["allowed"]),
        (&json!("unknown-status"), &json!(["open", "closed"]))
    );
    let problem = api.post(&path, r#"{"to":"open"}"#).await.problem(409);
    assert_eq!(
        (&problem["code"], &problem["allowed"]),
        (&json!("illegal-transition"), &json!(["closed"]))
    );
    assert_eq!(
        api.ask("POST", &path, &[("if-match", "\"77\"")], r#"{"to":"closed"}"#)
            .await
            .code(412),
        "precondition-failed"
    );
    let answer = api
        .post(&path, r#"{"to":"closed","reason":"done with it","data":{"b":2}}"#)
        .await;
    assert_eq!(
        (answer.status, answer.json()["data"].clone()),
        (200, json!({"a": 1, "b": 2}))
    );
    let events = api.get(&format!("/v1/orders/{id}/events")).await.json();
    assert_eq!(
        events["items"].as_array().unwrap().last().unwrap()["data"]["reason"],
        "done with it"
    );
    assert_eq!(
        api.post(&path, r#"{"to":"open"}"#).await.problem(409)["allowed"],
        json!([])
    );
}

#[tokio::test]
async fn an_order_is_cancelled_where_its_type_lets_it() {
    let api = Api::new().await;
    let id = api.submitted("waiting", "{}").await;
    let path = format!("/v1/orders/{id}/cancel");
    let answer = api.post(&path, r#"{"reason":"changed my mind"}"#).await;
    assert_eq!((answer.status, answer.json()["status"].as_str()), (202, Some("closed")));
    assert_eq!(api.post(&path, "").await.code(409), "order-final");
    let id = api.submitted("sale", r#"{"amount":1,"currency":"EUR"}"#).await;
    api.at_rest(&id).await;
    assert_eq!(
        api.post(&format!("/v1/orders/{id}/cancel"), "").await.code(409),
        "order-final"
    );
}

#[tokio::test]
async fn a_cancel_may_go_without_a_body() {
    let api = Api::new().await;
    let id = api.submitted("waiting", "{}").await;
    assert_eq!(api.post(&format!("/v1/orders/{id}/cancel"), "").await.status, 202);
    let stuck = Api::with(|_| {}, &[("process", 9)]).await;
    let id = stuck.submitted("purchase", r#"{"customerId":"c","items":[1]}"#).await;
    stuck.at_rest(&id).await;
    let answer = stuck.post(&format!("/v1/orders/{id}/cancel"), "").await;
    assert_eq!(answer.code(409), "not-cancellable");
}
