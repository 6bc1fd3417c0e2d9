//! Notices: each has a place in the feed between the events of orders, once.

use std::sync::Arc;

use comanda_model::order_type::DeadLetterInLane;

use super::sample::{Shop, laned};
use super::subscriptions::subscription;
use crate::subscription::{Advance, Paused, Subscription};
use crate::{FeedPage, FeedStart, Notice, Store, StoreError};

/// What a page tells of, in the order of its places.
fn told(page: &FeedPage) -> Vec<String> {
    let events = page.events.iter();
    let notices = page.notices.iter();
    let mut all: Vec<(u64, String)> = events
        .map(|one| (one.cursor.position, format!("{}:{}", one.order, one.event.number)))
        .chain(notices.map(|one| (one.cursor.position, one.notice.id.clone())))
        .collect();
    all.sort();
    all.into_iter().map(|(_, id)| id).collect()
}

fn advance(notice: Option<Notice>) -> Advance {
    Advance {
        hold: None,
        cursor: None,
        failed: Vec::new(),
        settled: Vec::new(),
        deliveries: Vec::new(),
        notice,
    }
}

/// Notices stand in the feed in commit order with the events of orders, are told to those who watch it, come in pages that
/// leave nothing out, and are there once; retention removes them with a reset. A store without them passes.
pub async fn notices_stand_in_the_feed(store: Arc<dyn Store>) {
    let Some(subscriptions) = store.subscriptions().filter(|_| store.capabilities().notices) else {
        return;
    };
    let shop = Shop::new(&store, laned(DeadLetterInLane::Leave));
    let one = subscription("one", &*store);
    subscriptions.put_subscription(&one).await.expect("it is kept");
    let first = shop.accept(r#"{"customer":"ann"}"#).await;
    let position = store.position();
    let before = *position.borrow();
    let at = store.now();
    let paused = Notice::paused("one", at, "it is gone");
    let changed = Subscription {
        paused: Some(Paused {
            at,
            reason: "it is gone".to_owned(),
        }),
        ..one.clone()
    };
    subscriptions
        .put_announced(&changed, &paused)
        .await
        .expect("it is kept and told");
    assert_eq!(
        subscriptions.all_subscriptions().await.expect("all are read"),
        [changed]
    );
    assert!(*position.borrow() > before, "those who watch the feed are told");
    let second = shop.accept(r#"{"customer":"ann"}"#).await;
    let end = store
        .feed(FeedStart::Newest, 0)
        .await
        .expect("the feed has an end")
        .next;
    let gap = Notice::gap("one", store.now(), end, end);
    for _ in 0..2 {
        let applied = subscriptions.advance("one", advance(Some(gap.clone()))).await;
        assert!(applied.expect("it is applied"));
    }
    let nobody = Notice::gap("nobody", store.now(), end, end);
    let applied = subscriptions.advance("nobody", advance(Some(nobody))).await;
    assert!(!applied.expect("there is no such subscription"));

    let expected = [
        format!("{first}:1"),
        paused.id.clone(),
        format!("{second}:1"),
        gap.id.clone(),
    ];
    let all = store.feed(FeedStart::Oldest, 100).await.expect("the feed can be read");
    assert_eq!(told(&all), expected);
    assert_eq!(all.notices[0].notice, paused, "to the letter");
    assert_eq!(all.notices[1].notice, gap);
    assert_eq!(all.next, all.notices[1].cursor);
    for max in 1..4 {
        let (mut from, mut pages) = (FeedStart::Oldest, Vec::new());
        loop {
            let page = store.feed(from, max).await.expect("the feed can be read");
            if page.is_empty() {
                break;
            }
            assert!(page.events.len() + page.notices.len() <= max);
            from = FeedStart::After(page.next);
            pages.extend(told(&page));
        }
        assert_eq!(pages, expected, "in pages of {max}");
    }
    let newest = store.feed(FeedStart::Newest, 10).await.expect("the feed can be read");
    assert!(newest.is_empty() && newest.next == all.next);

    let early = FeedStart::After(all.events[0].cursor);
    while store.now() <= gap.at {}
    store
        .retain(store.now(), 100)
        .await
        .expect("old notices can be removed");
    assert!(matches!(store.feed(early, 10).await, Err(StoreError::CursorReset)));
    let left = store.feed(FeedStart::Oldest, 10).await.expect("the feed can be read");
    assert!(left.notices.is_empty(), "{left:?}");
    let third = shop.accept(r#"{"customer":"ann"}"#).await;
    let page = store
        .feed(FeedStart::After(all.next), 10)
        .await
        .expect("what comes is read");
    assert_eq!(told(&page), [format!("{third}:1")]);
}
