//! Queues: work that programs outside claim by name, under leases of seconds.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use comanda_model::{Order, OrderId, Token};
use jiff::Timestamp;
use uuid::Uuid;

/// What a worker from outside asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueClaim {
    /// The queue.
    pub queue: String,
    /// The worker's name, for people.
    pub worker: String,
    /// At most so much.
    pub max: usize,
    /// For how long.
    pub lease: Duration,
}

/// A worker from outside that holds a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Its name.
    pub name: String,
    /// When it claimed.
    pub since: Timestamp,
}

/// What was claimed of the work that waits in a queue.
#[derive(Clone, Debug, Default)]
pub struct WorkClaims {
    /// The orders, each under its token.
    pub claims: Vec<WorkClaim>,
    /// When to come again: when the next order of the queue can be claimed (in the past if `max` cut the list), or when
    /// a lease ends, whichever comes first.
    pub next_due_at: Option<Timestamp>,
}

/// One order that was claimed from a queue.
#[derive(Clone, Debug)]
pub struct WorkClaim {
    /// The order, as it stands.
    pub order: Order,
    /// What the answer must come with.
    pub token: Token,
    /// When the claim ends.
    pub lease_until: Timestamp,
    /// The worker that had claimed this same attempt before, and whose lease ended without an answer.
    pub lost: Option<Worker>,
}

/// How much stands in a queue. Kept as it changes, never counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueCount {
    /// The queue.
    pub queue: String,
    /// How much is in it: what waits, what is leased, and what is tried again later.
    pub depth: u64,
    /// How much of it is leased now.
    pub leased: u64,
    /// How much is in its own dead letters. Always 0 for a step's queue: its dead letters are orders.
    pub dead: u64,
    /// Since when that which has waited longest could be claimed; none if nothing can be.
    pub oldest_at: Option<Timestamp>,
}

/// What an answer about an item of a status's queue must come with.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ItemToken {
    /// The item's position: in commit order, given once.
    pub position: u64,
    /// What makes the token unguessable and unrepeatable.
    pub secret: Uuid,
}

impl ItemToken {
    /// The whole token as text, its secret included: for whoever is to answer with it, and for nobody else.
    pub fn expose(&self) -> String {
        format!("q{:x}.{}", self.position, self.secret.simple())
    }
}

impl fmt::Debug for ItemToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ItemToken({:x})", self.position)
    }
}

/// A text that is no token of an item.
#[derive(Debug, thiserror::Error)]
#[error("not a token: pass on exactly what a claim gave you")]
pub struct InvalidItemToken;

impl FromStr for ItemToken {
    type Err = InvalidItemToken;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.strip_prefix('q').and_then(|rest| rest.split_once('.'));
        let (position, secret) = parts.ok_or(InvalidItemToken)?;
        let token = Self {
            position: u64::from_str_radix(position, 16).map_err(|_| InvalidItemToken)?,
            secret: Uuid::try_parse(secret).map_err(|_| InvalidItemToken)?,
        };
        // One token has one text.
        if token.expose() == text {
            Ok(token)
        } else {
            Err(InvalidItemToken)
        }
    }
}

/// What was claimed from a status's queue.
#[derive(Clone, Debug, Default)]
pub struct ItemClaims {
    /// The items.
    pub claims: Vec<ItemClaim>,
    /// When to come again: when the next item can be claimed, or a lease ends, whichever comes first.
    pub next_due_at: Option<Timestamp>,
}

/// One item that was claimed.
#[derive(Clone, Debug)]
pub struct ItemClaim {
    /// What the answer must come with.
    pub token: ItemToken,
    /// The order, as it stands now.
    pub order: Order,
    /// The status that it had entered.
    pub status: Arc<str>,
    /// The version of the change that entered it.
    pub version: u64,
    /// How often the item has been handed out, this time included.
    pub attempt: u32,
    /// When the claim ends.
    pub lease_until: Timestamp,
}

/// What became of an item that was claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ItemOutcome {
    /// It is done, and goes.
    Done,
    /// It is handed out again after this long; if that was its last attempt, it goes to the dead letters.
    Retry {
        /// Why, for people.
        reason: String,
        /// How long to wait.
        delay: Duration,
    },
    /// It goes to the queue's dead letters.
    Refuse {
        /// Why, for people.
        reason: String,
    },
}

/// An item in a queue's dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadItem {
    /// Its position in the queue; names it.
    pub position: u64,
    /// The order.
    pub order: OrderId,
    /// The status that the order had entered.
    pub status: Arc<str>,
    /// The version of the change that entered it.
    pub version: u64,
    /// How often it was handed out.
    pub attempt: u32,
    /// When it died.
    pub died_at: Timestamp,
    /// Why.
    pub reason: String,
}

/// What is done with dead letters of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadItemMove {
    /// They are handed out again, at their old positions, with all their attempts.
    Redrive,
    /// They go.
    Discard,
}
