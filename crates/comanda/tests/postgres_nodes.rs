//! Three nodes on one database, under load: each is killed, one is stopped in its tracks for longer than its heartbeat
//! allows, and the database itself is restarted as by a crash. Afterwards the clients' ledger, the feed and
//! `comanda verify` agree: every acknowledged order once, final, in order within its lane, no event lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

#[path = "../../store-postgres/tests/support/mod.rs"]
mod cluster;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Home, PATIENCE, Server};

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

const NODES: usize = 3;
const CLIENTS: usize = 9;
const LANES: u64 = 10;

/// What the clients know: where the nodes are, what was acknowledged, what must be sent again.
struct Ledger {
    urls: Mutex<Vec<String>>,
    acknowledged: Mutex<BTreeMap<u64, String>>,
    unanswered: Mutex<Vec<u64>>,
    next: AtomicU64,
    stop: AtomicBool,
}

fn submission(number: u64) -> Value {
    if number.is_multiple_of(2) {
        json!({"type": "sale", "data": {"amount": 12.50, "currency": "EUR"}})
    } else {
        json!({"type": "laned", "data": {"ref": number.to_string(), "customer": format!("c-{}", number % LANES)}})
    }
}

/// Submits one order; its id, or nothing if the node did not acknowledge it.
async fn submit(http: &reqwest::Client, url: &str, number: u64) -> Option<String> {
    let sent = http
        .post(format!("{url}/v1/orders"))
        .header("Idempotency-Key", format!("\"k-{number}\""))
        .json(&submission(number))
        .send()
        .await
        .ok()?;
    let status = sent.status();
    let answer: Value = sent.json().await.ok()?;
    if matches!(status.as_u16(), 429 | 503 | 504) {
        return None;
    }
    assert!(status.is_success(), "{status}: {answer}");
    Some(answer["id"].as_str().unwrap().to_owned())
}

async fn client(place: usize, ledger: Arc<Ledger>) {
    let http = reqwest::Client::builder()
        .timeout(Duration::from_secs(5))
        .build()
        .unwrap();
    let mut turn = place;
    while !ledger.stop.load(Ordering::SeqCst) {
        let again = ledger.unanswered.lock().unwrap().pop();
        let number = again.unwrap_or_else(|| ledger.next.fetch_add(1, Ordering::SeqCst));
        // What one node did not answer goes to another.
        turn += 1;
        let url = ledger.urls.lock().unwrap()[turn % NODES].clone();
        match submit(&http, &url, number).await {
            Some(id) => {
                let before = ledger.acknowledged.lock().unwrap().insert(number, id.clone());
                assert!(before.is_none_or(|before| before == id), "key {number} made two orders");
            }
            None => ledger.unanswered.lock().unwrap().push(number),
        }
    }
}

