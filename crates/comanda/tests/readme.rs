//! The README's walk, run as a reader would run it: every `sh` block, in order, in one shell, against a server started
//! as the README says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use support::Server;

const README: &str = include_str!("../../../README.md");

/// The text of every block of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence)
        .skip(1)
        .map(|rest| rest.split("\n```").next().unwrap())
        .collect()
}

#[test]
fn the_walk_works_as_it_is_written() {
    // The flags are taken from the README, so that the two cannot part ways.
    let serve = blocks(README, "console")
        .into_iter()
        .find_map(|block| block.split_once("-- serve --break"))
        .unwrap()
        .1;
    let flags: Vec<&str> = ["--break"].into_iter().chain(serve.split_whitespace()).collect();
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("order-types")).unwrap();
    let server = Server::start_in(directory.path(), &flags);
    let binary = Path::new(env!("CARGO_BIN_EXE_comanda")).parent().unwrap();
    let mut script = String::from("set -euo pipefail\n");
    for block in blocks(README, "sh") {
        // The README uses the default address and the release build; this server has a port of its own.
        let block = block
            .replace("http://127.0.0.1:8080", &server.url)
            .replace("$PWD/target/release", &binary.to_string_lossy());
        write!(
            script,
            "echo '=== {}'\n{block}\necho\n",
            block.lines().next().unwrap().replace('\'', "")
        )
        .unwrap();
    }
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(directory.path())
        .env("COMANDA_URL", &server.url)
        .output()
        .unwrap();
    let said = format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{said}");
    for expected in [
        "\"orderId\"",
        "COMPLETED",
        "RECEIVED",
        "customerId",
        "broken on purpose",
        "repair",
    ] {
        assert!(said.contains(expected), "`{expected}` is not in:\n{said}");
    }
    // What was a dead letter is done after the redrive.
    let last = said
        .rsplit("=== comanda dead-letters redrive --all --dry-run")
        .next()
        .unwrap();
    assert!(last.contains("COMPLETED"), "{said}");
    server.stop();
}
