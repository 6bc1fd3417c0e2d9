//! A rolling upgrade under load, with a program of an earlier commit: its nodes go on beside the new ones while they are
//! replaced one by one, and take over again when the new ones are rolled back. `cargo xtask upgrade` builds that program.
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

use std::path::PathBuf;

use comanda_store_postgres::{Options, PostgresStore};
use support::clients::{Ledger, add_type, check_feed};
use support::{Home, Server};

const NODES: usize = 2;
const CLIENTS: usize = 6;
/// How many orders each state of the upgrade takes before it goes on.
const ORDERS: usize = 60;

/// A directory for a node.
fn home() -> Home {
    let home = tempfile::tempdir().unwrap();
    add_type(home.path());
    Home::Own(home)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs the program of an earlier commit: `cargo xtask upgrade` builds it and runs this"]
async fn nodes_of_an_earlier_commit_are_replaced_one_by_one_and_back() {
    let earlier =
        PathBuf::from(std::env::var_os("EARLIER_PROGRAM").expect("EARLIER_PROGRAM names the earlier program"));
    let cluster = tokio::task::spawn_blocking(cluster::shared).await.unwrap();
    let address = cluster.address(&cluster.empty_database().await);
    let arguments = ["--store", address.as_str()];
    let old = || Server::start_program(&earlier, home(), &arguments);
    let new = || Server::start_with(home(), &arguments, &[]);
    let options = Options::new(&address).unwrap();

    let mut nodes: Vec<Server> = (0..NODES).map(|_| old()).collect();
    let before = PostgresStore::migration_status(&options).await.unwrap();
    let ledger = Ledger::new();
    ledger.set_urls(nodes.iter().map(|node| node.url.clone()).collect());
    let clients = ledger.start(CLIENTS);
    ledger.acknowledged_more(ORDERS).await;

    // The first of the new nodes widens the format under the old ones, to which all clients still go.
    let first = new();
    ledger.acknowledged_more(ORDERS).await;
    let widened = PostgresStore::migration_status(&options).await.unwrap();
    assert_eq!(widened.found, widened.newest, "{widened:?}");
    assert!(widened.usable_by <= before.found, "{before:?} {widened:?}");
    let mut spare = Some(first);
    for (place, slot) in nodes.iter_mut().enumerate() {
        let node = spare.take().unwrap_or_else(new);
        ledger.set_url(place, &node.url);
        let (status, _) = std::mem::replace(slot, node).stop();
        assert!(status.success(), "an old node stops in order");
        ledger.acknowledged_more(ORDERS).await;
    }

    // And back: an old node beside new ones, then old ones alone.
    for (place, slot) in nodes.iter_mut().enumerate() {
        let node = old();
        ledger.set_url(place, &node.url);
        let (status, _) = std::mem::replace(slot, node).stop();
        assert!(status.success(), "a new node stops in order");
        ledger.acknowledged_more(ORDERS).await;
    }
    ledger.stop(clients).await;
    let acknowledged = ledger.settle(&nodes[0].url).await;
    for node in nodes {
        check_feed(&node.url, &acknowledged).await;
        node.stop();
    }
    let report = PostgresStore::verify(&options).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    println!(
        "{} orders, each once, final and in order; format {} to {} and back",
        acknowledged.len(),
        before.found,
        widened.found
    );
}
