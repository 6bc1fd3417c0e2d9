//! Runs the tools that check and test the project, each shown as it is run.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{direction, install};

/// Everything that must hold before a change is done.
pub fn test() -> Result<(), String> {
    install::all()?;
    check()?;
    cargo(&["test", "--workspace", "--locked"])?;
    newest_postgres()?;
    shown("promtool", &["test", "rules", "infra/alerts/comanda.rules.test.yml"])
}

/// The tests on PostgreSQL once more, on the newest server.
pub fn newest_postgres() -> Result<(), String> {
    let programs = install::newest_postgres()?;
    let programs = programs
        .to_str()
        .ok_or("the place of the server's programs is not UTF-8")?;
    let tests = [
        "conformance",
        "network",
        "open_transaction",
        "pgbouncer",
        "postgres",
        "postgres_failover",
        "postgres_faults",
        "postgres_start",
        "migrate",
    ];
    let mut arguments = vec!["test", "--workspace", "--locked"];
    arguments.extend(tests.iter().flat_map(|test| ["--test", *test]));
    with_settings(&[("POSTGRES_PROGRAMS", programs)], &arguments)
}

/// What needs no test to run.
pub fn check() -> Result<(), String> {
    cargo(&["fmt", "--all", "--check"])?;
    direction::check()?;
    cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ])?;
    install::cargo_deny()?;
    // Advisories are left out: their database is fetched from a place that not every machine reaches.
    cargo(&["deny", "check", "bans", "licenses", "sources"])
}

/// Fresh seeds of the simulation, for so long.
pub fn simulate(minutes: &str) -> Result<(), String> {
    cargo(&[
        "run",
        "--release",
        "--locked",
        "-p",
        "comanda-sim",
        "--",
        "--minutes",
        minutes,
    ])
}

/// The long form of the crash test.
pub fn crash(rounds: &str) -> Result<(), String> {
    long_form("crash", &[("CRASH_ROUNDS", rounds)])
}

/// The long form of the test of retention, backup, export and restore under load.
pub fn operations(rounds: &str) -> Result<(), String> {
    long_form("operations", &[("OPERATION_ROUNDS", rounds)])
}

/// The long form of the test of power cuts.
pub fn power_cut(cuts: &str, seed: Option<&str>) -> Result<(), String> {
    let mut settings = vec![("CUT_IMAGES", cuts), ("CUT_SECONDS", "10")];
    settings.extend(seed.map(|seed| ("CUT_SEED", seed)));
    long_form("power_cut", &settings)
}

/// Made-up input for every parser of what comes from outside, fresh for so long: each round makes up other cases.
pub fn fuzz(minutes: &str) -> Result<(), String> {
    let minutes: u64 = minutes
        .parse()
        .map_err(|_| format!("`{minutes}` is no number of minutes"))?;
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    while Instant::now() < end {
        // Whole programs of tests by the name `fuzz`, and modules by that name among the other tests of a crate.
        for selected in [&["--test", "fuzz"][..], &["--lib", "--", "fuzz::"]] {
            with_settings(
                &[("PROPTEST_CASES", "5000")],
                &[&["test", "--workspace", "--locked"], selected].concat(),
            )?;
        }
    }
    Ok(())
}

/// The long form of the test in which one call in ten fails.
pub fn soak(minutes: &str) -> Result<(), String> {
    let minutes: u64 = minutes
        .parse()
        .map_err(|_| format!("`{minutes}` is no whole number of minutes"))?;
    long_form("soak", &[("SOAK_SECONDS", &(minutes * 60).to_string())])
}

/// Runs one test program of the binary with other bounds than in the ordinary run.
fn long_form(test: &str, settings: &[(&str, &str)]) -> Result<(), String> {
    let arguments = [
        "test",
        "--release",
        "-p",
        "comanda",
        "--test",
        test,
        "--",
        "--nocapture",
    ];
    with_settings(settings, &arguments)
}

