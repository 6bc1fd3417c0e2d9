//! Why an embedded engine does not start.

use comanda_deliver::DeliverError;
use comanda_order_type::ReadError;
use comanda_steps::SetUpError;
use comanda_store::StoreError;

/// Why the engine did not start. Nothing runs then, and the store is closed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An order-type file or directory could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Order types have mistakes.
    #[error("order types with mistakes: {}. Mend them:\n{diagnostics}", .names.join(", "))]
    Mistakes {
        /// The files, or `order type N` for the text that was handed over as the Nth.
        names: Vec<String>,
        /// Each mistake with its place, for people.
        diagnostics: String,
    },
    /// Two order types have one name.
    #[error("there are two order types `{name}`. Give one of them another name")]
    Doubled {
        /// The name.
        name: String,
    },
    /// A directory of order types is not there.
    #[error("there is no directory {path} with order types")]
    NoDirectory {
        /// The directory.
        path: String,
    },
    /// The engine refused the order types, or the orders that are in the store.
    #[error(transparent)]
    Engine(#[from] comanda_engine::StartError),
    /// What calls other services could not be set up.
    #[error(transparent)]
    Calls(#[from] SetUpError),
    /// The subscriptions could not be set to work.
    #[error("the subscriptions could not be set up")]
    Subscriptions(#[from] DeliverError),
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address of the PostgreSQL server is none.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Address(#[from] comanda_store_postgres::AddressError),
}
