//! The token of a link: which order, until when, and an HMAC-SHA256 (RFC 2104) over both, in base64url. Whoever changes a
//! bit of it has a token that is none. The key stands in the store, so that every node knows it; a new key makes all
//! links from before void.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use comanda_model::{Json, OrderId};
use comanda_store::record::{PutError, Record};
use comanda_store::{Store, StoreError};
use jiff::Timestamp;
use uuid::Uuid;

/// The record that holds the key.
const KIND: &str = "link-key";
const CURRENT: &str = "current";
/// Version, order and time.
const BODY_BYTES: usize = 1 + 16 + 8;
const VERSION: u8 = 1;
/// How often a key that others make at the same moment is read again.
const TRIES_MAX: u32 = 8;

/// The key that links are signed with.
pub(super) struct LinkKey(hmac::Key);

impl LinkKey {
    /// The key that the store keeps; the first one is made when it is first needed.
    pub(super) async fn current(store: &dyn Store) -> Result<Self, StoreError> {
        for _ in 0..TRIES_MAX {
            if let Some(record) = store.record(KIND, CURRENT).await? {
                let value = record.value.value().unwrap_or_default();
                let key = value.as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
                let key = key.filter(|key| key.len() == 32).ok_or_else(|| {
                    let cause = std::io::Error::new(std::io::ErrorKind::InvalidData, "it is no key");
                    StoreError::failed("read the key of links", cause)
                })?;
                return Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)));
            }
            put(store, 1).await?;
        }
        Err(busy())
    }

    /// Makes a new key: all links from before are void.
    pub(super) async fn rotate(store: &dyn Store) -> Result<(), StoreError> {
        for _ in 0..TRIES_MAX {
            let version = store.record(KIND, CURRENT).await?.map_or(0, |record| record.version);
            if put(store, version + 1).await? {
                return Ok(());
            }
        }
        Err(busy())
    }

    /// The token for an order, good until then.
    pub(super) fn token(&self, order: OrderId, until: Timestamp) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(order.0.as_bytes());
        bytes.extend(until.as_second().to_be_bytes());
        let signature = hmac::sign(&self.0, &bytes);
        bytes.extend(signature.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The order of a token and until when it is good; `None` for one that this key has not signed.
    pub(super) fn read(&self, token: &str) -> Option<(OrderId, Timestamp)> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (body, signature) = bytes.split_at_checked(BODY_BYTES)?;
        // Compares in constant time.
        hmac::verify(&self.0, body, signature).ok()?;
        let order = Uuid::from_slice(body.get(1..17)?).ok()?;
        let until = i64::from_be_bytes(body.get(17..)?.try_into().ok()?);
        (body.first() == Some(&VERSION)).then_some((OrderId(order), Timestamp::from_second(until).ok()?))
    }
}

/// Writes a new key; false if another one was quicker.
async fn put(store: &dyn Store, version: u64) -> Result<bool, StoreError> {
    let record = Record {
        kind: KIND.to_owned(),
        key: CURRENT.to_owned(),
        version,
        value: Json::from(&serde_json::Value::String(
            URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()),
        )),
    };
    match store.put_record(&record).await {
        Ok(()) => Ok(true),
        Err(PutError::VersionMoved { .. }) => Ok(false),
        Err(PutError::Store(error)) => Err(error),
        Err(error @ PutError::TooLarge { .. }) => Err(StoreError::failed("write the key of links", error)),
    }
}

fn busy() -> StoreError {
    let cause = std::io::Error::new(std::io::ErrorKind::WouldBlock, "others change it all the time");
    StoreError::failed("write the key of links", cause)
}
