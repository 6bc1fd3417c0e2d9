//! The in-memory store: all rules of the port without a disk, for tests and for trying things out. Its [`Faults`] make
//! it fail on purpose.
//!
//! One lock guards everything, so that a commit and what it makes visible are one moment, and tickets resolve at once.

mod apply;
mod faults;
mod hold;
mod item;
mod lane;
mod ledger;
mod read;
mod state;
mod subscription;
mod tally;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_model::{Attempt, Event, LedgerLine, OrderId, Token, TypeHash};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

pub use faults::Faults;
use faults::Plan;
use state::State;

use crate::{
    Account, Capabilities, Cause, Claims, Commit, CommitError, Counters, DeadItem, DeadItemMove, FeedPage, FeedStart,
    ItemClaims, ItemOutcome, ItemToken, ListQuery, OrderPage, PostError, Posted, Posting, PutError, QueueClaim,
    QueueCount, Receipt, Record, Store, StoreError, Stored, SubscriptionStore, Ticket, TypeSource, WorkClaims,
};

/// What a store takes its time from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// A store in memory.
pub struct MemoryStore {
    shared: Arc<Shared>,
}

/// What the store and the handles on its faults share.
struct Shared {
    inner: Mutex<Inner>,
    position: watch::Sender<u64>,
}

struct Inner {
    state: State,
    faults: Plan,
}

type Answer = oneshot::Sender<Result<Receipt, CommitError>>;

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(Arc::new(Timestamp::now))
    }
}

impl MemoryStore {
    /// A store whose time is handed in. Its own time is cut to microseconds, and stands still where the clock goes
    /// back. The clock is read under the store's lock, so it must not call the store.
    pub fn with_clock(clock: Clock) -> Self {
        // 52 bits, as every store's epoch has: a cursor stays exact in every client. Never zero.
        let epoch = (Uuid::new_v4().as_u64_pair().1 >> 12) | 1;
        let inner = Inner {
            state: State::new(epoch, clock),
            faults: Plan::default(),
        };
        let position = watch::Sender::new(0);
        Self {
            shared: Arc::new(Shared {
                inner: Mutex::new(inner),
                position,
            }),
        }
    }

    /// The handle that makes it fail.
    pub fn faults(&self) -> Faults {
        Faults(self.shared.clone())
    }
}

