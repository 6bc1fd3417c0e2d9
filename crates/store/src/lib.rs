//! The store port: the few operations in which everything durable happens.
//!
//! A store keeps orders, their events and attempts, lanes, keys, due work, type sources and counters. It knows what
//! an order is, and nothing of what may happen to one: that is decided before it is asked. Each operation of
//! [`Store`] says what is atomic, what a crash before and after means, in which order things become visible, and what
//! repeating it does. [`conformance`] holds every store to that.

pub mod commit;
pub mod conformance;
pub mod error;
pub mod ledger;
pub mod memory;
pub mod notice;
pub mod number;
pub mod piece;
pub mod query;
pub mod queue;
pub mod rate;
pub mod record;
pub mod seal;
pub mod subscription;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_model::{Attempt, Event, LedgerLine, Order, OrderId, Token, TypeHash};
use jiff::Timestamp;
use tokio::sync::watch;

pub use commit::{ClaimMove, Commit, Expect, KeyClaim, Receipt, Ticket};
pub use error::{CommitError, StoreError};
pub use ledger::{Account, PostError, Posted, Posting};
pub use notice::{FeedNotice, Notice, NoticeKind};
pub use number::Numbered;
pub use query::{
    Cause, Counters, Cursor, FeedEvent, FeedPage, FeedStart, ListQuery, OrderPage, Place, StatusCount, Stored,
    TypeSource,
};
pub use queue::{
    DeadItem, DeadItemMove, InvalidItemToken, ItemClaim, ItemClaims, ItemOutcome, ItemToken, QueueClaim, QueueCount,
    WorkClaim, WorkClaims, Worker,
};
pub use rate::RateStore;
pub use record::{PutError, Record};
pub use subscription::SubscriptionStore;

