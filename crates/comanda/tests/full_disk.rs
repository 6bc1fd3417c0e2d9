//! A disk that takes no more, under a real server: new orders are answered with 503, what was accepted can be read, and
//! when there is room again everything goes on by itself.
//!
//! The disk is made full by a limit on the size of files (`prlimit`), which needs no rights and no file system of its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]
#![cfg(target_os = "linux")]

mod support;

use std::process::Command;
use std::time::Instant;

use support::{PATIENCE, Server};

const SALE: &str = r#"{"amount":99.99,"currency":"EUR"}"#;

fn limit_files(server: &Server, bytes: &str) {
    let pid = server.child.id().to_string();
    let limited = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--fsize={bytes}")])
        .status()
        .unwrap();
    assert!(limited.success());
}

#[test]
fn a_full_disk_is_said_and_loses_nothing() {
    let mut server = Server::start(&[]);
    let mut accepted = Vec::new();
    let mut submit = || {
        let (status, headers, body) = server.http("POST", "/sale", &[("content-type", "application/json")], SALE);
        if status == 202 {
            let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
            accepted.push(answer["orderId"].as_str().unwrap().to_owned());
        }
        (status, headers, body)
    };
    assert_eq!(submit().0, 202);
    // The log is larger than this already, so the very next write fails. The hard limit stays, to be lifted again.
    limit_files(&server, "4096:unlimited");
    let (status, headers, body) = submit();
    assert_eq!(status, 503, "{body}");
    assert!(headers.to_lowercase().contains("retry-after"), "{headers}");
    for _ in 0..3 {
        assert_eq!(server.http("GET", "/readyz", &[], "").0, 503);
    }
    assert_eq!(server.http("GET", "/v1/orders", &[], "").0, 200, "reading goes on");
    limit_files(&server, "unlimited:unlimited");
    let deadline = Instant::now() + PATIENCE;
    while submit().0 != 202 {
        assert!(Instant::now() < deadline, "it never recovers");
    }
    assert_eq!(server.http("GET", "/readyz", &[], "").0, 200);
    for id in &accepted {
        // Also the step of the first order, which may have met the full disk, is done in the end.
        let (status, _, body) = server.http("GET", &format!("/v1/orders/{id}?wait=20"), &[], "");
        assert_eq!(status, 200, "{body}");
        assert!(body.contains("\"final\":true"), "{body}");
    }
    assert_eq!(server.http("GET", "/readyz", &[], "").0, 200);
    let said = server.lines_until("this node is ready again");
    let unready = said
        .iter()
        .filter(|line| line.contains("this node is not ready"))
        .count();
    assert_eq!(unready, 1, "one reason, one line, however often it is asked: {said:#?}");
    let (status, home) = server.stop();
    assert!(status.success());
    support::run(home.path(), &["verify"], "").ok();
}
