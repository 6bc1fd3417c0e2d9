//! A commit: checked as a whole, then applied as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use comanda_model::bounds::{DATA_BYTES_MAX, EVENTS_PER_COMMIT_MAX, RESULT_BYTES_MAX};
use comanda_model::{Acceptance, Attempt, Head, Json, Order, OrderId, Outcome, Phase};
use jiff::Timestamp;

use super::later;
use super::state::{Held, KeyRow, Row, State};
use crate::ledger::check_lines;
use crate::{ClaimMove, Commit, CommitError, Expect, KeyClaim, Receipt, StoreError};

impl State {
    /// Applies a commit, or says why not; then nothing of it was applied.
    pub(super) fn commit(&mut self, commit: Commit) -> Result<Receipt, CommitError> {
        if self.closed {
            return Err(CommitError::Closed);
        }
        let now = self.now();
        let seq = self.ids.get(&commit.order.id()).copied();
        if let Some(seq) = seq
            && let Some(row) = self.rows.get(&seq)
            && row.order.head.commit_id == commit.order.head.commit_id
        {
            return Ok(self.receipt_again(&commit, seq, row));
        }
        self.check(&commit, now)?;
        let balances = self.settle(&commit)?;
        self.ledger.write(balances);
        Ok(self.apply(commit, seq, now))
    }

    fn receipt_again(&self, commit: &Commit, seq: u64, row: &Row) -> Receipt {
        let held = self.held.get(&row.order.id()).map(|held| held.token);
        let claimed = matches!(commit.claim, ClaimMove::Take { token, .. } if held == Some(token));
        Receipt {
            claimed,
            queued: !self.is_active(seq, row),
            promoted: None,
            position: row.events.last().map_or(0, |(position, _)| *position),
        }
    }

    fn check(&self, commit: &Commit, now: Timestamp) -> Result<(), CommitError> {
        self.check_keys(&commit.keys, now)?;
        let head = self.row(commit.order.id()).map(|row| &row.order.head);
        let actual = head.map_or(0, |head| head.version);
        let expected = match commit.expect {
            Expect::Absent => 0,
            Expect::At { version, token } => {
                let held = self.held.get(&commit.order.id()).map(|held| held.token);
                if token.is_some() && token != held {
                    return Err(CommitError::TokenStale);
                }
                if head.is_none() {
                    return Err(CommitError::VersionMoved { actual });
                }
                version
            }
            Expect::Queued { version } => {
                let seq = self.ids.get(&commit.order.id());
                let row = seq.and_then(|seq| Some((*seq, self.rows.get(seq)?)));
                if row.is_none_or(|(seq, row)| self.is_active(seq, row)) {
                    return Err(CommitError::VersionMoved { actual });
                }
                version
            }
        };
        if actual != expected {
            return Err(CommitError::VersionMoved { actual });
        }
        check_bounds(commit)?;
        check_lines(&commit.ledger)?;
        check_numbers(commit, head)
    }

    fn check_keys(&self, keys: &[KeyClaim], now: Timestamp) -> Result<(), CommitError> {
        for KeyClaim { scope, key, .. } in keys {
            if let Some(found) = self.keys.get(&(scope.clone(), key.clone()))
                && !found.is_expired(now)
                && let Some(row) = self.rows.get(&found.seq)
            {
                return Err(CommitError::KeyTaken {
                    scope: scope.clone(),
                    key: key.clone(),
                    order: row.order.id(),
                    fingerprint: found.fingerprint,
                });
            }
        }
        Ok(())
    }