impl Shared {
    /// Announces the newest position, if it has moved. The caller has let go of the lock, so that who hears of a
    /// position can read it at once.
    fn announce(&self, newest: u64) {
        self.position.send_if_modified(|position| {
            // Of two announcements that overtake each other the later position stands.
            let moved = newest > *position;
            *position = newest.max(*position);
            moved
        });
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn commit(&self, commits: Vec<Commit>) -> Vec<Ticket> {
        let mut inner = self.shared.inner.lock();
        let mut tickets = Vec::with_capacity(commits.len());
        for commit in commits {
            let (answer, ticket) = Ticket::new();
            tickets.push(ticket);
            inner.stage(commit, answer);
        }
        let newest = inner.state.last_position;
        drop(inner);
        self.shared.announce(newest);
        tickets
    }

    async fn claim(&self, max: usize, lease: Duration) -> Result<Claims, StoreError> {
        Ok(self.shared.inner.lock().state.claim(max, lease))
    }

    async fn claim_work(&self, asked: &QueueClaim) -> Result<WorkClaims, StoreError> {
        Ok(self.shared.inner.lock().state.claim_work(asked))
    }

    async fn claim_items(&self, asked: &QueueClaim) -> Result<ItemClaims, StoreError> {
        Ok(self.shared.inner.lock().state.claim_items(asked))
    }

    async fn settle_item(&self, token: &ItemToken, outcome: &ItemOutcome) -> Result<Option<String>, StoreError> {
        Ok(self.shared.inner.lock().state.settle_item(token, outcome))
    }

    async fn renew_item(&self, token: &ItemToken, lease: Duration) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.shared.inner.lock().state.renew_item(token, lease))
    }

    async fn dead_items(&self, queue: &str, after: u64, max: usize) -> Result<Vec<DeadItem>, StoreError> {
        Ok(self.shared.inner.lock().state.dead_items(queue, after, max))
    }

    async fn move_dead_items(&self, queue: &str, positions: &[u64], to: DeadItemMove) -> Result<u64, StoreError> {
        Ok(self.shared.inner.lock().state.move_dead_items(queue, positions, to))
    }

    async fn queues(&self) -> Result<Vec<QueueCount>, StoreError> {
        Ok(self.shared.inner.lock().state.queues())
    }

    async fn renew(&self, token: &Token, lease: Duration) -> Result<Timestamp, CommitError> {
        self.shared.inner.lock().state.renew(token, lease)
    }

    async fn release(&self, tokens: &[Token]) -> Result<(), StoreError> {
        self.shared.inner.lock().state.release(tokens);
        Ok(())
    }

    async fn order(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        Ok(self.shared.inner.lock().state.order(id))
    }

    async fn key(&self, scope: &str, key: &str) -> Result<Option<(OrderId, [u8; 32])>, StoreError> {
        Ok(self.shared.inner.lock().state.key(scope, key))
    }

    async fn history(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Event>, StoreError> {
        Ok(self.shared.inner.lock().state.history(id, after, max))
    }

    async fn attempts(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Attempt>, StoreError> {
        Ok(self.shared.inner.lock().state.attempts(id, after, max))
    }

    async fn put_type(&self, source: &TypeSource) -> Result<(), StoreError> {
        let mut inner = self.shared.inner.lock();
        inner.state.types.entry(source.hash).or_insert_with(|| source.clone());
        Ok(())
    }

    async fn type_source(&self, hash: TypeHash) -> Result<Option<TypeSource>, StoreError> {
        Ok(self.shared.inner.lock().state.types.get(&hash).cloned())
    }

    async fn live_types(&self) -> Result<Vec<(TypeHash, u64)>, StoreError> {
        Ok(self.shared.inner.lock().state.tally.live())
    }

    async fn feed(&self, from: FeedStart, max: usize) -> Result<FeedPage, StoreError> {
        self.shared.inner.lock().state.feed(from, max)
    }

    async fn list(&self, query: &ListQuery) -> Result<OrderPage, StoreError> {
        Ok(self.shared.inner.lock().state.list(query))
    }

    async fn causes(&self, max: usize) -> Result<Vec<Cause>, StoreError> {
        Ok(self.shared.inner.lock().state.causes(max))
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        Ok(self.shared.inner.lock().state.counters())
    }

    async fn post(&self, posting: &Posting) -> Result<Posted, PostError> {
        self.shared.inner.lock().state.post(posting)
    }

    async fn accounts(&self, names: &[String]) -> Result<Vec<Account>, StoreError> {
        let inner = self.shared.inner.lock();
        Ok(names.iter().map(|name| inner.state.ledger.account(name)).collect())
    }

    async fn accounts_after(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Account>, StoreError> {
        Ok(self.shared.inner.lock().state.ledger.after(prefix, after, max))
    }

    async fn ledger_of(&self, id: OrderId) -> Result<Vec<LedgerLine>, StoreError> {
        let inner = self.shared.inner.lock();
        let row = inner.state.row(id);
        Ok(row.map(|row| row.lines.values().cloned().collect()).unwrap_or_default())
    }

    async fn record(&self, kind: &str, key: &str) -> Result<Option<Record>, StoreError> {
        Ok(self.shared.inner.lock().state.ledger.record(kind, key))
    }

    async fn records_after(&self, kind: &str, after: Option<&str>, max: usize) -> Result<Vec<Record>, StoreError> {
        Ok(self.shared.inner.lock().state.ledger.records_after(kind, after, max))
    }

    async fn put_record(&self, record: &Record) -> Result<(), PutError> {
        self.shared.inner.lock().state.put_record(record)
    }

    async fn remove_records(&self, kind: &str, keys: &[String]) -> Result<usize, StoreError> {
        Ok(self.shared.inner.lock().state.ledger.remove_records(kind, keys))
    }

    async fn retain(&self, before: Timestamp, max: usize) -> Result<usize, StoreError> {
        Ok(self.shared.inner.lock().state.retain(before, max))
    }

    async fn backup(&self, _: &Path, _: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<(), StoreError> {
        Err(StoreError::Unsupported {
            store: "memory",
            what: "be backed up",
        })
    }

    fn position(&self) -> watch::Receiver<u64> {
        self.shared.position.subscribe()
    }

    fn now(&self) -> Timestamp {
        self.shared.inner.lock().state.now()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "memory",
            durable: false,
            many_nodes: false,
            backup: false,
            queues: true,
            ledger: true,
            status_queues: true,
            notices: true,
            erasure: true,
        }
    }

    fn subscriptions(&self) -> Option<&dyn SubscriptionStore> {
        Some(self)
    }

    async fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.faults().resume();
        self.shared.inner.lock().state.closed = true;
        Ok(())
    }
}

/// A moment so much later; the end of time where there is no such moment.
fn later(now: Timestamp, span: Duration) -> Timestamp {
    SignedDuration::try_from(span)
        .ok()
        .and_then(|span| now.checked_add(span).ok())
        .unwrap_or(Timestamp::MAX)
}
