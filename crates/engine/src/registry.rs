//! The order types that this process can run: the current version of each by name, and every version that orders
//! live on by hash.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use comanda_model::{OrderType, TypeHash};
use comanda_order_type::{Bundle, Definition, Known, read};
use comanda_store::{Capabilities, Store, StoreError, TypeSource};
use parking_lot::RwLock;

use crate::error::{CommandError, StartError};
use crate::step::StepRunner;

/// The order types.
pub struct Registry {
    store: Arc<dyn Store>,
    current: ArcSwap<BTreeMap<Arc<str>, Arc<Definition>>>,
    versions: RwLock<HashMap<TypeHash, Arc<Definition>>>,
    /// Who runs the steps; without one, types are only read.
    steps: Option<Arc<dyn StepRunner>>,
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeChange {
    /// Types that were not there before.
    pub added: Vec<Arc<str>>,
    /// Types with another version than before.
    pub changed: Vec<Arc<str>>,
    /// Types that take no more orders. Those accepted before go on.
    pub removed: Vec<Arc<str>>,
}

impl Registry {
    /// An empty registry over a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            current: ArcSwap::default(),
            versions: RwLock::default(),
            steps: None,
        }
    }

    /// An empty registry of types whose steps must be ones that `steps` can run.
    pub(crate) fn running(store: Arc<dyn Store>, steps: Arc<dyn StepRunner>) -> Self {
        Self {
            steps: Some(steps),
            ..Self::new(store)
        }
    }

    /// A step in Rust that a type needs and this program has not.
    fn missing_step(&self, definition: &Definition) -> Option<String> {
        let steps = self.steps.as_ref()?;
        let mut needed = definition.order_type.rust_steps();
        needed.find(|name| !steps.knows(name)).map(|name| name.to_string())
    }

    /// Makes these the current types. Each is stored under its hash before it can take an order.
    pub async fn replace(&self, definitions: Vec<Definition>) -> Result<TypeChange, StartError> {
        for definition in &definitions {
            if let Some(step) = self.missing_step(definition) {
                let name = definition.order_type.name.to_string();
                return Err(StartError::MissingStep { name, step });
            }
        }
        let mut next = BTreeMap::new();
        let capabilities = self.store.capabilities();
        if let Some(needs) = definitions.iter().find(|definition| !fits(definition, capabilities)) {
            tracing::error!(order_type = %needs.order_type.name, "the type has a queue, which this store does not keep");
            return Err(self.store.lacks("keep queues").into());
        }
        for definition in definitions {
            let order_type = &definition.order_type;
            let name = order_type.name.clone();
            if !self.versions.read().contains_key(&order_type.hash) {
                let source = TypeSource {
                    hash: order_type.hash,
                    name: name.to_string(),
                    source: definition.bundle.to_source(),
                };
                self.store.put_type(&source).await?;
            }
            let definition = Arc::new(definition);
            self.versions
                .write()
                .insert(definition.order_type.hash, definition.clone());
            next.insert(name, definition);
        }
        let before = self.current.load_full();
        let mut change = TypeChange::default();
        for (name, definition) in &next {
            match before.get(name) {
                None => change.added.push(name.clone()),
                Some(old) if old.order_type.hash != definition.order_type.hash => change.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        change.removed = before
            .keys()
            .filter(|name| !next.contains_key(*name))
            .cloned()
            .collect();
        self.current.store(Arc::new(next));
        Ok(change)
    }

    /// The current version of a type.
    pub fn current(&self, name: &str) -> Option<Arc<Definition>> {
        self.current.load().get(name).cloned()
    }

    /// All current types, by name.
    pub fn all(&self) -> Vec<Arc<Definition>> {
        self.current.load().values().cloned().collect()
    }

    /// The name that is nearest to one that there is not.
    pub fn nearest(&self, name: &str) -> Option<Arc<str>> {
        let names = self.current.load();
        let distance = |candidate: &Arc<str>| strsim::damerau_levenshtein(candidate, name);
        names
            .keys()
            .min_by_key(|candidate| distance(candidate))
            .filter(|candidate| distance(candidate) <= 3)
            .cloned()
    }

    /// Whether something holds of any version of a type that is known here.
    pub fn any_version(&self, name: &str, holds: impl Fn(&OrderType) -> bool) -> bool {
        let versions = self.versions.read();
        let mut types = versions.values().map(|definition| &definition.order_type);
        types.any(|order_type| &*order_type.name == name && holds(order_type))
    }

    /// The names of the queues of all types, in every version that is known here.
    pub fn queues(&self) -> BTreeSet<Arc<str>> {
        let versions = self.versions.read();
        let types = versions.values().map(|definition| &definition.order_type);
        let of = |order_type: &Arc<OrderType>| -> Vec<Arc<str>> {
            order_type
                .step_queues()
                .chain(order_type.status_queues())
                .cloned()
                .collect()
        };
        types.flat_map(of).collect()
    }

    /// The names of the archives of all types, in every version that is known here.
    pub fn archives(&self) -> BTreeSet<Arc<str>> {
        let versions = self.versions.read();
        let types = versions.values().map(|definition| &definition.order_type);
        types
            .flat_map(|order_type| order_type.archives().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// The queue of this name.
    pub(crate) fn queue(&self, name: &str) -> Result<Arc<str>, CommandError> {
        let queues = self.queues();
        if let Some(queue) = queues.get(name) {
            return Ok(queue.clone());
        }
        let distance = |candidate: &Arc<str>| strsim::damerau_levenshtein(candidate, name);
        let nearest = queues.iter().min_by_key(|candidate| distance(candidate)).cloned();
        Err(CommandError::UnknownQueue {
            name: name.to_owned(),
            nearest: nearest.filter(|nearest| distance(nearest) <= 3),
        })
    }

    /// A version that orders live on: from memory, or from the store.
    pub async fn version(&self, hash: TypeHash) -> Result<Option<Arc<Definition>>, StoreError> {
        if let Some(definition) = self.versions.read().get(&hash) {
            return Ok(Some(definition.clone()));
        }
        let Some(source) = self.store.type_source(hash).await? else {
            return Ok(None);
        };
        let Ok(definition) = definition_of(&source) else {
            return Ok(None);
        };
        if self.missing_step(&definition).is_some() {
            return Ok(None);
        }
        let definition = Arc::new(definition);
        self.versions.write().insert(hash, definition.clone());
        Ok(Some(definition))
    }

    /// A version that is in memory already, which every version is that a live order was seen on.
    pub(crate) fn loaded(&self, hash: TypeHash) -> Option<Arc<Definition>> {
        self.versions.read().get(&hash).cloned()
    }

    /// Reads every version that orders live on. Refuses to start over one that cannot be run.
    pub(crate) async fn load_live(&self) -> Result<(), StartError> {
        for (hash, orders) in self.store.live_types().await? {
            if self.loaded(hash).is_some() {
                continue;
            }
            let Some(source) = self.store.type_source(hash).await? else {
                let reason = "its source is not in the store".to_owned();
                return Err(StartError::LiveType {
                    name: "?".to_owned(),
                    hash,
                    orders,
                    reason,
                });
            };
            let definition = definition_of(&source).map_err(|reason| StartError::LiveType {
                name: source.name.clone(),
                hash,
                orders,
                reason,
            })?;
            if let Some(step) = self.missing_step(&definition) {
                return Err(StartError::LiveType {
                    name: source.name.clone(),
                    hash,
                    orders,
                    reason: format!("it needs the step `{step}`, which this program was not compiled with"),
                });
            }
            self.versions.write().insert(hash, Arc::new(definition));
        }
        Ok(())
    }
}

/// Whether a store can keep the orders of a type.
fn fits(definition: &Definition, capabilities: Capabilities) -> bool {
    let order_type = &definition.order_type;
    (capabilities.queues || order_type.step_queues().next().is_none())
        && (capabilities.status_queues || order_type.status_queues().next().is_none())
}

fn definition_of(source: &TypeSource) -> Result<Definition, String> {
    let bundle = Bundle::from_source(&source.name, &source.source).map_err(|error| error.to_string())?;
    // It was checked against the environment when it was current; what is missing now shows when a step needs it.
    let read = read(&bundle, &Known::default());
    read.definition.ok_or_else(|| {
        let messages: Vec<String> = read
            .diagnostics
            .iter()
            .map(|diagnostic| diagnostic.message.clone())
            .collect();
        messages.join("; ")
    })
}
