//! The feed: all events, in commit order, resumed from a cursor without loss or repetition.

use std::collections::HashMap;
use std::sync::Arc;

use comanda_model::OrderId;
use comanda_model::decision::Command;

use super::sample::{Shop, done, plain};
use crate::{Cursor, FeedEvent, FeedStart, Store, StoreError};

async fn read_all(store: &dyn Store, mut from: FeedStart, size: usize) -> Vec<FeedEvent> {
    let mut events = Vec::new();
    loop {
        let page = store.feed(from, size).await.expect("the feed can be read");
        assert!(page.events.len() <= size, "no more than was asked for");
        if page.events.is_empty() {
            return events;
        }
        assert_eq!(
            page.events.last().map(|event| event.cursor),
            Some(page.next),
            "the next page is after the last event"
        );
        from = FeedStart::After(page.next);
        events.extend(page.events);
        tokio::task::yield_now().await;
    }
}

/// Events come in the order of the commits, with what a reader chooses by, whatever the size of the pages.
pub async fn the_feed_is_in_commit_order(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let empty = store
        .feed(FeedStart::Oldest, 10)
        .await
        .expect("an empty feed can be read");
    assert!(empty.events.is_empty(), "nothing has happened");
    let mut expected = Vec::new();
    for n in 0..6 {
        let commit = shop.accepting(&format!(r#"{{"customer":"c{n}"}}"#));
        let id = commit.order.id();
        expected.push((id, format!("c{n}"), commit.events[0].clone()));
        shop.put(commit).await.expect("the order is accepted");
        if n % 2 == 0 {
            let cancel = shop.commanding(
                &shop.order(id).await,
                Command::Cancel {
                    reason: None,
                    in_flight: false,
                    begun: false,
                },
            );
            expected.extend(cancel.events.iter().map(|event| (id, format!("c{n}"), event.clone())));
            shop.put(cancel).await.expect("the order is cancelled");
        }
    }
    for size in [1, 2, 7, 1000] {
        let events = read_all(&*store, FeedStart::Oldest, size).await;
        let read: Vec<_> = events
            .iter()
            .map(|event| {
                (
                    event.order,
                    event.customer.clone().unwrap_or_default(),
                    event.event.clone(),
                )
            })
            .collect();
        assert_eq!(read, expected, "in pages of {size}");
        assert!(
            events.iter().all(|event| &*event.order_type == "plain"),
            "each names the type"
        );
        assert!(
            events.windows(2).all(|pair| pair[0].cursor < pair[1].cursor),
            "cursors go up"
        );
    }
    // Each event's own cursor is a place to go on from.
    let events = read_all(&*store, FeedStart::Oldest, 100).await;
    for (index, event) in events.iter().enumerate() {
        let page = store
            .feed(FeedStart::After(event.cursor), 1)
            .await
            .expect("the feed can be read");
        assert_eq!(
            page.events.first(),
            events.get(index + 1),
            "after one event comes the next"
        );
    }
    let text = events[2].cursor.to_string();
    assert_eq!(
        text.parse::<Cursor>().ok(),
        Some(events[2].cursor),
        "a cursor survives as text"
    );
    let Some(subscriptions) = store.subscriptions() else {
        return;
    };
    let feed = read_all(&*store, FeedStart::Oldest, 1000).await;
    let place = |event: &FeedEvent| {
        (
            event.event.number,
            event.cursor.position,
            event.order_type.clone(),
            event.customer.clone(),
        )
    };
    for (id, _, _) in &expected {
        let of_order: Vec<_> = feed.iter().filter(|event| event.order == *id).map(place).collect();
        for after in 0..=of_order.len() {
            let events = subscriptions
                .events_of(*id, after as u64, 1)
                .await
                .expect("they can be read");
            let found: Vec<_> = events.iter().map(place).collect();
            let wanted = of_order.get(after..).unwrap_or_default();
            assert_eq!(
                found,
                wanted[..wanted.len().min(1)],
                "an order's events, as the feed has them"
            );
        }
    }
}

/// A reader that resumes after each page gets every event once, each order's in order, while writers are at work.
pub async fn a_reader_gets_every_event_once(store: Arc<dyn Store>) {
    const WRITERS: usize = 6;
    const EACH: usize = 15;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let shop = Shop::new(&store, plain());
        writers.push(tokio::spawn(async move {
            for _ in 0..EACH {
                let id = shop.accept("{}").await;
                for _ in 0..2 {
                    let order = shop.order(id).await;
                    shop.put(shop.working(&order, None, done(None)))
                        .await
                        .expect("nobody else works the order");
                }
            }
        }));
    }
    // Each order is accepted and done: two events.
    let wanted = WRITERS * EACH * 2;
    let mut numbers: HashMap<OrderId, u64> = HashMap::new();
    let (mut from, mut read, mut size) = (FeedStart::Oldest, 0, 1);
    let mut position = store.position();
    while read < wanted {
        let page = store.feed(from, size).await.expect("the feed can be read");
        for event in &page.events {
            let last = numbers.entry(event.order).or_default();
            assert_eq!(
                event.event.number,
                *last + 1,
                "order {} goes on without gap or repetition",
                event.order
            );
            *last = event.event.number;
        }
        read += page.events.len();
        if page.events.is_empty() {
            let seen = match from {
                FeedStart::After(cursor) => cursor.position,
                FeedStart::Oldest | FeedStart::Newest => 0,
            };
            position
                .wait_for(|newest| *newest > seen)
                .await
                .expect("the store is open");
        }
        from = FeedStart::After(page.next);
        size = size % 5 + 1;
    }
    for writer in writers {
        writer.await.expect("the writer succeeds");
    }
    let page = store.feed(from, 10).await.expect("the feed can be read");
    assert!(page.events.is_empty(), "there is nothing more: {:?}", page.events);
    assert_eq!(numbers.len(), WRITERS * EACH, "every order was told of");
}

/// A cursor of another epoch, or of a position that there never was, is answered with a reset, never with a wrong page.
pub async fn a_foreign_cursor_is_reset(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    shop.accept("{}").await;
    let cursor = store
        .feed(FeedStart::Newest, 1)
        .await
        .expect("the feed can be read")
        .next;
    let foreign = Cursor {
        epoch: cursor.epoch ^ 1,
        ..cursor
    };
    let future = Cursor {
        position: cursor.position + 1,
        ..cursor
    };
    for cursor in [foreign, future] {
        let answer = store.feed(FeedStart::After(cursor), 10).await;
        assert!(
            matches!(answer, Err(StoreError::CursorReset)),
            "{cursor} is no place in this feed: {answer:?}"
        );
    }
}

/// A reader that begins at the newest event gets only what comes after.
pub async fn the_newest_is_where_the_feed_ends(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let empty = store
        .feed(FeedStart::Newest, 10)
        .await
        .expect("an empty feed can be read");
    let first = shop.accept("{}").await;
    let page = store
        .feed(FeedStart::After(empty.next), 10)
        .await
        .expect("the feed can be read");
    assert_eq!(
        page.events.iter().map(|event| event.order).collect::<Vec<_>>(),
        [first],
        "from the very beginning"
    );
    let newest = store.feed(FeedStart::Newest, 10).await.expect("the feed can be read");
    assert!(newest.events.is_empty(), "what has happened before is not told");
    assert_eq!(newest.next, page.next, "the newest is the end");
    let second = shop.accept("{}").await;
    let page = store
        .feed(FeedStart::After(newest.next), 10)
        .await
        .expect("the feed can be read");
    assert_eq!(
        page.events.iter().map(|event| event.order).collect::<Vec<_>>(),
        [second],
        "what comes after is"
    );
}

/// The newest position is announced, and what it names can be read by then.
pub async fn the_position_is_announced(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let mut position = store.position();
    let before = *position.borrow_and_update();
    let receipt = shop.put(shop.accepting("{}")).await.expect("the order is accepted");
    let announced = *position
        .wait_for(|newest| *newest > before)
        .await
        .expect("the store is open");
    assert_eq!(announced, receipt.position, "it is the commit's");
    let cursor = store
        .feed(FeedStart::Newest, 1)
        .await
        .expect("the feed can be read")
        .next;
    assert_eq!(cursor.position, announced, "it can be read");
    let listener = tokio::spawn({
        let (store, mut position) = (store.clone(), store.position());
        async move {
            let mut seen = 0;
            while seen < 20 {
                seen = *position
                    .wait_for(|newest| *newest > seen)
                    .await
                    .expect("the store is open");
                let newest = store
                    .feed(FeedStart::Newest, 1)
                    .await
                    .expect("the feed can be read")
                    .next;
                assert!(newest.position >= seen, "what is announced can be read");
            }
        }
    });
    for _ in 0..20 {
        shop.accept("{}").await;
    }
    listener.await.expect("every announcement comes");
}
