//! Claims and calls: who holds what, and whether what reaches the outside may.

use comanda_engine::{Pulled, StepCall};
use comanda_model::order_type::{Action, BuiltInKind};
use comanda_model::{EventKind, Order, OrderId, Outcome, Phase, Token, WorkKind};
use comanda_store::{Claims, CommitError, WorkClaims};
use jiff::Timestamp;

use super::{Fate, Judge, Run, Verdict, hold};

/// What reaches the outside.
struct Reach<'r> {
    life: Option<u32>,
    order: &'r Order,
    token: Token,
    name: &'r str,
    attempt: u32,
    undo: bool,
    key: &'r str,
    undoes: Option<&'r str>,
}

impl Judge {
    /// A token that was never seen before.
    pub(super) fn issue(&mut self, token: Token) -> Verdict {
        hold!(
            self.tokens.insert(token.secret, Fate::Held).is_none(),
            "a token is never issued twice: {token:?} was issued before"
        );
        Ok(())
    }

    /// Orders were claimed.
    pub fn claimed(&mut self, now: Timestamp, claims: &Claims) -> Verdict {
        claims.claims.iter().try_for_each(|claim| {
            let due = |active| claim.order.head.due_at(active);
            self.granted(now, &claim.order, (claim.token, claim.lease_until), &due, false)
        })
    }

    /// Work was claimed from a queue.
    pub fn pulled(&mut self, now: Timestamp, claims: &WorkClaims) -> Verdict {
        claims.claims.iter().try_for_each(|claim| {
            let due = |active| claim.order.head.queued_at(active).map(|(_, at)| at);
            self.granted(now, &claim.order, (claim.token, claim.lease_until), &due, true)
        })
    }

    fn granted(
        &mut self,
        now: Timestamp,
        order: &Order,
        held: (Token, Timestamp),
        due: &dyn Fn(bool) -> Option<Timestamp>,
        by_worker: bool,
    ) -> Verdict {
        let active = self.lanes.is_active(order.id());
        let known = self
            .orders
            .get_mut(&order.id())
            .ok_or("an order was claimed that is not durable")?;
        let n = known.n;
        hold!(
            order.head == known.order.head,
            "the claim of #{n} shows another order than is durable"
        );
        if let Some((before, until)) = known.held {
            hold!(
                until <= now,
                "one at a time: #{n} was claimed while {before:?} holds it until {until} (now {now})"
            );
            self.tokens.insert(before.secret, Fate::Ended);
        }
        let due = due(active);
        hold!(
            due.is_some_and(|due| due <= now),
            "first in, first out: #{n} was claimed while nothing of it is due (active in its lane: {active}, due {due:?})"
        );
        known.held = Some(held);
        known.held_by_worker = by_worker;
        self.issue(held.0)
    }

