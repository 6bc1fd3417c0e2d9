//! Subscriptions of the real binary: an independent receiver, and `kill -9` while events are on their way.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::Value;
use support::hook::{Hook, SECRET};
use support::receiver::{Answer, Receiver};
use support::{PATIENCE, Server};

const ORDERS_PER_ROUND: usize = 60;

fn feed(server: &Server) -> Vec<String> {
    let id = |event: &Value| event["id"].as_str().unwrap().to_owned();
    events(server).iter().map(id).collect()
}

fn events(server: &Server) -> Vec<Value> {
    let mut all = Vec::new();
    let mut path = "/v1/events?limit=500".to_owned();
    loop {
        let (_, page) = server.get(&path);
        let items = page["items"].as_array().unwrap();
        if items.is_empty() {
            return all;
        }
        all.extend(items.iter().cloned());
        path = format!("/v1/events?limit=500&cursor={}", page["nextCursor"].as_str().unwrap());
    }
}

#[test]
fn killed_at_any_moment_every_event_arrives_in_order_and_nothing_else_does() {
    let hook = Hook::start();
    let home = tempfile::tempdir().unwrap();
    // The port of a listener that has gone: nobody answers there.
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let configuration = format!(
        "[[subscriptions]]\nname = \"hook\"\nurl = \"http://127.0.0.1:{}/\"\nsecret = {{ env = \"HOOK_SECRET\" }}\n\
         from = \"oldest\"\n[[subscriptions]]\nname = \"dead\"\nurl = \"http://{dead}/\"\n\
         secret = {{ env = \"HOOK_SECRET\" }}\nfrom = \"oldest\"\n",
        hook.port
    );
    std::fs::write(home.path().join("comanda.toml"), configuration).unwrap();
    let start = || {
        let lent = support::Home::Lent(home.path().to_owned());
        Server::start_with(lent, &[], &[("HOOK_SECRET", SECRET)])
    };
    for _ in 0..3 {
        let server = start();
        for n in 0..ORDERS_PER_ROUND {
            let body = format!(r#"{{"type":"sale","data":{{"amount":{n}.50,"currency":"EUR"}}}}"#);
            let (status, answer) = server.post("/v1/orders", &body);
            assert_eq!(status, 202, "{answer}");
        }
        // Accepted, and on their way: some have been sent, some have not, some stand between answer and cursor.
        server.kill();
    }
    let server = start();
    let all_final = |server: &Server| {
        let (_, page) = server.get("/v1/orders?status=ACCEPTED&limit=500");
        page["items"].as_array().unwrap().is_empty()
    };
    let begun = Instant::now();
    while !all_final(&server) {
        assert!(begun.elapsed() < PATIENCE, "orders do not come to an end");
    }
    let expected: BTreeSet<String> = feed(&server).into_iter().collect();
    assert_eq!(expected.len(), 3 * ORDERS_PER_ROUND * 2, "two events each");

    hook.wait_for(&expected);
    let shown = server
        .run(&["subscriptions", "show", "dead", "--output", "json"], "")
        .ok()
        .json();
    assert_eq!(shown["state"], "active", "it is tried for days: {shown}");
    let log = server
        .run(&["subscriptions", "deliveries", "dead", "--output", "json"], "")
        .ok()
        .json();
    let tries = log["items"].as_array().unwrap();
    assert!(
        !tries.is_empty() && tries.iter().all(|one| one["delivered"] == false),
        "{log}"
    );
    let listed = server.run(&["subscriptions", "list"], "").ok();
    assert!(
        listed.out.contains("hook") && listed.out.contains("dead"),
        "{}",
        listed.out
    );
}

/// An order type with a lane for each line.
const LOT: &str = r#"
name = "lot"
initial = "made"
fifo = { key = "/line", scope = "status" }
[schema]
type = "object"
required = ["line"]
properties.line = { type = "string" }
[statuses.made]
steps = ["check"]
next = "packed"
[statuses.packed]
steps = ["check"]
next = "gone"
[statuses.gone]
final = true
[steps.check]
use = "noop"
"#;

#[test]
fn killed_at_any_moment_and_failing_now_and_then_events_arrive_in_order_per_lane() {
    const LINES: usize = 3;
    let receiver = Receiver::start();
    receiver.answer(Answer::FailEvery(6));
    let home = tempfile::tempdir().unwrap();
    let retries = ["\"1ms\""; 30].join(", ");
    let configuration = format!(
        "[deliveries]\nretries = [{retries}]\n[[subscriptions]]\nname = \"lots\"\nurl = \"{}\"\n\
         secret = {{ env = \"HOOK_SECRET\" }}\nfrom = \"oldest\"\n",
        receiver.url()
    );
    std::fs::write(home.path().join("comanda.toml"), configuration).unwrap();
    std::fs::create_dir(home.path().join("order-types")).unwrap();
    std::fs::write(home.path().join("order-types/lot.toml"), LOT).unwrap();
    let start = || {
        let lent = support::Home::Lent(home.path().to_owned());
        Server::start_with(lent, &[], &[("HOOK_SECRET", SECRET)])
    };
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..4 {
        let server = start();
        for n in 0..ORDERS_PER_ROUND {
            let line = n % LINES;
            let (status, answer) = server.post(
                "/v1/orders",
                &format!(r#"{{"type":"lot","data":{{"line":"L{line}"}}}}"#),
            );
            assert_eq!(status, 202, "{answer}");
            lines.insert(answer["id"].as_str().unwrap().to_owned(), line);
        }
        server.kill();
    }
    let server = start();
    let begun = Instant::now();
    let all = loop {
        let all = events(&server);
        if all.len() == lines.len() * 3 {
            break all;
        }
        assert!(
            begun.elapsed() < PATIENCE,
            "orders do not come to an end: {}",
            all.len()
        );
    };
    // Each event's lane and place in it, as the feed has them.
    let mut places: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut lengths = [0; LINES];
    for event in &all {
        let line = lines[event["subject"].as_str().unwrap()];
        places.insert(event["id"].as_str().unwrap().to_owned(), (line, lengths[line]));
        lengths[line] += 1;
    }
    let mut reached = [0; LINES];
    let mut failed = 0;
    while reached != lengths {
        let arrived = receiver.next();
        let place = places.get(arrived.id());
        let (line, place) = *place.unwrap_or_else(|| panic!("{} is nowhere in the store", arrived.id()));
        assert!(
            place <= reached[line],
            "{} came before the one before it in its lane was taken",
            arrived.id()
        );
        failed += usize::from(!arrived.taken);
        if arrived.taken {
            reached[line] = reached[line].max(place + 1);
        }
    }
    assert!(failed > 0, "the receiver never failed");
}
