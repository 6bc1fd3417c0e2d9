//! A failover to an asynchronous standby under the same address, seen from outside: the real program goes on by itself, what the
//! standby had is there, what it had not is gone and can be submitted again, and whoever follows events is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

#[path = "../../store-postgres/tests/support/mod.rs"]
mod cluster;
mod support;

use std::time::Instant;

use cluster::Cluster;
use cluster::proxy::Proxy;
use serde_json::Value;
use support::receiver::Receiver;
use support::{Home, PATIENCE, Server};

/// Submits a sale under a key of its own: the status, and the order.
fn sell(server: &Server, key: &str) -> (u16, Value) {
    let headers = [
        ("content-type", "application/json"),
        ("prefer", "wait=20"),
        ("idempotency-key", key),
    ];
    let body = r#"{"type":"sale","data":{"amount":1.50,"currency":"EUR"}}"#;
    let (status, _, answer) = server.http("POST", "/v1/orders", &headers, body);
    (status, serde_json::from_str(&answer).unwrap_or(Value::Null))
}

fn id(order: &Value) -> String {
    order["id"].as_str().unwrap().to_owned()
}

/// The events that arrive until one holds.
fn until(receiver: &Receiver, holds: impl Fn(&Value) -> bool) {
    let begun = Instant::now();
    loop {
        let event = receiver.next().event();
        if holds(&event) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{event}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_goes_on_with_the_standby_and_tells_what_that_means() {
    let (first, second) = tokio::task::spawn_blocking(|| {
        let first = Cluster::start(&[]);
        let second = first.standby();
        (first, second)
    })
    .await
    .unwrap();
    let proxy = Proxy::start(first.port).await;
    let address = proxy.address("postgres");
    let receiver = Receiver::start();
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("comanda.toml"), "[deliveries]\nallow_private = true\n").unwrap();
    let server = Server::start_with(Home::Own(home), &["--store", &address], &[]);
    server.run(&["subscriptions", "create", &receiver.url()], "").ok();

    let (status, kept) = sell(&server, "kept");
    assert_eq!(status, 200, "{kept}");
    until(&receiver, |event| {
        event["subject"] == kept["id"] && event["sequence"] == "2"
    });
    let sent = first
        .ask("postgres", "SELECT pg_current_wal_insert_lsn()")
        .await
        .unwrap();
    let has_it = format!("SELECT pg_last_wal_replay_lsn() >= '{sent}'");
    second.until("postgres", &has_it, "t").await;
    second.cut_off().await;
    let (status, lost) = sell(&server, "lost");
    assert_eq!(status, 200, "{lost}");
    let (_, page) = server.get("/v1/events?limit=100");
    let cursor = page["nextCursor"].as_str().unwrap().to_owned();

    let second = tokio::task::spawn_blocking(move || {
        first.stop("immediate");
        second.promote();
        second
    })
    .await
    .unwrap();
    let (status, refused) = sell(&server, "meanwhile");
    assert_eq!(status, 503, "{refused}");
    proxy.lead_to(second.port);
    let begun = Instant::now();
    while server.http("GET", "/readyz", &[], "").0 != 200 {
        assert!(begun.elapsed() < PATIENCE, "it never recovers");
    }

    assert_eq!(
        server.get(&format!("/v1/orders/{}", id(&kept))).1["status"],
        "COMPLETED"
    );
    assert_eq!(
        server.get(&format!("/v1/orders/{}", id(&lost))).0,
        404,
        "the standby did not have it"
    );
    let (status, problem) = server.get(&format!("/v1/events?cursor={cursor}"));
    assert_eq!(
        (status, &problem["code"]),
        (410, &Value::from("cursor-reset")),
        "{problem}"
    );
    let (status, again) = sell(&server, "lost");
    assert_eq!(status, 200, "{again}");
    assert_ne!(id(&again), id(&lost), "submitted again, it is another order");
    let (status, replayed) = sell(&server, "kept");
    assert_eq!(
        (status, id(&replayed)),
        (200, id(&kept)),
        "what was kept is not made again"
    );
    until(&receiver, |event| event["type"] == "comanda.subscription.gap");
    until(&receiver, |event| {
        event["subject"] == again["id"] && event["sequence"] == "2"
    });
    let verified = server.run(&["verify", "--store", &second.address("postgres")], "").ok();
    assert!(verified.out.contains("sound"), "{verified:?}");
    server.stop();
}
