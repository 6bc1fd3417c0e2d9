//! Erasing, exporting, and the jobs that go on in the background.

use serde_json::{Value, json};

use super::{Api, PATIENCE};
use crate::Scope;

/// The job that an answer names, when it has ended.
async fn ended(api: &Api, location: &str) -> Value {
    let asked = async {
        loop {
            let job = api.get(location).await.json();
            if job["state"] != "running" {
                return job;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap()
}

#[tokio::test]
async fn a_customer_is_erased_when_nothing_is_at_work() {
    let api = Api::new().await;
    let data = r#"{"who":"ann","note":"ring twice"}"#;
    let (open, closed) = (
        api.submitted("waiting", data).await,
        api.submitted("waiting", data).await,
    );
    let other = api.submitted("waiting", r#"{"who":"bob"}"#).await;
    let close = r#"{"to":"closed","reason":"ann is ill"}"#;
    assert_eq!(
        api.post(&format!("/v1/orders/{closed}/transition"), close).await.status,
        200
    );
    api.post("/v1/customers", r#"{"id":"ann","name":"Ann Example"}"#).await;

    let erase = "/v1/customers/ann/erase";
    let refused = api.post(erase, "").await.problem(409);
    assert_eq!(refused["code"], "order-not-final");
    assert_eq!(refused["errors"][0]["pointer"], format!("/v1/orders/{open}"));
    assert_eq!(
        api.post(&format!("/v1/orders/{open}/erase"), "").await.code(409),
        "order-not-final"
    );
    let told = api.post(erase, r#"{"dryRun":true}"#).await.json();
    assert_eq!(
        told,
        json!({"customer": "ann", "orders": 2, "notFinal": 1,
            "notFinalOrders": [{"orderId": open, "status": "open"}], "dryRun": true})
    );
    assert!(
        api.get(&format!("/v1/orders/{closed}"))
            .await
            .text
            .contains("ring twice")
    );

    let started = api.post(erase, r#"{"cancelFirst":true}"#).await;
    assert_eq!(started.status, 202);
    let job = ended(&api, started.header("location")).await;
    assert_eq!(
        (&job["state"], &job["changed"], &job["skipped"]),
        (&json!("done"), &json!(2), &json!(0)),
        "{job}"
    );
    for id in [&open, &closed] {
        let order = api.get(&format!("/v1/orders/{id}")).await;
        assert!(!order.text.contains("ann") && !order.text.contains("ring"), "{order:?}");
        let order = order.json();
        assert_eq!(
            (&order["data"], &order["customer"], &order["status"]),
            (&json!({}), &Value::Null, &json!("closed"))
        );
        assert!(order["erasedAt"].is_string());
        let events = api.get(&format!("/v1/orders/{id}/events")).await;
        assert!(!events.text.contains("ann"), "{events:?}");
        let events = events.json();
        assert_eq!(
            events["items"].as_array().unwrap().last().unwrap()["type"],
            "comanda.order.erased"
        );
    }
    assert_eq!(api.get("/v1/customers/ann").await.code(404), "unknown-customer");
    assert_eq!(api.get(&format!("/v1/orders/{other}")).await.json()["customer"], "bob");
    // Again: there is nothing left to do.
    let again = api.post(erase, "").await;
    assert_eq!(ended(&api, again.header("location")).await["changed"], 0);
    let before = api.get(&format!("/v1/orders/{closed}")).await.json();
    assert_eq!(api.post(&format!("/v1/orders/{closed}/erase"), "").await.json(), before);
    let jobs = api.get("/v1/jobs").await.json();
    assert_eq!(jobs["items"].as_array().unwrap().len(), 2);
    assert_eq!(api.get("/v1/jobs/nothing").await.code(404), "unknown-job");
}

#[tokio::test]
async fn a_customer_gets_everything_that_is_known() {
    let api = Api::new().await;
    api.post("/v1/customers", r#"{"id":"ann","name":"Ann Example"}"#).await;
    for _ in 0..3 {
        api.submitted("waiting", r#"{"who":"ann","amount":1.10}"#).await;
    }
    api.submitted("waiting", r#"{"who":"bob"}"#).await;
    let export = api.get("/v1/customers/ann/export").await;
    assert_eq!(export.header("content-type"), "application/x-ndjson");
    let lines: Vec<Value> = export
        .text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let count = |what: &str| lines.iter().filter(|line| line.get(what).is_some()).count();
    assert_eq!(
        (count("customer"), count("order"), count("event")),
        (1, 3, 3),
        "{export:?}"
    );
    assert!(export.text.contains("1.10") && export.text.contains("Ann Example") && !export.text.contains("bob"));
    assert_eq!(api.get("/v1/customers/nobody/export").await.text, "");
}

#[tokio::test]
async fn a_redrive_at_a_rate_is_a_job() {
    let api = Api::with(|_| {}, &[("record", 5)]).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id = api.submitted("sale", r#"{"amount":1.10,"currency":"EUR"}"#).await;
        assert_eq!(api.at_rest(&id).await["work"]["state"], "parked");
        ids.push(id);
    }
    let body = r#"{"filter":{"type":"sale"},"ratePerSecond":1000}"#;
    let started = api.post("/v1/dead-letters/redrive", body).await;
    assert_eq!(started.status, 202);
    let job = ended(&api, started.header("location")).await;
    assert_eq!(
        (&job["kind"], &job["matched"], &job["changed"]),
        (&json!("redrive"), &json!(3), &json!(3)),
        "{job}"
    );
    for id in ids {
        assert_eq!(api.at_rest(&id).await["status"], "COMPLETED");
    }
    // One that is slow can be stopped, and what it has not come to stays.
    let dead = api.submitted("sale", r#"{"amount":2.10,"currency":"EUR"}"#).await;
    assert_eq!(api.at_rest(&dead).await["work"]["state"], "parked");
    let many: Vec<String> = (0..301).map(|_| dead.clone()).collect();
    let body = json!({"filter": {"orderIds": many}, "ratePerSecond": 1}).to_string();
    assert_eq!(
        api.post("/v1/dead-letters/redrive", &body).await.code(400),
        "invalid-request"
    );
    let location = started.header("location");
    assert_eq!(
        api.post(&format!("{location}/stop"), "").await.json()["state"],
        "done",
        "it has ended"
    );
}

#[tokio::test]
async fn erasing_asks_for_the_scope_operate() {
    let (api, keys) = Api::keyed(&[Scope::Read]).await;
    let bearer = format!("Bearer {}", keys[0].1);
    for (method, path) in [
        ("POST", "/v1/customers/ann/erase"),
        ("GET", "/v1/customers/ann/export"),
        ("POST", "/v1/orders/0190ffff-0000-7000-8000-000000000000/erase"),
        ("GET", "/v1/jobs"),
    ] {
        let answer = api.ask(method, path, &[("authorization", &bearer)], "").await;
        assert_eq!(answer.code(403), "forbidden", "{method} {path}");
    }
}
