//! Claims of due orders, and those of them whose answer never came.
//!
//! A claim that the server applied, and whose answer was lost with the connection or with the server, would keep its orders
//! from everyone until its lease ends, for this node lives. Each row that a claim takes says when (`since`), which is the
//! `clock` that its answer tells. So what stands under this node since another moment than any answer told was taken
//! by a claim without one, and is given back. A statement can come to the server long after it was given up, so this
//! is looked at for a while.

use std::time::{Duration, Instant};

use comanda_model::{OrderId, Token};
use comanda_store::{Claim, Claims, StoreError};
use jiff::Timestamp;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::PostgresStore;
use crate::claiming::{self, What};
use crate::column::micros;
use crate::failure::Failure;
use crate::server::Parameter;
use crate::store::{CLAIMS_MAX, claimed, is_full};

/// For how long after a claim without an answer what it may have taken is looked for, and how often.
const LOOK_FOR: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What stands under this node, and was taken by none of the claims whose answers came.
const LOST: &str = "SELECT id, held_visit AS visit, held_attempt AS attempt, secret FROM comanda.due \
     WHERE node = $1 AND since > $2::text::timestamptz AND since <> ALL ($3)";

/// Which claims were answered. They are made one at a time.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    /// When the newest one was made, by the database's clock.
    latest: Option<Timestamp>,
    /// Whether one has begun and has not ended: its caller has gone away, or its answer was lost.
    is_open: bool,
    lost: Option<Lost>,
}

/// One or more claims have gone without an answer.
#[derive(Debug)]
struct Lost {
    /// They were made later than this; `None`: at any time.
    after: Option<Timestamp>,
    /// When those that were answered since were made.
    answered: Vec<Timestamp>,
    look_at: Instant,
    until: Instant,
}

impl Answered {
    /// Called before each claim.
    fn begin(&mut self, now: Instant) {
        if std::mem::replace(&mut self.is_open, true) {
            let lost = self.lost.get_or_insert_with(|| Lost {
                after: self.latest,
                answered: Vec::new(),
                look_at: now,
                until: now,
            });
            lost.until = now + LOOK_FOR;
        }
        // The look at its end is the last.
        self.lost.take_if(|lost| lost.until < lost.look_at);
    }

    /// The claim has taken orders, then.
    fn end(&mut self, at: Timestamp) {
        self.is_open = false;
        self.latest = Some(at);
        if let Some(lost) = &mut self.lost {
            lost.answered.push(at);
        }
    }

    /// The claim has taken nothing.
    fn end_without(&mut self) {
        self.is_open = false;
    }

    /// After when, and when not, a row has to have been claimed that is to be given back, if it is time to look.
    fn look(&mut self, now: Instant) -> Option<(Option<Timestamp>, Vec<Timestamp>)> {
        let lost = self.lost.as_mut().filter(|lost| lost.look_at <= now)?;
        lost.look_at = now + LOOK_AGAIN;
        Some((lost.after, lost.answered.clone()))
    }
}

