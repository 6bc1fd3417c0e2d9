//! Retention: removes orders that have been final for longer than they are to be kept, in small bites, so that nobody
//! waits behind it.
//!
//! It waits for subscriptions that are at work and have not sent an event yet, but not for ever: one that is further behind
//! than that meets a gap, and says so.

use std::sync::Arc;
use std::time::Duration;

use comanda_deliver::unread_since;
use comanda_store::{Store, StoreError};
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;

/// How often old orders are looked for.
const EVERY: Duration = Duration::from_secs(60);
/// How many orders go at once.
const BITE: usize = 200;
/// How much longer orders stay whose events are still to be sent.
const WAIT_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Events are recorded a little before they are committed, so that their times and their places can differ by that much.
const MARGIN: SignedDuration = SignedDuration::from_mins(1);

pub(super) async fn run(store: Arc<dyn Store>, kept: Duration, end: CancellationToken) {
    let Ok(kept) = SignedDuration::try_from(kept) else {
        return;
    };
    loop {
        match remove(store.as_ref(), kept, &end).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed orders that were final for longer than they are kept"),
            Err(error) => tracing::warn!(%error, "old orders could not be removed; they are tried again"),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = end.cancelled() => return,
        }
    }
}

async fn remove(store: &dyn Store, kept: SignedDuration, end: &CancellationToken) -> Result<usize, StoreError> {
    let Ok(old) = store.now().checked_sub(kept) else {
        return Ok(0);
    };
    let before = waited_for(old, unread_since(store).await?);
    let mut removed = 0;
    while !end.is_cancelled() {
        match store.retain(before, BITE).await? {
            0 => break,
            count => removed += count,
        }
        tokio::task::yield_now().await;
    }
    Ok(removed)
}

/// What is removed is from before this: what is old, unless an event of then is still to be sent.
fn waited_for(old: Timestamp, unread_since: Option<Timestamp>) -> Timestamp {
    let Some(unread) = unread_since else { return old };
    let unread = unread.checked_sub(MARGIN).unwrap_or(Timestamp::MIN);
    let last = old.checked_sub(WAIT_MAX).unwrap_or(Timestamp::MIN);
    old.min(unread.max(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_still_to_be_sent_stays_but_not_for_ever() {
        let at = |hours: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours);
        let old = at(10_000);
        assert_eq!(waited_for(old, None), old);
        assert_eq!(waited_for(old, Some(at(10_001))), old, "it is younger than what goes");
        assert_eq!(waited_for(old, Some(at(9_990))), at(9_990) - MARGIN);
        assert_eq!(waited_for(old, Some(at(1))), at(10_000 - 7 * 24), "the bound");
        assert_eq!(waited_for(Timestamp::MIN, Some(Timestamp::MIN)), Timestamp::MIN);
    }
}
