//! The virtual clock: tokio's paused time, plus the jumps that a run makes.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use comanda_store::memory;
use jiff::Timestamp;
use tokio::time::Instant;

/// Where every run begins: 2026-01-01T00:00:00Z, in microseconds.
const BEGIN_MICROS: i64 = 1_767_225_600_000_000;

/// The clock of one run. Made within the run's runtime.
#[derive(Clone)]
pub struct VirtualClock(Arc<Inner>);

struct Inner {
    began: Instant,
    jumped_micros: AtomicI64,
    /// What each reading adds. With 0, time stands still while anything is going on, so that everything coincides.
    tick_micros: i64,
}

impl VirtualClock {
    /// A clock that stands at the beginning.
    pub fn new(tick_micros: i64) -> Self {
        Self(Arc::new(Inner {
            began: Instant::now(),
            jumped_micros: AtomicI64::new(0),
            tick_micros,
        }))
    }

    /// The time that it shows. It can go back; the store's own clock then stands still.
    pub fn now(&self) -> Timestamp {
        let ticked = self.0.jumped_micros.fetch_add(self.0.tick_micros, Ordering::Relaxed);
        self.at(ticked)
    }

    /// Sets it forward, or back.
    pub fn jump(&self, millis: i64) {
        self.0.jumped_micros.fetch_add(millis * 1000, Ordering::Relaxed);
    }

    /// Milliseconds since the beginning, without any jump: what traces show.
    pub fn elapsed_millis(&self) -> u128 {
        self.0.began.elapsed().as_millis()
    }

    /// As the in-memory store wants it.
    pub fn of_store(&self) -> memory::Clock {
        let clock = self.clone();
        Arc::new(move || clock.now())
    }

    fn at(&self, jumped_micros: i64) -> Timestamp {
        let elapsed = i64::try_from(self.0.began.elapsed().as_micros()).unwrap_or(i64::MAX);
        let micros = BEGIN_MICROS.saturating_add(elapsed).saturating_add(jumped_micros);
        Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX)
    }
}
