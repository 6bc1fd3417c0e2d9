//! Attempts whose outcome nobody knows, callbacks, and people: what an order waits for without holding a worker.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use comanda_engine::{Callback, CallbackError, CommandError, Options, StepCall, WorkState};
use comanda_model::decision::{Rejection, StepOutcome};
use comanda_model::order::DoneState;
use comanda_model::{Attempt, EventKind, Json, OrderId, Outcome, Phase};
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use jiff::{SignedDuration, Timestamp};
use support::*;
use tokio::sync::mpsc;

const BOOKING: &str = r#"
name = "booking"
initial = "received"
cancel = "canceled"
[schema]
type = "object"
[statuses.received]
steps = ["book"]
refused = "canceled"
next = "done"
to = ["canceled"]
[statuses.done]
final = true
[statuses.canceled]
final = true
undo = true
[steps.book]
http = "POST http://127.0.0.1:1/bookings"
retry = { attempts = 2, first = "1s" }
callback = { within = "WITHIN" }
unknown = { http = "GET http://127.0.0.1:1/bookings/{{ id }}" }
undo = { http = "DELETE http://127.0.0.1:1/bookings/{{ id }}" }
"#;

const REVIEW: &str = r#"
name = "review"
initial = "received"
[schema]
type = "object"
properties.n = { type = "integer" }
[statuses.received]
steps = ["reserve", "look", "after"]
refused = "refused"
next = [{ when = "steps.look.by == 'key:boss'", to = "done" }, { to = "odd" }]
[statuses.done]
final = true
[statuses.odd]
final = true
[statuses.refused]
final = true
[steps.reserve]
http = "POST http://127.0.0.1:1/holds"
undo = { http = "DELETE http://127.0.0.1:1/holds" }
[steps.look]
use = "approval"
WITH
[steps.after]
use = "noop"
"#;

fn booking(within: &str) -> String {
    BOOKING.replace("WITHIN", within)
}

fn review(with: &str) -> String {
    REVIEW.replace("WITH", with)
}

fn waiting(call: &Call) -> StepOutcome {
    StepOutcome::Waiting {
        secret: call.token.secret,
    }
}

fn unknown() -> StepOutcome {
    StepOutcome::Unknown {
        reason: "the connection broke".to_owned(),
        retry_after: None,
    }
}

fn result(text: &str) -> StepOutcome {
    StepOutcome::Done {
        result: Some(Json::parse(text).unwrap()),
    }
}

async fn attempts(bench: &Bench, id: OrderId) -> Vec<Attempt> {
    bench.store.attempts(id, 0, 50).await.unwrap()
}

async fn outcomes(bench: &Bench, id: OrderId) -> Vec<Outcome> {
    attempts(bench, id)
        .await
        .iter()
        .map(|attempt| attempt.outcome)
        .collect()
}

/// Waits until the order is as asked.
async fn until(bench: &Bench, id: OrderId, holds: impl Fn(&comanda_model::Head) -> bool) {
    let mut version = 0;
    loop {
        let found = bench
            .service
            .wait(
                id,
                comanda_engine::WaitFor::VersionAfter(version),
                Duration::from_secs(20),
            )
            .await
            .unwrap()
            .unwrap();
        let head = &found.stored.order.head;
        if holds(head) {
            return;
        }
        assert!(head.version > version, "it does not come: {head:?}");
        version = head.version;
    }
}

