//! Where randomness comes from: ids, tokens and jitter. Handed in, so that a run can be repeated from its seed.

use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use uuid::{Builder, Uuid};

/// A source of randomness.
pub trait Chance: Send + Sync + 'static {
    /// 128 random bits.
    fn bits(&self) -> u128;

    /// A number in 0..1.
    fn fraction(&self) -> f64 {
        // 53 bits are what a double holds, so every value is reachable and none is rounded up to 1.
        let bits = (self.bits() >> 75) as u64;
        bits as f64 / (1u64 << 53) as f64
    }

    /// A random id (UUIDv4): commit ids and token secrets.
    fn random_id(&self) -> Uuid {
        Builder::from_random_bytes(self.bits().to_be_bytes()).into_uuid()
    }

    /// An id that sorts by time (UUIDv7, RFC 9562).
    fn time_ordered_id(&self, now: Timestamp) -> Uuid {
        let millis = u64::try_from(now.as_millisecond()).unwrap_or(0);
        // The microseconds within the millisecond come first, so that ids of one millisecond sort too (RFC 9562, 6.2).
        let micros = u16::try_from(now.as_microsecond().rem_euclid(1000)).unwrap_or(0);
        let mut bytes = [0; 10];
        bytes.copy_from_slice(&self.bits().to_be_bytes()[..10]);
        let fraction = (micros << 2) | (u16::from(bytes[0]) & 3);
        bytes[0] = (fraction >> 8) as u8;
        bytes[1] = fraction as u8;
        Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid()
    }
}

/// The operating system's randomness, through a generator per thread.
#[derive(Debug, Default)]
pub struct SystemChance;

impl Chance for SystemChance {
    fn bits(&self) -> u128 {
        rand::rng().random()
    }
}

/// Repeatable randomness.
#[derive(Debug)]
pub struct SeededChance(Mutex<StdRng>);

impl SeededChance {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Chance for SeededChance {
    fn bits(&self) -> u128 {
        self.0.lock().random()
    }
}

/// Spreads a wait over half to the whole of itself, so that many that wait for one thing do not come back at once.
pub(crate) fn spread(wait: Duration, fraction: f64) -> Duration {
    wait.mul_f64(0.5 + fraction / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_microsecond_and_carry_their_time() {
        let chance = SeededChance::new(7);
        let at = |micros: i64| Timestamp::from_microsecond(1_700_000_000_000_000 + micros).unwrap();
        let ids: Vec<Uuid> = (0..5000_i64).map(|micros| chance.time_ordered_id(at(micros))).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(ids[0].get_version_num(), 7);
        assert!((0.0..1.0).contains(&chance.fraction()));
    }
}
