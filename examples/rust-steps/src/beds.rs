//! The beds: so many places, each given once per key. A stand-in for whatever your step reaches.

use std::collections::HashMap;

use parking_lot::Mutex;

/// What came of planting.
pub enum Planted {
    /// It stands in this bed.
    In(usize),
    /// There is no room.
    Full,
    /// It was cleared before it was planted.
    Cleared,
}

enum Bed {
    Planted { number: usize, count: u32 },
    Cleared,
}

/// The beds of a greenhouse.
pub struct Beds {
    places: u32,
    by_key: Mutex<HashMap<String, Bed>>,
}

impl Beds {
    /// A greenhouse with room for so many plants.
    pub fn with_places(places: u32) -> Self {
        Self {
            places,
            by_key: Mutex::default(),
        }
    }

    /// Plants, once per key.
    pub fn plant(&self, key: &str, count: u32) -> Planted {
        let mut beds = self.by_key.lock();
        match beds.get(key) {
            Some(Bed::Planted { number, .. }) => return Planted::In(*number),
            Some(Bed::Cleared) => return Planted::Cleared,
            None => {}
        }
        let taken: u32 = beds
            .values()
            .map(|bed| match bed {
                Bed::Planted { count, .. } => *count,
                Bed::Cleared => 0,
            })
            .sum();
        if taken.saturating_add(count) > self.places {
            return Planted::Full;
        }
        let number = beds.len() + 1;
        beds.insert(key.to_owned(), Bed::Planted { number, count });
        Planted::In(number)
    }

    /// The bed that a key was given.
    pub fn planted(&self, key: &str) -> Option<usize> {
        match self.by_key.lock().get(key) {
            Some(Bed::Planted { number, .. }) => Some(*number),
            _ => None,
        }
    }

    /// Takes back what was planted under a key, and plants nothing under it from then on.
    pub fn clear(&self, key: &str) {
        self.by_key.lock().insert(key.to_owned(), Bed::Cleared);
    }
}
