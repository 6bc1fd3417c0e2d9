//! Commits: numbering, tokens, claims, lanes, visits, and what is remembered of what was done.

use std::collections::BTreeSet;
use std::sync::Arc;

use comanda_model::order::{AfterUndo, DoneState};
use comanda_model::order_type::Action;
use comanda_model::{Event, EventKind, Order, OrderId, Outcome, Phase, WorkKind};
use comanda_store::{ClaimMove, Commit, Expect, Receipt};
use jiff::Timestamp;

use super::{Fate, Judge, Known, Verdict, hold, number_in, outcome, status};

impl Judge {
    /// A commit is durable. `receipt` is what the store says of it.
    pub fn applied(&mut self, now: Timestamp, commit: &Commit, receipt: &Receipt) -> Verdict {
        let id = commit.order.id();
        let before = self.orders.get(&id).map(|known| known.order.clone());
        if before
            .as_ref()
            .is_some_and(|before| before.head.commit_id == commit.order.head.commit_id)
        {
            // The same commit came twice, which changes nothing.
            return Ok(());
        }
        self.commits += 1;
        hold!(
            self.commit_ids.insert(commit.order.head.commit_id.0),
            "a commit was applied a second time, or its id was given twice"
        );
        match &before {
            None => self.begin(commit)?,
            Some(before) => self.change(before, commit)?,
        }
        self.number_events(id, commit)?;
        self.attempts_recorded(id, before.as_deref(), commit)?;
        let order_type = Self::type_of(&commit.order)?;
        status::follows(before.as_deref(), commit, &order_type, now)?;
        self.item_put_in(before.as_deref(), commit, &order_type)?;
        self.stock_moved(commit)?;
        self.move_lane(now, before.as_deref(), commit, receipt)?;
        self.move_claim(now, before.as_deref(), commit, receipt)
    }

    fn begin(&mut self, commit: &Commit) -> Verdict {
        let id = commit.order.id();
        let n = Self::number(commit);
        hold!(
            commit.expect == Expect::Absent,
            "a change of an order that is not there was applied"
        );
        hold!(
            commit.order.head.version == 1,
            "#{n} begins at version {}",
            commit.order.head.version
        );
        let accepted = commit
            .events
            .first()
            .is_some_and(|event| event.kind == EventKind::Accepted);
        hold!(accepted, "#{n} does not begin with its acceptance");
        hold!(
            !self.by_number.contains_key(&n),
            "every order exists once: #{n} was accepted a second time"
        );
        self.by_number.entry(n).or_default().push(id);
        let mut order = commit.order.clone();
        let head = &mut Arc::make_mut(&mut order).head;
        (head.events, head.attempts) = (0, 0);
        self.orders.insert(
            id,
            Known {
                n,
                order,
                events: Vec::new(),
                attempts: Vec::new(),
                commits: Vec::new(),
                edits: BTreeSet::new(),
                held: None,
                held_by_worker: false,
                left_lane: false,
                discarded: false,
            },
        );
        Ok(())
    }

    fn change(&mut self, before: &Order, commit: &Commit) -> Verdict {
        let known = self.orders.get(&before.id()).ok_or("an order vanished")?;
        let (n, after) = (known.n, &commit.order.head);
        let (version, token) = match commit.expect {
            Expect::Absent => return Err(format!("every order exists once: #{n} was accepted over itself")),
            Expect::At { version, token } => (version, token),
            Expect::Queued { version } => {
                hold!(
                    !self.lanes.is_active(before.id()),
                    "lanes: #{n} was changed as one that queues, and it is at the head"
                );
                (version, None)
            }
        };
        hold!(
            version == before.head.version && after.version == version + 1,
            "one change at a time: #{n} went from version {} to {} by a change decided on {version}",
            before.head.version,
            after.version
        );
        hold!(
            token.is_none() || token == known.held.map(|(held, _)| held),
            "a stale token's result was applied to #{n}"
        );
        hold!(
            commit.order.accepted == before.accepted,
            "what was accepted of #{n} changed"
        );
        hold!(
            commit.data_changed || commit.order.data == before.data,
            "the data of #{n} changed and was not to be written"
        );
        let visible = before.head.status != after.status || commit.data_changed;
        hold!(
            !visible || after.etag_version == after.version,
            "#{n} changed for the outside, and its ETag did not"
        );
        hold!(
            after.updated_at >= before.head.updated_at,
            "the history of #{n} goes back in time"
        );
        if before.head.phase == Phase::Final {
            let moved = !commit.events.is_empty()
                || after.phase != Phase::Final
                || after.status != before.head.status
                || commit.data_changed;
            hold!(!moved, "#{n} was final and moved");
        }
        let counted = commit
            .attempts
            .iter()
            .filter(|attempt| attempt.outcome != Outcome::Stale);
        let answers_person = |event: &Event| matches!(event.kind, EventKind::Approved | EventKind::Rejected);
        let by_person = commit.events.iter().any(answers_person);
        let asked = matches!(
            before.head.work.as_ref().map(|work| &work.kind),
            Some(WorkKind::Approval(_))
        );
        hold!(
            asked || !by_person,
            "#{n} was approved or rejected, and did not wait for that"
        );
        let awaited = before.head.work.as_ref().and_then(|work| work.awaiting);
        let called_back = awaited.is_some_and(|awaited| self.callbacks.contains(&awaited.secret));
        hold!(
            token.is_some() || called_back || by_person || counted.count() == 0,
            "an attempt of #{n} was recorded without its token"
        );
        visits(n, before, commit)?;
        remembered(n, before, commit)
    }

