//! The server and the commands that talk to it, as an operator uses them: the real binary over real HTTP.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::{Value, json};
use support::{Home, Server, command, run, run_command};
use tempfile::TempDir;

const SALE: &str = r#"{"amount":99.90,"currency":"EUR"}"#;

#[test]
fn an_order_goes_in_and_is_seen_to_its_end() {
    let server = Server::start(&["--mount", "/orders=sale"]);
    let submitted = server
        .run(&["submit", "sale", "--wait", "--idempotency-key", "k1"], SALE)
        .ok();
    let id = submitted.out.trim().to_owned();
    assert!(submitted.err.contains("sale is COMPLETED"), "{}", submitted.err);
    // The same key again: the same order, and it says so.
    let again = server.run(&["submit", "sale", "--idempotency-key", "k1"], SALE).ok();
    assert_eq!(again.out.trim(), id);
    assert!(again.err.contains("submitted before"), "{}", again.err);

    let order = server.run(&["get", &id, "--output", "json"], "").ok();
    assert!(order.out.contains("99.90"), "digits are kept: {}", order.out);
    assert_eq!(order.json()["final"], true);
    let shown = server.run(&["get", &id, "--history"], "").ok().out;
    for part in ["ACCEPTED → COMPLETED", "record", "done"] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
    let listed = server
        .run(
            &["list", "--type", "sale", "--status", "COMPLETED", "--output", "json"],
            "",
        )
        .ok()
        .json();
    assert_eq!(listed["items"][0]["id"], id.as_str());
    let events = server.run(&["events", "--output", "json"], "").ok().json();
    assert_eq!(events["items"][0]["subject"], id.as_str());
    let of_kind = |name| {
        let chosen = [
            "events",
            "--type",
            name,
            "--event",
            "comanda.order.accepted",
            "--output",
            "json",
        ];
        server.run(&chosen, "").ok().json()["items"].as_array().unwrap().len()
    };
    assert_eq!((of_kind("sale"), of_kind("purchase")), (1, 0));
    // An order's stream ends with the order.
    let followed = server
        .run(&["events", &id, "--follow", "--output", "json"], "")
        .ok()
        .out;
    assert_eq!(followed.lines().count(), 2, "{followed}");

    let (status, body) = server.post("/orders", SALE);
    assert_eq!(status, 202, "{body}");
    let (status, _, metrics) = server.http("GET", "/metrics", &[], "");
    assert_eq!(status, 200);
    for name in [
        "comanda_orders_accepted_total",
        "comanda_http_requests_total",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.contains(name), "{name} is not in:\n{metrics}");
    }
    let (status, _) = server.stop();
    assert!(status.success());
}

