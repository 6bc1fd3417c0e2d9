//! Claims: who works on what, and until when.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use comanda_model::{OrderId, Token};
use jiff::Timestamp;
use uuid::Uuid;

use super::later;
use super::state::{Held, State};
use crate::{Claim, Claims, CommitError, QueueClaim, QueueCount, WorkClaim, WorkClaims, Worker};

impl State {
    fn is_free(&self, id: OrderId, now: Timestamp) -> bool {
        self.held.get(&id).is_none_or(|held| held.lease_until <= now)
    }

    /// Claims what is due. At most one order of a lane is due for its work; those that queue behind it are due only for
    /// a deadline, which needs no place at the head.
    pub(super) fn claim(&mut self, max: usize, lease: Duration) -> Claims {
        let now = self.now();
        let lease_until = later(now, lease);
        let mut claims = Claims::default();
        for (due_at, seq) in &self.due {
            let Some(row) = self.rows.get(seq) else { continue };
            let id = row.order.id();
            if !self.is_free(id, now) {
                continue;
            }
            if *due_at > now || claims.claims.len() >= max {
                // All that follow are due later.
                claims.next_due_at = Some(*due_at);
                break;
            }
            let work = row.order.head.work.as_ref();
            let token = Token {
                order: id,
                visit: work.map_or(0, |work| work.visit),
                attempt: work.map_or(0, |work| work.attempt),
                secret: Uuid::new_v4(),
            };
            let held = Held {
                token,
                lease_until,
                worker: None,
            };
            self.held.insert(id, held);
            claims.claims.push(Claim {
                order: Arc::new(row.order.clone()),
                token,
                lease_until,
            });
        }
        let ends = self
            .held
            .values()
            .map(|held| held.lease_until)
            .filter(|until| *until > now);
        claims.next_due_at = claims.next_due_at.into_iter().chain(ends).min();
        claims
    }

    /// Claims work that waits in a queue.
    pub(super) fn claim_work(&mut self, asked: &QueueClaim) -> WorkClaims {
        let now = self.now();
        let lease_until = later(now, asked.lease);
        let mut claims = WorkClaims::default();
        let Some((queue, waiting)) = self.queued.get_key_value(asked.queue.as_str()) else {
            return claims;
        };
        for (at, seq) in waiting {
            let Some(row) = self.rows.get(seq) else { continue };
            let id = row.order.id();
            if !self.is_free(id, now) {
                continue;
            }
            if *at > now || claims.claims.len() >= asked.max {
                claims.next_due_at = Some(*at);
                break;
            }
            let work = row.order.head.work.as_ref();
            let token = Token {
                order: id,
                visit: work.map_or(0, |work| work.visit),
                attempt: work.map_or(0, |work| work.attempt),
                secret: Uuid::new_v4(),
            };
            let worker = Worker {
                name: asked.worker.clone(),
                since: now,
            };
            let held = Held {
                token,
                lease_until,
                worker: Some((queue.clone(), worker)),
            };
            let lost = self.held.insert(id, held).and_then(|held| held.worker);
            claims.claims.push(WorkClaim {
                order: row.order.clone(),
                token,
                lease_until,
                lost: lost.map(|(_, worker)| worker),
            });
        }
        let ends = self.held.values().filter(|held| {
            let here = held.worker.as_ref().is_some_and(|(held, _)| held == queue);
            here && held.lease_until > now
        });
        let ends = ends.map(|held| held.lease_until);
        claims.next_due_at = claims.next_due_at.into_iter().chain(ends).min();
        claims
    }

    /// How much stands in each queue.
    pub(super) fn queues(&mut self) -> Vec<QueueCount> {
        let now = self.now();
        let mut counts: BTreeMap<Arc<str>, QueueCount> = BTreeMap::new();
        let empty = |queue: &Arc<str>| QueueCount {
            queue: queue.to_string(),
            depth: 0,
            leased: 0,
            dead: 0,
            oldest_at: None,
        };
        for (queue, waiting) in &self.queued {
            let leased = self.held.values().filter(|held| {
                let here = held.worker.as_ref().is_some_and(|(held, _)| held == queue);
                here && held.lease_until > now
            });
            let count = QueueCount {
                depth: waiting.len() as u64,
                leased: leased.count() as u64,
                oldest_at: waiting.first().map(|(at, _)| *at).filter(|at| *at <= now),
                ..empty(queue)
            };
            counts.insert(queue.clone(), count);
        }
        for item in self.items.values() {
            let queue = &item.entry.queue;
            let count = counts.entry(queue.clone()).or_insert_with(|| empty(queue));
            if item.died.is_some() {
                count.dead += 1;
                continue;
            }
            count.depth += 1;
            count.leased += u64::from(item.lease.is_some() && item.due_at > now);
            count.oldest_at = Some(count.oldest_at.map_or(item.at, |oldest| oldest.min(item.at)));
        }
        counts.into_values().collect()
    }

    pub(super) fn renew(&mut self, token: &Token, lease: Duration) -> Result<Timestamp, CommitError> {
        let until = later(self.now(), lease);
        let held = self.held.get_mut(&token.order).filter(|held| held.token == *token);
        let held = held.ok_or(CommitError::TokenStale)?;
        held.lease_until = until;
        Ok(until)
    }

    pub(super) fn release(&mut self, tokens: &[Token]) {
        for token in tokens {
            if self.held.get(&token.order).is_some_and(|held| held.token == *token) {
                self.held.remove(&token.order);
            }
        }
    }

    /// When the order was due that has waited longest with nobody at work on it, if any is overdue.
    pub(super) fn oldest_due_at(&self, now: Timestamp) -> Option<Timestamp> {
        let overdue = self.due.iter().take_while(|(due_at, _)| *due_at <= now);
        let mut waiting = overdue.filter(|(_, seq)| {
            let row = self.rows.get(seq);
            row.is_some_and(|row| self.is_free(row.order.id(), now))
        });
        waiting.next().map(|(due_at, _)| *due_at)
    }
}
