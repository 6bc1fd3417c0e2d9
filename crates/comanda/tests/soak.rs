//! The real server runs the storefront's orders against real HTTP services of which one call in ten fails, in every way in
//! which a call can. No order is stuck: each that was acknowledged becomes final, if need be by way of the dead letters and a
//! redrive. Afterwards stock and the services' books say what the orders say: of a delivered order each effect stands once, of a
//! canceled one nothing does.
//!
//! `SOAK_SECONDS` sets how long clients submit (3); `SOAK_SEED` repeats the services' luck of another run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde_json::{Value, json};
use support::Server;
use support::services::Services;

/// Clients, each with one order at a time.
const CLIENTS: usize = 12;
/// No client submits more often, so that a long run leaves room for others on its machine.
const PAUSE: Duration = Duration::from_millis(150);
/// Longer than an order needs whose every call fails as often as it may: its retries wait 75 s together.
const ORDER_TIME_MAX: Duration = Duration::from_secs(240);
const STOCK: i64 = 1_000_000;

/// An order as it came to rest.
struct Told {
    id: String,
    status: String,
    is_parked: bool,
    took: Duration,
}

fn order(number: u64) -> Value {
    let payment = if number.is_multiple_of(10) { "decline" } else { "card" };
    json!({"type": "storefront-order", "data": {
        "userId": "u-1", "products": [{"sku": "A-1", "quantity": 1 + number % 3}], "payment": payment}})
}

