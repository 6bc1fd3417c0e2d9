//! The one thread that writes: takes what is staged, makes one transaction of it, and answers when that is durable.
//!
//! # Why what is in memory is right
//!
//! The writer knows recent orders, counts and counters without reading them. That is exact because it is the only one
//! who writes, and because after any transaction that was not committed all of it is thrown away and read again
//! ([`Writer::stale`]). Nothing of a batch is published (claims, counts, position, answers) before its COMMIT, which
//! includes the fsync, has succeeded.

use std::collections::HashMap;
use std::sync::Arc;

use comanda_model::Token;
use comanda_store::{CommitError, Expect, Receipt, StatusCount, StoreError};
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::watch;

use crate::check::Verdict;
use crate::claims::{Claims, Moves};
use crate::clock::Clock;
use crate::current::Recent;
use crate::dictionary::Dictionary;
use crate::failure::{Context, Failure};
use crate::log::Log;
use crate::pending::Pending;
use crate::queue::{Operation, Queue, Staged};
use crate::statements::Statements;
use crate::tally::Tally;

/// The most commits in one transaction.
const BATCH_MAX: usize = 1000;

/// What the writer shares with the store's face.
pub(crate) struct Shared {
    pub(crate) queue: Queue,
    pub(crate) claims: Claims,
    pub(crate) clock: Clock,
    pub(crate) log: Log,
    /// How many orders stand where, by the row of `states`; and when that was so.
    pub(crate) counts: Mutex<HashMap<i64, StatusCount>>,
    /// Why the last write failed, if it did.
    pub(crate) ailment: Mutex<Option<StoreError>>,
    pub(crate) position: watch::Sender<u64>,
}

/// The counters that commits draw from.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CommitCounters {
    /// Counts transactions; tells whether one was applied.
    pub(crate) batch: i64,
    /// The newest order's number.
    pub(crate) seq: i64,
    /// The newest event's position in the feed.
    pub(crate) position: i64,
    /// The newest position in any lane.
    pub(crate) lane_position: i64,
}

impl CommitCounters {
    /// Reads the durable counters, and the newest time that the store has told.
    pub(crate) fn load(connection: &Connection) -> Result<(Self, i64), Failure> {
        Ok(connection
            .prepare_cached("SELECT batch, seq, position, lane_position, clock FROM state WHERE id = 0")?
            .query_row([], |row| {
                let counters = Self {
                    batch: row.get(0)?,
                    seq: row.get(1)?,
                    position: row.get(2)?,
                    lane_position: row.get(3)?,
                };
                Ok((counters, row.get(4)?))
            })?)
    }
}

/// The writer's side of the store.
pub(crate) struct Writer<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) statements: Statements<'c>,
    pub(crate) pending: Pending<'c>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) dictionary: Dictionary,
    pub(crate) recent: Recent,
    pub(crate) tally: Tally,
    pub(crate) counters: CommitCounters,
    /// What the batch does to claims.
    pub(crate) moves: Moves,
    /// Memory is ahead of the tables: a transaction was not committed.
    stale: bool,
    /// Whether an order that is to be new is looked for first. Nearly every id is new, and to look takes longer than to
    /// write; so this is done only once writing the batch has failed because something was there already. For the same
    /// reason it is not proved that a new id is new: beside a damaged entry it stands where a search may miss it, and
    /// [`crate::ids`] says then that it is damaged.
    looks_for_ids: bool,
}

/// Why a batch was not applied.
pub(crate) enum Aborted {
    /// It was not.
    Failed(Failure),
    /// COMMIT failed in a way that leaves open whether a crash will bring it back.
    Unknown(Failure),
}

impl From<Failure> for Aborted {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<rusqlite::Error> for Aborted {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.into())
    }
}

type Outcomes = Vec<Result<Receipt, CommitError>>;

/// Tells the queue that the writer has gone, also when it panicked.
struct Gone(Arc<Shared>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.queue.writer_gone();
    }
}

