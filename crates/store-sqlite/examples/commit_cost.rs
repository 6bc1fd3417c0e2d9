//! What a commit costs: whole lives (accepted, step done, final: three commits) in batches, and reads after that.
//!
//! `cargo run --release -p comanda-store-sqlite --example commit_cost -- [LIVES] [BATCH] [DIRECTORY]`
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a measurement that fails may panic"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use comanda_model::Outcome;
use comanda_store::{Commit, Store};
use comanda_store_sqlite::{Options, SqliteStore};
use support::{accepted, attempted, finished, taking, with_token};

/// The CPU time that this process has used (user and system), as Linux counts it: in hundredths of a second.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<u64> = stat
        .rsplit(") ")
        .next()
        .unwrap_or_default()
        .split(' ')
        .map(|field| field.parse().unwrap_or(0))
        .collect();
    Duration::from_millis(10 * fields.get(11..13).map_or(0, |times| times.iter().sum()))
}

async fn all(store: &SqliteStore, commits: Vec<Commit>) {
    for ticket in store.commit(commits) {
        ticket.await.expect("it is committed");
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let (lives, batch) = (number(100_000), number(50));
    let kept = tempfile::tempdir().unwrap();
    let directory = arguments.next().map_or_else(|| kept.path().to_owned(), Into::into);
    let store = SqliteStore::open(Options::new(directory)).unwrap();
    let mut ids = Vec::new();
    let mut in_store = Duration::ZERO;
    let mut slowest = Duration::ZERO;
    let (began, cpu_began) = (Instant::now(), cpu());
    let mut done = 0;
    while done < lives {
        let now = store.now();
        let first: Vec<_> = (0..batch).map(|_| taking(accepted(now, now, None))).collect();
        let second: Vec<_> = first
            .iter()
            .map(|(one, token)| with_token(attempted(&one.order, now, Outcome::Done), *token))
            .collect();
        let third: Vec<_> = second.iter().map(|one| finished(&one.order, now)).collect();
        ids.push(first[0].0.order.id());
        for commits in [first.into_iter().map(|(one, _)| one).collect(), second, third] {
            let began = Instant::now();
            all(&store, commits).await;
            in_store += began.elapsed();
            slowest = slowest.max(began.elapsed());
        }
        done += batch;
    }
    let (took, used) = (began.elapsed(), cpu() - cpu_began);
    let per_life = used.as_micros() as u64 / done as u64;
    println!("{done} lives of 3 commits in batches of {batch}");
    println!(
        "  {} commits/s ({:.1?} in all, {in_store:.1?} waiting for the store)",
        rate(3 * done, took),
        took
    );
    println!(
        "  CPU: {per_life} µs per life, {} µs per commit, the making of the orders included",
        per_life / 3
    );
    println!("  slowest batch: {slowest:.1?}");
    let (began, cpu_began) = (Instant::now(), cpu());
    let mut reads = 0;
    for _ in 0..(20_000 / ids.len()).max(1) {
        for id in &ids {
            store.order(*id).await.unwrap().expect("it is there");
            reads += 1;
        }
    }
    let used = (cpu() - cpu_began).as_micros() as u64 / reads as u64;
    println!(
        "{reads} reads one after another: {} per second, {used} µs of CPU each",
        rate(reads, began.elapsed())
    );
    store.close().await.unwrap();
}

fn rate(count: usize, took: Duration) -> u64 {
    (count as u128 * 1_000_000 / took.as_micros().max(1)) as u64
}
