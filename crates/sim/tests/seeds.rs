//! A fixed set of seeds keeps all promises, and a seed is always the same run.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::sync::atomic::{AtomicU64, Ordering};

use comanda_sim::{Plan, run};

/// Enough for a few seconds without optimisation; `cargo xtask simulate` runs many more.
const SEEDS: u64 = 250;

#[test]
fn the_fixed_seeds_keep_all_promises() {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let broken: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut broken = Vec::new();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= SEEDS {
                    return broken;
                }
                if let Some(failure) = run(&Plan::of(seed), false).failure {
                    broken.push(format!("seed {seed}: {failure}"));
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert!(
        broken.is_empty(),
        "see all of it: cargo run -p comanda-sim -- --seed SEED --shrink\n{}",
        broken.join("\n")
    );
}

#[test]
fn a_seed_is_always_the_same_run() {
    for seed in 0..12 {
        let plan = Plan::of(seed);
        let (first, second) = (run(&plan, true), run(&plan, true));
        let differs = first.trace.iter().zip(&second.trace).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed} went two ways");
        assert_eq!(first.trace.len(), second.trace.len(), "seed {seed} went two ways");
        assert!(first.commits > 0 && first.trace.len() > 5);
    }
}