    fn apply(&mut self, commit: Commit, seq: Option<u64>, now: Timestamp) -> Receipt {
        let seq = seq.unwrap_or_else(|| {
            self.last_seq += 1;
            self.ids.insert(commit.order.id(), self.last_seq);
            self.last_seq
        });
        let mut row = match self.rows.remove(&seq) {
            Some(row) => {
                self.tally.remove(&row.order);
                if row.order.head.phase == Phase::Final {
                    self.finals.remove(&(row.order.head.updated_at, seq));
                }
                row
            }
            None => Row {
                order: Order {
                    results: Vec::new(),
                    ..Order::clone(&commit.order)
                },
                events: Vec::new(),
                attempts: Vec::new(),
                keys: Vec::new(),
                lines: BTreeMap::new(),
                lane_position: None,
                lane: None,
                due: None,
                queued: None,
            },
        };
        if commit.erases() {
            self.empty(seq, &mut row, commit.order.accepted.clone());
        }
        for event in commit.events {
            self.last_position += 1;
            self.feed.insert(self.last_position, (seq, row.events.len()));
            row.events.push((self.last_position, event));
        }
        if !commit.attempts.is_empty() {
            row.attempts.extend(commit.attempts);
            row.order.results = results(&row.attempts);
        }
        for line in commit.ledger {
            let name = (line.once_id.clone(), line.account.clone());
            row.lines.entry(name).or_insert(line);
        }
        for claim in commit.keys {
            self.put_key(seq, &mut row, claim);
        }
        row.order.head = commit.order.head.clone();
        let head = &row.order.head;
        let enqueue = commit.enqueue.map(|entry| (entry, head.status.clone(), head.version));
        if commit.data_changed {
            row.order.data = commit.order.data.clone();
        }
        self.tally.add(&row.order);
        if row.order.head.phase == Phase::Final {
            self.finals.insert((row.order.head.updated_at, seq));
        }
        let mut promoted = None;
        // An order stands in one lane at a time: whoever enters another leaves the first.
        let (leaves, enters) = (commit.lane.leave, commit.lane.enter);
        let elsewhere = enters
            .as_ref()
            .is_some_and(|entry| row.lane.as_ref() != Some(&entry.name));
        if row.lane.is_some() && (leaves == row.lane || elsewhere) {
            promoted = self.leave_lane(seq, &mut row, now);
        }
        if let Some(entry) = enters.filter(|_| row.lane.is_none()) {
            self.enter_lane(seq, &mut row, &entry.name, entry.resume);
        }
        let active = self.is_active(seq, &row);
        let (id, due) = (row.order.id(), row.order.head.due_at(active));
        self.rows.insert(seq, row);
        self.set_due(seq, active);
        if let Some((entry, status, version)) = enqueue {
            self.put_item(seq, entry, status, version, now);
        }
        Receipt {
            claimed: self.move_claim(id, commit.claim, due.filter(|_| active), now),
            queued: !active,
            promoted,
            position: self.last_position,
        }
    }

    /// Takes out of a row, and out of its items, what an erased order does not keep.
    fn empty(&mut self, seq: u64, row: &mut Row, accepted: Arc<Acceptance>) {
        row.order.accepted = accepted;
        row.order.results.clear();
        for (_, event) in &mut row.events {
            event.reason = None;
            for changed in &mut event.changed {
                changed.values = None;
            }
        }
        for attempt in &mut row.attempts {
            attempt.reason = None;
            attempt.result = None;
        }
        self.empty_items(seq);
    }

    fn put_key(&mut self, seq: u64, row: &mut Row, claim: KeyClaim) {
        let name = (claim.scope, claim.key);
        // One that has expired may still be there.
        self.remove_key(&name);
        if let Some(expires_at) = claim.expires_at {
            self.keys_expiring.insert((expires_at, name.clone()));
        }
        row.keys.push(name.clone());
        self.keys.insert(
            name,
            KeyRow {
                seq,
                fingerprint: claim.fingerprint,
                expires_at: claim.expires_at,
            },
        );
    }

    /// Moves the claim on an order whose work is due at `due`. Answers whether one was granted.
    fn move_claim(&mut self, id: OrderId, claim: ClaimMove, due: Option<Timestamp>, now: Timestamp) -> bool {
        if claim == ClaimMove::Keep {
            return false;
        }
        self.held.remove(&id);
        match claim {
            ClaimMove::Take { token, lease } if due.is_some_and(|due| due <= now) => {
                let lease_until = later(now, lease);
                let held = Held {
                    token,
                    lease_until,
                    worker: None,
                };
                self.held.insert(id, held);
                true
            }
            ClaimMove::Take { .. } | ClaimMove::End | ClaimMove::Keep => false,
        }
    }