/// A store of orders. All operations may be called from any number of tasks at once.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stages commits and answers each with a [`Ticket`] that resolves once that commit is durable, or has failed.
    ///
    /// *Atomicity*: each commit is applied wholly or not at all, and succeeds or fails alone; many may share one
    /// physical transaction. *A crash* before the ticket resolves leaves the commit applied or not; the caller finds
    /// out by reading the head and comparing `commit_id`. After the ticket has resolved, the commit survives a
    /// `kill -9` and a power cut. *Order*: commits of one call are applied in the order given; nothing of a commit is
    /// visible to any read before it is durable. *Idempotency*: a commit whose id is already the head's answers
    /// as it did the first time.
    ///
    /// Never blocks: a store whose queue is full resolves the ticket with [`CommitError::Busy`].
    fn commit(&self, commits: Vec<Commit>) -> Vec<Ticket>;

    /// Claims up to `max` orders that are due, at most one per lane, earliest first, each under a new token.
    ///
    /// An order stays claimed until a commit ends the claim, it is released, or `lease` has passed by the store's
    /// clock; then it can be claimed again. Claims of a process that has died are void once it can no longer commit.
    /// Does not change `version`.
    async fn claim(&self, max: usize, lease: Duration) -> Result<Claims, StoreError>;

    /// Claims up to `asked.max` orders whose work waits in a queue for a worker from outside, at most one per lane, the
    /// one that has waited longest first, each under a new token.
    ///
    /// *Atomicity*: all of them or, if the store fails, none. *A crash* before the answer leaves them claimed or not;
    /// nobody has the tokens then, and the claims end with their leases. Once answered, a claim *survives* the process:
    /// its token counts after a restart as before it. A claim whose lease has ended goes to the next who asks, who is
    /// told whom it had ([`WorkClaim::lost`]); until then its token still counts. Neither claiming nor [`Store::renew`]
    /// nor [`Store::release`] changes `version`.
    ///
    /// A store without [`Capabilities::queues`] answers [`StoreError::Unsupported`].
    async fn claim_work(&self, asked: &QueueClaim) -> Result<WorkClaims, StoreError> {
        let _ = asked;
        Err(self.lacks("keep queues"))
    }

    /// Claims up to `asked.max` items of a status's queue: of each lane only the first, and none while that is leased,
    /// waits to be handed out again, or holds its lane as a dead letter.
    ///
    /// Items are put in by the commit that enters the status, in commit order. Claiming counts an attempt. An item whose
    /// lease has ended is handed out again; after its last attempt it goes to the queue's dead letters. As with
    /// [`Store::claim_work`], claims survive the process, and a crash before the answer leaves them to end by themselves.
    async fn claim_items(&self, asked: &QueueClaim) -> Result<ItemClaims, StoreError> {
        let _ = asked;
        Err(self.lacks("keep queues"))
    }

    /// Ends the claim of an item. Durable when answered; answers the queue's name, or nothing if the token does not hold
    /// the item (any more): then nothing was changed. Once the lease has ended the token counts until another claims.
    async fn settle_item(&self, token: &ItemToken, outcome: &ItemOutcome) -> Result<Option<String>, StoreError> {
        let _ = (token, outcome);
        Err(self.lacks("keep queues"))
    }

    /// Extends the claim of an item. Answers when it now ends, or nothing if the token is stale.
    async fn renew_item(&self, token: &ItemToken, lease: Duration) -> Result<Option<Timestamp>, StoreError> {
        let _ = (token, lease);
        Err(self.lacks("keep queues"))
    }

    /// Dead letters of a queue at positions above `after`, oldest first, at most `max`.
    async fn dead_items(&self, queue: &str, after: u64, max: usize) -> Result<Vec<DeadItem>, StoreError> {
        let _ = (queue, after, max);
        Err(self.lacks("keep queues"))
    }

    /// Moves dead letters of a queue: those at these positions. Answers how many there were; others are passed over.
    async fn move_dead_items(&self, queue: &str, positions: &[u64], to: DeadItemMove) -> Result<u64, StoreError> {
        let _ = (queue, positions, to);
        Err(self.lacks("keep queues"))
    }

    /// How much stands in each queue that has ever held anything, by name. Never counts rows.
    async fn queues(&self) -> Result<Vec<QueueCount>, StoreError> {
        Err(self.lacks("keep queues"))
    }

    /// Extends a claim. Answers when it now ends, or [`CommitError::TokenStale`] if it is no longer held.
    async fn renew(&self, token: &Token, lease: Duration) -> Result<Timestamp, CommitError>;

    /// Gives claims back, so that the orders can be claimed at once. Stale tokens are passed over.
    async fn release(&self, tokens: &[Token]) -> Result<(), StoreError>;

    /// An order as it stands, with its claim and its place in its lane. Reads only what is durable.
    async fn order(&self, id: OrderId) -> Result<Option<Stored>, StoreError>;

    /// The order that a key belongs to, and the fingerprint that it was claimed with. Expired keys are not found.
    async fn key(&self, scope: &str, key: &str) -> Result<Option<(OrderId, [u8; 32])>, StoreError>;

    /// Events of an order with a number above `after`, oldest first, at most `max`.
    async fn history(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Event>, StoreError>;

    /// Attempts of an order with a number above `after`, oldest first, at most `max`.
    async fn attempts(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Attempt>, StoreError>;

    /// Keeps a type's source under its hash, durably. Repeating it changes nothing.
    async fn put_type(&self, source: &TypeSource) -> Result<(), StoreError>;

    /// A type's source by its hash.
    async fn type_source(&self, hash: TypeHash) -> Result<Option<TypeSource>, StoreError>;

    /// The versions that orders which are not final live on, with how many each.
    async fn live_types(&self) -> Result<Vec<(TypeHash, u64)>, StoreError>;

    /// A page of the feed: all events of all orders, in commit order, at most `max`. Pages never skip an event that
    /// becomes visible later. A cursor of another epoch, or one that retention has passed, is answered with
    /// [`StoreError::CursorReset`].
    async fn feed(&self, from: FeedStart, max: usize) -> Result<FeedPage, StoreError>;

    /// A page of orders, newest first. Looks at a bounded number of rows: a page can be short, even empty, and still
    /// name a next cursor.
    async fn list(&self, query: &ListQuery) -> Result<OrderPage, StoreError>;

    /// The causes that dead letters died of, most frequent first, at most `max`.
    async fn causes(&self, max: usize) -> Result<Vec<Cause>, StoreError>;

    /// How many orders stand where. Never counts rows.
    async fn counters(&self) -> Result<Counters, StoreError>;

    /// Moves what belongs to no order. *Atomicity*: all lines or none. *A crash* before the answer leaves it applied or
    /// not. *Idempotency*: a posting whose id was applied before answers [`Posted::Repeated`]; that is looked at first.
    /// The answer comes when it is durable.
    async fn post(&self, _posting: &Posting) -> Result<Posted, PostError> {
        Err(self.lacks("keep a ledger").into())
    }

    /// These accounts as they stand at one moment, in the order asked for; one that nothing was ever moved in has no
    /// places.
    async fn accounts(&self, _names: &[String]) -> Result<Vec<Account>, StoreError> {
        Err(self.lacks("keep a ledger"))
    }

    /// Accounts whose names begin with `prefix` and stand after `after`, by name, at most `max`.
    async fn accounts_after(
        &self,
        _prefix: &str,
        _after: Option<&str>,
        _max: usize,
    ) -> Result<Vec<Account>, StoreError> {
        Err(self.lacks("keep a ledger"))
    }

    /// What an order has moved in the ledger, by `once_id` and account.
    async fn ledger_of(&self, _id: OrderId) -> Result<Vec<LedgerLine>, StoreError> {
        Err(self.lacks("keep a ledger"))
    }

    /// A record.
    async fn record(&self, _kind: &str, _key: &str) -> Result<Option<Record>, StoreError> {
        Err(self.lacks("keep records"))
    }

    /// Records of a kind whose keys stand after `after`, by key, at most `max`.
    async fn records_after(&self, _kind: &str, _after: Option<&str>, _max: usize) -> Result<Vec<Record>, StoreError> {
        Err(self.lacks("keep records"))
    }

    /// Writes a record whole; `version` is one above the version that it takes the place of (1 for a new one). The answer
    /// comes when it is durable. A repetition that finds its own version is told [`PutError::VersionMoved`]: read and
    /// compare.
    async fn put_record(&self, _record: &Record) -> Result<(), PutError> {
        Err(self.lacks("keep records").into())
    }

    /// Removes records of a kind. Answers how many there were; the answer comes when it is durable. A record that is
    /// written again afterwards begins at version 1.
    async fn remove_records(&self, _kind: &str, _keys: &[String]) -> Result<usize, StoreError> {
        Err(self.lacks("keep records"))
    }

    /// The error of a store that cannot do what it was asked to.
    fn lacks(&self, what: &'static str) -> StoreError {
        StoreError::Unsupported {
            store: self.capabilities().name,
            what,
        }
    }

    /// Removes orders that have been final since before `before`, with everything that belongs to them, and keys that
    /// have expired; orders of which a queue still holds an item, also as a dead letter, stay. At most `max` orders per
    /// call, so that nobody waits. Answers how many went; 0 means done.
    async fn retain(&self, before: Timestamp, max: usize) -> Result<usize, StoreError>;

    /// Copies the whole store, as it stands at one moment, to a new file while it goes on working. `progress` is told
    /// the pages done and the pages there are.
    async fn backup(&self, to: &Path, progress: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<(), StoreError>;

    /// The position of the newest durable event. Changes are announced after they can be read; a reader that
    /// misses one finds it with its next poll.
    fn position(&self) -> watch::Receiver<u64>;

    /// The store's clock, to the microsecond. Never goes backwards.
    fn now(&self) -> Timestamp;

    /// What the store can do.
    fn capabilities(&self) -> Capabilities;

    /// The store's subscriptions; `None` if it keeps none. Declared here, so that a store without them is told apart
    /// from one whose subscriptions fail.
    fn subscriptions(&self) -> Option<&dyn SubscriptionStore> {
        None
    }

    /// The rates that nodes hold together; `None` if only one process may use the store, which then counts by itself.
    fn rates(&self) -> Option<&dyn RateStore> {
        None
    }

    /// How the store is: `Ok` when it can take commits; the reason, for people, when it cannot.
    async fn health(&self) -> Result<(), StoreError>;

    /// Makes everything staged durable and closes. Later commits fail with [`CommitError::Closed`].
    async fn close(&self) -> Result<(), StoreError>;
}

/// What was claimed.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// The orders, each under its token.
    pub claims: Vec<Claim>,
    /// When to come again: when the next order is due that was not claimed (in the past if `max` cut the list), or when
    /// the first lease ends, whichever comes first.
    pub next_due_at: Option<Timestamp>,
}

/// One claimed order.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The order, as it stands.
    pub order: Arc<Order>,
    /// What its result must come with.
    pub token: Token,
    /// When the claim ends.
    pub lease_until: Timestamp,
}

/// What a store can do. Differences are declared here, never skipped in silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The store's name, for people.
    pub name: &'static str,
    /// Whether what it accepts survives the process.
    pub durable: bool,
    /// Whether several processes may use it at once.
    pub many_nodes: bool,
    /// Whether it can copy itself while working.
    pub backup: bool,
    /// Whether it keeps queues of steps for workers from outside.
    pub queues: bool,
    /// Whether it keeps a ledger and records: a commit with lines is else answered with [`StoreError::Unsupported`].
    pub ledger: bool,
    /// Whether it keeps queues of statuses.
    pub status_queues: bool,
    /// Whether it puts notices into the feed; one that does not keeps what they tell of all the same.
    pub notices: bool,
    /// Whether it can erase an order: see [`Commit::events`].
    pub erasure: bool,
}
