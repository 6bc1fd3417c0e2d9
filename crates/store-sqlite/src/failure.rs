//! How SQLite's errors become the store's.

use std::sync::Arc;

use comanda_store::StoreError;
use rusqlite::ErrorCode;

/// What went wrong inside the store, before it is known what that means to the caller.
#[derive(Debug)]
pub(crate) enum Failure {
    /// SQLite said no.
    Sqlite(rusqlite::Error),
    /// Already in the port's words.
    Store(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// In the port's words; `what` says what could not be done, where nothing more precise is known.
    pub(crate) fn into_store_error(self, what: &'static str) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::Sqlite(error) => match &error {
                rusqlite::Error::SqliteFailure(cause, _) => match cause.code {
                    // SQLite answers ENOSPC, EDQUOT and `max_page_count` alike with this code.
                    ErrorCode::DiskFull => StoreError::Full(Arc::new(error)),
                    ErrorCode::ReadOnly => StoreError::ReadOnly(Arc::new(error)),
                    ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                        corrupt("the database file", error.to_string())
                    }
                    _ => StoreError::failed(what, error),
                },
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::Utf8Error(..) => corrupt("a row", error.to_string()),
                _ => StoreError::failed(what, error),
            },
        }
    }

    /// Whether the disk or the file refused the write, so that every commit of the batch would fail like this. Any
    /// other failure may be due to one commit that touches a damaged row, and must not take its neighbours along.
    pub(crate) fn is_of_the_disk(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, StoreError::Full(_) | StoreError::ReadOnly(_)),
            Self::Sqlite(rusqlite::Error::SqliteFailure(cause, _)) => matches!(
                cause.code,
                ErrorCode::DiskFull
                    | ErrorCode::ReadOnly
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::CannotOpen
                    | ErrorCode::OutOfMemory
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::NotADatabase
            ),
            Self::Sqlite(_) => false,
        }
    }

    /// Whether something was to be written that is there already.
    pub(crate) fn is_of_a_unique_key(&self) -> bool {
        matches!(self, Self::Sqlite(rusqlite::Error::SqliteFailure(cause, _)) if cause.code == ErrorCode::ConstraintViolation)
    }

    /// Whether a failed COMMIT may have left its frames, whole, in the log.
    pub(crate) fn leaves_the_outcome_open(&self) -> bool {
        match self {
            Self::Sqlite(rusqlite::Error::SqliteFailure(cause, _)) => cause.code == ErrorCode::SystemIoFailure,
            Self::Sqlite(_) | Self::Store(_) => false,
        }
    }
}

/// Says that what is stored is not what was written.
pub(crate) fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> StoreError {
    StoreError::Corrupt {
        what: what.into(),
        detail: detail.into(),
    }
}

/// Gives SQLite's and the file system's errors the port's words.
pub(crate) trait Context<T> {
    /// Says what could not be done.
    fn context(self, what: &'static str) -> Result<T, StoreError>;
}

impl<T> Context<T> for Result<T, Failure> {
    fn context(self, what: &'static str) -> Result<T, StoreError> {
        self.map_err(|failure| failure.into_store_error(what))
    }
}

impl<T> Context<T> for Result<T, rusqlite::Error> {
    fn context(self, what: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| Failure::Sqlite(error).into_store_error(what))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: &'static str) -> Result<T, StoreError> {
        self.map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreError::Full(Arc::new(error)),
            std::io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly(Arc::new(error)),
            _ => StoreError::failed(what, error),
        })
    }
}
