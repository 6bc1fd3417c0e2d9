//! Intake from outside: orders that arrive by signed webhook, from a polled feed or in files, instead of at the API.
//!
//! [`Intake`] is its face. Each message has an id that is unique within its source, and becomes an order through the
//! engine's ordinary intake under that id as the idempotency key: so a message that comes twice is one order. One that
//! no order can be made of is kept with the reason ([`Rejected`]), and can be tried again. A source learns that its
//! messages are settled only once each is durable as an order or kept; only then does it move on.
//!
//! [`Source`] is the port for whatever hands messages out by itself: the feed and the directory today, a broker's
//! consumer in the same way. A webhook is handed in by the HTTP side ([`Intake::receive`]).

mod directory;
mod feed;
#[cfg(test)]
mod fuzz;
mod lease;
mod message;
mod progress;
mod rejected;
mod service;
mod source;
mod webhook;

pub use directory::DirectoryOptions;
pub use feed::FeedOptions;
pub use message::{Envelope, Message};
pub use rejected::{REJECTED_MAX, Rejected};
pub use service::{Configured, Intake, IntakeError, KEPT, Kind, Retried, SourceState, Which};
pub use source::{Source, SourceError, Taken};
pub use webhook::{WebhookError, WebhookOptions};
