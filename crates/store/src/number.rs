//! The numbers that stores keep for phases, outcomes and kinds of events. They stand in files and databases, so they
//! never change, and a new one is added at the end.

use comanda_model::{EventKind, Outcome, Phase};

use crate::StoreError;

/// Something that stores keep as a number.
pub trait Numbered: Copy + Sized + 'static {
    /// What it is, for people.
    const WHAT: &'static str;
    /// All of them; each stands at its number.
    const BY_NUMBER: &'static [Self];

    /// Its number.
    fn number(self) -> u8;

    /// The one with this number.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if there is none.
    fn from_number(number: i64) -> Result<Self, StoreError> {
        let found = usize::try_from(number)
            .ok()
            .and_then(|number| Self::BY_NUMBER.get(number));
        found.copied().ok_or_else(|| StoreError::Corrupt {
            what: Self::WHAT.to_owned(),
            detail: format!("there is none with number {number}"),
        })
    }
}

/// Declares the numbers once, for both ways.
macro_rules! numbered {
    ($kind:ty, $what:literal: $($variant:ident = $number:literal,)*) => {
        impl Numbered for $kind {
            const WHAT: &'static str = $what;
            const BY_NUMBER: &'static [Self] = &[$(Self::$variant,)*];

            fn number(self) -> u8 {
                match self {
                    $(Self::$variant => $number,)*
                }
            }
        }
    };
}

numbered! { Phase, "a phase":
    Scheduled = 0,
    Active = 1,
    Undoing = 2,
    Dead = 3,
    Final = 4,
}

numbered! { Outcome, "an outcome":
    Done = 0,
    Failed = 1,
    Refused = 2,
    Stale = 3,
    Lost = 4,
    Unknown = 5,
}

numbered! { EventKind, "a kind of event":
    Accepted = 0,
    StatusChanged = 1,
    Edited = 2,
    DeadLettered = 3,
    Redriven = 4,
    Discarded = 5,
    CancelRequested = 6,
    UndoFailed = 7,
    Undone = 8,
    Approved = 9,
    Rejected = 10,
    HoldLapsed = 11,
    HoldTaken = 12,
    Erased = 13,
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn pinned<T: Numbered + Debug + PartialEq>(all: &[T]) {
        assert_eq!(T::BY_NUMBER, all);
        for (place, one) in all.iter().enumerate() {
            assert_eq!(usize::from(one.number()), place, "{one:?}");
            assert_eq!(T::from_number(place as i64).unwrap(), *one);
        }
        for none in [-1, all.len() as i64, i64::MIN] {
            assert!(T::from_number(none).is_err());
        }
    }

    #[test]
    fn the_numbers_that_stand_in_files_never_change() {
        use EventKind as E;
        pinned(&[
            Phase::Scheduled,
            Phase::Active,
            Phase::Undoing,
            Phase::Dead,
            Phase::Final,
        ]);
        pinned(&[
            Outcome::Done,
            Outcome::Failed,
            Outcome::Refused,
            Outcome::Stale,
            Outcome::Lost,
            Outcome::Unknown,
        ]);
        pinned(&[
            E::Accepted,
            E::StatusChanged,
            E::Edited,
            E::DeadLettered,
            E::Redriven,
            E::Discarded,
            E::CancelRequested,
            E::UndoFailed,
            E::Undone,
            E::Approved,
            E::Rejected,
            E::HoldLapsed,
            E::HoldTaken,
            E::Erased,
        ]);
    }
}
