//! Queues of statuses: items come in commit order, one of a lane at a time, and none is lost on its way.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::OrderType;
use comanda_model::order_type::{DeadLetterInLane, StatusQueue};

use super::sample::{LONG, SHORT, Shop, laned, pass, plain};
use crate::{DeadItemMove, ItemClaim, ItemOutcome, ItemToken, QueueClaim, QueueCount, Store, StoreError};

const NEWS: &str = "news";

/// The type, where entering `waiting` and `canceled` puts an item into the queue `news`.
fn telling(mut order_type: OrderType) -> OrderType {
    for status in ["waiting", "canceled"] {
        if let Some(status) = order_type.statuses.get_mut(status) {
            status.queue = Some(StatusQueue {
                name: NEWS.into(),
                attempts: 2,
            });
        }
    }
    order_type
}

fn asked(max: usize, lease: Duration) -> QueueClaim {
    QueueClaim {
        queue: NEWS.to_owned(),
        worker: "ann".to_owned(),
        max,
        lease,
    }
}

/// A shop, or none where the store says that it keeps no queues; then it must say so when it is asked.
async fn shop(store: &Arc<dyn Store>, order_type: OrderType) -> Option<Shop> {
    if store.capabilities().status_queues {
        return Some(Shop::new(store, telling(order_type)));
    }
    let claims = store.claim_items(&asked(1, LONG)).await;
    assert!(matches!(claims, Err(StoreError::Unsupported { .. })), "{claims:?}");
    None
}

async fn pull(shop: &Shop, max: usize, lease: Duration) -> Vec<ItemClaim> {
    let claims = shop.store.claim_items(&asked(max, lease)).await;
    claims.expect("items can be claimed").claims
}

async fn pull_one(shop: &Shop) -> ItemClaim {
    let mut claims = pull(shop, 100, LONG).await;
    assert_eq!(claims.len(), 1, "one item can be claimed");
    claims.remove(0)
}

async fn settle(shop: &Shop, token: &ItemToken, outcome: ItemOutcome) -> bool {
    let settled = shop.store.settle_item(token, &outcome).await;
    settled.expect("the store answers").is_some()
}

fn retry() -> ItemOutcome {
    ItemOutcome::Retry {
        reason: "busy".to_owned(),
        delay: Duration::ZERO,
    }
}

fn refuse() -> ItemOutcome {
    ItemOutcome::Refuse {
        reason: "no".to_owned(),
    }
}

async fn count(shop: &Shop) -> QueueCount {
    let queues = shop.store.queues().await.expect("the queues can be read");
    assert_eq!(queues.len(), 1, "one queue has held something");
    queues[0].clone()
}

