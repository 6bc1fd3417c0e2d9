//! Sending: the lanes of a part of the feed side by side, the events of each lane one after another, until one fails.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use comanda_model::{Event, OrderId};
use comanda_store::subscription::{Advance, Delivery, Exception, Subscription};
use comanda_store::{Cursor, StoreError};
use futures_util::StreamExt;
use futures_util::stream::iter;
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{DOWN_AFTER, GONE, HOLD_CONFIRMED_MAX, Step, Worker, later};
use crate::lane::{Fetched, Group, Item};
use crate::service::Shared;
use crate::target::{Outcome, Tried};

/// The most events of one order that are read at once to be sent again.
const AGAIN_MAX: usize = 100;

/// How the sending of a group ended.
struct Ended {
    left: Vec<Exception>,
    /// Orders of which nothing is left to be sent.
    done: Vec<OrderId>,
    deliveries: Vec<Delivery>,
    pause: Option<String>,
}

/// What it takes to send: used by several lanes at a time.
pub(super) struct Sender {
    pub(super) shared: Arc<Shared>,
    pub(super) subscription: Subscription,
    /// The hold under which it works, where processes share the store, and when that was last known to stand.
    pub(super) hold: Option<u64>,
    confirmed: Mutex<Option<Instant>>,
    /// Failures in a row.
    failures: AtomicU32,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, subscription: Subscription, hold: Option<u64>) -> Self {
        Self {
            shared,
            subscription,
            hold,
            confirmed: Mutex::new(None),
            failures: AtomicU32::new(0),
        }
    }

    pub(super) fn wants(&self, order_type: &str, customer: Option<&str>, event: &Event) -> bool {
        self.subscription.filter.matches(order_type, customer, event)
            && self.shared.wants(&self.subscription, order_type, event)
    }

    pub(super) fn is_down(&self) -> bool {
        self.failures.load(Ordering::SeqCst) >= DOWN_AFTER
    }

    pub(super) fn forget_failures(&self) {
        self.failures.store(0, Ordering::SeqCst);
    }

    /// The hold stood then.
    pub(super) async fn confirm(&self, at: Instant) {
        *self.confirmed.lock().await = Some(at);
    }

    /// Whether this process is the one to send: known for a moment, else asked for.
    pub(super) async fn is_held(&self) -> Result<bool, StoreError> {
        let Some(hold) = self.hold else { return Ok(true) };
        let mut confirmed = self.confirmed.lock().await;
        if confirmed.is_some_and(|at| at.elapsed() < HOLD_CONFIRMED_MAX) {
            return Ok(true);
        }
        let asked = Instant::now();
        let held = self.shared.port()?.hold().await?;
        let stands = held.is_some_and(|held| held.get(&self.subscription.id) == Some(&hold));
        if stands {
            *confirmed = Some(asked);
        }
        Ok(stands)
    }

    /// Reads what an order that failed has to be sent. One that retention has removed in the meantime has nothing.
    pub(super) async fn fetch(&self, exception: &Exception) -> Result<Fetched, StoreError> {
        let after = exception.number.saturating_sub(1);
        let count =
            usize::try_from(exception.until.saturating_sub(after)).map_or(AGAIN_MAX, |count| count.min(AGAIN_MAX));
        let events = self.shared.port()?.events_of(exception.order, after, count).await?;
        let last = events.last().map(|last| (last.event.number, last.cursor.position));
        let wanted = events
            .into_iter()
            .filter(|event| self.wants(&event.order_type, event.customer.as_deref(), &event.event));
        Ok(Fetched {
            exception: exception.clone(),
            items: wanted.map(Item::from).collect(),
            cut_at: last.filter(|(number, _)| *number < exception.until),
        })
    }

    /// Sends the events of a group one after another, until one fails.
    async fn send_group(&self, group: Group) -> Ended {
        let mut ended = Ended {
            left: Vec::new(),
            done: Vec::new(),
            deliveries: Vec::new(),
            pause: None,
        };
        ended.left = self.send_items(&group, &mut ended.deliveries, &mut ended.pause).await;
        let is_left = |order: &OrderId| ended.left.iter().any(|left| left.order == *order);
        ended.done = group.orders().filter(|order| !is_left(order)).copied().collect();
        ended
    }

    /// Answers what is left to be sent.
    async fn send_items(
        &self,
        group: &Group,
        deliveries: &mut Vec<Delivery>,
        pause: &mut Option<String>,
    ) -> Vec<Exception> {
        let options = &self.shared.options;
        let mut begun: BTreeSet<OrderId> = BTreeSet::new();
        for (index, item) in group.items.iter().enumerate() {
            let Item {
                order,
                order_type,
                event,
                ..
            } = item;
            let order = *order;
            let mut attempts = if begun.insert(order) { group.attempts(&order) } else { 0 };
            let now = self.shared.store.now();
            let (number, at) = (event.number, event.at);
            let left = |attempts, wait| group.left(index, attempts, later(now, wait));
            if self.is_down() && attempts == 0 {
                return left(0, options.wait_after(1, None).unwrap_or_default());
            }
            if !matches!(self.is_held().await, Ok(true)) {
                // What is written next tells whether it is over.
                return left(attempts, Duration::ZERO);
            }
            let tried = match self.shared.send(&self.subscription, order, order_type, event).await {
                Ok(tried) => tried,
                Err(error) => {
                    tracing::warn!(%error, %order, "an event waits for the store");
                    return left(attempts, Duration::from_secs(1));
                }
            };
            if matches!(tried.outcome, Outcome::Unwanted) {
                continue;
            }
            attempts += 1;
            let id = format!("{order}:{number}");
            deliveries.push(self.log(&id, event.kind.wire_name(), now, attempts, &tried));
            match tried.outcome {
                Outcome::Unwanted => {}
                // Who says no to one is there.
                Outcome::Refused(_) => self.failures.store(0, Ordering::SeqCst),
                Outcome::Delivered => {
                    self.failures.store(0, Ordering::SeqCst);
                    let lag = self.shared.store.now().duration_since(at);
                    metrics::histogram!("comanda_delivery_lag_seconds").record(lag.as_secs_f64().max(0.0));
                }
                Outcome::Gone => {
                    *pause = Some(GONE.to_owned());
                    return left(0, Duration::ZERO);
                }
                Outcome::Failed {
                    reason,
                    retry_after,
                    alone,
                } => {
                    let wait = options.wait_after(attempts, retry_after);
                    if alone {
                        self.failures.store(0, Ordering::SeqCst);
                    } else {
                        self.failures.fetch_add(1, Ordering::SeqCst);
                    }
                    if alone && wait.is_none() {
                        // One of many: it is given up, and stands in the log.
                        metrics::counter!("comanda_deliveries_given_up_total").increment(1);
                        continue;
                    }
                    if wait.is_none() {
                        *pause = Some(format!("{id} could not be delivered in {attempts} tries: {reason}"));
                    }
                    // After a pause it begins anew.
                    return wait.map_or_else(|| left(0, Duration::ZERO), |wait| left(attempts, wait));
                }
            }
        }
        // There may be more than one round holds.
        group.left(group.items.len(), 0, self.shared.store.now())
    }

    pub(super) fn log(&self, id: &str, kind: &str, at: Timestamp, attempt: u32, tried: &Tried) -> Delivery {
        let (outcome, reason) = match &tried.outcome {
            Outcome::Delivered | Outcome::Unwanted => ("delivered", None),
            Outcome::Refused(reason) => ("refused", Some(reason.clone())),
            Outcome::Gone => ("gone", Some("410 Gone".to_owned())),
            Outcome::Failed { reason, .. } => ("failed", Some(reason.clone())),
        };
        metrics::counter!("comanda_deliveries_total", "outcome" => outcome).increment(1);
        Delivery {
            number: 0,
            event: id.to_owned(),
            event_type: kind.to_owned(),
            at,
            attempt,
            took_ms: u64::try_from(tried.took.as_millis()).unwrap_or(u64::MAX),
            delivered: reason.is_none(),
            status: tried.status,
            reason,
        }
    }
}

