//! Records: small documents that belong to no order, such as a customer or a SKU's price.

use comanda_model::Json;

use crate::error::StoreError;

/// The largest record, in bytes of JSON text.
pub const RECORD_BYTES_MAX: usize = 16 * 1024;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What kind of thing it is, such as `customer`.
    pub kind: String,
    /// Which one; unique within its kind. At most [`KEY_BYTES_MAX`](comanda_model::bounds::KEY_BYTES_MAX) bytes.
    pub key: String,
    /// Counts the writes, from 1.
    pub version: u64,
    /// What there is to know.
    pub value: Json,
}

/// Why a record was not written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PutError {
    /// It is at another version than the one before. Read it and decide again.
    #[error("the record has changed: it is at version {actual}")]
    VersionMoved {
        /// The version that it is at; 0 if there is none.
        actual: u64,
    },
    /// It is larger than a record may be.
    #[error("{what} is larger than {bytes_max} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound.
        bytes_max: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Holds a record to its bounds; for stores, before anything is written.
pub fn check_record(record: &Record) -> Result<(), PutError> {
    let key_bytes_max = comanda_model::bounds::KEY_BYTES_MAX;
    for (what, size, bytes_max) in [
        ("the record's key", record.key.len(), key_bytes_max),
        ("the record's kind", record.kind.len(), key_bytes_max),
        ("the record", record.value.as_str().len(), RECORD_BYTES_MAX),
    ] {
        if size > bytes_max {
            return Err(PutError::TooLarge { what, bytes_max });
        }
    }
    Ok(())
}
