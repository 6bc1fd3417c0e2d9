//! Since when there are events that a subscription has yet to send: retention waits for them.

use comanda_store::subscription::Progress;
use comanda_store::{FeedStart, Store, StoreError};
use jiff::Timestamp;

use crate::target::Target;

/// When the oldest event was recorded that a subscription at work has not sent yet; `None` if all are sent.
///
/// Paused subscriptions are not waited for, nor archives: those read an order's history when they are behind. One whose
/// cursor retention has passed already has its gap.
pub async fn unread_since(store: &dyn Store) -> Result<Option<Timestamp>, StoreError> {
    let Some(port) = store.subscriptions() else {
        return Ok(None);
    };
    let mut oldest: Option<Timestamp> = None;
    let mut older = |at: Timestamp| oldest = Some(oldest.map_or(at, |oldest| oldest.min(at)));
    for subscription in port.all_subscriptions().await? {
        let is_archive = matches!(Target::of(&subscription.url), Target::Archive(_));
        if subscription.paused.is_some() || is_archive {
            continue;
        }
        let Some(Progress { cursor, exceptions }) = port.progress(&subscription.id).await? else {
            continue;
        };
        match store.feed(FeedStart::After(cursor), 1).await {
            Ok(page) => {
                page.events.iter().for_each(|one| older(one.event.at));
                page.notices.iter().for_each(|one| older(one.notice.at));
            }
            Err(StoreError::CursorReset) => {}
            Err(error) => return Err(error),
        }
        for exception in exceptions {
            let next = store
                .history(exception.order, exception.number.saturating_sub(1), 1)
                .await?;
            next.iter().for_each(|event| older(event.at));
        }
    }
    Ok(oldest)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use comanda_store::conformance::sample::{Shop, plain};
    use comanda_store::memory::MemoryStore;
    use comanda_store::subscription::{Advance, EventFilter, Exception, Ordering, Paused, Subscription};

    use super::*;

    fn subscription(url: &str, paused: Option<Paused>) -> Subscription {
        Subscription {
            id: "shop".to_owned(),
            name: String::new(),
            url: url.to_owned(),
            filter: EventFilter::default(),
            include_order: false,
            secrets: Vec::new(),
            allow_private: true,
            concurrency: 1,
            ordering: Ordering::default(),
            configured: false,
            created_at: Timestamp::UNIX_EPOCH,
            paused,
        }
    }

    fn advance() -> Advance {
        Advance {
            notice: None,
            hold: None,
            cursor: None,
            failed: Vec::new(),
            settled: Vec::new(),
            deliveries: Vec::new(),
        }
    }

    #[tokio::test]
    async fn what_is_sent_or_paused_is_not_waited_for() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let shop = Shop::new(&store, plain());
        let port = store.subscriptions().unwrap();
        let unread = || async { unread_since(store.as_ref()).await.unwrap() };
        let begin = store.feed(FeedStart::Oldest, 0).await.unwrap().next;
        let id = shop.accept("{}").await;
        let accepted = store.history(id, 0, 1).await.unwrap()[0].at;
        port.put_subscription(&subscription("https://shop.example", None))
            .await
            .unwrap();
        assert_eq!(unread().await, None, "it has not begun");
        let at_begin = Advance {
            cursor: Some(begin),
            ..advance()
        };
        port.advance("shop", at_begin).await.unwrap();
        assert_eq!(unread().await, Some(accepted));
        let paused = Paused {
            at: accepted,
            reason: String::new(),
        };
        for waited_for_not in [
            subscription("https://shop.example", Some(paused)),
            subscription("archive:failures", None),
        ] {
            port.put_subscription(&waited_for_not).await.unwrap();
            assert_eq!(unread().await, None);
        }
        port.put_subscription(&subscription("https://shop.example", None))
            .await
            .unwrap();
        let end = store.feed(FeedStart::Newest, 0).await.unwrap().next;
        let failed = Exception {
            order: id,
            number: 1,
            until: 1,
            attempts: 1,
            retry_at: accepted,
            lane: None,
            position: 1,
        };
        let failing = Advance {
            cursor: Some(end),
            failed: vec![failed],
            ..advance()
        };
        port.advance("shop", failing).await.unwrap();
        assert_eq!(unread().await, Some(accepted), "one that is tried again");
        let settled = Advance {
            settled: vec![id],
            ..advance()
        };
        port.advance("shop", settled).await.unwrap();
        assert_eq!(unread().await, None);
    }
}
