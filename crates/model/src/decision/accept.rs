//! Acceptance: how a submission becomes an order.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::draft::{Draft, advance_work};
use super::{Change, Input, Rejection, missing_fields};
use crate::event::EventKind;
use crate::id::{CommitId, OrderId};
use crate::json::{Json, scalar_text};
use crate::order::{Acceptance, Head, Order, Phase, Work, WorkKind};
use crate::order_type::{Initial, OrderType};

/// What is to be accepted. The data has been validated against the type's schema and rules.
#[derive(Clone, Debug)]
pub struct Submission<'a> {
    /// The new order's id.
    pub id: OrderId,
    /// The client's own id, where it stands beside the data and not in it.
    pub key: Option<String>,
    /// The data, as sent.
    pub data: Json,
    /// The same, parsed.
    pub value: &'a Value,
    /// The status to begin in, as the outside spelled it; only types whose `initial` comes from the submission
    /// leave a choice.
    pub status: Option<String>,
    /// When to begin; in the past or absent: now.
    pub due_at: Option<Timestamp>,
    /// The trace context of the request.
    pub traceparent: Option<String>,
}

/// Accepts a submission: the change that makes the order.
pub fn accept(order_type: &OrderType, submission: Submission<'_>, input: &Input) -> Result<Change, Rejection> {
    let value = submission.value;
    let status = initial_status(order_type, submission.status.as_deref())?;
    let missing = missing_fields(order_type, &status, value);
    if !missing.is_empty() {
        return Err(Rejection::Requires { status, missing });
    }
    let text_at = |pointer: &Option<String>| pointer.as_ref().and_then(|at| value.pointer(at)).and_then(scalar_text);
    let scheduled = submission.due_at.filter(|due_at| *due_at > input.now);
    let accepted = Acceptance {
        id: submission.id,
        order_type: order_type.name.clone(),
        key: submission.key.or_else(|| text_at(&order_type.key)),
        customer: text_at(&order_type.customer),
        group: order_type.group_key(value),
        status: status.clone(),
        at: input.now,
        traceparent: submission.traceparent,
    };
    let head = Head {
        type_hash: order_type.hash,
        status: status.clone(),
        phase: Phase::Scheduled,
        version: 0,
        etag_version: 0,
        commit_id: CommitId(Uuid::nil()),
        updated_at: input.now,
        events: 0,
        attempts: 0,
        visits: 0,
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
    let order = Order {
        accepted: Arc::new(accepted),
        head,
        data: submission.data,
        results: Vec::new(),
    };
    let mut draft = Draft::new(order, order_type, input);
    draft.data_changed = true;
    draft.event(EventKind::Accepted, input.by.clone(), None).to = Some(status);
    draft.touch();
    if let Some(due_at) = scheduled {
        draft.order.head.work = Some(Work {
            kind: WorkKind::Begin,
            due_at: Some(due_at),
            ..advance_work()
        });
    } else {
        draft.begin();
    }
    Ok(draft.finish())
}

impl Draft<'_> {
    /// The order begins in the status in which it was accepted.
    pub(super) fn begin(&mut self) {
        self.enqueue();
        self.settle();
        self.stand_in_lane();
    }
}

fn initial_status(order_type: &OrderType, asked: Option<&str>) -> Result<Arc<str>, Rejection> {
    let unknown = |status: &str| Rejection::UnknownStatus {
        status: status.to_owned(),
        known: order_type.statuses.keys().cloned().collect(),
    };
    match (&order_type.initial, asked) {
        (Initial::Status(status), None) => Ok(status.clone()),
        (Initial::Status(status), Some(asked)) if order_type.resolve_status(asked) == Some(status) => {
            Ok(status.clone())
        }
        (Initial::Status(status), Some(asked)) => match order_type.resolve_status(asked) {
            Some(known) => Err(Rejection::IllegalTransition {
                from: status.clone(),
                to: known.clone(),
                allowed: vec![status.clone()],
            }),
            None => Err(unknown(asked)),
        },
        (Initial::From { .. }, Some(asked)) => order_type.resolve_status(asked).cloned().ok_or_else(|| unknown(asked)),
        (
            Initial::From {
                default: Some(status), ..
            },
            None,
        ) => Ok(status.clone()),
        (Initial::From { .. }, None) => Err(unknown("")),
    }
}