#[tokio::test]
async fn a_callback_ends_the_attempt_once() {
    let bench = Bench::manual(&[&booking("2h")]).await;
    let id = bench.submit("booking", "{}").await.found.stored.order.id();
    let call = bench.call().await;
    let token = call.token;
    let outcome = waiting(&call);
    call.answer.send(outcome).unwrap();
    until(&bench, id, |head| {
        head.work.as_ref().is_some_and(|work| work.awaiting.is_some())
    })
    .await;
    let view = bench.service.find(id).await.unwrap().unwrap().view(bench.service.now());
    let work = view.work.unwrap();
    assert_eq!(work.state, WorkState::Waiting);
    assert_eq!(work.waiting_for.as_deref(), Some("the callback of `book`"));
    let made_up = comanda_model::Token {
        secret: uuid::Uuid::from_u128(7),
        ..token
    };
    let answer = |token| Callback {
        token,
        outcome: result(r#"{"number":"b_1"}"#),
    };
    let refused = bench.service.callback(answer(made_up)).await.unwrap_err();
    assert!(matches!(refused, CallbackError::Unknown));
    bench.service.callback(answer(token)).await.unwrap();
    let order = bench.rest(id).await.stored.order;
    assert_eq!(&*order.head.status, "done");
    assert_eq!(order.results[0].1.as_str(), r#"{"number":"b_1"}"#);
    // Repeated: told, written down once, and without effect.
    for _ in 0..3 {
        let over = bench.service.callback(answer(token)).await.unwrap_err();
        assert!(matches!(over, CallbackError::Over { order } if order == id));
    }
    assert_eq!(outcomes(&bench, id).await, [Outcome::Done, Outcome::Stale]);
}

#[tokio::test]
async fn a_callback_may_be_quicker_than_the_answer() {
    let bench = Bench::manual(&[&booking("2h")]).await;
    let id = bench.submit("booking", "{}").await.found.stored.order.id();
    let call = bench.call().await;
    let callback = Callback {
        token: call.token,
        outcome: done(),
    };
    bench.service.callback(callback.clone()).await.unwrap();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "done");
    let late = waiting(&call);
    call.answer.send(late).unwrap();
    assert!(matches!(
        bench.service.callback(callback).await,
        Err(CallbackError::Over { .. })
    ));
    assert_eq!(outcomes(&bench, id).await, [Outcome::Done, Outcome::Stale]);
}

/// The clock has jumped past the lease, and nobody else has taken the order: its token still counts, and so does the
/// callback. One that was made up does not.
#[tokio::test]
async fn a_callback_counts_until_another_takes_the_order() {
    let ahead = Arc::new(AtomicI64::new(0));
    let clock = {
        let ahead = ahead.clone();
        move || Timestamp::now() + SignedDuration::from_secs(ahead.load(Ordering::SeqCst))
    };
    let (sender, calls) = mpsc::unbounded_channel();
    let store = Arc::new(MemoryStore::with_clock(Arc::new(clock)));
    let patient = Options {
        sweep: Duration::from_secs(3600),
        ..options()
    };
    let bench = Bench::with(patient, store, Arc::new(Manual(sender)), &[&booking("2h")], calls).await;
    let id = bench.submit("booking", "{}").await.found.stored.order.id();
    let call = bench.call().await;
    ahead.store(3600, Ordering::SeqCst);
    let mut made_up = call.token;
    made_up.secret = uuid::Uuid::new_v4();
    let answer = |token| Callback { token, outcome: done() };
    assert!(matches!(
        bench.service.callback(answer(made_up)).await,
        Err(CallbackError::Unknown)
    ));
    bench.service.callback(answer(call.token)).await.unwrap();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "done");
}

#[tokio::test]
async fn a_callback_that_refuses_leads_where_a_refusal_leads() {
    let bench = Bench::manual(&[&booking("2h")]).await;
    let id = bench.submit("booking", "{}").await.found.stored.order.id();
    let call = bench.call().await;
    bench
        .service
        .callback(Callback {
            token: call.token,
            outcome: StepOutcome::Refused {
                reason: "full".to_owned(),
            },
        })
        .await
        .unwrap();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "canceled");
}

#[tokio::test]
async fn a_callback_that_never_comes_is_asked_about() {
    let bench = Bench::manual(&[&booking("20ms")]).await;
    let id = bench.submit("booking", "{}").await.found.stored.order.id();
    let call = bench.call().await;
    assert!(!call.uncertain, "a first attempt has nothing to ask about");
    let outcome = waiting(&call);
    call.answer.send(outcome).unwrap();
    let again = bench.call().await;
    assert!(again.uncertain && again.attempt == 2 && again.key == format!("{id}:1"));
    again.answer.send(done()).unwrap();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "done");
    assert_eq!(outcomes(&bench, id).await, [Outcome::Unknown, Outcome::Done]);
}

