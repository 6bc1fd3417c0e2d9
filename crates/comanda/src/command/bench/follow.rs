//! Follows some of the orders that a bench submits to their end, beside the submitting.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::drive::{histogram, micros};
use crate::failure::Failure;
use crate::remote::Remote;

/// Orders that are followed at the same time.
const FOLLOWERS: usize = 16;
/// After so many orders that came to no end, and none that did, no more are followed: they are of a kind that waits for
/// somebody, and to read them would only be measured with the rest.
const ENDLESS_MAX: u32 = 10;

/// What has come of the orders that were followed.
struct Followed {
    /// How long they took, in microseconds, from the sending on.
    took: Histogram<u64>,
    endless: u32,
}

impl Followed {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            took: histogram()?,
            endless: 0,
        })
    }

    /// Counts an order: how long it took to its end, if it came to one.
    fn count(&mut self, took: Option<Duration>) {
        match took {
            Some(took) => self.took.saturating_record(micros(took)),
            None => self.endless += 1,
        }
    }

    /// Whether there is no use in following more of them.
    fn is_pointless(&self) -> bool {
        self.took.is_empty() && self.endless >= ENDLESS_MAX
    }
}

/// Follows orders to their end, a few at the same time. Answers how long they took, in microseconds.
pub(super) async fn followers(
    remote: Remote,
    mut orders: mpsc::Receiver<(Uuid, Instant)>,
    settle: Duration,
) -> Result<Histogram<u64>, Failure> {
    let mut followed = Followed::new()?;
    let mut running: JoinSet<Option<Duration>> = JoinSet::new();
    let mut open = true;
    while open || !running.is_empty() {
        tokio::select! {
            next = orders.recv(), if open && running.len() < FOLLOWERS => match next {
                Some((id, sent)) => {
                    let remote = remote.clone();
                    running.spawn(async move { follow(&remote, id, sent, settle).await });
                }
                None => open = false,
            },
            Some(ended) = running.join_next(), if !running.is_empty() => {
                followed.count(ended.ok().flatten());
                if followed.is_pointless() {
                    orders.close();
                    open = false;
                }
            }
        }
    }
    Ok(followed.took)
}

/// How long an order takes to its end; `None` if it stops before.
async fn follow(remote: &Remote, id: Uuid, sent: Instant, settle: Duration) -> Option<Duration> {
    let path = format!("/v1/orders/{id}");
    let deadline = Instant::now() + settle;
    while Instant::now() < deadline {
        let order = remote.get(&path, &[("wait", Some("10".to_owned()))]).await.ok()?.body;
        if order["final"] == true {
            return Some(sent.elapsed());
        }
        if order["work"]["state"] == "waiting" || order["work"]["state"] == "parked" {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_of_order_that_comes_to_no_end_is_followed_no_more() {
        let mut followed = Followed::new().unwrap();
        (1..ENDLESS_MAX).for_each(|_| followed.count(None));
        assert!(!followed.is_pointless());
        followed.count(None);
        assert!(followed.is_pointless());
    }

    #[test]
    fn one_that_often_fails_is() {
        let mut followed = Followed::new().unwrap();
        followed.count(Some(Duration::from_millis(1)));
        (0..100).for_each(|_| followed.count(None));
        assert!(!followed.is_pointless());
    }
}
