//! Ten thousand dead letters of the embedded store go back to work, and each lane keeps its order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::{Home, Server};
use tempfile::TempDir;

const ORDERS: usize = 10_000;
const LANES: usize = 50;
const PER_BATCH: usize = 1_000;

/// Its only step fails once; dead letters leave the lane, so that all of it dies.
const LANED: &str = r#"
name = "laned"
initial = "open"
fifo = { key = "/lane", scope = "life", dead_letter = "leave" }
[statuses.open]
steps = ["work"]
next = "done"
[statuses.done]
final = true
[steps.work]
use = "noop"
retry = { attempts = 1 }
"#;

/// Waits until nothing more happens to the last order of each lane by itself, and answers their statuses.
fn at_rest(server: &Server, lanes: &BTreeMap<usize, Vec<String>>) -> Vec<Value> {
    let last = lanes.values().map(|ids| ids.last().unwrap());
    last.map(|id| {
        loop {
            let (status, order) = server.get(&format!("/v1/orders/{id}?wait=30"));
            assert_eq!(status, 200);
            let work = &order["work"]["state"];
            if order["final"] == true || work == "parked" {
                return order;
            }
        }
    })
    .collect()
}

#[test]
fn ten_thousand_dead_letters_keep_the_order_of_their_lanes() {
    let home = TempDir::new().unwrap();
    let types = home.path().join("order-types");
    std::fs::create_dir(&types).unwrap();
    std::fs::write(types.join("laned.toml"), LANED).unwrap();
    let server = Server::start_with(Home::Own(home), &["--break", "work=1"], &[]);
    let mut lanes: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for batch in 0..ORDERS / PER_BATCH {
        let order = |number: usize| json!({"type": "laned", "data": {"lane": (number % LANES).to_string()}});
        let orders: Vec<Value> = (batch * PER_BATCH..(batch + 1) * PER_BATCH).map(order).collect();
        let (status, answer) = server.post("/v1/orders/batch", &json!(orders).to_string());
        assert_eq!(status, 200, "{answer}");
        for (index, item) in answer["items"].as_array().unwrap().iter().enumerate() {
            let id = item["order"]["id"].as_str().unwrap_or_else(|| panic!("{item}"));
            lanes.entry(index % LANES).or_default().push(id.to_owned());
        }
    }
    assert!(
        at_rest(&server, &lanes)
            .iter()
            .all(|order| order["work"]["state"] == "parked")
    );
    let (_, causes) = server.get("/v1/dead-letter-causes");
    assert_eq!(
        (causes["items"].as_array().unwrap().len(), &causes["items"][0]["count"]),
        (1, &json!(ORDERS)),
        "{causes}"
    );

    server.run(&["dead-letters", "redrive", "--all"], "").ok();
    assert!(at_rest(&server, &lanes).iter().all(|order| order["status"] == "done"));

    // The place of each order's last event in the feed.
    let mut place = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let (_, page) = server.get(&format!(
            "/v1/events?limit=500&event=comanda.order.status-changed{cursor}"
        ));
        let items = page["items"].as_array().unwrap();
        for event in items.iter().filter(|event| event["data"]["to"] == "done") {
            place.insert(event["subject"].as_str().unwrap().to_owned(), place.len());
        }
        if place.len() == ORDERS {
            break;
        }
        cursor = format!("&cursor={}", page["nextCursor"].as_str().unwrap());
    }
    for (lane, ids) in lanes {
        assert!(
            ids.is_sorted_by_key(|id| place[id]),
            "lane {lane} was worked in another order"
        );
    }
}
