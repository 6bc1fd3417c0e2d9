//! The rules of a commit, on this store: checks, lanes, claims, keys, and what comes back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use comanda_model::{Outcome, Phase};
use comanda_store::{CommitError, Expect, FeedStart, ListQuery, Place, Store, StoreError, TypeSource};
use jiff::ToSpan;
use support::*;

const LEASE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_whole_life_is_read_back_to_the_letter() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let (first, token) = taking(accepted(now, now, None));
    let receipt = commit(&store, first.clone()).await.unwrap();
    assert!(receipt.claimed && !receipt.queued);
    assert_eq!(receipt.position, 1);
    let id = first.order.id();
    let stored = store.order(id).await.unwrap().unwrap();
    assert_eq!(stored.order, first.order);
    assert_eq!(stored.claim.unwrap().0, token);
    assert_eq!(stored.place, Place::Alone);

    let second = with_token(attempted(&first.order, store.now(), Outcome::Done), token);
    commit(&store, second.clone()).await.unwrap();
    let stored = store.order(id).await.unwrap().unwrap();
    assert_eq!(stored.order.head, second.order.head);
    assert_eq!(stored.order.results.len(), 1);
    assert_eq!(stored.order.results[0].1.as_str(), r#"{"total":"14.90"}"#);
    assert!(stored.claim.is_none());

    let third = finished(&stored.order, store.now());
    let receipt = commit(&store, third.clone()).await.unwrap();
    assert_eq!(receipt.position, 2);
    // The same commit again answers as before.
    assert_eq!(commit(&store, third.clone()).await.unwrap().position, 2);
    assert_eq!(store.history(id, 0, 10).await.unwrap().len(), 2);
    assert_eq!(store.attempts(id, 0, 10).await.unwrap(), second.attempts);
    let feed = store.feed(FeedStart::Oldest, 10).await.unwrap();
    assert_eq!(
        feed.events
            .iter()
            .map(|event| event.cursor.position)
            .collect::<Vec<_>>(),
        [1, 2]
    );
    let counters = store.counters().await.unwrap();
    assert_eq!(counters.counts.len(), 1);
    assert_eq!((counters.counts[0].phase, counters.counts[0].count), (Phase::Final, 1));
    assert_eq!(*store.position().borrow(), 2);
    store.close().await.unwrap();
    assert_clean(directory.path());
}

#[tokio::test]
async fn one_bad_commit_of_a_batch_fails_alone_and_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let one = with_key(accepted(now, now, None), "type:sale", "A-1", None);
    let same_key = with_key(accepted(now, now, None), "type:sale", "A-1", None);
    let after_one = finished(&one.order, now);
    let stale = finished(&one.order, now);
    let mut large = accepted(now, now, None);
    large.events = (1..=17).map(|_| large.events[0].clone()).collect();
    let other = accepted(now, now, None);
    let tickets = store.commit(vec![
        one.clone(),
        same_key.clone(),
        after_one.clone(),
        stale,
        large,
        other.clone(),
    ]);
    let mut answers = Vec::new();
    for ticket in tickets {
        answers.push(ticket.await);
    }
    assert!(answers[0].is_ok());
    assert!(
        matches!(&answers[1], Err(CommitError::KeyTaken { order, fingerprint, .. })
        if *order == one.order.id() && *fingerprint == [7; 32])
    );
    assert!(answers[2].is_ok());
    assert!(matches!(answers[3], Err(CommitError::VersionMoved { actual: 2 })));
    assert!(matches!(answers[4], Err(CommitError::TooLarge { .. })));
    assert!(answers[5].is_ok());
    assert!(store.order(same_key.order.id()).await.unwrap().is_none());
    let again = commit(&store, accepted_again(&one, now)).await;
    assert!(matches!(again, Err(CommitError::VersionMoved { actual: 2 })));
    let mut absent = next(&accepted(now, now, None).order, now);
    absent.expect = Expect::At {
        version: 1,
        token: None,
    };
    assert!(matches!(
        commit(&store, absent).await,
        Err(CommitError::VersionMoved { actual: 0 })
    ));
    store.close().await.unwrap();
    assert_clean(directory.path());
}

fn accepted_again(one: &comanda_store::Commit, now: jiff::Timestamp) -> comanda_store::Commit {
    let mut again = accepted(now, now, None);
    Arc::make_mut(&mut again.order).accepted = one.order.accepted.clone();
    again
}

