//! Chance by name: what happens to a thing is drawn from the seed and the thing's own name, not from a shared sequence.
//! So leaving out one order, command or fault of a run changes nothing about the others, and a failure can be shrunk.

use std::hash::{DefaultHasher, Hash, Hasher};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The dice of one run.
#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The dice of one thing: always the same for the same seed and name.
    pub fn of(self, name: impl Hash) -> Rolls {
        Rolls(StdRng::seed_from_u64(self.number(name)))
    }

    /// A number of one thing.
    pub fn number(self, name: impl Hash) -> u64 {
        // A new `DefaultHasher` always begins with the same keys.
        let mut hasher = DefaultHasher::new();
        self.0.hash(&mut hasher);
        name.hash(&mut hasher);
        hasher.finish()
    }
}

/// A sequence of rolls.
pub struct Rolls(StdRng);

impl Rolls {
    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0.random_range(0..bound)
    }

    /// Whether a thing happens that happens in so many of a thousand cases.
    pub fn permille(&mut self, rate: u64) -> bool {
        self.below(1000) < rate
    }

    /// One of these.
    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap_or(0)]
    }
}
