//! What two do to one order in the same moment. What the simulation has found, as scenes of their own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use comanda_engine::{
    Answered, Callback, CallbackError, Chance, Effect, Options, Pull, StepCall, StepRunner, SystemChance,
};
use comanda_model::decision::StepOutcome;
use comanda_model::ledger::{HoldLine, HoldMove, ON_HAND, OUTSIDE, stock_account};
use comanda_model::{EventKind, Json, LedgerLine, Outcome, Token};
use comanda_store::memory::MemoryStore;
use comanda_store::{Posted, Posting, QueueClaim, Store};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use support::*;
use tokio::sync::mpsc;

const PICKING: &str = r#"
name = "picking"
initial = "received"
cancel = "canceled"
schema = { type = "object" }
[statuses.received]
steps = ["pick"]
next = "done"
refused = "canceled"
to = ["canceled"]
[statuses.done]
final = true
[statuses.canceled]
final = true
undo = true
[steps.pick]
queue = "picks"
timeout = "1h"
"#;

const BOOKING: &str = r#"
name = "booking"
initial = "received"
schema = { type = "object" }
[statuses.received]
steps = ["book", "tell"]
next = "done"
[statuses.done]
final = true
[steps.book]
http = "POST http://127.0.0.1:1/bookings"
callback = { within = "2h" }
[steps.tell]
http = "POST http://127.0.0.1:1/tell"
"#;

const HOLDING: &str = r#"
name = "holding"
initial = "received"
cancel = "canceled"
schema = { type = "object" }
[statuses.received]
steps = ["reserve", "pack"]
next = "done"
refused = "canceled"
to = ["canceled"]
[statuses.done]
final = true
[statuses.canceled]
final = true
undo = true
[steps.reserve]
use = "inventory.reserve"
with = { lines = "{{ data.lines }}", hold = "15m" }
undo = { use = "inventory.release" }
[steps.pack]
http = "POST http://127.0.0.1:1/pack"
retry = { attempts = 3, first = "20s" }
undo = { http = "POST http://127.0.0.1:1/unpack" }
"#;

/// Reserves one of `A` for a moment; the test answers every other attempt.
struct HoldsOne(Manual);

#[async_trait]
impl StepRunner for HoldsOne {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        self.0.run(call).await
    }

    async fn run_built_in(&self, _call: StepCall<'_>) -> Effect {
        let line = HoldLine {
            account: stock_account("A").into(),
            quantity: 1,
            short: 0,
        };
        Effect {
            outcome: done(),
            hold: Some(HoldMove::Take {
                lines: vec![line],
                lasts_ms: 1,
            }),
        }
    }
}

type Meanwhile = Box<dyn FnOnce() + Send>;

/// Randomness that lets something else happen first, once: a command draws after it has read the order, and before it
/// commits.
#[derive(Default)]
struct Interposed(Mutex<Option<Meanwhile>>);

impl Chance for Interposed {
    fn bits(&self) -> u128 {
        SystemChance.bits()
    }

    fn fraction(&self) -> f64 {
        let meanwhile = self.0.lock().take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        SystemChance.fraction()
    }
}

/// What a store in memory answers: at once.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("a store in memory does not wait"),
    }
}

/// A worker claims work whose first worker was lost, while a cancel that was decided before is committed.
#[tokio::test]
async fn a_cancel_leaves_the_claim_that_the_next_worker_has_just_got() {
    let ahead = Arc::new(AtomicI64::new(0));
    let clock = {
        let ahead = ahead.clone();
        move || Timestamp::UNIX_EPOCH + SignedDuration::from_secs(ahead.load(Ordering::SeqCst))
    };
    let chance = Arc::new(Interposed::default());
    let patient = Options {
        sweep: Duration::from_secs(3600),
        chance: chance.clone(),
        ..options()
    };
    let store = Arc::new(MemoryStore::with_clock(Arc::new(clock)));
    let (sender, calls) = mpsc::unbounded_channel();
    let bench = Bench::with(patient, store.clone(), Arc::new(Manual(sender)), &[PICKING], calls).await;
    let id = bench.submit("picking", "{}").await.found.stored.order.id();
    let asked = Pull {
        queue: "picks".to_owned(),
        worker: "first".to_owned(),
        max: 1,
        wait: Duration::ZERO,
        lease: Duration::from_secs(30),
    };
    let lost = bench.service.pull(asked).await.unwrap();
    assert_eq!(lost.work.len(), 1);
    ahead.store(31, Ordering::SeqCst);

    let next: Arc<Mutex<Option<Token>>> = Arc::default();
    let meanwhile = {
        let (store, next) = (store.clone(), next.clone());
        move || {
            let asked = QueueClaim {
                queue: "picks".to_owned(),
                worker: "next".to_owned(),
                max: 1,
                lease: Duration::from_secs(30),
            };
            let claims = at_once(store.claim_work(&asked)).unwrap();
            *next.lock() = claims.claims.first().map(|claim| claim.token);
        }
    };
    *chance.0.lock() = Some(Box::new(meanwhile));
    bench.service.cancel(id, change()).await.unwrap();

    let token = next.lock().take().unwrap();
    let held = store.order(id).await.unwrap().unwrap().claim;
    assert_eq!(held.map(|(token, _)| token), Some(token), "the claim stands");
    let counts = bench.service.answer(token, done()).await.unwrap();
    assert_eq!(counts, Answered::Done);
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "canceled");
}

