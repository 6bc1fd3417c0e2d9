//! The in-memory store fails as it is told to, and in no other way; and its time is the one that is handed in.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use comanda_store::conformance::sample::{Shop, plain};
use comanda_store::memory::{Faults, MemoryStore};
use comanda_store::{Claim, CommitError, FeedStart, Receipt, Store, StoreError, Ticket};
use jiff::Timestamp;
use parking_lot::Mutex;

fn shop() -> (Shop, Faults) {
    let store = MemoryStore::default();
    let faults = store.faults();
    let store: Arc<dyn Store> = Arc::new(store);
    (Shop::new(&store, plain()), faults)
}

/// What a ticket says now, without waiting.
fn look(ticket: &mut Ticket) -> Poll<Result<Receipt, CommitError>> {
    Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn a_failed_commit_is_not_applied() {
    let (shop, faults) = shop();
    faults.fail_next_commits(2);
    let commit = shop.accepting("{}");
    for _ in 0..2 {
        let answer = shop.put(commit.clone()).await;
        assert!(
            matches!(answer, Err(CommitError::Store(StoreError::Failed { .. }))),
            "{answer:?}"
        );
        assert!(shop.store.order(commit.order.id()).await.unwrap().is_none());
    }
    let receipt = shop.put(commit).await.unwrap();
    assert_eq!(receipt.position, 1, "the failed ones left nothing in the feed");
}

#[tokio::test]
async fn a_lost_answer_is_of_a_commit_that_was_applied() {
    let (shop, faults) = shop();
    faults.lose_next_answers(1);
    let commit = shop.accepting("{}");
    let answer = shop.put(commit.clone()).await;
    assert!(matches!(answer, Err(CommitError::Unknown)), "{answer:?}");
    assert_eq!(
        shop.order(commit.order.id()).await.head.commit_id,
        commit.order.head.commit_id
    );
    assert_eq!(*shop.store.position().borrow(), 1, "it is announced");
    shop.put(commit).await.unwrap();
    assert_eq!(*shop.store.position().borrow(), 1, "repeating it has done nothing");
}

#[tokio::test]
async fn a_refusal_is_told_though_answers_are_lost() {
    let (shop, faults) = shop();
    let id = shop.accept("{}").await;
    let order = shop.order(id).await;
    let (first, second) = (shop.editing(&order, "{}"), shop.editing(&order, "{}"));
    shop.put(first).await.unwrap();
    faults.lose_next_answers(1);
    let answer = shop.put(second).await;
    assert!(
        matches!(answer, Err(CommitError::VersionMoved { actual: 2 })),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_busy_store_turns_away_as_many_as_it_was_told() {
    let (shop, faults) = shop();
    faults.busy_next(2);
    let mut answers = Vec::new();
    for ticket in shop.store.commit((0..3).map(|_| shop.accepting("{}")).collect()) {
        answers.push(ticket.await);
    }
    assert!(matches!(answers[0], Err(CommitError::Busy { .. })), "{answers:?}");
    assert!(matches!(answers[1], Err(CommitError::Busy { .. })), "{answers:?}");
    assert!(answers[2].is_ok(), "{answers:?}");
}

#[tokio::test]
async fn a_stalled_commit_is_neither_visible_nor_answered() {
    let (shop, faults) = shop();
    let position = shop.store.position();
    faults.stall();
    let accepting = shop.accepting("{}");
    let editing = shop.editing(&accepting.order, "{}");
    let id = accepting.order.id();
    let mut tickets = shop.store.commit(vec![accepting, editing]);
    assert_eq!(faults.staged(), 2);
    assert!(look(&mut tickets[0]).is_pending() && look(&mut tickets[1]).is_pending());
    assert!(shop.store.order(id).await.unwrap().is_none());
    assert!(shop.store.history(id, 0, 10).await.unwrap().is_empty());
    assert!(shop.claim(10).await.is_empty());
    assert!(shop.store.feed(FeedStart::Oldest, 10).await.unwrap().events.is_empty());
    assert!(shop.store.counters().await.unwrap().counts.is_empty());
    assert!(!position.has_changed().unwrap());
    faults.resume();
    assert!(
        tickets
            .iter_mut()
            .all(|ticket| matches!(look(ticket), Poll::Ready(Ok(_)))),
        "in the order given"
    );
    assert_eq!(shop.order(id).await.head.version, 2);
    assert!(position.has_changed().unwrap());
    assert_eq!(faults.staged(), 0);
    shop.accept("{}").await;
}

#[tokio::test]
async fn faults_strike_what_was_stalled_when_it_is_resumed() {
    let (shop, faults) = shop();
    faults.stall();
    let mut tickets = shop
        .store
        .commit(vec![shop.accepting("{}"), shop.accepting("{}"), shop.accepting("{}")]);
    faults.fail_next_commits(1);
    faults.lose_next_answers(1);
    faults.resume();
    let answers: Vec<_> = tickets.iter_mut().map(look).collect();
    assert!(
        matches!(answers[0], Poll::Ready(Err(CommitError::Store(_)))),
        "{answers:?}"
    );
    assert!(
        matches!(answers[1], Poll::Ready(Err(CommitError::Unknown))),
        "{answers:?}"
    );
    assert!(matches!(answers[2], Poll::Ready(Ok(_))), "{answers:?}");
}

#[tokio::test]
async fn stalled_commits_can_be_let_through_one_at_a_time() {
    let (shop, faults) = shop();
    faults.stall();
    let (one, two) = (shop.accepting("{}"), shop.accepting("{}"));
    let (first, second) = (one.order.id(), two.order.id());
    let mut tickets = shop.store.commit(vec![one, two]);
    assert!(faults.let_one_through());
    tickets.remove(0).await.unwrap();
    assert!(shop.store.order(first).await.unwrap().is_some());
    assert!(shop.store.order(second).await.unwrap().is_none());
    assert_eq!(faults.staged(), 1);
    assert!(faults.let_one_through() && !faults.let_one_through());
    tickets.remove(0).await.unwrap();
}

#[tokio::test]
async fn what_is_stalled_is_made_durable_by_closing() {
    let (shop, faults) = shop();
    faults.stall();
    let mut tickets = shop.store.commit(vec![shop.accepting("{}")]);
    shop.store.close().await.unwrap();
    assert!(matches!(look(&mut tickets[0]), Poll::Ready(Ok(_))));
}

#[tokio::test]
async fn the_outcome_is_unknown_when_the_store_goes() {
    let (shop, faults) = shop();
    faults.stall();
    let mut tickets = shop.store.commit(vec![shop.accepting("{}")]);
    drop((shop, faults));
    assert!(matches!(look(&mut tickets[0]), Poll::Ready(Err(CommitError::Unknown))));
}

#[tokio::test]
async fn the_time_is_the_one_that_is_handed_in() {
    let start = Timestamp::from_nanosecond(1_700_000_000_000_000_999).unwrap();
    let hand = Arc::new(Mutex::new(start));
    let clock = hand.clone();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::with_clock(Arc::new(move || *clock.lock())));
    let shop = Shop::new(&store, plain());
    let now = Timestamp::from_microsecond(1_700_000_000_000_000).unwrap();
    assert_eq!(store.now(), now, "cut to microseconds");
    *hand.lock() = now - Duration::from_secs(5);
    assert_eq!(store.now(), now, "it stands still where the clock goes back");

    let id = shop.accept("{}").await;
    let lease = Duration::from_secs(30);
    let claims: Vec<Claim> = store.claim(10, lease).await.unwrap().claims;
    assert_eq!((claims[0].token.order, claims[0].lease_until), (id, now + lease));
    *hand.lock() = now + lease - Duration::from_micros(1);
    let next = store.claim(10, lease).await.unwrap();
    assert!(next.claims.is_empty(), "the lease has not ended");
    assert_eq!(next.next_due_at, Some(now + lease), "it is told when it will");
    *hand.lock() = now + lease;
    assert!(
        shop.stored(id).await.claim.is_none(),
        "a claim whose lease has ended is not shown"
    );
    assert_eq!(
        store.claim(10, lease).await.unwrap().claims.len(),
        1,
        "and can be taken"
    );
}

#[tokio::test]
async fn it_says_what_it_cannot_do() {
    let store = MemoryStore::default();
    assert!(!store.capabilities().backup && !store.capabilities().durable);
    let answer = store.backup("backup.db".as_ref(), &|_, _| {}).await;
    assert!(
        matches!(answer, Err(StoreError::Unsupported { store: "memory", .. })),
        "{answer:?}"
    );
}
