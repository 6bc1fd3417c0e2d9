//! A change in the making: the moves that every decision is built from — entering a status, beginning a step, taking
//! back, dying, settling — and the bookkeeping of events, attempts and lanes that goes with them.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::cause::cause;
use super::{Change, Enqueue, Input, LaneEntry, LaneMove, MissingField, Rejection, later, missing_fields, shown};
use crate::bounds::{DONE_MAX, TEXT_BYTES_MAX};
use crate::event::{Attempt, Event, EventKind};
use crate::ledger::LedgerLine;
use crate::order::{AfterUndo, DeadLetter, Done, DoneState, Lane, Order, Phase, StepAt, Work, WorkKind, bounded};
use crate::order_type::{Action, DeadLetterInLane, FifoScope, OrderType};
use crate::template::{comparable, from_json};

pub(super) struct Draft<'a> {
    pub(super) order: Order,
    pub(super) order_type: &'a OrderType,
    pub(super) input: &'a Input,
    pub(super) events: Vec<Event>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) lane: LaneMove,
    pub(super) ledger: Vec<LedgerLine>,
    pub(super) enqueue: Option<Enqueue>,
    pub(super) data_changed: bool,
    pub(super) ends_claim: bool,
}

impl<'a> Draft<'a> {
    pub(super) fn new(order: Order, order_type: &'a OrderType, input: &'a Input) -> Self {
        let mut draft = Self {
            order,
            order_type,
            input,
            events: Vec::new(),
            attempts: Vec::new(),
            lane: LaneMove::default(),
            ledger: Vec::new(),
            enqueue: None,
            data_changed: false,
            ends_claim: false,
        };
        draft.order.head.version += 1;
        draft.order.head.updated_at = input.now;
        draft
    }

    pub(super) fn finish(self) -> Change {
        Change {
            order: self.order,
            data_changed: self.data_changed,
            events: self.events,
            attempts: self.attempts,
            lane: self.lane,
            ledger: self.ledger,
            enqueue: self.enqueue,
            ends_claim: self.ends_claim,
        }
    }

    /// Writes down an event.
    pub(super) fn event(&mut self, kind: EventKind, by: Arc<str>, reason: Option<String>) -> &mut Event {
        self.order.head.events += 1;
        let event = Event {
            number: self.order.head.events,
            at: self.input.now,
            kind,
            from: None,
            to: None,
            by,
            reason: reason.map(|reason| bounded(reason, TEXT_BYTES_MAX)),
            changed: Vec::new(),
        };
        let index = self.events.len();
        self.events.push(event);
        &mut self.events[index]
    }

    /// Marks that what the outside sees of the order has changed.
    pub(super) fn touch(&mut self) {
        self.order.head.etag_version = self.order.head.version;
    }

    /// Enters a status for the outside: refuses if the data lacks what the status needs.
    pub(super) fn enter_checked(
        &mut self,
        to: &Arc<str>,
        by: Arc<str>,
        reason: Option<String>,
        take_back: bool,
    ) -> Result<(), Rejection> {
        let missing = self.missing(to)?;
        if !missing.is_empty() {
            return Err(Rejection::Requires {
                status: to.clone(),
                missing,
            });
        }
        self.enter(to, by, reason, take_back);
        Ok(())
    }

    /// Enters a status for the engine: an order that lacks what the status needs becomes a dead letter, because no
    /// client is there to be told.
    pub(super) fn enter_or_die(&mut self, to: &Arc<str>, by: Arc<str>, reason: Option<String>, take_back: bool) {
        match self.enter_checked(to, by, reason, take_back) {
            Ok(()) => {}
            Err(rejection) => {
                self.order.head.work.get_or_insert_with(advance_work).kind = WorkKind::Advance;
                self.die(format!("the next status is not possible: {rejection}"));
            }
        }
    }