#[tokio::test]
async fn a_cancel_takes_back_what_is_waited_for_and_its_callback_is_late() {
    let bench = Bench::manual(&[&booking("2h")]).await;
    let id = bench.submit("booking", "{}").await.found.stored.order.id();
    let call = bench.call().await;
    let token = call.token;
    let outcome = waiting(&call);
    call.answer.send(outcome).unwrap();
    until(&bench, id, |head| {
        head.work.as_ref().is_some_and(|work| work.awaiting.is_some())
    })
    .await;
    let found = bench.service.cancel(id, change()).await.unwrap();
    assert_eq!(found.stored.order.head.phase, Phase::Undoing);
    let undo = bench.call().await;
    assert!(undo.undo && undo.key == format!("{id}:1:undo"));
    undo.answer.send(done()).unwrap();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "canceled");
    let late = bench.service.callback(Callback { token, outcome: done() }).await;
    assert!(matches!(late, Err(CallbackError::Over { .. })));
    assert_eq!(outcomes(&bench, id).await, [Outcome::Done, Outcome::Stale]);
}

#[tokio::test]
async fn a_cancel_during_the_call_takes_back_when_a_callback_would_be_waited_for() {
    let bench = Bench::manual(&[&booking("2h")]).await;
    let id = bench.submit("booking", "{}").await.found.stored.order.id();
    let call = bench.call().await;
    bench.service.cancel(id, change()).await.unwrap();
    let outcome = waiting(&call);
    call.answer.send(outcome).unwrap();
    let undo = bench.call().await;
    assert!(undo.undo);
    undo.answer.send(done()).unwrap();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "canceled");
}

#[tokio::test]
async fn a_refusal_does_not_make_an_unknown_attempt_forgotten() {
    let bench = Bench::manual(&[&booking("2h")]).await;
    let id = bench.submit("booking", "{}").await.found.stored.order.id();
    bench.call().await.answer.send(unknown()).unwrap();
    let again = bench.call().await;
    assert!(again.uncertain);
    let refused = StepOutcome::Refused {
        reason: "no".to_owned(),
    };
    again.answer.send(refused).unwrap();
    let undo = bench.call().await;
    assert!(undo.undo, "what may have happened is taken back");
    undo.answer.send(done()).unwrap();
    let order = bench.rest(id).await.stored.order;
    assert_eq!(&*order.head.status, "canceled");
    assert!(order.head.done.iter().all(|done| done.state == DoneState::Undone));
}

#[tokio::test]
async fn an_attempt_that_a_lost_worker_may_have_begun_is_asked_about() {
    let store = Arc::new(MemoryStore::default());
    let (sender, calls) = mpsc::unbounded_channel();
    let first = Bench::over(store.clone(), Arc::new(Manual(sender)), &[&booking("2h")], calls).await;
    let id = first.submit("booking", "{}").await.found.stored.order.id();
    let begun = first.call().await;
    assert!(!begun.uncertain);
    // The worker gives up with the call under way.
    first.service.stop(Duration::ZERO).await;
    drop(begun);
    let (sender, calls) = mpsc::unbounded_channel();
    let second = Bench::over(store, Arc::new(Manual(sender)), &[&booking("2h")], calls).await;
    let again = second.call().await;
    assert!(again.uncertain && again.attempt == 1 && again.key == format!("{id}:1"));
    again.answer.send(done()).unwrap();
    assert_eq!(&*second.rest(id).await.stored.order.head.status, "done");
}

#[tokio::test]
async fn a_target_that_takes_no_calls_uses_up_no_attempt() {
    struct Held(std::sync::atomic::AtomicU32);
    #[async_trait::async_trait]
    impl comanda_engine::StepRunner for Held {
        async fn run(&self, call: StepCall<'_>) -> StepOutcome {
            assert_eq!(call.attempt, 1);
            done()
        }
        async fn admit(
            &self,
            _: &comanda_model::Order,
            _: &comanda_model::order_type::Step,
        ) -> Result<comanda_engine::Admission, comanda_engine::Postponed> {
            if self.0.fetch_add(1, Ordering::SeqCst) < 5 {
                return Err(comanda_engine::Postponed {
                    reason: "held back".to_owned(),
                    after: Duration::from_millis(1),
                });
            }
            Ok(comanda_engine::Admission::default())
        }
    }
    let (_, calls) = mpsc::unbounded_channel();
    let bench = Bench::over(
        Arc::new(MemoryStore::default()),
        Arc::new(Held(0.into())),
        &[&booking("2h")],
        calls,
    )
    .await;
    let id = bench.submit("booking", "{}").await.found.stored.order.id();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "done");
    assert_eq!(outcomes(&bench, id).await, [Outcome::Done]);
}

