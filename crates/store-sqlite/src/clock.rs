//! The store's clock: the system's, to the microsecond, but never backwards.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::Timestamp;

/// A clock that stands still while the system's clock is set back.
#[derive(Debug)]
pub(crate) struct Clock(AtomicI64);

impl Clock {
    /// A clock that is never behind `floor`: the newest time that the store had told before it was opened.
    pub(crate) fn new(floor: i64) -> Self {
        Self(AtomicI64::new(floor))
    }

    /// Microseconds since 1970.
    pub(crate) fn micros(&self) -> i64 {
        let system = Timestamp::now().as_microsecond();
        // The order among threads is all that counts, and one atomic has one.
        self.0.fetch_max(system, Ordering::Relaxed).max(system)
    }

    /// The present.
    pub(crate) fn now(&self) -> Timestamp {
        // The system's clock cannot tell a time that a timestamp cannot hold; a damaged floor could.
        Timestamp::from_microsecond(self.micros()).unwrap_or(Timestamp::MAX)
    }
}
