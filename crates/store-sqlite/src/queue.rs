//! What waits for the writer: commits, and jobs that must run between them.

use std::collections::VecDeque;
use std::time::Duration;

use comanda_store::{Commit, CommitError, Receipt, StoreError, Ticket};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::row;
use crate::writer::Writer;

/// When a full queue tells to try again.
const BUSY_AFTER: Duration = Duration::from_secs(1);
/// How long the writer waits for more when it finds far fewer commits than it had just now: about half of what a sync
/// takes on a quick disk.
const PATIENCE: Duration = Duration::from_micros(250);

/// A commit that waits for its batch.
pub(crate) struct Staged {
    pub(crate) commit: Commit,
    /// The head's rest as JSON, made by the caller's thread: the writer's time is what bounds the store.
    pub(crate) rest: Option<String>,
    pub(crate) answer: oneshot::Sender<Result<Receipt, CommitError>>,
}

/// Something that is not a commit and is written with a batch of them: a claim of a worker from outside, say.
pub(crate) trait Operation: Send {
    /// Writes. Answers whether anything was written. Called again if the transaction was rolled back for another's sake.
    fn apply(&mut self, writer: &mut Writer<'_>, now: i64) -> Result<bool, Failure>;

    /// What was written is durable, or could not be written.
    fn answer(self: Box<Self>, outcome: Result<(), StoreError>);
}

/// An operation made of a function that answers something, and whether it wrote.
pub(crate) struct Asked<T, F> {
    pub(crate) run: F,
    pub(crate) found: Option<T>,
    pub(crate) answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Operation for Asked<T, F>
where
    T: Send,
    F: FnMut(&mut Writer<'_>, i64) -> Result<(T, bool), Failure> + Send,
{
    fn apply(&mut self, writer: &mut Writer<'_>, now: i64) -> Result<bool, Failure> {
        if self.answer.is_closed() {
            // Nobody waits any more: what nobody learns of is better not done.
            return Ok(false);
        }
        let (found, wrote) = (self.run)(writer, now)?;
        self.found = Some(found);
        Ok(wrote)
    }

    fn answer(self: Box<Self>, outcome: Result<(), StoreError>) {
        let answer = match (outcome, self.found) {
            (Ok(()), Some(found)) => Ok(found),
            (Err(error), _) => Err(error),
            (Ok(()), None) => return,
        };
        // A caller that has stopped waiting needs no answer.
        let _ = self.answer.send(answer);
    }
}

/// Something to do on the writer's thread, between two batches.
pub(crate) type Job = Box<dyn for<'c> FnOnce(&mut Writer<'c>) + Send>;

#[derive(Default)]
struct Inner {
    commits: VecDeque<Staged>,
    operations: VecDeque<Box<dyn Operation>>,
    jobs: VecDeque<Job>,
    /// Takes nothing more; what is in it is still done.
    closing: bool,
    /// The writer has gone.
    closed: bool,
    /// How many commits were taken last.
    latest: usize,
}

/// The writer's queue.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
    commits_max: usize,
}

/// What the writer finds when it looks.
pub(crate) struct Work {
    pub(crate) commits: Vec<Staged>,
    pub(crate) operations: Vec<Box<dyn Operation>>,
    pub(crate) jobs: Vec<Job>,
    /// Nothing more will come.
    pub(crate) last: bool,
}

impl Queue {
    /// A queue that holds up to `commits_max` commits.
    pub(crate) fn new(commits_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            filled: Condvar::new(),
            commits_max,
        }
    }

    /// Stages commits in the order given. Never waits.
    pub(crate) fn stage(&self, commits: Vec<Commit>) -> Vec<Ticket> {
        let mut tickets = Vec::with_capacity(commits.len());
        let mut staged = Vec::with_capacity(commits.len());
        for commit in commits {
            match row::rest_of(&commit.order.head) {
                Ok(rest) => {
                    let (answer, ticket) = Ticket::new();
                    staged.push(Staged { commit, rest, answer });
                    tickets.push(ticket);
                }
                Err(error) => {
                    tickets.push(Ticket::failed(
                        StoreError::failed("write the order's head as JSON", error).into(),
                    ));
                }
            }
        }
        let mut refused = None;
        {
            let mut inner = self.inner.lock();
            if inner.closing || inner.closed {
                refused = Some(CommitError::Closed);
            } else {
                let room = self.commits_max.saturating_sub(inner.commits.len());
                let rest = staged.split_off(staged.len().min(room));
                inner.commits.extend(staged);
                staged = rest;
                if !staged.is_empty() {
                    refused = Some(CommitError::Busy { after: BUSY_AFTER });
                }
            }
        }
        self.filled.notify_one();
        if let Some(error) = refused {
            for one in staged {
                // A caller that has stopped waiting for its ticket needs no answer.
                let _ = one.answer.send(Err(error.clone()));
            }
        }
        tickets
    }

    /// Stages an operation for the next batch; `false` if the writer takes no more.
    pub(crate) fn operate(&self, operation: Box<dyn Operation>) -> bool {
        let mut inner = self.inner.lock();
        if inner.closing || inner.closed || inner.operations.len() >= self.commits_max {
            return false;
        }
        inner.operations.push_back(operation);
        drop(inner);
        self.filled.notify_one();
        true
    }

    /// Has the writer do something; `false` if it no longer can.
    pub(crate) fn run(&self, job: Job) -> bool {
        let mut inner = self.inner.lock();
        if inner.closing || inner.closed {
            return false;
        }
        inner.jobs.push_back(job);
        drop(inner);
        self.filled.notify_one();
        true
    }

    /// Waits for work and takes up to `max` commits and all jobs.
    pub(crate) fn take(&self, max: usize) -> Work {
        let mut inner = self.inner.lock();
        while inner.commits.is_empty() && inner.operations.is_empty() && inner.jobs.is_empty() && !inner.closing {
            self.filled.wait(&mut inner);
        }
        if !inner.closing && inner.jobs.is_empty() && inner.commits.len() < inner.latest / 2 {
            // Under load the answers of the batch before are just bringing the next commits. A moment's patience makes
            // one sync of what would else be two; a lone client, whose batches are of one, never waits.
            drop(inner);
            std::thread::sleep(PATIENCE);
            inner = self.inner.lock();
        }
        let count = inner.commits.len().min(max);
        inner.latest = count;
        let commits = inner.commits.drain(..count).collect();
        let jobs = inner.jobs.drain(..).collect();
        let operations = inner.operations.drain(..).collect();
        Work {
            commits,
            operations,
            jobs,
            last: inner.closing && inner.commits.is_empty(),
        }
    }

    /// Takes nothing more; what is staged is still made durable.
    pub(crate) fn close(&self) {
        self.inner.lock().closing = true;
        self.filled.notify_all();
    }

    /// The writer has gone. Whoever still waits learns that the outcome is unknown.
    pub(crate) fn writer_gone(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        let (commits, jobs) = (std::mem::take(&mut inner.commits), std::mem::take(&mut inner.jobs));
        let operations = std::mem::take(&mut inner.operations);
        drop(inner);
        drop((commits, operations, jobs));
    }

    /// Whether commits are taken.
    pub(crate) fn is_open(&self) -> bool {
        let inner = self.inner.lock();
        !inner.closing && !inner.closed
    }
}