impl Worker {
    /// Sends groups side by side, then begins to write down what came of it.
    pub(super) async fn send_all(
        &mut self,
        groups: Vec<Group>,
        held: Vec<Exception>,
        cursor: Option<Cursor>,
    ) -> Result<Step, StoreError> {
        let was_down = self.sender.is_down();
        let side_by_side = self.sender.subscription.concurrency.clamp(1, 64) as usize;
        let sending = iter(groups.into_iter().map(|group| self.sender.send_group(group)))
            .buffer_unordered(side_by_side)
            .collect();
        let ended: Vec<Ended> = self.writing.beside(sending).await;
        // The write before this one: if it failed, all this is sent again.
        if !self.finish_writing().await? {
            return Ok(Step::Over);
        }
        let mut advance = Advance {
            cursor,
            failed: held,
            ..self.nothing()
        };
        let mut pause = None;
        for one in ended {
            advance.failed.extend(one.left);
            let stood = one.done.into_iter().filter(|order| self.exceptions.contains_key(order));
            advance.settled.extend(stood);
            advance.deliveries.extend(one.deliveries);
            pause = pause.or(one.pause);
        }
        if was_down && !self.sender.is_down() {
            // The receiver is back: what waits need not wait for its own time.
            let now = self.sender.shared.store.now();
            let done = |order: &OrderId| {
                advance.settled.contains(order) || advance.failed.iter().any(|failed| failed.order == *order)
            };
            let waiting: Vec<Exception> = self
                .exceptions
                .values()
                .filter(|one| !done(&one.order))
                .map(|one| Exception {
                    retry_at: now,
                    ..one.clone()
                })
                .collect();
            advance.failed.extend(waiting);
        }
        if let Some(cursor) = cursor {
            self.cursor = cursor;
            self.written = (cursor, Instant::now());
        }
        for order in &advance.settled {
            self.exceptions.remove(order);
        }
        for exception in &advance.failed {
            self.exceptions.insert(exception.order, exception.clone());
        }
        self.begin_writing(advance);
        Ok(pause.map_or(Step::Moved, Step::Pause))
    }
}