    fn number_events(&mut self, id: OrderId, commit: &Commit) -> Verdict {
        let known = self.orders.get_mut(&id).ok_or("an order vanished")?;
        let n = known.n;
        for event in &commit.events {
            let expected = known.events.len() as u64 + 1;
            hold!(
                event.number == expected,
                "events are numbered without a gap: #{n} has {} where {expected} is next",
                event.number
            );
            known.events.push(event.clone());
            self.feed.push((id, event.number));
        }
        for attempt in &commit.attempts {
            let expected = known.attempts.len() as u64 + 1;
            hold!(
                attempt.number == expected,
                "attempts are numbered without a gap: #{n} has {} where {expected} is next",
                attempt.number
            );
            known.attempts.push(attempt.clone());
        }
        let head = &commit.order.head;
        hold!(
            head.events == known.events.len() as u64 && head.attempts == known.attempts.len() as u64,
            "#{n} counts {} events and {} attempts, and has {} and {}",
            head.events,
            head.attempts,
            known.events.len(),
            known.attempts.len()
        );
        known.commits.push(head.commit_id);
        known.order = commit.order.clone();
        if let Some(datum) = number_in(known.order.data.as_str(), "datum") {
            known.edits.insert(datum);
        }
        Ok(())
    }

    fn attempts_recorded(&mut self, id: OrderId, before: Option<&Order>, commit: &Commit) -> Verdict {
        for attempt in &commit.attempts {
            if attempt.outcome == Outcome::Stale {
                self.stale(id, attempt.visit, attempt.attempt, attempt.undo)?;
                continue;
            }
            let Some(before) = before else {
                return Err("an attempt was recorded with the acceptance".to_owned());
            };
            outcome::follows(before, commit, attempt)?;
            if attempt.outcome == Outcome::Done {
                self.effect_is_there(id, attempt.visit, &attempt.step, attempt.undo)?;
            }
        }
        Ok(())
    }

    fn effect_is_there(&self, id: OrderId, visit: u32, step: &str, undo: bool) -> Verdict {
        let known = self.orders.get(&id).ok_or("an order vanished")?;
        let order_type = Self::type_of(&known.order)?;
        // What the built-in steps do is looked at where they do it: in the ledger, and in the sandbox's book.
        let built_in = |action: &Action| action.is_internal() || matches!(action, Action::BuiltIn(_));
        let internal = order_type.steps.get(step).is_none_or(|step| built_in(&step.action));
        let effect = self.effects.get(&format!("{id}:{visit}"));
        let there = effect.is_some_and(|effect| {
            if undo {
                effect.undone
            } else {
                effect.done || effect.undone
            }
        });
        hold!(
            internal || there,
            "#{}: `{step}` (visit {visit}, undo: {undo}) is recorded as done, and outside it is not",
            known.n
        );
        Ok(())
    }

    fn move_lane(&mut self, now: Timestamp, before: Option<&Order>, commit: &Commit, receipt: &Receipt) -> Verdict {
        let id = commit.order.id();
        let promoted = self.lanes.apply(id, &commit.lane);
        let due = |id: &OrderId| {
            let head = &self.orders.get(id)?.order.head;
            head.due_at(true).or(head.queued_at(true).map(|(_, at)| at))
        };
        let promoted = promoted.filter(|next| due(next).is_some_and(|due| due <= now));
        let known = self.orders.get_mut(&id).ok_or("an order vanished")?;
        let n = known.n;
        hold!(
            receipt.promoted == promoted,
            "lanes: the change of #{n} promotes {promoted:?}, the store says {:?}",
            receipt.promoted
        );
        hold!(
            receipt.queued != self.lanes.is_active(id),
            "lanes: #{n} is at the head: {}, the store says it is queued: {}",
            self.lanes.is_active(id),
            receipt.queued
        );
        let order_type = Self::type_of(&commit.order)?;
        let kinds: Vec<EventKind> = commit.events.iter().map(|event| event.kind).collect();
        if kinds.contains(&EventKind::Redriven) {
            known.left_lane = false;
        }
        known.discarded |= kinds.contains(&EventKind::Discarded);
        // Who begins again is given up no more.
        known.discarded &= commit.order.head.after_undo != Some(AfterUndo::Restart)
            && (commit.order.head.phase != Phase::Active || !kinds.contains(&EventKind::Redriven));
        status::note_left_lane(known, before, &order_type);
        let wanted = status::lane_wanted(known, &order_type);
        let standing = self.lanes.of(id);
        hold!(
            wanted.as_deref() == standing,
            "lanes: #{n} ({:?} in {}) should stand in {wanted:?} and stands in {standing:?}",
            commit.order.head.phase,
            commit.order.head.status
        );
        Ok(())
    }

