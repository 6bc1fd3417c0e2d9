//! The pure decision function: `(order, command, now) -> (order', events, next work)`.
//!
//! Nothing here performs anything. [`accept`] makes an order, [`due`] says what an order that is due needs,
//! [`report`] says what an attempt's outcome does to it, and [`decide`] what a command from outside does. Each answers
//! with a [`Change`], which the engine turns into one commit. At most one status is entered per change, so that each
//! status an order passes through is a durable state of its own.

mod accept;
mod callback;
mod cause;
mod command;
mod draft;
mod erase;
mod hold;
mod shown;
mod work;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use uuid::Uuid;

use crate::changed::Changed;
use crate::event::{Attempt, Event};
use crate::json::Json;
use crate::ledger::{HoldMove, LedgerLine};
use crate::order::Order;
use crate::order_type::{OrderType, Step};

pub use accept::{Submission, accept};
pub use draft::context;
pub use shown::shown;

/// What a decision may know besides the order: the time, a random number, and who is asking.
#[derive(Clone, Debug)]
pub struct Input {
    /// The present.
    pub now: Timestamp,
    /// A random number in 0..1, drawn by the caller; spreads retries.
    pub jitter: f64,
    /// Multiplies every retry's wait; 1 but for trying things out.
    pub wait_scale: f64,
    /// Who asks: `key:ID`, `local`, `engine`.
    pub by: Arc<str>,
}

/// Everything that one commit changes about an order.
#[derive(Clone, Debug)]
pub struct Change {
    /// The order afterwards. `head.commit_id` is still the old one: the engine gives each commit its id.
    pub order: Order,
    /// Whether `order.data` differs from before.
    pub data_changed: bool,
    /// What happened.
    pub events: Vec<Event>,
    /// The attempts that ended.
    pub attempts: Vec<Attempt>,
    /// How the order moves between lanes.
    pub lane: LaneMove,
    /// What moves in the ledger.
    pub ledger: Vec<LedgerLine>,
    /// The item that it puts into a queue.
    pub enqueue: Option<Enqueue>,
    /// Whether a claim on the order ends with this change: its attempt was answered, or has been fenced.
    pub ends_claim: bool,
}

/// How an order moves between lanes in one commit. Neither: it stays where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneMove {
    /// The lane that it leaves; the store promotes the next in the same commit.
    pub leave: Option<String>,
    /// The lane that it enters.
    pub enter: Option<LaneEntry>,
}

/// An item for a status's queue: programs outside learn from it that the order has entered the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enqueue {
    /// The queue.
    pub queue: Arc<str>,
    /// Items of one lane are handed out one after the other, in commit order.
    pub lane: String,
    /// Whether a dead letter holds its lane until it is redriven or discarded.
    pub parks: bool,
    /// How often it is handed out before it is a dead letter.
    pub attempts_max: u32,
}

/// An entry into a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneEntry {
    /// The lane.
    pub name: String,
    /// At the order's old position (a redriven order that had left) instead of at the end.
    pub resume: bool,
}

/// A command from outside.
#[derive(Clone, Debug)]
pub enum Command {
    /// Replace the data.
    Edit(Edit),
    /// Move to a status by hand, perhaps with new data.
    Transition {
        /// The declared name of the status.
        to: Arc<str>,
        /// Why.
        reason: Option<String>,
        /// The data to store with it.
        edit: Option<Edit>,
        /// Whether the attempt that is due may have begun (it cannot have while the order queues in its lane): it is
        /// fenced, and taken back like one that was made.
        begun: bool,
    },
    /// Cancel.
    Cancel {
        /// Why.
        reason: Option<String>,
        /// Whether an attempt is in flight: then the cancel waits until it has ended.
        in_flight: bool,
        /// Whether the attempt that is due may have begun, though nobody is at work on it now: its worker may have
        /// been lost. Then it is taken back like one that was made.
        begun: bool,
    },
    /// Put a dead letter back to work. The order type handed to [`decide`] is the one to go on with.
    Redrive {
        /// From where.
        from: RedriveFrom,
        /// The data to go on with.
        edit: Option<Edit>,
    },
    /// Give a dead letter up.
    Discard {
        /// Why.
        reason: String,
    },
    /// Write down an attempt whose token was no longer valid.
    RecordStale(Box<Attempt>),
    /// Write down a callback that came when nobody waited for it any more, by the secret that it came with.
    RecordLateCallback(Uuid),
    /// Say yes to the step that waits for a person.
    Approve {
        /// Why.
        reason: Option<String>,
    },
    /// Say no to it.
    Reject {
        /// Why.
        reason: String,
    },
    /// Erase what the order knows of its customer. An order that is erased already stays as it is.
    Erase,
}

