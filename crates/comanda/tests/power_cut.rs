//! Power cuts under the real server. While it takes orders and works them, every change to its files is written down,
//! with the syncs. Then, for many moments, a disk is made up as a power cut at that moment could have left it: what was
//! synced is there; each later write is kept, dropped, or torn between sectors. On every such disk the store must be
//! whole, and hold what the clients had been told by then.
//!
//! `CUT_IMAGES` sets the number of cuts (24), `CUT_SECONDS` for how long there is load (2), `CUT_SEED` repeats a choice
//! of moments and losses on the next recording.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]
#![cfg(target_os = "linux")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use comanda_model::{EventKind, OrderId, Phase};
use comanda_store::{FeedStart, Store};
use comanda_store_sqlite::{Options, SqliteStore, verify};
use serde_json::{Value, json};
use support::disk::{Disk, DiskFault, Files, Record, Syncs};
use support::random::Random;
use support::{Home, PATIENCE, Server};
use tempfile::TempDir;

const CLIENTS: usize = 12;

/// What a client was told about an order, and where the disk's record stood when it had been told.
struct Told {
    id: OrderId,
    by: u64,
    is_final: bool,
}

/// Sends orders until it is stopped or the server is gone. Each third order is large, so that the log is copied into
/// the database and begun anew while the load goes on.
async fn client(url: String, number: usize, disk: Arc<Disk>, told: Arc<Mutex<Vec<Told>>>, stop: Arc<AtomicBool>) {
    let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
    let mut sent = 0;
    while !stop.load(Ordering::SeqCst) {
        sent += 1;
        let note = "x".repeat(if sent % 3 == 0 { 60_000 } else { 100 });
        let body = json!({"type": "purchase", "data": {"customerId": format!("c-{number}"), "items": [{"sku": "tea"}], "note": note}});
        // Half of them wait until the order is final: then that is what must survive.
        let wait = if number.is_multiple_of(2) {
            "wait=5"
        } else {
            "respond-async"
        };
        let answer = http
            .post(format!("{url}/v1/orders"))
            .header("prefer", wait)
            .json(&body)
            .send()
            .await;
        let Ok(answer) = answer else { return };
        let status = answer.status();
        let Ok(answer) = answer.json::<Value>().await else {
            return;
        };
        if status.as_u16() == 503 {
            // It is stopping.
            return;
        }
        assert!(status.is_success(), "{status}: {answer}");
        let by = disk.moment();
        told.lock().unwrap().push(Told {
            id: answer["id"].as_str().unwrap().parse().unwrap(),
            by,
            is_final: answer["final"] == true,
        });
    }
}

/// Looks at the newest orders again and again: what it is shown must survive like what a client is told.
async fn reader(url: String, disk: Arc<Disk>, told: Arc<Mutex<Vec<Told>>>, stop: Arc<AtomicBool>) {
    let http = reqwest::Client::builder().timeout(PATIENCE).build().unwrap();
    while !stop.load(Ordering::SeqCst) {
        let Ok(answer) = http.get(format!("{url}/v1/orders?limit=20")).send().await else {
            return;
        };
        let Ok(page) = answer.json::<Value>().await else { return };
        let by = disk.moment();
        let Some(orders) = page["items"].as_array() else { return };
        told.lock().unwrap().extend(orders.iter().map(|order| Told {
            id: order["id"].as_str().unwrap().parse().unwrap(),
            by,
            is_final: order["final"] == true,
        }));
    }
}

