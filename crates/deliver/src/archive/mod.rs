//! Archives: places outside the store where failed orders are written whole, a directory or an S3-compatible bucket.
//!
//! An object's key says what it is, `{type}/{yyyy}/{mm}/{dd}/{orderId}-{eventNumber}.json`, and is made of what never
//! changes: writing an order a second time meets the first object and leaves it.

mod document;
mod follow;
mod place;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use comanda_model::OrderId;
use futures_util::TryStreamExt;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

pub(crate) use follow::Opened;
pub use place::{ArchivePlace, Credentials, PlaceError};

/// The largest object that is read back, in bytes: far above what an order with all its attempts comes to.
const OBJECT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why an archive could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The directory could not be made.
    #[error("the directory {path} could not be made")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The place answered with an error, or not at all.
    #[error("{place} could not be {act}")]
    Place {
        /// Where.
        place: String,
        /// `opened`, `written` or `read`.
        act: &'static str,
        /// Why.
        #[source]
        source: object_store::Error,
    },
    /// An object that is no order.
    #[error("{key} is larger than {OBJECT_BYTES_MAX} bytes")]
    TooLarge {
        /// Which.
        key: String,
    },
}

/// The archives that a process knows, by name.
#[derive(Clone, Debug, Default)]
pub struct Archives {
    /// Those that the operator has set up.
    pub places: BTreeMap<String, ArchivePlace>,
    /// The directory under which each of the others is a directory of its own.
    pub default_directory: PathBuf,
}

impl Archives {
    /// Where the archive of this name is.
    pub fn place(&self, name: &str) -> ArchivePlace {
        match self.places.get(name) {
            Some(place) => place.clone(),
            None => ArchivePlace::Directory(self.default_directory.join(name)),
        }
    }
}

/// An archive that was opened.
#[derive(Clone, Debug)]
pub struct Archive {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    shown: String,
}

/// One object of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key within the archive.
    pub key: String,
    /// The order's type.
    pub order_type: String,
    /// The day on which it became a dead letter (UTC), as `2026/11/21`.
    pub day: String,
    /// The order.
    pub order: OrderId,
    /// The number of the event by which it became one.
    pub event: u64,
}

impl Entry {
    /// Reads a key; `None` for an object that is none of ours.
    fn of(key: &str) -> Option<Self> {
        let (rest, name) = key.rsplit_once('/')?;
        let (order_type, day) = rest.split_once('/')?;
        let (order, event) = name.strip_suffix(".json")?.rsplit_once('-')?;
        Some(Self {
            key: key.to_owned(),
            order_type: order_type.to_owned(),
            day: day.to_owned(),
            order: order.parse().ok()?,
            event: event.parse().ok()?,
        })
    }
}

/// The key of the order that became a dead letter by this event.
fn key(order_type: &str, order: OrderId, event: u64, at: Timestamp) -> String {
    format!("{order_type}/{}/{order}-{event}.json", day(at))
}

