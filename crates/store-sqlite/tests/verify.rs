//! `verify` itself: a store is changed behind its back in every way that it claims to find, and it must find each.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::path::Path;
use std::sync::Arc;

use comanda_model::decision::Enqueue;
use comanda_model::ledger::{LedgerLine, ON_HAND, OUTSIDE, stock_account};
use comanda_store::subscription::{Advance, Delivery, EventFilter, Exception, Ordering, SigningSecret, Subscription};
use comanda_store::{Cursor, FeedStart, Posting, Store};
use support::*;

/// Changes copies of a store, one after the other, and expects of each that it is found.
fn each_is_found(pristine: &Path, changes: &[&str]) {
    assert_clean(pristine);
    for sql in changes {
        let damaged = tempfile::tempdir().unwrap();
        std::fs::copy(pristine.join("comanda.db"), damaged.path().join("comanda.db")).unwrap();
        tamper(damaged.path(), sql);
        let report = verified(damaged.path());
        assert!(!report.is_clean(), "not found: {sql}");
    }
}

#[tokio::test]
async fn each_kind_of_damage_is_found() {
    let pristine = tempfile::tempdir().unwrap();
    sample(pristine.path()).await;
    each_is_found(
        pristine.path(),
        &[
            // Content.
            "UPDATE orders SET data = replace(data, '12.50', '12.51') WHERE seq = 1",
            "UPDATE orders SET customer = 'customer-2' WHERE seq = 1",
            "UPDATE orders SET id = randomblob(16) WHERE seq = 2",
            "UPDATE heads SET version = version + 1 WHERE seq = 1",
            "UPDATE heads SET rest = replace(rest, 'record', 'recorc') WHERE seq = 1",
            "UPDATE heads SET results = NULL WHERE seq = 5",
            "UPDATE heads SET state = (SELECT max(id) FROM states) WHERE seq = 1",
            "UPDATE names SET text = 'ACCEPTEC' WHERE text = 'ACCEPTED'",
            "UPDATE events SET at = at + 1 WHERE position = 1",
            "UPDATE events SET seq = 99 WHERE position = 2",
            "UPDATE attempts SET reason = 'another' WHERE seq = 4",
            "UPDATE attempts SET result = '{}' WHERE seq = 5",
            "UPDATE keys SET seq = 2",
            "UPDATE keys SET fingerprint = zeroblob(32)",
            "UPDATE types SET source = 'another'",
            // Rows that are missing.
            "DELETE FROM orders WHERE seq = 1",
            "DELETE FROM heads WHERE seq = 1",
            "DELETE FROM ids WHERE seq = 1",
            "DELETE FROM by_state WHERE seq = 1",
            "DELETE FROM by_customer WHERE seq = 1",
            "DELETE FROM by_group WHERE seq = 2",
            "DELETE FROM by_cause",
            "DELETE FROM due WHERE seq = 1",
            "DELETE FROM final",
            "DELETE FROM lanes WHERE waiting = 0",
            "DELETE FROM lanes WHERE waiting = 1",
            "DELETE FROM events WHERE position = 1",
            "DELETE FROM attempts WHERE seq = 4",
            "DELETE FROM keys_expiring",
            "DELETE FROM state",
            // Rows that are too many, or in the wrong place.
            "INSERT INTO ids VALUES (randomblob(16), 1)",
            "INSERT INTO by_state VALUES (1, 99)",
            "INSERT INTO by_customer VALUES ('nobody', 1)",
            "INSERT INTO by_group VALUES ('g', 1)",
            "INSERT INTO by_cause VALUES (1, 1)",
            "INSERT INTO due VALUES (1, 3)",
            "INSERT INTO final VALUES (1, 1)",
            "UPDATE due SET at = at + 1 WHERE seq = 1",
            "UPDATE lanes SET waiting = 0 WHERE waiting = 1",
            "UPDATE lanes SET waiting = 1 - waiting",
            "UPDATE keys SET expires_at = NULL",
            // Counts.
            "UPDATE states SET n = n + 1 WHERE id = 1",
            "UPDATE types SET live = live - 1",
            "UPDATE causes SET n = n + 1",
            "UPDATE state SET position = 1",
            "UPDATE state SET seq = 1",
        ],
    );
}