/// Runs the server three times on one directory, under load: killed, stopped in order, and killed again.
///
/// What a killed server's successor says of its orders is told, too: it found them in the memory of the kernel, which a
/// power cut takes. Answers also these moments.
async fn record(home: &Path, seconds: u64) -> (Record, Vec<Told>, Vec<u64>) {
    let disk = Arc::new(Disk::new(home));
    let told = Arc::new(Mutex::new(Vec::new()));
    let mut starts = Vec::new();
    for round in 0..3 {
        let server = Server::start_with(Home::Lent(home.to_owned()), &[], &disk.environment());
        let (_, page) = server.get("/v1/orders?limit=500");
        let by = disk.moment();
        starts.push(by);
        told.lock()
            .unwrap()
            .extend(page["items"].as_array().unwrap().iter().map(|order| Told {
                id: order["id"].as_str().unwrap().parse().unwrap(),
                by,
                is_final: order["final"] == true,
            }));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = reader(server.url.clone(), disk.clone(), told.clone(), stop.clone());
        let reader = tokio::spawn(reader);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                tokio::spawn(client(
                    server.url.clone(),
                    number,
                    disk.clone(),
                    told.clone(),
                    stop.clone(),
                ))
            })
            .collect();
        // How long there is load; nothing is waited for.
        tokio::time::sleep(Duration::from_millis(seconds * 1000 / 3)).await;
        if round == 1 {
            stop.store(true, Ordering::SeqCst);
            assert!(server.stop().0.success());
        } else {
            server.kill();
            stop.store(true, Ordering::SeqCst);
        }
        for client in clients {
            client.await.unwrap();
        }
        reader.await.unwrap();
    }
    let told = Arc::into_inner(told).unwrap().into_inner().unwrap();
    (disk.record(), told, starts)
}

/// Whether the store on this disk is whole and holds what was told by `moment`. Answers why not.
async fn judge(directory: &Path, moment: u64, told: &[Told]) -> Result<usize, String> {
    if directory.join("comanda.db").exists() && std::fs::metadata(directory.join("comanda.db")).unwrap().len() > 0 {
        let store = SqliteStore::open(options(directory)).map_err(|error| format!("it does not open: {error}"))?;
        store.close().await.map_err(|error| error.to_string())?;
        let report = verify(directory, &|_, _| {}).map_err(|error| format!("it cannot be verified: {error}"))?;
        if !report.is_clean() {
            return Err(format!("{:#?}", report.faults));
        }
    }
    let store = SqliteStore::open(options(directory)).map_err(|error| format!("it does not open: {error}"))?;
    let owed: BTreeMap<OrderId, bool> =
        told.iter()
            .filter(|told| told.by <= moment)
            .fold(BTreeMap::new(), |mut owed, told| {
                *owed.entry(told.id).or_insert(false) |= told.is_final;
                owed
            });
    for (id, is_final) in &owed {
        let stored = store.order(*id).await.map_err(|error| error.to_string())?;
        let stored = stored.ok_or(format!("{id} was accepted and is gone"))?;
        if *is_final && stored.order.head.phase != Phase::Final {
            return Err(format!("{id} was final and is {:?}", stored.order.head.phase));
        }
    }
    let mut accepted = BTreeSet::new();
    let mut start = FeedStart::Oldest;
    loop {
        let page = store.feed(start, 1000).await.map_err(|error| error.to_string())?;
        if page.events.is_empty() {
            break;
        }
        for event in &page.events {
            if event.event.kind == EventKind::Accepted && !accepted.insert(event.order) {
                return Err(format!("{} was accepted twice", event.order));
            }
        }
        start = FeedStart::After(page.next);
    }
    if let Some(missing) = owed.keys().find(|id| !accepted.contains(id)) {
        return Err(format!("{missing} is not in the feed"));
    }
    store.close().await.map_err(|error| error.to_string())?;
    Ok(owed.len())
}

