//! Subscriptions: kept whole, moved on in one act, with a log that stays bounded. A store that has none passes.

use std::sync::Arc;

use comanda_model::OrderId;
use jiff::Timestamp;

use crate::subscription::{
    Advance, DELIVERIES_KEPT, Delivery, EventFilter, Exception, Ordering, Paused, SigningSecret, Subscription,
};
use crate::{Cursor, Store};

/// A subscription with this id.
pub fn subscription(id: &str, store: &dyn Store) -> Subscription {
    Subscription {
        id: id.to_owned(),
        name: format!("the {id}"),
        url: "https://example.com/hook".to_owned(),
        filter: EventFilter {
            types: vec!["sale".to_owned()],
            ..EventFilter::default()
        },
        include_order: true,
        secrets: vec![SigningSecret {
            secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
            until: None,
        }],
        allow_private: false,
        concurrency: 4,
        ordering: Ordering::Order,
        configured: false,
        created_at: store.now(),
        paused: None,
    }
}

fn exception(order: OrderId, number: u64, retry_at: Timestamp) -> Exception {
    Exception {
        order,
        number,
        until: number + 1,
        attempts: 1,
        retry_at,
        lane: Some("a lane".to_owned()),
        position: 17,
    }
}

fn delivery(event: &str, at: Timestamp) -> Delivery {
    Delivery {
        number: 0,
        event: event.to_owned(),
        event_type: "comanda.order.accepted".to_owned(),
        at,
        attempt: 1,
        took_ms: 3,
        delivered: false,
        status: Some(500),
        reason: Some("500 Internal Server Error".to_owned()),
    }
}

/// What is put reads back; putting it again replaces it; what is removed is gone with everything.
pub async fn a_subscription_is_kept_whole(store: Arc<dyn Store>) {
    let Some(subscriptions) = store.subscriptions() else {
        return;
    };
    let one = subscription("one", &*store);
    let two = subscription("two", &*store);
    for subscription in [&two, &one] {
        subscriptions.put_subscription(subscription).await.expect("it is kept");
    }
    let all = subscriptions.all_subscriptions().await.expect("all are read");
    assert_eq!(all, [one.clone(), two.clone()], "by id, to the letter");
    let paused = Subscription {
        paused: Some(Paused {
            at: store.now(),
            reason: "it is gone".to_owned(),
        }),
        ..one
    };
    subscriptions.put_subscription(&paused).await.expect("it is replaced");
    assert!(subscriptions.remove_subscription("two").await.expect("it is removed"));
    assert!(!subscriptions.remove_subscription("two").await.expect("it is gone"));
    let all = subscriptions.all_subscriptions().await.expect("all are read");
    assert_eq!(all, [paused]);
}

/// Cursor, exceptions and log move together, and survive a change of the subscription; with the subscription they go.
pub async fn progress_moves_in_one_act(store: Arc<dyn Store>) {
    let Some(subscriptions) = store.subscriptions() else {
        return;
    };
    let one = subscription("one", &*store);
    subscriptions.put_subscription(&one).await.expect("it is kept");
    assert_eq!(subscriptions.progress("one").await.expect("it is read"), None);
    let now = store.now();
    let mut orders = [OrderId(uuid::Uuid::now_v7()), OrderId(uuid::Uuid::now_v7())];
    orders.sort();
    let cursor = |position| Cursor { epoch: 7, position };
    let first = Advance {
        notice: None,
        hold: None,
        cursor: Some(cursor(3)),
        failed: orders.iter().map(|order| exception(*order, 1, now)).collect(),
        settled: Vec::new(),
        deliveries: vec![delivery("a:1", now), delivery("b:1", now)],
    };
    subscriptions.advance("one", first).await.expect("it moves");
    let second = Advance {
        notice: None,
        hold: None,
        cursor: None,
        failed: vec![exception(orders[1], 2, now)],
        settled: vec![orders[0]],
        deliveries: vec![delivery("b:2", now)],
    };
    subscriptions.advance("one", second).await.expect("it moves");
    subscriptions.put_subscription(&one).await.expect("it is replaced");
    let progress = subscriptions.progress("one").await.expect("it is read");
    let progress = progress.expect("it has moved");
    assert_eq!(progress.cursor, cursor(3), "no cursor leaves it where it was");
    assert_eq!(progress.exceptions, [exception(orders[1], 2, now)]);
    let log = subscriptions
        .deliveries("one", u64::MAX, 2)
        .await
        .expect("the log is read");
    let named: Vec<_> = log.iter().map(|one| (one.number, one.event.as_str())).collect();
    assert_eq!(named, [(3, "b:2"), (2, "b:1")], "newest first");
    let log = subscriptions.deliveries("one", 2, 9).await.expect("the log is read");
    assert_eq!(
        log,
        [Delivery {
            number: 1,
            ..delivery("a:1", now)
        }],
        "older ones, to the letter"
    );
    subscriptions.remove_subscription("one").await.expect("it is removed");
    let late = Advance {
        notice: None,
        hold: None,
        cursor: Some(cursor(9)),
        failed: Vec::new(),
        settled: Vec::new(),
        deliveries: vec![delivery("c:1", now)],
    };
    let applied = subscriptions.advance("one", late).await;
    assert!(!applied.expect("the store answers"), "one that comes late does nothing");
    subscriptions.put_subscription(&one).await.expect("it is kept");
    assert_eq!(
        subscriptions.progress("one").await.expect("it is read"),
        None,
        "a new one begins anew"
    );
    let log = subscriptions
        .deliveries("one", u64::MAX, 9)
        .await
        .expect("the log is read");
    assert!(log.is_empty(), "the log went with it");
}

/// The log keeps the newest.
pub async fn the_log_of_deliveries_is_bounded(store: Arc<dyn Store>) {
    let Some(subscriptions) = store.subscriptions() else {
        return;
    };
    let one = subscription("one", &*store);
    subscriptions.put_subscription(&one).await.expect("it is kept");
    for round in 0..3 {
        let advance = Advance {
            notice: None,
            hold: None,
            cursor: None,
            failed: Vec::new(),
            settled: Vec::new(),
            deliveries: (0..DELIVERIES_KEPT / 2)
                .map(|n| delivery(&format!("{round}:{n}"), store.now()))
                .collect(),
        };
        subscriptions.advance("one", advance).await.expect("it is logged");
    }
    let log = subscriptions
        .deliveries("one", u64::MAX, 2 * DELIVERIES_KEPT)
        .await
        .expect("the log is read");
    assert_eq!(log.len(), DELIVERIES_KEPT);
    let newest = (DELIVERIES_KEPT / 2 * 3) as u64;
    assert_eq!(log[0].number, newest);
    assert_eq!(log[DELIVERIES_KEPT - 1].number, newest - DELIVERIES_KEPT as u64 + 1);
}