/// Waits until the clients were told of so many more orders.
async fn acknowledged_more(ledger: &Ledger, more: usize) {
    let wanted = ledger.acknowledged.lock().unwrap().len() + more;
    let deadline = Instant::now() + PATIENCE;
    while ledger.acknowledged.lock().unwrap().len() < wanted {
        assert!(Instant::now() < deadline, "the nodes take no more orders");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_nodes_and_database_nothing_acknowledged_is_lost() {
    let database = tokio::task::spawn_blocking(|| cluster::Cluster::start(&[]))
        .await
        .unwrap();
    let address = database.address("postgres");
    let start = |home: Home| Server::start_with(home, &["--store", &address], &[]);
    let mut nodes: Vec<Server> = Vec::new();
    for _ in 0..NODES {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("order-types")).unwrap();
        std::fs::write(home.path().join("order-types/laned.toml"), LANED).unwrap();
        nodes.push(start(Home::Own(home)));
    }
    let ledger = Arc::new(Ledger {
        urls: Mutex::new(nodes.iter().map(|node| node.url.clone()).collect()),
        acknowledged: Mutex::default(),
        unanswered: Mutex::default(),
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|place| tokio::spawn(client(place, ledger.clone())))
        .collect();
    acknowledged_more(&ledger, 60).await;
    for place in 0..NODES {
        let home = nodes.remove(place).kill();
        acknowledged_more(&ledger, 30).await;
        let node = start(home);
        ledger.urls.lock().unwrap()[place] = node.url.clone();
        nodes.insert(place, node);
        acknowledged_more(&ledger, 30).await;
    }
    let database = tokio::task::spawn_blocking(move || {
        database.stop("immediate");
        database.start_again(&[]);
        database
    })
    .await
    .unwrap();
    acknowledged_more(&ledger, 60).await;
    // Stopped, it holds its claims and its connections and says nothing. What it held is done by others.
    nodes[0].signal("STOP");
    acknowledged_more(&ledger, 60).await;
    ledger.stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let http = reqwest::Client::new();
    let unanswered = std::mem::take(&mut *ledger.unanswered.lock().unwrap());
    for number in unanswered {
        let id = submit(&http, &nodes[1].url, number).await.expect("it is taken now");
        ledger.acknowledged.lock().unwrap().insert(number, id);
    }
    let acknowledged = ledger.acknowledged.lock().unwrap().clone();
    for id in acknowledged.values() {
        let order = final_order(&http, &nodes[1 + id.len() % 2].url, id).await;
        assert_eq!(order["final"], true, "{order}");
    }
    nodes[0].signal("CONT");
    for node in nodes {
        check_feed(&http, &node.url, &acknowledged).await;
        node.stop();
    }
    let verified = comanda_store_postgres::Options::new(&address).unwrap();
    let report = comanda_store_postgres::PostgresStore::verify(&verified).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    println!("{} orders, each once, final and in order", acknowledged.len());
    drop(database);
}

async fn json_of(http: &reqwest::Client, url: String) -> Value {
    http.get(url).send().await.unwrap().json().await.unwrap()
}

async fn final_order(http: &reqwest::Client, url: &str, id: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let order = json_of(http, format!("{url}/v1/orders/{id}")).await;
        if order["final"] == true || Instant::now() > deadline {
            return order;
        }
        let version = &order["version"];
        json_of(http, format!("{url}/v1/orders/{id}?wait=5&version={version}")).await;
    }
}

/// What any node's feed tells is what the clients were told.
async fn check_feed(http: &reqwest::Client, url: &str, acknowledged: &BTreeMap<u64, String>) {
    let mut feed: Vec<Value> = Vec::new();
    let mut from = String::new();
    loop {
        let page = json_of(http, format!("{url}/v1/events?limit=500{from}")).await;
        let items = page["items"].as_array().unwrap();
        if items.is_empty() {
            break;
        }
        feed.extend(items.iter().cloned());
        from = format!("&cursor={}", page["nextCursor"].as_str().unwrap());
    }
    let of = |kind: &str, to: &[&str]| -> Vec<String> {
        let told = feed.iter().filter(|event| {
            let status = event["data"]["to"].as_str().unwrap_or_default();
            event["type"] == kind && (to.is_empty() || to.contains(&status))
        });
        told.map(|event| event["subject"].as_str().unwrap().to_owned())
            .collect()
    };
    let accepted = of("comanda.order.accepted", &[]);
    let ended = of("comanda.order.status-changed", &["COMPLETED", "done"]);
    let ids: BTreeSet<&String> = acknowledged.values().collect();
    assert_eq!(ids.len(), acknowledged.len(), "two keys lead to one order");
    for told in [&accepted, &ended] {
        assert_eq!(told.len(), ids.len(), "each order once");
        assert_eq!(told.iter().collect::<BTreeSet<_>>(), ids, "these orders and no others");
    }
    let lane_of: BTreeMap<&String, u64> = acknowledged
        .iter()
        .filter(|(number, _)| !number.is_multiple_of(2))
        .map(|(number, id)| (id, number % LANES))
        .collect();
    let by_lane = |ids: Vec<String>| {
        let mut lanes: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for id in ids {
            if let Some(lane) = lane_of.get(&id) {
                lanes.entry(*lane).or_default().push(id);
            }
        }
        lanes
    };
    let arrivals = by_lane(accepted);
    let worked = by_lane(of("comanda.order.status-changed", &["working"]));
    assert_eq!(arrivals, worked, "each lane in the order of acceptance");
    assert_eq!(arrivals, by_lane(ended));
}
