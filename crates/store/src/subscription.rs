//! The port of subscriptions: who wants which events, how far each has come, and a log of what was sent.
//!
//! A commit of an order writes nothing here: what is to be sent follows from the feed and a subscription's
//! [`Progress`], so a thousand subscriptions cost a commit nothing. Progress is a cursor over the feed and a bounded
//! list of [`Exception`]s: orders whose events could not be sent, which hold up only their own later events.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use comanda_model::{Event, OrderId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Cursor, FeedEvent, Notice, StoreError};

/// The most subscriptions that a store keeps.
pub const SUBSCRIPTIONS_MAX: usize = 1000;
/// The most exceptions of a subscription. Past it the subscription stops as a whole.
pub const EXCEPTIONS_MAX: usize = 1000;
/// How many of the newest deliveries of each subscription are kept in its log.
pub const DELIVERIES_KEPT: usize = 1000;

/// Who wants which events, and where they are sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its id, given once.
    pub id: String,
    /// For people.
    pub name: String,
    /// Where events are sent.
    pub url: String,
    /// Which events.
    pub filter: EventFilter,
    /// Whether the order, as it stands when the event is sent, goes with it.
    pub include_order: bool,
    /// What is signed with, newest first.
    pub secrets: Vec<SigningSecret>,
    /// Whether the URL may lead to an address that is not public.
    pub allow_private: bool,
    /// How many orders' events are sent at the same time, from 1.
    pub concurrency: u32,
    /// What is sent one after another.
    #[serde(default)]
    pub ordering: Ordering,
    /// Whether the configuration has made it; then only the configuration changes it.
    pub configured: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when and why nothing is sent, if so.
    pub paused: Option<Paused>,
}

/// What is sent one after another, each event only when the one before was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ordering {
    /// The events of all orders of one lane (of one type, with one group key), in the order of the feed; of an order without a
    /// group key, its own.
    #[default]
    Lane,
    /// The events of one order.
    Order,
}

/// Which events. All that is set must hold; of each list one is enough, and an empty list holds always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFilter {
    /// Of orders of these types.
    pub types: Vec<String>,
    /// That lead into one of these statuses.
    pub statuses: Vec<String>,
    /// Of these kinds, as they are named on the wire: `comanda.order.accepted`.
    pub events: Vec<String>,
    /// Of orders for these customers.
    pub customers: Vec<String>,
}

impl EventFilter {
    /// Whether an event is wanted.
    pub fn matches(&self, order_type: &str, customer: Option<&str>, event: &Event) -> bool {
        let one = |wanted: &[String], actual: Option<&str>| {
            wanted.is_empty() || actual.is_some_and(|actual| wanted.iter().any(|wanted| wanted == actual))
        };
        one(&self.types, Some(order_type))
            && one(&self.statuses, event.to.as_deref())
            && one(&self.events, Some(event.kind.wire_name()))
            && one(&self.customers, customer)
    }

    /// Whether a notice is wanted: only who names its kind wants it. It has no type, status or customer.
    pub fn matches_notice(&self, notice: &Notice) -> bool {
        let of_orders = [&self.types, &self.statuses, &self.customers];
        of_orders.iter().all(|list| list.is_empty()) && self.events.iter().any(|name| name == notice.kind.wire_name())
    }
}

/// A secret that is signed with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningSecret {
    /// `whsec_…` or `whsk_…`.
    pub secret: String,
    /// Until when it signs; one that is being replaced ends.
    pub until: Option<Timestamp>,
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningSecret")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

/// That nothing is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Since when.
    pub at: Timestamp,
    /// Why, for people.
    pub reason: String,
}

/// How far a subscription has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Everything up to here is sent, or stands in `exceptions`.
    pub cursor: Cursor,
    /// What could not be sent, by order; at most [`EXCEPTIONS_MAX`].
    pub exceptions: Vec<Exception>,
}

/// An order whose events could not be sent, or wait for others of their lane: from `number` to `until`, which the cursor has
/// passed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exception {
    /// The order.
    pub order: OrderId,
    /// The first event that is yet to be sent.
    pub number: u64,
    /// The last one that the cursor has passed.
    pub until: u64,
    /// How often the first one was tried.
    pub attempts: u32,
    /// When it is tried again; of a lane's exceptions only that of the first one counts.
    pub retry_at: Timestamp,
    /// The lane that it is sent in, by a digest; none where the order is alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// A position of the feed before which the first event does not stand: its own, where that is known.
    #[serde(default)]
    pub position: u64,
}

