//! A disk that fails under a real server: syncs and writes that answer with an error, a file system that has become
//! read-only. New orders are answered with 503, what was accepted can be read, `/readyz` tells, and when the disk works
//! again everything goes on by itself. What was acknowledged stays, also if the power is cut later: a sync that failed
//! is never made good by one that succeeds, as the kernel has forgotten what it could not write.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]
#![cfg(target_os = "linux")]

mod support;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use comanda_store::Store;
use comanda_store_sqlite::{Options, SqliteStore, verify};
use support::disk::{Disk, DiskFault, Files, Syncs};
use support::random::Random;
use support::{Home, PATIENCE, Server};
use tempfile::TempDir;

const SALE: &str = r#"{"amount":99.99,"currency":"EUR"}"#;
const JSON: (&str, &str) = ("content-type", "application/json");

/// Submits one, under a key; answers the status and the headers, and notes the order if it was accepted.
fn submit(server: &Server, number: usize, accepted: &mut Vec<String>) -> (u16, String) {
    let key = format!("k-{number}");
    let (status, headers, body) = server.http("POST", "/sale", &[JSON, ("idempotency-key", &key)], SALE);
    if status == 202 {
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        accepted.push(answer["orderId"].as_str().unwrap().to_owned());
    }
    (status, headers)
}

async fn survives(fault: DiskFault, files: Files) {
    let home = TempDir::new().unwrap();
    let disk = Disk::new(home.path());
    let server = Server::start_with(Home::Lent(home.path().to_owned()), &[], &disk.environment());
    let mut accepted = Vec::new();
    let mut number = 0;
    for _ in 0..3 {
        for _ in 0..5 {
            number += 1;
            assert_eq!(submit(&server, number, &mut accepted).0, 202);
        }
        disk.fail(fault, files);
        number += 1;
        let (status, headers) = submit(&server, number, &mut accepted);
        assert_eq!(status, 503, "{fault:?}: {headers}");
        assert!(headers.to_lowercase().contains("retry-after"), "{headers}");
        assert_eq!(server.http("GET", "/readyz", &[], "").0, 503);
        assert_eq!(
            server.http("GET", "/healthz", &[], "").0,
            200,
            "a restart would not help"
        );
        assert_eq!(server.http("GET", "/v1/orders", &[], "").0, 200, "reading goes on");
        let known = format!("/v1/orders/{}", accepted[0]);
        assert_eq!(server.http("GET", &known, &[], "").0, 200, "reading goes on");
        disk.mend();
        let deadline = Instant::now() + PATIENCE;
        // The same submission again, as a client would: it is one order, whatever became of it.
        while submit(&server, number, &mut accepted).0 != 202 {
            assert!(Instant::now() < deadline, "it never recovers");
        }
        assert_eq!(server.http("GET", "/readyz", &[], "").0, 200);
    }
    let moment = disk.moment();
    for id in &accepted {
        // Also steps that met the failing disk are done in the end.
        let (status, _, body) = server.http("GET", &format!("/v1/orders/{id}?wait=20"), &[], "");
        assert_eq!(status, 200, "{body}");
        assert!(body.contains("\"final\":true"), "{body}");
    }
    let (_, page) = server.get("/v1/orders?limit=500");
    assert_eq!(
        page["items"].as_array().unwrap().len(),
        accepted.len(),
        "none is there twice"
    );
    let (status, _) = server.stop();
    assert!(status.success());
    let report = verify(&home.path().join("comanda-data"), &|_, _| {}).unwrap();
    assert!(report.is_clean(), "{:#?}", report.faults);

    let record = disk.record();
    for seed in 0..8 {
        let directory = home.path().join(format!("image-{seed}"));
        record.cut(moment, Syncs::Kept, &mut Random(seed), &directory);
        let store = SqliteStore::open(Options::new(&directory)).unwrap();
        for id in &accepted {
            let found = store.order(id.parse().unwrap()).await.unwrap();
            assert!(
                found.is_some(),
                "{id} was acknowledged and is gone after a power cut (seed {seed})"
            );
        }
        store.close().await.unwrap();
        let report = verify(&directory, &|_, _| {}).unwrap();
        assert!(report.is_clean(), "seed {seed}: {:#?}", report.faults);
    }
}

