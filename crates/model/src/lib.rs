//! The heart of Comanda: what an order is, what an order type says, and the pure function that decides
//! what a command does to an order.
//!
//! Nothing here does I/O, reads a clock or draws a random number: time and chance are handed in, so that every
//! decision can be replayed. Everything else in the workspace is built around [`decision::decide`].

pub mod changed;
pub mod comparison;
pub mod decision;
pub mod event;
pub mod expression;
pub mod id;
pub mod json;
pub mod ledger;
pub mod money;
pub mod order;
pub mod order_type;
pub mod template;

pub use changed::{Changed, Values};
pub use event::{Attempt, Event, EventKind, Outcome};
pub use id::{CommitId, OrderId, Token, TypeHash};
pub use json::Json;
pub use ledger::{Hold, HoldLine, HoldMove, HoldState, LedgerLine, Shortage};
pub use order::{Acceptance, Head, Order, Phase, Work, WorkKind};
pub use order_type::OrderType;

/// Bounds that hold on every store, so that an order that fits one store fits them all.
pub mod bounds {
    /// The largest order data, in bytes of JSON text.
    pub const DATA_BYTES_MAX: usize = 128 * 1024;
    /// The largest result that one step may leave, in bytes of JSON text.
    pub const RESULT_BYTES_MAX: usize = 16 * 1024;
    /// The most events that one commit may carry.
    pub const EVENTS_PER_COMMIT_MAX: usize = 16;
    /// The most lines of the ledger that one commit may carry.
    pub const LEDGER_LINES_MAX: usize = 80;
    /// The most lines that all holds of one order may have; a shipment moves each at most twice.
    pub const HOLD_LINES_MAX: usize = 40;
    /// The most completed visits that an order remembers for undo.
    pub const DONE_MAX: usize = 64;
    /// The most callbacks that an order remembers as over.
    pub const PAST_CALLBACKS_MAX: usize = 8;
    /// Latest commands of an order that are known by their commit's id.
    pub const PAST_COMMANDS_MAX: usize = 8;
    /// The longest reason, status, key or group key that is kept, in bytes; longer reasons are cut.
    pub const TEXT_BYTES_MAX: usize = 2048;
    /// The longest client key, customer or group key, in bytes.
    pub const KEY_BYTES_MAX: usize = 256;
}
