//! Rates: what nodes take together is never more than the rate gives.

use std::sync::Arc;
use std::time::Duration;

use crate::Store;
use crate::rate::{RateAsk, RateLease};

/// So slow that nothing comes back while a check runs.
const SLOW: Duration = Duration::from_secs(3600);

fn ask(name: &str, burst: u32, least: u32, most: u32) -> RateAsk {
    RateAsk {
        name: name.to_owned(),
        interval: SLOW,
        burst,
        least,
        most,
    }
}

/// A burst is granted once, whoever asks; then it is said when there will be more. Names do not share.
pub async fn a_burst_is_granted_once(store: Arc<dyn Store>) {
    let Some(rates) = store.rates() else {
        assert!(!store.capabilities().many_nodes, "nodes that share a store share rates");
        return;
    };
    let eight = ask("a", 10, 1, 8);
    let (first, second) = tokio::join!(rates.lease_rate(&eight), rates.lease_rate(&eight));
    let (first, second) = (first.expect("it is counted"), second.expect("it is counted"));
    assert_eq!(first.granted + second.granted, 10, "{first:?} {second:?}");
    let none = rates.lease_rate(&ask("a", 10, 1, 8)).await.expect("it is counted");
    let RateLease {
        granted,
        left,
        retry_after,
    } = none;
    assert_eq!((granted, left), (0, 0));
    assert!(
        retry_after.is_some_and(|after| after > SLOW / 2 && after <= SLOW),
        "{retry_after:?}"
    );
    let other = rates.lease_rate(&ask("b", 10, 1, 4)).await.expect("it is counted");
    assert_eq!((other.granted, other.left), (4, 6));
}

/// Fewer than are of use are not taken, and what can never be granted is said to be so.
pub async fn a_lease_is_of_use_or_takes_nothing(store: Arc<dyn Store>) {
    let Some(rates) = store.rates() else { return };
    let most = rates.lease_rate(&ask("a", 10, 7, 7)).await.expect("it is counted");
    assert_eq!((most.granted, most.left), (7, 3));
    let less = rates.lease_rate(&ask("a", 10, 4, 9)).await.expect("it is counted");
    assert_eq!((less.granted, less.left), (0, 3));
    let rest = rates.lease_rate(&ask("a", 10, 3, 9)).await.expect("it is counted");
    assert_eq!((rest.granted, rest.left), (3, 0));
    let never = rates.lease_rate(&ask("c", 10, 11, 11)).await.expect("it is counted");
    assert_eq!((never.granted, never.left, never.retry_after), (0, 10, None));
}

/// What was taken comes back with time, and a rate that was made faster or smaller counts as it now is.
pub async fn a_rate_comes_back_and_can_be_changed(store: Arc<dyn Store>) {
    let Some(rates) = store.rates() else { return };
    rates.lease_rate(&ask("a", 10, 10, 10)).await.expect("it is counted");
    let smaller = rates.lease_rate(&ask("a", 2, 1, 1)).await.expect("it is counted");
    assert_eq!(smaller.granted, 0);
    assert!(smaller.retry_after.is_some_and(|after| after <= SLOW), "{smaller:?}");
    let fast = RateAsk {
        interval: Duration::from_millis(1),
        ..ask("a", 2, 2, 2)
    };
    // Each answer says when to come again, and by then it is there.
    loop {
        let lease = rates.lease_rate(&fast).await.expect("it is counted");
        if lease.granted == 2 {
            break;
        }
        let after = lease.retry_after.expect("it will be there");
        assert!(after <= Duration::from_millis(2), "{after:?}");
        tokio::time::sleep(after).await;
    }
}