/// When an order was accepted: its id holds the time (UUIDv7).
fn accepted_at(order: OrderId) -> Option<Timestamp> {
    let (seconds, _) = order.0.get_timestamp()?.to_unix();
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

/// The day as it stands in a key.
fn day(at: Timestamp) -> String {
    Zoned::new(at, TimeZone::UTC).strftime("%Y/%m/%d").to_string()
}

impl Archive {
    /// Opens a place. A directory is made if it is not there; a bucket is first reached when it is used.
    pub fn open(place: &ArchivePlace) -> Result<Self, ArchiveError> {
        let (store, prefix) = place.open()?;
        Ok(Self {
            store,
            prefix,
            shown: place.to_string(),
        })
    }

    fn location(&self, key: &str) -> Path {
        Path::from_iter(self.prefix.parts().chain(Path::from(key).parts()))
    }

    fn failed(&self, act: &'static str) -> impl FnOnce(object_store::Error) -> ArchiveError + Copy {
        let place = &*self.shown;
        move |source| ArchiveError::Place {
            place: place.to_owned(),
            act,
            source,
        }
    }

    /// Writes an object unless there is one with this key. When this answers, it is as durable as the place makes it:
    /// a directory's file has been synced.
    async fn put(&self, key: &str, body: String) -> Result<(), ArchiveError> {
        let location = self.location(key);
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&location, body.clone().into(), options).await {
            Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
            // A bucket that knows no condition: the key is made of what never changes, so that this replaces an order
            // by itself.
            Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                let put = self.store.put(&location, body.into()).await;
                put.map(|_| ()).map_err(self.failed("written"))
            }
            Err(error) => Err(self.failed("written")(error)),
        }
    }

    /// Reads an object.
    pub async fn read(&self, key: &str) -> Result<Bytes, ArchiveError> {
        let object = self.store.get(&self.location(key)).await.map_err(self.failed("read"))?;
        if object.meta.size > OBJECT_BYTES_MAX {
            return Err(ArchiveError::TooLarge { key: key.to_owned() });
        }
        object.bytes().await.map_err(self.failed("read"))
    }

    /// An order's newest object. An order can have become a dead letter more than once.
    pub async fn find(&self, order: OrderId) -> Result<Option<Entry>, ArchiveError> {
        let types = self.types().await?;
        // It died after it was accepted, and its id says when that was.
        let accepted = accepted_at(order).map(day).unwrap_or_default();
        let mut newest: Option<Entry> = None;
        for order_type in types {
            let prefix = self.location(&order_type);
            let offset = self.location(&format!("{order_type}/{accepted}"));
            let mut objects = self.store.list_with_offset(Some(&prefix), &offset);
            while let Some(object) = objects.try_next().await.map_err(self.failed("read"))? {
                let entry = self.entry(&object.location).filter(|entry| entry.order == order);
                if let Some(entry) = entry
                    && newest.as_ref().is_none_or(|newest| newest.event < entry.event)
                {
                    newest = Some(entry);
                }
            }
        }
        Ok(newest)
    }

    /// The newest objects, of one type or of all, newest first, at most `max`.
    pub async fn newest(&self, order_type: Option<&str>, max: usize) -> Result<Vec<Entry>, ArchiveError> {
        let prefix = match order_type {
            Some(order_type) => self.location(order_type),
            None => self.prefix.clone(),
        };
        let mut kept = BinaryHeap::new();
        let mut objects = self.store.list(Some(&prefix));
        while let Some(object) = objects.try_next().await.map_err(self.failed("read"))? {
            if let Some(entry) = self.entry(&object.location) {
                // Of one day the keys stand in the order in which the orders were accepted.
                kept.push(Reverse((entry.day, entry.order, entry.event, entry.key)));
                if kept.len() > max {
                    kept.pop();
                }
            }
        }
        let newest = kept.into_sorted_vec().into_iter();
        Ok(newest.filter_map(|Reverse((_, _, _, key))| Entry::of(&key)).collect())
    }

    /// The types that there is anything of.
    async fn types(&self) -> Result<Vec<String>, ArchiveError> {
        let top = self.store.list_with_delimiter(Some(&self.prefix)).await;
        let top = top.map_err(self.failed("read"))?;
        let names = top.common_prefixes.iter().filter_map(|prefix| prefix.filename());
        Ok(names.map(str::to_owned).collect())
    }

    fn entry(&self, location: &Path) -> Option<Entry> {
        let parts: Vec<_> = location.prefix_match(&self.prefix)?.collect();
        let parts: Vec<&str> = parts.iter().map(|part| part.as_ref()).collect();
        Entry::of(&parts.join("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(second: i64) -> (OrderId, Timestamp) {
        let at = Timestamp::from_second(second).unwrap();
        let seconds = u64::try_from(second).unwrap();
        let id = uuid::Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0));
        (OrderId(id), at)
    }

    #[tokio::test]
    async fn what_is_written_is_found_by_its_order_and_listed_newest_first() {
        let home = tempfile::tempdir().unwrap();
        let archive = Archive::open(&ArchivePlace::Directory(home.path().join("a b/failures"))).unwrap();
        assert_eq!(archive.newest(None, 10).await.unwrap(), []);
        let days = [1_700_000_000, 1_700_200_000, 1_700_100_000];
        let orders: Vec<_> = days.into_iter().map(order).collect();
        for (n, (id, at)) in orders.iter().enumerate() {
            let order_type = if n == 1 { "sale" } else { "shop-order" };
            archive
                .put(&key(order_type, *id, 3, *at), format!("{n}"))
                .await
                .unwrap();
        }
        // Dead once more, months later.
        let (first, _) = orders[0];
        let later = Timestamp::from_second(1_710_000_000).unwrap();
        archive
            .put(&key("shop-order", first, 12, later), "again".to_owned())
            .await
            .unwrap();
        // A second writing changes nothing.
        archive
            .put(&key("shop-order", first, 12, later), "other".to_owned())
            .await
            .unwrap();
        std::fs::write(home.path().join("a b/failures/shop-order/readme.txt"), "not ours").unwrap();

        let found = archive.find(first).await.unwrap().unwrap();
        assert_eq!(found.key, format!("shop-order/2024/03/09/{first}-12.json"));
        assert_eq!(&*archive.read(&found.key).await.unwrap(), b"again");
        assert_eq!(archive.find(order(5).0).await.unwrap(), None);
        let newest = archive.newest(None, 3).await.unwrap();
        let events: Vec<_> = newest.iter().map(|entry| (entry.order, entry.event)).collect();
        assert_eq!(events, [(first, 12), (orders[1].0, 3), (orders[2].0, 3)]);
        assert_eq!(archive.newest(Some("sale"), 3).await.unwrap().len(), 1);
        assert_eq!(archive.newest(Some("none"), 3).await.unwrap(), []);
    }
}
