//! What one commit writes, once it has passed its checks. See [`comanda_store::Commit`] for the rules.
//!
//! A write can only fail for reasons of the disk or of damage, and then the whole batch is rolled back.

use comanda_model::{OrderId, Outcome, Phase};
use comanda_store::{ClaimMove, Commit, Numbered, Receipt, StoreError};
use rusqlite::{OptionalExtension, params};

use crate::claims::Moved;
use crate::column::{Time, due_micros};
use crate::current::Current;
use crate::failure::{Failure, corrupt};
use crate::pending::{EventRow, HeadRow, IdRow, OrderRow, StateRow};
use crate::row;
use crate::writer::Writer;

const ACCEPTANCE_OF_SEQ: &str = concat!("SELECT ", row::order_columns!(), " FROM orders o WHERE o.seq = ?1");

impl Writer<'_> {
    /// Writes a commit that has passed the checks. `rest` is the head's rest as JSON.
    pub(crate) fn apply(
        &mut self,
        commit: &Commit,
        rest: Option<&str>,
        before: Option<Current>,
        now: i64,
    ) -> Result<Receipt, Failure> {
        let head = &commit.order.head;
        let order_type = self
            .dictionary
            .intern_name(self.connection, &commit.order.accepted.order_type)?;
        let state = self
            .dictionary
            .intern_state(self.connection, order_type, &head.status, head.phase)?;
        let type_row = self.dictionary.intern_type(self.connection, head.type_hash)?;
        let is_new = before.is_none();
        let mut current = match &before {
            Some(before) => {
                if commit.data_changed {
                    let data = commit.order.data.as_str();
                    self.statements
                        .update_data
                        .execute(params![before.seq, row::data_sum(before.seq, data), data])?;
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
        let queued_before = before.as_ref().and_then(Current::queued);
        self.move_queued(seq, queued_before, current.queued())?;
        if commit.claim != ClaimMove::Keep && before.as_ref().is_some_and(|before| before.for_worker) {
            self.statements.delete_claim.execute([seq])?;
        }
        if commit.erases() {
            self.empty(&commit.order.accepted, &mut current)?;
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
        if let Some(entry) = &commit.enqueue {
            self.put_item(seq, entry, head, now)?;
        }
        self.insert_events(commit, seq)?;
        if !commit.keys.is_empty() {
            self.write_keys(commit, seq, is_new)?;
        }
        self.write_pending_if_full()?;
        let claimed = self.move_claim(commit, &current, now);
        let receipt = Receipt {
            claimed,
            queued: !current.is_active(),
            promoted: promoted
                .filter(|(_, due)| due.is_some_and(|due| due <= now))
                .map(|(id, _)| id),
            position: self.counters.position as u64,
        };
        if current.phase != Phase::Final {
            self.recent.put(commit.order.id(), current);
        }
        Ok(receipt)
    }

    /// Writes what was accepted.
    fn insert_order(&mut self, commit: &Commit, order_type: i64) -> Result<Current, Failure> {
        let (accepted, head) = (&commit.order.accepted, &commit.order.head);
        let status = self.dictionary.intern_name(self.connection, &accepted.status)?;
        let seq = self.counters.seq + 1;
        self.counters.seq = seq;
        let keys = key_list(None, &commit.keys)?;
        let data = &commit.order.data;
        self.pending.ids.push(IdRow { id: accepted.id, seq });
        self.pending.orders.push(OrderRow {
            seq,
            order_type,
            status,
            accepted: accepted.clone(),
            sum: row::acceptance_sum(seq, accepted, keys.as_deref()),
            keys,
            data_sum: row::data_sum(seq, data.as_str()),
            data: data.clone(),
        });
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
            queued_at_head: None,
            for_worker: false,
            try_at: (0, 0),
            member: None,
            lane_position: None,
            results: Vec::new(),
        })
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
            self.pending.states.push(StateRow {
                state: current.state,
                seq,
            });
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
                self.connection
                    .prepare_cached("UPDATE causes SET n = n + 1 WHERE id = ?1")?
                    .execute([cause])?;
            }
        }
        Ok(())
    }

    /// Takes a dead letter out of its cause; a cause that nothing died of any more goes.
    pub(crate) fn uncount_cause(&mut self, cause: i64, seq: i64) -> Result<(), Failure> {
        let connection = self.connection;
        connection
            .prepare_cached("DELETE FROM by_cause WHERE cause = ?1 AND seq = ?2")?
            .execute((cause, seq))?;
        connection
            .prepare_cached("UPDATE causes SET n = n - 1 WHERE id = ?1")?
            .execute([cause])?;
        connection
            .prepare_cached("DELETE FROM causes WHERE id = ?1 AND n <= 0")?
            .execute([cause])?;
        Ok(())
    }

    pub(crate) fn cause_id(&mut self, cause: &str, order_type: &str) -> Result<Option<i64>, Failure> {
        let Some(order_type) = self.dictionary.name_id(self.connection, order_type)? else {
            return Ok(None);
        };
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
                i64::from(attempt.outcome.number()),
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
        self.pending.heads.push(HeadRow {
            id: commit.order.id(),
            seq: current.seq,
            state: current.state,
            type_row: current.type_row,
            version: head.version as i64,
            etag_version: head.etag_version as i64,
            commit_id: head.commit_id.0.into_bytes(),
            updated_at: Time(head.updated_at),
            events: head.events as i64,
            attempts: head.attempts as i64,
            visits: head.visits,
            lane_position: current.lane_position,
            sum: row::head_sum(current.seq, head, current.lane_position, results.as_deref(), rest),
            results,
            rest: rest.map(str::to_owned),
        });
        Ok(())
    }

    fn insert_events(&mut self, commit: &Commit, seq: i64) -> Result<(), Failure> {
        for event in &commit.events {
            let position = self.counters.position + 1;
            self.counters.position = position;
            let mut name = |text: &Option<std::sync::Arc<str>>| -> Result<Option<i64>, Failure> {
                text.as_ref()
                    .map(|text| self.dictionary.intern_name(self.connection, text))
                    .transpose()
            };
            let (from, to) = (name(&event.from)?, name(&event.to)?);
            let by = self.dictionary.intern_name(self.connection, &event.by)?;
            let changed = row::changed_text(event)?;
            self.pending.events.push(EventRow {
                position,
                seq,
                number: event.number as i64,
                at: Time(event.at),
                kind: event.kind.number(),
                from,
                to,
                by,
                sum: row::event_sum(position, seq, event, changed.as_deref()),
                reason: event.reason.clone(),
                changed,
            });
        }
        Ok(())
    }

    pub(crate) fn key(&mut self, scope: &str, key: &str) -> Result<Option<row::KeyRow>, Failure> {
        let Some(scope_id) = self.dictionary.name_id(self.connection, scope)? else {
            return Ok(None);
        };
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
            self.statements
                .write_key
                .execute(params![scope, claim.key, seq, claim.fingerprint, expires_at, sum])?;
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
    pub(crate) fn acceptance(&mut self, seq: i64) -> Result<(comanda_model::Acceptance, Option<String>), Failure> {
        self.write_pending_of_seq(seq)?;
        let mut statement = self.connection.prepare_cached(ACCEPTANCE_OF_SEQ)?;
        let mut rows = statement.query([seq])?;
        let row = rows
            .next()?
            .ok_or_else(|| corrupt(row::of_order("the acceptance", seq), "it is missing"))?;
        row::acceptance(self.connection, &mut self.dictionary, row, 0, seq)
    }

    /// The id of the order with this number.
    pub(crate) fn id_of(&mut self, seq: i64) -> Result<OrderId, Failure> {
        Ok(self.acceptance(seq)?.0.id)
    }

    fn move_claim(&mut self, commit: &Commit, current: &Current, now: i64) -> bool {
        let moved = match commit.claim {
            ClaimMove::Keep => return false,
            ClaimMove::End => None,
            ClaimMove::Take { token, lease } => {
                let granted = current.is_active() && current.due_at_head.is_some_and(|due| due <= now);
                let lease_micros = i64::try_from(lease.as_micros()).unwrap_or(i64::MAX);
                granted.then_some(Moved {
                    token,
                    lease_micros,
                    worker: None,
                })
            }
        };
        let granted = moved.is_some();
        self.moves.insert(commit.order.id(), (current.seq, moved));
        granted
    }
}

/// The list by which an order's keys are found again when it is removed: JSON, `[[scope, key], …]`.
fn key_list(before: Option<&str>, claims: &[comanda_store::KeyClaim]) -> Result<Option<String>, Failure> {
    let mut list: Vec<(String, String)> = match before {
        Some(text) => {
            serde_json::from_str(text).map_err(|error| corrupt("an order's list of keys", error.to_string()))?
        }
        None => Vec::new(),
    };
    list.extend(claims.iter().map(|claim| (claim.scope.clone(), claim.key.clone())));
    if list.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_string(&list);
    Ok(Some(text.map_err(|error| {
        StoreError::failed("write an order's keys as JSON", error)
    })?))
}
