//! When all has come to rest: nothing may be stuck, and the store must tell the same story as the model.

use std::collections::BTreeMap;

use comanda_model::order::DoneState;
use comanda_model::{OrderId, Phase};
use comanda_store::{Counters, FeedEvent, Place, Stored};

use super::{Judge, Verdict, hold, types};

impl Judge {
    /// The orders that the engine still has something to do for.
    pub fn restless(&self) -> Vec<String> {
        let restless = self.orders.iter().filter(|(id, known)| {
            let (head, active) = (&known.order.head, self.lanes.is_active(**id));
            head.due_at(active).is_some() || head.queued_at(active).is_some() || known.held.is_some()
        });
        let restless = restless.map(|(id, known)| self.describe(*id, known));
        restless.chain(self.items.restless()).collect()
    }

    fn describe(&self, id: OrderId, known: &super::Known) -> String {
        let head = &known.order.head;
        format!(
            "#{} {:?} in {} work {:?} until {:?} held {} active {}",
            known.n,
            head.phase,
            head.status,
            head.work,
            head.status_until,
            known.held.is_some(),
            self.lanes.is_active(id)
        )
    }

    /// Nothing is silently stuck: each order is final, a dead letter, or waits for someone who is named.
    pub fn none_is_stuck(&self) -> Verdict {
        for (id, known) in &self.orders {
            let order_type = Self::type_of(&known.order)?;
            let head = &known.order.head;
            let waits_outside = || {
                head.work.is_none()
                    && order_type
                        .status(&head.status)
                        .is_some_and(|status| !status.to.is_empty())
            };
            let stuck = || self.describe(*id, known);
            match head.phase {
                Phase::Final | Phase::Dead => {}
                Phase::Active if waits_outside() => {}
                Phase::Active | Phase::Undoing if self.waits_for_parked(*id) => {}
                _ => return Err(format!("nothing is silently stuck, but {} is", stuck())),
            }
        }
        Ok(())
    }

    /// Whether every order is final.
    pub fn all_are_final(&self) -> bool {
        self.orders.values().all(|known| known.order.head.phase == Phase::Final)
    }

    /// After an operator has cleared up, every order is final.
    pub fn end_is_reached(&self) -> Verdict {
        for (id, known) in &self.orders {
            hold!(
                known.order.head.phase == Phase::Final,
                "nothing is silently stuck, but an operator could not end {}",
                self.describe(*id, known)
            );
        }
        Ok(())
    }

    fn waits_for_parked(&self, id: OrderId) -> bool {
        let before = self.lanes.active_before(id).and_then(|before| self.orders.get(&before));
        before.is_some_and(|before| before.order.head.phase == Phase::Dead || before.order.head.work.is_none())
    }

    /// Each answer that was heard has been written down, as what it was or as late.
    pub fn none_is_dropped(&self) -> Verdict {
        for run in self
            .runs
            .iter()
            .filter(|run| run.answered && run.life.is_none_or(|life| !self.dead_lives.contains(&life)))
        {
            let known = self.orders.get(&run.order).ok_or("an order vanished")?;
            let written = known
                .attempts
                .iter()
                .any(|attempt| (attempt.visit, attempt.attempt, attempt.undo) == (run.visit, run.attempt, run.undo));
            hold!(
                written || self.tokens.get(&run.secret) == Some(&super::Fate::Ended),
                "a result is never dropped: #{}, visit {}, attempt {} (undo: {}) was answered and is nowhere",
                known.n,
                run.visit,
                run.attempt,
                run.undo
            );
        }
        Ok(())
    }

