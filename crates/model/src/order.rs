//! An order: what was accepted and never changes, the head that every commit replaces, and the work that is due.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::bounds::PAST_COMMANDS_MAX;
use crate::id::{CommitId, OrderId, TypeHash};
use crate::json::Json;
use crate::ledger::{Hold, HoldState};

/// What is fixed when an order is accepted. It stands in one place in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The order's id.
    pub id: OrderId,
    /// The name of its type.
    pub order_type: Arc<str>,
    /// The client's own id, unique per type.
    pub key: Option<String>,
    /// Whom the order is for.
    pub customer: Option<String>,
    /// The group key: orders of one type with the same group key stand in one lane.
    pub group: Option<String>,
    /// The status in which it was accepted, and in which it begins again when it is redriven from the start.
    pub status: Arc<str>,
    /// When it was accepted, to the microsecond.
    pub at: Timestamp,
    /// The W3C trace context of the request, carried to every outbound call.
    pub traceparent: Option<String>,
}

/// The engine's view of an order; customers see the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Accepted for later: its `dueAt` has not come.
    Scheduled,
    /// In its workflow: at work, or waiting for someone outside.
    Active,
    /// Taking back what its steps did.
    Undoing,
    /// A dead letter.
    Dead,
    /// Done; nothing moves it any more.
    Final,
}

impl Phase {
    /// The name in stores and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Active => "active",
            Self::Undoing => "undoing",
            Self::Dead => "dead",
            Self::Final => "final",
        }
    }
}

/// The changing state of an order. A commit replaces it whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the type that the order lives on.
    pub type_hash: TypeHash,
    /// Where the order stands.
    pub status: Arc<str>,
    /// The engine's view.
    pub phase: Phase,
    /// Counts commits, from 1.
    pub version: u64,
    /// The version at which status or data last changed: the `ETag`.
    pub etag_version: u64,
    /// The commit that wrote this head.
    pub commit_id: CommitId,
    /// When this head was decided.
    pub updated_at: Timestamp,
    /// How many events the order has.
    pub events: u64,
    /// How many attempts are recorded.
    pub attempts: u64,
    /// How many visits have begun.
    pub visits: u32,
    /// What is to be done next, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<Work>,
    /// When the deadline of the status passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_until: Option<Timestamp>,
    /// The lane, for an order that has a group key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
    /// Completed visits and whether they were taken back, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub done: Vec<Done>,
    /// What the order holds of the ledger.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<Hold>,
    /// What is to happen as soon as the attempt in flight has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<Intent>,
    /// What an order that is `Undoing` does when everything has been taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_undo: Option<AfterUndo>,
    /// Why the order is a dead letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead: Option<DeadLetter>,
    /// The latest callbacks that are over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past_callbacks: Vec<PastCallback>,
    /// The latest commits of commands and callbacks, which anyone may send twice, oldest first, at most
    /// [`PAST_COMMANDS_MAX`](crate::bounds::PAST_COMMANDS_MAX): the lower halves of their ids. Whoever lost the answer to
    /// such a commit finds it here, however far the order has gone since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub past_commands: Vec<u64>,
    /// When what the order knew of its customer was erased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erased_at: Option<Timestamp>,
}

/// The lane that an order belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// The lane's name, unique in the store: the type, the group key, and the status where the scope is `status`.
    pub name: String,
    /// Whether the order stands in it now.
    pub standing: bool,
}

/// One record of work; there is at most one per order. Parallel work is child orders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// What is to be done.
    pub kind: WorkKind,
    /// The visit: one entry into a step. The outbound key is made from it.
    pub visit: u32,
    /// The attempt that is next or in flight, from 1, never reset within a visit.
    pub attempt: u32,
    /// The attempt at which the present round of tries began: 1, or where a redrive took up again.
    pub round_start: u32,
    /// When it is due. None while the order is a dead letter.
    pub due_at: Option<Timestamp>,
    /// The latest failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The queue in which it waits for a worker from outside. None: the engine does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Arc<str>>,
    /// Whether an earlier attempt of this visit may have happened: nobody learned its outcome. Then the step's
    /// question is asked before anything is tried again, and the visit is taken back like one that stands.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub uncertain: bool,
    /// When the present round of tries began, or the wait for a person. `timeout_total` counts from here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<Timestamp>,
    /// The callback that the attempt waits for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaiting: Option<Awaiting>,
    /// Since when its target takes no calls, or has no room for one: then `due_at` is when it is asked again, and
    /// `last_error` says which it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back_since: Option<Timestamp>,
}

