//! Messages that no order could be made of, kept with the reason, as records of the store.
//!
//! A source has a bounded number of places, [`REJECTED_MAX`]. When all are taken it takes nothing more until someone has
//! looked: a source that sends only nonsense must not fill the store, and nothing is thrown away in silence.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use comanda_model::Json;
use comanda_store::{PutError, Record, Store, StoreError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

use crate::message::{Envelope, Message};

/// The most messages that are kept of one source.
pub const REJECTED_MAX: usize = 1000;
/// The largest body that is kept whole, in bytes. Of a larger one this is the beginning.
const BODY_BYTES_MAX: usize = 240_000;
/// How much of a body one record holds, in bytes; as base64 it stays below the bound of a record.
const PART_BYTES: usize = 12_000;
/// How much of a reason is kept, in bytes.
const REASON_BYTES_MAX: usize = 2000;

const KIND: &str = "intake-rejected";
const PART_KIND: &str = "intake-rejected-body";

/// A message that no order could be made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// The message's id.
    pub id: String,
    /// Why, for people.
    pub reason: String,
    /// When it was tried last.
    pub at: Timestamp,
    /// How large its body was, in bytes.
    pub bytes: u64,
    /// What its body is.
    pub envelope: Envelope,
    /// Whether only the beginning of its body is kept; then it cannot be tried again.
    pub truncated: bool,
    /// In how many records its body stands.
    parts: u32,
}

/// Why a message could not be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// All places are taken.
    #[error("{REJECTED_MAX} rejected messages wait for someone to look")]
    Full,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The rejected messages of one source.
pub(crate) struct Rejections {
    store: Arc<dyn Store>,
    source: String,
    places: Mutex<BTreeMap<usize, Place>>,
}

/// A place that has been used: the version of its record, and what is in it now.
struct Place {
    version: u64,
    rejected: Option<Rejected>,
}

impl Rejections {
    /// Reads what is kept.
    pub(crate) async fn load(store: Arc<dyn Store>, source: &str) -> Result<Self, StoreError> {
        let rejections = Self {
            store,
            source: source.to_owned(),
            places: Mutex::default(),
        };
        let places = rejections.read().await?;
        *rejections.places.lock().await = places;
        Ok(rejections)
    }

    async fn read(&self) -> Result<BTreeMap<usize, Place>, StoreError> {
        let prefix = format!("{}:", self.source);
        let mut after = prefix.clone();
        let mut places = BTreeMap::new();
        loop {
            let page = self.store.records_after(KIND, Some(&after), 500).await?;
            let Some(last) = page.last() else { return Ok(places) };
            after.clone_from(&last.key);
            for record in page {
                let Some(place) = record.key.strip_prefix(&prefix) else {
                    return Ok(places);
                };
                let Ok(place) = place.parse() else { continue };
                let rejected = serde_json::from_str(record.value.as_str()).ok();
                let version = record.version;
                places.insert(place, Place { version, rejected });
            }
        }
    }

