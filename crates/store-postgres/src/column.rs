//! Single columns: kinds as numbers, times, spans.

use std::time::Duration;

use comanda_model::{EventKind, Outcome, Phase};
use comanda_store::StoreError;
use jiff::Timestamp;

use crate::failure::corrupt;

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

pub(crate) const fn phase_number(phase: Phase) -> i16 {
    match phase {
        Phase::Scheduled => 0,
        Phase::Active => 1,
        Phase::Undoing => 2,
        Phase::Dead => 3,
        Phase::Final => 4,
    }
}

pub(crate) fn phase_from(number: &str) -> Result<Phase, StoreError> {
    Ok(match number {
        "0" => Phase::Scheduled,
        "1" => Phase::Active,
        "2" => Phase::Undoing,
        "3" => Phase::Dead,
        "4" => Phase::Final,
        other => return Err(corrupt("a phase", format!("there is none with number {other}"))),
    })
}

pub(crate) const fn outcome_number(outcome: Outcome) -> i16 {
    match outcome {
        Outcome::Done => 0,
        Outcome::Failed => 1,
        Outcome::Refused => 2,
        Outcome::Stale => 3,
        Outcome::Lost => 4,
        Outcome::Unknown => 5,
    }
}

pub(crate) fn outcome_from(number: i16) -> Result<Outcome, StoreError> {
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

pub(crate) const fn kind_number(kind: EventKind) -> i16 {
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

pub(crate) fn kind_from(number: i16) -> Result<EventKind, StoreError> {
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