#[tokio::test]
async fn a_lane_is_worked_in_the_order_of_acceptance() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let orders: Vec<_> = (0..4).map(|_| accepted(now, now, Some("g"))).collect();
    for (index, one) in orders.iter().enumerate() {
        let receipt = commit(&store, one.clone()).await.unwrap();
        assert_eq!(receipt.queued, index > 0);
    }
    let claims = store.claim(10, LEASE).await.unwrap();
    assert_eq!(claims.claims.len(), 1, "only the head of a lane is claimed");
    assert_eq!(claims.claims[0].order.id(), orders[0].order.id());
    assert_eq!(
        store.order(orders[3].order.id()).await.unwrap().unwrap().place,
        Place::Behind(3)
    );

    // The second is cancelled where it queues, and just goes.
    let receipt = commit(&store, finished(&orders[1].order, store.now())).await.unwrap();
    assert_eq!(receipt.promoted, None);
    // The head dies and leaves its lane: the third is next.
    let mut dead = died(&orders[0].order, store.now(), "record: no");
    leave(&mut dead);
    let receipt = commit(&store, with_token(dead.clone(), claims.claims[0].token))
        .await
        .unwrap();
    assert_eq!(receipt.promoted, Some(orders[2].order.id()));
    // It returns at its old place: behind the one at work, before the fourth.
    let mut back = redriven(&dead.order, store.now());
    resume(&mut back);
    let receipt = commit(&store, back.clone()).await.unwrap();
    assert!(receipt.queued);
    assert_eq!(
        store.order(orders[0].order.id()).await.unwrap().unwrap().place,
        Place::Behind(1)
    );
    assert_eq!(
        store.order(orders[3].order.id()).await.unwrap().unwrap().place,
        Place::Behind(2)
    );
    let (done, _) = taking(finished(&orders[2].order, store.now()));
    let receipt = commit(&store, done).await.unwrap();
    assert_eq!(receipt.promoted, Some(orders[0].order.id()));
    assert!(!receipt.claimed, "a final order has no work to take");
    commit(&store, finished(&back.order, store.now())).await.unwrap();
    let claims = store.claim(10, LEASE).await.unwrap();
    assert_eq!(claims.claims[0].order.id(), orders[3].order.id());
    store.close().await.unwrap();
    assert_clean(directory.path());
}

#[tokio::test]
async fn claims_fence_and_can_be_given_back() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let later = now + 1.hour();
    let due = accepted(now, now, None);
    commit(&store, due.clone()).await.unwrap();
    commit(&store, accepted(now, later, None)).await.unwrap();
    let claims = store.claim(10, LEASE).await.unwrap();
    assert_eq!(claims.claims.len(), 1);
    // The lease ends before the other order is due.
    assert!(claims.next_due_at.unwrap() < later);
    let token = claims.claims[0].token;
    assert!(store.claim(10, LEASE).await.unwrap().claims.is_empty());
    assert!(store.renew(&token, LEASE).await.unwrap() > now);
    store.release(&[token]).await.unwrap();
    assert!(matches!(store.renew(&token, LEASE).await, Err(CommitError::TokenStale)));
    let claims = store.claim(10, Duration::ZERO).await.unwrap();
    let second = claims.claims[0].token;
    let stale = with_token(attempted(&due.order, now, Outcome::Done), token);
    assert!(matches!(commit(&store, stale).await, Err(CommitError::TokenStale)));
    // A lease that has ended counts until another takes the order.
    let third = store.claim(10, LEASE).await.unwrap().claims[0].token;
    let stale = with_token(attempted(&due.order, now, Outcome::Done), second);
    assert!(matches!(commit(&store, stale).await, Err(CommitError::TokenStale)));
    commit(&store, with_token(finished(&due.order, now), third))
        .await
        .unwrap();
    assert_eq!(store.claim(10, LEASE).await.unwrap().next_due_at, Some(later));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_order_is_claimed_once_while_many_claim_and_commit() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(open(directory.path()));
    let now = store.now();
    let commits: Vec<_> = (0..400).map(|_| accepted(now, now, None)).collect();
    for ticket in store.commit(commits) {
        ticket.await.unwrap();
    }
    let mut workers = Vec::new();
    for _ in 0..8 {
        let store = store.clone();
        workers.push(tokio::spawn(async move {
            let mut done = 0;
            loop {
                let claims = store.claim(7, LEASE).await.unwrap();
                if claims.claims.is_empty() {
                    return done;
                }
                for claim in claims.claims {
                    let finish = with_token(finished(&claim.order, store.now()), claim.token);
                    commit(&store, finish).await.expect("nobody else holds it");
                    done += 1;
                }
            }
        }));
    }
    let mut done = 0;
    for worker in workers {
        done += worker.await.unwrap();
    }
    assert_eq!(done, 400);
    store.close().await.unwrap();
    drop(store);
    assert_clean(directory.path());
}

