//! Waiting for an order to change: `Prefer: wait`, long polls, and streams of one order.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use comanda_model::OrderId;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitFor {
    /// The order is final, or a dead letter: nothing more happens by itself.
    Rest,
    /// The order is past this version.
    VersionAfter(u64),
}

/// Who waits for which order.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    // Read on every commit: when nobody waits, which is nearly always, a commit pays one load.
    waiting: AtomicUsize,
    orders: Mutex<HashMap<OrderId, (usize, Arc<Notify>)>>,
}

impl Watchers {
    /// Registers interest; wakes after each change until dropped.
    pub(crate) fn watch(self: &Arc<Self>, order: OrderId) -> Watch {
        let mut orders = self.orders.lock();
        let entry = orders.entry(order).or_insert_with(|| (0, Arc::new(Notify::new())));
        entry.0 += 1;
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Watch {
            watchers: self.clone(),
            order,
            notify: entry.1.clone(),
        }
    }

    /// Tells those who wait that the order has durably changed.
    pub(crate) fn changed(&self, order: OrderId) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some((_, notify)) = self.orders.lock().get(&order) {
            notify.notify_waiters();
        }
    }
}

/// One who waits.
#[derive(Debug)]
pub(crate) struct Watch {
    watchers: Arc<Watchers>,
    order: OrderId,
    pub(crate) notify: Arc<Notify>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut orders = self.watchers.orders.lock();
        if let Some(entry) = orders.get_mut(&self.order) {
            entry.0 -= 1;
            if entry.0 == 0 {
                orders.remove(&self.order);
            }
        }
        self.watchers.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}
