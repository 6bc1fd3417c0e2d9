//! Erasing a customer by the command line, with what the audit log says of it, on the embedded store.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::time::Instant;

use serde_json::Value;
use support::{Home, PATIENCE, Server};
use tempfile::TempDir;

const WAITING: &str = r#"
name = "waiting"
initial = "open"
customer = "/who"
cancel = "closed"
[statuses.open]
to = ["closed"]
[statuses.closed]
final = true
"#;

fn start() -> Server {
    let home = TempDir::new().unwrap();
    let types = home.path().join("order-types");
    std::fs::create_dir(&types).unwrap();
    std::fs::write(types.join("waiting.toml"), WAITING).unwrap();
    Server::start_with(Home::Own(home), &[], &[])
}

#[test]
fn a_customer_is_erased_and_the_file_knows_nothing_of_it() {
    let server = start();
    let data = r#"{"who":"ann@shop.example","note":"the blue door, ring twice"}"#;
    let submitted = server
        .run(&["submit", "waiting", "-", "--output", "json"], data)
        .ok()
        .json();
    let id = submitted["id"].as_str().unwrap().to_owned();
    let edit = r#"{"note":"the green door"}"#;
    let headers = [("content-type", "application/merge-patch+json"), ("if-match", "*")];
    assert_eq!(server.http("PATCH", &format!("/v1/orders/{id}"), &headers, edit).0, 200);

    let known = server.run(&["export", "--customer", "ann@shop.example"], "").ok().out;
    assert!(known.lines().count() >= 3 && known.contains("green door"), "{known}");
    let told = server.run(&["audit", "--subject", &format!("order:{id}")], "").ok().out;
    assert!(told.contains("order.edited") && told.contains("blue door"), "{told}");

    let erase = ["erase", "--customer", "ann@shop.example"];
    let dry = server.run(&[&erase[..], &["--dry-run"]].concat(), "").ok().out;
    assert!(dry.starts_with("1 would be erased; 1 of them are not final"), "{dry}");
    let refused = server.run(&erase, "");
    assert_eq!(refused.code, 1, "{refused:?}");
    let job = server
        .run(&[&erase[..], &["--cancel-first", "--output", "json"]].concat(), "")
        .ok()
        .json();
    assert_eq!(
        (&job["state"], &job["changed"]),
        (&Value::from("done"), &Value::from(1))
    );
    let job_id = job["id"].as_str().unwrap();
    assert!(server.run(&["jobs", "list"], "").ok().out.contains(job_id));
    assert!(
        server
            .run(&["jobs", "show", job_id, "--wait"], "")
            .ok()
            .out
            .contains("done")
    );
    server.run(&["erase", "--order", &id], "").ok();
    assert_eq!(
        server.run(&["export", "--customer", "ann@shop.example"], "").ok().out,
        ""
    );
    let log = server
        .run(&["audit", "--action", "customer", "--output", "json"], "")
        .ok()
        .json();
    let actions: Vec<&str> = log["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["action"].as_str())
        .collect();
    assert_eq!(actions, ["customer.exported", "customer.erased", "customer.exported"]);

    // Stopped cleanly, the log is copied into the file.
    let data_directory = server.data.clone();
    let (status, _home) = server.stop();
    assert!(status.success());
    let file = std::fs::read(data_directory.join("comanda.db")).unwrap();
    for gone in ["blue door", "green door"] {
        assert!(
            !file.windows(gone.len()).any(|part| part == gone.as_bytes()),
            "{gone} is still in the file"
        );
    }
}

#[test]
fn a_key_that_is_made_and_revoked_in_its_file_stands_in_the_log() {
    let server = start();
    let made = server
        .run(&["keys", "create", "ops", "--scope", "operate", "--output", "json"], "")
        .ok()
        .json();
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    let subject = format!("key:{id}");
    let until_told = |action: &str, secret: &str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let args = ["audit", "--subject", &subject, "--action", action, "--api-key", secret];
            // The server looks at the file once a second: until then it does not know the key.
            let told = server.run(&args, "");
            if told.code == 0 && told.out.contains(action) {
                return told.out;
            }
            assert!(Instant::now() < deadline, "{told:?}");
        }
    };
    let told = until_told("key.created", secret);
    assert!(told.contains("ops") && !told.contains(secret), "{told}");
    let other = server
        .run(
            &["keys", "create", "other", "--scope", "operate", "--output", "json"],
            "",
        )
        .ok()
        .json();
    server.run(&["keys", "revoke", id], "").ok();
    let told = until_told("key.revoked", other["secret"].as_str().unwrap());
    assert!(told.contains("local"), "{told}");
}
