//! A sandbox's book: what it has been asked for, kept as records of the store, so that it survives a restart.

use std::marker::PhantomData;
use std::sync::Arc;

use comanda_model::Json;
use comanda_store::{PutError, Record, Store, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::Unanswered;

/// How often a change that others make at the same moment is decided again.
const TRIES_MAX: u32 = 16;

/// Why a sandbox's book could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Others change the same entry all the time.
    #[error("the entry of the sandbox's book is being changed by others")]
    Busy,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SandboxError {
    /// What it means for a request that a write has failed: it may have been made.
    pub(crate) fn unwritten(self) -> Unanswered {
        Unanswered::perhaps_done(self.to_string())
    }
}

/// An entry of a sandbox's book.
pub trait SandboxEntry {
    /// Its id, which begins with its order's: the key of the request that made it.
    fn id(&self) -> &str;

    /// The order that it is for.
    fn order_id(&self) -> &str;
}

/// A book of entries of one kind.
pub(crate) struct Book<T> {
    store: Arc<dyn Store>,
    kind: &'static str,
    entries: PhantomData<fn() -> T>,
}

impl<T> Clone for Book<T> {
    fn clone(&self) -> Self {
        Self::new(self.store.clone(), self.kind)
    }
}

impl<T> Book<T> {
    /// The book whose entries are records of this kind.
    pub fn new(store: Arc<dyn Store>, kind: &'static str) -> Self {
        Self {
            store,
            kind,
            entries: PhantomData,
        }
    }
}

impl<T: Serialize + DeserializeOwned> Book<T> {
    /// One entry.
    pub async fn entry(&self, id: &str) -> Result<Option<T>, SandboxError> {
        let record = self.store.record(self.kind, id).await?;
        Ok(record.as_ref().map(|record| self.read(record)).transpose()?)
    }

    /// The entries after `after`, by id, at most `max`.
    pub async fn entries(&self, after: Option<&str>, max: usize) -> Result<Vec<T>, SandboxError> {
        let records = self.store.records_after(self.kind, after, max).await?;
        Ok(records
            .iter()
            .map(|record| self.read(record))
            .collect::<Result<_, _>>()?)
    }

    /// Changes one entry; `change` is asked again if others were quicker. `None` leaves it as it is. Answers with how the
    /// entry stands then.
    pub async fn change(&self, id: &str, change: impl Fn(Option<&T>) -> Option<T>) -> Result<Option<T>, SandboxError> {
        for _ in 0..TRIES_MAX {
            let found = self.store.record(self.kind, id).await?;
            let before = found.as_ref().map(|record| self.read(record)).transpose()?;
            let Some(after) = change(before.as_ref()) else {
                return Ok(before);
            };
            let record = Record {
                kind: self.kind.to_owned(),
                key: id.to_owned(),
                version: found.map_or(0, |found| found.version) + 1,
                value: Json::from(&json!(after)),
            };
            match self.store.put_record(&record).await {
                Ok(()) => return Ok(Some(after)),
                Err(PutError::VersionMoved { .. }) => {}
                Err(PutError::Store(error)) => return Err(error.into()),
                Err(error @ PutError::TooLarge { .. }) => {
                    return Err(StoreError::failed("write the sandbox's book", error).into());
                }
            }
        }
        Err(SandboxError::Busy)
    }

    fn read(&self, record: &Record) -> Result<T, StoreError> {
        serde_json::from_str(record.value.as_str()).map_err(|error| StoreError::Corrupt {
            what: format!("the entry `{}` of the book of {}s", record.key, self.kind),
            detail: error.to_string(),
        })
    }
}
