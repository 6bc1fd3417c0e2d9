//! An embedded store's orders are moved to PostgreSQL: live ones, dead letters, those that queue behind them, one that is
//! tried again, final ones, an item that a worker holds. The move is killed in the middle, and goes on.
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

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use support::{PATIENCE, Server};

const FINAL: usize = 450;

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

fn submit(server: &Server, orders: &[Value]) -> Vec<String> {
    let (status, answer) = server.post("/v1/orders/batch", &json!(orders).to_string());
    assert_eq!(status, 200, "{answer}");
    let items = answer["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| {
            item["order"]["id"]
                .as_str()
                .unwrap_or_else(|| panic!("{item}"))
                .to_owned()
        })
        .collect()
}

fn ids(server: &Server, path: &str) -> Vec<String> {
    let (_, page) = server.get(path);
    let items = page["items"].as_array().unwrap_or_else(|| panic!("{path}: {page}"));
    items
        .iter()
        .map(|item| item["id"].as_str().or(item["orderId"].as_str()).unwrap().to_owned())
        .collect()
}

/// Fills a store with orders in every state; answers all of them, those of each lane, and the token of a worker.
fn fill(home: &Path) -> (Vec<String>, BTreeMap<usize, Vec<String>>, String) {
    let server = Server::start_in(
        home,
        &["--break", "record=99", "--break", "second=99", "--fast-retries"],
    );
    let purchase = json!({"type": "purchase", "data": {"customerId": "c", "items": [{"sku": "tea"}]}});
    let mut all = submit(&server, &vec![purchase; FINAL]);
    let sale = json!({"type": "sale", "data": {"amount": 12.50, "currency": "EUR"}});
    let sales = submit(&server, &vec![sale.clone(); 5]);
    let mut lanes: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for number in 0..12 {
        let laned =
            json!({"type": "laned", "data": {"ref": number.to_string(), "customer": format!("c-{}", number % 3)}});
        lanes.entry(number % 3).or_default().extend(submit(&server, &[laned]));
    }
    all.extend(sales.iter().chain(lanes.values().flatten()).cloned());
    // The sales and the heads of the lanes die; the others queue behind them.
    wait_for("they become dead letters", || {
        (ids(&server, "/v1/dead-letters?limit=100").len() == 5 + 3).then_some(())
    });
    let work = json!({"type": "work-order", "status": "recibida",
        "data": {"descripcion": "d", "fecha_entrega": "01/02/2027"}});
    let open = submit(&server, &[work.clone(), work]);
    let claim = r#"{"max":1,"waitSeconds":20,"leaseSeconds":600,"worker":"w"}"#;
    let (_, claims) = server.post("/v1/queues/ordenes-recibidas/claims", claim);
    let token = claims["items"][0]["token"].as_str().unwrap().to_owned();
    all.extend(open);
    wait_for("the purchases are done", || {
        ids(&server, "/v1/orders?type=purchase&status=PROCESSING&limit=1")
            .is_empty()
            .then_some(())
    });
    server.stop();
    // One more, which has failed once and waits for its next try.
    let server = Server::start_in(home, &["--break", "record=1"]);
    let retried = submit(&server, &[sale]).remove(0);
    wait_for("it fails once", || {
        let (_, page) = server.get(&format!("/v1/orders/{retried}/attempts"));
        (!page["items"].as_array().unwrap().is_empty()).then_some(())
    });
    // The feed ends with what belongs to no order, and a cursor stands behind it.
    let subscribe = json!({"url": "https://hooks.invalid/", "filter": {"types": ["laned"]}}).to_string();
    let (_, first) = server.post("/v1/subscriptions", &subscribe);
    let first = first["id"].as_str().unwrap();
    assert_eq!(server.post(&format!("/v1/subscriptions/{first}/pause"), "{}").0, 200);
    let (status, last) = server.post("/v1/subscriptions", &subscribe);
    assert_eq!(status, 201, "{last}");
    server.kill();
    all.push(retried);
    (all, lanes, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_moves_whole_though_the_move_is_killed() {
    let home = tempfile::tempdir().unwrap();
    support::clients::add_type(home.path());
    let path = home.path().to_owned();
    let (all, lanes, token) = tokio::task::spawn_blocking(move || fill(&path)).await.unwrap();
    let cluster = tokio::task::spawn_blocking(cluster::shared).await.unwrap();
    let database = cluster.database().await;
    let address = cluster.address(&database);
    let arguments = ["migrate", "--from", "sqlite:comanda-data", "--to", &address];

    // The move waits for us in its second part, and is killed there.
    let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
        .batch_execute(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS \
             'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END'; \
             CREATE TRIGGER hold BEFORE INSERT ON comanda.orders FOR EACH ROW WHEN (NEW.seq = 300) EXECUTE FUNCTION hold(); \
             SELECT pg_advisory_lock(42)",
        )
        .await
        .unwrap();
    let mut moving = support::command(home.path()).args(arguments).spawn().unwrap();
    loop {
        let waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        if !client.query(waits, &[]).await.unwrap().is_empty() {
            break;
        }
        assert!(moving.try_wait().unwrap().is_none(), "it waits, and does not end");
    }
    moving.kill().unwrap();
    moving.wait().unwrap();
    let refused = support::run(home.path(), &["serve", "--store", &address], "");
    assert!(refused.code != 0 && refused.err.contains("being moved"), "{refused:?}");
    client
        .batch_execute("SELECT pg_advisory_unlock(42); DROP TRIGGER hold ON comanda.orders; DROP FUNCTION hold()")
        .await
        .unwrap();

    let moved = support::run(home.path(), &arguments, "").ok();
    assert!(moved.err.contains("Goes on after order"), "{moved:?}");
    assert!(
        moved.err.contains("comanda-data/secrets.key"),
        "what opens the secrets there is named: {moved:?}"
    );
    assert!(moved.out.contains(&format!("{} orders", all.len())), "{moved:?}");
    let again = support::run(home.path(), &arguments, "").ok();
    assert!(again.out.contains("nothing is to be done"), "{again:?}");
    let verified = support::run(home.path(), &["verify", "--store", &address], "").ok();
    assert!(verified.out.contains("sound"), "{verified:?}");

    let served = address.clone();
    let checked = tokio::task::spawn_blocking(move || serve_to_the_end(home.path(), &served, &all, &lanes, &token));
    checked.await.unwrap();
    let options = comanda_store_postgres::Options::new(&address).unwrap();
    let report = comanda_store_postgres::PostgresStore::verify(&options).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

/// On PostgreSQL everything goes on, and ends in its lanes' order.
fn serve_to_the_end(home: &Path, address: &str, all: &[String], lanes: &BTreeMap<usize, Vec<String>>, token: &str) {
    let key = "[encryption]\nkey_file = \"comanda-data/secrets.key\"\n";
    std::fs::write(home.join("comanda.toml"), key).unwrap();
    let server = Server::start_in(home, &["--store", address]);
    let done = json!({"items": [{"token": token}]}).to_string();
    let (_, answer) = server.post("/v1/claims/complete", &done);
    assert_eq!(
        answer["items"][0]["status"], "done",
        "the worker's claim counts: {answer}"
    );
    let redrive = r#"{"filter":{},"from":"failedStep"}"#;
    let (status, answer) = server.post("/v1/dead-letters/redrive", redrive);
    assert!((200..300).contains(&status), "{answer}");
    for id in all {
        wait_for("every order ends", || {
            let (_, order) = server.get(&format!("/v1/orders/{id}"));
            (order["final"] == true || order["type"] == "work-order").then_some(())
        });
    }
    let mut ended: Vec<String> = Vec::new();
    let mut from = String::new();
    loop {
        let (_, page) = server.get(&format!("/v1/events?limit=500{from}"));
        let items = page["items"].as_array().unwrap();
        if items.is_empty() {
            break;
        }
        let finals = items.iter().filter(|event| event["data"]["to"] == "done");
        ended.extend(finals.map(|event| event["subject"].as_str().unwrap().to_owned()));
        from = format!("&cursor={}", page["nextCursor"].as_str().unwrap());
    }
    let (_, subscriptions) = server.get("/v1/subscriptions");
    let subscriptions = subscriptions["items"].as_array().unwrap();
    let mut from = String::new();
    wait_for("that one was paused is an event here too", || {
        let (_, page) = server.get(&format!("/v1/events?event=comanda.subscription.paused{from}"));
        // A page is a part of the feed, of which perhaps nothing is wanted.
        from = format!("&cursor={}", page["nextCursor"].as_str().unwrap());
        (!page["items"].as_array().unwrap().is_empty()).then_some(())
    });
    let at_work = subscriptions
        .iter()
        .find(|one| one["state"] == "active" && one["url"] == "https://hooks.invalid/");
    let log = format!(
        "/v1/subscriptions/{}/deliveries",
        at_work.unwrap()["id"].as_str().unwrap()
    );
    let tried = wait_for("its subscription goes on", || {
        let (_, log) = server.get(&log);
        let first = log["items"].as_array().unwrap().last()?;
        assert!(!log.to_string().contains("sealed"), "its secret opens here: {log}");
        Some(first["type"].as_str().unwrap_or_else(|| panic!("{log}")).to_owned())
    });
    assert!(tried.starts_with("comanda.order."), "it has missed nothing: {tried}");
    for lane in lanes.values() {
        let in_lane: Vec<&String> = ended.iter().filter(|id| lane.contains(id)).collect();
        assert_eq!(in_lane, lane.iter().collect::<Vec<_>>(), "in the order of acceptance");
    }
    server.stop();
}
