//! What is written down when an order changes: events (everyone may learn of them) and attempts (each try of a step).

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::changed::Changed;
use crate::json::Json;

/// One recorded change of an order. It names what changed; on the wire it carries no copy of the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// 1 for the acceptance, then without gaps.
    pub number: u64,
    /// When it was decided.
    pub at: Timestamp,
    /// What happened.
    pub kind: EventKind,
    /// The status before, where the event is a change of status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Arc<str>>,
    /// The status after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Arc<str>>,
    /// Who did it: `step:NAME`, `undo:NAME`, `key:ID`, `local`, `deadline`, `schedule`, `engine`.
    pub by: Arc<str>,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What an edit changed of the data. Its values stay within the house: see [`Changed`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Changed>,
}

/// The kinds of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// The order was accepted and is durable.
    Accepted,
    /// The order entered another status.
    StatusChanged,
    /// The order's data was changed.
    Edited,
    /// A step was exhausted; the order waits for a redrive or a discard.
    DeadLettered,
    /// A dead letter was put back to work.
    Redriven,
    /// A dead letter was given up.
    Discarded,
    /// Someone asked for the order to be cancelled while work was in flight.
    CancelRequested,
    /// An undo step was exhausted.
    UndoFailed,
    /// All that was to be taken back has been taken back.
    Undone,
    /// A person said yes to a step that waited for it.
    Approved,
    /// A person said no to a step that waited for a yes.
    Rejected,
    /// A hold's time has passed: what it held was given back.
    HoldLapsed,
    /// A hold that had lapsed was taken again.
    HoldTaken,
    /// What the order knew of its customer was erased: a store that applies this event empties with it what stands
    /// outside the head and the data.
    Erased,
}

impl EventKind {
    /// All there are.
    pub const ALL: [Self; 14] = [
        Self::Accepted,
        Self::StatusChanged,
        Self::Edited,
        Self::DeadLettered,
        Self::Redriven,
        Self::Discarded,
        Self::CancelRequested,
        Self::UndoFailed,
        Self::Undone,
        Self::Approved,
        Self::Rejected,
        Self::HoldLapsed,
        Self::HoldTaken,
        Self::Erased,
    ];

    /// The CloudEvents `type` on the wire.
    pub const fn wire_name(self) -> &'static str {
        match self {
            Self::Accepted => "comanda.order.accepted",
            Self::StatusChanged => "comanda.order.status-changed",
            Self::Edited => "comanda.order.edited",
            Self::DeadLettered => "comanda.order.dead-lettered",
            Self::Redriven => "comanda.order.redriven",
            Self::Discarded => "comanda.order.discarded",
            Self::CancelRequested => "comanda.order.cancel-requested",
            Self::UndoFailed => "comanda.order.undo-failed",
            Self::Undone => "comanda.order.undone",
            Self::Approved => "comanda.order.approved",
            Self::Rejected => "comanda.order.rejected",
            Self::HoldLapsed => "comanda.order.hold-lapsed",
            Self::HoldTaken => "comanda.order.hold-taken",
            Self::Erased => "comanda.order.erased",
        }
    }
}

/// One try of a step within a visit: when it ran, how long, how it ended and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts the order's attempts, from 1.
    pub number: u64,
    /// The visit that it belongs to.
    pub visit: u32,
    /// Its number within the visit, from 1.
    pub attempt: u32,
    /// The step's name.
    pub step: Arc<str>,
    /// Whether this was the step's undo.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub undo: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, for everything but success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the step left for later steps to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Json>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The step is done.
    Done,
    /// It failed in a way that another try may mend.
    Failed,
    /// The outside said no for good.
    Refused,
    /// The result came too late: its token was no longer valid, so it did not count.
    Stale,
    /// The worker was lost before it answered.
    Lost,
    /// It may have happened or not: no answer came, or it was lost on the way.
    Unknown,
}

impl Outcome {
    /// The name on the wire and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Stale => "stale",
            Self::Lost => "lost",
            Self::Unknown => "unknown",
        }
    }
}
