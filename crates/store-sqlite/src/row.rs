//! How orders, events, attempts and keys become rows and come back, and the sums that prove them.

use std::fmt::Display;
use std::sync::Arc;

use comanda_model::order::{AfterUndo, DeadLetter, Done, Intent, Lane, PastCallback};
use comanda_model::{
    Acceptance, Attempt, CommitId, Event, EventKind, Head, Hold, Json, OrderId, Outcome, TypeHash, Work,
};
use comanda_store::{Numbered, StoreError};
use jiff::Timestamp;
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::column::{Sum, Time};
use crate::dictionary::Dictionary;
use crate::failure::{Failure, corrupt};

/// A number that was written from one without a sign.
fn unsigned(number: i64, what: &'static str) -> Result<u64, Failure> {
    u64::try_from(number).map_err(|_| corrupt(what, format!("{number} is below zero")).into())
}

fn small(number: i64, what: &'static str) -> Result<u32, Failure> {
    u32::try_from(number).map_err(|_| corrupt(what, format!("{number} is out of range")).into())
}

/// What a damaged row of an order is called.
pub(crate) fn of_order(what: &str, order: impl Display) -> String {
    format!("{what} of order {order}")
}

/// Names the order in a failure that came up while its row was being read.
fn naming(failure: Failure, what: &str, order: impl Display) -> Failure {
    match failure.into_store_error("read the store") {
        StoreError::Corrupt { what: inner, detail } => {
            corrupt(of_order(what, order), format!("{inner}: {detail}")).into()
        }
        other => other.into(),
    }
}

fn proved(found: i64, expected: i64, what: &str, order: impl Display) -> Result<(), Failure> {
    if found == expected {
        return Ok(());
    }
    Err(corrupt(
        of_order(what, order),
        format!("its checksum is {found:08x} and should be {expected:08x}"),
    )
    .into())
}

// ---- orders

/// The columns of `orders`, as [`acceptance`] reads them.
macro_rules! order_columns {
    () => {
        "o.id, o.type, o.status, o.at, o.key, o.customer, o.group_key, o.traceparent, o.keys, o.crc"
    };
}
pub(crate) use order_columns;
/// How many they are.
pub(crate) const ORDER_COLUMNS_COUNT: usize = 10;
/// The data's columns, as [`data`] reads them.
macro_rules! data_columns {
    () => {
        "o.data_crc, o.data"
    };
}
pub(crate) use data_columns;

pub(crate) fn acceptance_sum(seq: i64, accepted: &Acceptance, keys: Option<&str>) -> i64 {
    Sum::new(b'o', seq)
        .bytes(accepted.id.0.as_bytes())
        .text(&accepted.order_type)
        .text(&accepted.status)
        .time(accepted.at)
        .maybe(accepted.key.as_deref())
        .maybe(accepted.customer.as_deref())
        .maybe(accepted.group.as_deref())
        .maybe(accepted.traceparent.as_deref())
        .maybe(keys)
        .finish()
}

pub(crate) fn data_sum(seq: i64, data: &str) -> i64 {
    Sum::new(b'd', seq).text(data).finish()
}

/// Reads what was accepted, and the keys that lead to it, from the columns that begin at `at`.
pub(crate) fn acceptance(
    connection: &Connection,
    dictionary: &mut Dictionary,
    row: &Row<'_>,
    at: usize,
    seq: i64,
) -> Result<(Acceptance, Option<String>), Failure> {
    let read = |dictionary: &mut Dictionary| -> Result<_, Failure> {
        let accepted = Acceptance {
            id: OrderId(Uuid::from_bytes(row.get(at)?)),
            order_type: dictionary.name(connection, row.get(at + 1)?)?,
            status: dictionary.name(connection, row.get(at + 2)?)?,
            at: row.get::<_, Time>(at + 3)?.0,
            key: row.get(at + 4)?,
            customer: row.get(at + 5)?,
            group: row.get(at + 6)?,
            traceparent: row.get(at + 7)?,
        };
        Ok((
            accepted,
            row.get::<_, Option<String>>(at + 8)?,
            row.get::<_, i64>(at + 9)?,
        ))
    };
    let (accepted, keys, sum) = read(dictionary).map_err(|failure| naming(failure, "the acceptance", seq))?;
    proved(
        sum,
        acceptance_sum(seq, &accepted, keys.as_deref()),
        "the acceptance",
        accepted.id,
    )?;
    Ok((accepted, keys))
}

