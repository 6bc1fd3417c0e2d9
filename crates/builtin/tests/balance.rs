//! Whatever fails, stock, money and what workers did are what the order says: over the real inventory, payments, shipments
//! and customers, a step done by a worker of a queue, and one that is answered by callbacks.
//!
//! Each attempt of each step is struck in each way, and its undo likewise; the process dies before and after each commit, and the
//! answers of commits are lost; each callback comes twice, and once more when all is over; workers answer twice, late, or never.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use comanda_builtin::customers::{Customer, Customers};
use comanda_builtin::inventory::{Inventory, Price};
use comanda_builtin::payments::{Sandbox, SandboxState};
use comanda_builtin::shipments::{CarrierSandbox, ShipmentState};
use comanda_builtin::{BuiltIns, Options};
use comanda_engine::{
    Admission, Answered, Callback, CallbackError, Change, DeadLetterFilter, Effect, Idempotency, Postponed, Pull,
    Pulled, Redrive, Service, StepCall, StepRunner, Submission,
};
use comanda_model::decision::{RedriveFrom, StepOutcome};
use comanda_model::order_type::Step;
use comanda_model::{Json, Order, OrderId, Phase, Token};
use comanda_order_type::{Bundle, Definition, Known, read};
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use tokio::sync::{Mutex as AsyncMutex, Notify};

/// Longer than anything here takes; only a test that hangs meets it.
const PATIENCE: Duration = Duration::from_secs(30);
const STOCK: u32 = 10;
const BOUGHT: u32 = 3;
/// How long a worker has the work that it claims.
const LEASE: Duration = Duration::from_millis(40);

/// A whole order: steps that are built in, one of a worker, one that is called back; and what takes each back.
const TYPE: &str = r#"
name = "whole"
initial = "received"
cancel = "canceled"
refused = "canceled"
customer = "/userId"
[schema]
type = "object"
properties.userId = { type = "string" }
properties.products = { type = "array" }
[statuses.received]
steps = ["customer", "reserve", "authorize", "pick"]
next = "processing"
to = ["canceled"]
[statuses.processing]
steps = ["book", "ship", "capture", "label"]
next = "delivered"
to = ["canceled"]
[statuses.delivered]
final = true
[statuses.canceled]
final = true
undo = true
[steps.customer]
use = "customers.check"
with = { customer = "{{ data.userId }}" }
retry = { attempts = 2, first = "1s" }
[steps.reserve]
use = "inventory.reserve"
with = { lines = "{{ data.products }}", hold = "15m" }
retry = { attempts = 2, first = "1s" }
undo = { use = "inventory.release" }
[steps.authorize]
use = "payments.authorize"
with = { amount = "{{ steps.reserve.total }}", currency = "{{ steps.reserve.currency }}" }
retry = { attempts = 2, first = "1s" }
undo = { use = "payments.void", retry = { attempts = 3, first = "1s" } }
[steps.pick]
queue = "picking"
retry = { attempts = 2, first = "1s" }
undo = { queue = "picking", retry = { attempts = 3, first = "1s" } }
[steps.book]
http = "POST http://127.0.0.1:1/bookings"
callback = { within = "1h" }
retry = { attempts = 2, first = "1s" }
undo = { http = "DELETE http://127.0.0.1:1/bookings", retry = { attempts = 3, first = "1s" } }
[steps.ship]
use = "inventory.ship"
retry = { attempts = 2, first = "1s" }
undo = { use = "inventory.release" }
[steps.capture]
use = "payments.capture"
retry = { attempts = 2, first = "1s" }
undo = { use = "payments.refund", retry = { attempts = 3, first = "1s" } }
[steps.label]
use = "shipments.create"
retry = { attempts = 2, first = "1s" }
undo = { use = "shipments.cancel", retry = { attempts = 3, first = "1s" } }
"#;

/// What is done to one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Nothing happens, and that is said. A worker answers that it could not.
    Fails,
    /// The answer is no.
    Refuses,
    /// The effect happens, and its answer is lost. A worker's answer comes when another has the work.
    LosesAnswer,
    /// Nothing happens, and nobody knows. A worker claims, and is never heard of again.
    LosesCall,
    /// The call arrives twice. A worker answers twice.
    Twice,
    /// The engine dies before the call arrives.
    DiesBefore,
    /// The engine dies after the effect, before it is written down.
    DiesAfter,
    /// Someone cancels while the attempt is under way.
    Cancelled,
}

