//! Holds this store to what every store is held to.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::sync::Arc;

use comanda_store::Store;
use comanda_store_sqlite::{Options, SqliteStore, verify};
use tempfile::TempDir;

/// The store's directory. After each check it is verified: whatever was done, every row must be as it should.
struct Verified(TempDir);

impl Drop for Verified {
    fn drop(&mut self) {
        // A check that has failed has told enough.
        if !std::thread::panicking() {
            let report = verify(self.0.path(), &|_, _| {}).unwrap();
            assert!(report.is_clean(), "{:#?}", report.faults);
        }
    }
}

async fn make() -> (Arc<dyn Store>, Verified) {
    let directory = tempfile::tempdir().unwrap();
    let options = Options {
        readers: 2,
        cache_kib: 4096,
        ..Options::new(directory.path())
    };
    (Arc::new(SqliteStore::open(options).unwrap()), Verified(directory))
}

comanda_store::conformance_tests!(make);