#[test]
fn problems_are_told_with_every_fault() {
    let server = Server::start(&["--store", "memory"]);
    let ran = server.run(&["submit", "sale"], r#"{"amount":-1,"currency":"XXQ"}"#);
    assert_eq!(ran.code, 1);
    for part in ["error: ", "/amount", "/currency"] {
        assert!(ran.err.contains(part), "{part} is not in:\n{}", ran.err);
    }
    let ran = server.run(&["submit", "sail"], SALE);
    assert!(ran.err.contains("did you mean `sale`?"), "{}", ran.err);
    let ran = server.run(&["get", "0190ffff-0000-7000-8000-000000000000"], "");
    assert_eq!(ran.code, 1);
    assert!(ran.err.starts_with("error: "), "{}", ran.err);
    let ran = server.run(&["submit", "sale"], "{");
    assert!(ran.err.contains("stdin is not valid JSON"), "{}", ran.err);
}

#[test]
fn a_step_that_fails_makes_a_dead_letter_that_can_be_redriven() {
    let server = Server::start(&["--break", "record=5", "--fast-retries"]);
    let id = server
        .run(&["submit", "sale", "--wait"], SALE)
        .ok()
        .out
        .trim()
        .to_owned();
    let dead = server
        .run(&["dead-letters", "list", "--output", "json"], "")
        .ok()
        .json();
    assert_eq!(dead["items"].as_array().unwrap().len(), 1, "{dead}");
    let shown = server.run(&["dead-letters", "show", &id], "").ok().out;
    assert!(shown.contains("failed") && shown.contains("record"), "{shown}");
    let causes = server
        .run(&["dead-letters", "causes", "--output", "json"], "")
        .ok()
        .json();
    let cause = causes["items"][0]["cause"].as_str().unwrap().to_owned();

    let dry = server
        .run(&["dead-letters", "redrive", "--cause", &cause, "--dry-run"], "")
        .ok()
        .out;
    assert_eq!(dry, "1 would be redriven\n");
    let redriven = server.run(&["dead-letters", "redrive", &id], "").ok().out;
    assert_eq!(redriven, "1 redriven\n");
    let order = server.run(&["get", &id, "--wait", "--output", "json"], "").ok().json();
    assert_eq!(order["status"], "COMPLETED", "{order}");
    assert_eq!(
        server.run(&["dead-letters", "list"], "").ok().out.lines().count(),
        1,
        "only the header is left"
    );
}

#[test]
fn dead_letters_are_given_up() {
    let server = Server::start(&["--store", "memory", "--break", "record=5", "--fast-retries"]);
    server.run(&["submit", "sale", "--wait"], SALE).ok();
    let out = server
        .run(&["dead-letters", "discard", "--all", "--reason", "a test"], "")
        .ok()
        .out;
    assert_eq!(out, "1 discarded\n");
}

#[test]
fn an_order_that_waits_is_cancelled() {
    let server = Server::start(&["--store", "memory"]);
    server.run(&["demo", "seed"], "").ok();
    let order = json!({"userId": "u-1", "products": [{"sku": "A-1", "quantity": 1}]}).to_string();
    let id = server
        .run(&["submit", "storefront-order", "--wait"], &order)
        .ok()
        .out
        .trim()
        .to_owned();
    let out = server.run(&["cancel", &id, "--reason", "changed my mind"], "").ok().out;
    assert!(out.contains("is canceled"), "{out}");
}

#[test]
fn an_import_that_is_run_twice_submits_once() {
    let server = Server::start(&[]);
    let good = format!(r#"{{"type":"sale","data":{SALE}}}"#);
    let bad = r#"{"type":"sale","data":{"amount":-1,"currency":"EUR"}}"#;
    let text = format!("{good}\n{bad}\n\nnot json\n{good}\n");
    let file = server.home.path().join("orders.ndjson");
    fs::write(&file, &text).unwrap();
    let first = server.run(&["import", "orders.ndjson", "--batch", "2"], "");
    assert_eq!(
        (first.code, first.out.as_str()),
        (1, "2 accepted, 2 rejected\n"),
        "{first:?}"
    );
    assert!(
        first.err.contains("line 2: 422") && first.err.contains("line 4: not JSON"),
        "{}",
        first.err
    );
    let count = || {
        server.run(&["list", "--output", "json"], "").ok().json()["items"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count(), 2);
    // What was imported is written down beside the file …
    let second = server.run(&["import", "orders.ndjson", "--batch", "2"], "").ok();
    assert_eq!(second.out, "0 accepted, 0 rejected\n");
    assert_eq!(count(), 2);
    // … and when that is lost, the idempotency keys still answer with the first orders.
    fs::remove_file(server.home.path().join("orders.ndjson.imported")).unwrap();
    server.run(&["import", "orders.ndjson", "--batch", "2"], "");
    assert_eq!(count(), 2);
    // A file that grew goes on where it was; one that changed is refused.
    fs::write(&file, format!("{text}{good}\n")).unwrap();
    assert_eq!(
        server.run(&["import", "orders.ndjson"], "").ok().out,
        "1 accepted, 0 rejected\n"
    );
    fs::write(&file, format!("{bad}\n{text}")).unwrap();
    let changed = server.run(&["import", "orders.ndjson"], "");
    assert_eq!(changed.code, 2);
    assert!(changed.err.contains("have changed since"), "{}", changed.err);
    assert_eq!(count(), 3);
}

#[test]
fn orders_outlive_the_process_and_a_second_server_is_kept_out() {
    let server = Server::start(&[]);
    let id = server
        .run(&["submit", "sale", "--wait"], SALE)
        .ok()
        .out
        .trim()
        .to_owned();
    let second = run(server.home.path(), &["serve", "--listen", "127.0.0.1:0"], "");
    assert_eq!(second.code, 1);
    let pid = format!("open in process {}", server.child.id());
    assert!(
        second.err.contains(&pid) && second.err.contains("Talk to it: comanda list --url"),
        "{}",
        second.err
    );
    let home = server.kill();
    let server = Server::start_in(home.path(), &[]);
    assert_eq!(server.get(&format!("/v1/orders/{id}")).1["status"], "COMPLETED");
}

#[test]
fn a_backup_taken_beside_a_server_restores_and_verifies() {
    let server = Server::start(&[]);
    let id = server
        .run(&["submit", "sale", "--wait"], SALE)
        .ok()
        .out
        .trim()
        .to_owned();
    let exported = server.run(&["export"], "").ok().out;
    assert_eq!(exported.lines().count(), 1);
    run(server.home.path(), &["backup", "copy.db"], "").ok();
    run(server.home.path(), &["restore", "copy.db", "--data", "restored"], "").ok();
    let verified = run(server.home.path(), &["verify", "--data", "restored"], "").ok();
    assert!(
        verified.out.contains("1 orders") && verified.out.contains("sound"),
        "{}",
        verified.out
    );
    let (_, home) = server.stop();
    run(home.path(), &["verify"], "").ok();
    let exported = run(home.path(), &["export", "--data", "restored"], "").ok().out;
    let order: Value = serde_json::from_str(exported.trim()).unwrap();
    assert_eq!(
        (order["id"].as_str(), order["status"].as_str()),
        (Some(id.as_str()), Some("COMPLETED"))
    );
}

#[test]
fn events_are_followed_over_a_restart_of_the_server() {
    let mut server = Server::start(&[]);
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    let mut follow = command(server.home.path())
        .args(["events", "--follow", "--output", "json", "--url", &server.url])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let first = server
        .run(&["submit", "sale", "--wait"], SALE)
        .ok()
        .out
        .trim()
        .to_owned();
    assert_eq!(next()["subject"], first.as_str());
    assert_eq!(next()["data"]["to"], "COMPLETED");
    let (_, home) = server.stop();
    server = Server::start_in(home.path(), &["--listen", &address]);
    let second = server
        .run(&["submit", "sale", "--wait"], SALE)
        .ok()
        .out
        .trim()
        .to_owned();
    assert_eq!(
        next()["subject"],
        second.as_str(),
        "nothing is told twice, and nothing is left out"
    );
    follow.kill().unwrap();
    follow.wait().unwrap();
}

#[test]
fn types_are_read_again_when_their_files_change() {
    let mut server = Server::start(&["--store", "memory", "--watch"]);
    run(server.home.path(), &["new", "repair"], "").ok();
    server.wait_for_line("added repair");
    assert_eq!(server.get("/v1/order-types/repair").0, 200);
    let path = server.home.path().join("order-types/repair.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, "name = ").unwrap();
    server.wait_for_line("The order types stay as they were.");
    assert_eq!(server.get("/v1/order-types/repair").0, 200);
    fs::write(&path, format!("{text}\n# changed\n")).unwrap();
    server.wait_for_line("changed repair");
}

#[test]
fn keys_are_needed_once_there_are_any() {
    let home = TempDir::new().unwrap();
    let create = |name: &str, scope: &str| {
        run(home.path(), &["keys", "create", name, "--scope", scope], "")
            .ok()
            .out
            .trim()
            .to_owned()
    };
    let (reader, writer) = (create("reader", "read"), create("writer", "submit"));
    let server = Server::start_in(home.path(), &["--store", "memory"]);
    let with = |key: &str, args: &[&str]| {
        let mut command = command(home.path());
        run_command(
            command
                .args(args)
                .args(["--url", &server.url])
                .env("COMANDA_API_KEY", key),
            SALE,
        )
    };
    let refused = server.run(&["list"], "");
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("Set COMANDA_API_KEY"), "{}", refused.err);
    with(&writer, &["submit", "sale"]).ok();
    with(&reader, &["list"]).ok();
    let refused = with(&reader, &["submit", "sale"]);
    assert!(refused.err.contains("a key that has this scope"), "{}", refused.err);
}

#[test]
fn a_bench_checks_every_order_that_was_accepted() {
    let server = Server::start(&[]);
    for args in [
        ["--connections", "4"].as_slice(),
        &["--connections", "2", "--batch", "10"],
        &["--rate", "50"],
    ] {
        let mut all = vec!["bench", "--duration", "1s", "--output", "json"];
        all.extend(args);
        let report = server.run(&all, "").ok().json();
        assert!(report["accepted"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(report["check"]["found"], report["accepted"], "{report}");
        assert_eq!(report["check"]["completed"], report["accepted"], "{report}");
        assert_eq!(report["check"]["lost"], 0, "{report}");
        assert!(report["submitMicros"]["p99"].as_u64().unwrap() > 0, "{report}");
    }
    let told = server
        .run(&["bench", "--duration", "500ms", "--connections", "2"], "")
        .ok()
        .out;
    assert!(told.contains("accepted orders are there"), "{told}");
}

#[test]
fn logs_for_programs_are_json_from_the_first_line() {
    let home = TempDir::new().unwrap();
    let mut serve = command(home.path());
    serve.args([
        "serve",
        "--store",
        "memory",
        "--listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ]);
    let mut child = serve.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = support::lines(child.stderr.take().unwrap());
    // Warnings may come before it; they are JSON as well.
    let url = loop {
        let line = lines.recv_timeout(support::PATIENCE).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if let Some(url) = line["fields"]["url"].as_str() {
            break url.to_owned();
        }
    };
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_secret_is_in_no_log() {
    let home = TempDir::new().unwrap();
    let settings = "[secrets]\npay = { env = \"PAY\" }\n[log]\nlevel = \"debug\"\n";
    fs::write(home.path().join("comanda.toml"), settings).unwrap();
    let lent = Home::Lent(home.path().to_owned());
    let mut server = Server::start_with(lent, &["--store", "memory"], &[("PAY", "hunter2")]);
    server.run(&["submit", "sale", "--wait"], SALE).ok();
    server.signal("TERM");
    let said = server.lines_until("stopped");
    assert!(said.iter().all(|line| !line.contains("hunter2")), "{said:?}");
}

#[test]
fn a_server_stops_also_when_nobody_reads_what_it_says() {
    let home = TempDir::new().unwrap();
    let mut child = command(home.path())
        .args(["serve", "--listen", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(said.any(|line| line.unwrap().contains("is ready at")));
    // As `| head` does.
    drop(said);
    let kill = format!("kill -TERM {}", child.id());
    assert!(
        std::process::Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success()
    );
    let begun = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(begun.elapsed() < support::PATIENCE, "it goes on");
        std::thread::yield_now();
    };
    assert!(status.success(), "{status}");
}
