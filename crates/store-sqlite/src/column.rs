//! Single columns: times, kinds as numbers, and the sum over a row's columns.

use jiff::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, Value, ValueRef};

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
