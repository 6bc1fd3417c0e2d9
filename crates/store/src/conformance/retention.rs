//! Retention: what has been final for long enough goes, with everything that belongs to it, in bites.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::OrderId;

use super::sample::{LONG, Shop, key, pass, plain};
use crate::{FeedStart, KeyClaim, ListQuery, Store, StoreError};

async fn retain_all(store: &dyn Store, before: jiff::Timestamp, max: usize) -> usize {
    let mut gone = 0;
    loop {
        let bite = store.retain(before, max).await.expect("old orders can be removed");
        assert!(bite <= max, "no more than was asked for: {bite}");
        if bite == 0 {
            return gone;
        }
        gone += bite;
        tokio::task::yield_now().await;
    }
}

/// Final orders that have not changed since a moment are removed wholly, a bounded number per call; all others stay.
pub async fn what_is_old_goes_in_bites(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let mut old = Vec::new();
    for _ in 0..7 {
        let id = shop.accept(r#"{"customer":"ann"}"#).await;
        shop.cancel(id).await;
        old.push(id);
    }
    let living = shop.accept("{}").await;
    let dead = shop.accept_dead("{}", "down").await;
    pass(&*store, store.now()).await;
    let before = store.now();
    let fresh = shop.accept("{}").await;
    shop.cancel(fresh).await;
    assert_eq!(retain_all(&*store, before, 3).await, 7, "all that are old are gone");
    for id in &old {
        assert!(store.order(*id).await.unwrap().is_none(), "the order is gone");
        assert!(store.history(*id, 0, 10).await.unwrap().is_empty(), "with its events");
        assert!(store.attempts(*id, 0, 10).await.unwrap().is_empty(), "and its attempts");
    }
    let page = store
        .list(&ListQuery {
            limit: 100,
            ..ListQuery::default()
        })
        .await
        .unwrap();
    let kept: Vec<OrderId> = page.orders.iter().map(|stored| stored.order.id()).collect();
    assert_eq!(kept, [fresh, dead, living], "what is not final, or not old, is kept");
    let page = store
        .list(&ListQuery {
            limit: 100,
            customer: Some("ann".to_owned()),
            ..ListQuery::default()
        })
        .await;
    assert!(page.unwrap().orders.is_empty(), "no list names one that is gone");
    let counted: u64 = store
        .counters()
        .await
        .unwrap()
        .counts
        .iter()
        .map(|count| count.count)
        .sum();
    assert_eq!(counted, 3, "the counters count what is kept");
    let feed = store
        .feed(FeedStart::Oldest, 100)
        .await
        .expect("the feed can be read from its oldest event");
    assert!(
        feed.events.iter().all(|event| !old.contains(&event.order)),
        "the feed tells nothing of what is gone"
    );
    assert_eq!(shop.claim(10).await.len(), 1, "the living order's work is still due");
}

/// Keys that lead to a removed order go with it, and expired keys go in any case.
pub async fn keys_go_with_their_order(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let soon = store.now() + Duration::from_millis(10);
    let mut commit = shop.accepting("{}");
    let id = commit.order.id();
    commit.keys = vec![
        key("type:plain", "A"),
        KeyClaim {
            expires_at: Some(store.now() + LONG),
            ..key("idempotency:k", "A")
        },
    ];
    shop.put(commit).await.expect("the keys are free");
    let mut commit = shop.accepting("{}");
    let living = commit.order.id();
    commit.keys = vec![
        key("type:plain", "B"),
        KeyClaim {
            expires_at: Some(soon),
            ..key("idempotency:k", "B")
        },
    ];
    shop.put(commit).await.expect("the keys are free");
    shop.cancel(id).await;
    pass(&*store, soon).await;
    assert_eq!(
        retain_all(&*store, store.now(), 10).await,
        1,
        "the cancelled order is gone"
    );
    for (scope, name, expected) in [
        ("type:plain", "A", None),
        ("idempotency:k", "A", None),
        ("type:plain", "B", Some(living)),
        ("idempotency:k", "B", None),
    ] {
        let found = store.key(scope, name).await.unwrap();
        assert_eq!(found.map(|found| found.0), expected, "the key `{scope}` `{name}`");
    }
    // An expired key that another order has taken stays with that one when the first goes.
    let soon = store.now() + Duration::from_millis(10);
    let reused = |expires_at| KeyClaim {
        expires_at,
        ..key("idempotency:k", "C")
    };
    let (mut first, mut second) = (shop.accepting("{}"), shop.accepting("{}"));
    let (first_id, second_id) = (first.order.id(), second.order.id());
    first.keys = vec![reused(Some(soon))];
    second.keys = vec![reused(None)];
    shop.put(first).await.expect("the key is free");
    pass(&*store, soon).await;
    shop.put(second).await.expect("the key has expired");
    shop.cancel(first_id).await;
    pass(&*store, store.now()).await;
    assert_eq!(retain_all(&*store, store.now(), 10).await, 1, "the first order is gone");
    let found = store.key("idempotency:k", "C").await.unwrap();
    assert_eq!(
        found.map(|found| found.0),
        Some(second_id),
        "the key leads to the second"
    );

    let mut again = shop.accepting("{}");
    again.keys = vec![
        key("type:plain", "A"),
        key("idempotency:k", "A"),
        key("idempotency:k", "B"),
    ];
    shop.put(again).await.expect("the keys are free again");
}

/// A reader whose cursor lies before events that were removed is told, and can begin again.
pub async fn a_cursor_that_was_passed_is_reset(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let start = store
        .feed(FeedStart::Newest, 1)
        .await
        .expect("the feed can be read")
        .next;
    let id = shop.accept("{}").await;
    shop.cancel(id).await;
    let passed = store
        .feed(FeedStart::Newest, 1)
        .await
        .expect("the feed can be read")
        .next;
    shop.accept("{}").await;
    pass(&*store, store.now()).await;
    assert_eq!(
        retain_all(&*store, store.now(), 10).await,
        1,
        "the cancelled order is gone"
    );
    let answer = store.feed(FeedStart::After(start), 10).await;
    assert!(
        matches!(answer, Err(StoreError::CursorReset)),
        "the cursor was passed: {answer:?}"
    );
    let page = store
        .feed(FeedStart::After(passed), 10)
        .await
        .expect("a reader that was ahead goes on");
    assert_eq!(page.events.len(), 1, "and misses nothing");
    // Whoever begins at the oldest event can follow the pages to the end, without another reset.
    let mut from = FeedStart::Oldest;
    loop {
        let page = store.feed(from, 1).await.expect("the feed can be read to its end");
        if page.events.is_empty() {
            break;
        }
        from = FeedStart::After(page.next);
    }
}
