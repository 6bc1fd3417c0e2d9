//! Whatever fails, what stands outside is what the order says: over every shipped order type, with its steps reaching
//! outside, and over generated ones, each step is made to fail in each way at each attempt, and taken back likewise.
//!
//! The receivers honour the key, refuse a forward call after its undo, and accept an undo of nothing: that is what
//! `docs/steps/undo.md` asks of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_engine::{Callback, CallbackError, DeadLetterFilter, Options, Service, StepCall, StepRunner, WaitFor};
use comanda_model::decision::StepOutcome;
use comanda_model::order::DoneState;
use comanda_model::{Json, Order, OrderId, Phase, Token, WorkKind};
use comanda_order_type::{Bundle, Definition, Known, read, shipped};
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use parking_lot::Mutex;
use support::submission;
use tokio::sync::Notify;

/// What is done to one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The receiver does nothing and says so.
    Fails,
    /// The receiver says no.
    Refuses,
    /// The effect happens, and its answer is lost.
    LosesAnswer,
    /// Nothing happens, and nobody knows.
    LosesCall,
    /// The call arrives twice.
    Twice,
    /// The engine dies before the call arrives.
    DiesBefore,
    /// The engine dies after the effect, before it is written down.
    DiesAfter,
    /// The call is answered with 202; its callback comes twice.
    CallsBackTwice,
    /// The call is answered with 202, and someone cancels before its callback comes.
    CancelledBeforeCallback,
    /// Someone cancels while the call is under way.
    Cancelled,
}

const FORWARD: [Fault; 10] = [
    Fault::Fails,
    Fault::Refuses,
    Fault::LosesAnswer,
    Fault::LosesCall,
    Fault::Twice,
    Fault::DiesBefore,
    Fault::DiesAfter,
    Fault::CallsBackTwice,
    Fault::CancelledBeforeCallback,
    Fault::Cancelled,
];
const BACKWARD: [Fault; 5] = [
    Fault::Fails,
    Fault::LosesAnswer,
    Fault::Twice,
    Fault::DiesBefore,
    Fault::DiesAfter,
];

/// Which attempts a fault strikes.
#[derive(Clone, Debug)]
struct Plan {
    step: String,
    /// The attempt; `None` is every one.
    attempt: Option<u32>,
    undo: bool,
    fault: Fault,
}

/// The outside: receivers that keep the rules, and what happens on the way to them.
#[derive(Default)]
struct Outside {
    /// Forward keys whose effect stands.
    standing: BTreeSet<String>,
    /// Forward keys that were taken back, some before they came.
    undone: BTreeSet<String>,
    plans: Vec<Plan>,
    /// Attempts that a plan has struck.
    struck: Vec<(String, u32, bool)>,
    tokens: Vec<Token>,
    service: Option<Service>,
}

#[derive(Default)]
struct World {
    outside: Mutex<Outside>,
    /// The engine is to die now.
    dies: Notify,
}

