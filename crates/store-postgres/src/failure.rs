//! What a failure of the server means: whether the transaction was applied, and whether trying again may help.

use std::sync::Arc;

use comanda_store::StoreError;
use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::SqlState;

use crate::refusal::ServerError;

/// Why a statement did not answer.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// The server said no, or was never asked: nothing of the statement was applied.
    NotApplied {
        /// Why.
        error: StoreError,
        /// What may help.
        remedy: Remedy,
    },
    /// The answer was lost: nobody knows whether the statement was applied.
    Unknown(StoreError),
    /// As [`Self::Unknown`], for the server did not answer in time.
    Late(StoreError),
}

/// What may help after a statement was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The same again at once: it met another transaction.
    Again,
    /// The same in smaller parts: something in it cannot be stored.
    Apart,
    /// Nothing but that the server can be reached again.
    Reach,
    /// Only time, or a person.
    None,
}

impl Failure {
    /// The error, whatever it says of the statement.
    pub(crate) fn into_error(self) -> StoreError {
        match self {
            Self::NotApplied { error, .. } | Self::Unknown(error) | Self::Late(error) => error,
        }
    }

    /// No connection could be had, so nothing was asked.
    pub(crate) fn unasked(what: &'static str, error: PoolError) -> Self {
        let (error, remedy) = match error {
            PoolError::Backend(error) => {
                let code = error.code().cloned();
                let remedy = match code {
                    // It can be reached, and refuses.
                    Some(code) if !code.code().starts_with("57P") => Remedy::None,
                    _ => Remedy::Reach,
                };
                (connect_error(what, error), remedy)
            }
            PoolError::Timeout(TimeoutType::Create | TimeoutType::Recycle) => {
                (StoreError::failed(what, ServerError::of_silence()), Remedy::Reach)
            }
            other => (StoreError::failed(what, other), Remedy::None),
        };
        Self::NotApplied { error, remedy }
    }

    /// Why writes fail that a server which answers other questions well would not tell of.
    pub(crate) fn of_writes(&self) -> Option<&StoreError> {
        match self {
            Self::NotApplied {
                error,
                remedy: Remedy::None | Remedy::Again,
            }
            | Self::Late(error) => Some(error),
            _ => None,
        }
    }

    /// The server did not answer in time.
    pub(crate) fn late(what: &'static str) -> Self {
        let cause = std::io::Error::new(std::io::ErrorKind::TimedOut, "the database did not answer in time");
        Self::Late(StoreError::failed(what, cause))
    }

    /// A statement failed.
    pub(crate) fn statement(what: &'static str, error: tokio_postgres::Error) -> Self {
        let Some(told) = error.as_db_error() else {
            return Self::Unknown(StoreError::failed(what, error));
        };
        // An operator's or a server's shutdown can interrupt after the commit was made durable here and before a
        // replica has confirmed it; class 57P is all of these. 40003 says in so many words that it is not known.
        let code = told.code().clone();
        if code.code().starts_with("57P") || code == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN {
            return Self::Unknown(StoreError::failed(what, error));
        }
        let remedy = if [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::UNIQUE_VIOLATION,
        ]
        .contains(&code)
        {
            Remedy::Again
        } else if ["22", "23", "54"].iter().any(|class| code.code().starts_with(class)) {
            Remedy::Apart
        } else {
            Remedy::None
        };
        Self::NotApplied {
            error: store_error(what, error),
            remedy,
        }
    }
}

/// What an error of the server is to a caller.
pub(crate) fn store_error(what: &'static str, error: tokio_postgres::Error) -> StoreError {
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => StoreError::Full(Arc::new(error)),
        Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION => StoreError::ReadOnly(Arc::new(error)),
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            StoreError::failed(what, ServerError::of_privilege(error))
        }
        _ => StoreError::failed(what, error),
    }
}

/// Why no connection was made, to a caller.
fn connect_error(what: &'static str, error: tokio_postgres::Error) -> StoreError {
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => StoreError::Full(Arc::new(error)),
        _ => StoreError::failed(what, ServerError::of_connection(error)),
    }
}

/// A row that is not as it was written.
pub(crate) fn corrupt(what: impl Into<String>, detail: impl Into<String>) -> StoreError {
    StoreError::Corrupt {
        what: what.into(),
        detail: detail.into(),
    }
}
