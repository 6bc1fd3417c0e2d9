//! Workers from outside over HTTP.

use serde_json::{Value, json};

use super::Api;
use crate::Scope;

const CLAIMS: &str = "/v1/queues/picking/claims";

async fn claim(api: &Api, body: &Value) -> Vec<Value> {
    let answer = api.post(CLAIMS, &body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["items"].as_array().unwrap().clone()
}

async fn claim_one(api: &Api) -> Value {
    let mut items = claim(api, &json!({"waitSeconds": 20, "worker": "ann"})).await;
    assert_eq!(items.len(), 1);
    items.remove(0)
}

async fn tell(api: &Api, act: &str, items: Value) -> Vec<Value> {
    let body = json!({ "items": items }).to_string();
    let answer = api.post(&format!("/v1/claims/{act}"), &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_worker_does_a_step() {
    let api = Api::new().await;
    let id = api.submitted("picked", r#"{"n":1.10}"#).await;
    let waiting = api.get(&format!("/v1/orders/{id}")).await.json();
    assert_eq!(waiting["work"]["state"], "waiting");
    assert_eq!(waiting["work"]["waitingFor"], "a worker of the queue `picking`");
    let body = json!({"max": 10, "leaseSeconds": 60, "worker": "ann"});
    let text = api.post(CLAIMS, &body.to_string()).await.text;
    assert!(text.contains(r#""data":{"n":1.10}"#), "digits are kept: {text}");
    let item = serde_json::from_str::<Value>(&text).unwrap()["items"][0].take();
    assert_eq!(item["orderId"], id.as_str());
    assert_eq!((&item["orderType"], &item["step"]), (&json!("picked"), &json!("pick")));
    assert_eq!((&item["status"], &item["version"]), (&json!("open"), &json!(1)));
    assert_eq!(
        (&item["attempt"], &item["idempotencyKey"]),
        (&json!(1), &json!(format!("{id}:1")))
    );
    assert!(claim(&api, &body).await.is_empty(), "nobody else is given it");

    let running = api.get(&format!("/v1/orders/{id}")).await;
    assert_eq!(running.json()["work"]["state"], "running");
    assert_eq!(running.json()["work"]["worker"], "ann");
    assert_eq!(running.header("etag"), "\"1\"", "a claim changes no version");
    let queue = api.get("/v1/queues/picking").await.json();
    assert_eq!(
        (&queue["depth"], &queue["leased"], &queue["dead"]),
        (&json!(1), &json!(1), &json!(0))
    );
    assert!(queue["oldestAt"].is_string() && queue["oldestAgeSeconds"].is_u64());

    let token = &item["token"];
    let body = json!({"items": [{"token": token}], "leaseSeconds": 3600}).to_string();
    let beat = api.post("/v1/claims/heartbeat", &body).await.json()["items"][0].take();
    assert_eq!((&beat["token"], &beat["status"]), (token, &json!("done")));
    assert!(beat["leaseUntil"].as_str() > item["leaseUntil"].as_str(), "{beat}");

    let told = tell(
        &api,
        "complete",
        json!([{"token": "nonsense"}, {"token": token, "result": {"shelf": 7.50}}, {"token": token}]),
    )
    .await;
    let statuses: Vec<&str> = told.iter().map(|item| item["status"].as_str().unwrap()).collect();
    assert_eq!(statuses[0], "stale");
    assert_eq!(
        statuses.iter().filter(|status| **status == "done").count(),
        1,
        "it counts once: {told:?}"
    );
    let done = api.at_rest(&id).await;
    assert_eq!(
        (&done["status"], &done["results"]["pick"]),
        (&json!("closed"), &json!({"shelf": 7.50}))
    );
    for act in ["complete", "heartbeat"] {
        assert_eq!(tell(&api, act, json!([{"token": token}])).await[0]["status"], "stale");
    }
    let queue = api.get("/v1/queues").await.json();
    let picking = queue["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|queue| queue["name"] == "picking");
    assert_eq!(picking.unwrap()["depth"], 0);
    let attempts = api.get(&format!("/v1/orders/{id}/attempts")).await.json();
    assert_eq!(
        attempts["items"].as_array().unwrap().len(),
        2,
        "what was repeated is not written down"
    );
}

#[tokio::test]
async fn a_failure_is_tried_again_refused_or_exhausted() {
    let api = Api::new().await;
    let tried = api.submitted("picked", "{}").await;
    let fail = |token: &Value, kind: &str| json!([{"token": token, "kind": kind, "reason": "no shelf"}]);
    let first = claim_one(&api).await;
    tell(&api, "fail", fail(&first["token"], "retry")).await;
    for attempt in 2..=3 {
        let item = claim_one(&api).await;
        assert_eq!((&item["orderId"], &item["attempt"]), (&json!(tried), &json!(attempt)));
        assert_eq!(item["idempotencyKey"], first["idempotencyKey"]);
        tell(&api, "fail", fail(&item["token"], "retry")).await;
    }
    let dead = api.at_rest(&tried).await;
    assert_eq!(
        (&dead["work"]["state"], &dead["work"]["lastError"]),
        (&json!("parked"), &json!("no shelf"))
    );
    let body = json!({"filter": {"orderIds": [tried]}});
    api.post("/v1/dead-letters/redrive", &body.to_string()).await;
    let item = claim_one(&api).await;
    assert_eq!(item["attempt"], 4, "attempts count on through a redrive");
    tell(&api, "complete", json!([{"token": item["token"]}])).await;
    assert_eq!(api.at_rest(&tried).await["status"], "closed");

    let refused = api.submitted("picked", "{}").await;
    let item = claim_one(&api).await;
    tell(&api, "fail", fail(&item["token"], "refuse")).await;
    assert_eq!(api.at_rest(&refused).await["status"], "refused");

    let delayed = api.submitted("picked", "{}").await;
    let item = claim_one(&api).await;
    let later = json!([{"token": item["token"], "reason": "closed", "delaySeconds": 3600}]);
    tell(&api, "fail", later).await;
    let order = api.get(&format!("/v1/orders/{delayed}")).await.json();
    assert_eq!(order["work"]["state"], "retrying");
    assert!(claim(&api, &json!({})).await.is_empty(), "not before the hour is over");
}

#[tokio::test]
async fn who_waits_is_woken_by_the_commit() {
    let api = Api::new().await;
    let body = json!({"waitSeconds": 30}).to_string();
    let waiting = api.post(CLAIMS, &body);
    let submitting = async {
        tokio::task::yield_now().await;
        api.submitted("picked", "{}").await
    };
    let (answer, id) = tokio::join!(waiting, submitting);
    assert_eq!(answer.json()["items"][0]["orderId"], id.as_str());
}

#[tokio::test]
async fn a_cancel_waits_for_the_worker() {
    let api = Api::new().await;
    let id = api.submitted("picked", "{}").await;
    let item = claim_one(&api).await;
    let answer = api.post(&format!("/v1/orders/{id}/cancel"), "{}").await;
    assert_eq!(answer.json()["status"], "open", "{answer:?}");
    assert_eq!(
        tell(&api, "complete", json!([{"token": item["token"]}])).await[0]["status"],
        "done"
    );
    assert_eq!(api.at_rest(&id).await["status"], "closed");
}

#[tokio::test]
async fn what_is_out_of_bounds_is_refused() {
    let api = Api::new().await;
    for body in [
        r#"{"max":0}"#,
        r#"{"max":101}"#,
        r#"{"waitSeconds":31}"#,
        r#"{"leaseSeconds":0}"#,
        r#"{"leaseSeconds":3601}"#,
        r#"{"worker":""}"#,
        r#"{"who":"ann"}"#,
    ] {
        assert_eq!(api.post(CLAIMS, body).await.code(400), "invalid-request", "{body}");
    }
    let long = json!({"worker": "w".repeat(129)}).to_string();
    assert_eq!(api.post(CLAIMS, &long).await.code(400), "invalid-request");
    for (act, body) in [
        ("complete", r#"{"items":[]}"#),
        ("fail", r#"{"items":[{"token":"x"}]}"#),
        ("heartbeat", r#"{"items":[{"token":"x"}],"leaseSeconds":9999}"#),
    ] {
        let answer = api.post(&format!("/v1/claims/{act}"), body).await;
        assert_eq!(answer.code(400), "invalid-request", "{body}");
    }
    let unknown = api.post("/v1/queues/pickin/claims", "{}").await;
    assert_eq!(unknown.code(404), "unknown-queue");
    assert!(unknown.text.contains("did you mean `picking`?"), "{unknown:?}");
    assert_eq!(api.get("/v1/queues/nothing").await.code(404), "unknown-queue");

    let id = api.submitted("picked", "{}").await;
    let item = claim_one(&api).await;
    let large = json!([{"token": item["token"], "result": "x".repeat(17 * 1024)}]);
    let told = tell(&api, "complete", large).await;
    assert_eq!(
        (&told[0]["status"], &told[0]["problem"]["code"]),
        (&json!("error"), &json!("too-large"))
    );
    assert_eq!(
        api.get(&format!("/v1/orders/{id}")).await.json()["work"]["state"],
        "running"
    );
}

#[tokio::test]
async fn one_bad_item_keeps_no_other_from_counting() {
    let api = Api::new().await;
    for _ in 0..3 {
        api.submitted("picked", "{}").await;
    }
    let claimed = claim(&api, &json!({"max": 3})).await;
    let tokens: Vec<&Value> = claimed.iter().map(|item| &item["token"]).collect();
    let items = json!([
        {"token": tokens[0], "reason": " "},
        {"token": tokens[1], "reason": "late", "delaySeconds": 9_999_999},
        {"token": tokens[2], "reason": "closed"},
        {"token": "made-up", "reason": "closed"},
    ]);
    let told = tell(&api, "fail", items).await;
    let statuses: Vec<&Value> = told.iter().map(|item| &item["status"]).collect();
    assert_eq!(statuses, ["error", "error", "done", "stale"], "{told:?}");
    assert_eq!(told[0]["problem"]["code"], "invalid-request");
    let again = tell(&api, "complete", json!([{"token": tokens[0]}, {"token": tokens[2]}])).await;
    let statuses: Vec<&Value> = again.iter().map(|item| &item["status"]).collect();
    assert_eq!(
        statuses,
        ["done", "stale"],
        "what was an error can be sent again: {again:?}"
    );
}

#[tokio::test]
async fn claims_need_a_key_for_work() {
    let (api, keys) = Api::keyed(&[Scope::Read, Scope::Work]).await;
    let bearer = |index: usize| format!("Bearer {}", keys[index].1);
    for path in [CLAIMS, "/v1/claims/complete", "/v1/claims/fail", "/v1/claims/heartbeat"] {
        let answer = api.ask("POST", path, &[("authorization", &bearer(0))], "{}").await;
        assert_eq!(answer.code(403), "forbidden", "{path}");
    }
    let answer = api.ask("POST", CLAIMS, &[("authorization", &bearer(1))], "{}").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = api.ask("GET", "/v1/queues", &[("authorization", &bearer(1))], "").await;
    assert_eq!(answer.code(403), "forbidden");
}

#[tokio::test]
async fn the_queue_of_a_status_tells_of_each_that_enters_it() {
    let api = Api::new().await;
    let path = "/v1/queues/ordenes-recibidas/claims";
    let data = r#"{"descripcion":"silla","fecha_entrega":"10/04/2026"}"#;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let body = format!(r#"{{"type":"work-order","status":"recibida","data":{data}}}"#);
        let answer = api.post("/v1/orders", &body).await;
        ids.push(answer.json()["id"].as_str().unwrap().to_owned());
    }
    let take = async || {
        let answer = api.post(path, r#"{"max":10,"worker":"ann"}"#).await;
        answer.json()["items"].as_array().unwrap().clone()
    };
    let items = take().await;
    assert_eq!(items.len(), 1, "one after the other: {items:?}");
    let item = &items[0];
    assert_eq!(
        (&item["orderId"], &item["status"]),
        (&json!(ids[0]), &json!("recibida"))
    );
    assert_eq!(
        (&item["version"], &item["attempt"], &item["step"]),
        (&json!(1), &json!(1), &json!(null))
    );
    assert!(item["data"]["descripcion"].is_string());
    let moved = api
        .post(&format!("/v1/orders/{}/transition", ids[0]), r#"{"to":"en proceso"}"#)
        .await;
    assert_eq!(moved.status, 200, "it does not hold the order: {moved:?}");
    let body = json!({"items": [{"token": item["token"]}], "leaseSeconds": 60}).to_string();
    let beat = api.post("/v1/claims/heartbeat", &body).await.json();
    assert_eq!(beat["items"][0]["status"], "done");
    let refused = json!([{"token": item["token"], "kind": "refuse", "reason": "not ours"}]);
    assert_eq!(tell(&api, "fail", refused.clone()).await[0]["status"], "done");
    assert_eq!(tell(&api, "fail", refused).await[0]["status"], "stale");
    assert!(take().await.is_empty(), "its dead letter holds the lane");

    let queue = "/v1/queues/ordenes-recibidas";
    let dead = api.get(&format!("{queue}/dead-letters")).await.json();
    assert_eq!(
        (&dead["items"][0]["orderId"], &dead["items"][0]["reason"]),
        (&json!(ids[0]), &json!("not ours"))
    );
    assert_eq!(dead["nextCursor"], json!(null));
    let chosen = json!({"ids": [dead["items"][0]["id"]]}).to_string();
    let redriven = api.post(&format!("{queue}/dead-letters/redrive"), &chosen).await.json();
    assert_eq!(redriven["changed"], 1);
    for id in &ids {
        let items = take().await;
        assert_eq!(items[0]["orderId"], id.as_str(), "in the order of arrival");
        tell(&api, "complete", json!([{"token": items[0]["token"]}])).await;
    }
    let discarded = api.post(&format!("{queue}/dead-letters/discard"), &chosen).await.json();
    assert_eq!(discarded["changed"], 0, "nothing is left");
    let next = api.get("/v1/queues/ordenes-en-proceso").await.json();
    assert_eq!((&next["depth"], &next["dead"]), (&json!(1), &json!(0)));
}