impl World {
    /// The call arrives at its receiver.
    fn arrives(&self, call: &StepCall<'_>) -> StepOutcome {
        let mut outside = self.outside.lock();
        match &call.undoes {
            Some(forward) => {
                outside.standing.remove(forward);
                outside.undone.insert(forward.clone());
            }
            None if outside.undone.contains(&call.idempotency_key) => {
                return StepOutcome::Refused {
                    reason: "it was taken back".to_owned(),
                };
            }
            None => {
                outside.standing.insert(call.idempotency_key.clone());
            }
        }
        StepOutcome::Done {
            result: Some(Json::parse(r#"{"done":true}"#).unwrap()),
        }
    }

    /// The fault that strikes this attempt: each plan strikes an attempt once.
    fn strikes(&self, call: &StepCall<'_>) -> Option<Fault> {
        let mut outside = self.outside.lock();
        let fault = outside
            .plans
            .iter()
            .find(|plan| {
                plan.step == call.name
                    && plan.undo == call.undo
                    && plan.attempt.is_none_or(|attempt| attempt == call.attempt)
            })?
            .fault;
        let key = (call.idempotency_key.clone(), call.attempt, call.undo);
        if outside.struck.contains(&key) {
            return None;
        }
        outside.struck.push(key);
        Some(fault)
    }

    fn service(&self) -> Service {
        self.outside.lock().service.clone().unwrap()
    }

    async fn cancels(&self, order: OrderId) {
        // Not every status lets one cancel; then the order goes on as it is.
        let _ = self.service().cancel(order, support::change()).await;
    }
}

#[async_trait]
impl StepRunner for World {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        // A question comes first, as an HTTP step asks it.
        if call.uncertain && !call.undo && self.outside.lock().standing.contains(&call.idempotency_key) {
            return self.arrives(&call);
        }
        let unknown = || StepOutcome::Unknown {
            reason: "the connection broke".to_owned(),
            retry_after: None,
        };
        let token = call.callback.unwrap();
        let waiting = || StepOutcome::Waiting { secret: token.secret };
        match self.strikes(&call) {
            None => self.arrives(&call),
            Some(Fault::Fails) => support::failed(),
            Some(Fault::Refuses) => StepOutcome::Refused {
                reason: "no".to_owned(),
            },
            Some(Fault::LosesCall) => unknown(),
            Some(Fault::LosesAnswer) => {
                self.arrives(&call);
                unknown()
            }
            Some(Fault::Twice) => {
                self.arrives(&call);
                self.arrives(&call)
            }
            Some(fault @ (Fault::DiesBefore | Fault::DiesAfter)) => {
                if fault == Fault::DiesAfter {
                    self.arrives(&call);
                }
                self.dies.notify_one();
                std::future::pending().await
            }
            Some(Fault::CallsBackTwice) => {
                let outcome = self.arrives(&call);
                self.outside.lock().tokens.push(token);
                let service = self.service();
                tokio::spawn(async move {
                    for _ in 0..2 {
                        let callback = Callback {
                            token,
                            outcome: outcome.clone(),
                        };
                        let _ = service.callback(callback).await;
                    }
                });
                waiting()
            }
            Some(Fault::CancelledBeforeCallback) => {
                let outcome = self.arrives(&call);
                self.outside.lock().tokens.push(token);
                self.cancels(token.order).await;
                let service = self.service();
                tokio::spawn(async move {
                    let _ = service.callback(Callback { token, outcome }).await;
                });
                waiting()
            }
            Some(Fault::Cancelled) => {
                self.cancels(token.order).await;
                self.arrives(&call)
            }
        }
    }
}

fn definition(text: &str) -> Option<Definition> {
    let bundle = Bundle {
        path: "test.toml".to_owned(),
        text: text.to_owned(),
        schema: None,
    };
    read(&bundle, &Known::default()).definition
}

async fn engine(store: &Arc<MemoryStore>, world: &Arc<World>, definition: &Definition) -> Service {
    let options = Options {
        wait_scale: 0.0001,
        sweep: Duration::from_millis(20),
        ..Options::default()
    };
    let store: Arc<dyn Store> = store.clone();
    let service = Service::start(options, store, world.clone(), vec![definition.clone()])
        .await
        .unwrap();
    world.outside.lock().service = Some(service.clone());
    service
}

/// The order when nothing more happens by itself, but for deadlines.
async fn at_rest(store: &Arc<MemoryStore>, world: &Arc<World>, definition: &Definition, id: OrderId) -> Order {
    let mut version = 0;
    loop {
        let service = world.service();
        let order = service.find(id).await.unwrap().unwrap().stored.order;
        let awaited = order.head.work.as_ref().and_then(|work| work.due_at).is_some();
        if !awaited || matches!(order.head.phase, Phase::Final | Phase::Dead) {
            return Arc::unwrap_or_clone(order);
        }
        assert!(version < 200, "it goes on for ever: {:?}", order.head);
        version = order.head.version;
        tokio::select! {
            moved = service.wait(id, WaitFor::VersionAfter(version), Duration::from_secs(20)) => {
                let moved = Arc::unwrap_or_clone(moved.unwrap().unwrap().stored.order).head;
                assert!(moved.version > version, "it does not move: {moved:?}");
            }
            () = world.dies.notified() => {
                service.stop(Duration::ZERO).await;
                engine(store, world, definition).await;
            }
        }
    }
}

/// Runs one order under these faults, ends it, and holds what stands outside against what it says.
async fn balances(definition: &Definition, plans: Vec<Plan>) {
    let told = format!("{} under {plans:?}", definition.order_type.name);
    let store = Arc::new(MemoryStore::default());
    let world = Arc::new(World::default());
    world.outside.lock().plans = plans;
    let service = engine(&store, &world, definition).await;
    let mut submitted = submission(&definition.order_type.name, &definition.sample().to_string());
    submitted.status = match &definition.order_type.initial {
        comanda_model::order_type::Initial::Status(_) => None,
        comanda_model::order_type::Initial::From { .. } => {
            definition.order_type.statuses.keys().next().map(ToString::to_string)
        }
    };
    let id = service.submit(submitted).await.unwrap().found.stored.order.id();
    let mut order = at_rest(&store, &world, definition, id).await;
    for _ in 0..2 {
        if order.head.phase != Phase::Dead {
            break;
        }
        let by_id = DeadLetterFilter {
            order_ids: Some(vec![id]),
            ..DeadLetterFilter::default()
        };
        check(&order, &world, &told);
        if order.head.dead.as_ref().is_some_and(|dead| dead.undo_failed) {
            // Someone mended the receiver.
            world.outside.lock().plans.clear();
            let redrive = comanda_engine::Redrive {
                from: comanda_model::decision::RedriveFrom::FailedStep,
                current_version: false,
                patch: None,
                dry_run: false,
            };
            world.service().redrive(by_id, redrive, "local".into()).await.unwrap();
        } else {
            world
                .service()
                .discard(by_id, "given up".to_owned(), false, "local".into())
                .await
                .unwrap();
        }
        order = at_rest(&store, &world, definition, id).await;
    }
    assert_ne!(order.head.phase, Phase::Dead, "{told}");
    check(&order, &world, &told);
    // Every callback comes once more, when all is over.
    let tokens = world.outside.lock().tokens.clone();
    for token in tokens {
        let outcome = support::done();
        let late = world.service().callback(Callback { token, outcome }).await;
        assert!(
            matches!(late, Err(CallbackError::Over { .. } | CallbackError::Unknown)),
            "{told}: {late:?}"
        );
    }
    let after = at_rest(&store, &world, definition, id).await;
    assert_eq!(
        (&after.head.status, after.head.phase),
        (&order.head.status, order.head.phase),
        "{told}"
    );
    check(&after, &world, &told);
    world.service().stop(Duration::ZERO).await;
}

/// What stands outside is what the order says stands, and only what nobody knows may go either way.
fn check(order: &Order, world: &World, told: &str) {
    let outside = world.outside.lock();
    let mut states: BTreeMap<String, DoneState> = BTreeMap::new();
    // What is being taken back may stand or not, until that is written down.
    let undoing = match order.head.work.as_ref().map(|work| &work.kind) {
        Some(WorkKind::Undo(at)) => Some(at.index),
        _ => None,
    };
    for done in &order.head.done {
        let state = if undoing == Some(done.visit) {
            DoneState::Unknown
        } else {
            done.state
        };
        states.insert(format!("{}:{}", order.id(), done.visit), state);
    }
    for (key, state) in &states {
        let stands = outside.standing.contains(key);
        let right = match state {
            DoneState::Stands => stands,
            DoneState::Undone => !stands,
            DoneState::Unknown => true,
        };
        assert!(
            right,
            "{told}: {key} is {state:?}, and outside it stands: {stands}\n{:?}",
            order.head
        );
    }
    let visit = order
        .head
        .work
        .as_ref()
        .map(|work| format!("{}:{}", order.id(), work.visit));
    for key in &outside.standing {
        // The visit of a dead letter holds what it may have done: a redrive or a discard is still to come.
        assert!(
            states.contains_key(key) || visit.as_ref() == Some(key),
            "{told}: {key} stands outside, and the order does not know it\n{:?}",
            order.head
        );
    }
}

/// Every fault at every attempt of every step that reaches outside, and of its undo.
async fn every_fault(definition: &Definition) -> usize {
    let mut runs = 0;
    balances(definition, Vec::new()).await;
    let steps = definition.order_type.steps.clone();
    let last = steps.keys().last().unwrap().to_string();
    for (name, step) in steps.iter().filter(|(_, step)| !step.action.is_internal()) {
        let attempts = (1..=step.retry.attempts).map(Some).chain([None]);
        for attempt in attempts {
            for fault in FORWARD {
                let plan = Plan {
                    step: name.to_string(),
                    attempt,
                    undo: false,
                    fault,
                };
                balances(definition, vec![plan]).await;
                runs += 1;
            }
        }
        // Two in a row: what the first left open must survive the second.
        for (first, second) in FORWARD
            .into_iter()
            .flat_map(|first| FORWARD.map(|second| (first, second)))
        {
            let plan = |attempt, fault| Plan {
                step: name.to_string(),
                attempt: Some(attempt),
                undo: false,
                fault,
            };
            balances(definition, vec![plan(1, first), plan(2, second)]).await;
            runs += 1;
        }
        // What a refusal of the last step takes back.
        for (attempt, fault) in [Some(1), Some(2), None]
            .into_iter()
            .flat_map(|attempt| BACKWARD.map(|fault| (attempt, fault)))
        {
            let refusal = Plan {
                step: last.clone(),
                attempt: None,
                undo: false,
                fault: Fault::Refuses,
            };
            let undo = Plan {
                step: name.to_string(),
                attempt,
                undo: true,
                fault,
            };
            balances(definition, vec![refusal, undo]).await;
            runs += 1;
        }
    }
    runs
}

/// Each shipped type, with every step that does nothing yet reaching outside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_types_balance_whatever_fails() {
    let reaching = "http = \"POST http://127.0.0.1:1/do\"\nundo = { http = \"POST http://127.0.0.1:1/undo\" }";
    let mut runs = 0;
    for bundle in shipped() {
        let bundle = Bundle {
            text: bundle.text.replace("use = \"noop\"", reaching),
            ..bundle
        };
        let read = read(&bundle, &Known::default());
        let told = comanda_order_type::render(&read.diagnostics, &bundle, false);
        let definition = read.definition.unwrap_or_else(|| panic!("{told}"));
        if !definition.order_type.steps.is_empty() {
            runs += every_fault(&definition).await;
        }
    }
    assert!(runs > 100, "{runs} runs prove little");
}