async fn asked(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

/// Waits until nothing more happens to an order by itself: it is final, parked, or waits to be delivered.
async fn at_rest(client: &Client, url: &str, id: &str) -> Value {
    let began = Instant::now();
    let mut version = 0;
    loop {
        let asking = client.get(format!("{url}/v1/orders/{id}?wait=20&version={version}"));
        let (_, order) = asked(asking).await;
        let waits = order["status"] == "processing" && order["work"]["state"] == "waiting";
        if order["final"] == true || order["work"]["state"] == "parked" || waits {
            return order;
        }
        assert!(began.elapsed() < ORDER_TIME_MAX, "an order is stuck: {order}");
        version = order["version"].as_u64().unwrap_or(0);
    }
}

/// Sees an order to its end: one that has been shipped is delivered.
async fn to_its_end(client: &Client, url: &str, id: &str) -> Value {
    loop {
        let order = at_rest(client, url, id).await;
        if order["final"] == true || order["work"]["state"] == "parked" {
            return order;
        }
        let delivered = json!({"to": "delivered", "data": {"shipping": {"carrier": "Pigeon", "trackingNumber": "1"}}});
        let moving = client.post(format!("{url}/v1/orders/{id}/transition")).json(&delivered);
        let (status, answer) = asked(moving).await;
        // Someone's cancel may have been quicker.
        assert!(status == 200 || status == 409, "{status}: {answer}");
    }
}

/// Submits one order after another, each when the one before has come to its end.
async fn submit_until(url: String, next: Arc<AtomicU64>, end: Instant) -> Vec<Told> {
    let client = Client::new();
    let mut told = Vec::new();
    let mut pace = tokio::time::interval(PAUSE);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while Instant::now() < end {
        pace.tick().await;
        let number = next.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let (status, accepted) = asked(client.post(format!("{url}/v1/orders")).json(&order(number))).await;
        assert_eq!(status, 202, "{accepted}");
        let id = accepted["id"].as_str().unwrap().to_owned();
        if number % 9 == 1 {
            let cancel = client.post(format!("{url}/v1/orders/{id}/cancel")).json(&json!({}));
            let (status, answer) = asked(cancel).await;
            assert!(status < 300 || status == 409, "{status}: {answer}");
        }
        let ended = to_its_end(&client, &url, &id).await;
        told.push(Told {
            id,
            status: ended["status"].as_str().unwrap().to_owned(),
            is_parked: ended["final"] != true,
            took: began.elapsed(),
        });
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_in_ten_fails_and_no_order_is_stuck() {
    let number = |name: &str, default: u64| {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let lasts = Duration::from_secs(number("SOAK_SECONDS", 3));
    let seed = number("SOAK_SEED", u64::from(std::process::id()));
    println!("SOAK_SEED={seed}");
    let services = Services::start(seed).await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("comanda.toml"), services.settings()).unwrap();
    let server = Server::start_in(directory.path(), &[]);
    let received = json!({"quantity": STOCK, "price": "14.90", "currency": "EUR"});
    let (status, stock) = server.post("/v1/inventory/A-1/receive", &received.to_string());
    assert!(status < 300, "{stock}");

    let began = Instant::now();
    let next = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(submit_until(server.url.clone(), next.clone(), began + lasts)))
        .collect();
    let mut orders = Vec::new();
    for client in clients {
        orders.extend(client.await.unwrap());
    }
    let took = began.elapsed();

    // What was exhausted stands among the dead letters, and goes on once someone puts it back to work.
    let client = Client::new();
    let parked: Vec<String> = orders
        .iter()
        .filter(|told| told.is_parked)
        .map(|told| told.id.clone())
        .collect();
    for _ in 0..20 {
        let (_, dead) = asked(client.get(format!("{}/v1/dead-letters", server.url))).await;
        let dead = dead["items"].as_array().unwrap().len();
        if dead == 0 {
            break;
        }
        let redrive = json!({"filter": {"orderIds": parked}, "from": "failedStep"});
        asked(
            client
                .post(format!("{}/v1/dead-letters/redrive", server.url))
                .json(&redrive),
        )
        .await;
        for told in orders.iter_mut().filter(|told| told.is_parked) {
            let ended = to_its_end(&client, &server.url, &told.id).await;
            told.status = ended["status"].as_str().unwrap().to_owned();
            told.is_parked = ended["final"] != true;
        }
    }

    let books = services.books.lock().unwrap();
    let standing = ["payments", "shipments"].map(|book| (book, books.standing(book)));
    let mut shipped = 0;
    let mut statuses: BTreeMap<&str, u64> = BTreeMap::new();
    for told in &orders {
        assert!(!told.is_parked, "{} is still a dead letter", told.id);
        let wanted = match told.status.as_str() {
            "delivered" => 1,
            "canceled" => 0,
            other => panic!("{} is {other}", told.id),
        };
        for (book, standing) in &standing {
            let stands = standing.get(&told.id).copied().unwrap_or(0);
            assert_eq!(stands, wanted, "{book}: {} is {}", told.id, told.status);
        }
        *statuses.entry(&told.status).or_default() += 1;
    }
    let delivered = statuses.get("delivered").copied().unwrap_or(0);
    for (book, standing) in &standing {
        assert_eq!(
            standing.len() as u64,
            delivered,
            "{book}: something stands of an order that nobody was told of"
        );
    }
    assert!(
        books.entries.values().all(|entry| entry.captures <= 1),
        "a payment was taken twice"
    );
    for told in orders.iter().filter(|told| told.status == "delivered") {
        let (_, order) = server.get(&format!("/v1/orders/{}", told.id));
        shipped += order["data"]["products"][0]["quantity"].as_i64().unwrap();
    }
    let (_, stock) = server.get("/v1/inventory/A-1");
    let counted = json!([stock["received"], stock["onHand"], stock["held"], stock["shipped"]]);
    assert_eq!(counted, json!([STOCK, STOCK - shipped, 0, shipped]), "{stock}");
    let mut lives: Vec<Duration> = orders.iter().map(|told| told.took).collect();
    lives.sort();
    println!(
        "{} orders in {:.0} s: {statuses:?}, {} by way of the dead letters; {} calls, {} of them failed; an order took {:?} at the \
         median, {:?} at the 99th percentile, {:?} at most",
        orders.len(),
        took.as_secs_f64(),
        parked.len(),
        books.calls,
        books.failed,
        lives[lives.len() / 2],
        lives[lives.len() * 99 / 100],
        lives[lives.len() - 1]
    );
    assert!(books.failed > 0 && statuses.len() == 2, "nothing was tried");
    server.stop();
    let data = directory.path().join("comanda-data");
    let verified = support::run(directory.path(), &["verify", "--data", data.to_str().unwrap()], "");
    assert_eq!(verified.code, 0, "{verified:?}");
}
