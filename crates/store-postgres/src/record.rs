//! How an order's head, its events and its attempts stand in columns: the same whether a commit writes them or a move does.

use comanda_model::{Attempt, Event, Head, Phase};
use comanda_store::{Numbered, StoreError};
use jiff::Timestamp;
use uuid::Uuid;

use crate::column::{due_time, signed, small};
use crate::text::to_column;

/// A text as the database can hold it.
pub(crate) fn text(text: &str) -> String {
    to_column(text).into_owned()
}

/// A text that may be missing.
pub(crate) fn maybe(option: Option<&str>) -> Option<String> {
    option.map(text)
}

/// A value as JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::failed("write an order as JSON", error))
}

/// What the table `heads` says of a head, but for the order that it belongs to and its lane.
#[derive(Debug)]
pub(crate) struct HeadColumns {
    pub(crate) status: String,
    pub(crate) phase: i16,
    pub(crate) type_hash: Vec<u8>,
    pub(crate) version: i64,
    pub(crate) commit_id: Uuid,
    pub(crate) events: i64,
    pub(crate) attempts: i64,
    pub(crate) updated_at: Timestamp,
    pub(crate) due_at: Option<Timestamp>,
    pub(crate) due_queued_at: Option<Timestamp>,
    pub(crate) queue: Option<String>,
    pub(crate) queued_at: Option<Timestamp>,
    pub(crate) visit: i32,
    pub(crate) attempt: i32,
    pub(crate) cause: Option<String>,
    pub(crate) head: String,
}

impl HeadColumns {
    pub(crate) fn of(head: &Head) -> Result<Self, StoreError> {
        let queued = head.queued_at(true);
        let work = head.work.as_ref();
        let dead = head.dead.as_ref().filter(|_| head.phase == Phase::Dead);
        Ok(Self {
            status: text(&head.status),
            phase: i16::from(head.phase.number()),
            type_hash: head.type_hash.0.to_vec(),
            version: signed(head.version),
            commit_id: head.commit_id.0,
            events: signed(head.events),
            attempts: signed(head.attempts),
            updated_at: head.updated_at,
            due_at: head.due_at(true).map(due_time),
            due_queued_at: head.due_at(false).map(due_time),
            queue: queued.map(|(queue, _)| text(queue)),
            queued_at: queued.map(|(_, at)| due_time(at)),
            visit: work.map_or(0, |work| small(work.visit)),
            attempt: work.map_or(0, |work| small(work.attempt)),
            cause: dead.map(|dead| text(&dead.cause)),
            head: json(head)?,
        })
    }
}

/// What the table `events` says of an event, but for its place in the feed and its order.
#[derive(Debug)]
pub(crate) struct EventColumns {
    pub(crate) number: i64,
    pub(crate) at: Timestamp,
    pub(crate) kind: i16,
    pub(crate) from_status: Option<String>,
    pub(crate) to_status: Option<String>,
    pub(crate) by: String,
    pub(crate) reason: Option<String>,
    pub(crate) changed: Option<String>,
}

impl EventColumns {
    pub(crate) fn of(event: &Event) -> Result<Self, StoreError> {
        let changed = (!event.changed.is_empty()).then(|| json(&event.changed));
        Ok(Self {
            number: signed(event.number),
            at: event.at,
            kind: i16::from(event.kind.number()),
            from_status: maybe(event.from.as_deref()),
            to_status: maybe(event.to.as_deref()),
            by: text(&event.by),
            reason: maybe(event.reason.as_deref()),
            changed: changed.transpose()?,
        })
    }
}

/// What the table `attempts` says of an attempt, but for its order.
#[derive(Debug)]
pub(crate) struct AttemptColumns {
    pub(crate) number: i64,
    pub(crate) visit: i32,
    pub(crate) attempt: i32,
    pub(crate) step: String,
    pub(crate) undo: bool,
    pub(crate) started_at: Timestamp,
    pub(crate) ended_at: Timestamp,
    pub(crate) outcome: i16,
    pub(crate) reason: Option<String>,
    pub(crate) result: Option<String>,
}

impl AttemptColumns {
    pub(crate) fn of(attempt: &Attempt) -> Self {
        Self {
            number: signed(attempt.number),
            visit: small(attempt.visit),
            attempt: small(attempt.attempt),
            step: text(&attempt.step),
            undo: attempt.undo,
            started_at: attempt.started_at,
            ended_at: attempt.ended_at,
            outcome: i16::from(attempt.outcome.number()),
            reason: maybe(attempt.reason.as_deref()),
            result: attempt.result.as_ref().map(|result| result.as_str().to_owned()),
        }
    }
}
