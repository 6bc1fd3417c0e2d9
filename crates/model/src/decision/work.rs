//! Work: what an order that is due needs, and what the outcome of an attempt does to it.

use std::sync::Arc;

use jiff::Timestamp;

use super::draft::Draft;
use super::{Change, Due, Input, Report, Run, StepOutcome, later};
use crate::bounds::{RESULT_BYTES_MAX, TEXT_BYTES_MAX};
use crate::event::{Attempt, Outcome};
use crate::json::Json;
use crate::order::{DoneState, Order, Phase, StepAt, WorkKind, bounded};
use crate::order_type::{Action, Exhausted, OrderType, Step, WaitFor};

pub(super) fn due<'a>(order: &Order, order_type: &'a OrderType, input: &Input) -> Due<'a> {
    let head = &order.head;
    if matches!(head.phase, Phase::Dead | Phase::Final) {
        return Due::Nothing;
    }
    let draft = || Draft::new(order.clone(), order_type, input);
    let deadline_passed = head.status_until.is_some_and(|until| until <= input.now);
    if deadline_passed {
        let deadline = order_type
            .status(&head.status)
            .and_then(|status| status.deadline.as_ref());
        let mut draft = draft();
        draft.order.head.status_until = None;
        match deadline.filter(|_| head.phase == Phase::Active) {
            Some(deadline) => {
                // A worker from outside whose lease has ended may have done it all the same.
                let in_queue = draft.order.head.work.as_ref().is_some_and(|work| work.queue.is_some());
                draft.fence(in_queue);
                draft.enter_or_die(&deadline.to, "deadline".into(), None, false);
            }
            // A deadline that the type does not know would make the order due for ever.
            None => draft.ends_claim = true,
        }
        return Due::Change(Box::new(draft.finish()));
    }
    let Some(work) = head
        .work
        .as_ref()
        .filter(|work| work.due_at.is_some_and(|due_at| due_at <= input.now))
    else {
        return Due::Nothing;
    };
    if let (Some(intent), false) = (&head.intent, matches!(work.kind, WorkKind::Undo(_))) {
        // The attempt that the intent waited for is over without an answer: its worker was lost.
        let intent = intent.clone();
        let mut draft = draft();
        draft.fence(true);
        draft.enter_or_die(&intent.to, intent.by, intent.reason, true);
        return Due::Change(Box::new(draft.finish()));
    }
    if work.queue.is_some() {
        return Due::Nothing;
    }
    let changed = |change: &dyn Fn(&mut Draft<'_>)| {
        let mut draft = draft();
        draft.ends_claim = true;
        change(&mut draft);
        Due::Change(Box::new(draft.finish()))
    };
    match &work.kind {
        WorkKind::Begin => changed(&|draft| draft.begin()),
        WorkKind::Advance => changed(&|draft| draft.advance("engine".into())),
        WorkKind::Wait(at) => changed(&|draft| draft.complete(at, None)),
        WorkKind::Step(at) => due_step(order, order_type, input, at, work.visit, work.attempt),
        WorkKind::Undo(at) => match order_type.steps.get(&at.name).and_then(|step| step.undo.as_deref()) {
            Some(step) => Due::Run(Run {
                name: at.name.clone(),
                step,
                visit: at.index,
                attempt: work.attempt,
                undo: true,
            }),
            None => changed(&|draft| draft.taken_back(at)),
        },
    }
}

fn due_step<'a>(
    order: &Order,
    order_type: &'a OrderType,
    input: &Input,
    at: &StepAt,
    visit: u32,
    attempt: u32,
) -> Due<'a> {
    let mut draft = Draft::new(order.clone(), order_type, input);
    draft.ends_claim = true;
    let Some(step) = order_type.steps.get(&at.name) else {
        draft.die(format!("this version of the type has no step `{}`", at.name));
        return Due::Change(Box::new(draft.finish()));
    };
    if let Some(when) = &step.when {
        let holds = draft
            .context()
            .and_then(|context| when.holds(&context).map_err(|error| error.to_string()));
        match holds {
            Ok(true) => {}
            Ok(false) => {
                draft.go_on_after(at.index as usize, by_step(&at.name));
                return Due::Change(Box::new(draft.finish()));
            }
            Err(reason) => {
                draft.die(reason);
                return Due::Change(Box::new(draft.finish()));
            }
        }
    }
    if let Action::Queue(name) = &step.action {
        if let Some(work) = draft.order.head.work.as_mut() {
            work.queue = Some(name.clone());
        }
        return Due::Change(Box::new(draft.finish()));
    }
    if let Action::Wait(wait) = &step.action {
        match wait_until(order, wait, input.now) {
            Ok(until) => {
                if let Some(work) = draft.order.head.work.as_mut() {
                    work.kind = WorkKind::Wait(at.clone());
                    work.due_at = Some(until);
                }
            }
            Err(reason) => draft.die(reason),
        }
        return Due::Change(Box::new(draft.finish()));
    }
    Due::Run(Run {
        name: at.name.clone(),
        step,
        visit,
        attempt,
        undo: false,
    })
}

fn wait_until(order: &Order, wait: &WaitFor, now: Timestamp) -> Result<Timestamp, String> {
    match wait {
        WaitFor::Span(span) => Ok(later(now, *span)),
        WaitFor::Until(pointer) => {
            let data = order.data.value().map_err(|error| error.to_string())?;
            let text = data
                .pointer(pointer)
                .and_then(|value| value.as_str().map(str::to_owned));
            let text = text.ok_or_else(|| format!("the time to wait for, {pointer}, is not there"))?;
            text.parse()
                .map_err(|error| format!("the time to wait for, {pointer}, is no RFC 3339 time: {error}"))
        }
    }
}

