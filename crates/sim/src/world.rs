//! What all parts of one run share: the plan, the clock, the store, the judge, and the trace.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use comanda_deliver::Deliveries;
use comanda_engine::Service;
use comanda_model::OrderId;
use comanda_store::memory::MemoryStore;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::VirtualClock;
use crate::dice::{Dice, Rolls};
use crate::judge::{Judge, Verdict};
use crate::life::Life;
use crate::plan::{Fault, Plan};
use crate::plant::Plant;

/// More than this in one run means that something turns in circles.
const DEEDS_MAX: u64 = 300_000;

/// One run's world.
pub struct World {
    /// What is to happen.
    pub plan: Plan,
    /// The dice.
    pub dice: Dice,
    /// The clock.
    pub clock: VirtualClock,
    /// The store under the faults.
    pub memory: Arc<MemoryStore>,
    /// The judge.
    pub judge: Mutex<Judge>,
    nodes: Mutex<Vec<Option<Process>>>,
    nodes_changed: Notify,
    /// Told when something was found wrong.
    pub failed: Notify,
    calm: AtomicBool,
    deeds: AtomicU64,
    lives: AtomicU64,
    counts: Mutex<HashMap<u64, u64>>,
    failure: Mutex<Option<String>>,
    trace: Option<Mutex<Vec<String>>>,
}

/// A process that runs.
#[derive(Clone)]
pub struct Process {
    /// Its life.
    pub life: Arc<Life>,
    /// The engine in it.
    pub service: Service,
    /// The subscriptions, in the one process that delivers.
    pub deliveries: Option<Deliveries>,
}

impl Process {
    /// Stops in good order, or runs out of time.
    pub async fn stop(&self) {
        if let Some(deliveries) = &self.deliveries {
            // Whoever is in the middle of a request that nobody answers does not hold up the stop for ever.
            let _ = tokio::time::timeout(Duration::from_secs(2), deliveries.stop()).await;
        }
        self.service.stop(Duration::from_secs(2)).await;
    }
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(plan: Plan, tracing: bool) -> Arc<Self> {
        let clock = VirtualClock::new(plan.tick_micros);
        Arc::new(Self {
            dice: Dice(plan.seed),
            memory: Arc::new(MemoryStore::with_clock(clock.of_store())),
            clock,
            judge: Mutex::default(),
            nodes: Mutex::new(vec![None; plan.nodes]),
            nodes_changed: Notify::new(),
            failed: Notify::new(),
            calm: AtomicBool::new(false),
            deeds: AtomicU64::new(0),
            lives: AtomicU64::new(0),
            counts: Mutex::default(),
            failure: Mutex::new(None),
            trace: tracing.then(Mutex::default),
            plan,
        })
    }

    /// From now on nothing goes wrong any more.
    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
        self.trace(|| "— from here on nothing goes wrong —".to_owned());
        for process in self.nodes.lock().iter().flatten() {
            process.life.hold_still(false);
        }
    }

    /// A process runs on a node, or no longer.
    pub fn set_node(&self, node: usize, process: Option<Process>) {
        self.nodes.lock()[node] = process;
        self.nodes_changed.notify_waiters();
    }

    /// No process runs any more: the run is over.
    pub fn forget_nodes(&self) {
        self.nodes.lock().clear();
    }

    /// One of the processes that run; waits for one if none does.
    pub async fn process(&self, name: impl Hash) -> Process {
        let mut rolls = self.rolls(("process", name));
        loop {
            let changed = self.nodes_changed.notified();
            let running: Vec<Process> = self.nodes.lock().iter().flatten().cloned().collect();
            if !running.is_empty() {
                return running[usize::try_from(rolls.below(running.len() as u64)).unwrap_or(0)].clone();
            }
            changed.await;
        }
    }

    /// The process that delivers events; waits for it if it does not run.
    pub async fn delivering(&self) -> (Process, Deliveries) {
        loop {
            let changed = self.nodes_changed.notified();
            let running = self.nodes.lock().iter().flatten().find_map(|process| {
                let deliveries = process.deliveries.clone()?;
                Some((process.clone(), deliveries))
            });
            if let Some(running) = running {
                return running;
            }
            changed.await;
        }
    }

    /// Whether the time of faults is over.
    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    /// Whether a bug is planted.
    pub fn has(&self, plant: Plant) -> bool {
        self.plan.plant == Some(plant)
    }

    /// The dice of one thing.
    pub fn rolls(&self, name: impl Hash) -> Rolls {
        self.dice.of(name)
    }

    /// Whether a thing of this name goes wrong in this way.
    pub fn goes_wrong(&self, fault: Fault, name: impl Hash) -> bool {
        let rate = self.plan.rate(fault);
        rate > 0 && !self.is_calm() && self.dice.of((fault, name)).permille(rate)
    }

    /// How often a thing of this name was before.
    pub fn nth(&self, name: impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let mut counts = self.counts.lock();
        let count = counts.entry(hasher.finish()).or_default();
        *count += 1;
        *count
    }

    /// The number of the next life.
    pub fn next_life(&self) -> u32 {
        u32::try_from(self.lives.fetch_add(1, Ordering::Relaxed)).unwrap_or(u32::MAX)
    }

    /// Ends a life. Where only one process can have the store, its claims end with it.
    pub fn kill(&self, life: &Life) {
        if !life.kill() {
            return;
        }
        self.trace(|| format!("process {} dies", life.number));
        let alone = self.plan.nodes == 1;
        if alone {
            self.memory.faults().crash();
        }
        self.judge.lock().life_ended(life.number, alone);
    }

    /// The number of an order in the plan, as it is shown.
    pub fn name(&self, id: OrderId) -> u64 {
        self.judge.lock().known(id).map_or(u64::MAX, |known| known.n)
    }

    /// Takes note of what the judge says. Answers whether it found nothing wrong.
    pub fn check(&self, verdict: Verdict) -> bool {
        match verdict {
            Ok(()) => true,
            Err(fault) => {
                self.trace(|| format!("WRONG: {fault}"));
                self.failure.lock().get_or_insert(fault);
                self.failed.notify_one();
                false
            }
        }
    }

    /// Counts something that was done; a run that never ends is a failure too.
    pub fn deed(&self) {
        if self.deeds.fetch_add(1, Ordering::Relaxed) == DEEDS_MAX {
            self.check(Err(
                "nothing is silently stuck, but the engine turns in circles".to_owned()
            ));
        }
    }

    /// How much was done.
    pub fn deeds(&self) -> u64 {
        self.deeds.load(Ordering::Relaxed)
    }

    /// What was found wrong first.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    /// Writes down what happens, if anyone wants to know.
    pub fn trace(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = &self.trace {
            let millis = self.clock.elapsed_millis();
            let line = line();
            trace.lock().push(format!("{millis:>8} ms  {line}"));
        }
    }

    /// What was written down.
    pub fn take_trace(&self) -> Vec<String> {
        self.trace
            .as_ref()
            .map(|trace| std::mem::take(&mut *trace.lock()))
            .unwrap_or_default()
    }
}
