//! How far a source has come, durably: one small record per source, written after what it passes is settled.

use std::sync::Arc;

use comanda_model::Json;
use comanda_store::{PutError, Record, Store, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::source::SourceError;

/// The kind of the records.
const KIND: &str = "intake-progress";

/// The record of one source.
pub(crate) struct Progress {
    store: Arc<dyn Store>,
    source: String,
    version: u64,
}

impl Progress {
    /// Reads how far the source has come; nothing if it has not begun, or the record is one of an older form.
    pub(crate) async fn load<P: DeserializeOwned>(
        store: Arc<dyn Store>,
        source: &str,
    ) -> Result<(Self, Option<P>), SourceError> {
        let record = store.record(KIND, source).await?;
        let version = record.as_ref().map_or(0, |record| record.version);
        let position = record.and_then(|record| serde_json::from_str(record.value.as_str()).ok());
        let progress = Self {
            store,
            source: source.to_owned(),
            version,
        };
        Ok((progress, position))
    }

    /// Writes it down.
    pub(crate) async fn save(&mut self, position: &impl Serialize) -> Result<(), SourceError> {
        let text = serde_json::to_string(position)
            .map_err(|error| StoreError::failed("write how far a source has come", error))?;
        let record = Record {
            kind: KIND.to_owned(),
            key: self.source.clone(),
            version: self.version + 1,
            value: Json::from_valid(text.clone()),
        };
        match self.store.put_record(&record).await {
            Ok(()) => {}
            Err(PutError::VersionMoved { actual }) => {
                // It may be our own, written by a try whose answer was lost.
                let there = self.store.record(KIND, &self.source).await?;
                if there.is_none_or(|there| there.value.as_str() != text) {
                    self.version = actual;
                    return Err(SourceError::Shared);
                }
            }
            Err(PutError::Store(error)) => return Err(error.into()),
            Err(error @ PutError::TooLarge { .. }) => {
                return Err(StoreError::failed("write how far a source has come", error).into());
            }
        }
        self.version += 1;
        Ok(())
    }
}