    /// What was to be taken back is taken back outside too, and what was kept is there.
    pub fn outside_is_clean(&self) -> Verdict {
        for (id, known) in &self.orders {
            let head = &known.order.head;
            if head.phase != Phase::Final {
                continue;
            }
            let order_type = types::by_hash(head.type_hash).ok_or("an unknown type")?;
            let undo = order_type.status(&head.status).is_some_and(|status| status.undo);
            let last = known.events.iter().rev().find(|event| event.to.is_some());
            // Whoever is sent there by hand is taken back only where the status says so.
            let refused = last.is_some_and(|event| {
                let from = event.from.as_ref().and_then(|from| order_type.refused_from(from));
                event.by.starts_with("step:") && event.to.as_ref() == from
            });
            if !(undo || known.discarded || refused) {
                continue;
            }
            let prefix = format!("{id}:");
            for (key, effect) in self
                .effects
                .range(prefix.clone()..)
                .take_while(|(key, _)| key.starts_with(&prefix))
            {
                let visit: u32 = key[prefix.len()..].parse().unwrap_or(0);
                let step = self.step_of(*id, visit);
                let can_undo = step
                    .as_ref()
                    .and_then(|step| order_type.steps.get(&**step))
                    .is_some_and(|step| step.undo.is_some());
                hold!(
                    !(can_undo && effect.done && !effect.undone),
                    "refused is undone: #{} ended in {}, and `{}` of visit {visit} still stands outside",
                    known.n,
                    head.status,
                    step.unwrap_or_default()
                );
            }
            let stands = head.done.iter().find(|done| done.state != DoneState::Undone);
            hold!(
                stands.is_none(),
                "#{} ended in {} and remembers {stands:?}",
                known.n,
                head.status
            );
        }
        Ok(())
    }

    fn step_of(&self, id: OrderId, visit: u32) -> Option<String> {
        let run = self
            .runs
            .iter()
            .find(|run| run.order == id && run.visit == visit && !run.undo)?;
        Some(run.step.clone())
    }

    /// The counters are the truth.
    pub fn counters_are_true(&self, counters: &Counters) -> Verdict {
        let mut truth: BTreeMap<(String, String, &'static str), u64> = BTreeMap::new();
        for known in self.orders.values() {
            let head = &known.order.head;
            let name = (
                known.order.accepted.order_type.to_string(),
                head.status.to_string(),
                head.phase.name(),
            );
            *truth.entry(name).or_default() += 1;
        }
        let told: BTreeMap<(String, String, &'static str), u64> = counters
            .counts
            .iter()
            .map(|count| {
                (
                    (count.order_type.clone(), count.status.clone(), count.phase.name()),
                    count.count,
                )
            })
            .collect();
        hold!(truth == told, "counters: they say {told:?}, and it is {truth:?}");
        Ok(())
    }

    /// The feed holds each event once, in commit order.
    pub fn feed_is_whole(&self, feed: &[FeedEvent]) -> Verdict {
        let told: Vec<(OrderId, u64)> = feed.iter().map(|event| (event.order, event.event.number)).collect();
        hold!(
            told == self.feed,
            "the feed has {} events in another order or number than the {} that were committed",
            told.len(),
            self.feed.len()
        );
        for event in feed {
            let index = usize::try_from(event.event.number).unwrap_or(0).saturating_sub(1);
            let ours = self.orders.get(&event.order).and_then(|known| known.events.get(index));
            hold!(
                ours == Some(&event.event),
                "the feed tells another event than was committed"
            );
        }
        Ok(())
    }

    /// An order stands in the store as its last durable commit left it.
    pub fn is_stored(&self, id: OrderId, stored: Option<&Stored>) -> Verdict {
        let known = self.orders.get(&id).ok_or("an order vanished")?;
        let n = known.n;
        let stored = stored.ok_or_else(|| format!("accepted is durable: #{n} is gone"))?;
        hold!(
            stored.order.head == known.order.head && stored.order.data == known.order.data,
            "#{n} stands in the store as {:?}, and was committed as {:?}",
            stored.order.head,
            known.order.head
        );
        let place = match self.lanes.of(id) {
            None => Place::Alone,
            Some(_) if self.lanes.is_active(id) => Place::Head,
            Some(_) => Place::Behind(u32::try_from(self.lanes.behind(id)).unwrap_or(u32::MAX)),
        };
        hold!(
            stored.place == place,
            "lanes: #{n} is {:?} and should be {place:?}",
            stored.place
        );
        Ok(())
    }
}
