//! Erasing: what stands of an order outside its head and its data goes with one event.

use std::sync::Arc;

use comanda_model::decision::{Command, StepOutcome};
use comanda_model::order_type::DeadLetterInLane;
use comanda_model::{Event, EventKind, Json, Outcome, Phase};

use super::sample::{Shop, done, failed, laned};
use crate::{CommitError, FeedStart, ListQuery, Store};

/// An erased order is still there, with its events and attempts, and nothing in it tells of its customer; it is no longer
/// found by customer or group. Another order of the same customer stays whole.
pub async fn an_erased_order_tells_nothing(store: Arc<dyn Store>) {
    if !store.capabilities().erasure {
        return;
    }
    let shop = Shop::new(&store, laned(DeadLetterInLane::Leave));
    let data = r#"{"customer":"ann","amount":10.50,"note":"ring twice"}"#;
    let id = shop.accept(data).await;
    // A failure with a reason, a result, and a cancel with a reason.
    let fails = shop.working(&shop.order(id).await, None, failed("no answer from ann"));
    shop.put(fails).await.expect("the failure is recorded");
    let done_with = StepOutcome::Done {
        result: Some(Json::from_valid(r#"{"address":"High Street"}"#)),
    };
    let reserved = shop.working(&shop.order(id).await, None, done_with);
    shop.put(reserved).await.expect("the step is done");
    assert_eq!(shop.order(id).await.results.len(), 1);
    let edit = shop.editing(&shop.order(id).await, data);
    shop.put(edit).await.expect("the data is edited");
    let cancel = Command::Cancel {
        reason: Some("ann has moved".to_owned()),
        in_flight: false,
        begun: false,
    };
    shop.command(id, cancel).await;
    while shop.order(id).await.head.phase != Phase::Final {
        let undo = shop.working(&shop.order(id).await, None, done(None));
        shop.put(undo).await.expect("what was done is taken back");
    }
    let other = shop.accept(data).await;
    let before = shop.order(id).await;
    let (events, attempts) = (
        store.history(id, 0, 100).await.unwrap(),
        store.attempts(id, 0, 100).await.unwrap(),
    );

    let erasing = shop.commanding(&before, Command::Erase);
    assert!(erasing.erases());
    shop.put(erasing.clone()).await.expect("the order is erased");
    let repeated = shop
        .put(erasing.clone())
        .await
        .expect("a repetition answers as the first");
    assert!(!repeated.claimed);
    let mut stale = erasing;
    Arc::make_mut(&mut stale.order).head.commit_id = comanda_model::CommitId(uuid::Uuid::new_v4());
    assert!(matches!(shop.put(stale).await, Err(CommitError::VersionMoved { .. })));

    let after = shop.order(id).await;
    assert_eq!(
        after.data.as_str(),
        r#"{"amount":10.50}"#,
        "what the type keeps stays to the letter"
    );
    assert!(after.results.is_empty(), "{:?}", after.results);
    assert_eq!(
        (
            &after.accepted.customer,
            &after.accepted.group,
            &after.accepted.traceparent
        ),
        (&None, &None, &None)
    );
    assert_eq!(
        (
            after.id(),
            &after.accepted.order_type,
            after.accepted.at,
            &after.head.status
        ),
        (
            before.id(),
            &before.accepted.order_type,
            before.accepted.at,
            &before.head.status
        )
    );
    assert!(after.head.erased_at.is_some());
    let events_after = store.history(id, 0, 100).await.unwrap();
    assert_eq!(events_after.len(), events.len() + 1);
    assert_eq!(events_after.last().map(|event| event.kind), Some(EventKind::Erased));
    for (after, before) in events_after.iter().zip(&events) {
        assert_eq!(
            (after.number, after.kind, after.at),
            (before.number, before.kind, before.at)
        );
        assert_eq!(after.reason, None);
        let pointers = |event: &Event| event.changed.iter().map(|one| one.pointer.clone()).collect::<Vec<_>>();
        assert_eq!(pointers(after), pointers(before));
        assert!(after.changed.iter().all(|one| one.values.is_none()), "{after:?}");
    }
    let attempts_after = store.attempts(id, 0, 100).await.unwrap();
    assert_eq!(attempts_after.len(), attempts.len());
    assert!(
        events
            .iter()
            .any(|event| event.changed.iter().any(|one| one.values.is_some())),
        "an edit keeps its values until then"
    );
    assert!(attempts.iter().any(|attempt| attempt.outcome == Outcome::Failed));
    for (after, before) in attempts_after.iter().zip(&attempts) {
        assert_eq!(
            (after.number, after.outcome, &after.step),
            (before.number, before.outcome, &before.step)
        );
        assert_eq!((&after.reason, &after.result), (&None, &None));
    }
    for query in [
        ListQuery {
            customer: Some("ann".to_owned()),
            ..ListQuery::default()
        },
        ListQuery {
            group: Some("ann".to_owned()),
            ..ListQuery::default()
        },
    ] {
        let query = ListQuery { limit: 10, ..query };
        let page = store.list(&query).await.expect("orders can be listed");
        let ids: Vec<_> = page.orders.iter().map(|stored| stored.order.id()).collect();
        assert_eq!(ids, [other], "{query:?}");
    }
    assert_eq!(shop.order(other).await.data.as_str(), data);
    let feed = store.feed(FeedStart::Oldest, 100).await.expect("the feed can be read");
    for event in feed.events.iter().filter(|event| event.order == id) {
        assert_eq!((&event.customer, &event.event.reason), (&None, &None));
    }
}
