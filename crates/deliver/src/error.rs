//! Why something about a subscription could not be done.

use comanda_outbound::{Refused, SecretError};
use comanda_store::StoreError;
use comanda_store::seal::SealError;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// There is none with this id.
    #[error("there is no subscription `{0}`")]
    Unknown(String),
    /// The configuration has made it.
    #[error("`{0}` stands in the configuration; change it there")]
    Configured(String),
    /// Something that was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It may not be sent there.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// A secret could not be made or read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A secret could not be sealed.
    #[error("a secret could not be sealed for the store")]
    Seal(#[from] SealError),
    /// The client could not be set up.
    #[error("the HTTP client could not be set up")]
    Client(#[from] reqwest::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
