//! The tutorial, run as a reader would run it; and the rules that its services keep.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use support::{Home, Server};

const TUTORIAL: &str = include_str!("../../../docs/tutorial.md");
const SECRET: &str = "whsec_YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFh";

/// Repeats a call, undoes it, makes it again, and undoes what never was, at each service: prints the answers' statuses.
const RULES: &str = r#"
import base64, hashlib, hmac, os, time, urllib.error, urllib.request
secret = base64.b64decode(os.environ["SECRET"].removeprefix("whsec_"))
def call(url, key, undoes=None, signed=True):
    body = b'{"sku":"sencha","quantity":1,"amount":1,"card":"visa","to":"nowhere"}'
    now = str(int(time.time()))
    mac = hmac.digest(secret if signed else b"other", f"{key}.{now}.".encode() + body, hashlib.sha256)
    headers = {"idempotency-key": key, "webhook-id": key, "webhook-timestamp": now,
        "webhook-signature": "v1," + base64.b64encode(mac).decode(), "content-type": "application/json",
        "comanda-callback": "http://127.0.0.1:1/"}
    if undoes:
        headers["comanda-undoes"] = undoes
    try:
        return urllib.request.urlopen(urllib.request.Request(url, body, headers)).status
    except urllib.error.HTTPError as error:
        return error.code
for forward, undo in [
    ("http://127.0.0.1:9101/holds", "http://127.0.0.1:9101/releases"),
    ("http://127.0.0.1:9102/payments", "http://127.0.0.1:9102/voids"),
    ("http://127.0.0.1:9103/parcels", "http://127.0.0.1:9103/recalls"),
]:
    print("RULES", call(forward, "r0", signed=False), call(forward, "r1"), call(forward, "r1"), call(undo, "r1:undo", "r1"),
        call(undo, "r1:undo", "r1"), call(forward, "r1"), call(undo, "r2:undo", "r2"), call(forward, "r2"))
"#;

fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    let parts = text.split(&fence).skip(1);
    parts.map(|rest| rest.split("\n```").next().unwrap()).collect()
}

/// Ports that nobody listens on.
fn free_ports() -> Vec<String> {
    let listeners: Vec<TcpListener> = (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().unwrap().port().to_string())
        .collect()
}

#[test]
fn the_tutorial_works_as_it_is_written() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/tutorial");
    let home = tempfile::tempdir().unwrap();
    let here = home.path().join("examples/tutorial");
    std::fs::create_dir_all(here.join("order-types")).unwrap();
    let ports = free_ports();
    let moved = |text: &str| {
        let names = ["8080", "9101", "9102", "9103"];
        let ported = names.iter().zip(&ports);
        ported.fold(text.to_owned(), |text, (name, port)| text.replace(name, port))
    };
    for file in [
        "stock.py",
        "payments.js",
        "carrier.py",
        "comanda.toml",
        "order-types/tea-order.toml",
    ] {
        let text = std::fs::read_to_string(example.join(file)).unwrap();
        std::fs::write(here.join(file), moved(&text)).unwrap();
    }
    let order_type = std::fs::read_to_string(example.join("order-types/tea-order.toml")).unwrap();
    for block in blocks(TUTORIAL, "toml") {
        assert!(order_type.contains(block), "the page and the file differ in:\n{block}");
    }
    let listen = format!("127.0.0.1:{}", ports[0]);
    let server = Server::start_with(Home::Lent(here), &["--listen", &listen], &[("SECRET", SECRET)]);
    let binary = Path::new(env!("CARGO_BIN_EXE_comanda")).parent().unwrap();
    let mut script = "set -euo pipefail\ntrap 'kill $(jobs -p)' EXIT\n".to_owned();
    for block in blocks(TUTORIAL, "sh") {
        // The server has its secret already.
        let lines = block.lines().map(|line| match line.starts_with("export SECRET=") {
            true => format!("export SECRET={SECRET}\n"),
            false => format!("{}\n", moved(line)),
        });
        script.extend(lines);
        script.push_str("echo\n");
    }
    script.push_str(&format!("python3 - <<'RULES'\n{}\nRULES\n", moved(RULES)));
    let output = Command::new("bash")
        .args(["-c", &script])
        .current_dir(home.path())
        .env(
            "PATH",
            format!("{}:{}", binary.display(), std::env::var("PATH").unwrap()),
        )
        .env("COMANDA_URL", &server.url)
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{out}\n{err}");
    assert!(out.contains("not signed by who should"), "{out}\n{err}");
    assert_eq!(err.matches("tea-order is sent").count(), 2, "{out}\n{err}");
    assert_eq!(err.matches("tea-order is cancelled").count(), 3, "{out}\n{err}");
    assert!(out.contains(r#"{"assam": 2, "sencha": 2}"#), "{out}\n{err}");
    assert_eq!(out.matches(r#""state":"paid""#).count(), 2, "{out}");
    assert_eq!(out.matches(r#""state":"voided""#).count(), 1, "{out}");
    let rules: Vec<&str> = out.lines().filter_map(|line| line.strip_prefix("RULES ")).collect();
    let kept = "401 201 200 200 200 409 200 409";
    assert_eq!(rules, [kept, kept, "401 202 202 200 200 409 200 409"], "{out}\n{err}");
    server.stop();
}