/// A store with what stands beside orders: an order under its client's own id, items of a queue, a subscription with an
/// exception and a log, and stock.
async fn beside_orders(directory: &Path) {
    let store = open(directory);
    let now = store.now();
    let mut own = accepted(now, now, None);
    Arc::make_mut(&mut Arc::make_mut(&mut own.order).accepted).key = Some("A-17".to_owned());
    commit(&store, with_key(own.clone(), "type:sale", "A-17", None))
        .await
        .unwrap();
    for _ in 0..2 {
        let mut queued = accepted(now, now, None);
        queued.enqueue = Some(Enqueue {
            queue: "done".into(),
            lane: "sale:g".to_owned(),
            parks: true,
            attempts_max: 3,
        });
        commit(&store, queued).await.unwrap();
    }
    let subscriptions = store.subscriptions().unwrap();
    let subscription = Subscription {
        id: "hook".to_owned(),
        name: "hook".to_owned(),
        url: "https://example.com/hook".to_owned(),
        filter: EventFilter::default(),
        include_order: false,
        secrets: vec![SigningSecret {
            secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
            until: None,
        }],
        allow_private: false,
        concurrency: 4,
        ordering: Ordering::Lane,
        configured: false,
        created_at: now,
        paused: None,
    };
    subscriptions.put_subscription(&subscription).await.unwrap();
    let cursor: Cursor = store.feed(FeedStart::Oldest, 1).await.unwrap().next;
    let advance = Advance {
        notice: None,
        hold: None,
        cursor: Some(cursor),
        settled: Vec::new(),
        failed: vec![Exception {
            order: own.order.id(),
            number: 1,
            until: 2,
            attempts: 1,
            retry_at: now,
            lane: None,
            position: 1,
        }],
        deliveries: vec![Delivery {
            number: 0,
            event: format!("{}:1", own.order.id()),
            event_type: "comanda.order.accepted".to_owned(),
            at: now,
            attempt: 1,
            took_ms: 3,
            delivered: false,
            status: Some(500),
            reason: None,
        }],
    };
    subscriptions.advance("hook", advance).await.unwrap();
    let line = LedgerLine {
        account: stock_account("tea").into(),
        from: OUTSIDE.into(),
        to: ON_HAND.into(),
        quantity: 5,
        once_id: "".into(),
    };
    let posting = Posting {
        once_id: "receive tea".to_owned(),
        fingerprint: [7; 32],
        lines: vec![line],
        expect: None,
    };
    store.post(&posting).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test]
async fn each_kind_of_damage_beside_orders_is_found() {
    let pristine = tempfile::tempdir().unwrap();
    beside_orders(pristine.path()).await;
    each_is_found(
        pristine.path(),
        &[
            // The client's own id.
            "DELETE FROM keys",
            "UPDATE keys SET seq = 2",
            // Items of queues.
            "DELETE FROM items WHERE position = (SELECT min(position) FROM items)",
            "DELETE FROM items",
            "UPDATE items SET seq = 1",
            "UPDATE items SET seq = 99",
            "UPDATE items SET version = 9",
            "UPDATE items SET status = 99",
            "UPDATE items SET holds = 0",
            "UPDATE items SET head = 0",
            "UPDATE items SET head = 1",
            "UPDATE items SET lane = 'other'",
            "UPDATE queues SET depth = depth + 1",
            "UPDATE queues SET dead = dead + 1",
            "DELETE FROM queues",
            // Subscriptions.
            "UPDATE subscriptions SET spec = replace(spec, 'example', 'exampie')",
            "UPDATE subscriptions SET position = 99",
            "UPDATE subscriptions SET position = NULL",
            "UPDATE subscriptions SET delivery = 0",
            "UPDATE subscription_exceptions SET exception = replace(exception, '1', '2')",
            "UPDATE subscription_exceptions SET order_id = randomblob(16)",
            "UPDATE deliveries SET delivery = replace(delivery, '500', '200')",
            "UPDATE deliveries SET number = 7",
            "DELETE FROM subscriptions",
            // The ledger.
            "UPDATE balances SET quantity = quantity + 1",
            "DELETE FROM balances WHERE place = 'on-hand'",
            "UPDATE flows SET quantity = quantity + 1",
            "DELETE FROM flows",
            "UPDATE postings SET fingerprint = zeroblob(32)",
            "UPDATE postings SET at = at + 1",
        ],
    );
}

#[tokio::test]
async fn a_status_that_no_event_led_to_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let one = accepted(now, now, None);
    commit(&store, one.clone()).await.unwrap();
    // Whole in itself, each sum right: only the history says otherwise.
    let mut moved = next(&one.order, now);
    Arc::make_mut(&mut moved.order).head.status = "PACKED".into();
    commit(&store, moved).await.unwrap();
    store.close().await.unwrap();
    let report = verified(directory.path());
    assert_eq!(report.faults_count, 1, "{:?}", report.faults);
    assert!(report.faults[0].detail.contains("`PACKED`"), "{:?}", report.faults);
}