/// One step of a subscription: applied wholly or not at all.
#[derive(Clone, Debug)]
pub struct Advance {
    /// The hold that it was worked under, where processes share the store (see [`SubscriptionStore::hold`]); `None` for a
    /// change from outside.
    pub hold: Option<u64>,
    /// Where the cursor is now; `None` leaves it.
    pub cursor: Option<Cursor>,
    /// Exceptions that are new, or have changed.
    pub failed: Vec<Exception>,
    /// Orders whose exception is over.
    pub settled: Vec<OrderId>,
    /// What was tried, oldest first.
    pub deliveries: Vec<Delivery>,
    /// What is put into the feed with it, where the store has notices.
    pub notice: Option<Notice>,
}

/// One try to send one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Counts the subscription's tries. Given by the store.
    pub number: u64,
    /// The event's id on the wire.
    pub event: String,
    /// The event's type on the wire.
    pub event_type: String,
    /// When it was sent.
    pub at: Timestamp,
    /// How often this event has been tried with this one.
    pub attempt: u32,
    /// How long the answer took, in milliseconds.
    pub took_ms: u64,
    /// Whether the receiver took it.
    pub delivered: bool,
    /// The HTTP status, if there was an answer.
    pub status: Option<u16>,
    /// Why not, for people.
    pub reason: Option<String>,
}

/// A store of subscriptions. A store that has none answers `None` from [`Store::subscriptions`](crate::Store::subscriptions).
#[async_trait]
pub trait SubscriptionStore: Send + Sync {
    /// Keeps a subscription under its id, durably; one with the same id is replaced, and its progress stays.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] for one more than [`SUBSCRIPTIONS_MAX`].
    async fn put_subscription(&self, subscription: &Subscription) -> Result<(), StoreError>;

    /// Keeps a subscription as [`SubscriptionStore::put_subscription`] does and puts a notice at the feed's end, in one act. A
    /// store without [`Capabilities::notices`](crate::Capabilities::notices) only keeps the subscription.
    async fn put_announced(&self, subscription: &Subscription, notice: &Notice) -> Result<(), StoreError> {
        let _ = notice;
        self.put_subscription(subscription).await
    }

    /// All subscriptions, by id.
    async fn all_subscriptions(&self) -> Result<Vec<Subscription>, StoreError>;

    /// Removes a subscription with its progress and its log. Answers whether there was one.
    async fn remove_subscription(&self, id: &str) -> Result<bool, StoreError>;

    /// How far a subscription has come; `None` until the first [`Advance`] with a cursor.
    async fn progress(&self, id: &str) -> Result<Option<Progress>, StoreError>;

    /// Moves a subscription on. *Atomicity*: cursor, exceptions and log are one; a crash before it is durable leaves all
    /// of them as they were, so that what was sent is sent again, and nothing is left out. Exceptions are settled
    /// before new ones are added. Answers whether it was applied: one for a subscription that is gone, or under a hold that
    /// is over, does nothing. One without a hold ends the hold that stands.
    async fn advance(&self, id: &str, advance: Advance) -> Result<bool, StoreError>;

    /// What this process delivers, where several share the store: by id, each with the number of its hold. Takes first
    /// what no process delivers that is known to live. A number moves when another process takes the subscription, and
    /// when anyone changes it: then it is to be read anew, and work that was done before does not count. `None` from a
    /// store that one process uses at a time: it delivers all.
    async fn hold(&self) -> Result<Option<BTreeMap<String, u64>>, StoreError> {
        Ok(None)
    }

    /// Events of an order with a number above `after`, as the feed has them: oldest first, at most `max`. None of an order
    /// that is gone.
    async fn events_of(&self, order: OrderId, after: u64, max: usize) -> Result<Vec<FeedEvent>, StoreError>;

    /// The log: deliveries with a number below `before`, newest first, at most `max`. The newest [`DELIVERIES_KEPT`] are
    /// kept.
    async fn deliveries(&self, id: &str, before: u64, max: usize) -> Result<Vec<Delivery>, StoreError>;
}
