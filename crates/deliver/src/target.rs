//! Where a subscription's events go: what each kind of target makes of an event, and what can come of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use comanda_engine::CommandError;
use comanda_model::{Event, OrderId};
use comanda_store::subscription::Subscription;
use serde_json::{Value, json};

use crate::event::CloudEvent;
use crate::service::Shared;

/// How the URL of a subscription begins whose target is an archive.
pub(crate) const ARCHIVE: &str = "archive:";
/// How much of a reason is kept, in bytes.
const REASON_BYTES_MAX: usize = 300;

/// Where a subscription's events go, as its URL says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'s> {
    /// To a URL.
    Webhook,
    /// To the archive of this name.
    Archive(&'s str),
}

/// What became of one try.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(crate) outcome: Outcome,
    /// The HTTP status, if there was one.
    pub(crate) status: Option<u16>,
    pub(crate) took: Duration,
}

/// How a try ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The receiver took it.
    Delivered,
    /// It is nothing for this target after all; nothing was sent.
    Unwanted,
    /// It did not; perhaps it said when to come again.
    Failed {
        reason: String,
        retry_after: Option<Duration>,
    },
    /// The receiver wants nothing more (410).
    Gone,
}

impl<'s> Target<'s> {
    /// The target that a subscription's URL names.
    pub(crate) fn of(url: &'s str) -> Self {
        match url.strip_prefix(ARCHIVE) {
            Some(name) => Self::Archive(name),
            None => Self::Webhook,
        }
    }
}

impl Tried {
    /// A try that began then and had no HTTP status.
    pub(crate) fn new(outcome: Outcome, begun: Instant) -> Self {
        let outcome = match outcome {
            Outcome::Failed { reason, retry_after } => Outcome::Failed {
                reason: comanda_model::order::bounded(reason, REASON_BYTES_MAX),
                retry_after,
            },
            other => other,
        };
        Self {
            outcome,
            status: None,
            took: begun.elapsed(),
        }
    }
}

impl Shared {
    /// Makes one try to send one event to a subscription's target.
    pub(crate) async fn send(
        &self,
        to: &Subscription,
        order: OrderId,
        order_type: &Arc<str>,
        event: &Event,
    ) -> Result<Tried, CommandError> {
        match Target::of(&to.url) {
            Target::Webhook => {
                let event = CloudEvent::new(order, order_type.clone(), event.clone());
                let body = self.body(to, order, &event).await?;
                Ok(self.clients.send(to, &event.id, body, self.store.now()).await)
            }
            Target::Archive(name) => self.archives.send(&self.service, name, order, event).await,
        }
    }

    async fn body(&self, to: &Subscription, order: OrderId, event: &CloudEvent) -> Result<String, CommandError> {
        let mut body = json!(event);
        if to.include_order {
            let found = self.service.find(order).await?;
            body["data"]["order"] = found.map_or(Value::Null, |found| json!(found.view(self.store.now())));
        }
        Ok(body.to_string())
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