const FORWARD: [Fault; 8] = [
    Fault::Fails,
    Fault::Refuses,
    Fault::LosesAnswer,
    Fault::LosesCall,
    Fault::Twice,
    Fault::DiesBefore,
    Fault::DiesAfter,
    Fault::Cancelled,
];
const BACKWARD: [Fault; 6] = [
    Fault::Fails,
    Fault::LosesAnswer,
    Fault::LosesCall,
    Fault::Twice,
    Fault::DiesBefore,
    Fault::DiesAfter,
];

/// Which attempts a fault strikes, each once.
#[derive(Clone, Debug)]
struct Plan {
    step: &'static str,
    /// The attempt; `None` is every one.
    attempt: Option<u32>,
    undo: bool,
    fault: Fault,
}

/// What is done to one commit, counted from the acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    /// The process dies before it is applied.
    DiesBefore,
    /// The process dies after it was applied.
    DiesAfter,
    /// It is applied, and its answer is lost.
    LosesAnswer,
    /// The store fails.
    Fails,
    /// The store has no room.
    Busy,
}

const STRIKES: [Strike; 5] = [
    Strike::DiesBefore,
    Strike::DiesAfter,
    Strike::LosesAnswer,
    Strike::Fails,
    Strike::Busy,
];

/// Receivers that keep the rules: an effect once per key, none after its undo, and an undo of nothing is accepted.
#[derive(Default)]
struct Outside {
    standing: BTreeSet<String>,
    undone: BTreeSet<String>,
    plans: Vec<Plan>,
    struck: BTreeSet<(String, u32, bool)>,
    tokens: Vec<Token>,
}

struct World {
    store: Arc<MemoryStore>,
    definition: Definition,
    outside: std::sync::Mutex<Outside>,
    service: std::sync::Mutex<Option<Service>>,
    /// The run has ended: what is still on its way is lost.
    is_over: AtomicBool,
    /// The engine is to die now.
    dies: Notify,
    /// One who restarts it at a time.
    restarting: AsyncMutex<()>,
}

/// What the engine runs its steps by: the real built-in ones, and what strikes them.
struct Struck {
    world: Arc<World>,
    built_in: BuiltIns,
}

/// Everything that is not built in.
struct Receivers(Arc<World>);

impl World {
    fn new(plans: Vec<Plan>) -> Arc<Self> {
        let bundle = Bundle {
            path: "whole.toml".to_owned(),
            text: TYPE.to_owned(),
            schema: None,
        };
        let read = read(&bundle, &Known::default());
        let told = comanda_order_type::render(&read.diagnostics, &bundle, false);
        Arc::new(Self {
            store: Arc::new(MemoryStore::default()),
            definition: read.definition.unwrap_or_else(|| panic!("{told}")),
            outside: std::sync::Mutex::new(Outside {
                plans,
                ..Outside::default()
            }),
            service: std::sync::Mutex::new(None),
            is_over: AtomicBool::new(false),
            dies: Notify::new(),
            restarting: AsyncMutex::new(()),
        })
    }

    async fn begin(self: &Arc<Self>) {
        let store: Arc<dyn Store> = self.store.clone();
        let customer = Customer {
            id: "u-1".to_owned(),
            name: "Ada".to_owned(),
            blocked: false,
            prepaid: false,
        };
        Customers::new(store.clone()).register(customer).await.unwrap();
        let inventory = Inventory::new(&*store);
        let price = Price {
            amount: "14.90".parse().unwrap(),
            currency: "EUR".to_owned(),
        };
        inventory.set_price("A-1", &price).await.unwrap();
        inventory.receive("A-1", STOCK, None).await.unwrap();
        self.start().await;
    }

