//! What the engine counts. Handles are looked up once per type and step, because building a metric's labels costs more
//! than counting.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Histogram};
use parking_lot::RwLock;

type Name = Arc<str>;

/// Handles to the engine's metrics.
#[derive(Default)]
pub(crate) struct Meters {
    accepted: Cache<Name, Counter>,
    attempts: Cache<(Name, Name, &'static str), Counter>,
    durations: Cache<(Name, Name), Histogram>,
    stale: Cache<Name, Counter>,
}

/// Handles by their labels. Types and steps are few and come from files, so the cache stays small.
struct Cache<K, H>(RwLock<HashMap<K, H>>);

impl<K, H> Default for Cache<K, H> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Eq + Hash + Clone, H: Clone> Cache<K, H> {
    fn get(&self, key: &K, make: impl FnOnce() -> H) -> H {
        if let Some(handle) = self.0.read().get(key) {
            return handle.clone();
        }
        self.0.write().entry(key.clone()).or_insert_with(make).clone()
    }
}

impl Meters {
    /// An order was accepted.
    pub(crate) fn accepted(&self, order_type: &Name) {
        let make = || metrics::counter!("comanda_orders_accepted_total", "type" => order_type.to_string());
        self.accepted.get(order_type, make).increment(1);
    }

    /// An attempt ended.
    pub(crate) fn attempted(&self, order_type: &Name, step: &Name, outcome: &'static str) {
        let make = || {
            metrics::counter!(
                "comanda_step_attempts_total",
                "type" => order_type.to_string(),
                "step" => step.to_string(),
                "outcome" => outcome
            )
        };
        self.attempts
            .get(&(order_type.clone(), step.clone(), outcome), make)
            .increment(1);
    }

    /// An attempt that reached outside took so long.
    pub(crate) fn took(&self, order_type: &Name, step: &Name, duration: Duration) {
        let make = || {
            metrics::histogram!(
                "comanda_step_duration_seconds",
                "type" => order_type.to_string(),
                "step" => step.to_string()
            )
        };
        self.durations
            .get(&(order_type.clone(), step.clone()), make)
            .record(duration.as_secs_f64());
    }

    /// A result came too late to count.
    pub(crate) fn stale(&self, order_type: &Name) {
        let make = || metrics::counter!("comanda_stale_results_total", "type" => order_type.to_string());
        self.stale.get(order_type, make).increment(1);
    }
}
