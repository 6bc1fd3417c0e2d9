//! Lanes: one order of a lane is worked at a time, in the order of acceptance.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use comanda_model::decision::{Command, RedriveFrom};
use comanda_model::order_type::DeadLetterInLane;
use comanda_model::{EventKind, OrderId, Phase};
use parking_lot::Mutex;

use super::claims::token;
use super::sample::{LONG, Shop, done, failed, laned, laned_by_status, laned_with_deadline, pass, plain};
use crate::{ClaimMove, Commit, CommitError, Expect, FeedStart, Place, Store};

const ANN: &str = r#"{"customer":"ann"}"#;
const BOB: &str = r#"{"customer":"bob"}"#;

fn redrive() -> Command {
    Command::Redrive {
        from: RedriveFrom::FailedStep,
        edit: None,
    }
}

async fn three(shop: &Shop) -> [OrderId; 3] {
    [shop.accept(ANN).await, shop.accept(ANN).await, shop.accept(ANN).await]
}

async fn places(shop: &Shop, ids: &[OrderId]) -> Vec<Place> {
    let mut places = Vec::new();
    for id in ids {
        places.push(shop.stored(*id).await.place);
    }
    places
}

/// Only a lane's head can be claimed or taken; when it is final the next is promoted, and its commit tells so. Lanes do
/// not hold up one another.
pub async fn only_the_head_is_claimed(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, laned(DeadLetterInLane::Park));
    let [first, second, third] = three(&shop).await;
    let mut queueing = shop.accepting(ANN);
    let fourth = queueing.order.id();
    queueing.claim = ClaimMove::Take {
        token: token(&queueing.order),
        lease: LONG,
    };
    let receipt = shop.put(queueing).await.expect("the order is accepted");
    assert!(
        receipt.queued && !receipt.claimed,
        "an order that queues cannot be taken: {receipt:?}"
    );
    let ids = [first, second, third, fourth];
    let expected = [Place::Head, Place::Behind(1), Place::Behind(2), Place::Behind(3)];
    assert_eq!(places(&shop, &ids).await, expected, "each behind those accepted before");
    let other = shop.accept(BOB).await;

    let claims = shop.claim(10).await;
    let claimed: Vec<OrderId> = claims.iter().map(|claim| claim.token.order).collect();
    assert_eq!(claimed, [first, other], "each lane's head is claimed");
    for (claim, next) in claims.into_iter().zip([Some(second), None]) {
        let receipt = shop.finish(claim).await;
        assert_eq!(receipt.promoted, next, "the next of the lane is promoted");
    }
    let expected = [Place::Alone, Place::Head, Place::Behind(1), Place::Behind(2)];
    assert_eq!(places(&shop, &ids).await, expected, "all have moved up");
    for (id, next) in [(second, Some(third)), (third, Some(fourth)), (fourth, None)] {
        let claim = shop.claim_one().await;
        assert_eq!(claim.token.order, id, "the lane goes on in order");
        assert_eq!(shop.finish(claim).await.promoted, next, "the next is promoted");
    }
    assert!(
        !shop
            .put(shop.accepting(ANN))
            .await
            .expect("the order is accepted")
            .queued,
        "an empty lane has no queue"
    );
}

/// A queued order that is cancelled leaves its lane; nobody is promoted by it, and those behind move up.
pub async fn a_cancelled_order_in_the_queue_goes(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, laned(DeadLetterInLane::Park));
    let [first, second, third] = three(&shop).await;
    let receipt = shop.cancel(second).await;
    assert_eq!(receipt.promoted, None, "nobody is promoted");
    assert_eq!(
        places(&shop, &[first, second, third]).await,
        [Place::Head, Place::Alone, Place::Behind(1)]
    );
    let claim = shop.claim_one().await;
    assert_eq!(claim.token.order, first, "the head is the same");
    assert_eq!(
        shop.finish(claim).await.promoted,
        Some(third),
        "the cancelled one is passed"
    );
    // A head that is cancelled promotes the next.
    let last = shop.accept(ANN).await;
    assert_eq!(
        shop.cancel(third).await.promoted,
        Some(last),
        "a cancelled head promotes the next"
    );
}

