//! Claims and calls: who holds what, and whether what reaches the outside may.

use comanda_engine::StepCall;
use comanda_model::{Order, OrderId, Phase, Token, WorkKind};
use comanda_store::{Claims, CommitError, WorkClaims};
use jiff::Timestamp;

use super::{Fate, Judge, Run, Verdict, hold};

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
            self.granted(now, &claim.order, (claim.token, claim.lease_until), &due)
        })
    }

    /// Work was claimed from a queue.
    pub fn pulled(&mut self, now: Timestamp, claims: &WorkClaims) -> Verdict {
        claims.claims.iter().try_for_each(|claim| {
            let due = |active| claim.order.head.queued_at(active).map(|(_, at)| at);
            self.granted(now, &claim.order, (claim.token, claim.lease_until), &due)
        })
    }

    fn granted(
        &mut self,
        now: Timestamp,
        order: &Order,
        held: (Token, Timestamp),
        due: &dyn Fn(bool) -> Option<Timestamp>,
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

    /// A call reaches the outside. Answers with its number.
    pub fn called(&mut self, life: u32, call: &StepCall<'_>) -> Result<usize, String> {
        self.calls += 1;
        let (id, head) = (call.order.id(), &call.order.head);
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
            WorkKind::Step(at) => (!call.undo && *at.name == *call.name, work.visit),
            WorkKind::Undo(at) => (call.undo && *at.name == *call.name, at.index),
            _ => (false, 0),
        };
        hold!(
            kind_fits && work.attempt == call.attempt,
            "#{n}: the call of `{}` is not the work that is due",
            call.name
        );
        let forward = format!("{id}:{visit}");
        let expected = if call.undo {
            format!("{forward}:undo")
        } else {
            forward.clone()
        };
        hold!(
            call.idempotency_key == expected,
            "#{n}: the call of `{}` in visit {visit} carries the key {}",
            call.name,
            call.idempotency_key
        );
        if call.undo {
            hold!(
                head.phase == Phase::Undoing,
                "#{n}: an undo runs while the order is not taking back"
            );
            hold!(
                call.undoes.as_deref() == Some(forward.as_str()),
                "#{n}: an undo does not name the call that it takes back"
            );
        }
        let token = self
            .renewed
            .get(&(life, id))
            .copied()
            .ok_or_else(|| format!("#{n}: a step runs without a claim"))?;
        let still_held = known.held.is_some_and(|(held, _)| held == token);
        hold!(
            !still_held || self.lanes.is_active(id),
            "first in, first out: a step of #{n} runs while another is at the head of its lane"
        );
        self.runs.push(Run {
            life,
            order: id,
            step: call.name.to_owned(),
            visit,
            attempt: call.attempt,
            undo: call.undo,
            secret: token.secret,
            answered: false,
            stale: false,
        });
        Ok(self.runs.len() - 1)
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
            if !run.stale && fate == Some(Fate::Ended) {
                run.stale = true;
                return Ok(());
            }
        }
        Err(format!(
            "a result is never dropped: #{n}, visit {visit}, attempt {attempt} was written down as late, but its token was {fate:?}"
        ))
    }
}
