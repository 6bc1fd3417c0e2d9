//! What is read from a store: orders with their places, pages of the feed and of lists, causes, counters.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use comanda_model::{Event, Order, OrderId, Phase, Token, TypeHash};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::notice::FeedNotice;
use crate::queue::Worker;

/// An order as it stands in the store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The order.
    pub order: Arc<Order>,
    /// The claim that is held on it and when it ends, if its lease has not ended yet.
    pub claim: Option<(Token, Timestamp)>,
    /// The worker from outside that has claimed its work from a queue; also when its lease has ended, as long as
    /// nobody has taken the work over.
    pub worker: Option<Worker>,
    /// Its place.
    pub place: Place,
}

/// Where an order stands among others of its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In no lane.
    Alone,
    /// At the head of its lane.
    Head,
    /// Behind so many others; counted up to [`Place::BEHIND_MAX`].
    Behind(u32),
}

impl Place {
    /// Further than this is not counted.
    pub const BEHIND_MAX: u32 = 1000;
}

/// A type's source, as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeSource {
    /// The hash of `source`.
    pub hash: TypeHash,
    /// The type's name.
    pub name: String,
    /// The source: the file and its schema, in the form that `comanda-order-type` bundles.
    pub source: String,
}

/// A place in the feed: opaque to clients. It carries the store's epoch, so that a cursor from before a restore or a
/// migration is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// The store's epoch.
    pub epoch: u64,
    /// The position of the last event that was read.
    pub position: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.epoch, self.position)
    }
}

/// A text that is no cursor.
#[derive(Debug, thiserror::Error)]
#[error("not a cursor: pass on exactly what an earlier answer gave you")]
pub struct InvalidCursor;

impl FromStr for Cursor {
    type Err = InvalidCursor;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (epoch, position) = text.split_once('-').ok_or(InvalidCursor)?;
        let number = |text: &str| {
            // A sign would be taken by the parser and is nothing that we ever wrote.
            if text.starts_with('+') {
                None
            } else {
                u64::from_str_radix(text, 16).ok()
            }
        };
        Ok(Self {
            epoch: number(epoch).ok_or(InvalidCursor)?,
            position: number(position).ok_or(InvalidCursor)?,
        })
    }
}

/// Where to begin reading the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedStart {
    /// At the oldest event from which on none has been removed: just behind the last one that retention took. From
    /// there the feed can be followed to its end without a reset.
    Oldest,
    /// After the newest one.
    Newest,
    /// After this one.
    After(Cursor),
}

/// A page of the feed.
#[derive(Clone, Debug)]
pub struct FeedPage {
    /// The events, in commit order.
    pub events: Vec<FeedEvent>,
    /// What belongs to no order and stands between them, in commit order too.
    pub notices: Vec<FeedNotice>,
    /// Where to go on.
    pub next: Cursor,
}

impl FeedPage {
    /// Of what stands after a place, events and notices, the first `max`.
    pub fn first(after: Cursor, mut events: Vec<FeedEvent>, mut notices: Vec<FeedNotice>, max: usize) -> Self {
        let places = events.iter().map(|one| one.cursor);
        let mut places: Vec<Cursor> = places.chain(notices.iter().map(|one| one.cursor)).collect();
        places.sort_unstable();
        places.truncate(max);
        let next = places.last().copied().unwrap_or(after);
        events.retain(|one| one.cursor <= next);
        notices.retain(|one| one.cursor <= next);
        Self { events, notices, next }
    }

    /// Whether there is nothing on it.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.notices.is_empty()
    }
}

/// An event of the feed, with what a reader chooses by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    /// The order.
    pub order: OrderId,
    /// Its type.
    pub order_type: Arc<str>,
    /// Whom it is for.
    pub customer: Option<String>,
    /// Its group key.
    pub group: Option<String>,
    /// The event.
    pub event: Event,
    /// The place just after it.
    pub cursor: Cursor,
}

/// Which orders to list. All that is set must hold.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Of this type.
    pub order_type: Option<String>,
    /// In this status.
    pub status: Option<String>,
    /// For this customer.
    pub customer: Option<String>,
    /// With this group key.
    pub group: Option<String>,
    /// In this phase.
    pub phase: Option<Phase>,
    /// Dead letters of this cause.
    pub cause: Option<String>,
    /// Accepted at or after.
    pub accepted_after: Option<Timestamp>,
    /// Accepted before.
    pub accepted_before: Option<Timestamp>,
    /// The most orders to answer with.
    pub limit: usize,
    /// Where an earlier page ended.
    pub cursor: Option<u64>,
}

/// A page of orders.
#[derive(Clone, Debug)]
pub struct OrderPage {
    /// The orders, newest first.
    pub orders: Vec<Stored>,
    /// Where the next page begins; `None` when there is nothing more.
    pub next: Option<u64>,
}

/// What a group of dead letters died of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The cause.
    pub cause: String,
    /// The type of the orders.
    pub order_type: String,
    /// How many there are.
    pub count: u64,
    /// One of them, if the store has one at hand.
    pub example: Option<OrderId>,
}

/// How many orders stand where.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// When this was so.
    pub as_of: Option<Timestamp>,
    /// The counts; none of them zero.
    pub counts: Vec<StatusCount>,
    /// When the work was due that has waited longest, if any is overdue.
    pub oldest_due_at: Option<Timestamp>,
}

/// One count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusCount {
    /// The type.
    pub order_type: String,
    /// The status.
    pub status: String,
    /// The phase.
    pub phase: Phase,
    /// How many.
    pub count: u64,
}