/// New data, already validated against the schema.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The whole new data.
    pub data: Json,
    /// What differs.
    pub changed: Vec<Changed>,
}

/// Where a redrive takes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedriveFrom {
    /// At the step that was exhausted.
    FailedStep,
    /// At the initial status, after everything has been taken back.
    Start,
}

/// What an order that is due needs.
#[derive(Clone, Debug)]
pub enum Due<'a> {
    /// Nothing: it is not due, or was seen to already.
    Nothing,
    /// A change that needs nothing from outside.
    Change(Box<Change>),
    /// A step is to be run; [`report`] takes its outcome.
    Run(Run<'a>),
}

/// A step that is to be run.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// The step's name, also for its undo.
    pub name: Arc<str>,
    /// The step, or its undo step.
    pub step: &'a Step,
    /// The visit; for an undo, the visit that is taken back.
    pub visit: u32,
    /// The attempt.
    pub attempt: u32,
    /// Whether this takes the visit back.
    pub undo: bool,
    /// The bound of the attempt: the step's timeout, or what is left of the whole step's.
    pub timeout: Duration,
    /// Whether an earlier attempt of the visit may have happened, so that the step's question comes first.
    pub uncertain: bool,
}

/// What an attempt came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How.
    pub outcome: StepOutcome,
}

/// How a step answered.
#[derive(Clone, Debug)]
pub enum StepOutcome {
    /// Done, with what it leaves for later steps.
    Done {
        /// The result.
        result: Option<Json>,
    },
    /// Not done; another try may mend it.
    Failed {
        /// Why.
        reason: String,
        /// The soonest that the outside wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// No, for good.
    Refused {
        /// Why.
        reason: String,
    },
    /// Nobody knows: the worker was lost. Another try is made, as after a failure.
    Lost {
        /// Who was lost, and how that is known.
        reason: String,
    },
    /// It may have happened or not: no answer came, or it was lost on the way. Another try is made as after a failure,
    /// but the step's question comes first.
    Unknown {
        /// Why nobody knows.
        reason: String,
        /// The soonest that the outside wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It was taken on; the result comes later, as a callback.
    Waiting {
        /// The secret of the attempt's token, which the callback comes with.
        secret: Uuid,
    },
    /// Nothing was tried: the target takes no calls for now. This does not count as an attempt.
    Postponed {
        /// Why.
        reason: String,
        /// When to come again.
        after: Duration,
    },
}

/// Why a command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The type has no such status.
    #[error("there is no status `{status}`")]
    UnknownStatus {
        /// As it was asked for.
        status: String,
        /// The statuses that there are.
        known: Vec<Arc<str>>,
    },
    /// The status does not lead there.
    #[error("an order in `{from}` cannot become `{to}`")]
    IllegalTransition {
        /// Where it stands.
        from: Arc<str>,
        /// Where it was to go.
        to: Arc<str>,
        /// Where it may go.
        allowed: Vec<Arc<str>>,
    },
    /// The order is final.
    #[error("the order is final in `{status}`")]
    Final {
        /// Its status.
        status: Arc<str>,
    },
    /// Only a final order is erased: one that is at work still needs its data.
    #[error("the order is not final: it stands in `{status}`")]
    NotFinal {
        /// Its status.
        status: Arc<str>,
    },
    /// The order is taking back what it did.
    #[error("the order is taking back what its steps did")]
    Undoing,
    /// The type lets no one cancel from here.
    #[error("an order in `{status}` cannot be cancelled")]
    NotCancellable {
        /// Its status.
        status: Arc<str>,
        /// Where it may go.
        allowed: Vec<Arc<str>>,
    },
    /// Nobody is asked for a yes or no.
    #[error("the order waits for nobody's approval")]
    NoApproval {
        /// Its status.
        status: Arc<str>,
    },
    /// Only dead letters are redriven or discarded.
    #[error("the order is not a dead letter")]
    NotDead,
    /// After an undo there is nothing to go on from.
    #[error("the order's steps were taken back: it can only be redriven from the start")]
    OnlyFromStart,
    /// The order's status or step is not in the version that it was to go on with.
    #[error("this version of the type has no {what} `{name}`")]
    NotInThisVersion {
        /// `status` or `step`.
        what: &'static str,
        /// Its name.
        name: Arc<str>,
    },
    /// A required field is missing.
    #[error("`{status}` needs {}", .missing.iter().map(|field| field.field.as_str()).collect::<Vec<_>>().join(", "))]
    Requires {
        /// The status that needs it.
        status: Arc<str>,
        /// What is missing.
        missing: Vec<MissingField>,
    },
    /// The edit would change what is fixed at acceptance.
    #[error("{what} cannot change after acceptance")]
    Fixed {
        /// `the group key`, `the key`, `the customer`.
        what: &'static str,
        /// JSON pointer to it.
        pointer: String,
    },
    /// The stored data could not be read.
    #[error("the order's data could not be read: {0}")]
    Data(String),
}

/// A field that a status needs and the data lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingField {
    /// JSON pointer.
    pub field: String,
    /// What to tell the client, in the type's language.
    pub message: String,
}

