//! Runs the tools that check and test the project, each shown as it is run.

use std::process::Command;

use crate::{direction, install};

/// Everything that must hold before a change is done.
pub fn test() -> Result<(), String> {
    install::all()?;
    check()?;
    cargo(&["test", "--workspace", "--locked"])?;
    shown("promtool", &["test", "rules", "infra/alerts/comanda.rules.test.yml"])
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

/// The long form of the crash test.
pub fn crash(rounds: &str) -> Result<(), String> {
    println!("$ CRASH_ROUNDS={rounds} cargo test --release -p comanda --test crash");
    let status = Command::new("cargo")
        .args([
            "test",
            "--release",
            "-p",
            "comanda",
            "--test",
            "crash",
            "--",
            "--nocapture",
        ])
        .env("CRASH_ROUNDS", rounds)
        .status()
        .map_err(|error| format!("cargo could not be started: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("the crash test failed".to_owned())
    }
}

/// The figures of `docs/performance.md`.
pub fn bench() -> Result<(), String> {
    cargo(&["build", "--release", "--locked"])?;
    shown("bash", &["benches/side-by-side.sh"])
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