    fn missing(&self, to: &str) -> Result<Vec<MissingField>, Rejection> {
        let Some(status) = self.order_type.status(to) else {
            return Ok(Vec::new());
        };
        let ahead = status
            .require_steps
            .iter()
            .filter(|require| self.is_ahead(&require.step));
        let mut missing: Vec<MissingField> = ahead
            .map(|require| MissingField {
                field: "/status".to_owned(),
                message: require
                    .message
                    .clone()
                    .unwrap_or_else(|| format!("the step `{}` is not done yet", require.step)),
            })
            .collect();
        if status.require.is_empty() {
            return Ok(missing);
        }
        let data = shown(self.order_type, &self.order)
            .value()
            .map_err(|error| Rejection::Data(error.to_string()))?;
        missing.extend(missing_fields(self.order_type, to, &data));
        Ok(missing)
    }

    /// Whether the order's status has yet to run this step, or is at it.
    fn is_ahead(&self, step: &str) -> bool {
        let from = match self.order.head.work.as_ref().map(|work| &work.kind) {
            Some(WorkKind::Step(at) | WorkKind::Wait(at) | WorkKind::Approval(at)) => at.index as usize,
            Some(WorkKind::Begin) => 0,
            Some(WorkKind::Advance | WorkKind::Undo(_)) | None => return false,
        };
        let status = self.order_type.status(&self.order.head.status);
        status.is_some_and(|status| status.steps.iter().skip(from).any(|ahead| **ahead == *step))
    }

    fn enter(&mut self, to: &Arc<str>, by: Arc<str>, reason: Option<String>, take_back: bool) {
        let from = std::mem::replace(&mut self.order.head.status, to.clone());
        let event = self.event(EventKind::StatusChanged, by, reason);
        event.from = Some(from);
        event.to = Some(to.clone());
        self.touch();
        self.enqueue();
        let Some(status) = self.order_type.status(to) else {
            return;
        };
        let take_back = take_back || status.undo;
        let head = &mut self.order.head;
        head.dead = None;
        head.intent = None;
        head.work = None;
        // While things are taken back the status's deadline does not run: settling sets it.
        head.status_until = None;
        if take_back && self.last_standing().is_some() {
            self.order.head.phase = Phase::Undoing;
            self.order.head.after_undo = Some(AfterUndo::Settle);
            self.undo_next();
        } else {
            self.settle();
        }
        self.stand_in_lane();
    }

    /// Puts an item into the queue of the status that the order has entered, if it has one.
    pub(super) fn enqueue(&mut self) {
        let order_type = self.order_type;
        let status = order_type.status(&self.order.head.status);
        let Some(queue) = status.and_then(|status| status.queue.as_ref()) else {
            return;
        };
        let accepted = &self.order.accepted;
        let lane = match &accepted.group {
            Some(group) => format!("{}\u{1f}{group}", accepted.order_type),
            None => accepted.id.to_string(),
        };
        let fifo = order_type.fifo.as_ref().filter(|_| accepted.group.is_some());
        self.enqueue = Some(Enqueue {
            queue: queue.name.clone(),
            lane,
            parks: fifo.is_some_and(|fifo| fifo.dead_letter == DeadLetterInLane::Park),
            attempts_max: queue.attempts,
        });
    }

    /// Begins what the status where the order stands asks for.
    pub(super) fn settle(&mut self) {
        let Some(status) = self.order_type.status(&self.order.head.status) else {
            return;
        };
        self.order.head.after_undo = None;
        self.order.head.status_until = status
            .deadline
            .as_ref()
            .map(|deadline| later(self.input.now, deadline.after));
        if status.is_final {
            self.end();
        } else if !status.steps.is_empty() {
            self.order.head.phase = Phase::Active;
            self.begin_step(0);
        } else {
            self.order.head.phase = Phase::Active;
            let work = (!status.next.is_empty()).then(|| Work {
                due_at: Some(self.input.now),
                ..advance_work()
            });
            self.order.head.work = work;
        }
    }

