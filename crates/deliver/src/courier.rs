//! What carries a webhook to its receiver: HTTP, unless a test puts something else in its place.

use async_trait::async_trait;
use comanda_store::subscription::Subscription;
use jiff::Timestamp;

use crate::target::Tried;

/// Carries webhooks to their receivers.
#[async_trait]
pub trait Courier: Send + Sync + 'static {
    /// Makes one try, and always ends. `id` is the event's, and the same on every try, so that the receiver can tell a
    /// repetition; `body` is the event in the form of CloudEvents 1.0; `now` is the moment that a signature names.
    async fn carry(&self, to: &Subscription, id: &str, body: String, now: Timestamp) -> Tried;
}