    /// Removes up to `max` orders that have been final since before a moment, with everything that belongs to them,
    /// and as many expired keys. Answers how many orders.
    pub(super) fn retain(&mut self, before: Timestamp, max: usize) -> usize {
        let now = self.now();
        self.ledger.retain(before);
        let old = self.finals.iter().take_while(|(since, _)| *since < before);
        // What a queue still hands out must be there.
        let old = old.filter(|(_, seq)| !self.has_items(*seq)).take(max);
        let old: Vec<(Timestamp, u64)> = old.copied().collect();
        for (since, seq) in &old {
            self.finals.remove(&(*since, *seq));
            let Some(mut row) = self.rows.remove(seq) else { continue };
            self.tally.remove(&row.order);
            self.leave_lane(*seq, &mut row, now);
            self.ids.remove(&row.order.id());
            self.held.remove(&row.order.id());
            for (position, _) in &row.events {
                self.feed.remove(position);
                self.retained = self.retained.max(*position);
            }
            for name in &row.keys {
                // One that had expired may lead to another order by now.
                if self.keys.get(name).is_some_and(|key| key.seq == *seq) {
                    self.remove_key(name);
                }
            }
        }
        let gone = self.notices.extract_if(.., |_, notice| notice.at < before);
        if let Some((position, _)) = gone.last() {
            self.retained = self.retained.max(position);
        }
        let expired = self.keys_expiring.iter().take_while(|(at, _)| *at <= now).take(max);
        let expired: Vec<_> = expired.map(|(_, name)| name.clone()).collect();
        for name in &expired {
            self.remove_key(name);
        }
        old.len()
    }
}

fn check_bounds(commit: &Commit) -> Result<(), CommitError> {
    let results = commit.attempts.iter().filter_map(|attempt| attempt.result.as_ref());
    let result_bytes = results.map(|result| result.as_str().len()).max().unwrap_or(0);
    for (what, size, bytes_max) in [
        ("the data", commit.order.data.as_str().len(), DATA_BYTES_MAX),
        (
            "the commit's list of events",
            commit.events.len(),
            EVENTS_PER_COMMIT_MAX,
        ),
        ("a step's result", result_bytes, RESULT_BYTES_MAX),
    ] {
        if size > bytes_max {
            return Err(CommitError::TooLarge { what, bytes_max });
        }
    }
    Ok(())
}

/// Holds the caller to the numbering: a gap would be found only by whoever reads the history, and too late.
fn check_numbers(commit: &Commit, before: Option<&Head>) -> Result<(), CommitError> {
    let (events, attempts) = before.map_or((0, 0), |head| (head.events, head.attempts));
    let after = &commit.order.head;
    if follows(events, commit.events.iter().map(|event| event.number), after.events)
        && follows(
            attempts,
            commit.attempts.iter().map(|attempt| attempt.number),
            after.attempts,
        )
    {
        return Ok(());
    }
    let cause = std::io::Error::other("its events or attempts are not numbered on from the order's last");
    Err(StoreError::failed("take a commit", cause).into())
}

/// Whether numbers go on after `before` without a gap, up to `after`.
fn follows(before: u64, mut numbers: impl Iterator<Item = u64>, after: u64) -> bool {
    numbers.try_fold(before, |last, number| (number == last + 1).then_some(number)) == Some(after)
}

/// The results that stand: of each step the latest, unless it was taken back since.
fn results(attempts: &[Attempt]) -> Vec<(Arc<str>, Json)> {
    let mut results: Vec<(Arc<str>, Json)> = Vec::new();
    for attempt in attempts.iter().filter(|attempt| attempt.outcome == Outcome::Done) {
        if attempt.undo || attempt.result.is_some() {
            results.retain(|(step, _)| *step != attempt.step);
        }
        if let (false, Some(result)) = (attempt.undo, &attempt.result) {
            results.push((attempt.step.clone(), result.clone()));
        }
    }
    results
}