#[tokio::test]
async fn lists_causes_and_counts_follow_the_orders() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let orders: Vec<_> = (0..30)
        .map(|index| accepted(now, now, Some(&format!("g{}", index % 3))))
        .collect();
    for ticket in store.commit(orders.clone()) {
        ticket.await.unwrap();
    }
    for one in orders.iter().take(9) {
        commit(&store, finished(&one.order, now)).await.unwrap();
    }
    for (index, one) in orders.iter().enumerate().skip(9).take(6) {
        let cause = if index % 3 == 0 {
            "record: timeout"
        } else {
            "record: refused"
        };
        commit(&store, died(&one.order, now, cause)).await.unwrap();
    }
    let list = |query: ListQuery| {
        let store = &store;
        async move {
            let (mut found, mut cursor) = (Vec::new(), None);
            loop {
                let page = store
                    .list(&ListQuery {
                        limit: 4,
                        cursor,
                        ..query.clone()
                    })
                    .await
                    .unwrap();
                found.extend(page.orders.iter().map(|stored| stored.order.id()));
                cursor = page.next;
                if cursor.is_none() {
                    return found;
                }
            }
        }
    };
    let newest_first: Vec<_> = orders.iter().rev().map(|one| one.order.id()).collect();
    assert_eq!(list(ListQuery::default()).await, newest_first);
    let completed = ListQuery {
        status: Some("COMPLETED".into()),
        ..ListQuery::default()
    };
    assert_eq!(list(completed).await, newest_first[21..]);
    let dead = ListQuery {
        phase: Some(Phase::Dead),
        order_type: Some("sale".into()),
        ..ListQuery::default()
    };
    assert_eq!(list(dead).await, newest_first[15..21]);
    let cause = ListQuery {
        cause: Some("record: timeout".into()),
        ..ListQuery::default()
    };
    assert_eq!(list(cause).await.len(), 2);
    let group = ListQuery {
        group: Some("g1".into()),
        phase: Some(Phase::Active),
        ..ListQuery::default()
    };
    assert_eq!(list(group).await.len(), 5);
    let customer = ListQuery {
        customer: Some("nobody".into()),
        ..ListQuery::default()
    };
    assert!(list(customer).await.is_empty());
    let later = ListQuery {
        accepted_after: Some(now + 1.second()),
        ..ListQuery::default()
    };
    assert!(list(later).await.is_empty());
    let causes = store.causes(10).await.unwrap();
    assert_eq!(causes.iter().map(|cause| cause.count).collect::<Vec<_>>(), [4, 2]);
    assert!(causes[0].example.is_some());
    let counters = store.counters().await.unwrap();
    let count = |phase| {
        counters
            .counts
            .iter()
            .filter(|count| count.phase == phase)
            .map(|count| count.count)
            .sum()
    };
    let counts: [u64; 3] = [count(Phase::Active), count(Phase::Final), count(Phase::Dead)];
    assert_eq!(counts, [15, 9, 6]);
    assert_eq!(store.live_types().await.unwrap(), [(type_hash(), 21)]);
    let redriven = redriven(&store.order(orders[9].order.id()).await.unwrap().unwrap().order, now);
    commit(&store, redriven).await.unwrap();
    assert_eq!(store.causes(10).await.unwrap()[1].count, 1);
    store.close().await.unwrap();
    assert_clean(directory.path());
}