fn options(directory: &Path) -> Options {
    Options {
        readers: 2,
        ..Options::new(directory)
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_whatever_a_power_cut_takes() {
    let images = number("CUT_IMAGES", 24);
    let seed = number("CUT_SEED", u64::from(std::process::id()));
    println!("CUT_SEED={seed}");
    let mut random = Random(seed);
    let home = TempDir::new().unwrap();
    let (record, told, starts) = record(home.path(), number("CUT_SECONDS", 2)).await;
    let moments = record.moments();
    println!(
        "{} orders acknowledged, {} changes written down, syncs of log and database {:?}",
        told.len(),
        moments.len(),
        record.syncs()
    );
    assert!(told.len() > 20, "the clients got nothing done");
    assert!(
        record.syncs().0 > 20 && record.syncs().1 > 2,
        "too little was synced to tell anything"
    );

    let mut owed = 0;
    for image in 0..images {
        // Each start several times, as little may be lost there, or much.
        let moment = match starts.get(image as usize / 3) {
            Some(start) => *start,
            None => moments[random.below(moments.len() as u64) as usize],
        };
        let before = random.clone();
        let directory = home.path().join("image");
        record.cut(moment, Syncs::Kept, &mut random, &directory);
        match judge(&directory, moment, &told).await {
            Ok(count) => owed += count,
            Err(fault) => {
                let kept = home.keep();
                panic!(
                    "image {image}, cut at {moment} with {before:?}, kept in {}: {fault}",
                    kept.display()
                );
            }
        }
        if image + 1 < images {
            std::fs::remove_dir_all(&directory).unwrap();
        }
    }
    assert!(owed > 0, "no cut came after an order");

    // The last of them is put back to work: everything that survived comes to its end.
    std::fs::create_dir(home.path().join("again")).unwrap();
    std::fs::rename(home.path().join("image"), home.path().join("again/comanda-data")).unwrap();
    let server = Server::start_in(&home.path().join("again"), &[]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, page) = server.get("/v1/orders?status=RECEIVED&limit=1");
        let (_, working) = server.get("/v1/orders?status=PROCESSING&limit=1");
        assert_eq!(status, 200);
        if page["items"].as_array().unwrap().is_empty() && working["items"].as_array().unwrap().is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "not final: {page} {working}");
    }
    assert!(server.stop().0.success());
    let report = verify(&home.path().join("again/comanda-data"), &|_, _| {}).unwrap();
    assert!(report.is_clean(), "{:#?}", report.faults);

    // It bites: on a disk that lies about syncing the log, the same cuts lose orders, and that is noticed.
    let mut noticed = 0;
    for _ in 0..10 {
        let directory = home.path().join("lying");
        let moment = moments[random.below(moments.len() as u64) as usize];
        record.cut(moment, Syncs::LogIgnored, &mut random, &directory);
        noticed += usize::from(judge(&directory, moment, &told).await.is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
    assert!(noticed > 0, "ten disks that lie were taken for honest ones");
}

/// The log is synced when the store is opened, before the server writes anything of its own to it; and what is told from then
/// on survives every cut.
#[tokio::test]
async fn what_a_killed_server_had_not_synced_is_synced_before_it_is_told() {
    let home = TempDir::new().unwrap();
    let disk = Disk::new(home.path());
    let start = || Server::start_with(Home::Lent(home.path().to_owned()), &[], &disk.environment());
    // Nothing is due when the next server starts, so that it has nothing of its own to write.
    let order = r#"{"type":"sale","key":"A-1","data":{"amount":1,"currency":"EUR"},"dueAt":"2999-01-01T00:00:00Z"}"#;
    let deadline = Instant::now() + PATIENCE;
    let (server, page, opened) = loop {
        let mut server = start();
        disk.fail(DiskFault::KillsAtSync, Files::Log);
        let url = format!("{}/v1/orders", server.url);
        let sent = reqwest::Client::new()
            .post(url)
            .header("content-type", "application/json")
            .body(order);
        assert!(sent.send().await.is_err(), "it was killed before it could answer");
        server.child.wait().unwrap();
        disk.mend();
        disk.forget_torn_record();
        let opened = disk.moment();
        let server = start();
        let (status, page) = server.get("/v1/orders");
        assert_eq!(status, 200);
        if page["items"].as_array().unwrap().len() == 1 {
            break (server, page, opened);
        }
        // It died of a sync of its own, such as the audit's of the order types that a server starts with.
        server.kill();
        disk.forget_torn_record();
        assert!(Instant::now() < deadline, "the kernel never had it still: {page}");
    };
    let items = page["items"].as_array().unwrap();
    let moment = disk.moment();
    let told = [Told {
        id: items[0]["id"].as_str().unwrap().parse().unwrap(),
        by: moment,
        is_final: false,
    }];
    server.kill();
    let record = disk.record();
    assert!(
        record.log_is_synced_first(opened),
        "the log was not synced before it was written to"
    );
    for seed in 0..20 {
        let directory = home.path().join(format!("image-{seed}"));
        record.cut(moment, Syncs::Kept, &mut Random(seed), &directory);
        judge(&directory, moment, &told).await.unwrap();
    }
}
