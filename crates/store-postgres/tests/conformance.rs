//! Holds this store to what every store is held to, on a real server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::sync::Arc;

use comanda_store::Store;
use comanda_store_postgres::{Options, PostgresStore};

async fn make() -> (Arc<dyn Store>, support::Verified) {
    let cluster = tokio::task::spawn_blocking(support::shared).await.unwrap();
    let database = cluster.database().await;
    let address = cluster.address(&database);
    let mut options = Options::new(&address).unwrap();
    options.connections_max = 4;
    let store = PostgresStore::open(options).await.unwrap();
    (Arc::new(store), support::Verified(address))
}

comanda_store::conformance_tests!(make);