#[tokio::test]
async fn retention_removes_whole_orders_and_resets_cursors_that_it_has_passed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let orders: Vec<_> = (0..250)
        .map(|index| {
            let expires_at = (index % 2 == 0).then_some(now);
            with_key(
                accepted(now, now, Some("g")),
                "idempotency:local",
                &format!("key-{index}"),
                expires_at,
            )
        })
        .collect();
    for ticket in store.commit(orders.clone()) {
        ticket.await.unwrap();
    }
    let cursor = store.feed(FeedStart::Oldest, 1).await.unwrap().next;
    for one in orders.iter().take(240) {
        commit(&store, finished(&one.order, now)).await.unwrap();
    }
    let before = now + 1.second();
    assert_eq!(store.retain(now, 1000).await.unwrap(), 0);
    assert_eq!(store.retain(before, 130).await.unwrap(), 130);
    assert_eq!(store.retain(before, 1000).await.unwrap(), 110);
    assert_eq!(store.retain(before, 1000).await.unwrap(), 0);
    assert!(store.order(orders[0].order.id()).await.unwrap().is_none());
    assert!(store.key("idempotency:local", "key-1").await.unwrap().is_none());
    assert!(store.key("idempotency:local", "key-241").await.unwrap().is_some());
    assert!(store.history(orders[0].order.id(), 0, 10).await.unwrap().is_empty());
    assert!(matches!(
        store.feed(FeedStart::After(cursor), 10).await,
        Err(StoreError::CursorReset)
    ));
    let page = store.feed(FeedStart::Oldest, 10).await.unwrap();
    store.feed(FeedStart::After(page.next), 10).await.unwrap();
    store.close().await.unwrap();
    assert_clean(directory.path());
}

#[tokio::test]
async fn an_expired_key_may_be_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now();
    let first = with_key(accepted(now, now, None), "idempotency:local", "k", Some(now));
    commit(&store, first.clone()).await.unwrap();
    assert!(store.key("idempotency:local", "k").await.unwrap().is_none());
    let second = with_key(accepted(now, now, None), "idempotency:local", "k", Some(now + 1.hour()));
    commit(&store, second.clone()).await.unwrap();
    assert_eq!(
        store.key("idempotency:local", "k").await.unwrap().unwrap().0,
        second.order.id()
    );
    commit(&store, finished(&first.order, now)).await.unwrap();
    assert_eq!(store.retain(now + 1.second(), 10).await.unwrap(), 1);
    assert!(store.key("idempotency:local", "k").await.unwrap().is_some());
    // A key may also come later in an order's life.
    let later = with_key(next(&second.order, now), "idempotency:local", "l", None);
    commit(&store, later).await.unwrap();
    store.close().await.unwrap();
    assert_clean(directory.path());
}

#[tokio::test]
async fn times_finer_than_a_microsecond_survive() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let now = store.now() + 7.nanoseconds();
    let one = accepted(now, now + 1.hour(), None);
    commit(&store, one.clone()).await.unwrap();
    assert_eq!(store.order(one.order.id()).await.unwrap().unwrap().order, one.order);
    assert_eq!(store.history(one.order.id(), 0, 1).await.unwrap(), one.events);
    assert!(store.claim(1, LEASE).await.unwrap().next_due_at.unwrap() >= now + 1.hour());
}

#[tokio::test]
async fn types_are_kept_once() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let source = TypeSource {
        hash: type_hash(),
        name: "sale".into(),
        source: "the test type".into(),
    };
    assert_eq!(store.type_source(type_hash()).await.unwrap(), None);
    for _ in 0..2 {
        store.put_type(&source).await.unwrap();
    }
    assert_eq!(store.type_source(type_hash()).await.unwrap(), Some(source));
}

#[tokio::test]
async fn a_full_queue_and_a_closed_store_say_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(Options {
        queue_commits_max: 3,
        ..options(directory.path())
    })
    .unwrap();
    let now = store.now();
    let tickets = store.commit((0..5).map(|_| accepted(now, now, None)).collect());
    let mut busy = 0;
    for ticket in tickets {
        busy += u32::from(matches!(ticket.await, Err(CommitError::Busy { .. })));
    }
    assert_eq!(busy, 2);
    store.health().await.unwrap();
    store.close().await.unwrap();
    let late = commit(&store, accepted(now, now, None)).await;
    assert!(matches!(late, Err(CommitError::Closed)));
    assert!(store.health().await.is_err());
    store.close().await.unwrap();
    assert_clean(directory.path());
}

use comanda_store_sqlite::{Options, SqliteStore};
