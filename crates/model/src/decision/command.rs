//! Commands from outside: edits, transitions by hand, cancel, redrive, discard.

use std::sync::Arc;

use serde_json::Value;

use super::draft::Draft;
use super::{Change, Command, Edit, Input, RedriveFrom, Rejection, later};
use crate::changed::{Changed, TYPE_VERSION};
use crate::event::EventKind;
use crate::id::TypeHash;
use crate::json::{Json, scalar_text};
use crate::order::{AfterUndo, DoneState, Intent, Order, Phase, StepAt, WorkKind};
use crate::order_type::OrderType;

pub(super) fn decide(
    order: &Order,
    order_type: &OrderType,
    command: Command,
    input: &Input,
) -> Result<Change, Rejection> {
    let mut draft = Draft::new(order.clone(), order_type, input);
    match command {
        Command::Edit(edit) => draft.edit(edit)?,
        Command::Transition {
            to,
            reason,
            edit,
            begun,
        } => draft.transition(&to, reason, edit, begun)?,
        Command::Cancel {
            reason,
            in_flight,
            begun,
        } => draft.cancel(reason, in_flight, begun)?,
        Command::Redrive { from, edit } => draft.redrive(from, edit)?,
        Command::Discard { reason } => draft.discard(reason)?,
        Command::RecordStale(mut attempt) => {
            draft.order.head.attempts += 1;
            attempt.number = draft.order.head.attempts;
            draft.attempts.push(*attempt);
        }
        Command::RecordLateCallback(secret) => draft.record_late_callback(secret),
        Command::Approve { reason } => draft.approve(reason)?,
        Command::Reject { reason } => draft.reject(reason)?,
        Command::Erase => draft.erase()?,
    }
    Ok(draft.finish())
}

