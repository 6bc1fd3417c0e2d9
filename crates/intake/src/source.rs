//! The port of what hands messages out by itself.

use async_trait::async_trait;
use comanda_model::OrderId;

use crate::message::Message;

/// The most messages that a source hands out at once.
pub(crate) const BATCH_MAX: usize = 100;

/// A place that messages are taken from: a feed, a directory, a broker's queue.
///
/// Messages are handed out at least once: after a crash, those that were not settled come again, under the same ids.
#[async_trait]
pub trait Source: Send {
    /// Waits for messages and hands them out, in the order of the source. Called again only after the last ones were
    /// settled. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The source is not there, or says something that makes no sense. It is asked again after a while.
    async fn receive(&mut self) -> Result<Vec<Message>, SourceError>;

    /// What became of each message of the last [`Source::receive`], in its order: all are durable as orders or kept as
    /// rejected, so that they may be acknowledged. Called again with the same until it succeeds.
    async fn settle(&mut self, taken: &[Taken]) -> Result<(), SourceError>;
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is an order now.
    Accepted(OrderId),
    /// It had become one before.
    Repeated(OrderId),
    /// No order can be made of it; it is kept with this reason.
    Rejected(String),
}

/// Why a source could not go on.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file or directory.
    #[error("{path} could not be {act}")]
    File {
        /// Which.
        path: String,
        /// `read`, `written`, `moved`.
        act: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A request failed.
    #[error("{url} could not be asked")]
    Request {
        /// What was asked, without its query.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The answer is none that makes sense.
    #[error("{url} answered with {detail}")]
    Answer {
        /// What was asked, without its query.
        url: String,
        /// What is odd.
        detail: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] comanda_store::StoreError),
    /// Another process works on the same source.
    #[error("another process takes from the same source")]
    Shared,
}