/// A change that was decided of an order that queues is applied only while it queues: not once it has come to the head,
/// not even by a commit of the same batch, and never to an order that stands in no lane.
pub async fn what_was_decided_of_one_that_queues(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, laned(DeadLetterInLane::Park));
    let [first, second, third] = three(&shop).await;
    let queued = |commit: Commit| {
        let version = commit.order.head.version - 1;
        let expect = Expect::Queued { version };
        Commit { expect, ..commit }
    };
    let cancel = || Command::Cancel {
        reason: None,
        in_flight: false,
        begun: false,
    };
    let order = shop.order(third).await;
    let stale = Commit {
        expect: Expect::Queued { version: 7 },
        ..shop.commanding(&order, cancel())
    };
    let moved = |answer: &Result<_, CommitError>| matches!(answer, Err(CommitError::VersionMoved { actual: 1 }));
    assert!(moved(&shop.put(stale).await), "its version counts as ever");
    shop.put(queued(shop.commanding(&order, cancel())))
        .await
        .expect("the third queues");
    let (at_head, behind) = (shop.order(first).await, shop.order(second).await);
    let early = shop.put(queued(shop.commanding(&at_head, cancel()))).await;
    assert!(moved(&early), "the head does not queue: {early:?}");
    let leaves = shop.commanding(&at_head, cancel());
    let late = queued(shop.commanding(&behind, cancel()));
    let mut answers = Vec::new();
    for ticket in store.commit(vec![leaves, late]) {
        answers.push(ticket.await);
    }
    assert!(answers[0].is_ok(), "the head is cancelled: {answers:?}");
    assert!(moved(&answers[1]), "the second heads its lane now: {answers:?}");
    assert_eq!(shop.claim_one().await.token.order, second, "and is there to be worked");
    let plain = Shop::new(&store, plain());
    let alone = plain.order(plain.accept("{}").await).await;
    let answer = plain.put(queued(plain.commanding(&alone, cancel()))).await;
    assert!(moved(&answer), "an order without a lane never queues: {answer:?}");
}

/// Where dead letters park, the orders behind one wait until it is discarded or redriven and final.
pub async fn a_parked_dead_letter_holds_its_lane(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, laned(DeadLetterInLane::Park));
    let [first, second, third] = three(&shop).await;
    shop.kill(first, "down").await;
    assert!(shop.claim(10).await.is_empty(), "those behind a dead letter wait");
    assert_eq!(places(&shop, &[first, second]).await, [Place::Head, Place::Behind(1)]);
    shop.command(first, redrive()).await;
    let claim = shop.claim_one().await;
    assert_eq!(claim.token.order, first, "the redriven one goes first");
    shop.work(&claim, failed("still down"))
        .await
        .expect("the failure is recorded");
    shop.kill(first, "still down").await;
    let discard = Command::Discard {
        reason: "given up".to_owned(),
    };
    assert_eq!(
        shop.command(first, discard).await.promoted,
        None,
        "taking back holds the lane"
    );
    let claim = shop.claim_one().await;
    assert_eq!(claim.token.order, first, "what it may have done is taken back");
    assert_eq!(shop.finish(claim).await.promoted, Some(second), "then the lane is free");
    assert_eq!(
        places(&shop, &[first, second, third]).await,
        [Place::Alone, Place::Head, Place::Behind(1)]
    );
}

/// Where dead letters leave, those behind pass; redriven, the order returns at its old position, after the one that is
/// at work and before all others.
pub async fn a_passed_dead_letter_returns_to_its_position(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, laned(DeadLetterInLane::Leave));
    let [first, second, third] = three(&shop).await;
    let order = shop.order(first).await;
    shop.put(shop.working(&order, None, failed("down")))
        .await
        .expect("the first failure is recorded");
    let order = shop.order(first).await;
    let receipt = shop
        .put(shop.working(&order, None, failed("down")))
        .await
        .expect("the second one too");
    assert_eq!(receipt.promoted, Some(second), "those behind pass");
    let claim = shop.claim_one().await;
    assert_eq!(claim.token.order, second, "the second is at work");
    let receipt = shop.command(first, redrive()).await;
    assert!(receipt.queued, "the first has to wait for it");
    let standing = places(&shop, &[first, second, third]).await;
    assert_eq!(standing[1], Place::Head, "the second stays at the head");
    assert!(
        matches!(standing[0], Place::Behind(_)),
        "the first is behind it: {standing:?}"
    );
    assert!(shop.claim(10).await.is_empty(), "one of a lane at a time");
    assert_eq!(
        shop.finish(claim).await.promoted,
        Some(first),
        "the first is before the third"
    );
    let claim = shop.claim_one().await;
    assert_eq!(shop.finish(claim).await.promoted, Some(third), "the third comes last");
}

