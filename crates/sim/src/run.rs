//! One run from beginning to end: faults and requests, then calm, then an operator who clears up, and the judge at each
//! stage.

use std::cell::RefCell;
use std::sync::{Arc, Once};
use std::time::Duration;

use comanda_store::{FeedStart, Store};
use tokio::task::JoinSet;

use crate::clients;
use crate::nodes;
use crate::plan::Plan;
use crate::receivers;
use crate::shop;
use crate::workers;
use crate::world::World;

/// How long all may take to come to rest once nothing goes wrong any more.
const REST_MAX: Duration = Duration::from_secs(30 * 60);
/// How long until every lease of a worker has ended.
const LEASES_END: Duration = Duration::from_secs(60);
/// How often the operator clears up before what is left counts as stuck.
const CLEARINGS_MAX: u64 = 12;

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What was found wrong first.
    pub failure: Option<String>,
    /// Everything that happened, if it was asked for.
    pub trace: Vec<String>,
    /// Orders that became durable.
    pub orders: usize,
    /// Commits that became durable.
    pub commits: u64,
    /// Calls that reached the outside.
    pub calls: u64,
    /// Requests to the store and the outside.
    pub deeds: u64,
}

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a plan. The same plan gives the same run.
pub fn run(plan: &Plan, tracing: bool) -> Run {
    note_panics();
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => {
            return Run {
                failure: Some(format!("the runtime could not be made: {error}")),
                ..Run::default()
            };
        }
    };
    PANIC.with_borrow_mut(Option::take);
    let world = runtime.block_on(async {
        let world = World::new(plan.clone(), tracing);
        tokio::select! {
            biased;
            () = world.failed.notified() => {}
            () = stages(&world) => {}
        }
        world
    });
    drop(runtime);
    // The processes hold the world that holds them.
    world.forget_nodes();
    let panic = PANIC.with_borrow_mut(Option::take);
    let judge = world.judge.lock();
    Run {
        failure: world.failure().or(panic),
        orders: judge.orders().count(),
        commits: judge.commits,
        calls: judge.calls,
        deeds: world.deeds(),
        trace: world.take_trace(),
    }
}

async fn stages(world: &Arc<World>) {
    let plan = &world.plan;
    shop::open(world).await;
    receivers::seed(world).await;
    for node in 0..plan.nodes {
        tokio::spawn(nodes::keep_running(world.clone(), node));
    }
    for worker in 0..plan.workers {
        tokio::spawn(workers::keep_working(world.clone(), worker));
    }
    let mut acting = JoinSet::new();
    for action in plan.actions.clone() {
        acting.spawn(clients::act(world.clone(), action));
    }
    let last = plan.actions.iter().map(|action| action.at_millis).max().unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(last + 5000)).await;
    world.calm_down();
    while acting.join_next().await.is_some() {}
    if !rests(world).await {
        return;
    }
    let verdict = {
        let judge = world.judge.lock();
        judge.none_is_stuck().and_then(|()| judge.none_is_dropped())
    };
    if !world.check(verdict) {
        return;
    }
    for clearing in 0..CLEARINGS_MAX {
        clients::discard(world, clearing).await;
        clients::discard_items(world, clearing).await;
        receivers::resume_all(world).await;
        for n in clients::waiting(world) {
            clients::transition(world, n, u64::MAX - clearing).await;
        }
        if !rests(world).await {
            return;
        }
        let clear = {
            let judge = world.judge.lock();
            judge.all_are_final() && judge.all_are_told() && judge.unannounced().is_empty()
        };
        if clear {
            break;
        }
        // Who took an item for the last time and was lost is dead only when the lease has ended and somebody looks.
        tokio::time::sleep(LEASES_END).await;
    }
    last_look(world).await;
}

/// Waits until the engine has nothing more to do.
async fn rests(world: &Arc<World>) -> bool {
    let mut waited = Duration::ZERO;
    loop {
        let restless = world.judge.lock().restless();
        if restless.is_empty() {
            return true;
        }
        if waited > REST_MAX {
            return world.check(Err(format!(
                "nothing is silently stuck, but after {} s of calm these are: {}",
                waited.as_secs(),
                restless.join("; ")
            )));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        waited += Duration::from_secs(2);
    }
}

async fn last_look(world: &Arc<World>) {
    let ids: Vec<_> = world.judge.lock().orders().map(|(id, _)| *id).collect();
    for id in ids {
        let stored = world.memory.order(id).await.unwrap_or_default();
        let verdict = world.judge.lock().is_stored(id, stored.as_ref());
        if !world.check(verdict) {
            return;
        }
    }
    let feed = world.memory.feed(FeedStart::Oldest, usize::MAX).await;
    let events = feed.map(|page| page.events).unwrap_or_default();
    let counters = world.memory.counters().await.unwrap_or_default();
    let judge = world.judge.lock();
    let verdict = judge
        .feed_is_whole(&events)
        .and_then(|()| judge.counters_are_true(&counters))
        .and_then(|()| judge.outside_is_clean())
        .and_then(|()| judge.end_is_reached())
        .and_then(|()| judge.items_are_done())
        .and_then(|()| judge.shop_is_settled())
        .and_then(|()| judge.all_is_announced());
    drop(judge);
    world.check(verdict);
}

/// A panic in a task of the engine would only end that task; here it is a failure of the run.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.with_borrow_mut(|panic| {
                panic.get_or_insert_with(|| format!("the engine panicked: {info}"));
            });
            before(info);
        }));
    });
}
