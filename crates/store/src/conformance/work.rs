//! Queues of steps: work that waits for workers from outside is theirs and not the engine's, goes to one at a time, and is
//! fenced as any other.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use comanda_model::decision::{Command, Report, StepOutcome};
use comanda_model::order_type::{Action, DeadLetterInLane};
use comanda_model::{OrderType, decision};
use parking_lot::Mutex;

use super::sample::{LONG, SHORT, Shop, commit, done, failed, laned, pass, plain};
use crate::{CommitError, Expect, Place, QueueClaim, QueueCount, Receipt, Store, StoreError, WorkClaim};

const PICKING: &str = "picking";

/// The type, with `reserve` done by workers of the queue `picking`.
fn queued(mut order_type: OrderType) -> OrderType {
    if let Some(step) = order_type.steps.get_mut("reserve") {
        step.action = Action::Queue(PICKING.into());
    }
    order_type
}

fn asked(max: usize, lease: Duration) -> QueueClaim {
    QueueClaim {
        queue: PICKING.to_owned(),
        worker: "ann".to_owned(),
        max,
        lease,
    }
}

/// A shop, or none where the store says that it keeps no queues; then it must say so whenever it is asked.
async fn shop(store: &Arc<dyn Store>, order_type: OrderType) -> Option<Shop> {
    if store.capabilities().queues {
        return Some(Shop::new(store, queued(order_type)));
    }
    let claims = store.claim_work(&asked(1, LONG)).await;
    assert!(matches!(claims, Err(StoreError::Unsupported { .. })), "{claims:?}");
    let counts = store.queues().await;
    assert!(matches!(counts, Err(StoreError::Unsupported { .. })), "{counts:?}");
    None
}

async fn pull(shop: &Shop, max: usize, lease: Duration) -> Vec<WorkClaim> {
    let claims = shop.store.claim_work(&asked(max, lease)).await;
    claims.expect("work can be claimed").claims
}

async fn pull_one(shop: &Shop) -> WorkClaim {
    let mut claims = pull(shop, 100, LONG).await;
    assert_eq!(claims.len(), 1, "one order waits");
    claims.remove(0)
}

/// A worker answers.
async fn answer(shop: &Shop, claim: &WorkClaim, outcome: StepOutcome) -> Result<Receipt, CommitError> {
    let (order, input) = (shop.order(claim.token.order).await, shop.input());
    let report = Report {
        started_at: input.now,
        ended_at: input.now,
        outcome,
    };
    let change = decision::report(&order, &shop.order_type, report, &input);
    let expect = Expect::At {
        version: order.head.version,
        token: Some(claim.token),
    };
    shop.put(commit(change, expect)).await
}

async fn count(shop: &Shop) -> QueueCount {
    let queues = shop.store.queues().await.expect("the queues can be read");
    assert_eq!(queues.len(), 1, "one queue has held something");
    assert_eq!(queues[0].queue, PICKING);
    queues[0].clone()
}

