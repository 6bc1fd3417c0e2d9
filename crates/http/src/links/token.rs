//! The token of a link: which order, until when, and an HMAC-SHA256 (RFC 2104) over both, in base64url. Whoever changes a
//! bit of it has a token that is none. The key stands in the store, so that every node knows it; a new key makes all
//! links from before void.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use comanda_model::{Json, OrderId};
use comanda_store::record::{PutError, Record};
use comanda_store::seal::Sealer;
use comanda_store::{Store, StoreError};
use jiff::Timestamp;
use uuid::Uuid;

/// The record that holds the key.
const KIND: &str = "link-key";
const CURRENT: &str = "current";
const READ: &str = "read the key of links";
/// Version, order and time.
const BODY_BYTES: usize = 1 + 16 + 8;
const VERSION: u8 = 1;
/// How often a key that others make at the same moment is read again.
const TRIES_MAX: u32 = 8;

/// The key that links are signed with.
pub(super) struct LinkKey(hmac::Key);

impl LinkKey {
    /// The key that the store keeps; the first one is made when it is first needed.
    pub(super) async fn current(store: &dyn Store, sealer: &Sealer) -> Result<Self, StoreError> {
        for _ in 0..TRIES_MAX {
            if let Some(record) = store.record(KIND, CURRENT).await? {
                let value = record.value.value().unwrap_or_default();
                let kept = value.as_str().unwrap_or_default();
                let text = sealer
                    .open(KIND, kept)
                    .map_err(|error| StoreError::failed(READ, error))?;
                let key = URL_SAFE_NO_PAD.decode(&text).ok().filter(|key| key.len() == 32);
                let key = key.ok_or_else(|| {
                    let cause = std::io::Error::new(std::io::ErrorKind::InvalidData, "it is no key");
                    StoreError::failed(READ, cause)
                })?;
                if !sealer.is_current(kept) {
                    // If another is quicker, that one has sealed it.
                    put(store, sealer, record.version + 1, &text).await?;
                }
                return Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)));
            }
            put(store, sealer, 1, &new_key()).await?;
        }
        Err(busy())
    }

    /// Seals the key anew where it stands otherwise than it would be written today.
    pub(super) async fn seal_anew(store: &dyn Store, sealer: &Sealer) -> Result<(), StoreError> {
        if store.record(KIND, CURRENT).await?.is_some() {
            Self::current(store, sealer).await?;
        }
        Ok(())
    }

    /// Makes a new key: all links from before are void.
    pub(super) async fn rotate(store: &dyn Store, sealer: &Sealer) -> Result<(), StoreError> {
        for _ in 0..TRIES_MAX {
            let version = store.record(KIND, CURRENT).await?.map_or(0, |record| record.version);
            if put(store, sealer, version + 1, &new_key()).await? {
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

/// A new key, as text.
fn new_key() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// Writes a key, sealed; false if another one was quicker.
async fn put(store: &dyn Store, sealer: &Sealer, version: u64, key: &str) -> Result<bool, StoreError> {
    let sealed = sealer
        .seal(KIND, key)
        .map_err(|error| StoreError::failed("seal the key of links", error))?;
    let record = Record {
        kind: KIND.to_owned(),
        key: CURRENT.to_owned(),
        version,
        value: Json::from(&serde_json::Value::String(sealed)),
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
