//! The ledger as the store keeps it: balances of accounts by place, and movements that belong to no order.

use std::collections::BTreeMap;
use std::sync::Arc;

use comanda_model::bounds::{KEY_BYTES_MAX, LEDGER_LINES_MAX};
use comanda_model::ledger::{LedgerLine, OUTSIDE, Shortage};

use crate::error::{CommitError, StoreError};

/// The longest account, in bytes: the longest SKU and what stands before it.
pub const ACCOUNT_BYTES_MAX: usize = KEY_BYTES_MAX;
/// The longest name of a place, in bytes.
pub const PLACE_BYTES_MAX: usize = 32;

/// An account, and what stands in each of its places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What is counted, such as `stock:A-1`.
    pub account: String,
    /// Place and quantity, by place. Places that nothing was ever moved to or from are not named.
    pub places: Vec<(Arc<str>, i64)>,
}

impl Account {
    /// What stands in a place.
    pub fn at(&self, place: &str) -> i64 {
        let found = self.places.iter().find(|(name, _)| &**name == place);
        found.map_or(0, |(_, quantity)| *quantity)
    }
}

/// Movements that belong to no order: stock that comes in, or is found by counting.
#[derive(Clone, Debug)]
pub struct Posting {
    /// Makes it happen once, for as long as retention keeps it.
    pub once_id: String,
    /// The SHA-256 of what was asked for, to tell a repetition from another posting under the same id.
    pub fingerprint: [u8; 32],
    /// The movements. Their own `once_id`s are not looked at.
    pub lines: Vec<LedgerLine>,
    /// What must stand in a place for the posting to be applied: the account, the place, the quantity.
    pub expect: Option<(String, String, i64)>,
}

/// What a durable posting came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It was applied.
    Applied,
    /// It had been applied before, under the same id.
    Repeated,
}

/// Why a posting was not applied.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PostError {
    /// There is too little in a place.
    #[error("{}", comanda_model::ledger::shortages_text(.0))]
    Short(Vec<Shortage>),
    /// The quantity that the posting rests on has changed. Read it and decide again.
    #[error("the quantity has changed: it is {actual} now")]
    Moved {
        /// What it is.
        actual: i64,
    },
    /// The id was used for another posting.
    #[error("the id was used before, for another posting")]
    Reused,
    /// It is larger than a posting may be.
    #[error("{what} is larger than {max}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The bound.
        max: usize,
    },
    /// The store failed; whether the posting was applied is told by repeating it under the same id.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Holds lines to their bounds; for stores, before anything is applied.
pub fn check_lines(lines: &[LedgerLine]) -> Result<(), CommitError> {
    if lines.len() > LEDGER_LINES_MAX {
        return Err(CommitError::TooLarge {
            what: "the commit's list of movements",
            bytes_max: LEDGER_LINES_MAX,
        });
    }
    for line in lines {
        if line.account.len() > ACCOUNT_BYTES_MAX {
            return Err(CommitError::TooLarge {
                what: "an account's name",
                bytes_max: ACCOUNT_BYTES_MAX,
            });
        }
        if line.from.len() > PLACE_BYTES_MAX || line.to.len() > PLACE_BYTES_MAX {
            return Err(CommitError::TooLarge {
                what: "a place's name",
                bytes_max: PLACE_BYTES_MAX,
            });
        }
    }
    Ok(())
}

/// [`check_lines`] for a posting, whose id is bounded too.
pub fn check_posting(posting: &Posting) -> Result<(), PostError> {
    if posting.once_id.len() > 4 * KEY_BYTES_MAX {
        let (what, max) = ("the posting's id", 4 * KEY_BYTES_MAX);
        return Err(PostError::TooLarge { what, max });
    }
    check_lines(&posting.lines).map_err(|error| match error {
        CommitError::TooLarge { what, bytes_max } => PostError::TooLarge { what, max: bytes_max },
        other => StoreError::failed("check a posting", other).into(),
    })
}

/// An account and a place in it.
type Place<'l> = (&'l Arc<str>, &'l Arc<str>);

/// What lines do to balances, worked out before anything is written: each place of each account once, in order. Only
/// places that are touched are asked for, with `balance`. Answers the new balances, or what there is too little of.
///
/// Lines of one list are taken together: what a place gains in one line it may give in another.
pub fn settle<E>(
    lines: &[LedgerLine],
    mut balance: impl FnMut(&str, &str) -> Result<i64, E>,
) -> Result<Result<Vec<NewBalance>, Vec<Shortage>>, E> {
    // By account and place: the change, and what is taken.
    let mut moves: BTreeMap<Place<'_>, (i64, u64)> = BTreeMap::new();
    for line in lines {
        let quantity = i64::from(line.quantity);
        let from = moves.entry((&line.account, &line.from)).or_default();
        from.0 -= quantity;
        from.1 += u64::from(line.quantity);
        moves.entry((&line.account, &line.to)).or_default().0 += quantity;
    }
    let mut balances = Vec::with_capacity(moves.len());
    let mut short = Vec::new();
    for ((account, place), (change, wanted)) in moves {
        let before = balance(account, place)?;
        let after = before.saturating_add(change);
        if after < 0 && change < 0 && &**place != OUTSIDE {
            short.push(Shortage {
                account: account.clone(),
                place: place.clone(),
                wanted,
                there: u64::try_from(before).unwrap_or(0),
            });
        } else if change != 0 {
            balances.push(NewBalance {
                account: account.clone(),
                place: place.clone(),
                quantity: after,
            });
        }
    }
    Ok(if short.is_empty() { Ok(balances) } else { Err(short) })
}

/// A balance as lines leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewBalance {
    /// The account.
    pub account: Arc<str>,
    /// The place.
    pub place: Arc<str>,
    /// What stands there afterwards.
    pub quantity: i64,
}