/// Runs the writer until the queue is closed.
pub(crate) fn run(mut connection: Connection, shared: &Arc<Shared>) {
    let gone = Gone(shared.clone());
    let log = shared.clone();
    let watched = connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
        log.log.grown_to(pages.max(0) as u64);
        Ok(())
    }));
    let writer = watched
        .map_err(Failure::from)
        .and_then(|()| Writer::new(&connection, shared.clone()));
    match writer {
        Ok(mut writer) => writer.work(),
        Err(failure) => {
            *shared.ailment.lock() = Some(failure.into_store_error("start writing"));
        }
    }
    shared.log.finish(&connection);
    drop(gone);
}

impl<'c> Writer<'c> {
    fn new(connection: &'c Connection, shared: Arc<Shared>) -> Result<Self, Failure> {
        let (counters, _) = CommitCounters::load(connection)?;
        let mut writer = Self {
            connection,
            statements: Statements::prepare(connection)?,
            pending: Pending::new(connection),
            shared,
            dictionary: Dictionary::default(),
            recent: Recent::default(),
            tally: Tally::load(connection)?,
            counters,
            moves: Moves::default(),
            stale: false,
            looks_for_ids: false,
        };
        let all: Vec<_> = writer.tally.all().collect();
        writer.publish_counts(all);
        Ok(writer)
    }

    fn work(&mut self) {
        loop {
            let work = self.shared.queue.take(BATCH_MAX);
            if !work.commits.is_empty() || !work.operations.is_empty() {
                self.batch(work.commits, work.operations);
            }
            for job in work.jobs {
                job(self);
            }
            self.shared.log.tend(self.connection);
            if work.last {
                return;
            }
        }
    }

    /// Applies a batch and answers it.
    fn batch(&mut self, staged: Vec<Staged>, mut operations: Vec<Box<dyn Operation>>) {
        match self.transact(&staged, &mut operations) {
            Ok(outcomes) => {
                self.answer(staged, outcomes);
                operations.into_iter().for_each(|operation| operation.answer(Ok(())));
            }
            Err(Aborted::Failed(failure)) if staged.len() + operations.len() > 1 && !failure.is_of_the_disk() => {
                // One of them met something that is damaged. Each alone, so that the others do not pay for it.
                for one in staged {
                    match self.transact(std::slice::from_ref(&one), &mut []) {
                        Ok(outcomes) => self.answer(vec![one], outcomes),
                        Err(aborted) => self.fail(vec![one], Vec::new(), aborted),
                    }
                }
                for mut one in operations {
                    match self.transact(&[], std::slice::from_mut(&mut one)) {
                        Ok(_) => one.answer(Ok(())),
                        Err(aborted) => self.fail(Vec::new(), vec![one], aborted),
                    }
                }
            }
            Err(aborted) => self.fail(staged, operations, aborted),
        }
    }

    fn answer(&mut self, staged: Vec<Staged>, outcomes: Outcomes) {
        for (one, outcome) in staged.into_iter().zip(outcomes) {
            // A caller that has stopped waiting for its ticket needs no answer.
            let _ = one.answer.send(outcome);
        }
    }

    fn fail(&mut self, staged: Vec<Staged>, operations: Vec<Box<dyn Operation>>, aborted: Aborted) {
        let (failure, unknown) = match aborted {
            Aborted::Failed(failure) => (failure, false),
            Aborted::Unknown(failure) => (failure, true),
        };
        let error = failure.into_store_error("write a commit");
        *self.shared.ailment.lock() = Some(error.clone());
        for operation in operations {
            operation.answer(Err(error.clone()));
        }
        let error = if unknown {
            CommitError::Unknown
        } else {
            CommitError::Store(error)
        };
        for one in staged {
            let _ = one.answer.send(Err(error.clone()));
        }
    }

    /// One transaction: all that can be applied of the given commits, then the operations. Publishes it when it is
    /// durable.
    fn transact(&mut self, staged: &[Staged], operations: &mut [Box<dyn Operation>]) -> Result<Outcomes, Aborted> {
        let outcome = self.transact_once(staged, operations);
        if !matches!(&outcome, Err(Aborted::Failed(failure)) if failure.is_of_a_unique_key()) {
            return outcome;
        }
        self.looks_for_ids = true;
        let outcome = self.transact_once(staged, operations);
        self.looks_for_ids = false;
        outcome
    }

