//! Sources and archives of nodes that share a PostgreSQL database: one node at a time takes from a feed and from a directory,
//! another goes on when it dies, nothing becomes an order twice, what was rejected is known to all, and what failed on any node
//! is archived once.
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

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};
use support::{Home, PATIENCE, Server};

const LINES: usize = 600;
const ITEMS: usize = 40;

/// A feed of one page, which remembers who asked for it.
struct Market {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Market {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/orders", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = asked.clone();
        let items: Vec<Value> = (0..ITEMS)
            .map(|n| json!({"id": format!("m{n}"), "orderId": format!("m-{n}"), "amount": 1.5, "currency": "EUR"}))
            .collect();
        let page = json!(items).to_string();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut lines = BufReader::new(stream.try_clone().unwrap())
                    .lines()
                    .map_while(Result::ok);
                let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                let who = head.iter().find_map(|line| line.strip_prefix("authorization: "));
                told.lock().unwrap().push(who.unwrap_or_default().to_owned());
                let length = page.len();
                // Whoever asked may have been killed.
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{page}"
                );
            }
        });
        Self { url, asked }
    }

    fn askers(&self) -> BTreeSet<String> {
        self.asked.lock().unwrap().iter().cloned().collect()
    }
}

fn orders(server: &Server, order_type: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut path = format!("/v1/orders?type={order_type}&limit=500");
    loop {
        let (status, page) = server.get(&path);
        assert_eq!(status, 200, "{page}");
        all.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["nextCursor"].as_str() else {
            return all;
        };
        path = format!("/v1/orders?type={order_type}&limit=500&cursor={next}");
    }
}

#[track_caller]
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// Why a node does not take from a source, if it does not.
fn waits(server: &Server, source: &str) -> bool {
    let (_, sources) = server.get("/v1/intake");
    let all = sources["items"].as_array().unwrap();
    let one = all.iter().find(|one| one["name"] == source).unwrap();
    one["lastError"]
        .as_str()
        .is_some_and(|why| why.contains("another process"))
}

#[test]
fn one_node_takes_from_a_source_and_another_goes_on_when_it_dies() {
    let database = cluster::Cluster::start(&[]);
    let address = database.address("postgres");
    let shared = tempfile::tempdir().unwrap();
    let incoming = shared.path().join("incoming");
    std::fs::create_dir(&incoming).unwrap();
    let archive = shared.path().join("archive");
    let market = Market::start();
    let start = |home: &Path, name: &str| {
        let configuration = format!(
            "[intake.files]\nkind = \"directory\"\ntype = \"sale\"\npath = \"{}\"\n[intake.market]\nkind = \"feed\"\ntype = \"sale\"\n\
             url = \"{}\"\nid = \"/id\"\ninterval = \"100ms\"\nauthorization = {{ env = \"NODE\" }}\n[archives.failures]\nurl = \"file://{}\"\n",
            incoming.display(),
            market.url,
            archive.display(),
        );
        std::fs::write(home.join("comanda.toml"), configuration).unwrap();
        let args = ["--store", &address, "--break", "process=3", "--fast-retries"];
        Server::start_with(Home::Lent(home.to_owned()), &args, &[("NODE", name)])
    };
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = start(homes[0].path(), "first");
    until("the feed is not asked", || !market.askers().is_empty());
    let second = start(homes[1].path(), "second");
    until("the second does not see the first", || {
        waits(&second, "files") && waits(&second, "market")
    });

    let mut expected: BTreeSet<String> = (0..ITEMS).map(|n| format!("m-{n}")).collect();
    let mut text = String::new();
    for line in 0..LINES {
        if line == 7 {
            text.push_str("{\"amount\":\"much\"}\n");
            continue;
        }
        text.push_str(&format!(
            "{{\"orderId\":\"f-{line}\",\"amount\":1.50,\"currency\":\"EUR\"}}\n"
        ));
        expected.insert(format!("f-{line}"));
    }
    std::fs::write(incoming.join(".writing"), text).unwrap();
    std::fs::rename(incoming.join(".writing"), incoming.join("a.ndjson")).unwrap();
    let rejected = |server: &Server| {
        let (_, page) = server.get("/v1/intake/files/rejected");
        page["items"].as_array().unwrap().len()
    };
    until("nothing is rejected", || rejected(&first) == 1);
    assert_eq!(rejected(&second), 1, "what one node rejects all of them know");
    assert_eq!(market.askers(), BTreeSet::from(["first".to_owned()]));
    // Perhaps in the middle of the file.
    first.kill();
    until("the second does not go on", || incoming.join("done/a.ndjson").exists());
    until("the second does not ask", || market.askers().contains("second"));
    let ids = |server: &Server| -> Vec<String> {
        let id = |order: &Value| order["data"]["orderId"].as_str().unwrap().to_owned();
        orders(server, "sale").iter().map(id).collect()
    };
    until("not all become orders", || ids(&second).len() >= expected.len());
    let taken = ids(&second);
    assert_eq!(taken.len(), expected.len(), "none twice");
    assert_eq!(
        taken.into_iter().collect::<BTreeSet<_>>(),
        expected,
        "and none left out"
    );

    // Whichever node has the archive: what fails on either is written, once.
    let first = start(homes[0].path(), "first");
    let data = json!({"customer_name": "Ana", "customer_email": "ana@example.com", "customer_address": "Here",
        "items": [{"product_id": 1, "name": "Pen", "quantity": 1, "price": 1}], "total_price": 1, "payment_method": "card"});
    let body = json!({"type": "shop-order", "data": data}).to_string();
    let mut failed = BTreeSet::new();
    for node in [&first, &second] {
        let (status, order) = node.post("/v1/orders", &body);
        assert_eq!(status, 202, "{order}");
        failed.insert(order["id"].as_str().unwrap().to_owned());
    }
    let archived = || -> Vec<String> {
        if !archive.exists() {
            return Vec::new();
        }
        let args = ["dead-letters", "list", "--from", "failures", "--output", "json"];
        let listed = second.run(&args, "").ok().json();
        let items = listed["items"].as_array().unwrap().iter();
        items.map(|one| one["id"].as_str().unwrap().to_owned()).collect()
    };
    until("what failed is not archived", || archived().len() >= 2);
    let all = archived();
    assert_eq!(all.len(), 2, "each once: {all:?}");
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>(), failed);

    // A node that ends in order gives its sources back at once.
    let discarded = first.run(&["intake", "discard", "files", "--all"], "").ok();
    assert!(discarded.out.contains("1 discarded"), "{}", discarded.out);
    assert_eq!(rejected(&second), 0);
    second.stop();
    until("the first does not take over", || !waits(&first, "files"));
}
