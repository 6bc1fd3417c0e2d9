//! Callbacks: an attempt that was taken on outside (`202`) waits for its result without holding a worker, and ends with
//! the callback, or with the time for it.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::draft::Draft;
use super::{Change, Input, Report, later, work};
use crate::bounds::PAST_CALLBACKS_MAX;
use crate::event::{Attempt, Outcome};
use crate::order::{Awaiting, Order, PastCallback, StepAt, Work, WorkKind};
use crate::order_type::{Action, OrderType, Step};

/// How long a callback may take where the step does not say.
const WITHIN: Duration = Duration::from_secs(60 * 60);

pub(super) fn callback(order: &Order, order_type: &OrderType, secret: Uuid, report: Report, input: &Input) -> Change {
    let visited = order.head.work.clone();
    let mut change = work::report(order, order_type, report, None, input);
    if let Some(past) = visited.and_then(|work| past_callback(&work, secret)) {
        remember(&mut change.order, past);
    }
    change
}

/// How long a step's callback may take.
pub(super) fn within(step: Option<&Step>) -> Duration {
    match step.map(|step| &step.action) {
        Some(Action::Http(call)) => call.callback.unwrap_or(WITHIN),
        Some(Action::Rust(rust)) => rust.callback.unwrap_or(WITHIN),
        _ => WITHIN,
    }
}

fn past_callback(work: &Work, secret: Uuid) -> Option<PastCallback> {
    let (at, undo) = match &work.kind {
        WorkKind::Step(at) => (at, false),
        WorkKind::Undo(at) => (at, true),
        WorkKind::Begin | WorkKind::Advance | WorkKind::Wait(_) | WorkKind::Approval(_) => return None,
    };
    Some(PastCallback {
        secret,
        visit: if undo { at.index } else { work.visit },
        attempt: work.attempt,
        step: at.name.clone(),
        undo,
        recorded: false,
    })
}

fn remember(order: &mut Order, past: PastCallback) {
    let known = &mut order.head.past_callbacks;
    if known.iter().any(|known| known.secret == past.secret) {
        return;
    }
    if known.len() >= PAST_CALLBACKS_MAX {
        known.remove(0);
    }
    known.push(past);
}

impl Draft<'_> {
    /// The outside has taken the attempt on: its result is waited for.
    pub(super) fn await_callback(&mut self, secret: Uuid, since: Timestamp, step: Option<&Step>) {
        let until = later(self.input.now, within(step));
        if let Some(work) = self.order.head.work.as_mut() {
            work.awaiting = Some(Awaiting { secret, since });
            work.due_at = Some(until);
        }
    }

    /// The callback that is waited for, if any, is over: one that comes now is late.
    pub(super) fn end_callback(&mut self) {
        let Some(work) = self.order.head.work.as_mut() else {
            return;
        };
        let Some(awaiting) = work.awaiting.take() else { return };
        if let Some(past) = past_callback(work, awaiting.secret) {
            remember(&mut self.order, past);
        }
    }

    /// Writes down a callback that came too late: once, however often it is repeated.
    pub(super) fn record_late_callback(&mut self, secret: Uuid) {
        let now = self.input.now;
        let head = &mut self.order.head;
        let past = head.past_callbacks.iter_mut().find(|past| past.secret == secret);
        let Some(past) = past.filter(|past| !past.recorded) else {
            return;
        };
        past.recorded = true;
        head.attempts += 1;
        let attempt = Attempt {
            number: head.attempts,
            visit: past.visit,
            attempt: past.attempt,
            step: past.step.clone(),
            undo: past.undo,
            started_at: now,
            ended_at: now,
            outcome: Outcome::Stale,
            reason: Some("its callback came when nobody waited for it any more".to_owned()),
            result: None,
        };
        self.attempts.push(attempt);
    }

    /// The step that a person is asked about.
    pub(super) fn approval(&self) -> Option<StepAt> {
        match self.order.head.work.as_ref().map(|work| &work.kind) {
            Some(WorkKind::Approval(at)) if self.order.head.dead.is_none() => Some(at.clone()),
            _ => None,
        }
    }
}
