//! Where a subscription's events go: what each kind of target makes of an event, and what can come of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use comanda_engine::CommandError;
use comanda_model::{Event, OrderId};
use comanda_store::subscription::Subscription;
use serde_json::{Value, json};

use crate::event::CloudEvent;
use crate::mail::{self, MAILTO};
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
    /// To this e-mail address.
    Mail(&'s str),
    /// To each order's customer, by e-mail.
    Customer,
}

/// What became of one try.
#[derive(Debug)]
pub struct Tried {
    /// How it ended.
    pub outcome: Outcome,
    /// The HTTP status, or the SMTP reply code, if there was one.
    pub status: Option<u16>,
    /// How long it took.
    pub took: Duration,
}

/// How a try ended.
#[derive(Debug)]
pub enum Outcome {
    /// The receiver took it.
    Delivered,
    /// It is nothing for this target after all; nothing was sent.
    Unwanted,
    /// The receiver will never take this one. That says nothing about others.
    Refused(String),
    /// It did not; perhaps it said when to come again.
    Failed {
        /// Why, for people.
        reason: String,
        /// How long the receiver asked to be left alone.
        retry_after: Option<Duration>,
        /// Whether that says something about this one alone, and nothing about the receiver.
        alone: bool,
    },
    /// The receiver wants nothing more (410).
    Gone,
}

impl<'s> Target<'s> {
    /// The target that a subscription's URL names.
    pub(crate) fn of(url: &'s str) -> Self {
        if let Some(name) = url.strip_prefix(ARCHIVE) {
            return Self::Archive(name);
        }
        match url.strip_prefix(MAILTO) {
            Some("") => Self::Customer,
            Some(address) => Self::Mail(address),
            None => Self::Webhook,
        }
    }
}

impl Outcome {
    /// The receiver could not be had.
    pub(crate) fn failed(reason: String) -> Self {
        Self::Failed {
            reason,
            retry_after: None,
            alone: false,
        }
    }

    /// This one could not be sent now; the receiver is there.
    pub(crate) fn failed_alone(reason: String) -> Self {
        Self::Failed {
            reason,
            retry_after: None,
            alone: true,
        }
    }
}

impl Tried {
    /// A try that began then and had no HTTP status.
    pub(crate) fn new(outcome: Outcome, begun: Instant) -> Self {
        let bounded = |reason| comanda_model::order::bounded(reason, REASON_BYTES_MAX);
        let outcome = match outcome {
            Outcome::Failed {
                reason,
                retry_after,
                alone,
            } => Outcome::Failed {
                reason: bounded(reason),
                retry_after,
                alone,
            },
            Outcome::Refused(reason) => Outcome::Refused(bounded(reason)),
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
                Ok(self.courier.carry(to, &event.id, body, self.store.now()).await)
            }
            Target::Archive(name) => self.archives.send(&self.service, name, order, event).await,
            Target::Customer => match &self.options.mail {
                Some(mail) => mail.notify(&self.service, order, event).await,
                None => Ok(no_mail()),
            },
            Target::Mail(address) => match &self.options.mail {
                Some(mail) => {
                    let event = CloudEvent::new(order, order_type.clone(), event.clone());
                    mail.send(&self.service, address, &to.id, order, &event).await
                }
                None => Ok(no_mail()),
            },
        }
    }

    /// Makes one try to send an event that is about the subscription itself; `None` where there is nobody to tell.
    pub(crate) async fn send_own(&self, to: &Subscription, id: &str, event: &Value) -> Option<Tried> {
        match Target::of(&to.url) {
            Target::Webhook => Some(self.courier.carry(to, id, event.to_string(), self.store.now()).await),
            Target::Mail(address) => Some(match &self.options.mail {
                Some(mail) => mail.send_own(address, &to.id, event).await,
                None => no_mail(),
            }),
            Target::Archive(_) | Target::Customer => None,
        }
    }

    /// Whether a target has any use for an event, beside what the subscription's filter says.
    pub(crate) fn wants(&self, to: &Subscription, order_type: &str, event: &Event) -> bool {
        match Target::of(&to.url) {
            // Which version of the type the order lives on is looked at when it is sent.
            Target::Customer => self
                .service
                .registry()
                .any_version(order_type, |order_type| mail::notifies(order_type, event)),
            Target::Webhook | Target::Archive(_) | Target::Mail(_) => true,
        }
    }

    async fn body(&self, to: &Subscription, order: OrderId, event: &CloudEvent) -> Result<String, CommandError> {
        if !to.include_order {
            // Texts and numbers always serialize.
            return Ok(serde_json::to_string(event).unwrap_or_default());
        }
        let mut body = json!(event);
        let found = self.service.find(order).await?;
        body["data"]["order"] = found.map_or(Value::Null, |found| json!(found.view(self.store.now())));
        Ok(body.to_string())
    }
}

fn no_mail() -> Tried {
    let reason = "no mail server is set up: [mail] in comanda.toml".to_owned();
    Tried::new(Outcome::failed(reason), Instant::now())
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
