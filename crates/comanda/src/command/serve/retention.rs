//! Retention: removes orders that have been final for longer than they are to be kept, in small bites, so that nobody
//! waits behind it.

use std::sync::Arc;
use std::time::Duration;

use comanda_store::Store;
use jiff::SignedDuration;
use tokio_util::sync::CancellationToken;

/// How often old orders are looked for.
const EVERY: Duration = Duration::from_secs(60);
/// How many orders go at once.
const BITE: usize = 200;

pub(super) async fn run(store: Arc<dyn Store>, kept: Duration, end: CancellationToken) {
    let Ok(kept) = SignedDuration::try_from(kept) else {
        return;
    };
    loop {
        let mut removed = 0;
        while let Some(before) = store.now().checked_sub(kept).ok().filter(|_| !end.is_cancelled()) {
            match store.retain(before, BITE).await {
                Ok(0) => break,
                Ok(count) => removed += count,
                Err(error) => {
                    tracing::warn!(%error, "old orders could not be removed; they are tried again");
                    break;
                }
            }
            tokio::task::yield_now().await;
        }
        if removed > 0 {
            tracing::info!(removed, "removed orders that were final for longer than they are kept");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = end.cancelled() => return,
        }
    }
}
