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

mod commits;
mod fault;
mod kind;
mod steps;
mod worker;
mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use comanda_builtin::inventory::Inventory;
use comanda_builtin::payments::{Sandbox, SandboxState};
use comanda_builtin::shipments::{CarrierSandbox, ShipmentState};
use comanda_engine::{Callback, CallbackError, DeadLetterFilter, Idempotency, Redrive, Submission};
use comanda_model::decision::{RedriveFrom, StepOutcome};
use comanda_model::{Json, Order, OrderId, Phase};
use comanda_store::Store;
use tokio::sync::Notify;

use crate::commits::through_commits;
use crate::fault::{BACKWARD, FORWARD, Plan, STRIKES, Strike};
use crate::kind::Kind;
use crate::worker::work;
use crate::world::{STOCK, World};

/// Longer than anything here takes; only a test that hangs meets it.
const PATIENCE: Duration = Duration::from_secs(30);
const BOUGHT: u32 = 3;

fn submission(world: &World) -> Submission {
    let data = format!(r#"{{"userId":"u-1","products":[{{"sku":"A-1","quantity":{BOUGHT}}}]}}"#);
    Submission {
        idempotency: Some(Idempotency {
            scope: "test".to_owned(),
            key: "one".to_owned(),
            kept: None,
        }),
        ..Submission::new(&*world.definition.order_type.name, Json::parse(&data).unwrap())
    }
}

/// Submits, again and again under one key until it is answered.
async fn submit(world: &Arc<World>) -> OrderId {
    loop {
        match world.service().submit(submission(world)).await {
            Ok(accepted) => return accepted.id(),
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
}

/// The order when nothing more happens by itself.
async fn at_rest(world: &Arc<World>, id: OrderId, told: &str) -> Order {
    let began = Instant::now();
    loop {
        if let Some(stored) = world.store.order(id).await.unwrap() {
            let head = &stored.order.head;
            if matches!(head.phase, Phase::Final | Phase::Dead) {
                return Arc::unwrap_or_clone(stored.order);
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
            charged <= 1 && parcels <= 1 && standing.len() <= world.kind.receivers(),
            "{told}: {states:?} {standing:?}"
        );
        return;
    }
    if &*order.head.status == "delivered" {
        let (stock, bought) = (i64::from(STOCK), i64::from(BOUGHT));
        assert_eq!(places, (stock - bought, 0, bought), "{told}");
        assert_eq!(states, [SandboxState::Captured], "{told}");
        assert_eq!(
            (parcels, standing.len()),
            (1, world.kind.receivers()),
            "{told}: {standing:?}"
        );
    } else {
        assert_eq!(&*order.head.status, "canceled", "{told}");
        assert_eq!(places, (i64::from(STOCK), 0, 0), "{told}");
        assert_eq!((charged, parcels), (0, 0), "{told}: {states:?}");
        assert!(standing.is_empty(), "{told}: {standing:?}\n{:?}", order.head);
    }
}

/// Runs one order under these faults to its end, and holds stock, money and receivers against it. Answers how many
/// commits were let through before one was struck.
async fn balances(kind: Kind, plans: Vec<Plan>, struck: Option<(u32, Strike)>) -> u32 {
    let told = format!("{kind:?} {plans:?} {struck:?}");
    let world = World::new(kind, plans);
    world.begin().await;
    let over = Arc::new(Notify::new());
    let striking = struck.map(|(before, strike)| {
        world.store.faults().stall();
        tokio::spawn(through_commits(world.clone(), before, strike, over.clone()))
    });
    let worker = (kind == Kind::Whole).then(|| tokio::spawn(work(world.clone())));
    let id = submit(&world).await;
    let mut order = at_rest(&world, id, &told).await;
    over.notify_one();
    let through = match striking {
        Some(striking) => striking.await.unwrap(),
        None => 0,
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
    if let Some(worker) = worker {
        worker.abort();
    }
    let after = world.store.order(id).await.unwrap().unwrap().order;
    assert_eq!(after.head.status, order.head.status, "{told}");
    check(&world, &after, &told).await;
    world.service().stop(Duration::ZERO).await;
    world.is_over.store(true, Ordering::Relaxed);
    through
}

/// Runs so many at the same time.
async fn all(kind: Kind, runs: impl IntoIterator<Item = (Vec<Plan>, Option<(u32, Strike)>)>) -> usize {
    let mut tasks = tokio::task::JoinSet::new();
    let mut count = 0;
    for (plans, struck) in runs {
        if tasks.len() >= 16 {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(async move {
            let through = balances(kind, plans, struck).await;
            assert_eq!(through, struck.map_or(0, |(before, _)| before), "no commit was struck");
        });
        count += 1;
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    count
}

const KINDS: [Kind; 2] = [Kind::Whole, Kind::Storefront];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_of_each_step_is_struck() {
    for kind in KINDS {
        let plans = kind.steps().iter().flat_map(|step| {
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
        assert!(all(kind, plans.map(|plans| (plans, None))).await > 100);
    }
}

/// Two in a row: what the first left open must survive the second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_two_attempts_in_a_row_are_struck() {
    for kind in KINDS {
        let steps = kind
            .steps()
            .iter()
            .filter(|step| !matches!(**step, "customer" | "ship"));
        let plans = steps.flat_map(|step| {
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
        assert!(all(kind, plans.map(|plans| (plans, None))).await > 200);
    }
}

/// What a refusal of the last step takes back, is struck while it is taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_of_each_undo_is_struck() {
    for kind in KINDS {
        let steps = kind.steps().iter().filter(|step| **step != "customer");
        let plans = steps.flat_map(|step| {
            let attempts = [Some(1), Some(2), None].into_iter();
            attempts.flat_map(move |attempt| {
                BACKWARD.map(|fault| {
                    let undo = Plan {
                        step,
                        attempt,
                        undo: true,
                        fault,
                    };
                    vec![kind.refused_last(), undo]
                })
            })
        });
        assert!(all(kind, plans.map(|plans| (plans, None))).await > 50);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_commit_is_struck() {
    for kind in KINDS {
        for plans in [Vec::new(), vec![kind.refused_last()]] {
            let count = balances(kind, plans.clone(), Some((u32::MAX, Strike::Busy))).await;
            assert!(
                count as usize > kind.steps().len(),
                "{count} commits are fewer than there are steps"
            );
            let strikes = STRIKES
                .into_iter()
                .flat_map(|strike| (0..count).map(move |before| (before, strike)));
            all(kind, strikes.map(|struck| (plans.clone(), Some(struck)))).await;
        }
    }
}
