//! One commit: the checks, and then the writes. See [`comanda_store::Commit`] for the rules.
//!
//! All checks only read, so that a refused commit leaves nothing behind and no savepoint is needed. The writes of a
//! commit can only fail for reasons of the disk or of damage, and then the whole batch is rolled back.

use comanda_model::bounds::{DATA_BYTES_MAX, EVENTS_PER_COMMIT_MAX, RESULT_BYTES_MAX};
use comanda_model::{OrderId, Outcome, Phase};
use comanda_store::{ClaimMove, Commit, CommitError, Expect, Receipt, StoreError};
use rusqlite::{OptionalExtension, params};

use crate::claims::Moved;
use crate::current::{Current, Member};
use crate::failure::{Failure, corrupt};
use crate::row::{self, Time, due_micros};
use crate::writer::Writer;

const HEAD_OF_SEQ: &str = concat!("SELECT ", row::head_columns!(), " FROM heads h WHERE h.seq = ?1");
const ACCEPTANCE_OF_SEQ: &str = concat!("SELECT ", row::order_columns!(), " FROM orders o WHERE o.seq = ?1");

/// What the checks came to.
pub(crate) enum Verdict {
    /// It is to be applied.
    Apply,
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
        let seq: Option<i64> =
            self.statements.seq_of_id.query_row([id.0.as_bytes()], |row| row.get(0)).optional()?;
        seq.map(|seq| self.current_by_seq(seq, id)).transpose()
    }

    fn current_by_seq(&mut self, seq: i64, id: OrderId) -> Result<Current, Failure> {
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
                let head: Option<i64> =
                    self.statements.lane_head.query_row([&lane.name], |row| row.get(0)).optional()?;
                let position = found
                    .lane_position
                    .ok_or_else(|| corrupt(row::of_order("the lane's position", id), "it is missing"))?;
                Some(Member { lane: lane.name.clone(), position, at_head: head == Some(seq) })
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
        held: Option<comanda_model::Token>,
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
        if results.map(|result| result.as_str().len()).any(|length| length > RESULT_BYTES_MAX) {
            return too_large("a step's result", RESULT_BYTES_MAX);
        }
        self.check_numbers(commit, current)
    }

    /// Holds the caller to the numbering: a gap would be found only by whoever reads the history, and too late.
    fn check_numbers(&self, commit: &Commit, current: Option<&Current>) -> Result<Verdict, CommitError> {
        let (events, attempts) = current.map_or((0, 0), |current| (current.events, current.attempts));
        let head = &commit.order.head;
        if !follow_on(events, commit.events.iter().map(|event| event.number), head.events)
            || !follow_on(attempts, commit.attempts.iter().map(|attempt| attempt.number), head.attempts)
        {
            let cause = std::io::Error::other("its events or attempts are not numbered on from the order's last");
            return Err(StoreError::failed("take a commit", cause).into());
        }
        Ok(Verdict::Apply)
    }

    /// The receipt of a commit that was applied before.
    pub(crate) fn receipt_again(
        &mut self,
        commit: &Commit,
        current: &Current,
        held: Option<comanda_model::Token>,
    ) -> Result<Receipt, Failure> {
        let position: Option<i64> = self
            .connection
            .prepare_cached("SELECT position FROM events WHERE seq = ?1 ORDER BY number DESC LIMIT 1")?
            .query_row([current.seq], |row| row.get(0))
            .optional()?;
        let claimed = matches!(commit.claim, ClaimMove::Take { token, .. } if held == Some(token));
        let position = position.unwrap_or(0) as u64;
        Ok(Receipt { claimed, queued: !current.is_active(), promoted: None, position })
    }

    /// Writes a commit that has passed the checks. `rest` is the head's rest as JSON.
    pub(crate) fn apply(
        &mut self,
        commit: &Commit,
        rest: Option<&str>,
        before: Option<Current>,
        now: i64,
    ) -> Result<Receipt, Failure> {
        let head = &commit.order.head;
        let order_type = self.dictionary.intern_name(self.connection, &commit.order.accepted.order_type)?;
        let state = self.dictionary.intern_state(self.connection, order_type, &head.status, head.phase)?;
        let type_row = self.dictionary.intern_type(self.connection, head.type_hash)?;
        let is_new = before.is_none();
        let mut current = match &before {
            Some(before) => {
                if commit.data_changed {
                    let data = commit.order.data.as_str();
                    self.statements.update_data.execute(params![before.seq, row::data_sum(before.seq, data), data])?;
                }
                before.clone()
            }
            None => self.insert_order(commit, order_type)?,
        };
        let seq = current.seq;
        current.follow(head);
        let promoted = self.move_lanes(commit, &mut current)?;
        let due = current.due();
        let due_before = before.as_ref().and_then(Current::due);
        if due != due_before || is_new {
            if let Some(at) = due_before {
                self.statements.delete_due.execute((at, seq))?;
            }
            if let Some(at) = due {
                self.statements.insert_due.execute((at, seq))?;
            }
        }
        current.state = state;
        current.type_row = type_row;
        self.count(before.as_ref(), &mut current, commit, order_type)?;
        let final_before = before.as_ref().and_then(Current::final_at);
        if current.final_at() != final_before {
            if let Some(at) = final_before {
                self.statements.delete_final.execute((at, seq))?;
            }
            if let Some(at) = current.final_at() {
                self.statements.insert_final.execute((at, seq))?;
            }
        }
        self.insert_attempts(commit, &mut current)?;
        self.write_head(commit, &current, rest)?;
        self.insert_events(commit, seq)?;
        if !commit.keys.is_empty() {
            self.write_keys(commit, seq, is_new)?;
        }
        let claimed = self.move_claim(commit, &current, now);
        let receipt = Receipt {
            claimed,
            queued: !current.is_active(),
            promoted: promoted.filter(|(_, due)| due.is_some_and(|due| due <= now)).map(|(id, _)| id),
            position: self.counters.position as u64,
        };
        if current.phase != Phase::Final {
            self.recent.put(commit.order.id(), current);
        }
        Ok(receipt)
    }

    fn insert_order(&mut self, commit: &Commit, order_type: i64) -> Result<Current, Failure> {
        let (accepted, head) = (&commit.order.accepted, &commit.order.head);
        let status = self.dictionary.intern_name(self.connection, &accepted.status)?;
        let seq = self.counters.seq + 1;
        self.counters.seq = seq;
        let keys = key_list(None, &commit.keys)?;
        let data = commit.order.data.as_str();
        let id = accepted.id.0.as_bytes();
        self.statements.insert_order.execute(params![
            seq,
            id,
            order_type,
            status,
            Time(accepted.at),
            accepted.key,
            accepted.customer,
            accepted.group,
            accepted.traceparent,
            keys,
            row::acceptance_sum(seq, accepted, keys.as_deref()),
            row::data_sum(seq, data),
            data,
        ])?;
        self.statements.insert_id.execute(params![id, seq])?;
        if let Some(customer) = &accepted.customer {
            self.statements.insert_customer.execute(params![customer, seq])?;
        }
        if let Some(group) = &accepted.group {
            self.statements.insert_group.execute(params![group, seq])?;
        }
        Ok(Current {
            seq,
            version: 0,
            commit_id: head.commit_id,
            events: 0,
            attempts: 0,
            phase: head.phase,
            state: 0,
            type_row: 0,
            cause: None,
            updated_at: 0,
            due_at_head: None,
            due_waiting: None,
            member: None,
            lane_position: None,
            results: Vec::new(),
        })
    }

    /// Moves the order between lanes. Answers the order that was promoted in the lane that it left, and when that is
    /// due.
    fn move_lanes(
        &mut self,
        commit: &Commit,
        current: &mut Current,
    ) -> Result<Option<(OrderId, Option<i64>)>, Failure> {
        let (leave, enter) = (&commit.lane.leave, &commit.lane.enter);
        let mut promoted = None;
        // An order stands in one lane at a time: whoever enters another leaves the first.
        let leaves = current.member.take_if(|member| {
            leave.as_ref() == Some(&member.lane) || enter.as_ref().is_some_and(|entry| entry.name != member.lane)
        });
        if let Some(member) = leaves {
            self.statements.lane_leave.execute(params![member.lane, !member.at_head, member.position])?;
            if member.at_head {
                promoted = self.promote(&member.lane)?;
            }
        }
        let Some(entry) = enter.as_ref().filter(|_| current.member.is_none()) else { return Ok(promoted) };
        let position = match current.lane_position.filter(|_| entry.resume) {
            Some(position) => position,
            None => {
                self.counters.lane_position += 1;
                self.counters.lane_position
            }
        };
        let at_head = !self.statements.lane_head.exists([&entry.name])?;
        self.statements.lane_enter.execute(params![entry.name, !at_head, position, current.seq])?;
        current.lane_position = Some(position);
        current.member = Some(Member { lane: entry.name.clone(), position, at_head });
        Ok(promoted)
    }

    /// Puts the first of those that wait at the head of a lane that has none.
    fn promote(&mut self, lane: &str) -> Result<Option<(OrderId, Option<i64>)>, Failure> {
        let next: Option<(i64, i64)> =
            self.statements.lane_next.query_row([lane], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((position, seq)) = next else { return Ok(None) };
        let id = self.id_of(seq)?;
        let mut next = match self.recent.take(id) {
            Some(current) => current,
            None => self.current_by_seq(seq, id)?,
        };
        self.statements.lane_leave.execute(params![lane, 1, position])?;
        self.statements.lane_enter.execute(params![lane, 0, position, seq])?;
        let due_before = next.due();
        if let Some(member) = &mut next.member {
            member.at_head = true;
        }
        if next.due() != due_before {
            if let Some(at) = due_before {
                self.statements.delete_due.execute((at, seq))?;
            }
            if let Some(at) = next.due() {
                self.statements.insert_due.execute((at, seq))?;
            }
        }
        let due = next.due_at_head;
        self.recent.put(id, next);
        Ok(Some((id, due)))
    }

    /// Keeps the counts: by state, by type's version, by cause.
    fn count(
        &mut self,
        before: Option<&Current>,
        current: &mut Current,
        commit: &Commit,
        order_type: i64,
    ) -> Result<(), Failure> {
        let seq = current.seq;
        let state_before = before.map(|before| before.state);
        if state_before != Some(current.state) {
            if let Some(state) = state_before {
                self.statements.delete_state.execute((state, seq))?;
                self.tally.count(state, -1);
            }
            self.statements.insert_state.execute((current.state, seq))?;
            self.tally.count(current.state, 1);
        }
        let live = |current: &Current| (current.phase != Phase::Final).then_some(current.type_row);
        let (live_before, live_now) = (before.and_then(live), live(current));
        if live_before != live_now {
            if let Some(type_row) = live_before {
                self.tally.live(type_row, -1);
            }
            if let Some(type_row) = live_now {
                self.tally.live(type_row, 1);
            }
        }
        let dead = commit.order.head.dead.as_ref().filter(|_| current.phase == Phase::Dead);
        let cause_before = before.and_then(|before| before.cause);
        if dead.is_none() && cause_before.is_none() {
            return Ok(());
        }
        current.cause = match dead {
            Some(dead) => Some(self.intern_cause(&dead.cause, order_type)?),
            None => None,
        };
        if current.cause != cause_before {
            if let Some(cause) = cause_before {
                self.uncount_cause(cause, seq)?;
            }
            if let Some(cause) = current.cause {
                self.connection
                    .prepare_cached("INSERT INTO by_cause (cause, seq) VALUES (?1, ?2)")?
                    .execute((cause, seq))?;
                self.connection.prepare_cached("UPDATE causes SET n = n + 1 WHERE id = ?1")?.execute([cause])?;
            }
        }
        Ok(())
    }

    /// Takes a dead letter out of its cause; a cause that nothing died of any more goes.
    pub(crate) fn uncount_cause(&mut self, cause: i64, seq: i64) -> Result<(), Failure> {
        let connection = self.connection;
        connection.prepare_cached("DELETE FROM by_cause WHERE cause = ?1 AND seq = ?2")?.execute((cause, seq))?;
        connection.prepare_cached("UPDATE causes SET n = n - 1 WHERE id = ?1")?.execute([cause])?;
        connection.prepare_cached("DELETE FROM causes WHERE id = ?1 AND n <= 0")?.execute([cause])?;
        Ok(())
    }

    fn cause_id(&mut self, cause: &str, order_type: &str) -> Result<Option<i64>, Failure> {
        let Some(order_type) = self.dictionary.name_id(self.connection, order_type)? else { return Ok(None) };
        Ok(self
            .connection
            .prepare_cached("SELECT id FROM causes WHERE cause = ?1 AND type = ?2")?
            .query_row(params![cause, order_type], |row| row.get(0))
            .optional()?)
    }

    fn intern_cause(&mut self, cause: &str, order_type: i64) -> Result<i64, Failure> {
        let found: Option<i64> = self
            .connection
            .prepare_cached("SELECT id FROM causes WHERE cause = ?1 AND type = ?2")?
            .query_row(params![cause, order_type], |row| row.get(0))
            .optional()?;
        match found {
            Some(id) => Ok(id),
            None => Ok(self
                .connection
                .prepare_cached("INSERT INTO causes (cause, type, n) VALUES (?1, ?2, 0)")?
                .insert(params![cause, order_type])?),
        }
    }

    fn insert_attempts(&mut self, commit: &Commit, current: &mut Current) -> Result<(), Failure> {
        for attempt in &commit.attempts {
            if attempt.outcome == Outcome::Done && (attempt.undo || attempt.result.is_some()) {
                current.results.retain(|(step, _)| *step != attempt.step);
                if !attempt.undo {
                    current.results.push((attempt.step.clone(), attempt.number));
                }
            }
            let step = self.dictionary.intern_name(self.connection, &attempt.step)?;
            self.statements.insert_attempt.execute(params![
                current.seq,
                attempt.number as i64,
                attempt.visit,
                attempt.attempt,
                step,
                attempt.undo,
                Time(attempt.started_at),
                Time(attempt.ended_at),
                row::outcome_number(attempt.outcome),
                row::attempt_sum(current.seq, attempt),
                attempt.reason,
                attempt.result.as_ref().map(|result| result.as_str()),
            ])?;
        }
        Ok(())
    }

    fn write_head(&mut self, commit: &Commit, current: &Current, rest: Option<&str>) -> Result<(), Failure> {
        let head = &commit.order.head;
        let results = if current.results.is_empty() {
            None
        } else {
            let text = serde_json::to_string(&current.results);
            Some(text.map_err(|error| StoreError::failed("write the order's results as JSON", error))?)
        };
        self.statements.write_head.execute(params![
            current.seq,
            current.state,
            current.type_row,
            head.version as i64,
            head.etag_version as i64,
            head.commit_id.0.as_bytes(),
            Time(head.updated_at),
            head.events as i64,
            head.attempts as i64,
            head.visits,
            current.lane_position,
            row::head_sum(current.seq, head, current.lane_position, results.as_deref(), rest),
            results,
            rest,
        ])?;
        Ok(())
    }

    fn insert_events(&mut self, commit: &Commit, seq: i64) -> Result<(), Failure> {
        for event in &commit.events {
            let position = self.counters.position + 1;
            self.counters.position = position;
            let mut name =
                |text: &Option<std::sync::Arc<str>>| -> Result<Option<i64>, Failure> {
                    text.as_ref().map(|text| self.dictionary.intern_name(self.connection, text)).transpose()
                };
            let (from, to) = (name(&event.from)?, name(&event.to)?);
            let by = self.dictionary.intern_name(self.connection, &event.by)?;
            let changed = if event.changed.is_empty() {
                None
            } else {
                let text = serde_json::to_string(&event.changed);
                Some(text.map_err(|error| StoreError::failed("write an event as JSON", error))?)
            };
            self.statements.insert_event.execute(params![
                position,
                seq,
                event.number as i64,
                Time(event.at),
                row::kind_number(event.kind),
                from,
                to,
                by,
                row::event_sum(position, seq, event, changed.as_deref()),
                event.reason,
                changed,
            ])?;
        }
        Ok(())
    }

    fn key(&mut self, scope: &str, key: &str) -> Result<Option<row::KeyRow>, Failure> {
        let Some(scope_id) = self.dictionary.name_id(self.connection, scope)? else { return Ok(None) };
        let mut rows = self.statements.key.query(params![scope_id, key])?;
        rows.next()?.map(|row| row::key(row, scope, key)).transpose()
    }

    fn write_keys(&mut self, commit: &Commit, seq: i64, is_new: bool) -> Result<(), Failure> {
        for claim in &commit.keys {
            let expired = self.key(&claim.scope, &claim.key)?;
            let scope = self.dictionary.intern_name(self.connection, &claim.scope)?;
            if let Some(at) = expired.and_then(|expired| expired.expires_at) {
                self.statements.delete_expiring.execute(params![at, scope, claim.key])?;
            }
            let expires_at = claim.expires_at.map(due_micros);
            let sum = row::key_sum(seq, &claim.scope, &claim.key, &claim.fingerprint, expires_at);
            self.statements.write_key.execute(params![scope, claim.key, seq, claim.fingerprint, expires_at, sum])?;
            if let Some(at) = expires_at {
                self.statements.insert_expiring.execute(params![at, scope, claim.key])?;
            }
        }
        if !is_new {
            let (accepted, keys) = self.acceptance(seq)?;
            let keys = key_list(keys.as_deref(), &commit.keys)?;
            let sum = row::acceptance_sum(seq, &accepted, keys.as_deref());
            self.connection
                .prepare_cached("UPDATE orders SET keys = ?2, crc = ?3 WHERE seq = ?1")?
                .execute(params![seq, keys, sum])?;
        }
        Ok(())
    }

    /// What was accepted under a number, and the list of its keys.
    fn acceptance(&mut self, seq: i64) -> Result<(comanda_model::Acceptance, Option<String>), Failure> {
        let mut statement = self.connection.prepare_cached(ACCEPTANCE_OF_SEQ)?;
        let mut rows = statement.query([seq])?;
        let row =
            rows.next()?.ok_or_else(|| corrupt(row::of_order("the acceptance", seq), "it is missing"))?;
        row::acceptance(self.connection, &mut self.dictionary, row, 0, seq)
    }

    /// The id of the order with this number.
    fn id_of(&mut self, seq: i64) -> Result<OrderId, Failure> {
        Ok(self.acceptance(seq)?.0.id)
    }

    fn move_claim(&mut self, commit: &Commit, current: &Current, now: i64) -> bool {
        let moved = match commit.claim {
            ClaimMove::Keep => return false,
            ClaimMove::End => None,
            ClaimMove::Take { token, lease } => {
                let granted = current.is_active() && current.due_at_head.is_some_and(|due| due <= now);
                let lease_micros = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
                granted.then_some(Moved { token, lease_micros })
            }
        };
        self.moves.insert(commit.order.id(), (current.seq, moved));
        moved.is_some()
    }
}

/// Whether numbers go on after `before` without gaps, and end with `after`.
fn follow_on(before: u64, mut numbers: impl Iterator<Item = u64>, after: u64) -> bool {
    numbers.try_fold(before, |last, number| (number == last + 1).then_some(number)) == Some(after)
}

/// The list by which an order's keys are found again when it is removed: JSON, `[[scope, key], …]`.
fn key_list(before: Option<&str>, claims: &[comanda_store::KeyClaim]) -> Result<Option<String>, Failure> {
    let mut list: Vec<(String, String)> = match before {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| corrupt("an order's list of keys", error.to_string()))?,
        None => Vec::new(),
    };
    list.extend(claims.iter().map(|claim| (claim.scope.clone(), claim.key.clone())));
    if list.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_string(&list);
    Ok(Some(text.map_err(|error| StoreError::failed("write an order's keys as JSON", error))?))
}
