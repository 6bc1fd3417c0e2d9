//! The engine over the in-memory store: what happens to an order, with steps that fail, hang and come back late.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use comanda_engine::{DeadLetterFilter, Idempotency, Precondition, Redrive, SubmitError, WaitFor, WorkState};
use comanda_model::decision::{RedriveFrom, Rejection, StepOutcome};
use comanda_model::{Json, Outcome, Phase};
use comanda_store::Store;
use support::*;

/// One step that reaches outside, and an undo.
const CALLING: &str = r#"
name = "calling"
initial = "received"
key = "/ref"
cancel = "canceled"
[schema]
type = "object"
[wire]
order = { ref = "/ref", id = "@id", status = "@status", "..." = "/" }
[statuses.received]
steps = ["charge"]
refused = "canceled"
next = "done"
to = ["canceled"]
[statuses.done]
final = true
[statuses.canceled]
final = true
undo = true
[steps.charge]
http = "POST http://127.0.0.1:1/charges"
retry = { attempts = 3, first = "1s" }
undo = { http = "POST http://127.0.0.1:1/charges/undo" }
"#;

const LANED: &str = r#"
name = "laned"
initial = "received"
fifo = { key = "/customer" }
[schema]
type = "object"
[statuses.received]
steps = ["work"]
next = "done"
[statuses.done]
final = true
[steps.work]
http = "POST http://127.0.0.1:1/work"
retry = { attempts = 2 }
"#;

const CHAIN: &str = r#"
name = "chain"
initial = "a"
[schema]
type = "object"
required = ["n"]
properties.n = { type = "number" }
[statuses.a]
next = "b"
[statuses.b]
steps = ["work"]
next = "c"
[statuses.c]
final = true
[steps.work]
use = "noop"
"#;

