//! The storefront under load on SQLite, killed at random moments with `kill -9`. Afterwards no unit of stock is made or
//! lost, what has left the stock is what acknowledged orders bought, and who bought is charged once, and nobody else.
//!
//! `LEDGER_SEED` repeats the moments of another run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use support::Server;
use support::random::Random;

const ROUNDS: u64 = 5;
const CLIENTS: usize = 8;
const STOCK: i64 = 100_000;

/// The order of a number: some are declined, so that undo runs too.
fn order(number: u64) -> Value {
    let payment = if number.is_multiple_of(5) { "decline" } else { "card" };
    let products = [("A-1", 1 + number % 3), ("B-1", number % 2)];
    let products: Vec<Value> = products
        .into_iter()
        .filter(|(_, quantity)| *quantity > 0)
        .map(|(sku, quantity)| json!({"sku": sku, "quantity": quantity}))
        .collect();
    json!({"type": "storefront-order", "data": {"userId": "u-1", "products": products, "payment": payment}})
}

/// Submits until the server is gone; keeps what was acknowledged, and hands back what was not answered.
async fn submit(url: String, next: Arc<AtomicU64>, acknowledged: Arc<Mutex<BTreeMap<u64, String>>>) -> u64 {
    let client = Client::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(id) = submit_once(&client, &url, number).await else {
            return number;
        };
        acknowledged.lock().unwrap().insert(number, id);
    }
}

async fn submit_once(client: &Client, url: &str, number: u64) -> Option<String> {
    let request = client
        .post(format!("{url}/v1/orders"))
        .header("idempotency-key", format!("\"order-{number}\""))
        .header("content-type", "application/json")
        .body(order(number).to_string());
    let answer = request.send().await.ok()?;
    let status = answer.status();
    let text = answer.text().await.ok()?;
    assert!(status.is_success(), "{status}: {text}");
    let body: Value = serde_json::from_str(&text).unwrap();
    Some(body["id"].as_str().unwrap().to_owned())
}

async fn get(client: &Client, url: String) -> Value {
    let text = client.get(url).send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_and_money_survive_kills() {
    let seed = std::env::var("LEDGER_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("LEDGER_SEED={seed}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let next = Arc::new(AtomicU64::new(0));
    let acknowledged: Arc<Mutex<BTreeMap<u64, String>>> = Arc::default();
    let mut unanswered = Vec::new();
    for round in 0..ROUNDS {
        let server = Server::start_in(directory.path(), &["--fast-retries"]);
        if round == 0 {
            server.run(&["customers", "register", "u-1", "--name", "Ada"], "").ok();
            for sku in ["A-1", "B-1"] {
                let quantity = STOCK.to_string();
                let receive = [
                    "inventory",
                    "receive",
                    sku,
                    &quantity,
                    "--price",
                    "14.90",
                    "--currency",
                    "EUR",
                ];
                server.run(&receive, "").ok();
            }
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| tokio::spawn(submit(server.url.clone(), next.clone(), acknowledged.clone())))
            .collect();
        // The moment is the point of the test: there is no signal to wait for.
        tokio::time::sleep(Duration::from_millis(100 + random.below(500))).await;
        server.kill();
        for client in clients {
            unanswered.push(client.await.unwrap());
        }
    }
    let server = Server::start_in(directory.path(), &["--fast-retries"]);
    let client = Client::new();
    // Whoever was not answered asks again, under the same key.
    for number in unanswered {
        let id = submit_once(&client, &server.url, number).await.unwrap();
        acknowledged.lock().unwrap().insert(number, id);
    }
    let acknowledged = acknowledged.lock().unwrap().clone();
    println!("{} orders over {ROUNDS} kills", acknowledged.len());
    assert!(acknowledged.len() as u64 > ROUNDS, "the clients got nothing done");
    let mut bought = BTreeMap::from([("A-1", 0), ("B-1", 0)]);
    let mut paid = 0;
    for (number, id) in &acknowledged {
        let found = get(&client, format!("{}/v1/orders/{id}?wait=30", server.url)).await;
        let expected = if number.is_multiple_of(5) {
            "canceled"
        } else {
            "processing"
        };
        assert_eq!(found["status"], expected, "{found}");
        let book = get(&client, format!("{}/v1/sandbox/payments?order={id}", server.url)).await;
        let states: Vec<&str> = book["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|payment| payment["state"].as_str().unwrap())
            .collect();
        if expected == "processing" {
            assert_eq!(states, ["captured"], "{id}");
            paid += 1;
            for line in order(*number)["data"]["products"].as_array().unwrap() {
                *bought.get_mut(line["sku"].as_str().unwrap()).unwrap() += line["quantity"].as_i64().unwrap();
            }
        } else {
            let stands = |state: &&str| ["authorized", "captured"].contains(state);
            assert!(!states.iter().any(stands), "{id}: {states:?}");
        }
    }
    assert!(paid > 0);
    for (sku, quantity) in bought {
        let stock = get(&client, format!("{}/v1/inventory/{sku}", server.url)).await;
        let (on_hand, held, shipped) = (&stock["onHand"], &stock["held"], &stock["shipped"]);
        assert_eq!(stock["received"], json!(STOCK), "{stock}");
        assert_eq!((held, shipped), (&json!(0), &json!(quantity)), "{stock}");
        assert_eq!(on_hand, &json!(STOCK - quantity), "{stock}");
    }
    server.stop();
    let data = directory.path().join("comanda-data");
    let verified = support::run(directory.path(), &["verify", "--data", data.to_str().unwrap()], "");
    assert_eq!(verified.code, 0, "{verified:?}");
}
