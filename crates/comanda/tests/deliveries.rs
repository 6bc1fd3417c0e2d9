//! Deliveries of the real binary that go wrong: receivers that are dead, hang or say no, a feed that retention has cut, a log
//! that is full; sending again; and signatures, as programs see them that know nothing of Comanda.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use support::receiver::{Answer, Receiver};
use support::{Home, PATIENCE, Server};

/// A server that delivers to this machine, with a quick schedule.
fn serve(home: &Path, deliveries: &str, more: &str) -> Server {
    let configuration = format!("{more}\n[deliveries]\nallow_private = true\n{deliveries}\n");
    std::fs::write(home.join("comanda.toml"), configuration).unwrap();
    Server::start_with(Home::Lent(home.to_owned()), &[], &[])
}

const QUICK: &str = "retries = [\"10ms\", \"20ms\", \"30ms\"]";

/// Makes a subscription: its id, and what verifies its signatures.
fn subscribe(server: &Server, url: &str, more: &[&str]) -> (String, String) {
    let args = [&["subscriptions", "create", url, "--output", "json"], more].concat();
    let made = server.run(&args, "").ok().json();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("id"), text("secret"))
}

/// Submits sales, and answers the ids of their events: two each, once they are final.
fn sell(server: &Server, count: usize) -> BTreeSet<String> {
    let mut expected = BTreeSet::new();
    for _ in 0..count {
        let body = r#"{"type":"sale","data":{"amount":1.50,"currency":"EUR"}}"#;
        let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
        let (status, _, answer) = server.http("POST", "/v1/orders", &headers, body);
        assert_eq!(status, 200, "{answer}");
        let order: Value = serde_json::from_str(&answer).unwrap();
        for number in 1..=2 {
            expected.insert(format!("{}:{number}", order["id"].as_str().unwrap()));
        }
    }
    expected
}

/// Looks at a subscription until it is as it should be.
#[track_caller]
fn until(server: &Server, id: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let begun = Instant::now();
    loop {
        let (_, shown) = server.get(&format!("/v1/subscriptions/{id}"));
        if holds(&shown) {
            return shown;
        }
        assert!(begun.elapsed() < PATIENCE, "{shown}");
        std::thread::yield_now();
    }
}

/// The log of a subscription, newest first.
fn log(server: &Server, id: &str) -> Vec<Value> {
    let mut items = Vec::new();
    let mut path = format!("/v1/subscriptions/{id}/deliveries?limit=500");
    loop {
        let (status, page) = server.get(&path);
        assert_eq!(status, 200, "{page}");
        items.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["nextCursor"].as_str() else {
            return items;
        };
        path = format!("/v1/subscriptions/{id}/deliveries?limit=500&cursor={next}");
    }
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn a_dead_receiver_is_paused_with_the_reason_and_resuming_sends_what_waited() {
    let home = tempfile::tempdir().unwrap();
    let mut server = serve(home.path(), QUICK, "");
    let port = free_port();
    let (id, _) = subscribe(&server, &format!("http://127.0.0.1:{port}/"), &[]);
    let expected = sell(&server, 4);
    let line = server.wait_for_line("a subscription is paused");
    assert!(line.contains(&id) && line.contains("in 4 tries"), "{line}");
    let shown = until(&server, &id, |shown| shown["state"] == "paused");
    let begun = Instant::now();
    let entry = loop {
        let (_, audited) = server.get("/v1/audit?action=subscription.paused");
        let entry = audited["items"][0].clone();
        if entry["outcome"] == "done" {
            break entry;
        }
        assert!(begun.elapsed() < PATIENCE, "{audited}");
    };
    assert_eq!(entry["by"], "engine", "{entry}");
    assert_eq!(entry["subject"], format!("subscription:{id}"), "{entry}");
    assert_eq!(entry["after"]["reason"], shown["reason"], "{entry}");
    let reason = shown["reason"].as_str().unwrap();
    assert!(
        reason.contains("could not be delivered in 4 tries") && reason.contains("refused"),
        "{shown}"
    );
    let tries = log(&server, &id);
    let most = tries.iter().filter_map(|one| one["attempt"].as_u64()).max();
    assert_eq!(most, Some(4), "that is the last one of the schedule");
    assert!(
        tries.iter().all(|one| one["delivered"] == false
            && one["status"].is_null()
            && one["reason"].as_str().unwrap().contains("refused")),
        "{tries:?}"
    );
    let told = server.run(&["subscriptions", "list"], "").ok();
    assert!(told.out.contains("paused"), "{}", told.out);

    let more = sell(&server, 2);
    let receiver = Receiver::start_at(port);
    assert_eq!(log(&server, &id).len(), tries.len(), "a paused one is not tried");
    server.run(&["subscriptions", "resume", &id], "").ok();
    receiver.wait_for(&expected.union(&more).cloned().collect());
    let shown = until(&server, &id, |shown| shown["failingOrders"] == 0);
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("active"), &Value::Null));
}

