//! The store's clock: an estimate of the database's that is never ahead of it.
//!
//! Leases and due times are always compared in the database, by its clock. This estimate serves those who decide:
//! were it ahead, work that they say is due now would not be due yet. Each answer carries the database's time, which
//! was read before the answer arrived, so `read - arrived` is never more than the true difference of the two clocks;
//! the greatest of the latest such differences is the best estimate. Arrivals are taken on a monotonic clock, so
//! setting this machine's clock changes nothing.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;

/// For how long a difference counts: at least once, at most twice this. Clocks drift by a millisecond or so meanwhile.
const WINDOW: Duration = Duration::from_secs(30);

/// An estimate of the database's clock. Never goes backwards.
#[derive(Debug)]
pub(crate) struct Clock {
    base: Instant,
    windows: Mutex<Windows>,
    told: AtomicI64,
}

#[derive(Debug)]
struct Windows {
    began: Instant,
    present: i64,
    previous: i64,
}

impl Clock {
    /// A clock that knows one reading of the database's, which has just arrived.
    pub(crate) fn new(read: Timestamp) -> Self {
        let base = Instant::now();
        let difference = read.as_microsecond();
        Self {
            base,
            windows: Mutex::new(Windows {
                began: base,
                present: difference,
                previous: difference,
            }),
            told: AtomicI64::new(difference),
        }
    }

    fn elapsed(&self, now: Instant) -> i64 {
        i64::try_from(now.duration_since(self.base).as_micros()).unwrap_or(i64::MAX)
    }

    /// Learns from a reading that has just arrived.
    pub(crate) fn learn(&self, read: Timestamp) {
        let now = Instant::now();
        let difference = read.as_microsecond() - self.elapsed(now);
        let mut windows = self.windows.lock();
        let age = now.duration_since(windows.began);
        if age > WINDOW {
            // After a long silence, such as an outage, nothing from before counts: the server may be another.
            windows.previous = if age > 2 * WINDOW { difference } else { windows.present };
            windows.present = difference;
            windows.began = now;
        } else {
            windows.present = windows.present.max(difference);
        }
    }

    /// The present, to the microsecond.
    pub(crate) fn now(&self) -> Timestamp {
        let difference = {
            let windows = self.windows.lock();
            windows.present.max(windows.previous)
        };
        let micros = self.elapsed(Instant::now()).saturating_add(difference);
        // The order among threads is all that counts, and one atomic has one.
        let micros = self.told.fetch_max(micros, Ordering::Relaxed).max(micros);
        Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_ahead_of_what_was_read_and_never_goes_back() {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let clock = Clock::new(start);
        assert!(clock.now() >= start);
        clock.learn(start + Duration::from_secs(5));
        let later = clock.now();
        assert!(later >= start + Duration::from_secs(5) && later < start + Duration::from_secs(6));
        clock.learn(start);
        assert!(clock.now() >= later, "a slow answer does not turn it back");
    }
}
