//! What tells a worker that the feed has something for it.

use std::sync::Arc;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};

use crate::tail::Part;

/// What a worker listens to.
pub(crate) enum News {
    /// Every part of the feed's end, as it is read for all.
    Feed(broadcast::Receiver<Arc<Part>>),
    /// Only that orders of this process have become dead letters. Whoever wants nothing else lets the feed lie unread
    /// until then.
    Deaths(watch::Receiver<u64>),
}

/// What was heard.
pub(crate) enum Heard {
    /// A part of the feed's end.
    Part(Arc<Part>),
    /// That the feed is to be read.
    Read,
    /// Nothing.
    Nothing,
}

impl News {
    /// Called before the feed is read: what comes from then on is heard.
    pub(crate) fn before_reading(&mut self) {
        if let Self::Deaths(deaths) = self {
            deaths.mark_unchanged();
        }
    }

    /// What there is by now.
    pub(crate) fn heard(&mut self) -> Heard {
        match self {
            Self::Feed(parts) => match parts.try_recv() {
                Ok(part) => Heard::Part(part),
                Err(TryRecvError::Empty) => Heard::Nothing,
                Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => Heard::Read,
            },
            // An engine that is gone announces nothing more.
            Self::Deaths(deaths) => match deaths.has_changed() {
                Ok(true) => Heard::Read,
                Ok(false) | Err(_) => Heard::Nothing,
            },
        }
    }

    /// Waits for something.
    pub(crate) async fn wait(&mut self) -> Heard {
        match self {
            Self::Feed(parts) => match parts.recv().await {
                Ok(part) => Heard::Part(part),
                Err(RecvError::Lagged(_) | RecvError::Closed) => Heard::Read,
            },
            Self::Deaths(deaths) => match deaths.changed().await {
                Ok(()) => Heard::Read,
                Err(_) => std::future::pending().await,
            },
        }
    }
}
