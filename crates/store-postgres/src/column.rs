//! Single columns: numbers, times, spans.

use std::time::Duration;

use jiff::Timestamp;

/// The longest span that is added to a time: a hundred years, in microseconds.
const SPAN_MAX: i64 = 100 * 365 * 86_400 * 1_000_000;

/// A span in microseconds, as the functions take it.
pub(crate) fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).map_or(SPAN_MAX, |micros| micros.min(SPAN_MAX))
}

/// When something is due, in whole microseconds. Rounded up: nothing is due before its time.
pub(crate) fn due_time(time: Timestamp) -> Timestamp {
    let micros = time.as_microsecond() + i64::from(time.subsec_nanosecond().rem_euclid(1000) > 0);
    Timestamp::from_microsecond(micros).unwrap_or(time)
}

/// A counter of one order, or a position: they cannot pass 2^63.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A visit or an attempt; the engine's bounds are far below.
pub(crate) fn small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A number of something in a call; calls are small.
pub(crate) fn place(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The most rows that one read answers with, whatever was asked for.
const ROWS_MAX: usize = 10_000;

/// How many rows a read is asked for.
pub(crate) fn bounded(max: usize) -> i64 {
    i64::try_from(max.min(ROWS_MAX)).unwrap_or(i64::MAX)
}
