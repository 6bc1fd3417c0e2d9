//! Sending events again: one, or what is wanted of a time.

use std::collections::BTreeMap;

use comanda_model::OrderId;
use comanda_store::subscription::{Exception, Subscription};
use comanda_store::{FeedEvent, FeedStart};
use jiff::Timestamp;

use crate::error::DeliverError;
use crate::lane::Lane;
use crate::service::Deliveries;

/// The most orders that one call sends again.
const RESEND_MAX: usize = 500;
/// The most events that one call looks at to find those to send again.
const RESEND_EVENTS_MAX: usize = 100_000;

/// What is to be sent again.
#[derive(Clone, Debug)]
pub enum Resend {
    /// One event, by its id on the wire.
    Event(String),
    /// What is wanted of the events that were recorded at or after the first time, and before the second.
    Range(Timestamp, Option<Timestamp>),
}

/// What will be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resent {
    /// Of so many orders.
    pub orders: usize,
    /// Whether there are more than one call takes.
    pub more: bool,
}

impl Deliveries {
    /// Sends events again that the subscription wants, in order per lane. What is asked for is durable before this
    /// answers.
    pub async fn resend(&self, id: &str, resend: Resend) -> Result<Resent, DeliverError> {
        let (subscription, _) = self.get(id).await?;
        let now = self.0.store.now();
        let mut again: BTreeMap<OrderId, Exception> = BTreeMap::new();
        let mut more = false;
        match resend {
            Resend::Event(event) => {
                let invalid = || DeliverError::Invalid(format!("`{event}` is no event that is kept"));
                let (order, number) = event.split_once(':').ok_or_else(invalid)?;
                let order: OrderId = order.parse().map_err(|_| invalid())?;
                let number: u64 = number.parse().ok().filter(|number| *number > 0).ok_or_else(invalid)?;
                let found = self.0.port()?.events_of(order, number - 1, 1).await?;
                let found = found.first().filter(|found| found.event.number == number);
                again.insert(order, once(&subscription, found.ok_or_else(invalid)?, now));
            }
            Resend::Range(since, until) => {
                let mut from = FeedStart::Oldest;
                let mut looked_at = 0;
                'pages: loop {
                    let page = self.0.store.feed(from, 500).await?;
                    from = FeedStart::After(page.next);
                    if page.is_empty() {
                        break;
                    }
                    for event in page.events {
                        looked_at += 1;
                        let wanted = event.event.at >= since
                            && until.is_none_or(|until| event.event.at < until)
                            && subscription
                                .filter
                                .matches(&event.order_type, event.customer.as_deref(), &event.event);
                        if !wanted {
                            continue;
                        }
                        if again.len() >= RESEND_MAX && !again.contains_key(&event.order) {
                            more = true;
                            break 'pages;
                        }
                        let exception = again
                            .entry(event.order)
                            .or_insert_with(|| once(&subscription, &event, now));
                        exception.until = exception.until.max(event.event.number);
                    }
                    if looked_at >= RESEND_EVENTS_MAX {
                        more = true;
                        break;
                    }
                }
            }
        }
        let orders = again.len();
        self.stopped(id, Some(again.into_values().collect()), |_| {}).await?;
        Ok(Resent { orders, more })
    }
}

fn once(subscription: &Subscription, event: &FeedEvent, now: Timestamp) -> Exception {
    Exception {
        order: event.order,
        number: event.event.number,
        until: event.event.number,
        attempts: 0,
        retry_at: now,
        lane: Lane::of(subscription, event).name(),
        position: event.cursor.position,
    }
}
