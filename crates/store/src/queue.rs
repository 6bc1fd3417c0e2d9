//! Queues: work that programs outside claim by name, under leases of seconds.

use std::time::Duration;

use comanda_model::{Order, Token};
use jiff::Timestamp;

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