#[tokio::test]
async fn an_order_goes_its_way_and_its_history_says_so() {
    let bench = Bench::manual(&[CHAIN]).await;
    let accepted = bench.submit("chain", r#"{"n": 1.50}"#).await;
    let order = accepted.found.stored.order;
    assert_eq!((&*order.head.status, order.head.version), ("a", 1));
    let found = bench.rest(order.id()).await;
    assert_eq!(found.stored.order.data.as_str(), r#"{"n": 1.50}"#);
    assert_eq!(bench.path(order.id()).await, ["a", "b", "c"]);
    assert_eq!(found.stored.order.head.version, 3);
}

#[tokio::test]
async fn what_is_not_valid_is_not_stored() {
    let bench = Bench::manual(&[CHAIN]).await;
    let error = bench
        .service
        .submit(submission("chain", r#"{"n":"x"}"#))
        .await
        .unwrap_err();
    assert!(matches!(error, SubmitError::Invalid(faults) if faults[0].pointer == "/n"));
    let error = bench.service.submit(submission("chian", "{}")).await.unwrap_err();
    assert!(matches!(error, SubmitError::UnknownType { nearest: Some(nearest), .. } if &*nearest == "chain"));
    assert!(bench.store.counters().await.unwrap().counts.is_empty());
}

#[tokio::test]
async fn a_failing_step_dies_and_a_redrive_takes_it_up_under_the_same_key() {
    let bench = Bench::manual(&[CALLING]).await;
    let id = bench.submit("calling", "{}").await.found.stored.order.id();
    let mut keys = Vec::new();
    for attempt in 1..=3 {
        let call = bench.call().await;
        assert_eq!(call.attempt, attempt);
        keys.push(call.key);
        call.answer.send(failed()).unwrap();
    }
    let found = bench.rest(id).await;
    assert_eq!(
        (found.stored.order.head.phase, &*found.stored.order.head.status),
        (Phase::Dead, "received")
    );
    assert_eq!(found.view(bench.service.now()).work.unwrap().state, WorkState::Parked);
    let redrive = Redrive {
        from: RedriveFrom::FailedStep,
        current_version: false,
        patch: None,
        dry_run: true,
    };
    let rehearsed = bench
        .service
        .redrive(DeadLetterFilter::default(), redrive.clone(), "local".into())
        .await
        .unwrap();
    assert_eq!((rehearsed.matched, rehearsed.changed), (1, 1));
    assert_eq!(
        bench.rest(id).await.stored.order.head.phase,
        Phase::Dead,
        "a dry run changes nothing"
    );
    let redrive = Redrive {
        dry_run: false,
        ..redrive
    };
    let by_cause = DeadLetterFilter {
        cause: Some("charge: connection refused".to_owned()),
        ..Default::default()
    };
    let sweep = bench.service.redrive(by_cause, redrive, "key:op".into()).await.unwrap();
    assert_eq!((sweep.matched, sweep.changed, sweep.more), (1, 1, false));
    let call = bench.call().await;
    assert_eq!(call.attempt, 4);
    keys.push(call.key);
    call.answer.send(done()).unwrap();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "done");
    keys.dedup();
    assert_eq!(keys, [format!("{id}:1")]);
    let outcomes: Vec<Outcome> = bench
        .store
        .attempts(id, 0, 10)
        .await
        .unwrap()
        .iter()
        .map(|attempt| attempt.outcome)
        .collect();
    assert_eq!(
        outcomes,
        [Outcome::Failed, Outcome::Failed, Outcome::Failed, Outcome::Done]
    );
}

#[tokio::test]
async fn a_patch_during_an_attempt_keeps_both() {
    let bench = Bench::manual(&[CALLING]).await;
    let id = bench.submit("calling", r#"{"note":"a"}"#).await.found.stored.order.id();
    let call = bench.call().await;
    let patch = Json::parse(r#"{"note":"b"}"#).unwrap();
    let edited = bench.service.edit(id, patch, change()).await.unwrap();
    assert_eq!(edited.stored.order.head.version, 2);
    let result = Json::parse(r#"{"charge":"ch_1"}"#).unwrap();
    call.answer
        .send(StepOutcome::Done {
            result: Some(result.clone()),
        })
        .unwrap();
    let found = bench.rest(id).await;
    assert_eq!(&*found.stored.order.head.status, "done");
    assert_eq!(found.stored.order.data.as_str(), r#"{"note":"b"}"#);
    assert_eq!(found.stored.order.results, [("charge".into(), result)]);
}

#[tokio::test]
async fn a_cancel_during_an_attempt_waits_and_then_takes_back() {
    let bench = Bench::manual(&[CALLING]).await;
    let id = bench.submit("calling", "{}").await.found.stored.order.id();
    let call = bench.call().await;
    let found = bench.service.cancel(id, change()).await.unwrap();
    assert_eq!(&*found.stored.order.head.status, "received");
    call.answer.send(done()).unwrap();
    let undo = bench.call().await;
    assert!(undo.undo && undo.key == format!("{id}:1:undo"), "{}", undo.key);
    undo.answer.send(done()).unwrap();
    let found = bench.rest(id).await;
    assert_eq!(
        (&*found.stored.order.head.status, found.stored.order.head.phase),
        ("canceled", Phase::Final)
    );
}

#[tokio::test]
async fn a_transition_during_an_attempt_fences_it_and_its_late_result_is_written_down() {
    let bench = Bench::manual(&[CALLING]).await;
    let id = bench.submit("calling", "{}").await.found.stored.order.id();
    let call = bench.call().await;
    bench.service.transition(id, "canceled", None, change()).await.unwrap();
    // What the attempt may have done is taken back at once, though nobody knows yet whether it happened.
    let undo = bench.call().await;
    assert!(undo.undo);
    undo.answer.send(done()).unwrap();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "canceled");
    let version = bench.rest(id).await.stored.order.head.version;
    call.answer.send(done()).unwrap();
    bench
        .service
        .wait(id, WaitFor::VersionAfter(version), Duration::from_secs(10))
        .await
        .unwrap();
    let attempts = bench.store.attempts(id, 0, 10).await.unwrap();
    assert_eq!(attempts.last().unwrap().outcome, Outcome::Stale);
    let found = bench.rest(id).await;
    assert_eq!(
        (&*found.stored.order.head.status, found.stored.order.head.phase),
        ("canceled", Phase::Final)
    );
}

#[tokio::test]
async fn a_refusal_goes_to_the_refused_status_with_its_reason() {
    let bench = Bench::scripted(&[CALLING], |_, _, _| StepOutcome::Refused {
        reason: "card declined".to_owned(),
    })
    .await;
    let id = bench.submit("calling", "{}").await.found.stored.order.id();
    let found = bench.rest(id).await;
    assert_eq!(
        (&*found.stored.order.head.status, found.stored.order.head.phase),
        ("canceled", Phase::Final)
    );
    let events = bench.store.history(id, 0, 10).await.unwrap();
    assert_eq!(events.last().unwrap().reason.as_deref(), Some("card declined"));
}

#[tokio::test]
async fn a_lane_is_worked_in_the_order_of_acceptance_also_through_failures() {
    let bench = Bench::manual(&[LANED]).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(
            bench
                .submit("laned", r#"{"customer":"c"}"#)
                .await
                .found
                .stored
                .order
                .id(),
        );
    }
    let other = bench
        .submit("laned", r#"{"customer":"d"}"#)
        .await
        .found
        .stored
        .order
        .id();
    let first = bench.call().await;
    let second = bench.call().await;
    let (mut mine, others) = if first.order == ids[0] {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(
        (mine.order, others.order),
        (ids[0], other),
        "one per lane, and lanes do not wait for each other"
    );
    others.answer.send(done()).unwrap();
    let queued = bench
        .service
        .find(ids[2])
        .await
        .unwrap()
        .unwrap()
        .view(bench.service.now())
        .work
        .unwrap();
    assert_eq!((queued.state, queued.behind), (WorkState::Queued, Some(2)));
    // The head fails twice and is a dead letter: the lane is parked, and goes on after the redrive.
    mine.answer.send(failed()).unwrap();
    mine = bench.call().await;
    assert_eq!((mine.order, mine.attempt), (ids[0], 2));
    mine.answer.send(failed()).unwrap();
    assert_eq!(bench.rest(ids[0]).await.stored.order.head.phase, Phase::Dead);
    let redrive = Redrive {
        from: RedriveFrom::FailedStep,
        current_version: false,
        patch: None,
        dry_run: false,
    };
    let filter = DeadLetterFilter {
        order_ids: Some(vec![ids[0]]),
        ..Default::default()
    };
    bench.service.redrive(filter, redrive, "local".into()).await.unwrap();
    for id in &ids {
        let call = bench.call().await;
        assert_eq!(call.order, *id);
        call.answer.send(done()).unwrap();
    }
    for id in ids {
        assert_eq!(&*bench.rest(id).await.stored.order.head.status, "done");
    }
}

#[tokio::test]
async fn the_same_key_answers_the_same_and_another_body_is_an_error() {
    let bench = Bench::manual(&[CHAIN]).await;
    let keyed = |data: &str| {
        let idempotency = Some(Idempotency {
            kept: None,
            scope: "local".to_owned(),
            key: "k1".to_owned(),
        });
        comanda_engine::Submission {
            idempotency,
            ..submission("chain", data)
        }
    };
    let first = bench.service.submit(keyed(r#"{"n":1}"#)).await.unwrap();
    let id = first.found.stored.order.id();
    bench.rest(id).await;
    let second = bench.service.submit(keyed(r#"{ "n": 1 }"#)).await.unwrap();
    assert!(second.repeated && !first.repeated);
    let at = bench.service.now();
    assert_eq!(
        serde_json::to_string(&second.found.view(at)).unwrap(),
        serde_json::to_string(&first.found.view(at)).unwrap(),
        "the acceptance is replayed, though the order has gone on"
    );
    let error = bench.service.submit(keyed(r#"{"n":2}"#)).await.unwrap_err();
    assert!(matches!(error, SubmitError::IdempotencyKeyReused { order } if order == id));
    let batch = (0..50).map(|_| keyed(r#"{"n":1}"#)).collect();
    for answer in bench.service.submit_batch(batch).await {
        assert_eq!(answer.unwrap().found.stored.order.id(), id);
    }
}

#[tokio::test]
async fn a_precondition_that_does_not_hold_changes_nothing() {
    let bench = Bench::manual(&[CALLING]).await;
    let id = bench.submit("calling", r#"{"note":"a"}"#).await.found.stored.order.id();
    let patch = Json::parse(r#"{"note":"b"}"#).unwrap();
    let stale = comanda_engine::Change {
        precondition: Precondition::EtagIn(vec![7]),
        ..change()
    };
    let error = bench.service.edit(id, patch.clone(), stale).await.unwrap_err();
    assert!(matches!(
        error,
        comanda_engine::CommandError::PreconditionFailed { etag_version: 1 }
    ));
    let fresh = comanda_engine::Change {
        precondition: Precondition::EtagIn(vec![1]),
        ..change()
    };
    assert_eq!(
        bench
            .service
            .edit(id, patch, fresh)
            .await
            .unwrap()
            .stored
            .order
            .head
            .etag_version,
        2
    );
    let error = bench
        .service
        .transition(id, "nowhere", None, change())
        .await
        .unwrap_err();
    assert!(matches!(
        error,
        comanda_engine::CommandError::Rejected(Rejection::UnknownStatus { .. })
    ));
}

#[tokio::test]
async fn a_store_that_fails_loses_answers_and_stalls_loses_no_order() {
    let bench = Bench::scripted(
        &[CHAIN, CALLING],
        |_, attempt, _| if attempt < 2 { failed() } else { done() },
    )
    .await;
    let mut accepted = Vec::new();
    for round in 0..60u32 {
        let (order_type, data) = if round % 2 == 0 {
            ("chain", r#"{"n":1}"#)
        } else {
            ("calling", "{}")
        };
        if let Ok(answer) = bench.service.submit(submission(order_type, data)).await {
            accepted.push(answer.found.stored.order.id());
        }
        // What strikes the next submission or a step's outcome, whichever comes first.
        match round % 4 {
            0 => bench.store.faults().fail_next_commits(2),
            1 => bench.store.faults().lose_next_answers(3),
            2 => bench.store.faults().busy_next(2),
            _ => {}
        }
        tokio::task::yield_now().await;
    }
    assert!(accepted.len() >= 10);
    for id in accepted {
        assert_eq!(bench.rest(id).await.stored.order.head.phase, Phase::Final);
    }
}

#[tokio::test]
async fn nothing_is_answered_before_its_commit_is_durable() {
    let bench = Arc::new(Bench::manual(&[CALLING]).await);
    bench.store.faults().stall();
    let submitting = tokio::spawn({
        let bench = bench.clone();
        async move { bench.submit("calling", "{}").await.found.stored.order.id() }
    });
    let mut calls = bench.calls.lock().await;
    assert!(
        tokio::time::timeout(Duration::from_millis(200), calls.recv())
            .await
            .is_err(),
        "no step before the commit"
    );
    assert!(!submitting.is_finished(), "no answer before the commit");
    drop(calls);
    bench.store.faults().resume();
    let id = submitting.await.unwrap();
    let call = bench.call().await;
    assert_eq!(call.order, id);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_order_behind() {
    let bench = Bench::manual(&[CALLING]).await;
    for batch in [false, true] {
        bench.store.faults().stall();
        // The commit is staged, and its caller gone, before it is durable.
        let gone = if batch {
            let both = vec![submission("calling", "{}"), submission("calling", "{}")];
            tokio::time::timeout(Duration::from_millis(1), bench.service.submit_batch(both))
                .await
                .is_err()
        } else {
            tokio::time::timeout(
                Duration::from_millis(1),
                bench.service.submit(submission("calling", "{}")),
            )
            .await
            .is_err()
        };
        assert!(gone, "nothing is durable yet");
        bench.store.faults().resume();
        // Long before the lease would have ended.
        for _ in 0..if batch { 2 } else { 1 } {
            bench.call().await.answer.send(done()).unwrap();
        }
    }
}

#[tokio::test]
async fn an_order_lives_on_the_version_it_was_accepted_under() {
    let bench = Bench::manual(&[CALLING]).await;
    let old = bench.submit("calling", "{}").await.found.stored.order.id();
    let old_call = bench.call().await;
    let changed = CALLING
        .replace("next = \"done\"", "next = \"archived\"")
        .replace("[statuses.done]", "[statuses.archived]");
    let change = bench
        .service
        .registry()
        .replace(vec![definition(&changed)])
        .await
        .unwrap();
    assert_eq!(change.changed, ["calling".into()]);
    let new = bench.submit("calling", "{}").await.found.stored.order.id();
    old_call.answer.send(done()).unwrap();
    bench.call().await.answer.send(done()).unwrap();
    assert_eq!(&*bench.rest(old).await.stored.order.head.status, "done");
    assert_eq!(&*bench.rest(new).await.stored.order.head.status, "archived");
    // A type that is taken away takes no more orders.
    bench.service.registry().replace(vec![]).await.unwrap();
    assert!(matches!(
        bench.service.submit(submission("calling", "{}")).await,
        Err(SubmitError::UnknownType { .. })
    ));
}

#[tokio::test]
async fn a_stopped_engine_leaves_its_work_to_the_next() {
    let runs = Arc::new(AtomicU32::new(0));
    let bench = Bench::manual(&[CALLING]).await;
    let ids: Vec<_> = {
        let mut ids = Vec::new();
        for _ in 0..5 {
            ids.push(bench.submit("calling", "{}").await.found.stored.order.id());
        }
        ids
    };
    let _running = bench.call().await;
    bench.service.stop(Duration::from_millis(50)).await;
    let counted = runs.clone();
    let steps = Arc::new(Scripted(move |_: &str, _, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        done()
    }));
    let (_, calls) = tokio::sync::mpsc::unbounded_channel();
    let next = Bench::over(bench.store.clone(), steps, &[CALLING], calls).await;
    for id in ids {
        assert_eq!(&*next.rest(id).await.stored.order.head.status, "done");
    }
    assert_eq!(runs.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn many_orders_all_arrive() {
    let bench = Bench::scripted(
        &[CHAIN, LANED],
        |_, attempt, _| if attempt == 1 { failed() } else { done() },
    )
    .await;
    let batch = (0..500).map(|_| submission("chain", r#"{"n":1}"#)).collect();
    let mut ids: Vec<_> = bench
        .service
        .submit_batch(batch)
        .await
        .into_iter()
        .map(|answer| answer.unwrap().found.stored.order.id())
        .collect();
    let laned = (0..200)
        .map(|n| submission("laned", &format!(r#"{{"customer":"c{}"}}"#, n % 10)))
        .collect();
    ids.extend(
        bench
            .service
            .submit_batch(laned)
            .await
            .into_iter()
            .map(|answer| answer.unwrap().found.stored.order.id()),
    );
    for id in &ids {
        bench.rest(*id).await;
    }
    let counters = bench.store.counters().await.unwrap();
    let counted = tally(counters.counts.iter().flat_map(|count| {
        std::iter::repeat_n(
            format!("{} {}", count.order_type, count.status),
            usize::try_from(count.count).unwrap(),
        )
    }));
    assert_eq!(
        counted,
        [("chain c".to_owned(), 500), ("laned done".to_owned(), 200)].into()
    );
}
