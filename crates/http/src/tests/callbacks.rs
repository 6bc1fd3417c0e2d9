//! People's answers and callbacks over HTTP.

use comanda_engine::WaitFor;
use comanda_model::{OrderId, Token};
use serde_json::json;

use super::{Api, PATIENCE};
use crate::Scope;

/// An order that waits for a person.
async fn asked(api: &Api) -> OrderId {
    let order = api.post("/v1/orders", r#"{"type":"asking","data":{}}"#).await.json();
    let id = order["id"].as_str().unwrap();
    api.at_rest(id).await;
    id.parse().unwrap()
}

/// The token of the callback that an order waits for, once it does.
async fn awaited(api: &Api, id: OrderId) -> Token {
    let mut version = 0;
    loop {
        let found = api.service.wait(id, WaitFor::VersionAfter(version), PATIENCE).await;
        let order = found.unwrap().unwrap().stored.order;
        let head = &order.head;
        let work = head.work.as_ref().unwrap();
        if let Some(awaiting) = work.awaiting {
            return Token {
                order: id,
                visit: work.visit,
                attempt: work.attempt,
                secret: awaiting.secret,
            };
        }
        assert!(head.version > version, "no callback is waited for");
        version = head.version;
    }
}

#[tokio::test]
async fn an_approval_and_a_callback_lead_on() {
    let api = Api::new().await;
    let id = asked(&api).await;
    let waits = api.get(&format!("/v1/orders/{id}")).await.json();
    assert_eq!(waits["work"]["state"], "waiting");
    assert_eq!(waits["work"]["waitingFor"], "an approval of `look`");
    let approve = format!("/v1/orders/{id}/approve");
    let approved = api.post(&approve, r#"{"reason":"known"}"#).await.json();
    assert_eq!(approved["results"]["look"], json!({"by": "local", "reason": "known"}));
    let again = api.post(&approve, "{}").await.problem(409);
    assert_eq!(again["code"], "no-approval");
    let path = format!("/v1/callbacks/{}", awaited(&api, id).await.expose());
    let taken = api.post(&path, r#"{"number":1.50}"#).await.json();
    assert_eq!(taken, json!({"status": "done"}));
    let order = api.get(&format!("/v1/orders/{id}?wait=30")).await;
    assert!(order.text.contains(r#""book":{"number":1.50}"#), "{}", order.text);
    let late = api.post(&path, "{}").await.problem(410);
    assert_eq!(late["code"], "callback-over");
    for token in ["nonsense".to_owned(), path[14..].replace('.', "")] {
        let unknown = api.post(&format!("/v1/callbacks/{token}"), "{}").await.problem(404);
        assert_eq!(unknown["code"], "unknown-callback");
    }
}

#[tokio::test]
async fn a_rejection_and_a_refusing_callback_are_refusals() {
    let api = Api::new().await;
    let id = asked(&api).await;
    let reject = format!("/v1/orders/{id}/reject");
    api.post(&reject, "{}").await.problem(400);
    let rejected = api.post(&reject, r#"{"reason":"too dear"}"#).await.json();
    assert_eq!(rejected["status"], "closed");
    let id = asked(&api).await;
    api.post(&format!("/v1/orders/{id}/approve"), "{}").await.json();
    let path = format!("/v1/callbacks/{}", awaited(&api, id).await.expose());
    api.post(&path, r#"{"kind":"refuse","reason":"full"}"#).await.json();
    let events = api.get(&format!("/v1/orders/{id}/events")).await.json();
    let last = events["items"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["data"]["reason"], "full");
}

#[tokio::test]
async fn a_callback_needs_no_key_and_an_approval_needs_the_right_one() {
    let (api, keys) = Api::keyed(&[Scope::Submit, Scope::Operate]).await;
    let bearer = |index: usize| format!("Bearer {}", keys[index].1);
    let (submit, operate) = (bearer(0), bearer(1));
    let body = r#"{"type":"asking","data":{}}"#;
    let headers = |key| [("authorization", key)];
    let order = api.ask("POST", "/v1/orders", &headers(&*submit), body).await.json();
    let id: OrderId = order["id"].as_str().unwrap().parse().unwrap();
    api.service.wait(id, WaitFor::Rest, PATIENCE).await.unwrap();
    let approve = format!("/v1/orders/{id}/approve");
    api.ask("POST", &approve, &headers(&*submit), "{}").await.problem(403);
    api.ask("POST", &approve, &headers(&*operate), "{}").await.json();
    let path = format!("/v1/callbacks/{}", awaited(&api, id).await.expose());
    let taken = api
        .ask("POST", &path, &[("content-type", "application/json")], "{}")
        .await
        .json();
    assert_eq!(taken["status"], "done");
}