    fn transact_once(&mut self, staged: &[Staged], operations: &mut [Box<dyn Operation>]) -> Result<Outcomes, Aborted> {
        let outcome = self.within_transaction(|writer| {
            let now = writer.shared.clock.micros();
            let mut applied = false;
            let mut outcomes = Vec::with_capacity(staged.len());
            for one in staged {
                let outcome = writer.one(one, now)?;
                applied |= matches!(outcome, Ok((_, true)));
                outcomes.push(outcome.map(|(receipt, _)| receipt));
            }
            if !operations.is_empty() {
                writer.write_pending()?;
            }
            for operation in operations {
                applied |= operation.apply(writer, now)?;
            }
            Ok((outcomes, applied))
        });
        // Whatever came of it: what moved stands still now, or has been published.
        self.shared.claims.stand_still();
        outcome
    }

    /// One commit. Answers its receipt and whether anything was written; a failure is the whole batch's.
    fn one(&mut self, staged: &Staged, now: i64) -> Result<Result<(Receipt, bool), CommitError>, Failure> {
        let commit = &staged.commit;
        let id = commit.order.id();
        self.write_pending_of(id)?;
        let is_new = commit.expect == Expect::Absent && !self.looks_for_ids && !self.recent.contains(id);
        let current = match if is_new { Ok(None) } else { self.current(id) } {
            Ok(current) => current,
            // Reading one order's rows failed; that is nobody else's matter.
            Err(failure) => return Ok(Err(failure.into_store_error("read the order").into())),
        };
        let seq = current.as_ref().map(|current| current.seq);
        let held = self.shared.claims.mark_moving(id, seq);
        let held: Option<Token> = match self.moves.get(&id) {
            Some((_, moved)) => moved.as_ref().map(|moved| moved.token),
            None => held,
        };
        let verdict = self.check(commit, current.as_ref(), held, now);
        let refused = match (verdict, current) {
            (Ok(Verdict::Apply(balances)), current) => {
                let receipt = self.apply(commit, staged.rest.as_deref(), current, now)?;
                if !commit.ledger.is_empty() {
                    let seq = seq.unwrap_or(self.counters.seq);
                    self.write_ledger(seq, &commit.ledger, &balances)?;
                }
                if seq.is_none() {
                    self.shared.claims.mark_moving(id, Some(self.counters.seq));
                }
                return Ok(Ok((receipt, true)));
            }
            (Ok(Verdict::Repeated), Some(current)) => {
                let receipt = self.receipt_again(commit, &current, held);
                self.recent.put(id, current);
                return Ok(receipt
                    .map(|receipt| (receipt, false))
                    .map_err(|failure| failure.into_store_error("read the order").into()));
            }
            // Only an order that is there can have been committed to before.
            (Ok(Verdict::Repeated), None) => CommitError::VersionMoved { actual: 0 },
            (Err(error), current) => {
                if let Some(current) = current {
                    self.recent.put(id, current);
                }
                error
            }
        };
        Ok(Err(refused))
    }

