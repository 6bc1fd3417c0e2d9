//! What can go wrong in a store.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::{OrderId, Shortage};

/// Why a commit was not applied, or why that is not known.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// The order is at another version than the change was decided on. Read it and decide again.
    #[error("the order has changed: it is at version {actual}")]
    VersionMoved {
        /// The version that it is at; 0 if there is no such order.
        actual: u64,
    },
    /// The attempt's token is not (or no longer) the one that holds the order. The result does not count.
    #[error("the claim is no longer held under this token")]
    TokenStale,
    /// A key is taken.
    #[error("the key `{key}` already leads to order {order}")]
    KeyTaken {
        /// The key's scope.
        scope: String,
        /// The key.
        key: String,
        /// The order that it leads to.
        order: OrderId,
        /// What was submitted under it.
        fingerprint: [u8; 32],
    },
    /// The order exceeds a bound.
    #[error("{what} is larger than {bytes_max} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound.
        bytes_max: usize,
    },
    /// A place that the commit takes from has too little. Nothing of the commit was applied; decide again.
    #[error("{}", comanda_model::ledger::shortages_text(.0))]
    Short(Vec<Shortage>),
    /// The store takes no more for now.
    #[error("the store is busy")]
    Busy {
        /// When to try again.
        after: Duration,
    },
    /// Nobody knows whether the commit was applied: its answer was lost. Read the head and compare its `commit_id`.
    #[error("the outcome of the commit is unknown")]
    Unknown,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The store failed; the commit was not applied.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a store could not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full.
    #[error("the disk is full")]
    Full(#[source] Source),
    /// The store can be read but not written.
    #[error("the store is read-only")]
    ReadOnly(#[source] Source),
    /// What is stored is not what was written.
    #[error("{what} is damaged: {detail}. Restore from a backup, and run `comanda verify`")]
    Corrupt {
        /// What, with its id.
        what: String,
        /// How it shows.
        detail: String,
    },
    /// The cursor is of another epoch of the store (it was restored or migrated), or retention has passed it. Begin
    /// again from the start.
    #[error("the cursor is no longer valid")]
    CursorReset,
    /// The store cannot do this.
    #[error("the {store} store cannot {what}")]
    Unsupported {
        /// The store's name.
        store: &'static str,
        /// What it was asked for.
        what: &'static str,
    },
    /// Another process has the store open.
    #[error("{path} is open in process {pid}")]
    Locked {
        /// Where the store is.
        path: String,
        /// The process.
        pid: String,
    },
    /// The store was written by a newer version.
    #[error("the store has format {found}, this program knows formats up to {known}. Use a newer version")]
    Newer {
        /// The format found.
        found: u32,
        /// The newest format known.
        known: u32,
    },
    /// Anything else, with its cause.
    #[error("the store could not {what}")]
    Failed {
        /// What it was doing.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Source,
    },
}

/// A cause that many tickets of one batch can share.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

impl StoreError {
    /// Wraps a cause.
    pub fn failed(what: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Failed {
            what,
            source: Arc::new(source),
        }
    }

    /// Whether waiting may mend it, so that a client is told to try again.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Full(_) | Self::ReadOnly(_) | Self::Failed { .. })
    }
}
