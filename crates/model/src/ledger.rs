//! The ledger: countable things that move between places, and what an order holds of them.
//!
//! A *line* moves a quantity of one account from one place to another, so that nothing is ever made or lost: what stands
//! in all places of an account together is always zero, because [`OUTSIDE`] counts what came in below zero. Every other
//! place never goes below zero.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where things come from and go to for good. The only place that may stand below zero.
pub const OUTSIDE: &str = "outside";
/// Stock that can be sold.
pub const ON_HAND: &str = "on-hand";
/// Stock that orders hold.
pub const HELD: &str = "held";
/// Stock that has left for a customer.
pub const SHIPPED: &str = "shipped";

/// The account of a SKU's stock.
pub fn stock_account(sku: &str) -> String {
    format!("{STOCK_PREFIX}{sku}")
}

/// What every account of stock begins with.
pub const STOCK_PREFIX: &str = "stock:";

/// A movement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerLine {
    /// What is counted, such as `stock:A-1`.
    pub account: Arc<str>,
    /// The place that it leaves.
    pub from: Arc<str>,
    /// The place that it goes to.
    pub to: Arc<str>,
    /// How much; never 0.
    pub quantity: u32,
    /// Makes the movement happen once: within one order, a line whose account was moved under this id before is
    /// passed over.
    pub once_id: Arc<str>,
}

/// What a visit to a step holds of the ledger for its order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The visit that took it.
    pub visit: u32,
    /// Whether it still stands.
    pub state: HoldState,
    /// When it lapses; `None` for never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// How long it lasts each time that it is taken, in whole milliseconds; 0 for ever.
    #[serde(default)]
    pub lasts_ms: u64,
    /// The visit that shipped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shipped_in: Option<u32>,
    /// How often it has been moved: makes each movement's `once_id` its own.
    pub moves: u32,
    /// What it holds, one line per account.
    pub lines: Vec<HoldLine>,
}

/// Whether a hold stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HoldState {
    /// What it names is set aside for the order.
    Held,
    /// Its time has passed, and what it named can be sold to others; it is taken again before the order's next step.
    Lapsed,
    /// What it named has left.
    Shipped,
}

/// One line of a hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldLine {
    /// What is counted.
    pub account: Arc<str>,
    /// How much is held.
    pub quantity: u32,
    /// How much more is wanted and was not there (backordered).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub short: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a step does to the holds of its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldMove {
    /// Takes these lines, for so long (0: for ever).
    Take {
        /// The lines, one per account.
        lines: Vec<HoldLine>,
        /// How long they are held, in milliseconds; 0 for ever.
        lasts_ms: u64,
    },
    /// Takes back what a visit has done: what it took is given back, what it shipped comes back. Without a visit: gives
    /// back all that the order holds.
    Release {
        /// The visit.
        visit: Option<u32>,
    },
    /// Ships all that the order holds. What had lapsed or was backordered is taken first.
    Ship,
}

/// A line that could not be moved: there is too little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// What is counted.
    pub account: Arc<str>,
    /// The place that has too little.
    pub place: Arc<str>,
    /// How much was wanted.
    pub wanted: u64,
    /// How much is there.
    pub there: u64,
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let account = self.account.strip_prefix(STOCK_PREFIX).unwrap_or(&self.account);
        write!(f, "{account}: {} wanted, {} there", self.wanted, self.there)
    }
}

/// The shortages of several lines as one text.
pub fn shortages_text(shortages: &[Shortage]) -> String {
    let texts: Vec<String> = shortages.iter().map(ToString::to_string).collect();
    format!("too little stock: {}", texts.join("; "))
}
