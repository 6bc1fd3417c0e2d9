//! Commits: wholly or not at all, each alone, once, and readable as soon as their tickets say so.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::OrderId;
use comanda_model::bounds::{DATA_BYTES_MAX, EVENTS_PER_COMMIT_MAX, RESULT_BYTES_MAX};
use comanda_model::decision::Command;
use uuid::Uuid;

use super::sample::{Shop, done, plain};
use crate::{ClaimMove, CommitError, Expect, Place, Store};

/// An order reads back as it was committed: numbers keep their digits, keys their order, times their microseconds.
pub async fn an_accepted_order_reads_back_to_the_letter(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let data = r#"{"b":1.10,"a":9007199254740993.000,"c":1E5,"key":"K-1","customer":"Zoë \u00e9","d":[ 1 , 2 ]}"#;
    let mut commit = shop.accepting(data);
    let accepted = Arc::make_mut(&mut Arc::make_mut(&mut commit.order).accepted);
    accepted.traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    accepted.group = Some("a group".to_owned());
    Arc::make_mut(&mut commit.order).head.past_commands = vec![u64::MAX, 1 << 63];
    let expected = commit.order.clone();
    let events = commit.events.clone();
    assert!(
        store.order(expected.id()).await.unwrap().is_none(),
        "no order before it is accepted"
    );
    let receipt = shop.put(commit).await.expect("the order is accepted");
    assert!(
        !receipt.claimed && !receipt.queued && receipt.promoted.is_none(),
        "nothing else happened: {receipt:?}"
    );
    let stored = shop.stored(expected.id()).await;
    assert_eq!(stored.order, expected, "the order reads back as it was committed");
    assert_eq!(stored.order.data.as_str(), data, "the data reads back to the letter");
    assert_eq!(stored.place, Place::Alone, "an order without a lane is alone");
    assert!(stored.claim.is_none(), "nobody has claimed it");
    assert_eq!(
        store.history(expected.id(), 0, 10).await.unwrap(),
        events,
        "its events read back"
    );
    assert!(
        store.attempts(expected.id(), 0, 10).await.unwrap().is_empty(),
        "no attempt has ended"
    );
}

