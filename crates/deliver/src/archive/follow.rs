//! Writes failed orders to their archives, by following the feed as a subscription does: so a commit costs nothing, an
//! archive that is down is tried by the schedule, and it can be looked at like any other subscription.
//!
//! An archive's subscription is `archive:{name}`. It reads the feed only when an order has become a dead letter.

use std::sync::Arc;
use std::time::Instant;

use comanda_engine::{CommandError, Service};
use comanda_model::{Event, EventKind, OrderId};
use comanda_store::subscription::{EventFilter, Ordering, Subscription};
use parking_lot::Mutex;

use super::document::document;
use super::{Archive, ArchiveError, Archives};
use crate::error::DeliverError;
use crate::service::Deliveries;
use crate::target::{ARCHIVE, Outcome, Tried, chain};

/// The events by which an order becomes a dead letter.
const DEATHS: [EventKind; 2] = [EventKind::DeadLettered, EventKind::UndoFailed];

/// The archives that are open.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    archives: Archives,
    open: Mutex<Vec<(String, Arc<Archive>)>>,
}

/// What came of one failed order.
enum Written {
    /// It is in the archive.
    Done,
    /// Its step names no archive, or another one.
    Unwanted,
    /// It could not be written now.
    Failed(String),
}

impl Opened {
    pub(crate) fn new(archives: Archives) -> Self {
        Self {
            archives,
            open: Mutex::default(),
        }
    }

    /// Opened when it is first needed, so that one that is not there now is tried again by the schedule.
    fn archive(&self, name: &str) -> Result<Arc<Archive>, ArchiveError> {
        let mut open = self.open.lock();
        if let Some((_, archive)) = open.iter().find(|(known, _)| known == name) {
            return Ok(archive.clone());
        }
        let archive = Arc::new(Archive::open(&self.archives.place(name))?);
        open.push((name.to_owned(), archive.clone()));
        Ok(archive)
    }

    /// Writes the order that this event is about.
    pub(crate) async fn send(
        &self,
        service: &Service,
        name: &str,
        order: OrderId,
        event: &Event,
    ) -> Result<Tried, CommandError> {
        let begun = Instant::now();
        let outcome = match self.write(service, name, order, event).await? {
            Written::Done => Outcome::Delivered,
            Written::Unwanted => Outcome::Unwanted,
            Written::Failed(reason) => Outcome::failed(reason),
        };
        Ok(Tried::new(outcome, begun))
    }

    async fn write(
        &self,
        service: &Service,
        name: &str,
        order: OrderId,
        event: &Event,
    ) -> Result<Written, CommandError> {
        let Some(found) = service.find(order).await? else {
            // It was discarded, and retention has taken it away in the meantime.
            tracing::warn!(%order, archive = name, "an order was gone before it could be archived");
            return Ok(Written::Unwanted);
        };
        let step = found.definition.order_type.steps.get(step_of(event));
        if step.and_then(|step| step.archive.as_deref()) != Some(name) {
            return Ok(Written::Unwanted);
        }
        let (key, text) = document(service, name, &found, event).await?;
        let put = async { self.archive(name)?.put(&key, text).await };
        Ok(match put.await {
            Ok(()) => Written::Done,
            Err(error) => Written::Failed(chain(&error)),
        })
    }
}

/// The step that an order died at.
pub(super) fn step_of(event: &Event) -> &str {
    event.by.strip_prefix("step:").unwrap_or_default()
}

impl Deliveries {
    /// Makes it so that failed orders are written to the archives that the types name, each from the oldest event that
    /// is kept: what was written before is met and left. Called again when the types have changed.
    ///
    /// # Errors
    /// [`DeliverError::Store`] if a type names an archive and the store keeps no subscriptions.
    pub async fn archive(&self) -> Result<(), DeliverError> {
        for name in self.engine().registry().archives() {
            let id = format!("{ARCHIVE}{name}");
            let subscription = Subscription {
                name: format!("archive of failed orders: {name}"),
                url: id.clone(),
                id,
                filter: EventFilter {
                    events: DEATHS.iter().map(|kind| kind.wire_name().to_owned()).collect(),
                    ..EventFilter::default()
                },
                include_order: true,
                secrets: Vec::new(),
                allow_private: true,
                concurrency: 4,
                ordering: Ordering::Order,
                configured: true,
                created_at: self.engine().now(),
                paused: None,
            };
            self.set_up(subscription, true).await?;
        }
        Ok(())
    }
}
