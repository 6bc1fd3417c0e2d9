//! Which process takes from a source, where several share the store and have it configured: one at a time, by a lease that
//! stands in the store as a record.
//!
//! The lease is for liveness alone. A process that was stopped in its tracks, and goes on when another has taken over, hands in
//! messages under the same ids, which become no second order; and what it writes down of its place does not count, because
//! the record of the place has moved on.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::Json;
use comanda_store::{PutError, Record, Store, StoreError};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

/// The kind of the records.
const KIND: &str = "intake-lease";
/// How long a lease counts that is not renewed.
const LASTS: SignedDuration = SignedDuration::from_secs(6);
/// How often it is renewed, and how often others look whether it has ended.
const RENEWED_EVERY: Duration = Duration::from_secs(2);
const LOOKED_FOR_EVERY: Duration = Duration::from_millis(500);

/// The lease on one source.
pub(crate) struct Lease {
    store: Arc<dyn Store>,
    source: String,
    holder: Uuid,
}

#[derive(Serialize, Deserialize)]
struct Held {
    holder: Uuid,
    until: Timestamp,
}

impl Lease {
    /// None where no other process can be at work.
    pub(crate) fn new(store: &Arc<dyn Store>, source: &str) -> Option<Self> {
        store.capabilities().many_nodes.then(|| Self {
            store: store.clone(),
            source: source.to_owned(),
            holder: Uuid::new_v4(),
        })
    }

    /// Waits until this process holds it. `waits` is told once if another does.
    pub(crate) async fn take(&self, mut waits: impl FnMut(Option<&StoreError>)) {
        loop {
            match self.put(LASTS).await {
                Ok(true) => return,
                Ok(false) => waits(None),
                Err(error) => waits(Some(&error)),
            }
            tokio::time::sleep(LOOKED_FOR_EVERY).await;
        }
    }

    /// Renews it; ends when another process holds it, or when it may do so.
    pub(crate) async fn keep(&self) {
        let mut renewed = self.store.now();
        loop {
            tokio::time::sleep(RENEWED_EVERY).await;
            match self.put(LASTS).await {
                Ok(true) => renewed = self.store.now(),
                Ok(false) => return,
                Err(error) if self.store.now().duration_since(renewed) >= LASTS => {
                    tracing::warn!(%error, source = self.source, "the lease on a source could not be renewed");
                    return;
                }
                Err(_) => {}
            }
        }
    }

    /// Gives it back, so that another process need not wait for its end.
    pub(crate) async fn release(&self) {
        // If it cannot be given back, it ends by itself.
        let _ = self.put(SignedDuration::ZERO).await;
    }

    /// Writes that this process holds it for so long; false if another does.
    async fn put(&self, lasts: SignedDuration) -> Result<bool, StoreError> {
        let there = self.store.record(KIND, &self.source).await?;
        let version = there.as_ref().map_or(0, |there| there.version);
        let held = there.and_then(|there| serde_json::from_str::<Held>(there.value.as_str()).ok());
        let now = self.store.now();
        if held.is_some_and(|held| held.holder != self.holder && held.until > now) {
            return Ok(false);
        }
        let until = now.checked_add(lasts).unwrap_or(Timestamp::MAX);
        let holder = self.holder;
        let record = Record {
            kind: KIND.to_owned(),
            key: self.source.clone(),
            version: version + 1,
            value: Json::from_valid(json!(Held { holder, until }).to_string()),
        };
        match self.store.put_record(&record).await {
            Ok(()) => Ok(true),
            // Another was quicker; or our own answer was lost, and the next look finds it.
            Err(PutError::VersionMoved { .. }) => Ok(false),
            Err(PutError::Store(error)) => Err(error),
            Err(error @ PutError::TooLarge { .. }) => Err(StoreError::failed("take a source", error)),
        }
    }
}