/// An order that returns to a lane that is empty is its head; one that was discarded leaves no trace in the lane.
pub async fn a_redriven_order_heads_an_empty_lane(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, laned(DeadLetterInLane::Leave));
    let id = shop.accept_dead(ANN, "down").await;
    assert_eq!(shop.stored(id).await.place, Place::Alone, "the dead letter has left");
    let receipt = shop.command(id, redrive()).await;
    assert!(!receipt.queued, "nobody is before it");
    assert_eq!(shop.stored(id).await.place, Place::Head);
    shop.kill(id, "down").await;
    shop.command(
        id,
        Command::Discard {
            reason: "given up".to_owned(),
        },
    )
    .await;
    let next = shop.accept(ANN).await;
    assert_eq!(shop.stored(next).await.place, Place::Head, "the lane is empty again");
}

/// One commit can leave a lane, whose next is promoted, and enter another, where the order queues.
pub async fn a_commit_moves_between_lanes(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, laned_by_status());
    let [first, second, third] = three(&shop).await;
    let advance = async |id: OrderId| {
        let order = shop.order(id).await;
        shop.put(shop.working(&order, None, done(None)))
            .await
            .expect("nobody else works the order")
    };
    let receipt = advance(first).await;
    assert_eq!(&*shop.order(first).await.head.status, "packing");
    assert_eq!(
        (receipt.promoted, receipt.queued),
        (Some(second), false),
        "it heads the next lane, the second this one"
    );
    let receipt = advance(second).await;
    assert_eq!(
        (receipt.promoted, receipt.queued),
        (Some(third), true),
        "the second queues in the next lane"
    );
    assert_eq!(
        places(&shop, &[first, second, third]).await,
        [Place::Head, Place::Behind(1), Place::Head]
    );
    let mut claimed: Vec<OrderId> = shop.claim(10).await.iter().map(|claim| claim.token.order).collect();
    claimed.sort();
    let mut heads = [first, third];
    heads.sort();
    assert_eq!(claimed, heads, "the heads of both lanes are claimed");
    let order = shop.order(first).await;
    let receipt = shop
        .put(shop.working(&order, None, done(None)))
        .await
        .expect("the first is done");
    assert_eq!(receipt.promoted, Some(second), "the second follows in the second lane");
}

/// An order for later enters its lane only when it is due, behind those that were accepted meanwhile.
pub async fn a_scheduled_order_enters_when_due(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, laned(DeadLetterInLane::Park));
    let due_at = store.now() + Duration::from_millis(20);
    let commit = shop.accepting_at(ANN, Some(due_at));
    let scheduled = commit.order.id();
    assert!(
        !shop.put(commit).await.expect("the order is accepted").queued,
        "it stands in no lane yet"
    );
    let now = shop.accept(ANN).await;
    assert_eq!(
        places(&shop, &[scheduled, now]).await,
        [Place::Alone, Place::Head],
        "it holds up nobody"
    );
    pass(&*store, due_at).await;
    let order = shop.order(scheduled).await;
    let receipt = shop
        .put(shop.working(&order, None, done(None)))
        .await
        .expect("it begins");
    assert!(receipt.queued, "it enters behind the other");
    assert_eq!(places(&shop, &[scheduled, now]).await, [Place::Behind(1), Place::Head]);
}

/// A queued order is due for the deadline of its status, though not for its work.
pub async fn a_queued_order_keeps_its_deadline(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, laned_with_deadline(Duration::from_millis(20)));
    // Claimed by its own acceptance, so that the first is at work however slowly the rest comes.
    let mut accepting = shop.accepting(ANN);
    let first = accepting.order.id();
    accepting.claim = ClaimMove::Take {
        token: token(&accepting.order),
        lease: LONG,
    };
    shop.put(accepting).await.expect("the order is accepted");
    let second = shop.accept(ANN).await;
    let deadline = shop
        .order(second)
        .await
        .head
        .status_until
        .expect("the status has a deadline");
    pass(&*store, deadline).await;
    let claim = shop.claim_one().await;
    assert_eq!(claim.token.order, second, "the queued order's deadline has passed");
    shop.work(&claim, done(None)).await.expect("the deadline takes effect");
    let stored = shop.stored(second).await;
    assert_eq!(
        (&*stored.order.head.status, stored.place),
        ("canceled", Place::Alone),
        "it went where the deadline leads"
    );
    assert_eq!(shop.stored(first).await.place, Place::Head, "the head is where it was");
    assert!(shop.claim(10).await.is_empty(), "nothing else is due");
}

