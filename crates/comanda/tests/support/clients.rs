//! Clients that submit orders to one or more servers while these are broken, and their ledger: what they were told.
//! Afterwards the servers' feed must say the same: each acknowledged order once, final, and in order within its lane.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::PATIENCE;

/// A type whose orders stand in the lanes of their customers.
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

const LANES: u64 = 20;

/// Puts the type where a server that is started in this directory finds it.
pub fn add_type(directory: &Path) {
    let types = directory.join("order-types");
    std::fs::create_dir(&types).unwrap();
    std::fs::write(types.join("laned.toml"), LANED).unwrap();
}

/// What is submitted under a number, which is also its key: every third order stands in a lane.
fn submission(number: u64) -> Value {
    match number % 3 {
        0 => json!({"type": "sale", "data": {"amount": 12.50, "currency": "EUR"}, "key": key(number)}),
        1 => json!({"type": "purchase", "data": {"customerId": "c", "items": [{"sku": "tea"}]}}),
        _ => json!({"type": "laned", "data": {"ref": key(number), "customer": format!("c-{}", number % LANES)}}),
    }
}

fn key(number: u64) -> String {
    format!("k-{number}")
}

/// What the clients know: where the servers are, what was acknowledged, what must be sent again.
pub struct Ledger {
    urls: Mutex<Vec<String>>,
    acknowledged: Mutex<BTreeMap<u64, String>>,
    /// How many were acknowledged: told whenever there is one more.
    count: watch::Sender<usize>,
    /// Submissions whose answer never came: they are sent again, under the same key.
    unanswered: Mutex<Vec<u64>>,
    next: AtomicU64,
    stop: AtomicBool,
}

impl Ledger {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            urls: Mutex::default(),
            acknowledged: Mutex::default(),
            count: watch::Sender::new(0),
            unanswered: Mutex::default(),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        })
    }

    /// Says where the servers are.
    pub fn set_urls(&self, urls: Vec<String>) {
        *self.urls.lock().unwrap() = urls;
    }

    /// Says where one of them is now.
    pub fn set_url(&self, place: usize, url: &str) {
        url.clone_into(&mut self.urls.lock().unwrap()[place]);
    }

    /// Starts so many clients; they submit until they are stopped.
    pub fn start(self: &Arc<Self>, clients: usize) -> Vec<JoinHandle<()>> {
        self.stop.store(false, Ordering::SeqCst);
        (0..clients)
            .map(|place| tokio::spawn(self.clone().submit_on(place)))
            .collect()
    }

    /// Has the clients end what they are at.
    pub async fn stop(&self, clients: Vec<JoinHandle<()>>) {
        self.stop.store(true, Ordering::SeqCst);
        for client in clients {
            client.await.unwrap();
        }
    }

    async fn submit_on(self: Arc<Self>, place: usize) {
        let http = Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
        let mut turn = place;
        while !self.stop.load(Ordering::SeqCst) {
            let again = self.unanswered.lock().unwrap().pop();
            let number = again.unwrap_or_else(|| self.next.fetch_add(1, Ordering::SeqCst));
            // What one server did not answer goes to another.
            turn += 1;
            let url = {
                let urls = self.urls.lock().unwrap();
                urls[turn % urls.len()].clone()
            };
            match submit(&http, &url, number).await {
                Some(id) => self.acknowledge(number, id),
                None => self.unanswered.lock().unwrap().push(number),
            }
        }
    }

    fn acknowledge(&self, number: u64, id: String) {
        let mut acknowledged = self.acknowledged.lock().unwrap();
        let before = acknowledged.insert(number, id.clone());
        assert!(before.is_none_or(|before| before == id), "key {number} made two orders");
        self.count.send_replace(acknowledged.len());
    }

    /// Waits until the clients were told of so many more orders.
    pub async fn acknowledged_more(&self, more: usize) {
        let mut count = self.count.subscribe();
        let wanted = *count.borrow_and_update() + more;
        tokio::time::timeout(PATIENCE, count.wait_for(|count| *count >= wanted))
            .await
            .expect("the servers take more orders")
            .unwrap();
    }

    /// Sends what was never answered again, waits until every order is final, and answers all that was acknowledged.
    pub async fn settle(&self, url: &str) -> BTreeMap<u64, String> {
        let http = Client::new();
        let unanswered = std::mem::take(&mut *self.unanswered.lock().unwrap());
        for number in unanswered {
            let id = submit(&http, url, number).await.expect("it is taken now");
            self.acknowledge(number, id);
        }
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        for id in acknowledged.values() {
            wait_until_final(&http, url, id).await;
        }
        acknowledged
    }
}

/// Submits one order; its id, or nothing if the server did not acknowledge it.
async fn submit(http: &Client, url: &str, number: u64) -> Option<String> {
    let sent = http
        .post(format!("{url}/v1/orders"))
        .header("Idempotency-Key", format!("\"{}\"", key(number)))
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

async fn json_of(http: &Client, url: String) -> Value {
    http.get(url).send().await.unwrap().json().await.unwrap()
}

async fn wait_until_final(http: &Client, url: &str, id: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let order = json_of(http, format!("{url}/v1/orders/{id}")).await;
        if order["final"] == true {
            return;
        }
        assert!(Instant::now() < deadline, "not final: {order}");
        let version = &order["version"];
        json_of(http, format!("{url}/v1/orders/{id}?wait=5&version={version}")).await;
    }
}

/// What a server's feed tells is what the clients were told.
pub async fn check_feed(url: &str, acknowledged: &BTreeMap<u64, String>) {
    let http = Client::new();
    let mut feed: Vec<Value> = Vec::new();
    let mut from = String::new();
    loop {
        let page = json_of(&http, format!("{url}/v1/events?limit=500{from}")).await;
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
        assert_eq!(
            told.iter().collect::<BTreeSet<_>>(),
            ids,
            "accepted and acknowledged are the same orders"
        );
    }
    let lane_of: BTreeMap<&String, u64> = acknowledged
        .iter()
        .filter(|(number, _)| *number % 3 == 2)
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
    assert_eq!(arrivals, by_lane(ended), "each lane in the order of acceptance");
}
