//! What the store holds, and how its parts name one another: orders by the number of their acceptance (`seq`), which is
//! never given twice, and events by their position in the feed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use comanda_model::{Attempt, Event, LedgerLine, Order, OrderId, Token, TypeHash};
use jiff::Timestamp;

use super::Clock;
use super::item::Item;
use super::lane::Lane;
use super::ledger::{Ledger, LineName};
use super::subscription::Kept;
use super::tally::Tally;
use crate::{Notice, TypeSource, Worker};

/// A key's scope and name.
pub(super) type KeyName = (String, String);

pub(super) struct State {
    pub(super) epoch: u64,
    pub(super) clock: Clock,
    pub(super) last_now: Timestamp,
    pub(super) last_seq: u64,
    pub(super) last_position: u64,
    pub(super) last_lane_position: u64,
    /// Up to here the feed may lack events, because retention has removed them.
    pub(super) retained: u64,
    pub(super) closed: bool,
    pub(super) rows: BTreeMap<u64, Row>,
    pub(super) ids: HashMap<OrderId, u64>,
    /// Orders that need the engine, and when; see [`comanda_model::Head::due_at`].
    pub(super) due: BTreeSet<(Timestamp, u64)>,
    /// By queue: orders whose work waits there for workers from outside; see [`comanda_model::Head::queued_at`].
    pub(super) queued: BTreeMap<Arc<str>, BTreeSet<(Timestamp, u64)>>,
    /// Items of statuses' queues, by position.
    pub(super) items: BTreeMap<u64, Item>,
    /// Orders that are final, and since when.
    pub(super) finals: BTreeSet<(Timestamp, u64)>,
    /// By position: the order, and the event's place among the order's events.
    pub(super) feed: BTreeMap<u64, (u64, usize)>,
    pub(super) lanes: HashMap<String, Lane>,
    pub(super) keys: HashMap<KeyName, KeyRow>,
    pub(super) keys_expiring: BTreeSet<(Timestamp, KeyName)>,
    pub(super) held: HashMap<OrderId, Held>,
    pub(super) types: HashMap<TypeHash, TypeSource>,
    pub(super) tally: Tally,
    pub(super) subscriptions: BTreeMap<String, Kept>,
    /// By position in the feed.
    pub(super) notices: BTreeMap<u64, Notice>,
    pub(super) ledger: Ledger,
}

/// An order, with everything that goes when it goes.
pub(super) struct Row {
    pub(super) order: Order,
    /// With their positions in the feed.
    pub(super) events: Vec<(u64, Event)>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) keys: Vec<KeyName>,
    /// What it has moved in the ledger.
    pub(super) lines: BTreeMap<LineName, LedgerLine>,
    /// The position in the lane that it stands in or has left last.
    pub(super) lane_position: Option<u64>,
    /// The lane that it stands in.
    pub(super) lane: Option<String>,
    /// Its entry in [`State::due`].
    pub(super) due: Option<Timestamp>,
    /// Its entry in [`State::queued`].
    pub(super) queued: Option<(Arc<str>, Timestamp)>,
}

pub(super) struct KeyRow {
    pub(super) seq: u64,
    pub(super) fingerprint: [u8; 32],
    pub(super) expires_at: Option<Timestamp>,
}

impl KeyRow {
    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }
}

/// A claim. It counts as held until another takes the order, even past its lease.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) token: Token,
    pub(super) lease_until: Timestamp,
    /// Who holds it, if it was claimed from a queue, and from which.
    pub(super) worker: Option<(Arc<str>, Worker)>,
}

impl State {
    pub(super) fn new(epoch: u64, clock: Clock) -> Self {
        Self {
            epoch,
            clock,
            last_now: Timestamp::MIN,
            last_seq: 0,
            last_position: 0,
            last_lane_position: 0,
            retained: 0,
            closed: false,
            rows: BTreeMap::new(),
            ids: HashMap::new(),
            due: BTreeSet::new(),
            queued: BTreeMap::new(),
            items: BTreeMap::new(),
            finals: BTreeSet::new(),
            feed: BTreeMap::new(),
            lanes: HashMap::new(),
            keys: HashMap::new(),
            keys_expiring: BTreeSet::new(),
            held: HashMap::new(),
            types: HashMap::new(),
            tally: Tally::default(),
            subscriptions: BTreeMap::new(),
            notices: BTreeMap::new(),
            ledger: Ledger::default(),
        }
    }

    pub(super) fn now(&mut self) -> Timestamp {
        let read = (self.clock)();
        let now = Timestamp::from_microsecond(read.as_microsecond()).unwrap_or(self.last_now);
        self.last_now = self.last_now.max(now);
        self.last_now
    }

    pub(super) fn row(&self, id: OrderId) -> Option<&Row> {
        self.ids.get(&id).and_then(|seq| self.rows.get(seq))
    }

    pub(super) fn remove_key(&mut self, name: &KeyName) {
        if let Some(row) = self.keys.remove(name)
            && let Some(expires_at) = row.expires_at
        {
            self.keys_expiring.remove(&(expires_at, name.clone()));
        }
    }
}