    fn move_claim(&mut self, now: Timestamp, before: Option<&Order>, commit: &Commit, receipt: &Receipt) -> Verdict {
        let id = commit.order.id();
        let active = self.lanes.is_active(id);
        let known = self.orders.get_mut(&id).ok_or("an order vanished")?;
        let n = known.n;
        let own = |held| matches!(commit.expect, Expect::At { token: Some(token), .. } if token == held);
        let untouched =
            |before: &Order| before.head.work == commit.order.head.work && before.head.phase == commit.order.head.phase;
        let ends_other =
            commit.claim != ClaimMove::Keep && known.held.is_some_and(|(held, until)| !own(held) && until > now);
        hold!(
            !(ends_other && before.is_some_and(untouched)),
            "a result is never dropped: the claim on #{n} was ended by a change that left its work as it is"
        );
        if commit.claim == ClaimMove::Keep {
            hold!(!receipt.claimed, "a claim on #{n} was granted that nobody asked for");
            return Ok(());
        }
        if let Some((held, _)) = known.held.take() {
            self.tokens
                .insert(held.secret, if own(held) { Fate::Answered } else { Fate::Ended });
        }
        if let (ClaimMove::Take { token, lease }, true) = (&commit.claim, receipt.claimed) {
            let due = commit.order.head.due_at(active);
            hold!(
                active && due.is_some_and(|due| due <= now),
                "first in, first out: #{n} was taken (active in its lane: {active}, due {due:?})"
            );
            let until = now.checked_add(jiff::SignedDuration::try_from(*lease).unwrap_or_default());
            known.held = Some((*token, until.unwrap_or(Timestamp::MAX)));
            known.held_by_worker = false;
            self.issue(*token)?;
        }
        Ok(())
    }
}

/// A new visit has a new number: the key of the outside is made from it.
fn visits(n: u64, before: &Order, commit: &Commit) -> Verdict {
    let (old, new) = (&before.head, &commit.order.head);
    hold!(new.visits >= old.visits, "#{n} counts its visits back");
    let numbered = |kind: &WorkKind| !matches!(kind, WorkKind::Begin | WorkKind::Advance);
    let Some(work) = new.work.as_ref().filter(|work| numbered(&work.kind)) else {
        return Ok(());
    };
    let same_visit = old
        .work
        .as_ref()
        .filter(|old| old.visit == work.visit && numbered(&old.kind));
    match same_visit {
        None => hold!(
            work.visit > old.visits && work.visit == new.visits && work.attempt == 1,
            "#{n}: a new visit has the number {} and the attempt {}, after {} visits",
            work.visit,
            work.attempt,
            old.visits
        ),
        Some(old_work) => {
            hold!(
                old_work.kind.step() == work.kind.step() && work.attempt >= old_work.attempt,
                "#{n}: visit {} went from {old_work:?} to {work:?}",
                work.visit
            );
            let redriven = commit.events.iter().any(|event| event.kind == EventKind::Redriven);
            let edited = commit.data_changed || old.dead.as_ref().is_some_and(|dead| dead.edited);
            hold!(
                !(redriven && edited && matches!(work.kind, WorkKind::Step(_))),
                "#{n} was redriven after an edit under the key of the visit before it"
            );
        }
    }
    Ok(())
}

/// What was done is not forgotten: it stands until it was taken back.
fn remembered(n: u64, before: &Order, commit: &Commit) -> Verdict {
    let after = &commit.order.head.done;
    for (index, done) in after.iter().enumerate() {
        hold!(
            after[..index].iter().all(|other| other.visit != done.visit),
            "#{n}: visit {} is remembered twice",
            done.visit
        );
    }
    for old in &before.head.done {
        let new = after.iter().find(|new| new.visit == old.visit);
        let taken_back = commit.attempts.iter().any(|attempt| {
            attempt.undo && attempt.visit == old.visit && attempt.outcome == Outcome::Done && *attempt.step == *old.step
        });
        match new.map(|new| new.state) {
            Some(DoneState::Undone) => hold!(
                old.state == DoneState::Undone || taken_back,
                "#{n}: visit {} counts as taken back, and its undo never was done",
                old.visit
            ),
            Some(_) => hold!(
                old.state != DoneState::Undone,
                "#{n}: visit {} was taken back and stands again",
                old.visit
            ),
            None => hold!(
                old.state == DoneState::Undone || taken_back,
                "#{n}: visit {} stood and was forgotten",
                old.visit
            ),
        }
    }
    for attempt in commit
        .attempts
        .iter()
        .filter(|attempt| attempt.undo && attempt.outcome == Outcome::Done)
    {
        let last = before
            .head
            .done
            .iter()
            .rev()
            .find(|done| done.state != DoneState::Undone)
            .map(|done| done.visit);
        hold!(
            last == Some(attempt.visit),
            "undone in reverse: #{n} took back visit {} while {last:?} is the last that stands",
            attempt.visit
        );
    }
    Ok(())
}
