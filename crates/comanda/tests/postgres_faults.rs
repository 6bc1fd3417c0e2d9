//! What clients of the API are told while the database is away, takes no writes or is full; and that the node goes on by
//! itself afterwards, with nothing lost.
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
use support::{PATIENCE, Server};

/// Large, so that tables soon need another page.
fn sale() -> String {
    let note = "x".repeat(30_000);
    format!(r#"{{"type":"purchase","data":{{"customerId":"c","items":[{{"sku":"tea"}}],"note":"{note}"}}}}"#)
}

fn submit(server: &Server) -> (u16, String, String) {
    server.http("POST", "/v1/orders", &[("content-type", "application/json")], &sale())
}

/// Submits until the server takes no more, and checks how it says so; what it had accepted.
fn refused(server: &Server, part: &str) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut accepted = Vec::new();
    loop {
        let (status, headers, body) = submit(server);
        if status == 202 {
            accepted.push(id_of(&body));
            assert!(Instant::now() < deadline, "it goes on accepting");
            continue;
        }
        assert_eq!(status, 503, "{body}");
        assert!(headers.to_lowercase().contains("retry-after:"), "{headers}");
        let problem: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(problem["status"], 503, "{body}");
        let (ready, _, why) = server.http("GET", "/readyz", &[], "");
        assert_eq!(ready, 503, "{why}");
        assert!(why.contains(part), "{why}");
        assert_eq!(
            server.http("GET", "/healthz", &[], "").0,
            200,
            "the process itself is well"
        );
        return accepted;
    }
}

fn id_of(body: &str) -> String {
    let order: serde_json::Value = serde_json::from_str(body).unwrap();
    order["id"].as_str().unwrap().to_owned()
}

/// Waits until the server is ready and takes orders again, and checks that those are all final in the end.
fn recovered(server: &Server, mut accepted: Vec<String>) {
    let deadline = Instant::now() + PATIENCE;
    while server.http("GET", "/readyz", &[], "").0 != 200 {
        assert!(Instant::now() < deadline, "it never recovers");
    }
    let (status, _, body) = submit(server);
    assert_eq!(status, 202, "{body}");
    accepted.push(id_of(&body));
    for id in &accepted {
        let mut version = String::new();
        loop {
            let (status, order) = server.get(&format!("/v1/orders/{id}?wait=20{version}"));
            assert_eq!(status, 200, "{order}");
            if order["final"] == true {
                break;
            }
            assert!(Instant::now() < deadline, "{order}");
            version = format!("&version={}", order["version"]);
        }
    }
}

/// A server on a cluster, with one order that is final.
async fn serving(cluster: &Cluster) -> (Server, Vec<String>) {
    let address = cluster.address(&cluster.database().await);
    let server = Server::start(&["--store", &address]);
    let (status, _, body) = submit(&server);
    assert_eq!(status, 202, "{body}");
    let accepted = vec![id_of(&body)];
    recovered(&server, accepted.clone());
    (server, accepted)
}

async fn is_clean(cluster: &Cluster, server: Server) {
    let (status, _) = server.stop();
    assert!(status.success(), "it stops in order");
    let options = comanda_store_postgres::Options::new(&cluster.address("test_0")).unwrap();
    let report = comanda_store_postgres::PostgresStore::verify(&options).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_clients_are_told_to_come_again() {
    let cluster = Cluster::start(&[]);
    let (server, mut accepted) = serving(&cluster).await;
    cluster.stop("immediate");
    accepted.extend(refused(&server, "not ready"));
    let (status, headers, _) = server.http("GET", &format!("/v1/orders/{}", accepted[0]), &[], "");
    assert_eq!(status, 503);
    assert!(headers.to_lowercase().contains("retry-after:"), "{headers}");
    cluster.start_again(&[]);
    recovered(&server, accepted);
    is_clean(&cluster, server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_takes_no_writes_orders_can_be_read() {
    let cluster = Cluster::start(&[]);
    let (server, mut accepted) = serving(&cluster).await;
    for statement in [
        "ALTER SYSTEM SET default_transaction_read_only = on",
        "SELECT pg_reload_conf()",
    ] {
        cluster.execute("postgres", statement).await;
    }
    accepted.extend(refused(&server, "read-only"));
    let (status, order) = server.get(&format!("/v1/orders/{}", accepted[0]));
    assert_eq!((status, order["status"].as_str()), (200, Some("COMPLETED")));
    for statement in [
        "ALTER SYSTEM RESET default_transaction_read_only",
        "SELECT pg_reload_conf()",
    ] {
        cluster.execute("postgres", statement).await;
    }
    recovered(&server, accepted);
    is_clean(&cluster, server).await;
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn while_the_databases_disk_is_full_orders_can_be_read() {
    let cluster = Cluster::start_on_small_disk();
    let (server, mut accepted) = serving(&cluster).await;
    cluster.fill_disk();
    accepted.extend(refused(&server, "full"));
    let (status, order) = server.get(&format!("/v1/orders/{}", accepted[0]));
    assert_eq!((status, order["status"].as_str()), (200, Some("COMPLETED")));
    cluster.free_disk();
    recovered(&server, accepted);
    is_clean(&cluster, server).await;
}
