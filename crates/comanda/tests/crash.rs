//! The real server under load, killed at random moments with `kill -9`, again and again. Afterwards the clients' own
//! ledger and `comanda verify` must agree: every acknowledged order is there, once, and final; lanes were worked in the
//! order of acceptance; no key made two orders.
//!
//! `CRASH_ROUNDS` sets the number of kills (10); `CRASH_SEED` repeats the moments of another run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::time::Duration;

use support::Server;
use support::clients::{Ledger, add_type, check_feed};
use support::random::Random;

const CLIENTS: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_moments_nothing_acknowledged_is_lost() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let rounds = number("CRASH_ROUNDS", 10);
    let seed = number("CRASH_SEED", u64::from(std::process::id()));
    println!("CRASH_SEED={seed}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    add_type(directory.path());
    let ledger = Ledger::new();
    for _ in 0..rounds {
        let server = Server::start_in(directory.path(), &[]);
        ledger.set_urls(vec![server.url.clone()]);
        let clients = ledger.start(CLIENTS);
        // The moment is the point of the test: there is no signal to wait for.
        tokio::time::sleep(Duration::from_millis(50 + random.below(500))).await;
        server.kill();
        ledger.stop(clients).await;
    }
    let server = Server::start_in(directory.path(), &[]);
    let acknowledged = ledger.settle(&server.url).await;
    println!("{} orders acknowledged over {rounds} kills", acknowledged.len());
    assert!(acknowledged.len() as u64 > rounds, "the clients got nothing done");
    check_feed(&server.url, &acknowledged).await;
    server.stop();
    let verified = support::command(directory.path())
        .args(["verify", "--data"])
        .arg(directory.path().join("comanda-data"))
        .output()
        .unwrap();
    assert!(
        verified.status.success(),
        "{}",
        String::from_utf8_lossy(&verified.stderr)
    );
}