#[tokio::test]
async fn a_sync_that_fails_at_commit_is_said_and_loses_nothing() {
    survives(DiskFault::SyncFails, Files::All).await;
}

#[tokio::test]
async fn a_write_that_fails_at_commit_is_said_and_loses_nothing() {
    survives(DiskFault::WriteFails, Files::All).await;
}

#[tokio::test]
async fn a_disk_that_became_read_only_is_said_and_loses_nothing() {
    survives(DiskFault::ReadOnly, Files::All).await;
}

/// Submits orders one after another, each until it is accepted, and notes them with where the disk's record stood then.
async fn client(url: String, client: usize, disk: Arc<Disk>, told: Arc<Mutex<Vec<(String, u64)>>>, load: Arc<Load>) {
    let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
    let mut number = 0;
    while !load.stop.load(Ordering::SeqCst) {
        number += 1;
        loop {
            let sent = http
                .post(format!("{url}/sale"))
                .header("content-type", "application/json")
                .header("idempotency-key", format!("k-{client}-{number}"))
                .body(SALE);
            let answer = sent.send().await.unwrap();
            let status = answer.status().as_u16();
            if status == 202 {
                let answer: serde_json::Value = answer.json().await.unwrap();
                let id = answer["orderId"].as_str().unwrap().to_owned();
                told.lock().unwrap().push((id, disk.moment()));
                load.accepted.fetch_add(1, Ordering::SeqCst);
                break;
            }
            assert_eq!(status, 503);
            load.refused.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Looks at the newest orders again and again, and notes what it is shown.
async fn reader(url: String, disk: Arc<Disk>, told: Arc<Mutex<Vec<(String, u64)>>>, load: Arc<Load>) {
    let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
    while !load.stop.load(Ordering::SeqCst) {
        let answer = http.get(format!("{url}/v1/orders?limit=20")).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "reading goes on");
        let page: serde_json::Value = answer.json().await.unwrap();
        load.read.fetch_add(1, Ordering::SeqCst);
        let moment = disk.moment();
        let ids = page["items"].as_array().unwrap().iter();
        let seen = ids.map(|order| (order["id"].as_str().unwrap().to_owned(), moment));
        told.lock().unwrap().extend(seen);
    }
}

/// What clients have met.
#[derive(Default)]
struct Load {
    accepted: AtomicUsize,
    refused: AtomicUsize,
    read: AtomicUsize,
    stop: AtomicBool,
}

impl Load {
    /// Waits until a count has grown by `more`.
    async fn grows(&self, count: &AtomicUsize, more: usize) {
        let (deadline, from) = (Instant::now() + PATIENCE, count.load(Ordering::SeqCst));
        while count.load(Ordering::SeqCst) < from + more {
            assert!(Instant::now() < deadline, "nothing happens any more");
            tokio::task::yield_now().await;
        }
    }
}

/// Syncs fail while many orders are on their way. Whatever a client is told or shown is still there after a power cut, and
/// reading goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_that_fail_under_load_lose_nothing_that_was_told_or_shown() {
    let home = TempDir::new().unwrap();
    let disk = Arc::new(Disk::new(home.path()));
    let server = Server::start_with(Home::Lent(home.path().to_owned()), &[], &disk.environment());
    let (told, load) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Load::default()));
    let mut tasks: Vec<_> = (0..16)
        .map(|number| {
            tokio::spawn(client(
                server.url.clone(),
                number,
                disk.clone(),
                told.clone(),
                load.clone(),
            ))
        })
        .collect();
    tasks.push(tokio::spawn(reader(
        server.url.clone(),
        disk.clone(),
        told.clone(),
        load.clone(),
    )));
    for _ in 0..8 {
        load.grows(&load.accepted, 50).await;
        disk.fail(DiskFault::SyncFails, Files::Log);
        load.grows(&load.refused, 20).await;
        load.grows(&load.read, 2).await;
        disk.mend();
    }
    load.grows(&load.accepted, 50).await;
    load.stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    let told = std::mem::take(&mut *told.lock().unwrap());
    let accepted = load.accepted.load(Ordering::SeqCst);
    let deadline = Instant::now() + PATIENCE;
    while !server.get("/v1/orders?limit=1&status=received").1["items"]
        .as_array()
        .unwrap()
        .is_empty()
    {
        assert!(Instant::now() < deadline, "not all become final");
    }
    let (status, _) = server.stop();
    assert!(status.success());
    let report = verify(&home.path().join("comanda-data"), &|_, _| {}).unwrap();
    assert!(report.is_clean(), "{:#?}", report.faults);
    assert_eq!(report.orders, accepted as u64, "each once, under its key");

    let record = disk.record();
    let moments = record.moments();
    let mut random = Random(u64::from(std::process::id()));
    for _ in 0..12 {
        let directory = home.path().join("image");
        let moment = moments[random.below(moments.len() as u64) as usize];
        let before = random.clone();
        record.cut(moment, Syncs::Kept, &mut random, &directory);
        let store = SqliteStore::open(Options::new(&directory)).unwrap();
        for (id, _) in told.iter().filter(|(_, by)| *by <= moment) {
            let found = store.order(id.parse().unwrap()).await.unwrap();
            assert!(
                found.is_some(),
                "{id} was told and is gone after a cut at {moment} with {before:?}"
            );
        }
        store.close().await.unwrap();
        let report = verify(&directory, &|_, _| {}).unwrap();
        assert!(
            report.is_clean(),
            "cut at {moment} with {before:?}: {:#?}",
            report.faults
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

/// The log cannot be copied into the database. Commits need only the log, so orders go on being taken; nothing that the
/// log alone holds is thrown away.
#[tokio::test]
async fn a_failing_copy_of_the_log_loses_nothing() {
    let home = TempDir::new().unwrap();
    let disk = Disk::new(home.path());
    let server = Server::start_with(Home::Lent(home.path().to_owned()), &[], &disk.environment());
    let mut accepted = Vec::new();
    let large = format!(
        r#"{{"type":"purchase","data":{{"customerId":"c","items":[{{"sku":"tea"}}],"note":"{}"}}}}"#,
        "x".repeat(100_000)
    );
    // Enough for the log to be copied several times: it is, from 16 MiB on.
    for number in 0..600 {
        match number {
            100 => disk.fail(DiskFault::SyncFails, Files::Database),
            300 => disk.fail(DiskFault::WriteFails, Files::Database),
            450 => disk.mend(),
            _ => {}
        }
        let (status, answer) = server.post("/v1/orders", &large);
        assert_eq!(status, 202, "{answer}");
        accepted.push(answer["id"].as_str().unwrap().to_owned());
    }
    let moment = disk.moment();
    server.kill();
    let record = disk.record();
    for seed in 0..4 {
        let directory = home.path().join(format!("image-{seed}"));
        record.cut(moment, Syncs::Kept, &mut Random(seed), &directory);
        let store = SqliteStore::open(Options::new(&directory)).unwrap();
        for id in &accepted {
            assert!(
                store.order(id.parse().unwrap()).await.unwrap().is_some(),
                "{id} is gone (seed {seed})"
            );
        }
        store.close().await.unwrap();
        let report = verify(&directory, &|_, _| {}).unwrap();
        assert!(report.is_clean(), "seed {seed}: {:#?}", report.faults);
    }
}