/// Reads the data from the columns that begin at `at`.
pub(crate) fn data(row: &Row<'_>, at: usize, seq: i64, id: OrderId) -> Result<Json, Failure> {
    let sum: i64 = row.get(at)?;
    let text = row
        .get_ref(at + 1)?
        .as_str()
        .map_err(|error| corrupt(of_order("the data", id), error.to_string()))?;
    proved(sum, data_sum(seq, text), "the data", id)?;
    Ok(Json::from_valid(text))
}

// ---- heads

/// What most heads do not have, as JSON.
#[derive(Serialize)]
struct RestOut<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    work: &'a Option<Work>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_until: &'a Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: &'a Option<Lane>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    done: &'a [Done],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    holds: &'a [Hold],
    #[serde(skip_serializing_if = "Option::is_none")]
    intent: &'a Option<Intent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_undo: &'a Option<AfterUndo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead: &'a Option<DeadLetter>,
    #[serde(skip_serializing_if = "<[PastCallback]>::is_empty")]
    past_callbacks: &'a [PastCallback],
    #[serde(skip_serializing_if = "<[u64]>::is_empty")]
    past_commands: &'a [u64],
    #[serde(skip_serializing_if = "Option::is_none")]
    erased_at: &'a Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RestIn {
    work: Option<Work>,
    status_until: Option<Timestamp>,
    lane: Option<Lane>,
    done: Vec<Done>,
    holds: Vec<Hold>,
    intent: Option<Intent>,
    after_undo: Option<AfterUndo>,
    dead: Option<DeadLetter>,
    past_callbacks: Vec<PastCallback>,
    past_commands: Vec<u64>,
    erased_at: Option<Timestamp>,
}

/// The parts of a head that have no column of their own, if it has any.
pub(crate) fn rest_of(head: &Head) -> Result<Option<String>, serde_json::Error> {
    let Head {
        work,
        status_until,
        lane,
        done,
        holds,
        intent,
        after_undo,
        dead,
        past_callbacks,
        past_commands,
        erased_at,
        ..
    } = head;
    if work.is_none()
        && status_until.is_none()
        && lane.is_none()
        && done.is_empty()
        && holds.is_empty()
        && intent.is_none()
        && after_undo.is_none()
        && dead.is_none()
        && past_callbacks.is_empty()
        && past_commands.is_empty()
        && erased_at.is_none()
    {
        return Ok(None);
    }
    serde_json::to_string(&RestOut {
        work,
        status_until,
        lane,
        done,
        holds,
        intent,
        after_undo,
        dead,
        past_callbacks,
        past_commands,
        erased_at,
    })
    .map(Some)
}

/// The attempts whose results stand, by step, in the order in which the steps were done.
pub(crate) type Results = Vec<(Arc<str>, u64)>;

/// The columns of `heads`, as [`head`] reads them.
macro_rules! head_columns {
    () => {
        "h.state, h.type_hash, h.version, h.etag_version, h.commit_id, h.updated_at, h.events, h.attempts, \
         h.visits, h.lane_position, h.crc, h.results, h.rest"
    };
}
pub(crate) use head_columns;

/// A head as it is stored.
pub(crate) struct HeadRow {
    pub(crate) head: Head,
    pub(crate) order_type: Arc<str>,
    pub(crate) state: i64,
    pub(crate) type_row: i64,
    pub(crate) lane_position: Option<i64>,
    pub(crate) results: Results,
}

pub(crate) fn head_sum(
    seq: i64,
    head: &Head,
    lane_position: Option<i64>,
    results: Option<&str>,
    rest: Option<&str>,
) -> i64 {
    Sum::new(b'h', seq)
        .text(&head.status)
        .int(i64::from(head.phase.number()))
        .bytes(&head.type_hash.0)
        .int(head.version as i64)
        .int(head.etag_version as i64)
        .bytes(head.commit_id.0.as_bytes())
        .time(head.updated_at)
        .int(head.events as i64)
        .int(head.attempts as i64)
        .int(i64::from(head.visits))
        .int(lane_position.unwrap_or(-1))
        .maybe(results)
        .maybe(rest)
        .finish()
}

