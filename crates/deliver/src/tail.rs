//! The one reader of the feed's end: what it reads is handed to every subscription that has come as far, so that one
//! reading serves them all. A subscription that falls behind reads for itself and joins again.

use std::sync::Arc;
use std::time::Duration;

use comanda_store::{Cursor, FeedEvent, FeedStart, Store};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// The most events that are read at once.
pub(crate) const PAGE: usize = 100;
/// How many pages wait for a subscription before it has to read for itself.
const PAGES_KEPT: usize = 64;
/// How often the feed is looked at that announced nothing: it may have grown on another node.
const POLL: Duration = Duration::from_secs(2);

/// A part of the feed.
#[derive(Debug)]
pub(crate) struct Part {
    /// The place that it begins after.
    pub(crate) after: Cursor,
    /// What stands there.
    pub(crate) events: Vec<FeedEvent>,
    /// The place that it ends at.
    pub(crate) next: Cursor,
}

/// Where subscriptions hear of new events.
#[derive(Clone)]
pub(crate) struct Tail(broadcast::Sender<Arc<Part>>);

impl Tail {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(PAGES_KEPT))
    }

    /// From here on, every part is received.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Arc<Part>> {
        self.0.subscribe()
    }

    /// Reads until the end.
    pub(crate) async fn run(self, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut position = store.position();
        let mut from = FeedStart::Newest;
        loop {
            if self.0.receiver_count() == 0 {
                // Nobody hears it, so nothing is read. Whoever comes meanwhile reads for itself at first.
                from = FeedStart::Newest;
                tokio::select! {
                    () = tokio::time::sleep(POLL) => continue,
                    () = stop.cancelled() => return,
                }
            }
            // Marked as seen before reading, so that what comes during the read wakes at once.
            position.mark_unchanged();
            match store.feed(from, PAGE).await {
                Ok(page) => {
                    let before = match from {
                        FeedStart::After(cursor) => Some(cursor),
                        FeedStart::Oldest | FeedStart::Newest => None,
                    };
                    from = FeedStart::After(page.next);
                    if before.is_none() {
                        // Tells those who listened before the reading began what they may have missed.
                        let _ = self.0.send(Arc::new(Part {
                            after: page.next,
                            events: Vec::new(),
                            next: page.next,
                        }));
                    }
                    if !page.events.is_empty() {
                        if let Some(after) = before {
                            let part = Part {
                                after,
                                events: page.events,
                                next: page.next,
                            };
                            // With nobody to hear it, it is read again by whoever comes.
                            let _ = self.0.send(Arc::new(part));
                        }
                        continue;
                    }
                }
                // Whoever is behind reads for itself, and meets the reset there.
                Err(comanda_store::StoreError::CursorReset) => from = FeedStart::Newest,
                Err(error) => tracing::warn!(%error, "the feed could not be read for the subscriptions"),
            }
            tokio::select! {
                _ = position.changed() => {}
                () = tokio::time::sleep(POLL) => {}
                () = stop.cancelled() => return,
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }
}