/// Two callbacks alike are under way at once; one of them counts, the commit of the other is lost, and the order goes on
/// before that is looked up. They have written down the same, and only one of them is told that it counts.
#[tokio::test]
async fn a_callback_is_not_told_that_it_counts_for_what_its_repeat_wrote_down() {
    let (sender, calls) = mpsc::unbounded_channel();
    let store = Arc::new(MemoryStore::with_clock(Arc::new(|| Timestamp::UNIX_EPOCH)));
    let patient = Options {
        sweep: Duration::from_secs(3600),
        ..options()
    };
    let bench = Bench::with(patient, store.clone(), Arc::new(Manual(sender)), &[BOOKING], calls).await;
    let id = bench.submit("booking", "{}").await.found.stored.order.id();
    let call = bench.call().await;
    let callback = Callback {
        token: call.token,
        outcome: done(),
    };
    store.faults().stall();
    let send = || {
        let (service, callback) = (bench.service.clone(), callback.clone());
        tokio::spawn(async move { service.callback(callback).await })
    };
    let (one, other) = (send(), send());
    while store.faults().staged() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(store.faults().let_one_through());
    store.faults().crash();
    // Nobody has had a turn since: this stages its commit before either of them looks anything up.
    let patch = Json::parse(r#"{"note":"ring twice"}"#).unwrap();
    bench.service.edit(id, patch, change()).await.unwrap();

    assert!(one.await.unwrap().is_ok());
    let repeated = other.await.unwrap();
    assert!(matches!(repeated, Err(CallbackError::Over { order }) if order == id));
}

/// What an order holds has lapsed, and others have taken it. While its step is about to be refused for that, it is canceled: the
/// refusal belongs to a step that is no longer due, and must not be taken for what came of its undo.
#[tokio::test]
async fn a_refusal_for_want_of_stock_is_not_taken_for_the_answer_of_an_undo() {
    let (sender, calls) = mpsc::unbounded_channel();
    let store = Arc::new(MemoryStore::default());
    let post = async |once_id: &str, from: &str, to: &str| {
        let line = LedgerLine {
            account: stock_account("A").into(),
            from: from.into(),
            to: to.into(),
            quantity: 1,
            once_id: "".into(),
        };
        let posting = Posting {
            once_id: once_id.to_owned(),
            fingerprint: [7; 32],
            lines: vec![line],
            expect: None,
        };
        assert_eq!(store.post(&posting).await.unwrap(), Posted::Applied);
    };
    post("receive", OUTSIDE, ON_HAND).await;
    let steps = Arc::new(HoldsOne(Manual(sender)));
    let bench = Bench::with(options(), store.clone(), steps, &[HOLDING], calls).await;
    let id = bench.submit("holding", r#"{"lines":[{"sku":"A","quantity":1}]}"#).await;
    let id = id.found.stored.order.id();
    let first = bench.call().await;
    store.faults().stall();
    first.answer.send(failed()).unwrap();
    let staged = async || {
        while store.faults().staged() == 0 {
            tokio::task::yield_now().await;
        }
    };
    // The answer, and that the hold has lapsed.
    while store.history(id, 0, 100).await.unwrap().last().unwrap().kind != EventKind::HoldLapsed {
        staged().await;
        assert!(store.faults().let_one_through());
    }
    // That it is taken again; and another is quicker.
    staged().await;
    post("other", ON_HAND, OUTSIDE).await;
    store.faults().resume();
    // The worker has had no turn since.
    bench.service.transition(id, "canceled", None, change()).await.unwrap();

    let undo = bench.call().await;
    assert!(undo.undo, "the first call may have had an effect");
    undo.answer.send(done()).unwrap();
    assert_eq!(&*bench.rest(id).await.stored.order.head.status, "canceled");
    let attempts = store.attempts(id, 0, 100).await.unwrap();
    let late = attempts.iter().filter(|attempt| attempt.outcome == Outcome::Stale);
    assert_eq!(
        late.count(),
        0,
        "there was no second call, so none was late: {attempts:#?}"
    );
}
