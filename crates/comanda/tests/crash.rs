//! The real server under load, killed at random moments with `kill -9`, again and again. Afterwards the clients' own
//! ledger and `comanda verify` must agree: every acknowledged order is there, once, and final; lanes were worked in the
//! order of acceptance; no key made two orders.
//!
//! `CRASH_ROUNDS` sets the number of kills (10); `CRASH_SEED` repeats the moments of another run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::Server;
use support::random::Random;

const LANED: &str = r#"
name = "laned"
initial = "received"
key = "/ref"
fifo = { key = "/customer" }
[schema]
type = "object"
required = ["ref", "customer"]
[statuses.received]
steps = ["first"]
next = "working"
[statuses.working]
steps = ["second"]
next = "done"
[statuses.done]
final = true
[steps.first]
use = "noop"
[steps.second]
use = "noop"
"#;

const CLIENTS: u64 = 12;
const LANES: u64 = 20;

/// What the clients were told.
#[derive(Default)]
struct Ledger {
    /// The key of each submission, and the order that it was acknowledged as.
    acknowledged: Mutex<BTreeMap<String, String>>,
    /// Submissions whose answer never came: they are sent again, under the same key.
    unanswered: Mutex<Vec<(String, Value)>>,
    next: AtomicU64,
}

impl Ledger {
    fn take(&self) -> (String, Value) {
        if let Some(again) = self.unanswered.lock().unwrap().pop() {
            return again;
        }
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let key = format!("k-{number}");
        let body = match number % 3 {
            0 => json!({"type": "sale", "data": {"amount": 12.50, "currency": "EUR"}, "key": key}),
            1 => json!({"type": "purchase", "data": {"customerId": "c", "items": [{"sku": "tea"}]}}),
            _ => json!({"type": "laned", "data": {"ref": key, "customer": format!("c-{}", number % LANES)}}),
        };
        (key, body)
    }
}

