//! Subscriptions: events, sent to whoever asked for them.
//!
//! [`Deliveries`] is its face. What is to be sent follows from the feed alone, so a commit of an order costs the same
//! with a thousand subscriptions as with none. One reader ([`tail`]) follows the feed's end for all of them; each
//! subscription has a worker that takes its events from there, and reads for itself only while it is behind. An event
//! that could not be sent holds up later events of its own lane, and nothing else. Every event is sent at least
//! once: progress is written after the receiver has answered, and a crash in between sends it again, under the same id.

pub mod archive;
mod attempt;
mod courier;
mod error;
mod event;
mod lane;
pub mod mail;
mod news;
mod request;
mod resend;
mod schedule;
mod service;
pub mod tail;
mod target;
mod unread;
mod webhook;
mod worker;

pub use attempt::AttemptView;
pub use courier::Courier;
pub use error::DeliverError;
pub use event::{CloudEvent, EventData, NoticeData, NoticeEvent};
pub use request::{Configured, Request, Rotated, SecretKind, is_event};
pub use resend::{Resend, Resent};
pub use schedule::SCHEDULE;
pub use service::{Deliveries, Options};
pub use target::{Outcome, Tried};
pub use unread::unread_since;