/// Reads a head from the columns that begin at `at`. `order` names it in errors.
pub(crate) fn head(
    connection: &Connection,
    dictionary: &mut Dictionary,
    row: &Row<'_>,
    at: usize,
    seq: i64,
    order: impl Display + Copy,
) -> Result<HeadRow, Failure> {
    let read = |dictionary: &mut Dictionary| -> Result<HeadRow, Failure> {
        let state_id: i64 = row.get(at)?;
        let state = dictionary.state(connection, state_id)?;
        let type_row: i64 = row.get(at + 1)?;
        let mut head = Head {
            type_hash: dictionary.type_hash(connection, type_row)?,
            status: state.status,
            phase: state.phase,
            version: unsigned(row.get(at + 2)?, "the version")?,
            etag_version: unsigned(row.get(at + 3)?, "the etag's version")?,
            commit_id: CommitId(Uuid::from_bytes(row.get(at + 4)?)),
            updated_at: row.get::<_, Time>(at + 5)?.0,
            events: unsigned(row.get(at + 6)?, "the count of events")?,
            attempts: unsigned(row.get(at + 7)?, "the count of attempts")?,
            visits: small(row.get(at + 8)?, "the count of visits")?,
            work: None,
            status_until: None,
            lane: None,
            done: Vec::new(),
            holds: Vec::new(),
            intent: None,
            after_undo: None,
            dead: None,
            past_callbacks: Vec::new(),
            past_commands: Vec::new(),
            erased_at: None,
        };
        let lane_position: Option<i64> = row.get(at + 9)?;
        let sum: i64 = row.get(at + 10)?;
        let results = row.get_ref(at + 11)?.as_str_or_null().map_err(rusqlite::Error::from)?;
        let rest = row.get_ref(at + 12)?.as_str_or_null().map_err(rusqlite::Error::from)?;
        // The sum is proved before the texts are parsed: what parses may still not be what was written.
        proved(
            sum,
            head_sum(seq, &head, lane_position, results, rest),
            "the head",
            order,
        )?;
        let results = match results {
            Some(text) => serde_json::from_str(text).map_err(|error| corrupt("its results", error.to_string()))?,
            None => Vec::new(),
        };
        if let Some(text) = rest {
            let rest: RestIn = serde_json::from_str(text).map_err(|error| corrupt("its rest", error.to_string()))?;
            head.work = rest.work;
            head.status_until = rest.status_until;
            head.lane = rest.lane;
            head.done = rest.done;
            head.holds = rest.holds;
            head.intent = rest.intent;
            head.after_undo = rest.after_undo;
            head.dead = rest.dead;
            head.past_callbacks = rest.past_callbacks;
            head.past_commands = rest.past_commands;
            head.erased_at = rest.erased_at;
        }
        Ok(HeadRow {
            head,
            order_type: state.order_type,
            state: state_id,
            type_row,
            lane_position,
            results,
        })
    };
    read(dictionary).map_err(|failure| naming(failure, "the head", order))
}

// ---- events

/// The columns of `events`, as [`event`] reads them.
macro_rules! event_columns {
    () => {
        "e.position, e.seq, e.number, e.at, e.kind, e.from_status, e.to_status, e.by, e.crc, e.reason, e.changed"
    };
}
pub(crate) use event_columns;
/// How many they are.
pub(crate) const EVENT_COLUMNS_COUNT: usize = 11;

pub(crate) fn event_sum(position: i64, seq: i64, event: &Event, changed: Option<&str>) -> i64 {
    Sum::new(b'e', position)
        .int(seq)
        .int(event.number as i64)
        .time(event.at)
        .int(i64::from(event.kind.number()))
        .maybe(event.from.as_deref())
        .maybe(event.to.as_deref())
        .text(&event.by)
        .maybe(event.reason.as_deref())
        .maybe(changed)
        .finish()
}

/// What an event changed, as the column keeps it.
pub(crate) fn changed_text(event: &Event) -> Result<Option<String>, StoreError> {
    if event.changed.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_string(&event.changed);
    Ok(Some(text.map_err(|error| {
        StoreError::failed("write an event as JSON", error)
    })?))
}