async fn client(url: String, ledger: Arc<Ledger>, stop: Arc<AtomicBool>) {
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(10))
        .build()
        .unwrap();
    while !stop.load(Ordering::SeqCst) {
        let (key, body) = ledger.take();
        let sent = http
            .post(format!("{url}/v1/orders"))
            .header("Idempotency-Key", &key)
            .json(&body)
            .send()
            .await;
        let answered = match sent {
            Ok(response) => {
                let status = response.status();
                let body = response.json::<Value>().await.ok();
                body.map(|body| (status, body))
            }
            Err(_) => None,
        };
        match answered {
            Some((status, answer)) if status.is_success() => {
                let id = answer["id"].as_str().unwrap().to_owned();
                let before = ledger.acknowledged.lock().unwrap().insert(key.clone(), id.clone());
                assert!(before.is_none_or(|before| before == id), "{key} made two orders");
            }
            Some((status, _)) if status.as_u16() == 503 || status.as_u16() == 429 => {
                ledger.unanswered.lock().unwrap().push((key, body));
            }
            Some((status, answer)) => panic!("{status}: {answer}"),
            None => {
                ledger.unanswered.lock().unwrap().push((key, body));
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_moments_nothing_acknowledged_is_lost() {
    let number = |name: &str, default: u64| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let rounds = number("CRASH_ROUNDS", 10);
    let seed = number("CRASH_SEED", u64::from(std::process::id()));
    println!("CRASH_SEED={seed}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let types = directory.path().join("order-types");
    std::fs::create_dir(&types).unwrap();
    std::fs::write(types.join("laned.toml"), LANED).unwrap();
    let ledger = Arc::new(Ledger::default());
    for _ in 0..rounds {
        let server = start(directory.path());
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(client(server.url.clone(), ledger.clone(), stop.clone())))
            .collect();
        // The moment is the point of the test: there is no signal to wait for.
        tokio::time::sleep(Duration::from_millis(50 + random.below(500))).await;
        server.kill();
        stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.await.unwrap();
        }
    }
    let server = start(directory.path());
    let http = reqwest::Client::new();
    // What was never answered is sent again, and must be one order with what may have arrived then.
    let unanswered = std::mem::take(&mut *ledger.unanswered.lock().unwrap());
    for (key, body) in unanswered {
        let sent = http
            .post(format!("{}/v1/orders", server.url))
            .header("Idempotency-Key", &key)
            .json(&body)
            .send();
        let answer: Value = sent.await.unwrap().error_for_status().unwrap().json().await.unwrap();
        ledger
            .acknowledged
            .lock()
            .unwrap()
            .insert(key, answer["id"].as_str().unwrap().to_owned());
    }
    let acknowledged = ledger.acknowledged.lock().unwrap().clone();
    println!("{} orders acknowledged over {rounds} kills", acknowledged.len());
    assert!(acknowledged.len() as u64 > rounds, "the clients got nothing done");
    let ids: BTreeSet<&String> = acknowledged.values().collect();
    assert_eq!(ids.len(), acknowledged.len(), "two keys lead to one order");

    // Every order is final: the feed tells, and long polls wait for the stragglers.
    for id in acknowledged.values() {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let order: Value = http
                .get(format!("{}/v1/orders/{id}", server.url))
                .send()
                .await
                .unwrap()
                .json()
                .await
                .unwrap();
            if order["final"] == true {
                break;
            }
            assert!(Instant::now() < deadline, "not final: {order}");
            let version = &order["version"];
            let poll = format!("{}/v1/orders/{id}?wait=5&version={version}", server.url);
            http.get(poll).send().await.unwrap();
        }
    }

    // No order is there that nobody was told of, and each has each of its events once.
    let feed = feed(&http, &server.url).await;
    let mut accepted: BTreeMap<String, usize> = BTreeMap::new();
    let mut finals: BTreeMap<String, usize> = BTreeMap::new();
    for event in &feed {
        let order = event["subject"].as_str().unwrap().to_owned();
        match (event["type"].as_str().unwrap(), event["data"]["to"].as_str()) {
            ("comanda.order.accepted", _) => *accepted.entry(order).or_default() += 1,
            ("comanda.order.status-changed", Some("COMPLETED" | "done")) => *finals.entry(order).or_default() += 1,
            _ => {}
        }
    }
    assert!(accepted.values().all(|count| *count == 1) && finals.values().all(|count| *count == 1));
    assert_eq!(
        accepted.keys().collect::<BTreeSet<_>>(),
        ids,
        "accepted and acknowledged are the same orders"
    );
    assert_eq!(finals.keys().collect::<BTreeSet<_>>(), ids);

    // In each lane, work began and ended in the order of acceptance.
    let mut lane_of = BTreeMap::new();
    for (key, id) in &acknowledged {
        let number: u64 = key[2..].parse().unwrap();
        if number % 3 == 2 {
            lane_of.insert(id.clone(), number % LANES);
        }
    }
    let sequence = |kind: &str, to: Option<&str>| {
        let mut lanes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for event in &feed {
            let id = event["subject"].as_str().unwrap();
            let matches = event["type"] == kind && to.is_none_or(|to| event["data"]["to"] == to);
            if let (true, Some(lane)) = (matches, lane_of.get(id)) {
                lanes.entry(*lane).or_default().push(id.to_owned());
            }
        }
        lanes
    };
    let arrivals = sequence("comanda.order.accepted", None);
    assert_eq!(arrivals, sequence("comanda.order.status-changed", Some("working")));
    assert_eq!(arrivals, sequence("comanda.order.status-changed", Some("done")));

    server.stop();
    let verified = support::command(directory.path())
        .args(["verify", "--data"])
        .arg(directory.path().join("comanda-data"))
        .output()
        .unwrap();
    assert!(
        verified.status.success(),
        "{}",
        String::from_utf8_lossy(&verified.stderr)
    );
}

fn start(directory: &Path) -> Server {
    Server::start_in(directory, &[])
}

async fn feed(http: &reqwest::Client, url: &str) -> Vec<Value> {
    let mut events = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let at = cursor
            .as_ref()
            .map(|cursor| format!("&cursor={cursor}"))
            .unwrap_or_default();
        let page: Value = http
            .get(format!("{url}/v1/events?limit=500{at}"))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let items = page["items"].as_array().unwrap();
        if items.is_empty() {
            return events;
        }
        events.extend(items.iter().cloned());
        cursor = Some(page["nextCursor"].as_str().unwrap().to_owned());
    }
}
