//! `comanda-sim`: runs seeds for a while, or one seed with a trace of everything that happens in it.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use comanda_sim::{Plan, Run, run, shrink};
use parking_lot::Mutex;

/// Runs the engine against everything that can go wrong, from seeds.
#[derive(Debug, Parser)]
struct Arguments {
    /// Run this seed only, and print everything that happens.
    #[arg(long)]
    seed: Option<u64>,
    /// With `--seed`: first leave out all that the failure does not need.
    #[arg(long, requires = "seed")]
    shrink: bool,
    /// Run fresh seeds for so long.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Run so many seeds instead.
    #[arg(long)]
    seeds: Option<u64>,
    /// Begin with this one instead of a fresh one.
    #[arg(long)]
    from: Option<u64>,
    /// Do not stop at the first failure; say of each seed that fails what it breaks.
    #[arg(long)]
    keep_going: bool,
    /// Runs at the same time. By default as many as there are processors.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => one(seed, arguments.shrink),
        None => many(&arguments),
    }
}

fn one(seed: u64, smaller: bool) -> ExitCode {
    let mut plan = Plan::of(seed);
    if smaller {
        plan = shrink(&plan, 2000);
    }
    print!("{plan}");
    let Run { failure, trace, .. } = run(&plan, true);
    for line in trace {
        println!("{line}");
    }
    match failure {
        None => {
            println!("seed {seed}: all promises hold");
            ExitCode::SUCCESS
        }
        Some(failure) => {
            println!("seed {seed}: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn many(arguments: &Arguments) -> ExitCode {
    let began = Instant::now();
    let limit = Duration::from_secs_f64(arguments.minutes.clamp(0.0, 100_000.0) * 60.0);
    let from = arguments.from.unwrap_or_else(fresh);
    let next = AtomicU64::new(from);
    let stop = AtomicBool::new(false);
    let failed = Mutex::new(None);
    let (orders, commits, calls) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let threads = arguments
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = match arguments.seeds {
                        Some(seeds) => seed - from >= seeds,
                        None => began.elapsed() >= limit,
                    };
                    if over {
                        next.fetch_sub(1, Ordering::Relaxed);
                        break;
                    }
                    let run = run(&Plan::of(seed), false);
                    orders.fetch_add(run.orders as u64, Ordering::Relaxed);
                    commits.fetch_add(run.commits, Ordering::Relaxed);
                    calls.fetch_add(run.calls, Ordering::Relaxed);
                    if let Some(failure) = run.failure {
                        if arguments.keep_going {
                            println!("seed {seed}: {failure}");
                            failed.lock().get_or_insert((seed, failure));
                            continue;
                        }
                        stop.store(true, Ordering::Relaxed);
                        failed.lock().get_or_insert((seed, failure));
                    }
                }
            });
        }
    });
    let seeds = next.load(Ordering::Relaxed) - from;
    let took = began.elapsed();
    println!(
        "{seeds} seeds from {from} in {:.1} s ({:.0} a minute): {} orders, {} commits, {} calls",
        took.as_secs_f64(),
        seeds as f64 * 60.0 / took.as_secs_f64(),
        orders.load(Ordering::Relaxed),
        commits.load(Ordering::Relaxed),
        calls.load(Ordering::Relaxed)
    );
    let Some((seed, failure)) = failed.into_inner() else {
        println!("no seed broke a promise");
        return ExitCode::SUCCESS;
    };
    println!("seed {seed} breaks a promise: {failure}");
    if arguments.keep_going {
        return ExitCode::FAILURE;
    }
    println!("the smallest plan that still fails:");
    one(seed, true);
    println!("again: cargo run -p comanda-sim -- --seed {seed} (or with --shrink)");
    ExitCode::FAILURE
}

fn fresh() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Room above, so that a run never comes to the end of the numbers.
    (now.as_nanos() as u64) >> 8
}