/// Work that waits in a queue is not the engine's; when it is done, what follows is the engine's again.
pub async fn work_in_a_queue_is_for_its_workers(store: Arc<dyn Store>) {
    let Some(shop) = shop(&store, plain()).await else {
        return;
    };
    assert!(pull(&shop, 10, LONG).await.is_empty(), "an empty queue has nothing");
    let before = store.now();
    let id = shop.accept(r#"{"n":1.0}"#).await;
    let engine = store.claim(10, LONG).await.expect("due orders are claimed");
    assert!(
        engine.claims.is_empty() && engine.next_due_at.is_none(),
        "the engine is never due"
    );
    let waiting = count(&shop).await;
    assert_eq!((waiting.depth, waiting.leased, waiting.dead), (1, 0, 0));
    assert!(
        waiting.oldest_at.is_some_and(|at| at >= before),
        "since it was accepted"
    );

    let other = QueueClaim {
        queue: "packing".to_owned(),
        ..asked(10, LONG)
    };
    assert!(
        store.claim_work(&other).await.unwrap().claims.is_empty(),
        "another queue"
    );
    let claim = pull_one(&shop).await;
    assert_eq!(claim.order, shop.order(id).await, "the order is whole, as it stands");
    assert_eq!((claim.token.visit, claim.token.attempt), (1, 1));
    assert!(claim.lost.is_none(), "nobody had it before");
    let stored = shop.stored(id).await;
    assert_eq!(
        stored.claim,
        Some((claim.token, claim.lease_until)),
        "the claim is shown"
    );
    let worker = stored.worker.expect("the worker is shown");
    assert!(worker.name == "ann" && worker.since >= before, "{worker:?}");
    assert!(pull(&shop, 10, LONG).await.is_empty(), "nobody else is given it");
    assert_eq!(count(&shop).await.leased, 1);

    answer(&shop, &claim, done(Some("1"))).await.expect("the answer counts");
    assert_eq!((count(&shop).await.depth, count(&shop).await.leased), (0, 0));
    assert!(shop.stored(id).await.worker.is_none(), "its claim is over");
    assert_eq!(shop.claim_one().await.token.visit, 2, "the next step is the engine's");
    let answer = answer(&shop, &claim, done(None)).await;
    assert!(
        matches!(answer, Err(CommitError::TokenStale)),
        "it counts once: {answer:?}"
    );
}

/// However many claim at once, each order goes to one of them; the first that waits goes first.
pub async fn workers_who_race_get_different_orders(store: Arc<dyn Store>) {
    let Some(shop) = shop(&store, plain()).await else {
        return;
    };
    let mut accepted = Vec::new();
    for ticket_of in (0..40).map(|_| shop.accepting("{}")) {
        accepted.push(ticket_of.order.id());
        shop.put(ticket_of).await.expect("the order is accepted");
    }
    let first = store.claim_work(&asked(3, LONG)).await.unwrap();
    let ids: Vec<_> = first.claims.iter().map(|claim| claim.token.order).collect();
    assert_eq!(ids, accepted[..3], "in the order in which they came");
    assert!(
        first.next_due_at.is_some_and(|next| next <= store.now()),
        "there is more: {:?}",
        first.next_due_at
    );
    let claimed = Arc::new(Mutex::new(ids));
    let mut workers = Vec::new();
    for _ in 0..8 {
        let (shop, claimed) = (shop.clone(), claimed.clone());
        workers.push(tokio::spawn(async move {
            while claimed.lock().len() < 40 {
                let claims = pull(&shop, 3, LONG).await;
                claimed.lock().extend(claims.iter().map(|claim| claim.token.order));
                tokio::task::yield_now().await;
            }
        }));
    }
    for worker in workers {
        worker.await.expect("the worker succeeds");
    }
    let claimed = claimed.lock().clone();
    let different: HashSet<_> = claimed.iter().collect();
    assert_eq!((claimed.len(), different.len()), (40, 40), "each was claimed once");
    assert_eq!((count(&shop).await.depth, count(&shop).await.leased), (40, 40));
}

/// When a lease has ended the work goes to the next who asks, who is told whom it had. Until then the first token counts,
/// and can be extended; afterwards it is stale.
pub async fn a_lost_worker_is_told_of(store: Arc<dyn Store>) {
    let Some(shop) = shop(&store, plain()).await else {
        return;
    };
    for _ in 0..2 {
        shop.accept("{}").await;
    }
    let claims = pull(&shop, 2, SHORT).await;
    pass(&*store, claims[1].lease_until).await;
    assert_eq!(count(&shop).await.leased, 0, "what is over is not leased");
    let stored = shop.stored(claims[0].token.order).await;
    assert!(
        stored.claim.is_none() && stored.worker.is_some(),
        "nobody has taken it over"
    );
    answer(&shop, &claims[0], done(None))
        .await
        .expect("the late answer counts");
    store
        .renew(&claims[1].token, SHORT)
        .await
        .expect("and so does a late heartbeat");
    pass(&*store, store.now() + SHORT).await;

    let second = pull_one(&shop).await;
    assert_eq!(second.token.order, claims[1].token.order);
    assert_eq!(second.lost.as_ref().map(|worker| worker.name.as_str()), Some("ann"));
    let late = answer(&shop, &claims[1], done(None)).await;
    assert!(
        matches!(late, Err(CommitError::TokenStale)),
        "the first is fenced: {late:?}"
    );
    let renewed = store.renew(&claims[1].token, LONG).await;
    assert!(
        matches!(renewed, Err(CommitError::TokenStale)),
        "and cannot renew: {renewed:?}"
    );
    answer(&shop, &second, done(None)).await.expect("the second counts");
}

/// Claiming, renewing and releasing change nothing of the order. What was released can be claimed at once, by one who is
/// told of nobody.
pub async fn a_workers_claim_changes_no_version(store: Arc<dyn Store>) {
    let Some(shop) = shop(&store, plain()).await else {
        return;
    };
    let id = shop.accept("{}").await;
    let before = shop.order(id).await;
    let first = pull_one(&shop).await;
    let until = store.renew(&first.token, LONG * 2).await.expect("the claim is held");
    assert_eq!(
        shop.stored(id).await.claim,
        Some((first.token, until)),
        "its new end is shown"
    );
    shop.put(shop.editing(&shop.order(id).await, r#"{"note":1}"#))
        .await
        .unwrap();
    assert_eq!(
        shop.stored(id).await.claim.map(|claim| claim.0),
        Some(first.token),
        "an edit leaves it"
    );
    store.release(&[first.token]).await.expect("the claim is given back");
    let stored = shop.stored(id).await;
    assert!(stored.claim.is_none() && stored.worker.is_none(), "it is over");
    assert_eq!(
        stored.order.head.version,
        before.head.version + 1,
        "only the edit counts"
    );
    let second = pull_one(&shop).await;
    assert!(second.lost.is_none() && second.token != first.token);
    store
        .release(&[first.token])
        .await
        .expect("a stale token is passed over");
    let late = answer(&shop, &first, done(None)).await;
    assert!(matches!(late, Err(CommitError::TokenStale)), "{late:?}");
    answer(&shop, &second, done(None))
        .await
        .expect("the second is still held");
}

/// Only the head of a lane is in the queue, through retries too; the next comes when it leaves.
pub async fn a_queue_has_the_head_of_a_lane(store: Arc<dyn Store>) {
    let Some(shop) = shop(&store, laned(DeadLetterInLane::Park)).await else {
        return;
    };
    let first = shop.accept(r#"{"customer":"c"}"#).await;
    let second = shop.accept(r#"{"customer":"c"}"#).await;
    let other = shop.accept(r#"{"customer":"d"}"#).await;
    let claims = pull(&shop, 10, LONG).await;
    let ids: Vec<_> = claims.iter().map(|claim| claim.token.order).collect();
    assert_eq!(ids, [first, other], "one of each lane");
    assert_eq!(shop.stored(second).await.place, Place::Behind(1));
    answer(&shop, &claims[0], failed("busy"))
        .await
        .expect("the failure is recorded");
    let again = pull_one(&shop).await;
    assert_eq!(
        (again.token.order, again.token.attempt),
        (first, 2),
        "a retry holds the lane"
    );
    answer(&shop, &again, done(None)).await.expect("the answer counts");
    assert!(
        pull(&shop, 10, LONG).await.is_empty(),
        "the first holds its lane until it is final"
    );
    let last = shop.claim_one().await;
    let receipt = shop.finish(last).await;
    assert_eq!(receipt.promoted, Some(second), "the next is told of");
    assert_eq!(pull_one(&shop).await.token.order, second);
}

/// A cancel that waits for a worker's attempt is the engine's as soon as the lease has ended, and nobody claims the work.
pub async fn a_cancel_that_waits_is_the_engines(store: Arc<dyn Store>) {
    let Some(shop) = shop(&store, plain()).await else {
        return;
    };
    let id = shop.accept("{}").await;
    let claim = pull(&shop, 1, Duration::from_millis(50)).await.remove(0);
    let cancel = Command::Cancel {
        reason: None,
        in_flight: true,
        begun: true,
    };
    shop.command(id, cancel).await;
    assert!(
        pull(&shop, 1, LONG).await.is_empty(),
        "the work is no longer in the queue"
    );
    assert_eq!(count(&shop).await.depth, 0);
    pass(&*store, claim.lease_until).await;
    let engine = shop.claim_one().await;
    assert_eq!(engine.token.order, id, "the engine has it");
    let late = answer(&shop, &claim, done(None)).await;
    assert!(
        matches!(late, Err(CommitError::TokenStale)),
        "the worker is fenced: {late:?}"
    );
}
