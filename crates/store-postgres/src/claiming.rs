//! Where claims of due orders begin to look.
//!
//! Orders are claimed in the order in which they became due, from an index whose entries vanish once nobody can see them
//! any more. Someone's open transaction keeps all that were there since, and each claim would pass over all of them. So
//! once a claim has passed over many, the next ones begin shortly before what was due when the last one ended; and only
//! now and then one begins at the beginning again, for what became due late: an order that was due long before it was
//! committed, or one that a claim passed over because another node, which then died, was at it.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

/// Up to so many entries a claim may pass over and the next still begins at the beginning.
const PASSED_MAX: u64 = 5_000;
/// How long a commit may take from when its order is due until others see it.
const COMMIT_SPAN: SignedDuration = SignedDuration::from_secs(2);
/// How often claims begin at the beginning, for each `PASSED_UNIT` that they then pass over.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_secs(60);
const PASSED_UNIT: u64 = 100_000;

/// Where the next claim begins.
#[derive(Debug, Default)]
pub(crate) struct Claiming(Mutex<Option<Shortcut>>);

#[derive(Clone, Copy, Debug)]
struct Shortcut {
    from: Timestamp,
    until: Instant,
}

/// What a claim has found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked {
    /// Whether it began at the beginning.
    pub(crate) whole: bool,
    /// How many entries it passed over.
    pub(crate) passed: u64,
    /// The database's time at its beginning.
    pub(crate) at: Timestamp,
    /// Since when the last order that it claimed was due, where there may be more than it was to claim.
    pub(crate) cut_at: Option<Timestamp>,
}

impl Claiming {
    /// From when on the next claim looks; `None`: from the beginning.
    pub(crate) fn from(&self) -> Option<Timestamp> {
        let mut shortcut = self.0.lock();
        if shortcut.is_some_and(|shortcut| Instant::now() >= shortcut.until) {
            *shortcut = None;
        }
        shortcut.map(|shortcut| shortcut.from)
    }

    /// Learns from a claim.
    pub(crate) fn learn(&self, looked: Looked) {
        let reached = looked.cut_at.map_or(looked.at, |cut| cut.min(looked.at));
        let from = reached.saturating_sub(COMMIT_SPAN).unwrap_or(Timestamp::MIN);
        let mut shortcut = self.0.lock();
        match &mut *shortcut {
            Some(shortcut) if !looked.whole => shortcut.from = from,
            // One that began at the beginning decides anew, also beside one that did not.
            other if looked.whole => {
                let again = AGAIN * u32::try_from(looked.passed / PASSED_UNIT).unwrap_or(u32::MAX).max(1);
                *other = (looked.passed > PASSED_MAX).then(|| Shortcut {
                    from,
                    until: Instant::now() + again.min(AGAIN_MAX),
                });
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(whole: bool, passed: u64, at: i64) -> Looked {
        Looked {
            whole,
            passed,
            at: Timestamp::from_second(at).unwrap(),
            cut_at: None,
        }
    }

    #[test]
    fn claims_begin_later_only_while_much_would_be_passed_over() {
        let claiming = Claiming::default();
        claiming.learn(looked(true, PASSED_MAX, 100));
        assert_eq!(claiming.from(), None);
        claiming.learn(looked(true, PASSED_MAX + 1, 100));
        let from = |second| Some(Timestamp::from_second(second).unwrap());
        assert_eq!(claiming.from(), from(98));
        claiming.learn(looked(false, 10, 200));
        assert_eq!(claiming.from(), from(198));
        // What was not claimed because there was more than was asked for is not jumped over.
        claiming.learn(Looked {
            cut_at: from(150),
            ..looked(false, 10, 300)
        });
        assert_eq!(claiming.from(), from(148));
        claiming.learn(looked(true, 10, 400));
        assert_eq!(claiming.from(), None, "the transaction has ended");
        claiming.learn(looked(false, 10, 500));
        assert_eq!(claiming.from(), None);
    }
}
