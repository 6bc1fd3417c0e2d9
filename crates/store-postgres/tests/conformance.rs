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

async fn make() -> Arc<dyn Store> {
    let cluster = tokio::task::spawn_blocking(support::shared).await.unwrap();
    let database = cluster.database().await;
    let mut options = Options::new(&cluster.address(&database)).unwrap();
    options.connections_max = 4;
    Arc::new(PostgresStore::open(options).await.unwrap())
}

comanda_store::conformance_tests!(make);