#[tokio::test]
async fn the_whole_steps_time_ends_its_tries() {
    let text = booking("2h").replace(
        "retry = { attempts = 2, first = \"1s\" }",
        "retry = { attempts = 900, first = \"10s\" }\ntimeout = \"10ms\"\ntimeout_total = \"10ms\"",
    );
    let bench = Bench::manual(&[&text]).await;
    let id = bench.submit("booking", "{}").await.found.stored.order.id();
    bench.call().await.answer.send(failed()).unwrap();
    loop {
        tokio::select! {
            call = bench.call() => drop(call.answer.send(failed())),
            found = bench.rest(id) => {
                let dead = found.stored.order.head.dead.as_ref().unwrap();
                assert!(dead.reason.contains("no more tries within"), "{}", dead.reason);
                break;
            }
        }
    }
}

async fn asked(bench: &Bench) -> OrderId {
    let id = bench.submit("review", "{}").await.found.stored.order.id();
    bench.call().await.answer.send(done()).unwrap();
    until(bench, id, |head| {
        matches!(
            head.work.as_ref().map(|work| &work.kind),
            Some(comanda_model::WorkKind::Approval(_))
        )
    })
    .await;
    id
}

fn by(who: &str) -> comanda_engine::Change {
    comanda_engine::Change {
        by: who.into(),
        ..change()
    }
}

#[tokio::test]
async fn a_yes_goes_on_and_says_who() {
    let bench = Bench::manual(&[&review("")]).await;
    let id = asked(&bench).await;
    let work = bench.rest(id).await.view(bench.service.now()).work.unwrap();
    assert_eq!(work.state, WorkState::Waiting);
    assert_eq!(work.waiting_for.as_deref(), Some("an approval of `look`"));
    bench.service.approve(id, by("key:boss")).await.unwrap();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "done");
    let events = bench.store.history(id, 0, 50).await.unwrap();
    let approved = events.iter().find(|event| event.kind == EventKind::Approved).unwrap();
    assert_eq!(&*approved.by, "key:boss");
    let again = bench.service.approve(id, by("key:boss")).await.unwrap_err();
    assert!(matches!(again, CommandError::Rejected(Rejection::NoApproval { .. })));
}

#[tokio::test]
async fn a_no_takes_back() {
    let bench = Bench::manual(&[&review("")]).await;
    let id = asked(&bench).await;
    bench
        .service
        .reject(id, "too dear".to_owned(), by("local"))
        .await
        .unwrap();
    let undo = bench.call().await;
    assert!(undo.undo);
    undo.answer.send(done()).unwrap();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "refused");
    assert_eq!(
        outcomes(&bench, id).await,
        [Outcome::Done, Outcome::Refused, Outcome::Done]
    );
}

#[tokio::test]
async fn no_answer_in_time_is_a_dead_letter_that_a_redrive_asks_about_again() {
    let bench = Bench::manual(&[&review("with = { within = \"10ms\" }")]).await;
    let id = asked(&bench).await;
    until(&bench, id, |head| head.phase == Phase::Dead).await;
    let refused = bench.service.approve(id, by("key:boss")).await.unwrap_err();
    assert!(matches!(refused, CommandError::Rejected(Rejection::NoApproval { .. })));
    let redrive = comanda_engine::Redrive {
        from: comanda_model::decision::RedriveFrom::FailedStep,
        current_version: false,
        patch: None,
        dry_run: false,
    };
    bench
        .service
        .redrive(comanda_engine::DeadLetterFilter::default(), redrive, "local".into())
        .await
        .unwrap();
    until(&bench, id, |head| head.phase == Phase::Dead && head.attempts > 2).await;
}
