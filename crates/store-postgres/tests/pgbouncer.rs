//! Holds this store to the same behind PgBouncer, which hands each transaction to whichever connection is free.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::process::Command;
use std::sync::{Arc, OnceLock};

use comanda_store::Store;
use comanda_store_postgres::{Options, PostgresStore};
use support::bouncer::Bouncer;

/// One proxy for all tests of this process, with two connections per database, so that they are really shared.
fn bouncer() -> &'static Bouncer {
    static BOUNCER: OnceLock<Bouncer> = OnceLock::new();
    BOUNCER.get_or_init(|| Bouncer::start(support::shared(), 2))
}

async fn make() -> (Arc<dyn Store>, support::Verified) {
    assert!(
        Command::new("pgbouncer").arg("--version").output().is_ok(),
        "pgbouncer is missing; `cargo xtask install` installs it"
    );
    let bouncer = tokio::task::spawn_blocking(bouncer).await.unwrap();
    let database = support::shared().database().await;
    let address = format!("postgres://postgres@127.0.0.1:{}/{database}", bouncer.port);
    let mut options = Options::new(&address).unwrap();
    options.connections_max = 4;
    let store = PostgresStore::open(options).await.unwrap();
    (Arc::new(store), support::Verified(address))
}

comanda_store::conformance_tests!(make);