    /// Runs `change` in a transaction. What it answers is kept if it answers that it wrote anything; then everything
    /// is published. If anything fails, nothing has happened.
    pub(crate) fn within_transaction<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<(T, bool), Failure>,
    ) -> Result<T, Aborted> {
        if self.stale {
            self.reload()?;
        }
        self.moves.clear();
        self.pending.clear();
        if !self.connection.is_autocommit() {
            // The last rollback failed. Until one succeeds, nothing can be written.
            self.connection.execute_batch("ROLLBACK")?;
        }
        self.statements.begin.execute([])?;
        let answer = change(self).and_then(|(answer, wrote)| {
            if wrote {
                self.write_pending()?;
                self.write_counters()?;
            }
            Ok((answer, wrote))
        });
        match answer {
            Ok((answer, false)) => {
                // Nothing was written, so nothing in memory is ahead of the tables.
                self.connection.execute_batch("ROLLBACK")?;
                Ok(answer)
            }
            Ok((answer, true)) => {
                if let Err(error) = self.statements.commit.execute([]) {
                    self.resolve(error.into())?;
                }
                self.publish();
                Ok(answer)
            }
            Err(failure) => {
                self.roll_back();
                Err(failure.into())
            }
        }
    }

    fn write_counters(&mut self) -> Result<(), Failure> {
        self.counters.batch += 1;
        let CommitCounters {
            batch,
            seq,
            position,
            lane_position,
        } = self.counters;
        let clock = self.shared.clock.micros();
        self.statements
            .write_counters
            .execute((batch, seq, position, lane_position, clock))?;
        self.tally.write(&mut self.statements)
    }

    /// COMMIT failed. Looks whether it was applied: `Ok` if it was.
    fn resolve(&mut self, failure: Failure) -> Result<(), Aborted> {
        let batch = self.counters.batch;
        let moves = std::mem::take(&mut self.moves);
        self.roll_back();
        if !failure.leaves_the_outcome_open() {
            return Err(Aborted::Failed(failure));
        }
        match self.reload() {
            Ok(()) if self.counters.batch >= batch => {
                self.moves = moves;
                let all: Vec<_> = self.tally.all().collect();
                self.publish_counts(all);
                return Ok(());
            }
            Ok(()) => {}
            Err(_) => return Err(Aborted::Unknown(failure)),
        }
        // Not applied, but its frames may stand in the log behind the last that counts, and a crash now would bring
        // them back. Any other transaction takes their place.
        match self.probe() {
            Ok(()) => Err(Aborted::Failed(failure)),
            Err(_) => Err(Aborted::Unknown(failure)),
        }
    }

    /// Writes nothing but the counters, to see whether writing works.
    fn probe(&mut self) -> Result<(), Failure> {
        self.connection
            .execute_batch("BEGIN IMMEDIATE; UPDATE state SET batch = batch + 1; COMMIT")
            .map_err(|error| {
                self.roll_back();
                Failure::from(error)
            })?;
        self.counters.batch += 1;
        Ok(())
    }

    /// Whether the store can be written to, found out by writing.
    pub(crate) fn check_health(&mut self) -> Result<(), StoreError> {
        let probed = if self.stale { self.reload() } else { Ok(()) }.and_then(|()| self.probe());
        let answer = probed.context("write");
        *self.shared.ailment.lock() = answer.as_ref().err().cloned();
        answer
    }

    fn roll_back(&mut self) {
        self.stale = true;
        // Some failures have ended the transaction already.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }

    fn reload(&mut self) -> Result<(), Failure> {
        self.dictionary.clear();
        self.recent.clear();
        self.moves.clear();
        self.tally = Tally::load(self.connection)?;
        (self.counters, _) = CommitCounters::load(self.connection)?;
        self.stale = false;
        Ok(())
    }

    fn publish(&mut self) {
        self.shared.claims.publish(&self.moves, self.shared.clock.micros());
        let changed = self.tally.take_changed();
        self.publish_counts(changed);
        self.shared.ailment.lock().take();
        let position = self.counters.position as u64;
        self.shared.position.send_if_modified(|known| {
            let moved = *known != position;
            *known = position;
            moved
        });
    }

    fn publish_counts(&mut self, counts: Vec<(i64, i64)>) {
        if counts.is_empty() {
            return;
        }
        let mut published = self.shared.counts.lock();
        for (state, n) in counts {
            match self.dictionary.state(self.connection, state) {
                Ok(found) => {
                    let count = StatusCount {
                        order_type: found.order_type.to_string(),
                        status: found.status.to_string(),
                        phase: found.phase,
                        count: n.max(0) as u64,
                    };
                    published.insert(state, count);
                }
                // Durable and counted all the same; only the name under which to show it cannot be read.
                Err(failure) => {
                    let error = failure.into_store_error("read a state");
                    tracing::error!(%error, "a count cannot be shown");
                }
            }
        }
    }
}