    /// The order is final where it stands. A final order holds nothing.
    pub(super) fn end(&mut self) {
        self.release_holds();
        let head = &mut self.order.head;
        head.phase = Phase::Final;
        head.work = None;
        head.status_until = None;
        head.dead = None;
        head.intent = None;
        head.after_undo = None;
        self.leave_lane();
    }

    /// A new visit to the step at this place of the status's list.
    pub(super) fn begin_step(&mut self, index: usize) {
        let Some(name) = self
            .order_type
            .status(&self.order.head.status)
            .and_then(|status| status.steps.get(index))
        else {
            return;
        };
        let at = StepAt {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            name: name.clone(),
        };
        self.begin_visit(WorkKind::Step(at));
    }

    pub(super) fn begin_visit(&mut self, kind: WorkKind) {
        let queue = self.queue_of(&kind);
        let head = &mut self.order.head;
        head.visits += 1;
        head.work = Some(Work {
            queue,
            kind,
            visit: head.visits,
            attempt: 1,
            round_start: 1,
            due_at: Some(self.input.now),
            last_error: None,
            uncertain: false,
            began_at: None,
            awaiting: None,
            held_back_since: None,
        });
    }

    /// The queue that work of this kind begins in. A step that has a condition is the engine's until that has been
    /// looked at.
    pub(super) fn queue_of(&self, kind: &WorkKind) -> Option<Arc<str>> {
        let step = match kind {
            WorkKind::Step(at) => self.order_type.steps.get(&at.name).filter(|step| step.when.is_none()),
            WorkKind::Undo(at) => self
                .order_type
                .steps
                .get(&at.name)
                .and_then(|step| step.undo.as_deref()),
            WorkKind::Begin | WorkKind::Advance | WorkKind::Wait(_) | WorkKind::Approval(_) => None,
        };
        match &step?.action {
            Action::Queue(name) => Some(name.clone()),
            _ => None,
        }
    }

    /// Goes on after the step at `index`: to the next step, the next status, or to waiting.
    pub(super) fn go_on_after(&mut self, index: usize, by: Arc<str>) {
        if let Some(intent) = self.order.head.intent.clone() {
            self.enter_or_die(&intent.to, intent.by, intent.reason, true);
            return;
        }
        let order_type = self.order_type;
        let Some(status) = order_type.status(&self.order.head.status) else {
            return;
        };
        if index + 1 < status.steps.len() {
            self.begin_step(index + 1);
        } else if status.next.is_empty() {
            self.order.head.work = None;
            if order_type
                .fifo
                .as_ref()
                .is_some_and(|fifo| fifo.scope == FifoScope::Status)
            {
                self.leave_lane();
            }
        } else {
            self.advance(by);
        }
    }

    /// Enters the status that `next` names.
    pub(super) fn advance(&mut self, by: Arc<str>) {
        let order_type = self.order_type;
        let Some(status) = order_type.status(&self.order.head.status) else {
            return;
        };
        let conditional = status.next.iter().any(|branch| branch.when.is_some());
        let context = if conditional {
            self.context()
        } else {
            Ok(minijinja::Value::UNDEFINED)
        };
        let chosen = context.and_then(|context| {
            for branch in &status.next {
                match &branch.when {
                    None => return Ok(Some(&branch.to)),
                    Some(when) => {
                        if when.holds(&context).map_err(|error| error.to_string())? {
                            return Ok(Some(&branch.to));
                        }
                    }
                }
            }
            Ok(None)
        });
        match chosen {
            Ok(Some(to)) => self.enter_or_die(to, by, None, false),
            Ok(None) => self.die_advancing("no branch of `next` holds".to_owned()),
            Err(reason) => self.die_advancing(reason),
        }
    }

    fn die_advancing(&mut self, reason: String) {
        self.order.head.work.get_or_insert_with(advance_work).kind = WorkKind::Advance;
        self.die(reason);
    }