/// A callback that an attempt waits for; no worker is held meanwhile. When it is over is the work's `due_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaiting {
    /// The secret of the attempt's token: whoever has it may answer.
    pub secret: Uuid,
    /// When the attempt began.
    pub since: Timestamp,
}

/// A callback that nobody waits for any more, kept so that a late or repeated one can be told from one made up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastCallback {
    /// The secret of its attempt's token.
    pub secret: Uuid,
    /// The visit.
    pub visit: u32,
    /// The attempt within the visit.
    pub attempt: u32,
    /// The step.
    pub step: Arc<str>,
    /// Whether it was the step's undo.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undo: bool,
    /// Whether one that came too late is written down already: the first is enough.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recorded: bool,
}

/// The kinds of work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkKind {
    /// Begin: the order was accepted for later.
    Begin,
    /// Go on to the status that `next` names: this status has no step left.
    Advance,
    /// Run a step: its place in the status's list, and its name.
    Step(StepAt),
    /// Wait until `due_at` inside a `wait` step that has begun.
    Wait(StepAt),
    /// Wait for a person's yes or no; `due_at` is when that is over.
    Approval(StepAt),
    /// Take back what the visit at this place in `done` did.
    Undo(StepAt),
}

/// Which step work is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepAt {
    /// The step's place in the status's list; for an undo, the visit that is taken back.
    pub index: u32,
    /// The step's name.
    pub name: Arc<str>,
}

impl WorkKind {
    /// The step that the work is about, if it is about one.
    pub fn step(&self) -> Option<&Arc<str>> {
        match self {
            Self::Begin | Self::Advance => None,
            Self::Step(at) | Self::Wait(at) | Self::Approval(at) | Self::Undo(at) => Some(&at.name),
        }
    }
}

/// One completed visit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The visit.
    pub visit: u32,
    /// The step.
    pub step: Arc<str>,
    /// Whether its effect stands.
    pub state: DoneState,
}

/// Whether a visit's effect stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoneState {
    /// The step succeeded.
    Stands,
    /// The step may or may not have happened: its attempt was fenced or lost. It is undone like one that stands.
    Unknown,
    /// It has been taken back.
    Undone,
}

/// What is to happen when the attempt in flight has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The status to go to.
    pub to: Arc<str>,
    /// Why.
    pub reason: Option<String>,
    /// Who asked.
    pub by: Arc<str>,
}

/// Where an order goes when everything has been taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AfterUndo {
    /// It stays in its status and goes on from there (or is final there).
    Settle,
    /// It ends where it stands: it was discarded and its type names no status for that.
    End,
    /// It begins again from the initial status.
    Restart,
}

/// Why an order is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// When it became one.
    pub at: Timestamp,
    /// The step that could not be done; empty when the reason is not a step's.
    pub step: Arc<str>,
    /// Groups dead letters that died of the same thing: the same step and the same error with other ids in it.
    pub cause: String,
    /// The reason, whole.
    pub reason: String,
    /// Whether the data was edited since: then a redrive is a new visit with a new outbound key.
    #[serde(default)]
    pub edited: bool,
    /// Whether it was an undo that failed.
    #[serde(default)]
    pub undo_failed: bool,
}

/// An order as the engine works with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// What never changes.
    pub accepted: Arc<Acceptance>,
    /// What does.
    pub head: Head,
    /// The data, as text.
    pub data: Json,
    /// The latest result of each step that left one, in the order in which the steps were done.
    pub results: Vec<(Arc<str>, Json)>,
}

impl Order {
    /// The order's id.
    pub fn id(&self) -> OrderId {
        self.accepted.id
    }
}