    async fn start(self: &Arc<Self>) {
        let store: Arc<dyn Store> = self.store.clone();
        let options = Options {
            env: BTreeMap::new(),
            payments: Arc::new(Sandbox::new(store.clone())),
            customers: Arc::new(Customers::new(store.clone())),
            carrier: Arc::new(CarrierSandbox::new(store.clone())),
        };
        let steps = Struck {
            world: self.clone(),
            built_in: BuiltIns::new(options, store.clone(), Arc::new(Receivers(self.clone()))),
        };
        let options = comanda_engine::Options {
            wait_scale: 0.0001,
            sweep: Duration::from_millis(20),
            ..comanda_engine::Options::default()
        };
        let service = Service::start(options, store, Arc::new(steps), vec![self.definition.clone()]);
        let service = service.await.unwrap();
        *self.service.lock().unwrap() = Some(service);
    }

    fn service(&self) -> Service {
        self.service.lock().unwrap().clone().unwrap()
    }

    /// The process dies, and another takes its place.
    async fn restart(self: &Arc<Self>) {
        let _one = self.restarting.lock().await;
        self.store.faults().crash();
        self.service().stop(Duration::ZERO).await;
        self.start().await;
    }

    /// The fault that strikes this attempt.
    fn strikes(&self, step: &str, attempt: u32, undo: bool, key: &str) -> Option<Fault> {
        let mut outside = self.outside.lock().unwrap();
        let plan = outside
            .plans
            .iter()
            .find(|plan| plan.step == step && plan.undo == undo && plan.attempt.is_none_or(|wanted| wanted == attempt));
        let fault = plan?.fault;
        outside.struck.insert((key.to_owned(), attempt, undo)).then_some(fault)
    }

    /// A call, or a worker's hand, reaches its receiver.
    fn arrives(&self, key: &str, undoes: Option<&str>) -> StepOutcome {
        let mut outside = self.outside.lock().unwrap();
        match undoes {
            Some(forward) => {
                outside.standing.remove(forward);
                outside.undone.insert(forward.to_owned());
            }
            None if outside.undone.contains(key) => {
                return StepOutcome::Refused {
                    reason: "it was taken back".to_owned(),
                };
            }
            None => {
                outside.standing.insert(key.to_owned());
            }
        }
        StepOutcome::Done { result: None }
    }

    async fn cancel(&self, id: OrderId) {
        // Not every moment lets one cancel; then the order goes on as it is.
        let _ = self.service().cancel(id, Change::by("test")).await;
    }
}

fn again<'a>(call: &StepCall<'a>) -> StepCall<'a> {
    StepCall {
        order: call.order,
        name: call.name,
        step: call.step,
        attempt: call.attempt,
        undo: call.undo,
        idempotency_key: call.idempotency_key.clone(),
        undoes: call.undoes.clone(),
        uncertain: call.uncertain,
        callback: call.callback,
        traceparent: call.traceparent.clone(),
    }
}

fn unknown() -> StepOutcome {
    StepOutcome::Unknown {
        reason: "the connection broke".to_owned(),
        retry_after: None,
    }
}

fn failed() -> StepOutcome {
    StepOutcome::Failed {
        reason: "out of order".to_owned(),
        retry_after: None,
    }
}

fn refused() -> StepOutcome {
    StepOutcome::Refused {
        reason: "no".to_owned(),
    }
}

impl Struck {
    async fn attempt(&self, call: StepCall<'_>, built_in: bool) -> Effect {
        let fault = self
            .world
            .strikes(call.name, call.attempt, call.undo, &call.idempotency_key);
        let id = call.order.id();
        let once = || async {
            if built_in {
                self.built_in.run_built_in(again(&call)).await
            } else {
                self.built_in.run(again(&call)).await.into()
            }
        };
        match fault {
            None => once().await,
            Some(Fault::Fails) => failed().into(),
            Some(Fault::Refuses) => refused().into(),
            Some(Fault::LosesCall) => unknown().into(),
            Some(Fault::LosesAnswer) => {
                once().await;
                unknown().into()
            }
            Some(Fault::Twice) => {
                once().await;
                once().await
            }
            Some(fault @ (Fault::DiesBefore | Fault::DiesAfter)) => {
                if fault == Fault::DiesAfter {
                    once().await;
                }
                self.world.dies.notify_one();
                std::future::pending().await
            }
            Some(Fault::Cancelled) => {
                self.world.cancel(id).await;
                once().await
            }
        }
    }
}

