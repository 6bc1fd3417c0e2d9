//! What the engine answers when it cannot do what it was asked.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::OrderId;
use comanda_model::decision::Rejection;
use comanda_order_type::Fault;
use comanda_store::{PutError, StoreError};

/// Why a submission was not accepted. Nothing is stored then.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// There is no such order type.
    #[error("there is no order type `{name}`{}", nearest.as_ref().map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default())]
    UnknownType {
        /// As it was asked for.
        name: String,
        /// The nearest one that there is.
        nearest: Option<Arc<str>>,
    },
    /// The data is not what the type asks for: one entry per fault.
    #[error("the data is not valid: {}", .0.iter().map(|fault| format!("{} {}", fault.pointer, fault.detail)).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Fault>),
    /// The type does not let an order begin like this.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The client's own id belongs to an order with other content.
    #[error("the id `{key}` already belongs to order {order}, which was submitted with other content")]
    KeyTaken {
        /// The client's id.
        key: String,
        /// The order.
        order: OrderId,
    },
    /// The idempotency key was used for another submission.
    #[error("the idempotency key was used before, for a submission with other content (order {order})")]
    IdempotencyKeyReused {
        /// The order.
        order: OrderId,
    },
    /// Something is over a bound.
    #[error("{what} is larger than {bytes_max} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound.
        bytes_max: usize,
    },
    /// No more is taken for now.
    #[error("no more orders are taken for now")]
    Busy {
        /// When to try again.
        after: Duration,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a command changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such order.
    #[error("there is no order {0}")]
    UnknownOrder(OrderId),
    /// No order type has such a queue.
    #[error("there is no queue `{name}`{}", nearest.as_ref().map(|nearest| format!("; did you mean `{nearest}`?")).unwrap_or_default())]
    UnknownQueue {
        /// As it was asked for.
        name: String,
        /// The nearest one that there is.
        nearest: Option<Arc<str>>,
    },
    /// The order's type, in the version that it lives on, is not known here.
    #[error("the version {hash} of type `{name}` cannot be run here")]
    UnknownVersion {
        /// The type's name.
        name: Arc<str>,
        /// The version's hash.
        hash: comanda_model::TypeHash,
    },
    /// The data would no longer be what the type asks for.
    #[error("the data would not be valid")]
    Invalid(Vec<Fault>),
    /// The order is not in a state that allows it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The client's precondition (`If-Match`) does not hold.
    #[error("the order has changed: its ETag is now \"{etag_version}\"")]
    PreconditionFailed {
        /// The version that the order's `ETag` names now.
        etag_version: u64,
    },
    /// The data would be over its bound.
    #[error("{what} is larger than {bytes_max} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound.
        bytes_max: usize,
    },
    /// Others change the order all the time, or the store takes no more.
    #[error("the order is busy")]
    Busy {
        /// When to try again.
        after: Duration,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<PutError> for CommandError {
    fn from(error: PutError) -> Self {
        match error {
            PutError::Store(error) => Self::Store(error),
            PutError::TooLarge { what, bytes_max } => Self::TooLarge { what, bytes_max },
            PutError::VersionMoved { .. } => Self::Busy {
                after: Duration::from_secs(1),
            },
        }
    }
}

/// Why the engine could not start, or not take other order types.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A type has a step in Rust that this program was not compiled with.
    #[error("the order type `{name}` needs the step `{step}`, which this program was not compiled with")]
    MissingStep {
        /// The type.
        name: String,
        /// The step's name in the program.
        step: String,
    },
    /// Orders live on a version of a type that cannot be read any more.
    #[error("{orders} orders live on version {hash} of type `{name}`, which cannot be run: {reason}")]
    LiveType {
        /// The type.
        name: String,
        /// The version.
        hash: comanda_model::TypeHash,
        /// How many orders.
        orders: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