impl Head {
    /// Keeps the commit that writes this head among the latest of commands and callbacks.
    pub fn remember_command(&mut self) {
        if self.past_commands.len() >= PAST_COMMANDS_MAX {
            self.past_commands.remove(0);
        }
        self.past_commands.push(self.commit_id.lower_half());
    }

    /// Whether the commit of a command or a callback is part of this order's past; `None` if so many others have come
    /// since that it cannot be told.
    pub fn was_commanded_by(&self, commit_id: CommitId) -> Option<bool> {
        if self.past_commands.contains(&commit_id.lower_half()) {
            return Some(true);
        }
        (self.past_commands.len() < PAST_COMMANDS_MAX).then_some(false)
    }

    /// When the order next needs the engine. An order that queues behind others in its lane (`active` is false)
    /// is due only for its status's deadline, which needs no place at the head; so is one whose work waits in a queue.
    ///
    /// A hold lapses wherever the order stands, also as a dead letter.
    pub fn due_at(&self, active: bool) -> Option<Timestamp> {
        let by_itself = self.goes_on_at(active);
        if self.holds.is_empty() {
            return by_itself;
        }
        by_itself.into_iter().chain(self.hold_until()).min()
    }

    /// When the first hold that stands lapses. Those of a final order stay as they are.
    pub fn hold_until(&self) -> Option<Timestamp> {
        let held = self.holds.iter().filter(|hold| hold.state == HoldState::Held);
        held.filter_map(|hold| hold.until)
            .min()
            .filter(|_| self.phase != Phase::Final)
    }

    /// When the order goes on by itself: [`Head::due_at`] without the holds, whose lapse moves no order.
    pub fn goes_on_at(&self, active: bool) -> Option<Timestamp> {
        if matches!(self.phase, Phase::Dead | Phase::Final) {
            return None;
        }
        let own = |work: &&Work| active && (work.queue.is_none() || self.intent.is_some());
        let work = self.work.as_ref().filter(own).and_then(|work| work.due_at);
        match (work, self.status_until) {
            (Some(work), Some(until)) => Some(work.min(until)),
            (one, other) => one.or(other),
        }
    }

    /// The queue in which the order's work waits for a worker from outside, and since when, or from when on, it can be
    /// claimed there. None for an order that stands behind others in its lane (`active` is false), and once something
    /// is to happen as soon as the attempt in flight has ended: that is the engine's.
    pub fn queued_at(&self, active: bool) -> Option<(&Arc<str>, Timestamp)> {
        if !active || self.intent.is_some() || matches!(self.phase, Phase::Dead | Phase::Final) {
            return None;
        }
        let work = self.work.as_ref()?;
        work.queue.as_ref().zip(work.due_at)
    }
}

/// Cuts text to a bound, at a character's edge, and says so.
pub fn bounded(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let mut end = bytes_max.saturating_sub('…'.len_utf8());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_commands_are_known_and_older_ones_are_not_denied() {
        let hash = TypeHash([0; 32]);
        let id = |number: u128| CommitId(Uuid::from_u128(number));
        let text = format!(
            r#"{{"type_hash":{},"status":"open","phase":"active","version":1,"etag_version":1,"commit_id":"{}",
                "updated_at":"2026-01-01T00:00:00Z","events":1,"attempts":0,"visits":0}}"#,
            serde_json::to_string(&hash).unwrap(),
            id(0).0
        );
        let mut head: Head = serde_json::from_str(&text).unwrap();
        assert_eq!(head.was_commanded_by(id(1)), Some(false), "nobody gave it a command");
        for number in 1..=u128::try_from(PAST_COMMANDS_MAX).unwrap() {
            head.commit_id = id(number);
            head.remember_command();
        }
        assert_eq!(head.was_commanded_by(id(1)), Some(true));
        head.commit_id = id(100);
        head.remember_command();
        assert_eq!(head.past_commands.len(), PAST_COMMANDS_MAX);
        assert_eq!(head.was_commanded_by(id(100)), Some(true));
        assert_eq!(head.was_commanded_by(id(1)), None, "it was known, and is not any more");
    }
}
