//! Archives of failed orders with the real binary: a bucket of a real S3-compatible server that is down at first, kills
//! in between, and the archive's content next to the store's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::Value;
use support::{Home, PATIENCE, Server, lines};

const SHOP_ORDER: &str = r#"{"type":"shop-order","data":{"customer_name":"Ana Ruiz","customer_email":"ana@example.com",
    "customer_address":"1 High Street","items":[{"product_id":"p-1","name":"Notebook","quantity":2,"price":4.95}],
    "total_price":9.90,"payment_method":"card"}}"#;
const FAILING: [&str; 3] = ["--break", "process=3", "--fast-retries"];
const KEYS: [(&str, &str); 2] = [("FAILURES_KEY_ID", "id"), ("FAILURES_KEY", "secret")];

/// An S3-compatible server. It ends with the test.
struct Bucket(Child);

impl Bucket {
    /// Starts it at this port, with a bucket `failures`.
    fn start(port: u16) -> Self {
        let server = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/moto/bin/moto_server");
        assert!(
            server.exists(),
            "moto is missing at {}: run `cargo xtask install`",
            server.display()
        );
        let mut child = Command::new(server)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .env("PYTHONUNBUFFERED", "1")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = lines(child.stderr.take().unwrap());
        while !said.recv_timeout(PATIENCE).unwrap().contains("Running on") {}
        let bucket = Self(child);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let head = format!(
            "PUT /failures HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        bucket
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(home: &Path) -> Server {
    Server::start_with(Home::Lent(home.to_owned()), &FAILING, &KEYS)
}

fn submit(server: &Server, count: usize) -> Vec<String> {
    let submitted = (0..count).map(|_| {
        let (status, answer) = server.post("/v1/orders", SHOP_ORDER);
        assert_eq!(status, 202, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    });
    submitted.collect()
}

/// Waits until something holds.
#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
    }
}

fn all_dead(server: &Server, ids: &[String]) {
    until("all are dead letters", || {
        ids.iter()
            .all(|id| server.get(&format!("/v1/dead-letters/{id}")).0 == 200)
    });
}

fn from_archive(server: &Server, args: &[&str]) -> support::Ran {
    let mut command = support::command(server.home.path());
    command.envs(KEYS).arg("dead-letters").args(args);
    support::run_command(&mut command, "")
}

/// An archived order next to the store's: whole, but for what only an archive has.
fn compare(server: &Server, archived: &Value) {
    let id = archived["id"].as_str().unwrap();
    let (_, live) = server.get(&format!("/v1/dead-letters/{id}"));
    let mut order = archived.clone();
    for own in ["archive", "events", "typeSource"] {
        assert!(order.as_object_mut().unwrap().remove(own).is_some(), "{own}");
    }
    assert_eq!(order, live);
    let (_, events) = server.get(&format!("/v1/orders/{id}/events?limit=500"));
    assert_eq!(archived["events"], events["items"]);
    assert_eq!(archived["attempts"].as_array().unwrap().len(), 3, "all three tries");
    assert_eq!(archived["typeSource"]["hash"], live["typeVersion"]);
    let source = archived["typeSource"]["source"]["toml"].as_str().unwrap();
    assert!(source.contains("name = \"shop-order\""), "{source}");
}

#[test]
fn a_bucket_that_was_down_has_every_failed_order_whole_also_after_kills() {
    let home = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let configuration = format!(
        "[archives.failures]\nurl = \"s3://failures/orders/all\"\nendpoint = \"http://127.0.0.1:{port}\"\n\
         access_key_id = {{ env = \"FAILURES_KEY_ID\" }}\nsecret_access_key = {{ env = \"FAILURES_KEY\" }}\n"
    );
    std::fs::write(home.path().join("comanda.toml"), configuration).unwrap();

    // Nobody is there, and the process is killed twice; once perhaps before it has tried.
    let server = start(home.path());
    let mut ids = submit(&server, 10);
    all_dead(&server, &ids);
    until("a failed try is told", || {
        let log = server.get("/v1/subscriptions/archive:failures/deliveries").1;
        log["items"].as_array().is_some_and(|tries| {
            let told =
                |one: &Value| one["delivered"] == false && one["reason"].as_str().is_some_and(|why| !why.is_empty());
            !tries.is_empty() && tries.iter().all(told)
        })
    });
    server.kill();
    let server = start(home.path());
    ids.extend(submit(&server, 10));
    all_dead(&server, &ids);
    server.kill();

    let _bucket = Bucket::start(port);
    let server = start(home.path());
    // An operator who has mended it need not wait for the schedule.
    server.run(&["subscriptions", "resume", "archive:failures"], "").ok();
    let list = ["list", "--from", "failures", "--output", "json", "--limit", "1000"];
    until("all are in the bucket", || {
        from_archive(&server, &list).ok().json()["items"]
            .as_array()
            .unwrap()
            .len()
            >= ids.len()
    });
    let listed = from_archive(&server, &list).ok().json();
    let listed = listed["items"].as_array().unwrap();
    let mut found: Vec<&str> = listed.iter().map(|order| order["id"].as_str().unwrap()).collect();
    found.sort_unstable();
    ids.sort_unstable();
    assert_eq!(found, ids, "each once, and no other");
    listed.iter().for_each(|order| compare(&server, order));

    let id = &ids[7];
    let shown = from_archive(&server, &["show", id, "--from", "failures"]).ok();
    for part in ["process", "dead-lettered", "Notebook"] {
        assert!(shown.out.contains(part), "{part}: {}", shown.out);
    }
    // What was archived is a copy: the order is put back to work, and the copy stays.
    server.run(&["dead-letters", "redrive", id], "").ok();
    let shown = from_archive(&server, &["show", id, "--from", "failures"]).ok();
    assert!(shown.out.contains("dead letter"), "{}", shown.out);
    let unknown = from_archive(
        &server,
        &["show", &uuid::Uuid::now_v7().to_string(), "--from", "failures"],
    );
    assert_ne!(unknown.code, 0);
}

#[test]
fn a_shipped_type_has_an_archive_beside_the_data_without_being_set_up() {
    let server = Server::start(&FAILING);
    let ids = submit(&server, 1);
    let show = ["show", &ids[0], "--from", "failures", "--output", "json"];
    until("it is in the directory", || from_archive(&server, &show).code == 0);
    compare(&server, &from_archive(&server, &show).ok().json());
    let typo = from_archive(&server, &["list", "--from", "failurse"]);
    assert!(typo.code == 2 && typo.err.contains("no archive"), "{typo:?}");
}