/// An order that is promoted before its work is due is not told of: there is nothing to wake a worker for.
pub async fn who_is_promoted_too_early_is_not_told_of(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, laned_with_deadline(LONG));
    let first = shop.accept(ANN).await;
    let waiting = shop.accept(r#"{"customer":"ann","status":"waiting"}"#).await;
    let third = shop.accept(ANN).await;
    let claim = shop.claim_one().await;
    assert_eq!(claim.token.order, first, "the head's work is due");
    assert_eq!(shop.finish(claim).await.promoted, None, "the next only waits");
    assert_eq!(places(&shop, &[waiting, third]).await, [Place::Head, Place::Behind(1)]);
    assert!(
        shop.claim(10).await.is_empty(),
        "while it waits, nothing of the lane is due"
    );
    assert_eq!(
        shop.cancel(waiting).await.promoted,
        Some(third),
        "the one after it has work"
    );
}

/// Many submit into a few lanes while many work them: in each lane one order is at work at a time, and they are final in
/// the order in which the feed says that they were accepted.
pub async fn a_lane_is_worked_in_the_order_of_acceptance(store: Arc<dyn Store>) {
    const SUBMITTERS: usize = 6;
    const EACH: usize = 8;
    let shop = Shop::new(&store, laned(DeadLetterInLane::Park));
    let at_work: Arc<Mutex<HashMap<String, OrderId>>> = Arc::default();
    let finished: Arc<Mutex<Vec<(String, OrderId)>>> = Arc::default();
    let mut tasks = Vec::new();
    for submitter in 0..SUBMITTERS {
        let shop = shop.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..EACH {
                shop.accept(if submitter % 2 == 0 { ANN } else { BOB }).await;
            }
        }));
    }
    for _ in 0..4 {
        let (shop, at_work, finished) = (shop.clone(), at_work.clone(), finished.clone());
        tasks.push(tokio::spawn(async move {
            while finished.lock().len() < SUBMITTERS * EACH {
                for claim in shop.claim(2).await {
                    let (id, lane) = (
                        claim.token.order,
                        claim.order.accepted.group.clone().expect("it has a lane"),
                    );
                    let before = at_work.lock().insert(lane.clone(), id);
                    assert!(before.is_none(), "{id} is worked while {before:?} still is");
                    let order = shop.order(id).await;
                    let mut reserving = shop.working(&order, Some(claim.token), done(None));
                    let next = token(&reserving.order);
                    reserving.claim = ClaimMove::Take {
                        token: next,
                        lease: LONG,
                    };
                    let charging = shop.working(&reserving.order, Some(next), done(None));
                    shop.put(reserving).await.expect("the claim is held");
                    // Before the last commit: the one that it promotes may be claimed before its answer is here.
                    at_work.lock().remove(&lane);
                    finished.lock().push((lane, id));
                    shop.put(charging).await.expect("the next claim is held");
                }
                tokio::task::yield_now().await;
            }
        }));
    }
    for task in tasks {
        task.await.expect("the task succeeds");
    }
    let feed = store
        .feed(FeedStart::Oldest, 10_000)
        .await
        .expect("the feed can be read");
    let finished = finished.lock().clone();
    for lane in ["ann", "bob"] {
        let accepted: Vec<OrderId> = feed
            .events
            .iter()
            .filter(|event| event.event.kind == EventKind::Accepted && event.customer.as_deref() == Some(lane))
            .map(|event| event.order)
            .collect();
        let worked: Vec<OrderId> = finished
            .iter()
            .filter(|(name, _)| name == lane)
            .map(|(_, id)| *id)
            .collect();
        assert_eq!(
            worked, accepted,
            "the lane of {lane} is worked in the order of acceptance"
        );
    }
    for (_, id) in finished {
        assert_eq!(shop.order(id).await.head.phase, Phase::Final, "each is final");
    }
}
