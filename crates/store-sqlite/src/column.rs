//! Single columns: times, kinds as numbers, and the sum over a row's columns.

use comanda_model::{EventKind, Outcome, Phase};
use comanda_store::StoreError;
use jiff::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef};

use crate::failure::corrupt;

/// The sum over one row.
pub(crate) struct Sum(crc32fast::Hasher);

impl Sum {
    /// Begins with what the row is and which one it is, so that a row in another's place is found out.
    pub(crate) fn new(kind: u8, number: i64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&[kind]);
        hasher.update(&number.to_le_bytes());
        Self(hasher)
    }

    pub(crate) fn int(mut self, number: i64) -> Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    /// The length goes in first, so that no text can borrow from its neighbour.
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    pub(crate) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Nothing is told from an empty text by a length that no text has.
    pub(crate) fn maybe(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.text(text),
            None => self.int(-1),
        }
    }

    pub(crate) fn time(mut self, time: Timestamp) -> Self {
        self.0.update(&time.as_nanosecond().to_le_bytes());
        self
    }

    pub(crate) fn finish(self) -> i64 {
        i64::from(self.0.finalize())
    }
}

/// A time in a column: whole microseconds as a number; anything finer, which is rare, as text, so that nothing is lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) Timestamp);

impl ToSql for Time {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Owned(if self.0.subsec_nanosecond() % 1000 == 0 {
            Value::Integer(self.0.as_microsecond())
        } else {
            Value::Text(self.0.to_string())
        }))
    }
}

impl FromSql for Time {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value {
            ValueRef::Integer(micros) => Timestamp::from_microsecond(micros).map_err(FromSqlError::other),
            ValueRef::Text(_) => value.as_str()?.parse().map_err(FromSqlError::other),
            _ => Err(FromSqlError::InvalidType),
        }
        .map(Self)
    }
}

/// When something is due, in microseconds. Rounded up: nothing is due before its time.
pub(crate) fn due_micros(time: Timestamp) -> i64 {
    let micros = time.as_microsecond();
    if time.subsec_nanosecond() % 1000 > 0 {
        micros + 1
    } else {
        micros
    }
}

pub(crate) const fn phase_number(phase: Phase) -> i64 {
    match phase {
        Phase::Scheduled => 0,
        Phase::Active => 1,
        Phase::Undoing => 2,
        Phase::Dead => 3,
        Phase::Final => 4,
    }
}

pub(crate) fn phase_from(number: i64) -> Result<Phase, StoreError> {
    Ok(match number {
        0 => Phase::Scheduled,
        1 => Phase::Active,
        2 => Phase::Undoing,
        3 => Phase::Dead,
        4 => Phase::Final,
        other => return Err(corrupt("a phase", format!("there is none with number {other}"))),
    })
}

pub(crate) const fn outcome_number(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Done => 0,
        Outcome::Failed => 1,
        Outcome::Refused => 2,
        Outcome::Stale => 3,
        Outcome::Lost => 4,
        Outcome::Unknown => 5,
    }
}

pub(crate) fn outcome_from(number: i64) -> Result<Outcome, StoreError> {
    Ok(match number {
        0 => Outcome::Done,
        1 => Outcome::Failed,
        2 => Outcome::Refused,
        3 => Outcome::Stale,
        4 => Outcome::Lost,
        5 => Outcome::Unknown,
        other => return Err(corrupt("an outcome", format!("there is none with number {other}"))),
    })
}

pub(crate) const fn kind_number(kind: EventKind) -> i64 {
    match kind {
        EventKind::Accepted => 0,
        EventKind::StatusChanged => 1,
        EventKind::Edited => 2,
        EventKind::DeadLettered => 3,
        EventKind::Redriven => 4,
        EventKind::Discarded => 5,
        EventKind::CancelRequested => 6,
        EventKind::UndoFailed => 7,
        EventKind::Undone => 8,
        EventKind::Approved => 9,
        EventKind::Rejected => 10,
        EventKind::HoldLapsed => 11,
        EventKind::HoldTaken => 12,
    }
}

pub(crate) fn kind_from(number: i64) -> Result<EventKind, StoreError> {
    Ok(match number {
        0 => EventKind::Accepted,
        1 => EventKind::StatusChanged,
        2 => EventKind::Edited,
        3 => EventKind::DeadLettered,
        4 => EventKind::Redriven,
        5 => EventKind::Discarded,
        6 => EventKind::CancelRequested,
        7 => EventKind::UndoFailed,
        8 => EventKind::Undone,
        9 => EventKind::Approved,
        10 => EventKind::Rejected,
        11 => EventKind::HoldLapsed,
        12 => EventKind::HoldTaken,
        other => return Err(corrupt("a kind of event", format!("there is none with number {other}"))),
    })
}