#[async_trait]
impl StepRunner for Struck {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        self.attempt(call, false).await.outcome
    }

    async fn run_built_in(&self, call: StepCall<'_>) -> Effect {
        self.attempt(call, true).await
    }

    async fn admit(&self, order: &Order, step: &Step) -> Result<Admission, Postponed> {
        self.built_in.admit(order, step).await
    }
}

#[async_trait]
impl StepRunner for Receivers {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        let outcome = self.0.arrives(&call.idempotency_key, call.undoes.as_deref());
        let Some(token) = call.callback.filter(|_| call.name == "book" && !call.undo) else {
            return outcome;
        };
        // Answered by a callback, which comes twice.
        self.0.outside.lock().unwrap().tokens.push(token);
        let world = self.0.clone();
        tokio::spawn(async move {
            for _ in 0..2 {
                let outcome = outcome.clone();
                // Before the 202 is written down it is not awaited yet; the service may have died meanwhile.
                while let Err(CallbackError::Unknown | CallbackError::Command(_)) = world
                    .service()
                    .callback(Callback {
                        token,
                        outcome: outcome.clone(),
                    })
                    .await
                {
                    if world.is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        StepOutcome::Waiting { secret: token.secret }
    }
}

/// The worker of the queue: claims, does, answers, and misbehaves as planned.
async fn work(world: Arc<World>) {
    loop {
        let pull = Pull {
            queue: "picking".to_owned(),
            worker: "ann".to_owned(),
            max: 10,
            wait: Duration::from_millis(50),
            lease: LEASE,
        };
        // The process may just be dead.
        let pulls = world.service().pull(pull).await.unwrap_or_default();
        for pulled in pulls.work {
            handle(&world, pulled).await;
        }
        tokio::task::yield_now().await;
    }
}

async fn handle(world: &Arc<World>, pulled: Pulled) {
    let Pulled {
        token,
        attempt,
        undo,
        idempotency_key: key,
        undoes,
        ..
    } = pulled;
    let fault = world.strikes("pick", attempt, undo, &key);
    let does = || world.arrives(&key, undoes.as_deref());
    let answer = async |outcome: StepOutcome| {
        // An answer that is lost to a dying process is sent again.
        loop {
            match world.service().answer(token, outcome.clone()).await {
                Ok(answered) => return answered,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    match fault {
        None => {
            answer(does()).await;
        }
        Some(Fault::Fails) => {
            answer(failed()).await;
        }
        Some(Fault::Refuses) => {
            answer(refused()).await;
        }
        Some(Fault::LosesCall) => {}
        Some(Fault::LosesAnswer) => {
            let outcome = does();
            let (world, late) = (world.clone(), outcome);
            tokio::spawn(async move {
                // By then the lease has ended, and most likely another has the work.
                tokio::time::sleep(2 * LEASE).await;
                let _ = world.service().answer(token, late).await;
            });
        }
        Some(Fault::Twice) => {
            let outcome = does();
            answer(outcome.clone()).await;
            assert_eq!(answer(outcome).await, Answered::Stale, "an answer counts once");
        }
        Some(fault @ (Fault::DiesBefore | Fault::DiesAfter)) => {
            let outcome = (fault == Fault::DiesAfter).then(&does);
            world.restart().await;
            // The claim has survived.
            answer(outcome.unwrap_or_else(does)).await;
        }
        Some(Fault::Cancelled) => {
            world.cancel(token.order).await;
            answer(does()).await;
        }
    }
}

fn submission() -> Submission {
    let data = format!(r#"{{"userId":"u-1","products":[{{"sku":"A-1","quantity":{BOUGHT}}}]}}"#);
    Submission {
        idempotency: Some(Idempotency {
            scope: "test".to_owned(),
            key: "one".to_owned(),
            kept: None,
        }),
        ..Submission::new("whole", Json::parse(&data).unwrap())
    }
}

/// Submits, again and again under one key until it is answered.
async fn submit(world: &Arc<World>) -> OrderId {
    loop {
        match world.service().submit(submission()).await {
            Ok(accepted) => return accepted.id(),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// Lets commits through one at a time, and strikes the one of this number. Answers whether there was one.
async fn through_commits(world: Arc<World>, number: u32, strike: Strike, over: Arc<Notify>) -> bool {
    let faults = world.store.faults();
    faults.stall();
    let mut seen = 0;
    loop {
        if faults.staged() == 0 {
            tokio::select! {
                () = over.notified() => return false,
                () = tokio::time::sleep(Duration::from_micros(200)) => continue,
            }
        }
        if seen == number {
            match strike {
                Strike::DiesBefore => world.restart().await,
                Strike::DiesAfter => {
                    faults.resume();
                    world.restart().await;
                }
                Strike::LosesAnswer => {
                    faults.lose_next_answers(1);
                    faults.resume();
                }
                Strike::Fails => {
                    faults.fail_next_commits(1);
                    faults.resume();
                }
                Strike::Busy => {
                    faults.crash();
                    faults.busy_next(1);
                }
            }
            return true;
        }
        faults.resume();
        faults.stall();
        seen += 1;
    }
}

/// The order when nothing more happens by itself.
async fn at_rest(world: &Arc<World>, id: OrderId, told: &str) -> Order {
    let began = Instant::now();
    loop {
        if let Some(stored) = world.store.order(id).await.unwrap() {
            let head = &stored.order.head;
            if matches!(head.phase, Phase::Final | Phase::Dead) {
                return stored.order;
            }
            assert!(began.elapsed() < PATIENCE, "{told}: it does not move: {head:?}");
        }
        tokio::select! {
            () = world.dies.notified() => world.restart().await,
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
}

/// What was moved, charged and done is what the order says.
async fn check(world: &Arc<World>, order: &Order, told: &str) {
    let account = Inventory::new(&*world.store).stock("A-1").await.unwrap();
    let places = (account.on_hand, account.held, account.shipped);
    assert_eq!(
        account.on_hand + account.held + account.shipped,
        i64::from(STOCK),
        "{told}: {places:?}"
    );
    let book = Sandbox::new(world.store.clone()).book(None, 100).await.unwrap();
    let states: Vec<SandboxState> = book.iter().map(|payment| payment.state).collect();
    let charged = states
        .iter()
        .filter(|state| matches!(state, SandboxState::Authorized | SandboxState::Captured))
        .count();
    let parcels = CarrierSandbox::new(world.store.clone()).book(None, 100).await.unwrap();
    let parcels = parcels
        .iter()
        .filter(|parcel| parcel.state == ShipmentState::Created)
        .count();
    let standing = world.outside.lock().unwrap().standing.clone();
    if order.head.phase == Phase::Dead {
        assert!(
            charged <= 1 && parcels <= 1 && standing.len() <= 2,
            "{told}: {states:?} {standing:?}"
        );
        return;
    }
    if &*order.head.status == "delivered" {
        let (stock, bought) = (i64::from(STOCK), i64::from(BOUGHT));
        assert_eq!(places, (stock - bought, 0, bought), "{told}");
        assert_eq!(states, [SandboxState::Captured], "{told}");
        assert_eq!((parcels, standing.len()), (1, 2), "{told}: {standing:?}");
    } else {
        assert_eq!(&*order.head.status, "canceled", "{told}");
        assert_eq!(places, (i64::from(STOCK), 0, 0), "{told}");
        assert_eq!((charged, parcels), (0, 0), "{told}: {states:?}");
        assert!(standing.is_empty(), "{told}: {standing:?}\n{:?}", order.head);
    }
}

/// Runs one order under these faults to its end, and holds stock, money and receivers against it. Answers whether the commit
/// that was to be struck was there.
async fn balances(plans: Vec<Plan>, struck: Option<(u32, Strike)>) -> bool {
    let told = format!("{plans:?} {struck:?}");
    let world = World::new(plans);
    world.begin().await;
    let over = Arc::new(Notify::new());
    let striking =
        struck.map(|(number, strike)| tokio::spawn(through_commits(world.clone(), number, strike, over.clone())));
    // The stall stands before the first commit comes.
    tokio::task::yield_now().await;
    let worker = tokio::spawn(work(world.clone()));
    let id = submit(&world).await;
    let mut order = at_rest(&world, id, &told).await;
    over.notify_one();
    let was_there = match striking {
        Some(striking) => striking.await.unwrap(),
        None => true,
    };
    world.store.faults().resume();
    for _ in 0..3 {
        check(&world, &order, &told).await;
        if order.head.phase != Phase::Dead {
            break;
        }
        let by_id = DeadLetterFilter {
            order_ids: Some(vec![id]),
            ..DeadLetterFilter::default()
        };
        if order.head.dead.as_ref().is_some_and(|dead| dead.undo_failed) {
            // Someone mended the receiver.
            world.outside.lock().unwrap().plans.clear();
            let redrive = Redrive {
                from: RedriveFrom::FailedStep,
                current_version: false,
                patch: None,
                dry_run: false,
            };
            world.service().redrive(by_id, redrive, "test".into()).await.unwrap();
        } else {
            let service = world.service();
            let discarded = service.discard(by_id, "given up".to_owned(), false, "test".into());
            discarded.await.unwrap();
        }
        order = at_rest(&world, id, &told).await;
    }
    assert_ne!(order.head.phase, Phase::Dead, "{told}: {:?}", order.head.dead);
    // Every callback comes once more, when all is over.
    let tokens = world.outside.lock().unwrap().tokens.clone();
    for token in tokens {
        let outcome = StepOutcome::Done { result: None };
        let late = world.service().callback(Callback { token, outcome }).await;
        assert!(
            matches!(late, Err(CallbackError::Over { .. } | CallbackError::Unknown)),
            "{told}: {late:?}"
        );
    }
    worker.abort();
    let after = world.store.order(id).await.unwrap().unwrap().order;
    assert_eq!(after.head.status, order.head.status, "{told}");
    check(&world, &after, &told).await;
    world.service().stop(Duration::ZERO).await;
    world.is_over.store(true, Ordering::Relaxed);
    was_there
}

/// Runs so many at the same time.
async fn all(runs: impl IntoIterator<Item = Vec<Plan>>) -> usize {
    let mut tasks = tokio::task::JoinSet::new();
    let mut count = 0;
    for plans in runs {
        if tasks.len() >= 16 {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(balances(plans, None));
        count += 1;
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    count
}

const STEPS: [&str; 8] = [
    "customer",
    "reserve",
    "authorize",
    "pick",
    "book",
    "ship",
    "capture",
    "label",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_of_each_step_is_struck() {
    let plans = STEPS.into_iter().flat_map(|step| {
        let attempts = [Some(1), Some(2), None].into_iter();
        attempts.flat_map(move |attempt| {
            FORWARD.map(|fault| {
                vec![Plan {
                    step,
                    attempt,
                    undo: false,
                    fault,
                }]
            })
        })
    });
    let plans = std::iter::once(Vec::new()).chain(plans);
    assert!(all(plans).await > 150);
}

/// Two in a row: what the first left open must survive the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_two_attempts_in_a_row_are_struck() {
    let plans = ["reserve", "authorize", "pick", "book", "capture"]
        .into_iter()
        .flat_map(|step| {
            let pairs = FORWARD
                .into_iter()
                .flat_map(|first| FORWARD.map(|second| [first, second]));
            pairs.map(move |faults| {
                let plan = |attempt, fault| Plan {
                    step,
                    attempt: Some(attempt),
                    undo: false,
                    fault,
                };
                vec![plan(1, faults[0]), plan(2, faults[1])]
            })
        });
    assert!(all(plans).await > 250);
}

/// What a refusal of the last step takes back, is struck while it is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_of_each_undo_is_struck() {
    let plans = STEPS.into_iter().filter(|step| *step != "customer").flat_map(|step| {
        let attempts = [Some(1), Some(2), None].into_iter();
        attempts.flat_map(move |attempt| {
            BACKWARD.map(|fault| {
                let refusal = Plan {
                    step: "label",
                    attempt: None,
                    undo: false,
                    fault: Fault::Refuses,
                };
                let undo = Plan {
                    step,
                    attempt,
                    undo: true,
                    fault,
                };
                vec![refusal, undo]
            })
        })
    });
    assert!(all(plans).await > 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_commit_is_struck() {
    let refusal = Plan {
        step: "label",
        attempt: None,
        undo: false,
        fault: Fault::Refuses,
    };
    for plans in [Vec::new(), vec![refusal]] {
        for strike in STRIKES {
            let mut number = 0;
            while balances(plans.clone(), Some((number, strike))).await {
                number += 1;
                assert!(number < 100, "an order of a hundred commits");
            }
            assert!(number >= 6, "{number} commits prove little");
        }
    }
}