#[test]
fn one_that_hangs_and_one_that_is_dead_cost_the_others_nothing() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), "timeout = \"1h\"", "");
    let (hangs, takes) = (Receiver::start(), Receiver::start());
    hangs.answer(Answer::Hang);
    let (hanging, _) = subscribe(&server, &hangs.url(), &["--concurrency", "3"]);
    let (dead, _) = subscribe(&server, &format!("http://127.0.0.1:{}/", free_port()), &[]);
    subscribe(&server, &takes.url(), &[]);
    let first = sell(&server, 1);
    let held = hangs.next();
    let more = sell(&server, 30);
    let expected: BTreeSet<String> = first.union(&more).cloned().collect();
    takes.wait_for(&expected);
    // Nothing was answered in the meantime, so all the others went past it.
    assert!(log(&server, &hanging).is_empty(), "a try has ended");
    assert!(hangs.waiting().len() < 3, "no more at a time than it takes");
    assert!(expected.contains(held.id()));
    let shown = until(&server, &dead, |_| true);
    assert_eq!(shown["state"], "active", "{shown}");
    assert!(log(&server, &dead).iter().all(|one| one["delivered"] == false));

    hangs.answer(Answer::Status(204));
    until(&server, &hanging, |_| log(&server, &hanging).len() == expected.len());
}

#[test]
fn one_that_does_not_answer_in_time_gets_the_same_event_again() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(
        home.path(),
        "timeout = \"100ms\"\nretries = [\"10ms\", \"1ms\", \"1ms\", \"1ms\", \"1ms\", \"1ms\", \"1ms\", \"1ms\", \"1m\", \"1d\"]",
        "",
    );
    let receiver = Receiver::start();
    receiver.answer(Answer::Hang);
    let (id, _) = subscribe(&server, &receiver.url(), &["--status", "COMPLETED"]);
    sell(&server, 1);
    let first = receiver.next();
    let second = receiver.next();
    assert_eq!((first.id(), &first.body), (second.id(), &second.body));
    receiver.answer(Answer::Status(204));
    until(&server, &id, |_| {
        log(&server, &id).iter().any(|one| one["delivered"] == true)
    });
    let tries = log(&server, &id);
    let oldest = tries.last().unwrap();
    assert!(oldest["reason"].as_str().unwrap().contains("timed out"), "{oldest}");
    assert!(oldest["tookMs"].as_u64().unwrap() >= 100, "{oldest}");
}

#[test]
fn a_feed_that_retention_has_cut_is_said_before_anything_else_is_sent() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), QUICK, "");
    let receiver = Receiver::start();
    let (id, _) = subscribe(&server, &receiver.url(), &[]);
    receiver.wait_for(&sell(&server, 1));
    until(&server, &id, |_| log(&server, &id).len() == 2);
    server.run(&["subscriptions", "pause", &id], "").ok();
    let lost = sell(&server, 3);
    server.stop();
    let mut server = serve(home.path(), QUICK, "[retention]\nfinal_kept = \"1ms\"");
    server.wait_for_line("removed orders that were final");
    receiver.answer(Answer::Status(500));
    server.run(&["subscriptions", "resume", &id], "").ok();
    let gap = receiver.next();
    receiver.answer(Answer::Status(204));
    let event = gap.event();
    assert_eq!(
        (&event["type"], &event["subject"]),
        (&json!("comanda.subscription.gap"), &json!(id)),
        "{event}"
    );
    assert!(
        event["data"]["after"].is_string() && event["data"]["next"].is_string(),
        "{event}"
    );
    let kept = sell(&server, 1);
    let mut arrived = BTreeSet::new();
    while arrived != kept {
        let next = receiver.next();
        if next.id() == gap.id() {
            assert!(arrived.is_empty(), "the gap is told first");
            continue;
        }
        assert!(!lost.contains(next.id()), "it was removed: {next:?}");
        arrived.insert(next.id().to_owned());
    }
}

