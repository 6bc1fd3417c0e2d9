//! The shop that orders run in: a store, the engine over it, which dies and comes back, and receivers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use comanda_builtin::customers::{Customer, Customers};
use comanda_builtin::inventory::{Inventory, Price};
use comanda_builtin::payments::Sandbox;
use comanda_builtin::shipments::CarrierSandbox;
use comanda_builtin::{BuiltIns, Options};
use comanda_engine::{Change, Service};
use comanda_model::decision::StepOutcome;
use comanda_model::{OrderId, Token};
use comanda_order_type::Definition;
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use tokio::sync::{Mutex as AsyncMutex, Notify};

use crate::fault::{Fault, Plan};
use crate::kind::Kind;
use crate::steps::{Receivers, Struck};

/// What has come in.
pub(crate) const STOCK: u32 = 10;

/// Receivers that keep the rules: an effect once per key, none after its undo, and an undo of nothing is accepted.
#[derive(Default)]
pub(crate) struct Outside {
    pub(crate) standing: BTreeSet<String>,
    pub(crate) undone: BTreeSet<String>,
    pub(crate) plans: Vec<Plan>,
    pub(crate) struck: BTreeSet<(String, u32, bool)>,
    pub(crate) tokens: Vec<Token>,
}

pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) definition: Definition,
    pub(crate) outside: std::sync::Mutex<Outside>,
    pub(crate) service: std::sync::Mutex<Option<Service>>,
    /// The run has ended: what is still on its way is lost.
    pub(crate) is_over: AtomicBool,
    /// The engine is to die now.
    pub(crate) dies: Notify,
    /// One who restarts it at a time.
    pub(crate) restarting: AsyncMutex<()>,
}

impl World {
    pub(crate) fn new(kind: Kind, plans: Vec<Plan>) -> Arc<Self> {
        Arc::new(Self {
            kind,
            store: Arc::new(MemoryStore::default()),
            definition: kind.definition(),
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

    pub(crate) async fn begin(self: &Arc<Self>) {
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

    pub(crate) async fn start(self: &Arc<Self>) {
        let store: Arc<dyn Store> = self.store.clone();
        let options = Options {
            env: BTreeMap::new(),
            payments: Arc::new(Sandbox::new(store.clone())),
            customers: Arc::new(Customers::new(store.clone())),
            carrier: Arc::new(CarrierSandbox::new(store.clone())),
            inventory: None,
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

    pub(crate) fn service(&self) -> Service {
        self.service.lock().unwrap().clone().unwrap()
    }

    /// The process dies, and another takes its place.
    pub(crate) async fn restart(self: &Arc<Self>) {
        let _one = self.restarting.lock().await;
        self.store.faults().crash();
        self.service().stop(Duration::ZERO).await;
        self.start().await;
    }

    /// The fault that strikes this attempt.
    pub(crate) fn strikes(&self, step: &str, attempt: u32, undo: bool, key: &str) -> Option<Fault> {
        let mut outside = self.outside.lock().unwrap();
        let plan = outside
            .plans
            .iter()
            .find(|plan| plan.step == step && plan.undo == undo && plan.attempt.is_none_or(|wanted| wanted == attempt));
        let fault = plan?.fault;
        outside.struck.insert((key.to_owned(), attempt, undo)).then_some(fault)
    }

    /// A call, or a worker's hand, reaches its receiver.
    pub(crate) fn arrives(&self, key: &str, undoes: Option<&str>) -> StepOutcome {
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

    pub(crate) async fn cancel(&self, id: OrderId) {
        // Not every moment lets one cancel; then the order goes on as it is.
        let _ = self.service().cancel(id, Change::by("test")).await;
    }
}
