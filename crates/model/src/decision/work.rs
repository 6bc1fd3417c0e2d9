//! Work: what an order that is due needs, and what the outcome of an attempt does to it.

use std::sync::Arc;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::draft::Draft;
use super::{Change, Due, Input, Rejection, Report, Run, StepOutcome, callback, later};
use crate::bounds::{HOLD_LINES_MAX, RESULT_BYTES_MAX, TEXT_BYTES_MAX};
use crate::event::{Attempt, EventKind, Outcome};
use crate::json::Json;
use crate::ledger::HoldMove;
use crate::order::{DoneState, Order, Phase, StepAt, Work, WorkKind, bounded};
use crate::order_type::{Action, Exhausted, OrderType, Step, WaitFor};

/// The least time that an attempt is given.
const TIMEOUT_MIN: Duration = Duration::from_millis(100);

pub(super) fn due<'a>(order: &Order, order_type: &'a OrderType, input: &Input) -> Due<'a> {
    let head = &order.head;
    let draft = || Draft::new(order.clone(), order_type, input);
    if head.hold_until().is_some_and(|until| until <= input.now) {
        let mut draft = draft();
        draft.ends_claim = true;
        draft.lapse();
        return Due::Change(Box::new(draft.finish()));
    }
    if matches!(head.phase, Phase::Dead | Phase::Final) {
        return Due::Nothing;
    }
    // Whether the attempt that is due had begun nobody knows: a worker that was lost leaves no trace.
    if let Some(change) = expire(order, order_type, input, true) {
        return Due::Change(Box::new(change));
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
    if let Some(awaiting) = &work.awaiting {
        let (step, _) = step_of(order_type, &work.kind);
        let expired = Report {
            started_at: awaiting.since,
            ended_at: input.now,
            outcome: StepOutcome::Unknown {
                reason: format!("no callback came within {:?}", callback::within(step)),
                retry_after: None,
            },
        };
        return Due::Change(Box::new(report(order, order_type, expired, None, input)));
    }
    match &work.kind {
        WorkKind::Begin => changed(&|draft| draft.begin()),
        WorkKind::Advance => changed(&|draft| draft.advance("engine".into())),
        WorkKind::Wait(at) => changed(&|draft| draft.complete(at, None)),
        WorkKind::Approval(at) => changed(&|draft| draft.unanswered(at)),
        WorkKind::Step(at) => due_step(order, order_type, input, at, work),
        WorkKind::Undo(at) => match order_type.steps.get(&at.name).and_then(|step| step.undo.as_deref()) {
            Some(step) => Due::Run(Run {
                name: at.name.clone(),
                step,
                visit: at.index,
                attempt: work.attempt,
                undo: true,
                timeout: timeout(step, work, input.now),
                uncertain: work.uncertain,
            }),
            None => changed(&|draft| draft.taken_back(at)),
        },
    }
}

/// What a deadline that has passed asks for. `begun`: whether the attempt that is due may have begun.
pub(super) fn expire(order: &Order, order_type: &OrderType, input: &Input, begun: bool) -> Option<Change> {
    let head = &order.head;
    head.status_until.filter(|until| *until <= input.now)?;
    let deadline = order_type
        .status(&head.status)
        .and_then(|status| status.deadline.as_ref());
    let mut draft = Draft::new(order.clone(), order_type, input);
    draft.order.head.status_until = None;
    match deadline.filter(|_| head.phase == Phase::Active) {
        Some(deadline) => {
            draft.fence(begun);
            draft.enter_or_die(&deadline.to, "deadline".into(), None, false);
        }
        // A deadline that the type does not know would make the order due for ever.
        None => draft.ends_claim = true,
    }
    Some(draft.finish())
}

fn due_step<'a>(order: &Order, order_type: &'a OrderType, input: &Input, at: &StepAt, work: &Work) -> Due<'a> {
    let mut draft = Draft::new(order.clone(), order_type, input);
    draft.ends_claim = true;
    let Some(step) = order_type.steps.get(&at.name) else {
        draft.die(format!("this version of the type has no step `{}`", at.name));
        return Due::Change(Box::new(draft.finish()));
    };
    // A visit that has begun is ended as it was begun, whatever an edit has made of its condition.
    let begun = work.began_at.is_some() || work.uncertain;
    if let Some(when) = step.when.as_ref().filter(|_| !begun) {
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
    if draft.has_lapsed() && !matches!(&step.action, Action::BuiltIn(built_in) if built_in.moves_holds()) {
        draft.take_again();
        return Due::Change(Box::new(draft.finish()));
    }
    if let Action::Queue(name) = &step.action {
        if let Some(work) = draft.order.head.work.as_mut() {
            work.queue = Some(name.clone());
        }
        return Due::Change(Box::new(draft.finish()));
    }
    if let Action::Approval { within } = &step.action {
        if let Some(work) = draft.order.head.work.as_mut() {
            work.kind = WorkKind::Approval(at.clone());
            work.due_at = within.map(|within| later(input.now, within));
            work.began_at = Some(input.now);
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
        visit: work.visit,
        attempt: work.attempt,
        undo: false,
        timeout: timeout(step, work, input.now),
        uncertain: work.uncertain,
    })
}

