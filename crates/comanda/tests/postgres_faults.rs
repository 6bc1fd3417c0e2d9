//! What clients of the API are told while the database is away, takes no writes, is full, lets statements wait, says nothing,
//! or has no connection left; and that the node goes on by itself afterwards, with nothing lost and nothing twice.
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
use support::{Home, PATIENCE, Server};

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
    serving_at(&cluster.address(&cluster.database().await))
}

fn serving_at(address: &str) -> (Server, Vec<String>) {
    serving_in(Home::Own(tempfile::tempdir().unwrap()), address)
}

fn serving_in(home: Home, address: &str) -> (Server, Vec<String>) {
    let server = Server::start_with(home, &["--store", address], &[]);
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

/// Someone else's session, which holds what it is told to hold.
async fn outsider(cluster: &Cluster, statements: &str) -> tokio_postgres::Client {
    let address = cluster.address("test_0");
    let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(statements).await.unwrap();
    client
}

/// Submits under a key, beside what else is done.
fn submitting(server: &Server, key: &str) -> tokio::task::JoinHandle<(u16, String)> {
    let request = reqwest::Client::new()
        .post(format!("{}/v1/orders", server.url))
        .header("content-type", "application/json")
        .header("idempotency-key", key)
        .timeout(PATIENCE)
        .body(r#"{"type":"sale","data":{"amount":12.50,"currency":"EUR"}}"#);
    tokio::spawn(async {
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_lock_holds_commits_up_clients_are_told_to_come_again() {
    let cluster = Cluster::start(&[]);
    let address = cluster.address(&cluster.database().await);
    let limit = "ALTER DATABASE test_0 SET statement_timeout = '300ms'";
    cluster.execute("postgres", limit).await;
    let (server, mut accepted) = serving_at(&address);
    let holder = outsider(&cluster, "BEGIN; LOCK TABLE comanda.events IN EXCLUSIVE MODE").await;
    accepted.extend(refused(&server, "not ready"));
    let (status, order) = server.get(&format!("/v1/orders/{}", accepted[0]));
    assert_eq!((status, order["status"].as_str()), (200, Some("COMPLETED")));
    holder.batch_execute("ROLLBACK").await.unwrap();
    recovered(&server, accepted);
    is_clean(&cluster, server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_says_nothing_clients_are_told_to_come_again() {
    let cluster = Cluster::start(&[]);
    let database = cluster.database().await;
    let proxy = Proxy::start(cluster.port).await;
    // No request takes longer, whatever the database does.
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("comanda.toml"), "[limits]\nrequest_timeout = \"3s\"\n").unwrap();
    let (server, mut accepted) = serving_in(Home::Own(home), &proxy.address(&database));
    proxy.hang();
    // More readers than connections: each is told, and none waits for ever.
    let path = format!("{}/v1/orders/{}", server.url, accepted[0]);
    let readers: Vec<_> = (0..12)
        .map(|_| {
            let request = reqwest::Client::new().get(&path).timeout(PATIENCE);
            tokio::spawn(async { request.send().await.unwrap() })
        })
        .collect();
    accepted.extend(refused(&server, "took too long"));
    for reader in readers {
        let answer = reader.await.unwrap();
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"), "{answer:?}");
    }
    proxy.go_on();
    recovered(&server, accepted);
    is_clean(&cluster, server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_others_have_all_connections_clients_are_told_to_come_again() {
    let cluster = Cluster::start(&["max_connections=20"]);
    let (server, mut accepted) = serving(&cluster).await;
    let mut others = vec![outsider(&cluster, "").await];
    // What the node had is cut, and taken by others before it comes again.
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'comanda'";
    loop {
        others[0].batch_execute(cut).await.unwrap();
        let address = cluster.address("test_0");
        while let Ok((client, connection)) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await {
            tokio::spawn(connection);
            others.push(client);
        }
        let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'comanda'";
        let left: i64 = others[0].query_one(left, &[]).await.unwrap().get(0);
        if left == 0 {
            break;
        }
    }
    accepted.extend(refused(&server, "not ready"));
    drop(others);
    recovered(&server, accepted);
    is_clean(&cluster, server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_with_someone_else_is_nothing_that_clients_hear_of() {
    // Whoever has waited for a second looks whether there is one; by then it is closed, and the other does not look.
    let cluster = Cluster::start(&["deadlock_timeout=1s"]);
    let (server, mut accepted) = serving(&cluster).await;
    // A commit writes the order first and its events last; whoever locks them the other way round meets it.
    let other = outsider(
        &cluster,
        "SET deadlock_timeout = '1h'; BEGIN; LOCK TABLE comanda.events IN SHARE MODE",
    )
    .await;
    let submission = submitting(&server, "k");
    let waits = "SELECT count(*) > 0 FROM pg_locks WHERE relation = 'comanda.events'::regclass AND NOT granted";
    cluster.until("test_0", waits, "t").await;
    other
        .batch_execute("LOCK TABLE comanda.orders IN ACCESS EXCLUSIVE MODE; ROLLBACK")
        .await
        .expect("the node gives way");
    let (status, body) = submission.await.unwrap();
    assert_eq!(status, 202, "{body}");
    let met = "SELECT deadlocks > 0 FROM pg_stat_database WHERE datname = 'test_0'";
    cluster.until("test_0", met, "t").await;
    accepted.push(id_of(&body));
    recovered(&server, accepted);
    cluster
        .until("test_0", "SELECT count(*) FROM comanda.orders", "4")
        .await;
    is_clean(&cluster, server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_makes_one_order() {
    let cluster = Cluster::start(&[]);
    let database = cluster.database().await;
    let proxy = Proxy::start(cluster.port).await;
    let (server, mut accepted) = serving_at(&proxy.address(&database));
    proxy.deafen();
    let submission = submitting(&server, "k");
    // It is durable, and nobody has told the node.
    cluster
        .until("test_0", "SELECT count(*) FROM comanda.orders", "3")
        .await;
    proxy.hear();
    let (status, body) = submission.await.unwrap();
    let (status_again, body_again) = submitting(&server, "k").await.unwrap();
    assert_eq!(status_again, 202, "{body_again}");
    // It is found by its commit's id; only if the database could not be asked is the client to come again.
    if status == 202 {
        assert_eq!(id_of(&body), id_of(&body_again));
    } else {
        assert_eq!(status, 503, "{body}");
    }
    cluster
        .until("test_0", "SELECT count(*) FROM comanda.orders", "3")
        .await;
    accepted.push(id_of(&body_again));
    recovered(&server, accepted);
    is_clean(&cluster, server).await;
}