    /// What conditions see: `id`, `key`, `status`, `data`, `steps`.
    pub(super) fn context(&self) -> Result<minijinja::Value, String> {
        facts(&self.order).map(|facts| comparable(&facts))
    }

    /// The order becomes a dead letter where it stands. Its work is kept, so that a redrive can take it up.
    pub(super) fn die(&mut self, reason: String) {
        let undo_failed = self.order.head.phase == Phase::Undoing;
        let reason = bounded(reason, TEXT_BYTES_MAX);
        let head = &mut self.order.head;
        let step: Arc<str> = head
            .work
            .as_ref()
            .and_then(|work| work.kind.step().cloned())
            .unwrap_or_else(|| "".into());
        let work = head.work.get_or_insert_with(advance_work);
        work.due_at = None;
        work.last_error = Some(reason.clone());
        head.phase = Phase::Dead;
        head.status_until = None;
        head.dead = Some(DeadLetter {
            at: self.input.now,
            cause: cause(&step, &reason),
            step: step.clone(),
            reason: reason.clone(),
            edited: false,
            undo_failed,
        });
        let kind = if undo_failed {
            EventKind::UndoFailed
        } else {
            EventKind::DeadLettered
        };
        let by = if step.is_empty() {
            "engine".into()
        } else {
            format!("step:{step}").into()
        };
        self.event(kind, by, Some(reason));
        if self
            .order_type
            .fifo
            .as_ref()
            .is_some_and(|fifo| fifo.dead_letter == DeadLetterInLane::Leave)
        {
            self.leave_lane();
        }
    }

    /// The last visit whose effect stands, or may stand.
    pub(super) fn last_standing(&self) -> Option<&Done> {
        self.order
            .head
            .done
            .iter()
            .rev()
            .find(|done| matches!(done.state, DoneState::Stands | DoneState::Unknown))
    }

    /// Takes back the last visit that stands, or goes on if none does.
    pub(super) fn undo_next(&mut self) {
        if let Some(done) = self.last_standing() {
            let at = StepAt {
                index: done.visit,
                name: done.step.clone(),
            };
            self.begin_visit(WorkKind::Undo(at));
            return;
        }
        self.order.head.work = None;
        self.event(EventKind::Undone, "engine".into(), None);
        match self.order.head.after_undo.take() {
            Some(AfterUndo::Restart) => self.restart(),
            Some(AfterUndo::End) => self.end(),
            Some(AfterUndo::Settle) | None => self.settle(),
        }
    }

    /// Begins again in the status in which the order was accepted; or goes where a cancel wants it that came before.
    pub(super) fn restart(&mut self) {
        self.order.head.done.clear();
        if let Some(intent) = self.order.head.intent.clone() {
            return self.enter_or_die(&intent.to, intent.by, intent.reason, false);
        }
        self.release_holds();
        let initial = self.order.accepted.status.clone();
        self.enter_or_die(
            &initial,
            self.input.by.clone(),
            Some("redriven from the start".to_owned()),
            false,
        );
    }

    /// Remembers a visit that may have to be taken back. Steps without an undo leave nothing to remember.
    pub(super) fn remember(&mut self, visit: u32, step: &Arc<str>, state: DoneState) {
        if self.order_type.steps.get(step).is_none_or(|step| step.undo.is_none()) {
            return;
        }
        let done = &mut self.order.head.done;
        // A visit can come to its end twice: done with a result that is too large, and then given up. It is remembered
        // once, as what is certain of it; else its undo would find the first entry again and again.
        if let Some(known) = done.iter_mut().find(|done| done.visit == visit) {
            if known.state != DoneState::Stands {
                known.state = state;
            }
            return;
        }
        if done.len() >= DONE_MAX {
            done.retain(|done| matches!(done.state, DoneState::Stands | DoneState::Unknown));
        }
        done.push(Done {
            visit,
            step: step.clone(),
            state,
        });
    }