/// The bound of one attempt: what is left of the whole step's time, if that is less. At least a moment, since an attempt
/// was allowed when it was planned.
fn timeout(step: &Step, work: &Work, now: Timestamp) -> Duration {
    let left = step.timeout_total.zip(work.began_at).map(|(total, began_at)| {
        let left = later(began_at, total).duration_since(now);
        Duration::try_from(left).unwrap_or_default().max(TIMEOUT_MIN)
    });
    left.map_or(step.timeout, |left| left.min(step.timeout))
}

/// The step that work is about, or its undo, and whether it is the undo.
fn step_of<'a>(order_type: &'a OrderType, kind: &WorkKind) -> (Option<&'a Step>, bool) {
    let step = kind.step().and_then(|name| order_type.steps.get(name));
    match kind {
        WorkKind::Undo(_) => (step.and_then(|step| step.undo.as_deref()), true),
        _ => (step, false),
    }
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

/// Whether an attempt that begins then is still within the time of the whole step.
fn is_in_time(step: &Step, work: &Work, due_at: Timestamp) -> bool {
    let end = step.timeout_total.zip(work.began_at);
    end.is_none_or(|(total, began_at)| due_at < later(began_at, total))
}

fn by_step(name: &str) -> Arc<str> {
    format!("step:{name}").into()
}

pub(super) fn report(
    order: &Order,
    order_type: &OrderType,
    report: Report,
    hold: Option<HoldMove>,
    input: &Input,
) -> Change {
    let mut draft = Draft::new(order.clone(), order_type, input);
    draft.ends_claim = true;
    let Some(work) = order.head.work.clone() else {
        return draft.finish();
    };
    let (step, undo) = step_of(order_type, &work.kind);
    let at = match work.kind {
        WorkKind::Step(at) | WorkKind::Wait(at) | WorkKind::Approval(at) | WorkKind::Undo(at) => at,
        WorkKind::Begin | WorkKind::Advance => return draft.finish(),
    };
    if let Some(work) = draft.order.head.work.as_mut() {
        work.began_at.get_or_insert(report.started_at);
        if !matches!(report.outcome, StepOutcome::Postponed { .. }) {
            work.held_back_since = None;
        }
    }
    draft.end_callback();
    let (outcome, reason, result) = match &report.outcome {
        StepOutcome::Postponed { reason, after } => {
            draft.postpone(&at, undo, step, reason.clone(), *after);
            return draft.finish();
        }
        StepOutcome::Waiting { secret } => {
            draft.await_callback(*secret, report.started_at, step);
            // Who asked for the order meanwhile does not wait for a callback: what may happen is taken back.
            if let Some(intent) = draft.order.head.intent.clone().filter(|_| !undo) {
                draft.fence(true);
                draft.enter_or_die(&intent.to, intent.by, intent.reason, true);
            }
            return draft.finish();
        }
        StepOutcome::Unknown { reason, .. } => (Outcome::Unknown, Some(reason.clone()), None),
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
    if let (StepOutcome::Done { .. }, false, Some(hold)) = (&report.outcome, oversized, hold) {
        let too_many = matches!(&hold, HoldMove::Take { lines, .. } if lines.len() > draft.hold_lines_left());
        if too_many {
            // Nothing has happened: the lines would have been moved by this very change.
            draft.refused(
                &at,
                format!("an order can hold at most {HOLD_LINES_MAX} different items"),
            );
            return draft.finish();
        }
        draft.move_holds(hold, work.visit);
    }
    let intent = order.head.intent.is_some();
    match report.outcome {
        // What an undo answers nobody reads.
        StepOutcome::Done { .. } if undo => draft.taken_back(&at),
        StepOutcome::Done { .. } if oversized && !intent => {
            // The step has happened, so it is neither tried again nor forgotten.
            draft.remember(work.visit, &at.name, DoneState::Stands);
            draft.die(format!(
                "the result of `{}` is larger than {RESULT_BYTES_MAX} bytes",
                at.name
            ));
        }
        StepOutcome::Done { result } => {
            draft.remember(work.visit, &at.name, DoneState::Stands);
            draft.complete(&at, result.filter(|_| !oversized));
        }
        StepOutcome::Failed { reason, retry_after } => draft.failed(&at, undo, step, reason, retry_after),
        StepOutcome::Unknown { reason, retry_after } => {
            if let Some(work) = draft.order.head.work.as_mut() {
                work.uncertain = true;
            }
            draft.failed(&at, undo, step, reason, retry_after);
        }
        StepOutcome::Lost { reason } => {
            // Whoever was lost may have done it.
            if let Some(work) = draft.order.head.work.as_mut() {
                work.uncertain = true;
            }
            draft.failed(&at, undo, step, reason, None);
        }
        // Answered above.
        StepOutcome::Postponed { .. } | StepOutcome::Waiting { .. } => {}
        // The receiver of an undo has no "no": whatever it refuses, the effect still stands.
        StepOutcome::Refused { reason } if undo => draft.die(format!("the undo was refused: {reason}")),
        StepOutcome::Refused { reason } => {
            // The refusal speaks for its own attempt; an earlier one may still have happened.
            if work.uncertain {
                draft.remember(work.visit, &at.name, DoneState::Unknown);
            }
            draft.refused(&at, reason);
        }
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

    fn failed(&mut self, at: &StepAt, undo: bool, step: Option<&Step>, reason: String, retry_after: Option<Duration>) {
        let Some((step, work)) = step.zip(self.order.head.work.as_mut()) else {
            return self.die(format!("this version of the type has no step `{}`", at.name));
        };
        let tries = work.attempt - work.round_start + 1;
        let wait = step.retry.wait(tries, self.input.jitter).mul_f64(self.input.wait_scale);
        let due_at = later(self.input.now, wait.max(retry_after.unwrap_or_default()));
        let in_time = is_in_time(step, work, due_at);
        if tries < step.retry.attempts && in_time && (undo || self.order.head.intent.is_none()) {
            work.attempt += 1;
            work.due_at = Some(due_at);
            work.last_error = Some(bounded(reason, TEXT_BYTES_MAX));
            return;
        }
        let reason = match step.timeout_total {
            Some(total) if !in_time => format!("{reason} (no more tries within {total:?})"),
            _ => reason,
        };
        self.exhausted(at, undo, step, reason);
    }

    /// The target takes no calls for now: the same attempt is made later.
    fn postpone(&mut self, at: &StepAt, undo: bool, step: Option<&Step>, reason: String, after: Duration) {
        let Some((step, work)) = step.zip(self.order.head.work.as_mut()) else {
            return self.die(format!("this version of the type has no step `{}`", at.name));
        };
        let due_at = later(self.input.now, after);
        if is_in_time(step, work, due_at) && (undo || self.order.head.intent.is_none()) {
            work.due_at = Some(due_at);
            work.last_error = Some(bounded(reason, TEXT_BYTES_MAX));
            work.held_back_since.get_or_insert(self.input.now);
            return;
        }
        self.exhausted(at, undo, step, reason);
    }

    /// The outside never answered well within the attempts, or within the time.
    fn exhausted(&mut self, at: &StepAt, undo: bool, step: &Step, reason: String) {
        let Some(work) = self.order.head.work.as_ref() else {
            return;
        };
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

    /// A person said yes: the step is done, and leaves who it was.
    pub(super) fn approve(&mut self, reason: Option<String>) -> Result<(), Rejection> {
        let at = self.asked()?;
        let by = self.input.by.clone();
        let mut answer = serde_json::Map::from_iter([("by".to_owned(), Value::from(&*by))]);
        if let Some(reason) = &reason {
            answer.insert(
                "reason".to_owned(),
                Value::from(bounded(reason.clone(), TEXT_BYTES_MAX)),
            );
        }
        let result = Json::from_valid(Value::Object(answer).to_string());
        self.event(EventKind::Approved, by, reason);
        self.answered(&at, Outcome::Done, None, Some(result.clone()));
        if let Some(visit) = self.order.head.work.as_ref().map(|work| work.visit) {
            self.remember(visit, &at.name, DoneState::Stands);
        }
        self.complete(&at, Some(result));
        Ok(())
    }

    /// A person said no: as if the step had been refused.
    pub(super) fn reject(&mut self, reason: String) -> Result<(), Rejection> {
        let at = self.asked()?;
        self.event(EventKind::Rejected, self.input.by.clone(), Some(reason.clone()));
        self.answered(&at, Outcome::Refused, Some(reason.clone()), None);
        self.refused(&at, reason);
        Ok(())
    }

    fn asked(&mut self) -> Result<StepAt, Rejection> {
        let asked = self.approval().ok_or_else(|| Rejection::NoApproval {
            status: self.order.head.status.clone(),
        })?;
        self.ends_claim = true;
        Ok(asked)
    }

    /// Nobody said yes or no in time.
    fn unanswered(&mut self, at: &StepAt) {
        let reason = "nobody approved or rejected it in time".to_owned();
        self.answered(at, Outcome::Failed, Some(reason.clone()), None);
        let order_type = self.order_type;
        match order_type.steps.get(&at.name) {
            Some(step) => self.exhausted(at, false, step, reason),
            None => self.die(reason),
        }
    }

    /// Writes down the attempt of a step that a person answered, or did not.
    fn answered(&mut self, at: &StepAt, outcome: Outcome, reason: Option<String>, result: Option<Json>) {
        let Some(work) = self.order.head.work.clone() else {
            return;
        };
        self.order.head.attempts += 1;
        self.attempts.push(Attempt {
            number: self.order.head.attempts,
            visit: work.visit,
            attempt: work.attempt,
            step: at.name.clone(),
            undo: false,
            started_at: work.began_at.unwrap_or(self.input.now),
            ended_at: self.input.now,
            outcome,
            reason: reason.map(|reason| bounded(reason, TEXT_BYTES_MAX)),
            result,
        });
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
