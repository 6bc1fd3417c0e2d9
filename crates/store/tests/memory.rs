//! The in-memory store keeps every promise of the port.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::sync::Arc;

use comanda_store::Store;
use comanda_store::memory::MemoryStore;

async fn make() -> Arc<dyn Store> {
    Arc::new(MemoryStore::default())
}

comanda_store::conformance_tests!(make);

#[tokio::test(flavor = "multi_thread")]
async fn all_at_once() {
    comanda_store::conformance::run_all(make).await;
}
