//! A store in pieces: everything that it keeps, one thing at a time and in one order, so that it can be moved into another
//! store and compared with it piece by piece.
//!
//! What is derived from the pieces (due work, counts, indexes) is not among them: the other store derives it again. Places
//! in the feed and in lanes are kept as they are, so that nothing changes its order; only the feed's epoch is another.

use std::sync::Arc;

use comanda_model::{Attempt, Event, LedgerLine, Order, Token};
use jiff::Timestamp;

use crate::subscription::{Delivery, Exception, Subscription};
use crate::{KeyClaim, Notice, Record, TypeSource, Worker};

/// One thing that a store keeps. They come in the order of these kinds, and within one in that of their names or numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A type's source.
    Type(TypeSource),
    /// An order with everything that belongs to it.
    Order(Box<WholeOrder>),
    /// A queue that has ever held something.
    Queue(String),
    /// What stands in a place of the ledger.
    Balance {
        /// The account.
        account: String,
        /// The place.
        place: String,
        /// How much.
        quantity: i64,
    },
    /// What postings and orders that are gone have moved.
    Flow {
        /// The account.
        account: String,
        /// From this place.
        from: String,
        /// To this one.
        to: String,
        /// How much.
        quantity: i64,
    },
    /// A posting that happened.
    Posting {
        /// Its id.
        once_id: String,
        /// What was asked for.
        fingerprint: [u8; 32],
        /// When.
        at: Timestamp,
    },
    /// A record.
    Record(Record),
    /// A subscription, with how far it has come.
    Subscription(Box<WholeSubscription>),
    /// One try of a subscription, by its id.
    Delivery(String, Delivery),
    /// An event of the feed that belongs to no order, by its position.
    Notice(u64, Notice),
    /// The highest numbers that were given. Always the last piece.
    Counters(Counters),
}

impl Piece {
    /// What it is, for people.
    pub fn what(&self) -> String {
        match self {
            Self::Type(source) => format!("the type {}", source.name),
            Self::Order(order) => format!("order {}", order.order.id()),
            Self::Queue(name) => format!("the queue `{name}`"),
            Self::Balance { account, place, .. } => format!("the balance of `{account}` at `{place}`"),
            Self::Flow { account, from, to, .. } => format!("what went from `{from}` to `{to}` of `{account}`"),
            Self::Posting { once_id, .. } => format!("the posting `{once_id}`"),
            Self::Record(record) => format!("the record `{}` of kind `{}`", record.key, record.kind),
            Self::Subscription(whole) => format!("the subscription {}", whole.subscription.id),
            Self::Delivery(id, delivery) => format!("delivery {} of the subscription {id}", delivery.number),
            Self::Notice(_, notice) => format!("the notice {}", notice.id),
            Self::Counters(_) => "the store's counters".to_owned(),
        }
    }
}

/// An order with everything that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeOrder {
    /// Its number: orders are listed by it.
    pub seq: u64,
    /// The order. Its `results` are left out: they stand in the attempts.
    pub order: Order,
    /// Its events, oldest first, each with its position in the feed.
    pub events: Vec<(u64, Event)>,
    /// Its attempts, oldest first.
    pub attempts: Vec<Attempt>,
    /// The keys that lead to it, by scope and key; also those that have expired and are still kept.
    pub keys: Vec<KeyClaim>,
    /// Where it stands, or stood last, in its lane.
    pub lane_position: Option<u64>,
    /// Whether it is at the head of the lane in which it stands; `None` if it stands in none.
    pub heads_lane: Option<bool>,
    /// What it has moved in the ledger, by `once_id` and account.
    pub lines: Vec<LedgerLine>,
    /// Its items in queues of statuses, by position.
    pub items: Vec<WholeItem>,
    /// The claim of a worker from outside: its token, the queue, the worker, and when the lease ends.
    pub worker: Option<(Token, String, Worker, Timestamp)>,
}

/// An item of a status's queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeItem {
    /// Its position.
    pub position: u64,
    /// The queue.
    pub queue: Arc<str>,
    /// The status that was entered.
    pub status: Arc<str>,
    /// The version that entered it.
    pub version: u64,
    /// When.
    pub at: Timestamp,
    /// The lane in the queue.
    pub lane: String,
    /// Whether it holds its lane when it is dead.
    pub parks: bool,
    /// How often it may be handed out.
    pub attempts_max: u32,
    /// How often it was.
    pub attempt: u32,
    /// When it can be handed out, or its lease ends.
    pub due_at: Timestamp,
    /// Who holds it: the token's secret, and the worker's name.
    pub lease: Option<(uuid::Uuid, String)>,
    /// When it died, and why.
    pub died: Option<(Timestamp, String)>,
}

/// A subscription, with how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeSubscription {
    /// The subscription.
    pub subscription: Subscription,
    /// The position that it has come to; `None` before it has begun, and `Some(None)` in a feed that is no more.
    pub position: Option<Option<u64>>,
    /// What could not be sent, by order.
    pub exceptions: Vec<Exception>,
    /// How many deliveries were tried.
    pub deliveries_count: u64,
}

/// The highest numbers that were given, and what retention has reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of orders.
    pub seq: u64,
    /// In the feed.
    pub position: u64,
    /// In lanes and queues.
    pub lane_position: u64,
    /// The feed's position that retention has reached.
    pub retained: u64,
}
