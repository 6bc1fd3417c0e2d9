//! Claims: who works on what, and until when.

use std::time::Duration;

use comanda_model::{OrderId, Token};
use jiff::Timestamp;
use uuid::Uuid;

use super::later;
use super::state::{Held, State};
use crate::{Claim, Claims, CommitError};

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
            self.held.insert(id, Held { token, lease_until });
            claims.claims.push(Claim {
                order: row.order.clone(),
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