/// A second acceptance under the same id is refused and tells the version; so is a change of an order that is not there.
pub async fn an_order_is_accepted_once(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let first = shop.accepting(r#"{"n":1}"#);
    let mut second = first.clone();
    Arc::make_mut(&mut second.order).head.commit_id.0 = Uuid::new_v4();
    Arc::make_mut(&mut second.order).data = super::sample::json(r#"{"n":2}"#);
    let id = first.order.id();
    shop.put(first).await.expect("the first is accepted");
    let answer = shop.put(second).await;
    assert!(
        matches!(answer, Err(CommitError::VersionMoved { actual: 1 })),
        "the second is not: {answer:?}"
    );
    assert_eq!(shop.order(id).await.data.as_str(), r#"{"n":1}"#, "the first stands");
    let mut nobody = shop.accepting("{}");
    nobody.expect = Expect::At {
        version: 1,
        token: None,
    };
    let nobody_id = nobody.order.id();
    let answer = shop.put(nobody).await;
    assert!(
        matches!(answer, Err(CommitError::VersionMoved { actual: 0 })),
        "no order is at version 0: {answer:?}"
    );
    assert!(store.order(nobody_id).await.unwrap().is_none(), "it was not made");
}

/// A commit whose id is the head's succeeds again and changes nothing, whatever it expects.
pub async fn a_repeated_commit_answers_again(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let mut accepting = shop.accepting("{}");
    accepting.keys.push(super::sample::key("type:plain", "K"));
    let id = accepting.order.id();
    let token = super::claims::token(&accepting.order);
    accepting.claim = ClaimMove::Take {
        token,
        lease: super::sample::LONG,
    };
    let first = shop.put(accepting.clone()).await.expect("the order is accepted");
    let again = shop.put(accepting).await.expect("the repetition has succeeded too");
    assert_eq!(
        (again.claimed, again.queued),
        (first.claimed, first.queued),
        "the repetition answers alike"
    );
    assert_eq!(store.history(id, 0, 10).await.unwrap().len(), 1, "it has happened once");

    let working = shop.working(&shop.order(id).await, Some(token), done(None));
    shop.put(working.clone()).await.expect("the work counts");
    shop.put(working)
        .await
        .expect("the repetition has succeeded, though token and version have moved");
    assert_eq!(shop.order(id).await.head.version, 2, "one change was made");
    assert_eq!(
        store.attempts(id, 0, 10).await.unwrap().len(),
        1,
        "one attempt was recorded"
    );
}

/// A change that was decided on another version is not applied, and tells the version that the order is at.
pub async fn a_change_of_another_version_is_not_applied(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let order = shop.order(id).await;
    let (ours, theirs) = (
        shop.editing(&order, r#"{"note":1}"#),
        shop.editing(&order, r#"{"note":2}"#),
    );
    shop.put(ours).await.expect("the first edit is applied");
    let answer = shop.put(theirs).await;
    assert!(
        matches!(answer, Err(CommitError::VersionMoved { actual: 2 })),
        "the second is not: {answer:?}"
    );
    assert_eq!(
        shop.order(id).await.data.as_str(),
        r#"{"note":1}"#,
        "the first edit stands"
    );
    assert_eq!(
        store.history(id, 0, 10).await.unwrap().len(),
        2,
        "the second left no event"
    );
}

/// Data is written only by a commit that says so, and the acceptance never.
pub async fn data_is_written_only_where_it_changed(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept(r#"{"n":1,"customer":"c"}"#).await;
    let mut work = shop.working(&shop.order(id).await, None, done(None));
    Arc::make_mut(&mut work.order).data = super::sample::json("{}");
    shop.put(work).await.expect("the step is done");
    assert_eq!(
        shop.order(id).await.data.as_str(),
        r#"{"n":1,"customer":"c"}"#,
        "the data stays"
    );
    let edit = shop.editing(&shop.order(id).await, r#"{"n":2.0,"customer":"c"}"#);
    shop.put(edit).await.expect("the edit is applied");
    let order = shop.order(id).await;
    assert_eq!(
        order.data.as_str(),
        r#"{"n":2.0,"customer":"c"}"#,
        "the data is the edited one"
    );
    assert_eq!(order.accepted.customer.as_deref(), Some("c"), "the acceptance stays");
}

/// Each commit of a batch succeeds or fails alone, and tickets come in the order of the commits.
pub async fn a_bad_commit_in_a_batch_fails_alone(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let there = shop.accept("{}").await;
    let mut bad = shop.editing(&shop.order(there).await, r#"{"note":1}"#);
    bad.expect = Expect::At {
        version: 7,
        token: None,
    };
    let batch = vec![shop.accepting(r#"{"n":1}"#), bad, shop.accepting(r#"{"n":2}"#)];
    let ids: Vec<OrderId> = batch.iter().map(|commit| commit.order.id()).collect();
    let mut answers = Vec::new();
    for ticket in store.commit(batch) {
        answers.push(ticket.await);
    }
    assert!(answers[0].is_ok(), "the first is applied: {:?}", answers[0]);
    assert!(
        matches!(answers[1], Err(CommitError::VersionMoved { actual: 1 })),
        "the bad one is not: {:?}",
        answers[1]
    );
    assert!(answers[2].is_ok(), "the last is applied: {:?}", answers[2]);
    assert_eq!(shop.order(ids[0]).await.data.as_str(), r#"{"n":1}"#);
    assert_eq!(shop.order(ids[2]).await.data.as_str(), r#"{"n":2}"#);
    assert_eq!(
        shop.order(there).await.head.version,
        1,
        "nothing of the bad one was applied"
    );
}

/// Commits of one call are applied in the order given, also where they change the same order.
pub async fn commits_of_one_batch_stack(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let accepting = shop.accepting("{}");
    let reserving = shop.working(&accepting.order, None, done(Some("1")));
    let charging = shop.working(&reserving.order, None, done(None));
    let finishing = charging.order.clone();
    let late = shop.working(&reserving.order, None, done(None));
    let mut answers = Vec::new();
    for ticket in store.commit(vec![accepting, reserving, charging, late]) {
        answers.push(ticket.await);
    }
    assert!(
        answers[..3].iter().all(Result::is_ok),
        "each sees the one before: {answers:?}"
    );
    assert!(
        matches!(answers[3], Err(CommitError::VersionMoved { actual: 3 })),
        "the last is late: {:?}",
        answers[3]
    );
    let order = shop.order(finishing.id()).await;
    assert_eq!(order, *finishing, "the order is as the last one left it");
    assert_eq!(
        store.attempts(order.id(), 0, 10).await.unwrap().len(),
        2,
        "both attempts are recorded"
    );
}

/// What exceeds a bound is not applied; what just meets it is.
pub async fn what_is_too_large_is_not_applied(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let large = shop.accepting(&text(DATA_BYTES_MAX + 1));
    let id = large.order.id();
    let answer = shop.put(large).await;
    assert!(
        matches!(
            answer,
            Err(CommitError::TooLarge {
                bytes_max: DATA_BYTES_MAX,
                ..
            })
        ),
        "data: {answer:?}"
    );
    assert!(store.order(id).await.unwrap().is_none(), "the large order was not made");
    let id = shop.accept(&text(DATA_BYTES_MAX)).await;
    assert_eq!(
        shop.order(id).await.data.as_str().len(),
        DATA_BYTES_MAX,
        "data of just the bound is kept"
    );

    let order = shop.order(id).await;
    let with_result = |bytes: usize| {
        let mut commit = shop.working(&order, None, done(Some("1")));
        commit.attempts[0].result = Some(super::sample::json(&text(bytes)));
        commit
    };
    let answer = shop.put(with_result(RESULT_BYTES_MAX + 1)).await;
    assert!(
        matches!(
            answer,
            Err(CommitError::TooLarge {
                bytes_max: RESULT_BYTES_MAX,
                ..
            })
        ),
        "result: {answer:?}"
    );
    shop.put(with_result(RESULT_BYTES_MAX))
        .await
        .expect("a result of just the bound is kept");

    let order = shop.order(id).await;
    let with_events = |count: usize| {
        let mut commit = shop.editing(&order, "{}");
        let event = commit.events[0].clone();
        commit.events = (0..count as u64)
            .map(|index| comanda_model::Event {
                number: order.head.events + 1 + index,
                ..event.clone()
            })
            .collect();
        Arc::make_mut(&mut commit.order).head.events = order.head.events + count as u64;
        commit
    };
    let answer = shop.put(with_events(EVENTS_PER_COMMIT_MAX + 1)).await;
    assert!(
        matches!(answer, Err(CommitError::TooLarge { .. })),
        "events: {answer:?}"
    );
    shop.put(with_events(EVENTS_PER_COMMIT_MAX))
        .await
        .expect("as many events as the bound are kept");
}

/// As soon as a ticket has resolved, every read shows the commit.
pub async fn what_is_resolved_can_be_read(store: Arc<dyn Store>) {
    let mut writers = Vec::new();
    for _ in 0..8 {
        let shop = Shop::new(&store, plain());
        writers.push(tokio::spawn(async move {
            for _ in 0..10 {
                let mut commit = shop.accepting("{}");
                let name = Uuid::new_v4().to_string();
                commit.keys.push(super::sample::key("type:plain", &name));
                let id = commit.order.id();
                let receipt = shop.put(commit).await.expect("the order is accepted");
                assert_eq!(shop.order(id).await.head.version, 1, "the order can be read");
                let found = shop.store.key("type:plain", &name).await.unwrap();
                assert_eq!(found.map(|(order, _)| order), Some(id), "its key can be read");
                assert_eq!(
                    shop.store.history(id, 0, 10).await.unwrap().len(),
                    1,
                    "its history can be read"
                );
                let order = shop.order(id).await;
                shop.put(shop.working(&order, None, done(None)))
                    .await
                    .expect("the step is done");
                assert_eq!(shop.order(id).await.head.version, 2, "the next version can be read");
                assert!(receipt.position > 0, "the feed has begun");
            }
        }));
    }
    for writer in writers {
        writer.await.expect("the writer finds what it wrote");
    }
}

/// A reader never sees a version after a later one, nor a head whose events are not there.
pub async fn reads_never_go_back(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let writer = tokio::spawn({
        let shop = shop.clone();
        async move {
            for note in 0..50 {
                let order = shop.order(id).await;
                let edit = shop.editing(&order, &format!(r#"{{"note":{note}}}"#));
                shop.put(edit).await.expect("nobody else edits");
            }
        }
    });
    let mut seen = 0;
    while !writer.is_finished() {
        let head = shop.order(id).await.head;
        assert!(head.version >= seen, "version {} came after {seen}", head.version);
        seen = head.version;
        let events = store.history(id, 0, 100).await.unwrap();
        assert!(
            events.len() as u64 >= head.events,
            "a head with {} events has {}",
            head.events,
            events.len()
        );
        tokio::task::yield_now().await;
    }
    writer.await.expect("the writer succeeds");
    assert_eq!(shop.order(id).await.head.version, 51);
}

/// Closing makes what is staged durable; afterwards commits fail with [`CommitError::Closed`]. Closing twice is closing.
pub async fn a_closed_store_takes_nothing(store: Arc<dyn Store>) {
    let shop = Shop::new(&store, plain());
    let tickets = store.commit((0..20).map(|_| shop.accepting("{}")).collect());
    let late = shop.accepting("{}");
    store.close().await.expect("the store closes");
    for ticket in tickets {
        ticket.await.expect("what was staged is durable");
    }
    let answer = shop.put(late).await;
    assert!(
        matches!(answer, Err(CommitError::Closed)),
        "a closed store takes nothing: {answer:?}"
    );
    store.close().await.expect("closing again changes nothing");
}

/// The clock is in microseconds and never goes back, and an order's times are not after it.
pub async fn the_clock_never_goes_back(store: Arc<dyn Store>) {
    store.health().await.expect("a new store is well");
    let mut last = store.now();
    for _ in 0..1000 {
        let now = store.now();
        assert!(now >= last, "{now} came after {last}");
        assert_eq!(now.as_nanosecond() % 1000, 0, "{now} is in microseconds");
        last = now;
    }
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let order = shop.order(id).await;
    assert!(
        order.accepted.at >= last && order.accepted.at <= store.now(),
        "the acceptance is at a time of the clock"
    );
    shop.command(
        id,
        Command::Cancel {
            reason: None,
            in_flight: false,
            begun: false,
        },
    )
    .await;
    let claims = store.claim(1, Duration::from_secs(1)).await.unwrap();
    assert!(claims.claims.is_empty(), "an order that is final is never due");
}
