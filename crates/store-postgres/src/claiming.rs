//! Where claims of due orders, of queues' work and of queues' items begin to look.
//!
//! They are claimed in the order in which they became due, from an index whose entries vanish once nobody can see them
//! any more. Someone's open transaction keeps all that were there since, and each claim would pass over all of them. So
//! once a claim has passed over many, the next ones begin shortly before what was due when the last one ended; and only
//! now and then one begins at the beginning again, for what a claim passed over because another node, which then died, was at
//! it. What had been due for longer when it came to be claimable is found by an index of its own.

use std::collections::HashMap;
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

/// What is claimed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    /// Due orders, by the engine.
    Due,
    /// The work of steps that waits in this queue, by workers from outside.
    Work(String),
    /// The items of statuses in this queue.
    Items(String),
}

/// Where the next claim of each begins. Only what has much to be passed over is in it, so names of queues that anyone made
/// up are not.
#[derive(Debug, Default)]
pub(crate) struct Claiming(Mutex<HashMap<What, Shortcut>>);

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
    /// Since when the last that it claimed was due, where there may be more than it was to claim.
    pub(crate) cut_at: Option<Timestamp>,
}

impl Claiming {
    /// From when on the next claim looks; `None`: from the beginning.
    pub(crate) fn from(&self, what: &What) -> Option<Timestamp> {
        let mut shortcuts = self.0.lock();
        if shortcuts
            .get(what)
            .is_some_and(|shortcut| Instant::now() >= shortcut.until)
        {
            shortcuts.remove(what);
        }
        shortcuts.get(what).map(|shortcut| shortcut.from)
    }

    /// Learns from a claim.
    pub(crate) fn learn(&self, what: What, looked: Looked) {
        let reached = looked.cut_at.map_or(looked.at, |cut| cut.min(looked.at));
        let from = reached.saturating_sub(COMMIT_SPAN).unwrap_or(Timestamp::MIN);
        let mut shortcuts = self.0.lock();
        if !looked.whole {
            if let Some(shortcut) = shortcuts.get_mut(&what) {
                shortcut.from = from;
            }
            return;
        }
        // One that began at the beginning decides anew, also beside one that did not.
        if looked.passed <= PASSED_MAX {
            shortcuts.remove(&what);
            return;
        }
        let again = AGAIN * u32::try_from(looked.passed / PASSED_UNIT).unwrap_or(u32::MAX).max(1);
        let until = Instant::now() + again.min(AGAIN_MAX);
        shortcuts.insert(what, Shortcut { from, until });
    }
}

/// The beginning as the database's functions take it: all time before cannot be said by a timestamp of ours.
pub(crate) fn from_column(from: Option<Timestamp>) -> String {
    from.map_or("-infinity".to_owned(), |from| from.to_string())
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
        claiming.learn(What::Due, looked(true, PASSED_MAX, 100));
        assert_eq!(claiming.from(&What::Due), None);
        claiming.learn(What::Due, looked(true, PASSED_MAX + 1, 100));
        let from = |second| Some(Timestamp::from_second(second).unwrap());
        assert_eq!(claiming.from(&What::Due), from(98));
        claiming.learn(What::Due, looked(false, 10, 200));
        assert_eq!(claiming.from(&What::Due), from(198));
        // What was not claimed because there was more than was asked for is not jumped over.
        claiming.learn(
            What::Due,
            Looked {
                cut_at: from(150),
                ..looked(false, 10, 300)
            },
        );
        assert_eq!(claiming.from(&What::Due), from(148));
        let queue = What::Work("q".to_owned());
        assert_eq!(claiming.from(&queue), None, "each has its own");
        claiming.learn(What::Due, looked(true, 10, 400));
        assert_eq!(claiming.from(&What::Due), None, "the transaction has ended");
        claiming.learn(What::Due, looked(false, 10, 500));
        assert_eq!(claiming.from(&What::Due), None);
    }
}
