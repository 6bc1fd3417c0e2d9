//! The checks that a commit must pass before anything of it is written, and what they need to know.
//!
//! They only read, so that a refused commit leaves nothing behind and no savepoint is needed.

use comanda_model::bounds::{DATA_BYTES_MAX, EVENTS_PER_COMMIT_MAX, RESULT_BYTES_MAX};
use comanda_model::{OrderId, Phase, Token};
use comanda_store::ledger::{NewBalance, check_lines};
use comanda_store::{ClaimMove, Commit, CommitError, Expect, Receipt, StoreError};
use rusqlite::OptionalExtension;

use crate::current::{Current, Member};
use crate::failure::{Failure, corrupt};
use crate::ids;
use crate::row;
use crate::writer::Writer;

const HEAD_OF_SEQ: &str = concat!("SELECT ", row::head_columns!(), " FROM heads h WHERE h.seq = ?1");

/// What the checks came to.
pub(crate) enum Verdict {
    /// It is to be applied, and leaves these balances in the ledger.
    Apply(Vec<NewBalance>),
    /// It has been applied before.
    Repeated,
}

fn refused(failure: Failure) -> CommitError {
    failure.into_store_error("check a commit").into()
}

impl Writer<'_> {
    /// The order as it stands, out of the writer's memory or the tables. Put it back into [`Writer::recent`].
    pub(crate) fn current(&mut self, id: OrderId) -> Result<Option<Current>, Failure> {
        if let Some(current) = self.recent.take(id) {
            return Ok(Some(current));
        }
        // Proved, for a head says by no checksum whose it is: written to by a wrong number it would be another order's.
        let seq = ids::seq_of(self.connection, id)?;
        seq.map(|seq| self.current_by_seq(seq, id)).transpose()
    }

    pub(crate) fn current_by_seq(&mut self, seq: i64, id: OrderId) -> Result<Current, Failure> {
        self.write_pending_of_seq(seq)?;
        let found = {
            let mut statement = self.connection.prepare_cached(HEAD_OF_SEQ)?;
            let mut rows = statement.query([seq])?;
            match rows.next()? {
                Some(row) => Some(row::head(self.connection, &mut self.dictionary, row, 0, seq, id)?),
                None => None,
            }
        };
        let found = found.ok_or_else(|| corrupt(row::of_order("the head", id), "it is missing"))?;
        let member = match found.head.lane.as_ref().filter(|lane| lane.standing) {
            Some(lane) => {
                let head: Option<i64> = self
                    .statements
                    .lane_head
                    .query_row([&lane.name], |row| row.get(0))
                    .optional()?;
                let position = found
                    .lane_position
                    .ok_or_else(|| corrupt(row::of_order("the lane's position", id), "it is missing"))?;
                Some(Member {
                    lane: lane.name.clone(),
                    position,
                    at_head: head == Some(seq),
                })
            }
            None => None,
        };
        let cause = match &found.head.dead {
            Some(dead) if found.head.phase == Phase::Dead => self.cause_id(&dead.cause, &found.order_type)?,
            _ => None,
        };
        let mut current = Current {
            seq,
            version: 0,
            commit_id: found.head.commit_id,
            events: 0,
            attempts: 0,
            phase: found.head.phase,
            state: found.state,
            type_row: found.type_row,
            cause,
            updated_at: 0,
            due_at_head: None,
            due_waiting: None,
            queued_at_head: None,
            for_worker: false,
            try_at: (0, 0),
            member,
            lane_position: found.lane_position,
            results: found.results,
        };
        current.follow(&found.head);
        Ok(current)
    }

    /// Whether a commit is to be applied. `held` is the token that the order is claimed under.
    pub(crate) fn check(
        &mut self,
        commit: &Commit,
        current: Option<&Current>,
        held: Option<Token>,
        now: i64,
    ) -> Result<Verdict, CommitError> {
        let head = &commit.order.head;
        if current.is_some_and(|current| current.commit_id == head.commit_id) {
            return Ok(Verdict::Repeated);
        }
        for claim in &commit.keys {
            let found = self.key(&claim.scope, &claim.key).map_err(refused)?;
            if let Some(found) = found.filter(|found| !found.is_expired(now)) {
                return Err(CommitError::KeyTaken {
                    scope: claim.scope.clone(),
                    key: claim.key.clone(),
                    order: self.id_of(found.seq).map_err(refused)?,
                    fingerprint: found.fingerprint,
                });
            }
        }
        let actual = current.map_or(0, |current| current.version);
        let expected = match commit.expect {
            Expect::Absent => 0,
            Expect::At { version, token } => {
                if token.is_some() && token != held {
                    return Err(CommitError::TokenStale);
                }
                if current.is_none() {
                    return Err(CommitError::VersionMoved { actual });
                }
                version
            }
            Expect::Queued { version } => {
                if current.is_none_or(Current::is_active) {
                    return Err(CommitError::VersionMoved { actual });
                }
                version
            }
        };
        if actual != expected {
            return Err(CommitError::VersionMoved { actual });
        }
        let too_large = |what, bytes_max| Err(CommitError::TooLarge { what, bytes_max });
        if commit.order.data.as_str().len() > DATA_BYTES_MAX {
            return too_large("the data", DATA_BYTES_MAX);
        }
        if commit.events.len() > EVENTS_PER_COMMIT_MAX {
            return too_large("the commit's list of events", EVENTS_PER_COMMIT_MAX);
        }
        let results = commit.attempts.iter().filter_map(|attempt| attempt.result.as_ref());
        if results
            .map(|result| result.as_str().len())
            .any(|length| length > RESULT_BYTES_MAX)
        {
            return too_large("a step's result", RESULT_BYTES_MAX);
        }
        self.check_numbers(commit, current)?;
        if commit.ledger.is_empty() {
            return Ok(Verdict::Apply(Vec::new()));
        }
        check_lines(&commit.ledger)?;
        let settled = self.settle(commit, current.map(|current| current.seq));
        settled.map_err(refused)?.map(Verdict::Apply)
    }

    /// Holds the caller to the numbering: a gap would be found only by whoever reads the history, and too late.
    fn check_numbers(&self, commit: &Commit, current: Option<&Current>) -> Result<(), CommitError> {
        let (events, attempts) = current.map_or((0, 0), |current| (current.events, current.attempts));
        let head = &commit.order.head;
        if !follow_on(events, commit.events.iter().map(|event| event.number), head.events)
            || !follow_on(
                attempts,
                commit.attempts.iter().map(|attempt| attempt.number),
                head.attempts,
            )
        {
            let cause = std::io::Error::other("its events or attempts are not numbered on from the order's last");
            return Err(StoreError::failed("take a commit", cause).into());
        }
        Ok(())
    }

    /// The receipt of a commit that was applied before.
    pub(crate) fn receipt_again(
        &mut self,
        commit: &Commit,
        current: &Current,
        held: Option<Token>,
    ) -> Result<Receipt, Failure> {
        let position: Option<i64> = self
            .connection
            .prepare_cached("SELECT position FROM events WHERE seq = ?1 ORDER BY number DESC LIMIT 1")?
            .query_row([current.seq], |row| row.get(0))
            .optional()?;
        let claimed = matches!(commit.claim, ClaimMove::Take { token, .. } if held == Some(token));
        let position = position.unwrap_or(0) as u64;
        Ok(Receipt {
            claimed,
            queued: !current.is_active(),
            promoted: None,
            position,
        })
    }
}

/// Whether numbers go on after `before` without gaps, and end with `after`.
fn follow_on(before: u64, mut numbers: impl Iterator<Item = u64>, after: u64) -> bool {
    numbers.try_fold(before, |last, number| (number == last + 1).then_some(number)) == Some(after)
}