/// Runs cargo with variables in its environment.
fn with_settings(settings: &[(&str, &str)], arguments: &[&str]) -> Result<(), String> {
    let shown: Vec<String> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
    println!("$ {} cargo {}", shown.join(" "), arguments.join(" "));
    let status = Command::new("cargo")
        .args(arguments)
        .envs(settings.iter().copied())
        .status()
        .map_err(|error| format!("cargo could not be started: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`cargo {}` failed: {status}", arguments.join(" ")))
    }
}

/// Builds the program of an earlier commit, and has its nodes replaced by ours, and ours by its.
pub fn upgrade(commit: &str) -> Result<(), String> {
    install::all()?;
    let target = install::target_directory()?;
    let tree = target.join("upgrade/tree");
    let path = |path: &Path| path.to_str().map(str::to_owned).ok_or("a path is not UTF-8");
    let (target_text, tree_text) = (path(&target)?, path(&tree)?);
    if tree.exists() {
        shown("git", &["worktree", "remove", "--force", &tree_text])?;
    }
    shown("git", &["worktree", "add", "--force", "--detach", &tree_text, commit])?;
    // In its own directory, so that its own settings count; into our target, so that only what differs is built.
    let arguments = [
        "build",
        "--workspace",
        "--locked",
        "--bin",
        "comanda",
        "--target-dir",
        &target_text,
    ];
    println!("$ cd {tree_text} && cargo {}", arguments.join(" "));
    let status = Command::new("cargo")
        .args(arguments)
        .current_dir(&tree)
        .status()
        .map_err(|error| format!("cargo could not be started: {error}"))?;
    if !status.success() {
        return Err(format!("the program of {commit} could not be built"));
    }
    let earlier = target.join("upgrade/comanda");
    std::fs::copy(target.join("debug/comanda"), &earlier)
        .map_err(|error| format!("the program of {commit} could not be put aside: {error}"))?;
    shown("git", &["worktree", "remove", "--force", &tree_text])?;
    let test = "test --workspace --locked --test postgres_upgrade -- --ignored --nocapture";
    with_settings(
        &[("EARLIER_PROGRAM", &path(&earlier)?)],
        &test.split(' ').collect::<Vec<_>>(),
    )
}

/// Syncs, bytes, instructions and allocations per order against `benches/cost.json`.
pub fn cost(arguments: &[&str]) -> Result<(), String> {
    install::strace()?;
    install::valgrind()?;
    measured("benches/cost.py", arguments)
}

/// Where the time and the instructions of one order go, from socket to disk and back.
pub fn stages(arguments: &[&str]) -> Result<(), String> {
    install::perf()?;
    install::valgrind()?;
    measured("benches/stages.py", arguments)
}

/// Runs a script that measures the release build, which it is handed.
fn measured(script: &str, arguments: &[&str]) -> Result<(), String> {
    cargo(&["build", "--release", "--locked", "-p", "comanda"])?;
    let binary = install::target_directory()?.join("release/comanda");
    let binary = binary.to_str().ok_or("the target directory's name is not UTF-8")?;
    shown("python3", &[&[script, binary], arguments].concat())
}

/// The figures of `docs/performance.md`.
pub fn bench() -> Result<(), String> {
    cargo(&["build", "--release", "--locked"])?;
    shown("bash", &["benches/side-by-side.sh"])
}

/// One, two and three nodes on PostgreSQL beside a bare client; the arguments are those of `measure.py`.
pub fn bench_postgres(arguments: &[&str]) -> Result<(), String> {
    install::all()?;
    measured("benches/postgres/measure.py", arguments)
}

/// Comanda beside its peers: measured, drawn, and written into `docs/performance.md`.
pub fn peers(seconds: &str) -> Result<(), String> {
    install::peers()?;
    shown("bash", &["benches/peers/run.sh", seconds])
}

pub fn cargo(arguments: &[&str]) -> Result<(), String> {
    shown("cargo", arguments)
}

pub fn shown(program: &str, arguments: &[&str]) -> Result<(), String> {
    println!("$ {program} {}", arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .status()
        .map_err(|error| format!("{program} could not be started: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{program} {}` failed: {status}", arguments.join(" ")))
    }
}