impl Draft<'_> {
    fn edit(&mut self, edit: Edit) -> Result<(), Rejection> {
        if self.order.head.phase == Phase::Final {
            return Err(Rejection::Final {
                status: self.order.head.status.clone(),
            });
        }
        let value = edit.data.value().map_err(|error| Rejection::Data(error.to_string()))?;
        self.refuse_change_of_what_is_fixed(&value)?;
        self.order.data = edit.data;
        self.data_changed = true;
        if let Some(dead) = self.order.head.dead.as_mut() {
            dead.edited = true;
        }
        self.touch();
        self.event(EventKind::Edited, self.input.by.clone(), None).changed = edit.changed;
        Ok(())
    }

    fn refuse_change_of_what_is_fixed(&self, value: &Value) -> Result<(), Rejection> {
        let accepted = &self.order.accepted;
        let fixed = |what, pointer: &Option<String>, kept: &Option<String>| {
            let Some(pointer) = pointer else { return Ok(()) };
            let now = value.pointer(pointer).and_then(scalar_text);
            // A key that was given beside the data stands nowhere in it.
            if now == *kept || (now.is_none() && what == "the key") {
                return Ok(());
            }
            Err(Rejection::Fixed {
                what,
                pointer: pointer.clone(),
            })
        };
        fixed("the key", &self.order_type.key, &accepted.key)?;
        fixed("the customer", &self.order_type.customer, &accepted.customer)?;
        let group = self.order_type.fifo.as_ref().and_then(|fifo| fifo.key.clone());
        fixed("the group key", &group, &accepted.group)
    }

    fn transition(
        &mut self,
        to: &Arc<str>,
        reason: Option<String>,
        edit: Option<Edit>,
        begun: bool,
    ) -> Result<(), Rejection> {
        let from = self.order.head.status.clone();
        if self.order.head.phase == Phase::Undoing {
            return Err(Rejection::Undoing);
        }
        let allowed = self.allowed();
        if !allowed.contains(to) {
            return Err(Rejection::IllegalTransition {
                from,
                to: to.clone(),
                allowed,
            });
        }
        if let Some(edit) = edit {
            self.edit(edit)?;
        }
        self.fence(begun);
        self.enter_checked(to, self.input.by.clone(), reason, false)
    }

    fn allowed(&self) -> Vec<Arc<str>> {
        if self.order.head.phase == Phase::Final {
            return Vec::new();
        }
        self.order_type
            .status(&self.order.head.status)
            .map(|status| status.to.clone())
            .unwrap_or_default()
    }

    fn cancel(&mut self, reason: Option<String>, in_flight: bool, begun: bool) -> Result<(), Rejection> {
        match self.order.head.phase {
            Phase::Final => {
                return Err(Rejection::Final {
                    status: self.order.head.status.clone(),
                });
            }
            Phase::Undoing => return Err(Rejection::Undoing),
            Phase::Scheduled | Phase::Active | Phase::Dead => {}
        }
        let status = self.order.head.status.clone();
        let Some(to) = self.order_type.cancel_from(&status).cloned() else {
            return Err(Rejection::NotCancellable {
                status,
                allowed: self.allowed(),
            });
        };
        let by = self.input.by.clone();
        if in_flight {
            self.event(EventKind::CancelRequested, by.clone(), reason.clone());
            self.order.head.intent = Some(Intent { to, reason, by });
            return Ok(());
        }
        self.fence(begun);
        self.enter_checked(&to, by, reason, true)
    }

    fn redrive(&mut self, from: RedriveFrom, edit: Option<Edit>) -> Result<(), Rejection> {
        if self.order.head.phase != Phase::Dead {
            return Err(Rejection::NotDead);
        }
        if let Some(edit) = edit {
            self.edit(edit)?;
        }
        let Some(dead) = self.order.head.dead.take() else {
            return Err(Rejection::NotDead);
        };
        if self.order_type.status(&self.order.head.status).is_none() {
            return Err(Rejection::NotInThisVersion {
                what: "status",
                name: self.order.head.status.clone(),
            });
        }
        let before = std::mem::replace(&mut self.order.head.type_hash, self.order_type.hash);
        let moved = (before != self.order_type.hash).then(|| {
            let text = |hash: TypeHash| Some(Json::from(&Value::String(hash.to_string())));
            Changed::new(TYPE_VERSION, text(before), text(self.order_type.hash))
        });
        self.event(EventKind::Redriven, self.input.by.clone(), None).changed = moved.into_iter().collect();
        match from {
            RedriveFrom::FailedStep => self.take_up(dead.edited, dead.undo_failed)?,
            RedriveFrom::Start => {
                self.fence(true);
                self.order.head.work = None;
                if self.last_standing().is_some() {
                    self.order.head.phase = Phase::Undoing;
                    self.order.head.after_undo = Some(AfterUndo::Restart);
                    self.undo_next();
                } else {
                    self.order.head.phase = Phase::Active;
                    self.restart();
                }
            }
        }
        // A status that has released the lane does not take it again; a restart does.
        let released = self
            .order_type
            .status(&self.order.head.status)
            .is_some_and(|status| status.releases_lane);
        let returns = self.order.head.phase != Phase::Final && (!released || from == RedriveFrom::Start);
        if returns && self.lane.leave.is_none() && self.lane.enter.is_none() {
            let left = self
                .order
                .head
                .lane
                .as_ref()
                .filter(|lane| !lane.standing)
                .map(|lane| lane.name.clone());
            if let Some(name) = left {
                self.enter_lane(name, true);
            }
        }
        Ok(())
    }

    /// Takes up the step that was exhausted: the same visit, unless the data was edited since.
    fn take_up(&mut self, edited: bool, undo_failed: bool) -> Result<(), Rejection> {
        let any_undone = self.order.head.done.iter().any(|done| done.state == DoneState::Undone);
        if any_undone && !undo_failed {
            return Err(Rejection::OnlyFromStart);
        }
        let order_type = self.order_type;
        let status = order_type.status(&self.order.head.status);
        self.order.head.phase = if undo_failed { Phase::Undoing } else { Phase::Active };
        let deadline = status.and_then(|status| status.deadline.as_ref());
        self.order.head.status_until = deadline.map(|deadline| later(self.input.now, deadline.after));
        let Some(mut work) = self.order.head.work.clone() else {
            self.settle();
            return Ok(());
        };
        if let WorkKind::Step(at) | WorkKind::Wait(at) | WorkKind::Approval(at) = &work.kind {
            let missing = || Rejection::NotInThisVersion {
                what: "step",
                name: at.name.clone(),
            };
            let index = status.and_then(|status| status.steps.iter().position(|name| *name == at.name));
            let index = u32::try_from(index.ok_or_else(missing)?).map_err(|_| missing())?;
            work.kind = WorkKind::Step(StepAt {
                index,
                name: at.name.clone(),
            });
        }
        if edited && matches!(work.kind, WorkKind::Step(_)) {
            self.fence(true);
            self.begin_visit(work.kind);
            return Ok(());
        }
        work.queue = self.queue_of(&work.kind);
        work.attempt += 1;
        work.round_start = work.attempt;
        work.began_at = None;
        work.held_back_since = None;
        work.due_at = Some(self.input.now);
        self.order.head.work = Some(work);
        Ok(())
    }

    fn discard(&mut self, reason: String) -> Result<(), Rejection> {
        if self.order.head.phase != Phase::Dead {
            return Err(Rejection::NotDead);
        }
        let by = self.input.by.clone();
        self.event(EventKind::Discarded, by.clone(), Some(reason.clone()));
        self.fence(true);
        let status = self.order.head.status.clone();
        let target = self
            .order_type
            .cancel
            .as_ref()
            .or_else(|| self.order_type.refused_from(&status))
            .cloned();
        self.order.head.dead = None;
        self.order.head.work = None;
        match target.filter(|to| *to != status) {
            Some(to) => self.enter_checked(&to, by, Some(reason), true)?,
            None if self.last_standing().is_some() => {
                self.order.head.phase = Phase::Undoing;
                self.order.head.after_undo = Some(AfterUndo::End);
                self.undo_next();
            }
            None => {
                self.touch();
                self.end();
            }
        }
        Ok(())
    }
}
