//! What nobody knows of an attempt is not forgotten, though a hold lapses or a capture never came. What the simulation has
//! found, as scenes of their own.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test's panic is its failure")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_builtin::customers::Customers;
use comanda_builtin::inventory::{Inventory, Price};
use comanda_builtin::payments::{Answer, Provider, Request, Sandbox, SandboxState};
use comanda_builtin::shipments::CarrierSandbox;
use comanda_builtin::{BuiltIns, Options, Unanswered};
use comanda_engine::{Service, StepCall, StepRunner, Submission, WaitFor};
use comanda_model::decision::StepOutcome;
use comanda_model::{EventKind, Json, OrderId};
use comanda_order_type::{Bundle, Known, read};
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use tokio::sync::mpsc;
use tokio::time::Instant;

const HOLD: &str = r#"
name = "hold"
initial = "A"
schema = { type = "object" }
[statuses.A]
steps = ["reserve", "pay"]
next = "B"
[statuses.B]
final = true
[steps.reserve]
use = "inventory.reserve"
with = { lines = "{{ data.lines }}", hold = "10s" }
[steps.pay]
http = "POST http://127.0.0.1:1/pay"
timeout = "5m"
"#;

const SOLD: &str = r#"
name = "sold"
initial = "A"
cancel = "C"
schema = { type = "object" }
[statuses.A]
steps = ["reserve", "authorize"]
next = "B"
refused = "C"
[statuses.B]
final = true
[statuses.C]
final = true
undo = true
[steps.reserve]
use = "inventory.reserve"
with = { lines = "{{ data.lines }}", hold = "10s" }
undo = { use = "inventory.release" }
[steps.authorize]
use = "payments.authorize"
with = { amount = "{{ steps.reserve.total }}", currency = "EUR", source = "timeout" }
timeout = "5m"
undo = { use = "payments.void" }
"#;

const CAPTURE: &str = r#"
name = "capture"
initial = "A"
cancel = "C"
schema = { type = "object" }
[statuses.A]
steps = ["reserve", "authorize", "capture"]
next = "B"
refused = "C"
to = ["C"]
[statuses.B]
final = true
[statuses.C]
final = true
undo = true
[steps.reserve]
use = "inventory.reserve"
with = { lines = "{{ data.lines }}" }
undo = { use = "inventory.release" }
[steps.authorize]
use = "payments.authorize"
with = { amount = "{{ steps.reserve.total }}", currency = "EUR" }
undo = { use = "payments.void" }
[steps.capture]
use = "payments.capture"
timeout = "1s"
retry = { attempts = 1 }
exhausted = "undo"
undo = { use = "payments.refund" }
"#;

/// Tells the test of each call, and answers only from the second on.
struct Calls(mpsc::UnboundedSender<bool>, Option<StepOutcome>);

#[async_trait]
impl StepRunner for Calls {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        self.0.send(call.uncertain).unwrap();
        match &self.1 {
            Some(outcome) => outcome.clone(),
            None => std::future::pending().await,
        }
    }
}

/// The sandbox, which no capture ever reaches.
struct Unreached(Sandbox);

#[async_trait]
impl Provider for Unreached {
    async fn ask(&self, call: &StepCall<'_>, request: &Request) -> Result<Option<Answer>, Unanswered> {
        self.0.ask(call, request).await
    }

    async fn request(&self, call: &StepCall<'_>, request: &Request) -> Result<Answer, Unanswered> {
        if matches!(request, Request::Capture { .. }) {
            return std::future::pending().await;
        }
        self.0.request(call, request).await
    }
}

/// A store whose clock is that of the test, with five of `tea`.
async fn store() -> Arc<MemoryStore> {
    let began = Instant::now();
    let store = Arc::new(MemoryStore::with_clock(Arc::new(move || {
        let begin = Timestamp::from_second(1_800_000_000).unwrap();
        begin
            .checked_add(SignedDuration::try_from(began.elapsed()).unwrap())
            .unwrap()
    })));
    let inventory = Inventory::new(&*store);
    inventory.receive("tea", 5, Some("first")).await.unwrap();
    let price = Price {
        amount: Decimal::new(150, 2),
        currency: "EUR".to_owned(),
    };
    inventory.set_price("tea", &price).await.unwrap();
    store
}