/// Entering a status puts an item into its queue, whether the order is final there or not; it does not hold the order.
pub async fn entering_a_status_is_told(store: Arc<dyn Store>) {
    let Some(shop) = shop(&store, plain()).await else {
        return;
    };
    assert!(pull(&shop, 10, LONG).await.is_empty(), "an empty queue has nothing");
    let first = shop.accept(r#"{"status":"waiting","n":1.0}"#).await;
    let second = shop.accept(r#"{"status":"waiting"}"#).await;
    shop.put(shop.editing(&shop.order(first).await, r#"{"status":"waiting","n":2.0}"#))
        .await
        .expect("the order can be changed meanwhile");
    let claims = pull(&shop, 10, LONG).await;
    let ids: Vec<_> = claims.iter().map(|claim| claim.token.position).collect();
    assert!(
        claims.len() == 2 && ids[0] < ids[1],
        "both, in commit order: {claims:?}"
    );
    assert_eq!((claims[0].order.id(), claims[1].order.id()), (first, second));
    assert_eq!(
        (&*claims[0].status, claims[0].version, claims[0].attempt),
        ("waiting", 1, 1)
    );
    assert_eq!(
        claims[0].order.data.as_str(),
        r#"{"status":"waiting","n":2.0}"#,
        "as it stands"
    );
    assert!(pull(&shop, 10, LONG).await.is_empty(), "nobody else is given them");
    let counts = count(&shop).await;
    assert_eq!((counts.depth, counts.leased, counts.dead), (2, 2, 0));
    assert!(counts.oldest_at.is_some());

    assert!(settle(&shop, &claims[0].token, ItemOutcome::Done).await, "it is done");
    assert!(!settle(&shop, &claims[0].token, ItemOutcome::Done).await, "once");
    assert!(
        store.renew_item(&claims[0].token, LONG).await.unwrap().is_none(),
        "and is over"
    );
    shop.cancel(first).await;
    let last = pull_one(&shop).await;
    assert_eq!(
        (&*last.status, last.version),
        ("canceled", 3),
        "the next status is told too"
    );
    settle(&shop, &last.token, ItemOutcome::Done).await;
    settle(&shop, &claims[1].token, ItemOutcome::Done).await;
    let counts = count(&shop).await;
    assert_eq!((counts.depth, counts.leased, counts.oldest_at), (0, 0, None));
}

/// Items of one lane come one after the other, through failures, dead letters and redrives; other lanes go on.
pub async fn items_of_a_lane_come_in_order(store: Arc<dyn Store>) {
    let Some(shop) = shop(&store, laned(DeadLetterInLane::Park)).await else {
        return;
    };
    let mut lane = Vec::new();
    for _ in 0..3 {
        lane.push(shop.accept(r#"{"customer":"c","status":"waiting"}"#).await);
    }
    let other = shop.accept(r#"{"customer":"d","status":"waiting"}"#).await;
    let claims = pull(&shop, 10, LONG).await;
    let ids: Vec<_> = claims.iter().map(|claim| claim.order.id()).collect();
    assert_eq!(ids, [lane[0], other], "one of each lane");
    settle(&shop, &claims[1].token, ItemOutcome::Done).await;
    settle(&shop, &claims[0].token, retry()).await;
    let again = pull_one(&shop).await;
    assert_eq!(
        (again.order.id(), again.attempt),
        (lane[0], 2),
        "a failure holds its lane"
    );
    settle(&shop, &again.token, retry()).await;
    assert!(pull(&shop, 10, LONG).await.is_empty(), "so does a dead letter");
    let dead = store.dead_items(NEWS, 0, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(
        (dead[0].order, dead[0].attempt, dead[0].reason.as_str()),
        (lane[0], 2, "busy")
    );
    assert!(store.dead_items(NEWS, dead[0].position, 10).await.unwrap().is_empty());
    assert_eq!((count(&shop).await.depth, count(&shop).await.dead), (2, 1));

    let moved = store
        .move_dead_items(NEWS, &[dead[0].position, 999_999], DeadItemMove::Redrive)
        .await;
    assert_eq!(moved.unwrap(), 1);
    let redriven = pull_one(&shop).await;
    assert_eq!(
        (redriven.order.id(), redriven.attempt),
        (lane[0], 1),
        "it takes its place back"
    );
    settle(&shop, &redriven.token, refuse()).await;
    let dead = store.dead_items(NEWS, 0, 10).await.unwrap();
    store
        .move_dead_items(NEWS, &[dead[0].position], DeadItemMove::Discard)
        .await
        .unwrap();
    for id in &lane[1..] {
        let next = pull_one(&shop).await;
        assert_eq!(next.order.id(), *id, "the others follow in their order");
        settle(&shop, &next.token, ItemOutcome::Done).await;
    }
    assert_eq!((count(&shop).await.depth, count(&shop).await.dead), (0, 0));
}

/// Where dead letters leave their lane, the others pass; redriven, one comes before those that still wait.
pub async fn a_dead_item_that_leaves_is_passed(store: Arc<dyn Store>) {
    let Some(shop) = shop(&store, laned(DeadLetterInLane::Leave)).await else {
        return;
    };
    let mut lane = Vec::new();
    for _ in 0..3 {
        lane.push(shop.accept(r#"{"customer":"c","status":"waiting"}"#).await);
    }
    let first = pull_one(&shop).await;
    settle(&shop, &first.token, refuse()).await;
    let second = pull_one(&shop).await;
    assert_eq!(second.order.id(), lane[1], "the next passes it");
    let redriven = store
        .move_dead_items(NEWS, &[first.token.position], DeadItemMove::Redrive)
        .await;
    assert_eq!(redriven.unwrap(), 1);
    assert!(
        pull(&shop, 10, LONG).await.is_empty(),
        "it waits for the one that is leased"
    );
    settle(&shop, &second.token, ItemOutcome::Done).await;
    for id in [lane[0], lane[2]] {
        let next = pull_one(&shop).await;
        assert_eq!(next.order.id(), id, "then comes before those behind it");
        settle(&shop, &next.token, ItemOutcome::Done).await;
    }
}

/// An item whose worker is lost is handed out again, and is a dead letter after its last attempt.
pub async fn an_item_of_a_lost_worker_comes_again(store: Arc<dyn Store>) {
    let Some(shop) = shop(&store, plain()).await else {
        return;
    };
    shop.accept(r#"{"status":"waiting"}"#).await;
    let first = pull(&shop, 1, SHORT).await.remove(0);
    pass(&*store, first.lease_until).await;
    assert_eq!(count(&shop).await.leased, 0);
    let until = store
        .renew_item(&first.token, SHORT)
        .await
        .unwrap()
        .expect("nobody has taken it");
    pass(&*store, until).await;
    let second = pull(&shop, 1, SHORT).await.remove(0);
    assert_eq!(second.attempt, 2);
    assert!(
        !settle(&shop, &first.token, ItemOutcome::Done).await,
        "the first is fenced"
    );
    pass(&*store, second.lease_until).await;
    assert!(pull(&shop, 1, LONG).await.is_empty(), "there is no third time");
    let dead = store.dead_items(NEWS, 0, 10).await.unwrap();
    assert!(dead[0].reason.contains("`ann`"), "{dead:?}");
    assert!(
        !settle(&shop, &second.token, ItemOutcome::Done).await,
        "and the second is fenced"
    );
}

/// An order of which a queue still holds an item is not removed.
pub async fn an_order_stays_while_a_queue_has_it(store: Arc<dyn Store>) {
    let Some(shop) = shop(&store, plain()).await else {
        return;
    };
    let id = shop.accept(r#"{"status":"waiting"}"#).await;
    shop.cancel(id).await;
    let later = store.now() + Duration::from_secs(1);
    assert_eq!(store.retain(later, 10).await.unwrap(), 0, "two items are left");
    for status in ["waiting", "canceled"] {
        let item = pull_one(&shop).await;
        assert_eq!(&*item.status, status, "an order's own items come one after the other");
        settle(&shop, &item.token, ItemOutcome::Done).await;
    }
    assert_eq!(store.retain(later, 10).await.unwrap(), 1, "then it goes");
}