#[test]
fn a_full_log_stays_bounded_and_forgets_the_oldest() {
    const KEPT: usize = 1000;
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), QUICK, "");
    let receiver = Receiver::start();
    let (id, _) = subscribe(&server, &receiver.url(), &["--event", "comanda.order.accepted"]);
    let oldest = sell(&server, 1);
    receiver.next();
    let item = r#"{"type":"sale","data":{"amount":1.50,"currency":"EUR"}}"#;
    let batch = format!("[{}]", vec![item; 100].join(","));
    for _ in 0..KEPT / 100 {
        let (status, answer) = server.post("/v1/orders/batch", &batch);
        assert_eq!(status, 200, "{answer}");
    }
    let newest: Vec<String> = (0..KEPT).map(|_| receiver.next().id().to_owned()).collect();
    let logged = |server: &Server| -> BTreeSet<String> {
        let log = log(server, &id);
        assert!(log.len() <= KEPT, "{} are kept", log.len());
        log.iter()
            .map(|one| one["event"].as_str().unwrap().to_owned())
            .collect()
    };
    let newest: BTreeSet<String> = newest.into_iter().collect();
    until(&server, &id, |_| logged(&server) == newest);
    assert!(oldest.is_disjoint(&logged(&server)));
    assert_eq!(log(&server, &id).len(), KEPT);
}

#[test]
fn one_event_a_range_and_all_since_a_time_are_sent_again() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), QUICK, "");
    let receiver = Receiver::start();
    let (id, _) = subscribe(&server, &receiver.url(), &["--status", "COMPLETED"]);
    let mut sold = Vec::new();
    for _ in 0..3 {
        let completed: BTreeSet<String> = sell(&server, 1).into_iter().filter(|id| id.ends_with(":2")).collect();
        receiver.wait_for(&completed);
        let completed = completed.first().unwrap().clone();
        let order = completed.split(':').next().unwrap().to_owned();
        let (_, history) = server.get(&format!("/v1/orders/{order}/events"));
        let at = history["items"][1]["time"].as_str().unwrap().to_owned();
        sold.push((completed, at));
    }
    until(&server, &id, |_| log(&server, &id).len() == 3);
    let of = |from: usize, to: usize| sold[from..to].iter().map(|(id, _)| id.clone()).collect::<BTreeSet<_>>();
    let resend = |args: &[&str], orders: usize| {
        let args = [&["subscriptions", "resend", &id, "--output", "json"], args].concat();
        let answer = server.run(&args, "").ok().json();
        assert_eq!((&answer["orders"], &answer["more"]), (&json!(orders), &json!(false)));
    };
    let mut expected = 3;
    for (args, again) in [
        (vec!["--event", &sold[1].0], of(1, 2)),
        (vec!["--since", &sold[1].1], of(1, 3)),
        (vec!["--since", &sold[0].1, "--until", &sold[2].1], of(0, 2)),
    ] {
        resend(&args, again.len());
        receiver.wait_for(&again);
        expected += again.len();
        // Written down, so that the next call finds nothing under way.
        until(&server, &id, |_| log(&server, &id).len() == expected);
    }
    assert!(receiver.waiting().is_empty(), "nothing else was sent");
    let nothing = server.run(&["subscriptions", "resend", &id, "--event", "nothing:1"], "");
    assert_eq!(nothing.code, 1, "{nothing:?}");
}

#[test]
fn both_secrets_sign_while_one_is_being_replaced_as_others_verify_it() {
    let home = tempfile::tempdir().unwrap();
    let server = serve(home.path(), QUICK, "");
    for kind in [&["--status", "COMPLETED"][..], &["--status", "COMPLETED", "--ed25519"]] {
        let receiver = Receiver::start();
        let (id, old) = subscribe(&server, &receiver.url(), kind);
        sell(&server, 1);
        let arrived = receiver.next();
        assert!(arrived.verifies(&old));
        let mut forged = arrived.clone();
        forged.body = forged.body.replace("COMPLETED", "CANCELLED");
        assert!(!forged.verifies(&old), "the verifier can say no");

        let rotate = |more: &[&str]| {
            let args = [&["subscriptions", "rotate-secret", &id, "--output", "json"], more].concat();
            let rotated = server.run(&args, "").ok().json();
            rotated["secret"].as_str().unwrap().to_owned()
        };
        let new = rotate(&[]);
        sell(&server, 1);
        let mut arrived = receiver.next();
        // The first event may come again: its answer was perhaps not written down when the secret changed.
        while arrived.headers["webhook-signature"].split(' ').count() == 1 || arrived.id() == forged.id() {
            arrived = receiver.next();
        }
        assert!(arrived.verifies(&new) && arrived.verifies(&old), "{arrived:?}");

        let last = rotate(&["--keep-seconds", "0"]);
        let sold = sell(&server, 1);
        let mut arrived = receiver.next();
        while !sold.contains(arrived.id()) {
            arrived = receiver.next();
        }
        assert!(arrived.verifies(&last), "{arrived:?}");
        assert!(!arrived.verifies(&new) && !arrived.verifies(&old), "{arrived:?}");
    }
}