async fn engine(store: &Arc<MemoryStore>, text: &str, others: Calls) -> Service {
    let bundle = Bundle {
        path: "test.toml".to_owned(),
        text: text.to_owned(),
        schema: None,
    };
    let definition = read(&bundle, &Known::default()).definition.unwrap();
    let options = Options {
        env: BTreeMap::new(),
        payments: Arc::new(Unreached(Sandbox::new(store.clone()))),
        customers: Arc::new(Customers::new(store.clone())),
        carrier: Arc::new(CarrierSandbox::new(store.clone())),
        inventory: None,
    };
    let steps = BuiltIns::new(options, store.clone(), Arc::new(others));
    let options = comanda_engine::Options::default();
    Service::start(options, store.clone(), Arc::new(steps), vec![definition])
        .await
        .unwrap()
}

async fn submit(service: &Service, order_type: &str) -> OrderId {
    let submission = Submission {
        order_type: order_type.to_owned(),
        key: None,
        data: Json::from_valid(r#"{"lines":[{"sku":"tea","quantity":2}]}"#),
        value: None,
        status: None,
        due_at: None,
        idempotency: None,
        by: "test".into(),
        traceparent: None,
    };
    service.submit(submission).await.unwrap().found.stored.order.id()
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_a_lost_process_may_have_begun_is_asked_about_though_the_hold_has_lapsed_since() {
    let store = store().await;
    let (sender, mut calls) = mpsc::unbounded_channel();
    let service = engine(&store, HOLD, Calls(sender.clone(), None)).await;
    let id = submit(&service, "hold").await;
    assert_eq!(calls.recv().await, Some(false), "the first attempt is no repetition");
    service.stop(Duration::ZERO).await;
    // The hold's time passes while nobody works.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let done = StepOutcome::Done { result: None };
    let service = engine(&store, HOLD, Calls(sender, Some(done))).await;
    assert_eq!(calls.recv().await, Some(true), "the one before may have happened");
    let found = service.wait(id, WaitFor::Rest, Duration::from_secs(60)).await.unwrap();
    assert!(found.is_some());
    let kinds: Vec<EventKind> = store
        .history(id, 0, 100)
        .await
        .unwrap()
        .iter()
        .map(|event| event.kind)
        .collect();
    assert!(
        kinds.contains(&EventKind::HoldLapsed) && kinds.contains(&EventKind::HoldTaken),
        "{kinds:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_capture_that_never_came_is_taken_back_and_refused_from_then_on() {
    let store = store().await;
    let (sender, _calls) = mpsc::unbounded_channel();
    let service = engine(&store, CAPTURE, Calls(sender, None)).await;
    let id = submit(&service, "capture").await;
    let found = service
        .wait(id, WaitFor::Rest, Duration::from_secs(3600))
        .await
        .unwrap()
        .unwrap();
    let head = &found.stored.order.head;
    assert_eq!(&*head.status, "C", "{:?}", head.work);
    let book = Sandbox::new(store.clone()).book(None, 10).await.unwrap();
    let states: Vec<SandboxState> = book.iter().map(|payment| payment.state).collect();
    assert_eq!(states, [SandboxState::Voided]);
}

/// Waits, in the test's time, until a commit stands before the stalled store.
async fn staged(store: &MemoryStore) {
    while store.faults().staged() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_process_may_have_paid_is_given_up_when_the_stock_is_sold_meanwhile() {
    let store = store().await;
    let (sender, _calls) = mpsc::unbounded_channel();
    let service = engine(&store, SOLD, Calls(sender.clone(), None)).await;
    let id = submit(&service, "sold").await;
    let book = Sandbox::new(store.clone());
    // The payment stands, and its answer never comes.
    while book.book(None, 1).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    service.stop(Duration::ZERO).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    store.faults().stall();
    let service = engine(&store, SOLD, Calls(sender, None)).await;
    staged(&store).await;
    assert!(store.faults().let_one_through(), "the hold lapses");
    staged(&store).await;
    // Before it is taken again, all is gone; and the refusal that follows has to be decided twice.
    Inventory::new(&*store).count("tea", 0, Some("gone")).await.unwrap();
    assert!(store.faults().let_one_through(), "it cannot be taken again");
    store.faults().busy_next(1);
    store.faults().resume();
    let hour = Duration::from_secs(3600);
    let found = service.wait(id, WaitFor::Rest, hour).await.unwrap().unwrap();
    assert_eq!(&*found.stored.order.head.status, "C", "{:?}", found.stored.order.head);
    let states: Vec<SandboxState> = book
        .book(None, 10)
        .await
        .unwrap()
        .iter()
        .map(|payment| payment.state)
        .collect();
    assert_eq!(states, [SandboxState::Voided]);
}
