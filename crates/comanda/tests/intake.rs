//! Sources with the real binary: files that are taken through `kill -9`, and a webhook that another implementation of the
//! standard has signed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;
use support::{Home, PATIENCE, Server};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const CONFIGURATION: &str = r#"
[intake.files]
kind = "directory"
type = "sale"
path = "incoming"
[intake.shop]
kind = "webhook"
type = "sale"
data = "/data"
secret = [{ env = "SHOP_SECRET" }]
"#;
/// Signs as the specification says, with nothing of ours.
const SIGN: &str = r#"
import base64, hashlib, hmac, sys, time
secret, id, body = sys.argv[1:]
at = str(int(time.time()))
key = base64.b64decode(secret.removeprefix("whsec_"))
print(at, "v1," + base64.b64encode(hmac.new(key, f"{id}.{at}.{body}".encode(), hashlib.sha256).digest()).decode())
"#;
const FILES: usize = 3;
const LINES: usize = 400;

fn start(home: &Path) -> Server {
    Server::start_with(Home::Lent(home.to_owned()), &[], &[("SHOP_SECRET", SECRET)])
}

/// The `orderId`s of all sales, read page by page.
fn sales(server: &Server) -> Vec<String> {
    let mut ids = Vec::new();
    let mut path = "/v1/orders?type=sale&limit=500".to_owned();
    loop {
        let (status, page) = server.get(&path);
        assert_eq!(status, 200, "{page}");
        let items = page["items"].as_array().unwrap();
        ids.extend(
            items
                .iter()
                .map(|order| order["data"]["orderId"].as_str().unwrap().to_owned()),
        );
        let Some(next) = page["nextCursor"].as_str() else {
            return ids;
        };
        path = format!("/v1/orders?type=sale&limit=500&cursor={next}");
    }
}

#[test]
fn killed_in_the_middle_of_files_every_line_is_one_order() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("comanda.toml"), CONFIGURATION).unwrap();
    let incoming = home.path().join("incoming");
    std::fs::create_dir(&incoming).unwrap();
    let mut expected = BTreeSet::new();
    for file in 0..FILES {
        let mut text = String::new();
        for line in 0..LINES {
            if line == 7 {
                text.push_str("{\"amount\":\"much\"}\n");
                continue;
            }
            let id = format!("f{file}-{line}");
            text.push_str(&format!(
                "{{\"orderId\":\"{id}\",\"amount\":{line}.50,\"currency\":\"EUR\"}}\n"
            ));
            expected.insert(id);
        }
        std::fs::write(incoming.join(".writing"), text).unwrap();
        std::fs::rename(incoming.join(".writing"), incoming.join(format!("{file}.ndjson"))).unwrap();
    }
    let done = || (0..FILES).all(|file| incoming.join(format!("done/{file}.ndjson")).exists());
    let mut middle = 0;
    for _ in 0..4 {
        let server = start(home.path());
        let before = sales(&server).len();
        let begun = Instant::now();
        while sales(&server).len() == before && !done() {
            assert!(begun.elapsed() < PATIENCE, "nothing is taken");
        }
        middle += usize::from(!done());
        server.kill();
    }
    assert!(middle > 0, "it was never killed in the middle");
    let server = start(home.path());
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "the files are not taken");
    }
    let taken = sales(&server);
    assert_eq!(taken.len(), expected.len(), "none twice");
    assert_eq!(
        taken.into_iter().collect::<BTreeSet<_>>(),
        expected,
        "and none left out"
    );
    let listed = server
        .run(&["intake", "rejected", "files", "--output", "json"], "")
        .ok()
        .json();
    assert_eq!(listed["items"].as_array().unwrap().len(), FILES, "{listed}");
    let reasons = std::fs::read_to_string(incoming.join("rejected/1.ndjson.reasons")).unwrap();
    let reason: Value = serde_json::from_str(reasons.trim()).unwrap();
    assert_eq!(reason["line"], 8);
    let discarded = server.run(&["intake", "discard", "files", "--all"], "").ok();
    assert!(discarded.out.contains("3 discarded"), "{}", discarded.out);
}

#[test]
fn a_webhook_that_others_have_signed_is_an_order_once() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("comanda.toml"), CONFIGURATION).unwrap();
    let server = start(home.path());
    let post = |id: &str, body: &str, secret: &str| {
        let signed = Command::new("python3")
            .args(["-c", SIGN, secret, id, body])
            .output()
            .unwrap();
        let signed = String::from_utf8(signed.stdout).unwrap();
        let (at, signature) = signed.trim().split_once(' ').unwrap();
        let headers = [
            ("content-type", "application/json"),
            ("webhook-id", id),
            ("webhook-timestamp", at),
            ("webhook-signature", signature),
        ];
        let (status, _, answer) = server.http("POST", "/v1/intake/shop", &headers, body);
        (status, serde_json::from_str::<Value>(&answer).unwrap())
    };
    let body = r#"{"type":"order.created","data":{"amount":12.50,"currency":"EUR"}}"#;
    let (status, first) = post("msg-1", body, SECRET);
    assert_eq!((status, &first["status"]), (202, &Value::from("accepted")), "{first}");
    let (status, again) = post("msg-1", body, SECRET);
    assert_eq!((status, &again["status"]), (202, &Value::from("repeated")));
    assert_eq!(again["orderId"], first["orderId"]);
    let (status, refused) = post("msg-2", body, "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
    assert_eq!((status, &refused["code"]), (401, &Value::from("webhook-unverified")));
    let (status, kept) = post("msg-3", r#"{"data":{"amount":-1,"currency":"EUR"}}"#, SECRET);
    assert_eq!((status, &kept["status"]), (202, &Value::from("rejected")), "{kept}");
    let order = server
        .get(&format!("/v1/orders/{}/events", first["orderId"].as_str().unwrap()))
        .1;
    assert_eq!(order["items"][0]["data"]["by"], "intake:shop");
    let retried = server.run(&["intake", "retry", "shop", "--all"], "");
    assert!(
        retried.code != 0 && retried.out.contains("0 accepted, 1 rejected again"),
        "{retried:?}"
    );
    let listed = server.run(&["intake", "list"], "").ok();
    assert!(
        listed.out.contains("shop") && listed.out.contains("webhook"),
        "{}",
        listed.out
    );
}
