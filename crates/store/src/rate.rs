//! The port of rates: a rate that several nodes hold together.
//!
//! A store that only one process may use has none: that process counts by itself. Nodes that share a store each lease
//! a share of a rate from it, and spend the share without asking again. A rate is counted by the generic cell rate
//! algorithm (GCRA): what is taken fills a bucket of `burst`, which empties by one each `interval`.

use std::time::Duration;

use async_trait::async_trait;

use crate::StoreError;

/// For how long a lease may be spent. So much of a rate can come later than it was taken, and no more: over any span,
/// all nodes together let through at most `burst` and what the rate gives in that span and this long besides.
pub const RATE_LEASE: Duration = Duration::from_secs(1);

/// What a node asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateAsk {
    /// What is counted: nodes that give the same name share.
    pub name: String,
    /// The time in which one more may be taken. Not zero.
    pub interval: Duration,
    /// How many may be taken at once after a rest. At least 1.
    pub burst: u32,
    /// Fewer than this are of no use, so that none is taken then. At least 1.
    pub least: u32,
    /// No more than this.
    pub most: u32,
}

/// What a node got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLease {
    /// How many: none, or from `least` to `most`.
    pub granted: u32,
    /// How many more there are for anyone, now.
    pub left: u32,
    /// Where none was granted: after which time `least` can be, if nobody else takes them. `None` if never, because
    /// `least` is more than `burst`.
    pub retry_after: Option<Duration>,
}

/// A store that counts rates for several nodes, by its own clock.
#[async_trait]
pub trait RateStore: Send + Sync {
    /// Takes a share of a rate. Atomic among nodes. What was taken is not given back; a crash of the store may forget
    /// what was taken, as rates need not outlive it.
    ///
    /// # Errors
    /// If the store cannot be asked; then nothing may be taken to be granted.
    async fn lease_rate(&self, ask: &RateAsk) -> Result<RateLease, StoreError>;
}