/// A type of `count` steps, in one status or in one each, that is exhausted in this way.
fn generated(count: usize, split: bool, exhausted: &str) -> Definition {
    let mut text =
        "name = \"generated\"\ninitial = \"s0\"\nrefused = \"canceled\"\n[schema]\ntype = \"object\"\n".to_owned();
    let names: Vec<String> = (0..count).map(|index| format!("step{index}")).collect();
    let groups: Vec<Vec<String>> = if split {
        names.iter().map(|name| vec![name.clone()]).collect()
    } else {
        vec![names.clone()]
    };
    for (index, group) in groups.iter().enumerate() {
        let next = if index + 1 < groups.len() {
            format!("s{}", index + 1)
        } else {
            "done".to_owned()
        };
        text.push_str(&format!(
            "[statuses.s{index}]\nsteps = {group:?}\nnext = \"{next}\"\nto = [\"canceled\"]\n"
        ));
    }
    text.push_str("[statuses.done]\nfinal = true\n[statuses.canceled]\nfinal = true\nundo = true\n");
    for name in &names {
        text.push_str(&format!(
            "[steps.{name}]\nhttp = \"POST http://127.0.0.1:1/{name}\"\nretry = {{ attempts = 2, first = \"1s\" }}\n\
             exhausted = \"{exhausted}\"\ncallback = {{ within = \"1h\" }}\n\
             unknown = {{ http = \"GET http://127.0.0.1:1/{name}\" }}\n\
             undo = {{ http = \"DELETE http://127.0.0.1:1/{name}\", retry = {{ attempts = 3, first = \"1s\" }} }}\n"
        ));
    }
    definition(&text).expect("a generated type is sound")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generated_types_balance_whatever_fails() {
    for count in 1..=2 {
        for split in [false, true] {
            for exhausted in ["dead-letter", "undo"] {
                every_fault(&generated(count, split, exhausted)).await;
            }
        }
    }
}
