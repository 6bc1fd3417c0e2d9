//! The engine at work, as the program around it sees it.

use std::sync::Arc;
use std::time::Duration;

use comanda_deliver::Deliveries;
use comanda_engine::{Accepted, Change, CommandError, OrderView, Service, Submission, SubmitError, WaitFor};
use comanda_model::{Event, Json, OrderId};
use comanda_store::{FeedPage, FeedStart, StoreError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long [`Comanda::stop`] lets steps that are running go on.
const GRACE: Duration = Duration::from_secs(10);

/// The engine, running. Cloning it clones a handle; dropping all of them does not stop it, [`Comanda::stop`] does.
#[derive(Clone)]
pub struct Comanda(pub(crate) Arc<Parts>, pub(crate) Ending);

/// What runs.
pub(crate) struct Parts {
    pub(crate) service: Service,
    pub(crate) deliveries: Deliveries,
    pub(crate) public_url: String,
}

/// What ends with the engine.
#[derive(Clone, Default)]
pub(crate) struct Ending {
    pub(crate) begun: CancellationToken,
    pub(crate) servers: TaskTracker,
}

impl std::fmt::Debug for Comanda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Comanda").finish_non_exhaustive()
    }
}

impl Comanda {
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts), Ending::default())
    }

    /// Accepts an order. When this answers `Ok` the order is durable (in a store that is), and is worked from then on.
    ///
    /// With an [`Idempotency`](crate::Idempotency) key or a client's own `key` it may be called again after an error that leaves open
    /// what happened; the answer then is the first one.
    pub async fn submit(&self, submission: Submission) -> Result<Accepted, SubmitError> {
        self.0.service.submit(submission).await
    }

    /// An order, as the API shows it.
    pub async fn order(&self, id: OrderId) -> Result<Option<OrderView>, CommandError> {
        let found = self.0.service.find(id).await?;
        Ok(found.map(|found| found.view(self.0.service.now())))
    }

    /// An order of a type by the client's own id, or by the order's.
    pub async fn order_by_key(&self, order_type: &str, key: &str) -> Result<Option<OrderView>, CommandError> {
        let found = self.0.service.find_in_type(order_type, key).await?;
        Ok(found.map(|found| found.view(self.0.service.now())))
    }

    /// Waits until an order is as asked, at most for so long, and answers it as it then stands.
    pub async fn wait(
        &self,
        id: OrderId,
        until: WaitFor,
        time_max: Duration,
    ) -> Result<Option<OrderView>, CommandError> {
        let found = self.0.service.wait(id, until, time_max).await?;
        Ok(found.map(|found| found.view(self.0.service.now())))
    }

    /// Changes an order's data by a merge patch (RFC 7396).
    pub async fn edit(&self, id: OrderId, patch: Json, change: Change) -> Result<OrderView, CommandError> {
        let found = self.0.service.edit(id, patch, change).await?;
        Ok(found.view(self.0.service.now()))
    }

    /// Moves an order to a status, where its type lets the outside do that, perhaps with a merge patch of its data.
    pub async fn transition(
        &self,
        id: OrderId,
        to: &str,
        patch: Option<Json>,
        change: Change,
    ) -> Result<OrderView, CommandError> {
        let found = self.0.service.transition(id, to, patch, change).await?;
        Ok(found.view(self.0.service.now()))
    }

    /// Asks for an order to be cancelled: what it did is taken back.
    pub async fn cancel(&self, id: OrderId, change: Change) -> Result<OrderView, CommandError> {
        let found = self.0.service.cancel(id, change).await?;
        Ok(found.view(self.0.service.now()))
    }

    /// An order's events with a number above `after`, oldest first, at most `max`.
    pub async fn history(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Event>, StoreError> {
        self.0.service.store().history(id, after, max).await
    }

    /// A page of all orders' events in commit order, at most `max`; empty at the end of the feed. Read on from
    /// [`FeedPage::next`], which stays good over restarts: keep it with what you made of the page, and nothing is missed.
    ///
    /// # Errors
    /// [`StoreError::CursorReset`] for a cursor of another store, or one whose events are gone.
    pub async fn events(&self, from: FeedStart, max: usize) -> Result<FeedPage, StoreError> {
        self.0.service.store().feed(from, max).await
    }

    /// As [`Comanda::events`], but waits for an event where there is none. An empty page says that the engine stops.
    pub async fn next_events(&self, mut from: FeedStart, max: usize) -> Result<FeedPage, StoreError> {
        let store = self.0.service.store();
        let mut position = store.position();
        loop {
            // Seen before the feed is read, so that no event falls in between.
            position.borrow_and_update();
            let page = store.feed(from, max).await?;
            if !page.events.is_empty() || self.1.begun.is_cancelled() {
                return Ok(page);
            }
            // `Newest` is a place in the feed from here on.
            from = FeedStart::After(page.next);
            if !page.notices.is_empty() {
                // What belongs to no order; events can stand behind it.
                continue;
            }
            let moved = tokio::select! {
                moved = position.changed() => moved.is_ok(),
                () = self.1.begun.cancelled() => true,
            };
            if !moved {
                return Ok(page);
            }
        }
    }

    /// The engine itself, for all else: dead letters and their redrive, approvals, callbacks, queues, the store.
    pub fn engine(&self) -> &Service {
        &self.0.service
    }

    /// Stops: accepts and claims nothing more, lets steps that are running end within ten seconds, ends the servers of
    /// [`Comanda::bind`], and closes the store. What is not done is taken up by the next start. Calling it again does no harm.
    ///
    /// # Errors
    /// If the store does not close well; what was accepted is durable nevertheless.
    pub async fn stop(&self) -> Result<(), StoreError> {
        self.1.begun.cancel();
        self.1.servers.close();
        // Streams and waits end when the engine stops, so the two are stopped side by side.
        tokio::join!(self.0.service.stop(GRACE), self.1.servers.wait());
        self.0.deliveries.stop().await;
        self.0.service.store().close().await
    }
}