    /// The places as they are: where other processes use them too, as the store has them.
    async fn places(&self) -> Result<MutexGuard<'_, BTreeMap<usize, Place>>, StoreError> {
        let mut places = self.places.lock().await;
        if self.store.capabilities().many_nodes {
            *places = self.read().await?;
        }
        Ok(places)
    }

    /// How many there are, as far as is known: where the store does not answer, how many there were.
    pub(crate) async fn count(&self) -> usize {
        let places = match self.places().await {
            Ok(places) => places,
            Err(_) => self.places.lock().await,
        };
        places.values().filter(|place| place.rejected.is_some()).count()
    }

    /// All of them, longest tried first.
    pub(crate) async fn all(&self) -> Result<Vec<Rejected>, StoreError> {
        let places = self.places().await?;
        let mut all: Vec<Rejected> = places.values().filter_map(|place| place.rejected.clone()).collect();
        all.sort_by_key(|rejected| rejected.at);
        Ok(all)
    }

    /// Keeps a message with the reason; one that is kept already keeps its place.
    pub(crate) async fn keep(&self, message: &Message, reason: &str, at: Timestamp) -> Result<(), KeepError> {
        let mut places = self.places().await?;
        let there = |place: &Place| place.rejected.as_ref().is_some_and(|one| one.id == message.id);
        let known = places.iter().find(|(_, place)| there(place)).map(|(place, _)| *place);
        let free = |place: &usize| places.get(place).is_none_or(|place| place.rejected.is_none());
        let place = match known {
            Some(place) => place,
            None => (0..REJECTED_MAX).find(free).ok_or(KeepError::Full)?,
        };
        let body = &message.body[..message.body.len().min(BODY_BYTES_MAX)];
        let mut rejected = Rejected {
            id: message.id.clone(),
            reason: comanda_model::order::bounded(reason.to_owned(), REASON_BYTES_MAX),
            at,
            bytes: message.body.len() as u64,
            envelope: message.envelope,
            truncated: message.body.len() > BODY_BYTES_MAX,
            parts: 0,
        };
        let before = places.get(&place).and_then(|place| place.rejected.as_ref());
        match before.filter(|one| known.is_some() && one.truncated == rejected.truncated) {
            Some(whole) => rejected.parts = whole.parts,
            None => {
                if self.store.capabilities().many_nodes {
                    // The place first, so that no two processes write one body; until it is whole it cannot be tried again.
                    let claimed = Rejected {
                        truncated: true,
                        ..rejected.clone()
                    };
                    self.put(&mut places, place, Some(claimed)).await?;
                }
                // The body before what names it as whole.
                for part in body.chunks(PART_BYTES) {
                    self.put_part(place, rejected.parts, part).await?;
                    rejected.parts += 1;
                }
            }
        }
        self.put(&mut places, place, Some(rejected)).await?;
        Ok(())
    }

    /// A message that is kept, if its body is whole.
    pub(crate) async fn message(&self, id: &str) -> Result<Option<Message>, StoreError> {
        let places = self.places().await?;
        let found = places.iter().find_map(|(place, one)| {
            let rejected = one.rejected.as_ref().filter(|one| one.id == id && !one.truncated)?;
            Some((*place, rejected.clone()))
        });
        let Some((place, rejected)) = found else {
            return Ok(None);
        };
        let mut body = Vec::new();
        for part in 0..rejected.parts {
            let record = self.store.record(PART_KIND, &self.part_key(place, part)).await?;
            let text = record.and_then(|record| serde_json::from_str::<Part>(record.value.as_str()).ok());
            let bytes = text.and_then(|part| BASE64_STANDARD.decode(part.base64).ok());
            let Some(bytes) = bytes else { return Ok(None) };
            body.extend(bytes);
        }
        Ok(Some(Message {
            id: rejected.id,
            body: Bytes::from(body),
            envelope: rejected.envelope,
        }))
    }

    /// Keeps a message no longer.
    pub(crate) async fn release(&self, id: &str) -> Result<bool, StoreError> {
        let mut places = self.places().await?;
        let found = places.iter().find_map(|(place, one)| {
            let rejected = one.rejected.as_ref().filter(|one| one.id == id)?;
            Some((*place, rejected.parts))
        });
        let Some((place, parts)) = found else { return Ok(false) };
        self.put(&mut places, place, None).await?;
        // What it said is somebody's: it does not stay.
        for part in 0..parts {
            self.put_part(place, part, b"").await?;
        }
        Ok(true)
    }

    async fn put(
        &self,
        places: &mut BTreeMap<usize, Place>,
        place: usize,
        rejected: Option<Rejected>,
    ) -> Result<(), StoreError> {
        let version = places.get(&place).map_or(0, |place| place.version) + 1;
        let record = Record {
            kind: KIND.to_owned(),
            key: format!("{}:{place:04}", self.source),
            version,
            value: Json::from_valid(json!(rejected).to_string()),
        };
        match self.store.put_record(&record).await {
            Ok(()) => {
                places.insert(place, Place { version, rejected });
                Ok(())
            }
            Err(error) => {
                // Another process has written here, or the answer was lost: what is known is read anew.
                *places = self.read().await?;
                Err(unwritten(error))
            }
        }
    }

    async fn put_part(&self, place: usize, part: u32, bytes: &[u8]) -> Result<(), StoreError> {
        let key = self.part_key(place, part);
        let version = self
            .store
            .record(PART_KIND, &key)
            .await?
            .map_or(0, |there| there.version)
            + 1;
        let text = json!({"base64": BASE64_STANDARD.encode(bytes)}).to_string();
        let record = Record {
            kind: PART_KIND.to_owned(),
            key,
            version,
            value: Json::from_valid(text),
        };
        self.store.put_record(&record).await.map_err(unwritten)
    }

    fn part_key(&self, place: usize, part: u32) -> String {
        format!("{}:{place:04}:{part:02}", self.source)
    }
}

#[derive(Deserialize)]
struct Part {
    base64: String,
}

/// A record that was not written; it is tried again by whoever wanted it.
fn unwritten(error: PutError) -> StoreError {
    match error {
        PutError::Store(error) => error,
        other => StoreError::failed("keep a rejected message", other),
    }
}
