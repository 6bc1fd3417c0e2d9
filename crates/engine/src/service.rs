//! The engine's face, and what its parts share.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::{Order, OrderId, Phase};
use comanda_order_type::Definition;
use comanda_store::{Receipt, Store, StoreError, Stored};
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::chance::{Chance, SystemChance};
use crate::error::{CommandError, StartError};
use crate::job::{self, Jobs};
use crate::meter::Meters;
use crate::pull::Waiters;
use crate::registry::Registry;
use crate::release::Releases;
use crate::step::StepRunner;
use crate::tasks::Tasks;
use crate::view::Found;
use crate::watch::{WaitFor, Watchers};
use crate::worker::{self, Ready, Wake};

/// How the engine works.
#[derive(Clone)]
pub struct Options {
    /// The most steps that reach outside at the same time. Default 256.
    pub concurrency: usize,
    /// The most orders that are claimed and in memory at the same time. Default 8192.
    pub outstanding_max: usize,
    /// How long a claim lasts; a step with a longer timeout extends it. Default 60 s.
    pub lease: Duration,
    /// How often due work is looked for that nobody announced. Default 1 s.
    pub sweep: Duration,
    /// How long an idempotency key is kept. Default 24 h.
    pub idempotency_kept: Duration,
    /// Multiplies the waits between retries; below 1 to try out failure quickly. Default 1.
    pub wait_scale: f64,
    /// Steps that fail on purpose.
    pub breaks: Breaks,
    /// Where ids, tokens and jitter come from.
    pub chance: Arc<dyn Chance>,
    /// Only for measuring: submissions are validated, decided and answered like any, and nothing is stored or worked on.
    /// Default `false`.
    pub bench_no_store: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            concurrency: 256,
            outstanding_max: 8192,
            lease: Duration::from_secs(60),
            sweep: Duration::from_secs(1),
            idempotency_kept: Duration::from_secs(24 * 60 * 60),
            wait_scale: 1.0,
            breaks: Breaks::default(),
            chance: Arc::new(SystemChance),
            bench_no_store: false,
        }
    }
}

/// Steps that fail on purpose: each attempt up to the given number fails, of every order. Attempts count on through
/// a redrive, so that a redriven order succeeds.
#[derive(Clone, Debug, Default)]
pub struct Breaks(pub Vec<(String, u32)>);

impl Breaks {
    pub(crate) fn breaks(&self, step: &str, attempt: u32) -> Option<u32> {
        self.0
            .iter()
            .find(|(name, until)| name == step && attempt <= *until)
            .map(|(_, until)| *until)
    }
}

/// The engine, running. Cloning it clones a handle.
#[derive(Clone)]
pub struct Service(pub(crate) Arc<Core>);

/// What the parts of the engine share.
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Registry,
    pub(crate) steps: Arc<dyn StepRunner>,
    pub(crate) options: Options,
    pub(crate) watchers: Arc<Watchers>,
    pub(crate) waiters: Waiters,
    /// Counts commits after which an order is a dead letter.
    pub(crate) deaths: watch::Sender<u64>,
    /// One permit per claimed order: bounds what is in memory, and with it the ready queue.
    pub(crate) outstanding: Arc<Semaphore>,
    /// One permit per step that is running outside.
    pub(crate) concurrency: Arc<Semaphore>,
    pub(crate) ready: mpsc::UnboundedSender<Ready>,
    pub(crate) wake: Arc<Wake>,
    pub(crate) releases: Arc<Releases>,
    pub(crate) stopping: CancellationToken,
    pub(crate) aborting: CancellationToken,
    pub(crate) tasks: Tasks,
    pub(crate) meters: Meters,
    pub(crate) jobs: Jobs,
}

impl Service {
    /// Starts the engine over a store: reads the versions that live orders stand on, and begins to work what is due.
    ///
    /// Refuses to start over orders that it could not run.
    pub async fn start(
        options: Options,
        store: Arc<dyn Store>,
        steps: Arc<dyn StepRunner>,
        types: Vec<Definition>,
    ) -> Result<Self, StartError> {
        let registry = Registry::running(store.clone(), steps.clone());
        registry.replace(types).await?;
        registry.load_live().await?;
        let (ready, receiver) = mpsc::unbounded_channel();
        let core = Arc::new(Core {
            outstanding: Arc::new(Semaphore::new(options.outstanding_max)),
            concurrency: Arc::new(Semaphore::new(options.concurrency)),
            releases: Arc::new(Releases::new(store.clone())),
            store,
            registry,
            steps,
            options,
            watchers: Arc::default(),
            waiters: Waiters::default(),
            deaths: watch::Sender::new(0),
            ready,
            wake: Arc::default(),
            stopping: CancellationToken::new(),
            aborting: CancellationToken::new(),
            tasks: Tasks::here(),
            meters: Meters::default(),
            jobs: Jobs::default(),
        });
        core.tasks.spawn(worker::claim_loop(core.clone()));
        core.tasks.spawn(worker::dispatch_loop(core.clone(), receiver));
        if core.store.capabilities().ledger {
            core.tasks.spawn(job::job_loop(core.clone()));
        }
        Ok(Self(core))
    }

