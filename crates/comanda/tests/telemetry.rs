//! Traces reach a collector, and join with those of the services that steps call.
#![cfg(feature = "otlp")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use support::{Home, PATIENCE, Server};
use tempfile::TempDir;

/// A service that answers everything with an empty object, and hands over each request: its head, and its body.
fn service() -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = Vec::new();
            let mut chunk = [0; 4096];
            let end = loop {
                if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                    break end + 4;
                }
                let count = stream.read(&mut chunk).unwrap();
                assert!(count > 0, "the request ends in its head");
                bytes.extend_from_slice(&chunk[..count]);
            };
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.trim().parse::<usize>().unwrap());
            while bytes.len() < end + length {
                let count = stream.read(&mut chunk).unwrap();
                bytes.extend_from_slice(&chunk[..count]);
            }
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
                .unwrap();
            // Nobody may be listening any more at the end of a test.
            let _ = sender.send((head, bytes[end..].to_vec()));
        }
    });
    (url, receiver)
}

fn bytes_of(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect()
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn an_attempt_is_exported_under_the_identity_that_its_receiver_was_told() {
    let (collector, spans) = service();
    let (carrier, calls) = service();
    let home = TempDir::new().unwrap();
    fs::create_dir(home.path().join("order-types")).unwrap();
    let text = r#"
name = "parcel"
initial = "packed"
[schema]
type = "object"
[statuses.packed]
steps = ["book"]
next = "booked"
[statuses.booked]
final = true
[steps.book]
http = "POST {{ env.CARRIER_URL }}/parcels"
body = { to = "x" }
"#;
    fs::write(home.path().join("order-types/parcel.toml"), text).unwrap();
    let environment = [
        ("COMANDA_TELEMETRY__OTLP_ENDPOINT", collector.as_str()),
        ("CARRIER_URL", carrier.as_str()),
    ];
    let server = Server::start_with(Home::Lent(home.path().to_owned()), &["--store", "memory"], &environment);
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let traceparent = format!("00-{trace}-b7ad6b7169203331-01");
    let headers = [
        ("content-type", "application/json"),
        ("traceparent", traceparent.as_str()),
        ("prefer", "wait=30"),
    ];
    let (status, _, body) = server.http("POST", "/v1/orders", &headers, r#"{"type":"parcel","data":{}}"#);
    assert_eq!(status, 200, "{body}");
    let (head, _) = calls.recv_timeout(PATIENCE).unwrap();
    let told = head
        .lines()
        .find_map(|line| line.strip_prefix("traceparent: "))
        .unwrap();
    assert_eq!(&told[3..35], trace);
    // What has not been sent yet is sent at the end.
    let (ended, _) = server.stop();
    assert!(ended.success());
    let (head, body) = spans.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("post /v1/traces "), "{head}");
    assert!(contains(&body, &bytes_of(trace)), "the trace");
    assert!(
        contains(&body, &bytes_of(&told[36..52])),
        "the span that the receiver was told"
    );
    for part in ["attempt", "book", "parcel", "service.name", "comanda"] {
        assert!(contains(&body, part.as_bytes()), "{part}");
    }
}