    /// Gives up the attempt that is due, if it may have `begun`, and those before it. What they may have done is
    /// remembered as unknown, so that an undo takes it back.
    pub(super) fn fence(&mut self, begun: bool) {
        self.ends_claim = true;
        let Some(work) = self.order.head.work.clone() else {
            return;
        };
        self.end_callback();
        let WorkKind::Step(at) = &work.kind else { return };
        let dead = self.order.head.phase == Phase::Dead;
        if begun || dead || work.attempt > 1 || work.uncertain || work.awaiting.is_some() {
            self.remember(work.visit, &at.name, DoneState::Unknown);
        }
    }

    /// The order stands in the lane that its status asks for.
    pub(super) fn stand_in_lane(&mut self) {
        let Some(fifo) = &self.order_type.fifo else { return };
        let Some(group) = self.order.accepted.group.clone() else {
            return;
        };
        let head = &self.order.head;
        let status = self.order_type.status(&head.status);
        let type_name = &self.order.accepted.order_type;
        match fifo.scope {
            FifoScope::Life => {
                // Who begins again has taken its place already, while this status's work is still taken back.
                let restarts = head.after_undo == Some(AfterUndo::Restart);
                let released = status.is_some_and(|status| status.releases_lane) && !restarts;
                if head.phase == Phase::Final || released {
                    self.leave_lane();
                } else if head.lane.is_none() && head.phase != Phase::Scheduled {
                    self.enter_lane(format!("{type_name}\u{1f}{group}"), false);
                }
            }
            FifoScope::Status => {
                let wanted = head
                    .work
                    .is_some()
                    .then(|| format!("{type_name}\u{1f}{group}\u{1f}{}", head.status));
                let standing = head
                    .lane
                    .as_ref()
                    .filter(|lane| lane.standing)
                    .map(|lane| lane.name.clone());
                if wanted != standing {
                    self.leave_lane();
                    if let Some(name) = wanted {
                        self.enter_lane(name, false);
                    }
                }
            }
        }
    }

    pub(super) fn enter_lane(&mut self, name: String, resume: bool) {
        self.order.head.lane = Some(Lane {
            name: name.clone(),
            standing: true,
        });
        self.lane.enter = Some(LaneEntry { name, resume });
    }

    pub(super) fn leave_lane(&mut self) {
        if let Some(lane) = self.order.head.lane.as_mut().filter(|lane| lane.standing) {
            lane.standing = false;
            self.lane.leave = Some(lane.name.clone());
        }
    }
}

pub(super) fn advance_work() -> Work {
    Work {
        kind: WorkKind::Advance,
        visit: 0,
        attempt: 1,
        round_start: 1,
        due_at: None,
        last_error: None,
        queue: None,
        uncertain: false,
        began_at: None,
        awaiting: None,
        held_back_since: None,
    }
}

/// What templates see of an order.
pub fn context(order: &Order) -> Result<minijinja::Value, String> {
    facts(order).map(|facts| from_json(&facts))
}

/// What conditions and templates can read of an order.
fn facts(order: &Order) -> Result<Value, String> {
    let mut steps = Map::new();
    for (name, result) in &order.results {
        steps.insert(name.to_string(), result.value().map_err(|error| error.to_string())?);
    }
    let mut context = Map::new();
    context.insert("id".to_owned(), Value::String(order.id().to_string()));
    context.insert(
        "key".to_owned(),
        order.accepted.key.clone().map_or(Value::Null, Value::String),
    );
    context.insert(
        "customer".to_owned(),
        order.accepted.customer.clone().map_or(Value::Null, Value::String),
    );
    context.insert("type".to_owned(), Value::String(order.accepted.order_type.to_string()));
    context.insert("status".to_owned(), Value::String(order.head.status.to_string()));
    context.insert(
        "data".to_owned(),
        order.data.value().map_err(|error| error.to_string())?,
    );
    context.insert("steps".to_owned(), Value::Object(steps));
    Ok(Value::Object(context))
}