    /// The store, for what is only read: history, attempts, feed, lists, causes, counters.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// The order types.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    /// Changes after an order has become a dead letter here: then its event can be read from the feed. Those of other
    /// nodes are not announced.
    pub fn deaths(&self) -> watch::Receiver<u64> {
        self.0.deaths.subscribe()
    }

    /// The present, by the store's clock.
    pub fn now(&self) -> Timestamp {
        self.0.store.now()
    }

    /// An order by its id.
    pub async fn find(&self, id: OrderId) -> Result<Option<Found>, CommandError> {
        match self.0.store.order(id).await? {
            Some(stored) => self.found(stored).await.map(Some),
            None => Ok(None),
        }
    }

    /// An order of one type, by the client's own id or the order's.
    pub async fn find_in_type(&self, type_name: &str, id_or_key: &str) -> Result<Option<Found>, CommandError> {
        let keyed = self
            .0
            .store
            .key(&key_scope(type_name), id_or_key)
            .await?
            .map(|(id, _)| id);
        let Some(id) = keyed.or_else(|| id_or_key.parse().ok()) else {
            return Ok(None);
        };
        let found = self.find(id).await?;
        Ok(found.filter(|found| &*found.stored.order.accepted.order_type == type_name))
    }

    /// Adds to what was read from the store the version of the type that it lives on.
    pub async fn found(&self, stored: Stored) -> Result<Found, CommandError> {
        let definition = self.0.definition(&stored.order).await?;
        Ok(Found { stored, definition })
    }

    /// Waits until an order is as asked, or the time is over; answers with the order as it then stands.
    pub async fn wait(&self, id: OrderId, until: WaitFor, timeout: Duration) -> Result<Option<Found>, CommandError> {
        let deadline = tokio::time::Instant::now() + timeout;
        let watch = self.0.watchers.watch(id);
        loop {
            // Interest is registered before the order is read, so that no change falls in between.
            let changed = watch.notify.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let found = self.find(id).await?;
            let met = found.as_ref().is_none_or(|found| match until {
                WaitFor::Rest => {
                    let head = &found.stored.order.head;
                    head.goes_on_at(true).is_none() && head.queued_at(true).is_none()
                }
                WaitFor::VersionAfter(version) => found.stored.order.head.version > version,
            });
            if met || tokio::time::Instant::now() >= deadline || self.0.stopping.is_cancelled() {
                return Ok(found);
            }
            tokio::select! {
                biased;
                () = changed => {}
                // Changes made by another node are not announced here, so the store is looked at in between.
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = self.0.stopping.cancelled() => {}
            }
        }
    }

    /// Stops: claims nothing more, lets running attempts end within `grace`, then gives up what is left, so that it
    /// can be claimed by whoever comes next.
    pub async fn stop(&self, grace: Duration) {
        self.0.stopping.cancel();
        if !self.0.tasks.end(grace).await {
            self.0.aborting.cancel();
            self.0.tasks.ended().await;
        }
    }

    /// Ends when the engine begins to stop: for streams and waits that would else hold a connection open.
    pub async fn stopped(&self) {
        self.0.stopping.cancelled().await;
    }
}

impl Core {
    /// The version of its type that an order lives on.
    pub(crate) async fn definition(&self, order: &Order) -> Result<Arc<Definition>, CommandError> {
        let hash = order.head.type_hash;
        if let Some(definition) = self.registry.loaded(hash) {
            return Ok(definition);
        }
        let unknown = || CommandError::UnknownVersion {
            name: order.accepted.order_type.clone(),
            hash,
        };
        self.registry.version(hash).await?.ok_or_else(unknown)
    }

    /// What follows from a durable commit inside this process: those who wait are told, and the worker is woken
    /// when there is something to take up.
    pub(crate) fn committed(&self, order: &Order, receipt: &Receipt) {
        self.watchers.changed(order.id());
        if order.head.phase == Phase::Dead {
            self.deaths.send_modify(|deaths| *deaths += 1);
        }
        if receipt.promoted.is_some() {
            self.wake.now();
            if let Some(definition) = self.registry.loaded(order.head.type_hash) {
                let queues = definition.order_type.step_queues();
                queues.for_each(|queue| self.waiters.wake(queue));
            }
        }
        if self.waiters.any()
            && let Some(definition) = self.registry.loaded(order.head.type_hash)
            && let Some(status) = definition.order_type.status(&order.head.status)
            && let Some(queue) = &status.queue
        {
            // Whether this very commit has entered the status matters little: who is woken for nothing waits on.
            self.waiters.wake(&queue.name);
        }
        if let Some((queue, _)) = order.head.queued_at(!receipt.queued) {
            self.waiters.wake(queue);
        }
        if !receipt.claimed
            && let Some(due_at) = order.head.due_at(!receipt.queued)
        {
            self.wake.at(due_at);
        }
    }

    pub(crate) async fn reload(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        self.store.order(id).await
    }
}

/// The scope in which clients' own ids are unique.
pub(crate) fn key_scope(type_name: &str) -> String {
    format!("type:{type_name}")
}