/// Reads an event: its position, its order's `seq`, and the event. `order` names it in errors.
pub(crate) fn event(
    connection: &Connection,
    dictionary: &mut Dictionary,
    row: &Row<'_>,
    order: impl Display + Copy,
) -> Result<(i64, i64, Event), Failure> {
    let read = |dictionary: &mut Dictionary| -> Result<_, Failure> {
        let position: i64 = row.get(0)?;
        let seq: i64 = row.get(1)?;
        let status =
            |dictionary: &mut Dictionary, id: Option<i64>| id.map(|id| dictionary.name(connection, id)).transpose();
        let mut event = Event {
            number: unsigned(row.get(2)?, "its number")?,
            at: row.get::<_, Time>(3)?.0,
            kind: EventKind::from_number(row.get(4)?)?,
            from: status(dictionary, row.get(5)?)?,
            to: status(dictionary, row.get(6)?)?,
            by: dictionary.name(connection, row.get(7)?)?,
            reason: row.get(9)?,
            changed: Vec::new(),
        };
        let changed: Option<String> = row.get(10)?;
        proved(
            row.get(8)?,
            event_sum(position, seq, &event, changed.as_deref()),
            "an event",
            order,
        )?;
        if let Some(text) = changed {
            event.changed =
                serde_json::from_str(&text).map_err(|error| corrupt("what it changed", error.to_string()))?;
        }
        Ok((position, seq, event))
    };
    read(dictionary).map_err(|failure| naming(failure, "an event", order))
}

// ---- attempts

/// The columns of `attempts`, as [`attempt`] reads them.
macro_rules! attempt_columns {
    () => {
        "a.seq, a.number, a.visit, a.attempt, a.step, a.undo, a.started_at, a.ended_at, a.outcome, a.crc, \
         a.reason, a.result"
    };
}
pub(crate) use attempt_columns;

pub(crate) fn attempt_sum(seq: i64, attempt: &Attempt) -> i64 {
    Sum::new(b'a', seq)
        .int(attempt.number as i64)
        .int(i64::from(attempt.visit))
        .int(i64::from(attempt.attempt))
        .text(&attempt.step)
        .int(i64::from(attempt.undo))
        .time(attempt.started_at)
        .time(attempt.ended_at)
        .int(i64::from(attempt.outcome.number()))
        .maybe(attempt.reason.as_deref())
        .maybe(attempt.result.as_ref().map(Json::as_str))
        .finish()
}

/// Reads an attempt and its order's `seq`. `order` names it in errors.
pub(crate) fn attempt(
    connection: &Connection,
    dictionary: &mut Dictionary,
    row: &Row<'_>,
    order: impl Display + Copy,
) -> Result<(i64, Attempt), Failure> {
    let read = |dictionary: &mut Dictionary| -> Result<_, Failure> {
        let seq: i64 = row.get(0)?;
        let attempt = Attempt {
            number: unsigned(row.get(1)?, "its number")?,
            visit: small(row.get(2)?, "its visit")?,
            attempt: small(row.get(3)?, "its place in the visit")?,
            step: dictionary.name(connection, row.get(4)?)?,
            undo: row.get(5)?,
            started_at: row.get::<_, Time>(6)?.0,
            ended_at: row.get::<_, Time>(7)?.0,
            outcome: Outcome::from_number(row.get(8)?)?,
            reason: row.get(10)?,
            result: row.get::<_, Option<String>>(11)?.map(Json::from_valid),
        };
        proved(row.get(9)?, attempt_sum(seq, &attempt), "an attempt", order)?;
        Ok((seq, attempt))
    };
    read(dictionary).map_err(|failure| naming(failure, "an attempt", order))
}

// ---- keys

pub(crate) fn key_sum(seq: i64, scope: &str, key: &str, fingerprint: &[u8; 32], expires_at: Option<i64>) -> i64 {
    Sum::new(b'k', seq)
        .text(scope)
        .text(key)
        .bytes(fingerprint)
        .int(expires_at.unwrap_or(-1))
        .finish()
}

/// A key as it is stored.
pub(crate) struct KeyRow {
    pub(crate) seq: i64,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) expires_at: Option<i64>,
}

/// Reads the row of a key: `seq, fingerprint, expires_at, crc`.
pub(crate) fn key(row: &Row<'_>, scope: &str, key: &str) -> Result<KeyRow, Failure> {
    let found = KeyRow {
        seq: row.get(0)?,
        fingerprint: row.get(1)?,
        expires_at: row.get(2)?,
    };
    let sum = key_sum(found.seq, scope, key, &found.fingerprint, found.expires_at);
    if row.get::<_, i64>(3)? != sum {
        return Err(corrupt(format!("the key `{key}` of `{scope}`"), "its checksum does not match").into());
    }
    Ok(found)
}

impl KeyRow {
    /// Whether it may be used again.
    pub(crate) fn is_expired(&self, now_micros: i64) -> bool {
        self.expires_at.is_some_and(|at| at <= now_micros)
    }
}

// ---- types

pub(crate) fn type_sum(hash: TypeHash, name: &str, source: &str) -> i64 {
    Sum::new(b't', 0).bytes(&hash.0).text(name).text(source).finish()
}
