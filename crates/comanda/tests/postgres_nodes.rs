//! Three nodes on one database, under load: each is killed, one is stopped in its tracks for longer than its heartbeat
//! allows, and the database itself is restarted as by a crash. Afterwards the clients' ledger, the feed and
//! `comanda verify` agree: every acknowledged order once, final, in order within its lane, no event lost.
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

use support::clients::{Ledger, add_type, check_feed};
use support::{Home, Server};

const NODES: usize = 3;
const CLIENTS: usize = 9;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_nodes_and_database_nothing_acknowledged_is_lost() {
    let database = tokio::task::spawn_blocking(|| cluster::Cluster::start(&[]))
        .await
        .unwrap();
    let address = database.address("postgres");
    let start = |home: Home| Server::start_with(home, &["--store", &address], &[]);
    let mut nodes: Vec<Server> = Vec::new();
    for _ in 0..NODES {
        let home = tempfile::tempdir().unwrap();
        add_type(home.path());
        nodes.push(start(Home::Own(home)));
    }
    let ledger = Ledger::new();
    ledger.set_urls(nodes.iter().map(|node| node.url.clone()).collect());
    let clients = ledger.start(CLIENTS);
    ledger.acknowledged_more(60).await;
    for place in 0..NODES {
        let home = nodes.remove(place).kill();
        ledger.acknowledged_more(30).await;
        let node = start(home);
        ledger.set_url(place, &node.url);
        nodes.insert(place, node);
        ledger.acknowledged_more(30).await;
    }
    let database = tokio::task::spawn_blocking(move || {
        database.stop("immediate");
        database.start_again(&[]);
        database
    })
    .await
    .unwrap();
    ledger.acknowledged_more(60).await;
    // Stopped, it holds its claims and its connections and says nothing. What it held is done by others.
    nodes[0].signal("STOP");
    ledger.acknowledged_more(60).await;
    ledger.stop(clients).await;
    let acknowledged = ledger.settle(&nodes[1].url).await;
    nodes[0].signal("CONT");
    for node in nodes {
        check_feed(&node.url, &acknowledged).await;
        node.stop();
    }
    let verified = comanda_store_postgres::Options::new(&address).unwrap();
    let report = comanda_store_postgres::PostgresStore::verify(&verified).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    println!("{} orders, each once, final and in order", acknowledged.len());
    drop(database);
}
