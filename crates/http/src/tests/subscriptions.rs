//! Subscriptions over the API, with a receiver that really listens.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{Api, PATIENCE};

/// What arrived.
struct Arrived {
    headers: HeaderMap,
    body: Value,
}

/// A receiver that answers with a status that can be changed.
struct Receiver {
    url: String,
    status: Arc<Mutex<StatusCode>>,
    arrived: UnboundedReceiver<Arrived>,
}

impl Receiver {
    async fn new() -> Self {
        let (told, arrived) = unbounded_channel();
        let status = Arc::new(Mutex::new(StatusCode::NO_CONTENT));
        let answer = status.clone();
        let hook = post(async move |headers: HeaderMap, body: Bytes| {
            let body = serde_json::from_slice(&body).unwrap();
            // Read before it is told, so that what the test changes then counts for the next one.
            let status = *answer.lock();
            // A test that has seen enough no longer listens.
            let _ = told.send(Arrived { headers, body });
            status
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        tokio::spawn(axum::serve(listener, Router::new().route("/hook", hook)).into_future());
        Self { url, status, arrived }
    }

    async fn next(&mut self) -> Arrived {
        tokio::time::timeout(PATIENCE, self.arrived.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

async fn submit(api: &Api) -> String {
    let body = json!({"type": "waiting", "data": {"who": "ann"}}).to_string();
    let answer = api.ask("POST", "/v1/orders", &[], &body).await.json();
    answer["id"].as_str().unwrap().to_owned()
}

async fn until_paused(api: &Api, id: &str) -> Value {
    let looked = async {
        loop {
            let one = api.get(&format!("/v1/subscriptions/{id}")).await.json();
            if one["state"] == "paused" {
                return one;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_arrive_signed_and_the_secret_is_told_once() {
    let api = Api::new().await;
    let mut receiver = Receiver::new().await;
    let body = json!({"url": receiver.url, "name": "shop", "include": "order",
        "filter": {"types": ["waiting"], "customers": ["ann"]}});
    let made = api.ask("POST", "/v1/subscriptions", &[], &body.to_string()).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let made = made.json();
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    let path = format!("/v1/subscriptions/{}", made["id"].as_str().unwrap());
    assert!(api.get(&path).await.json()["secret"].is_null(), "told only once");
    let listed = api.get("/v1/subscriptions").await.json();
    let mut names = listed["items"].as_array().unwrap().iter().map(|one| &one["name"]);
    assert!(names.any(|name| name == "shop"), "{listed}");

    let order = submit(&api).await;
    let arrived = receiver.next().await;
    assert_eq!(arrived.body["type"], "comanda.order.accepted");
    assert_eq!(arrived.body["subject"], json!(order));
    assert_eq!(arrived.body["data"]["order"]["id"], json!(order));
    assert_eq!(arrived.headers["webhook-id"], format!("{order}:1"));
    assert_eq!(arrived.headers["content-type"], "application/cloudevents+json");
    let signatures = arrived.headers["webhook-signature"].to_str().unwrap();
    assert!(signatures.starts_with("v1,") && !signatures.contains(' '));

    let rotated = api
        .ask("POST", &format!("{path}/rotate-secret"), &[], "{}")
        .await
        .json();
    assert_ne!(rotated["secret"], made["secret"]);
    submit(&api).await;
    let arrived = receiver.next().await;
    let signatures = arrived.headers["webhook-signature"].to_str().unwrap();
    assert_eq!(
        signatures.split(' ').count(),
        2,
        "the old one and the new one both sign"
    );

    let again = json!({"event": format!("{order}:1")}).to_string();
    let resent = api.ask("POST", &format!("{path}/resend"), &[], &again).await;
    assert_eq!((resent.status, resent.json()["orders"].clone()), (202, json!(1)));
    // The other order's event may come a second time before it: its answer was not written down when the work stopped.
    while receiver.next().await.headers["webhook-id"] != format!("{order}:1") {}
    let all = json!({"since": "2000-01-01T00:00:00Z"}).to_string();
    let resent = api.ask("POST", &format!("{path}/resend"), &[], &all).await.json();
    assert_eq!(resent["orders"], 2);
    for _ in 0..2 {
        receiver.next().await;
    }
    let removed = api.ask("DELETE", &path, &[], "").await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_eq!(api.get(&path).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_fails_gets_its_events_later_and_one_that_is_gone_is_paused() {
    let api = Api::new().await;
    let mut failing = Receiver::new().await;
    let mut well = Receiver::new().await;
    let mut ids = Vec::new();
    for receiver in [&failing, &well] {
        let body = json!({"url": receiver.url, "filter": {"types": ["waiting"]}}).to_string();
        let made = api.ask("POST", "/v1/subscriptions", &[], &body).await.json();
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    *failing.status.lock() = StatusCode::INTERNAL_SERVER_ERROR;
    let order = submit(&api).await;
    let cancelled = api.ask("POST", &format!("/v1/orders/{order}/cancel"), &[], "{}").await;
    assert_eq!(cancelled.status, StatusCode::ACCEPTED);
    assert_eq!(well.next().await.body["sequence"], "1");
    assert_eq!(
        well.next().await.body["sequence"],
        "2",
        "one that fails costs the others nothing"
    );
    assert_eq!(failing.next().await.body["sequence"], "1");
    assert_eq!(
        failing.next().await.body["sequence"],
        "1",
        "later events of the order wait"
    );
    *failing.status.lock() = StatusCode::OK;
    let mut last = "1".to_owned();
    while last == "1" {
        last = failing.next().await.body["sequence"].as_str().unwrap().to_owned();
    }
    assert_eq!(last, "2");

    *failing.status.lock() = StatusCode::GONE;
    let missed = submit(&api).await;
    let paused = until_paused(&api, &ids[0]).await;
    assert!(paused["reason"].as_str().unwrap().contains("410"), "{paused}");
    let path = format!("/v1/subscriptions/{}/deliveries", ids[0]);
    let log = api.get(&path).await.json();
    assert_eq!(
        (&log["items"][0]["status"], &log["items"][0]["delivered"]),
        (&json!(410), &json!(false))
    );
    *failing.status.lock() = StatusCode::OK;
    while let Ok(arrived) = failing.arrived.try_recv() {
        assert_eq!(arrived.body["subject"], json!(missed));
    }
    let resumed = api
        .ask("POST", &format!("/v1/subscriptions/{}/resume", ids[0]), &[], "")
        .await;
    assert_eq!(resumed.json()["state"], "active");
    assert_eq!(
        failing.next().await.body["subject"],
        json!(missed),
        "nothing is lost while it is paused"
    );
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let api = Api::new().await;
    for (body, code) in [
        (json!({"url": "nowhere"}), "invalid-request"),
        (json!({"url": "ftp://example.com/"}), "address-refused"),
        (json!({"url": "https://a:b@example.com/"}), "address-refused"),
        (
            json!({"url": "https://example.com/", "concurrency": 0}),
            "invalid-request",
        ),
        (
            json!({"url": "https://example.com/", "filter": {"events": ["comanda.nothing"]}}),
            "invalid-request",
        ),
    ] {
        let answer = api.ask("POST", "/v1/subscriptions", &[], &body.to_string()).await;
        assert_eq!(answer.json()["code"], code, "{body}");
    }
    let none = api.ask("POST", "/v1/subscriptions/nothing/pause", &[], "").await;
    assert_eq!(none.json()["code"], "unknown-subscription");
    let misspelled = api.get("/v1/events?event=comanda.nothing").await;
    assert_eq!(
        misspelled.json()["code"],
        "invalid-request",
        "it would show nothing, for ever"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_it_is_told_what_becomes_of_other_subscriptions() {
    let api = Api::new().await;
    let (mut operators, shop) = (Receiver::new().await, Receiver::new().await);
    let kinds = ["comanda.subscription.paused", "comanda.subscription.resumed"];
    let body = json!({"url": operators.url, "filter": {"events": kinds}}).to_string();
    assert_eq!(api.post("/v1/subscriptions", &body).await.status, StatusCode::CREATED);
    let made = api
        .post("/v1/subscriptions", &json!({"url": shop.url}).to_string())
        .await
        .json();
    let id = made["id"].as_str().unwrap();
    submit(&api).await;

    *operators.status.lock() = StatusCode::INTERNAL_SERVER_ERROR;
    api.post(&format!("/v1/subscriptions/{id}/pause"), "").await;
    let first = operators.next().await;
    *operators.status.lock() = StatusCode::NO_CONTENT;
    let mut again = operators.next().await;
    assert_eq!(
        first.headers["webhook-id"], again.headers["webhook-id"],
        "it is tried again under its id"
    );
    assert_eq!(
        (
            &again.body["type"],
            &again.body["subject"],
            &again.body["data"]["reason"]
        ),
        (&json!(kinds[0]), &json!(id), &json!("paused by local"))
    );
    submit(&api).await;
    api.post(&format!("/v1/subscriptions/{id}/resume"), "").await;
    while again.body["type"] == kinds[0] {
        again = operators.next().await;
    }
    assert_eq!(
        (&again.body["type"], &again.body["subject"]),
        (&json!(kinds[1]), &json!(id))
    );

    let page = api
        .get(&format!("/v1/events?event={}&event={}", kinds[0], kinds[1]))
        .await
        .json();
    let told: Vec<&Value> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["type"])
        .collect();
    assert_eq!(told, [kinds[0], kinds[1]]);
    let all = api.get("/v1/events").await;
    assert!(
        !all.text.contains("comanda.subscription"),
        "only who names them is told: {all:?}"
    );
    let mixed = format!("/v1/events?event=comanda.order.accepted&event={}", kinds[0]);
    let page = api.get(&mixed).await.json();
    let told: Vec<&Value> = page["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["type"])
        .collect();
    assert_eq!(told, ["comanda.order.accepted", kinds[0], "comanda.order.accepted"]);
}