    /// A claim was extended, or not.
    pub fn renewed(&mut self, life: u32, token: &Token, answer: &Result<Timestamp, CommitError>) -> Verdict {
        let known = self
            .orders
            .get_mut(&token.order)
            .ok_or("a claim on an order that is not durable")?;
        let holds = known.held.is_some_and(|(held, _)| held == *token);
        match answer {
            Ok(until) => {
                hold!(holds, "a stale token of #{} was extended", known.n);
                known.held = Some((*token, *until));
                self.renewed.insert((life, token.order), *token);
            }
            Err(CommitError::TokenStale) => {
                hold!(!holds, "a valid token of #{} was called stale", known.n);
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// Claims were given back.
    pub fn released(&mut self, tokens: &[Token]) {
        for token in tokens {
            if let Some(known) = self.orders.get_mut(&token.order)
                && known.held.is_some_and(|(held, _)| held == *token)
            {
                known.held = None;
                self.tokens.insert(token.secret, Fate::Ended);
            }
        }
    }

    /// The tokens that workers from outside hold.
    pub fn held_by_workers(&self) -> Vec<Token> {
        let held = self.orders.values().filter(|known| known.held_by_worker);
        held.filter_map(|known| known.held).map(|(token, _)| token).collect()
    }

    /// A call reaches the outside. Answers with its number.
    pub fn called(&mut self, life: u32, call: &StepCall<'_>) -> Result<usize, String> {
        self.calls += 1;
        let id = call.order.id();
        let token = self.renewed.get(&(life, id)).copied();
        let run = self.reaches(&Reach {
            life: Some(life),
            order: call.order,
            token: token.ok_or_else(|| format!("{id}: a step runs without a claim"))?,
            name: call.name,
            attempt: call.attempt,
            undo: call.undo,
            key: &call.idempotency_key,
            undoes: call.undoes.as_deref(),
        })?;
        self.approved(call)?;
        self.question_is_asked(run, call)?;
        Ok(run)
    }

    /// Work was handed to a worker from outside. Answers with its number.
    pub fn handed_out(&mut self, work: &Pulled) -> Result<usize, String> {
        self.calls += 1;
        self.reaches(&Reach {
            life: None,
            order: &work.order,
            token: work.token,
            name: &work.step,
            attempt: work.attempt,
            undo: work.undo,
            key: &work.idempotency_key,
            undoes: work.undoes.as_deref(),
        })
    }

    /// What reaches the outside, by a call or by a worker, is what is due, under the right key, of an order that is durable.
    fn reaches(&mut self, reach: &Reach<'_>) -> Result<usize, String> {
        let (id, head) = (reach.order.id(), &reach.order.head);
        let known = self
            .orders
            .get(&id)
            .ok_or("durable before visible: a step runs for an order that is not durable")?;
        let n = known.n;
        let version = usize::try_from(head.version).unwrap_or(0);
        let durable = version.checked_sub(1).and_then(|index| known.commits.get(index));
        hold!(
            durable == Some(&head.commit_id),
            "durable before visible: a step of #{n} runs at version {version}, which is not durable"
        );
        let work = head
            .work
            .as_ref()
            .ok_or_else(|| format!("a step of #{n} runs, and it has no work"))?;
        let (kind_fits, visit) = match &work.kind {
            WorkKind::Step(at) => (!reach.undo && *at.name == *reach.name, work.visit),
            WorkKind::Undo(at) => (reach.undo && *at.name == *reach.name, at.index),
            _ => (false, 0),
        };
        hold!(
            kind_fits && work.attempt == reach.attempt,
            "#{n}: the call of `{}` is not the work that is due",
            reach.name
        );
        let forward = format!("{id}:{visit}");
        let expected = if reach.undo {
            format!("{forward}:undo")
        } else {
            forward.clone()
        };
        hold!(
            *reach.key == expected,
            "#{n}: the call of `{}` in visit {visit} carries the key {}",
            reach.name,
            reach.key
        );
        if reach.undo {
            hold!(
                head.phase == Phase::Undoing,
                "#{n}: an undo runs while the order is not taking back"
            );
            hold!(
                reach.undoes == Some(forward.as_str()),
                "#{n}: an undo does not name the call that it takes back"
            );
        }
        let still_held = known.held.is_some_and(|(held, _)| held == reach.token);
        hold!(
            !still_held || self.lanes.is_active(id),
            "first in, first out: a step of #{n} runs while another is at the head of its lane"
        );
        self.runs.push(Run {
            life: reach.life,
            order: id,
            step: reach.name.to_owned(),
            visit,
            attempt: reach.attempt,
            undo: reach.undo,
            secret: reach.token.secret,
            answered: false,
            stale: 0,
        });
        Ok(self.runs.len() - 1)
    }

    /// A step after one that waits for a person runs only after a yes.
    fn approved(&self, call: &StepCall<'_>) -> Verdict {
        let known = self.orders.get(&call.order.id()).ok_or("an order vanished")?;
        let order_type = Self::type_of(call.order)?;
        let status = order_type.status(&call.order.head.status);
        let (Some(status), false) = (status, call.undo) else {
            return Ok(());
        };
        let mut before = status.steps.iter().take_while(|name| ***name != *call.name);
        let asks = before.any(|name| {
            let step = order_type.steps.get(name);
            step.is_some_and(|step| matches!(step.action, Action::Approval { .. }))
        });
        let since_entry = known.events.iter().rev().take_while(|event| event.to.is_none());
        let yes = since_entry.into_iter().any(|event| event.kind == EventKind::Approved);
        hold!(
            !asks || yes,
            "#{}: `{}` runs, and nobody has said yes before it",
            known.n,
            call.name
        );
        Ok(())
    }

    /// Where nobody learned what the try before came to, the question comes before the next.
    fn question_is_asked(&self, run: usize, call: &StepCall<'_>) -> Verdict {
        // Reserving asks nobody: what it decides happens with its commit, or has not happened.
        if matches!(&call.step.action, Action::BuiltIn(built_in) if built_in.kind == BuiltInKind::InventoryReserve) {
            return Ok(());
        }
        let Some(this) = self.runs.get(run).filter(|run| !run.undo) else {
            return Ok(());
        };
        let of_visit = |run: &&Run| run.order == this.order && run.visit == this.visit && !run.undo;
        let Some(last) = self.runs[..run].iter().rev().find(of_visit) else {
            return Ok(());
        };
        let known = self.orders.get(&this.order).ok_or("an order vanished")?;
        let learned = known.attempts.iter().any(|attempt| {
            let same = (attempt.visit, attempt.attempt, attempt.undo) == (last.visit, last.attempt, false);
            same && matches!(attempt.outcome, Outcome::Done | Outcome::Failed | Outcome::Refused)
        });
        hold!(
            learned || call.uncertain,
            "#{}: `{}` is tried again (visit {}, attempt {}) as if it were known that attempt {} has not happened",
            known.n,
            call.name,
            this.visit,
            this.attempt,
            last.attempt
        );
        Ok(())
    }

    /// A call was answered, and the process hears it.
    pub fn answered(&mut self, run: usize) {
        if let Some(run) = self.runs.get_mut(run) {
            run.answered = true;
        }
    }

    /// A late result is written down: it must have been late.
    pub(super) fn stale(&mut self, id: OrderId, visit: u32, attempt: u32, undo: bool) -> Verdict {
        let n = self.orders.get(&id).map_or(u64::MAX, |known| known.n);
        let tokens = &self.tokens;
        let work = self.orders.get(&id).and_then(|known| known.order.head.work.as_ref());
        let awaited = work.and_then(|work| work.awaiting).map(|awaited| awaited.secret);
        let awaits = |secret| awaited == Some(secret);
        let mut of_this = self
            .runs
            .iter_mut()
            .filter(|run| run.order == id && run.visit == visit && run.attempt == attempt && run.undo == undo)
            .peekable();
        hold!(
            of_this.peek().is_some(),
            "#{n}: a late result is written down of a call that never was"
        );
        let mut fate = None;
        for run in of_this {
            fate = tokens.get(&run.secret).copied();
            // A callback is late too when its call's own answer, that it was taken on, was in time.
            let callback = self.callbacks.contains(&run.secret) && fate == Some(Fate::Answered) && !awaits(run.secret);
            // A call's own answer and its callback can both be late.
            let most = 1 + u32::from(self.callbacks.contains(&run.secret));
            if run.stale < most && (fate == Some(Fate::Ended) || callback) {
                run.stale += 1;
                return Ok(());
            }
        }
        Err(format!(
            "a result is never dropped: #{n}, visit {visit}, attempt {attempt} was written down as late, but its token was {fate:?}"
        ))
    }
}