fn by_step(name: &str) -> Arc<str> {
    format!("step:{name}").into()
}

pub(super) fn report(order: &Order, order_type: &OrderType, report: Report, input: &Input) -> Change {
    let mut draft = Draft::new(order.clone(), order_type, input);
    draft.ends_claim = true;
    let Some(work) = order.head.work.clone() else {
        return draft.finish();
    };
    let (at, undo) = match work.kind {
        WorkKind::Step(at) | WorkKind::Wait(at) => (at, false),
        WorkKind::Undo(at) => (at, true),
        WorkKind::Begin | WorkKind::Advance => return draft.finish(),
    };
    let step = order_type.steps.get(&at.name);
    let step = if undo {
        step.and_then(|step| step.undo.as_deref())
    } else {
        step
    };
    let (outcome, reason, result) = match &report.outcome {
        StepOutcome::Done { result } => (Outcome::Done, None, result.clone()),
        StepOutcome::Failed { reason, .. } => (Outcome::Failed, Some(reason.clone()), None),
        StepOutcome::Refused { reason } => (Outcome::Refused, Some(reason.clone()), None),
        StepOutcome::Lost { reason } => (Outcome::Lost, Some(reason.clone()), None),
    };
    let oversized = result
        .as_ref()
        .is_some_and(|result| result.as_str().len() > RESULT_BYTES_MAX);
    draft.order.head.attempts += 1;
    draft.attempts.push(Attempt {
        number: draft.order.head.attempts,
        visit: if undo { at.index } else { work.visit },
        attempt: work.attempt,
        step: at.name.clone(),
        undo,
        started_at: report.started_at,
        ended_at: report.ended_at,
        outcome,
        reason: reason.clone().map(|reason| bounded(reason, TEXT_BYTES_MAX)),
        result: result.clone().filter(|_| !oversized),
    });
    match report.outcome {
        StepOutcome::Done { .. } if oversized => {
            // The step has happened, so it is neither tried again nor forgotten.
            draft.remember(work.visit, &at.name, DoneState::Stands);
            draft.die(format!(
                "the result of `{}` is larger than {RESULT_BYTES_MAX} bytes",
                at.name
            ));
        }
        StepOutcome::Done { .. } if undo => draft.taken_back(&at),
        StepOutcome::Done { result } => {
            draft.remember(work.visit, &at.name, DoneState::Stands);
            draft.complete(&at, result);
        }
        StepOutcome::Failed { reason, retry_after } => draft.failed(&at, undo, step, reason, retry_after),
        StepOutcome::Lost { reason } => draft.failed(&at, undo, step, reason, None),
        // The receiver of an undo has no "no": whatever it refuses, the effect still stands.
        StepOutcome::Refused { reason } if undo => draft.die(format!("the undo was refused: {reason}")),
        StepOutcome::Refused { reason } => draft.refused(&at, reason),
    }
    draft.finish()
}

impl Draft<'_> {
    /// A step is done: go on.
    fn complete(&mut self, at: &StepAt, result: Option<Json>) {
        if let Some(result) = result {
            self.order.results.retain(|(name, _)| *name != at.name);
            self.order.results.push((at.name.clone(), result));
        }
        self.go_on_after(at.index as usize, by_step(&at.name));
    }

    /// An undo is done: take back the one before.
    fn taken_back(&mut self, at: &StepAt) {
        if let Some(done) = self.order.head.done.iter_mut().find(|done| done.visit == at.index) {
            done.state = DoneState::Undone;
        }
        self.order.results.retain(|(name, _)| *name != at.name);
        self.undo_next();
        self.stand_in_lane();
    }

    fn failed(
        &mut self,
        at: &StepAt,
        undo: bool,
        step: Option<&Step>,
        reason: String,
        retry_after: Option<std::time::Duration>,
    ) {
        let Some((step, work)) = step.zip(self.order.head.work.as_mut()) else {
            return self.die(format!("this version of the type has no step `{}`", at.name));
        };
        let tries = work.attempt - work.round_start + 1;
        if tries < step.retry.attempts && (undo || self.order.head.intent.is_none()) {
            let wait = step.retry.wait(tries, self.input.jitter).mul_f64(self.input.wait_scale);
            work.attempt += 1;
            work.due_at = Some(later(self.input.now, wait.max(retry_after.unwrap_or_default())));
            work.last_error = Some(bounded(reason, TEXT_BYTES_MAX));
            return;
        }
        if undo {
            return self.die(reason);
        }
        let visit = work.visit;
        if let Some(intent) = self.order.head.intent.clone() {
            self.remember(visit, &at.name, DoneState::Unknown);
            return self.enter_or_die(&intent.to, intent.by, intent.reason, true);
        }
        match step.exhausted {
            Exhausted::DeadLetter => self.die(reason),
            Exhausted::Undo => {
                self.remember(visit, &at.name, DoneState::Unknown);
                self.refused(at, reason);
            }
        }
    }

    fn refused(&mut self, at: &StepAt, reason: String) {
        if let Some(intent) = self.order.head.intent.clone() {
            return self.enter_or_die(&intent.to, intent.by, intent.reason, true);
        }
        match self.order_type.refused_from(&self.order.head.status).cloned() {
            Some(to) => self.enter_or_die(&to, by_step(&at.name), Some(reason), true),
            None => self.die(format!("refused: {reason}")),
        }
    }
}