impl PostgresStore {
    /// See [`comanda_store::Store::claim`].
    pub(crate) async fn claim_due(&self, max: usize, lease: Duration) -> Result<Claims, StoreError> {
        const WHAT: &str = "claim due orders";
        let mut answered = self.answered.lock().await;
        answered.begin(Instant::now());
        if let Some((after, known)) = answered.look(Instant::now()) {
            let looked = self.give_back_lost(after, &known).await;
            looked.inspect_err(|_| answered.end_without())?;
        }
        let max = i32::try_from(max.min(CLAIMS_MAX)).unwrap_or(i32::MAX);
        let lease = micros(lease);
        let from = self.claiming.from(&What::Due);
        let from_text = claiming::from_column(from);
        let parameters: [Parameter<'_>; 4] = [
            (&max, Type::INT4),
            (&lease, Type::INT8),
            (&self.node, Type::UUID),
            (&from_text, Type::TEXT),
        ];
        let statement = "SELECT * FROM comanda.claim($1, $2, $3, $4::text::timestamptz)";
        let rows = match self.server.ask_again(WHAT, statement, &parameters).await {
            Ok(rows) => rows,
            Err(failure) => {
                if matches!(failure, Failure::NotApplied { .. }) {
                    answered.end_without();
                }
                return Err(failure.into_error());
            }
        };
        let mut claims = Claims::default();
        let mut held = Vec::new();
        let mut last_due_at = None;
        let mut made_at = None;
        for row in rows {
            let clock: Timestamp = row.get("clock");
            self.clock.learn(clock);
            made_at = Some(clock);
            if let Some(id) = row.get::<_, Option<Uuid>>("id") {
                last_due_at = row.get("next_at");
                held.push((id, claimed(&row, id), row.get::<_, Timestamp>("lease_until")));
                continue;
            }
            claims.next_due_at = row.get("next_at");
            let looked = self.looked(&row, from, last_due_at.filter(|_| is_full(held.len(), max)));
            self.claiming.learn(What::Due, looked);
        }
        // They are read after they were claimed, so each is as it now stands. If that fails, nobody knows of them: it is as
        // if the answer had not come.
        let ids: Vec<Uuid> = held.iter().map(|(id, ..)| *id).collect();
        let Some(at) = made_at.filter(|_| !ids.is_empty()) else {
            answered.end_without();
            return Ok(claims);
        };
        let orders = self.read(WHAT, &ids).await?;
        answered.end(at);
        let mut orders = orders.into_iter().peekable();
        for (id, token, lease_until) in held {
            if let Some(stored) = orders.next_if(|stored| stored.order.id().0 == id) {
                claims.claims.push(Claim {
                    order: stored.order,
                    token,
                    lease_until,
                });
            }
        }
        Ok(claims)
    }

    /// Gives back what claims without an answer have taken.
    async fn give_back_lost(&self, after: Option<Timestamp>, answered: &[Timestamp]) -> Result<(), StoreError> {
        const WHAT: &str = "find claims without an answer";
        let after = claiming::from_column(after);
        let parameters: [Parameter<'_>; 3] = [
            (&self.node, Type::UUID),
            (&after, Type::TEXT),
            (&answered, Type::TIMESTAMPTZ_ARRAY),
        ];
        let rows = self.ask(WHAT, LOST, &parameters).await?;
        let tokens: Vec<Token> = rows.iter().map(|row| claimed(row, row.get("id"))).collect();
        if tokens.is_empty() {
            return Ok(());
        }
        let orders: Vec<OrderId> = tokens.iter().map(|token| token.order).collect();
        tracing::info!(
            orders = orders.len(),
            "the answer to a claim was lost: its orders are given back"
        );
        comanda_store::Store::release(self, &tokens).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn what_was_claimed_since_and_never_answered_is_looked_for() {
        let mut answered = Answered::default();
        let begun = Instant::now();
        answered.begin(begun);
        answered.end(at(10));
        answered.begin(begun);
        assert_eq!(answered.look(begun), None, "every claim was answered");
        // Its answer never comes.
        answered.begin(begun);
        assert_eq!(answered.look(begun), Some((Some(at(10)), vec![])));
        assert_eq!(answered.look(begun), None, "not at once again");
        answered.end(at(12));
        answered.begin(begun);
        answered.end_without();
        let later = begun + LOOK_AGAIN;
        answered.begin(later);
        assert_eq!(answered.look(later), Some((Some(at(10)), vec![at(12)])));
        answered.end(at(14));
        let end = begun + LOOK_FOR + LOOK_AGAIN;
        answered.begin(end);
        assert!(answered.look(end).is_some(), "it may have come late");
        answered.end(at(15));
        answered.begin(end);
        assert_eq!(answered.look(end + LOOK_AGAIN), None, "enough");
    }
}