/// What an order that is due needs.
pub fn due<'a>(order: &Order, order_type: &'a OrderType, input: &Input) -> Due<'a> {
    work::due(order, order_type, input)
}

/// What an order needs that queues behind others of its lane: nothing but what its deadline asks for. No step of its
/// present visit can have begun.
pub fn due_queued(order: &Order, order_type: &OrderType, input: &Input) -> Option<Change> {
    work::expire(order, order_type, input, false)
}

/// What an attempt's outcome does to its order. The caller has checked the attempt's token; `order` is as it now
/// stands, so an edit that came meanwhile is kept.
pub fn report(order: &Order, order_type: &OrderType, report: Report, input: &Input) -> Change {
    work::report(order, order_type, report, None, input)
}

/// [`report`] for a step that also moves what the order holds of the ledger; it does so only if the step is done.
pub fn report_with_hold(
    order: &Order,
    order_type: &OrderType,
    report: Report,
    hold: Option<HoldMove>,
    input: &Input,
) -> Change {
    work::report(order, order_type, report, hold, input)
}

/// What a callback does to its order: the outcome of the attempt that `secret` belongs to. The caller has checked that
/// the order waits for it, or that the attempt is still in flight: a receiver may be quicker than its own answer.
pub fn callback(order: &Order, order_type: &OrderType, secret: Uuid, report: Report, input: &Input) -> Change {
    callback::callback(order, order_type, secret, report, input)
}

/// What a command from outside does to an order.
pub fn decide(order: &Order, order_type: &OrderType, command: Command, input: &Input) -> Result<Change, Rejection> {
    command::decide(order, order_type, command, input)
}

/// What the data lacks to enter a status.
pub fn missing_fields(order_type: &OrderType, status: &str, data: &Value) -> Vec<MissingField> {
    let Some(status) = order_type.status(status) else {
        return Vec::new();
    };
    status
        .require
        .iter()
        .filter(|require| {
            data.pointer(&require.field)
                .is_none_or(|value| value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty()))
        })
        .map(|require| MissingField {
            field: require.field.clone(),
            message: require
                .message
                .clone()
                .unwrap_or_else(|| "is required for this status".to_owned()),
        })
        .collect()
}

pub(crate) fn later(now: Timestamp, span: Duration) -> Timestamp {
    SignedDuration::try_from(span)
        .ok()
        .and_then(|span| now.checked_add(span).ok())
        .unwrap_or(Timestamp::MAX)
}
