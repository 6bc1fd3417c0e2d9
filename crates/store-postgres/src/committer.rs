//! The committer: takes what has been staged, as many commits at a time as there are, and has them applied in one
//! transaction that is one round trip.
//!
//! One batch of a node is under way at a time, so commits of one node are applied in the order in which they were
//! staged, also where one was decided on another that is not durable yet. While a batch is at the server the next one
//! gathers, which is what makes batches grow with the load.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use comanda_store::{Commit, CommitError, Receipt, StoreError, Ticket};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::batch::Batch;
use crate::clock::Clock;
use crate::failure::{Failure, Remedy};
use crate::server::Server;

/// The most commits of one batch.
const BATCH_MAX: usize = 256;
/// The most bytes of data in one batch, so that no message grows past what is reasonable.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// For how long more is waited for under load, and how many commits the batch before has to have had for that.
const GATHER: Duration = Duration::from_millis(1);
const GATHER_FROM: usize = 16;
/// For how long a batch that could not be written tells that none can be. Only another batch can tell whether there is room
/// again, and none comes while whoever sends them looks whether this node is ready. A smaller one proves nothing: it may
/// have found room in a page that was there.
const UNWRITABLE_KEPT: Duration = Duration::from_secs(5);
/// When a full queue tells to try again.
const BUSY_AFTER: Duration = Duration::from_secs(1);

/// A commit that waits for its batch.
#[derive(Debug)]
struct Staged {
    commit: Commit,
    answer: oneshot::Sender<Result<Receipt, CommitError>>,
}

#[derive(Debug, Default)]
struct Inner {
    staged: VecDeque<Staged>,
    /// Takes nothing more; what is in it is still done.
    closing: bool,
}

/// What waits for the committer.
#[derive(Debug)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    filled: Notify,
    commits_max: usize,
    /// Why a batch could not be written, and when, if one could not.
    unwritable: Mutex<Option<(Instant, StoreError)>>,
}

impl Queue {
    /// A queue that holds up to `commits_max` commits.
    pub(crate) fn new(commits_max: usize) -> Self {
        Self {
            inner: Mutex::default(),
            filled: Notify::new(),
            commits_max,
            unwritable: Mutex::default(),
        }
    }

    /// Why nothing can be written, as far as is known: a batch has lately failed for it.
    pub(crate) fn unwritable(&self) -> Option<StoreError> {
        let unwritable = self.unwritable.lock();
        let (at, error) = unwritable.as_ref()?;
        (at.elapsed() < UNWRITABLE_KEPT).then(|| error.clone())
    }

    /// Learns from a batch whether the server writes.
    fn learn<T>(&self, sent: &Result<T, Failure>) {
        let mut unwritable = self.unwritable.lock();
        match sent {
            Ok(_) => {
                unwritable.take_if(|(_, error)| !matches!(error, StoreError::Full(_)));
            }
            Err(failure) => {
                if let Some(error) = failure.of_writes() {
                    *unwritable = Some((Instant::now(), error.clone()));
                }
            }
        }
    }

    /// Stages commits in the order given. Never waits.
    pub(crate) fn stage(&self, commits: Vec<Commit>) -> Vec<Ticket> {
        let mut inner = self.inner.lock();
        let tickets = commits
            .into_iter()
            .map(|commit| {
                if inner.closing {
                    return Ticket::failed(CommitError::Closed);
                }
                if inner.staged.len() >= self.commits_max {
                    return Ticket::failed(CommitError::Busy { after: BUSY_AFTER });
                }
                let (answer, ticket) = Ticket::new();
                inner.staged.push_back(Staged { commit, answer });
                ticket
            })
            .collect();
        drop(inner);
        self.filled.notify_one();
        tickets
    }

    /// Takes nothing more; what is staged is still made durable.
    pub(crate) fn close(&self) {
        self.inner.lock().closing = true;
        self.filled.notify_one();
    }

    /// Whether more would fit into the next batch.
    fn has_room(&self) -> bool {
        let inner = self.inner.lock();
        inner.staged.len() < BATCH_MAX && !inner.closing
    }

    /// Whether commits are taken.
    pub(crate) fn is_open(&self) -> bool {
        !self.inner.lock().closing
    }

    /// The next batch; `None` when nothing more will come. `latest` is how many commits the one before had. Where those were
    /// many, their answers are just bringing the next: taken together with what has gathered meanwhile, they make one batch of two,
    /// each of which costs the server the same besides. A few clients never wait for others.
    async fn take(&self, latest: usize) -> Option<Vec<Staged>> {
        if latest >= GATHER_FROM && self.has_room() {
            tokio::time::sleep(GATHER).await;
        }
        loop {
            {
                let mut inner = self.inner.lock();
                let mut bytes = 0;
                let fitting = inner.staged.iter().take(BATCH_MAX).take_while(|staged| {
                    bytes += staged.commit.order.data.as_str().len();
                    bytes <= BATCH_BYTES_MAX
                });
                let count = fitting.count().max(1).min(inner.staged.len());
                if count > 0 {
                    return Some(inner.staged.drain(..count).collect());
                }
                if inner.closing {
                    return None;
                }
            }
            self.filled.notified().await;
        }
    }
}

/// What applies the batches.
#[derive(Debug)]
pub(crate) struct Committer {
    pub(crate) server: Server,
    pub(crate) node: Uuid,
    pub(crate) queue: Arc<Queue>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) position: watch::Sender<u64>,
}

impl Committer {
    /// Works until the queue is closed and empty.
    pub(crate) async fn run(self) {
        let statement = Batch::statement();
        let mut latest = 0;
        while let Some(staged) = self.queue.take(latest).await {
            latest = staged.len();
            self.apply(&statement, staged).await;
        }
    }

    async fn apply(&self, statement: &str, staged: Vec<Staged>) {
        match self.send(statement, &staged).await {
            Ok(answers) => answer_all(staged, answers),
            Err(Failure::NotApplied {
                remedy: Remedy::Apart, ..
            }) if staged.len() > 1 => {
                // One of them cannot be stored: each alone, so that only that one fails.
                for one in staged {
                    let one = vec![one];
                    match self.send(statement, &one).await {
                        Ok(answers) => answer_all(one, answers),
                        Err(failure) => fail_all(one, &failure),
                    }
                }
            }
            Err(failure) => fail_all(staged, &failure),
        }
    }

    /// Has a batch applied; again where it met other transactions, after which nothing of it was applied.
    async fn send(&self, statement: &str, staged: &[Staged]) -> Result<Vec<Result<Receipt, CommitError>>, Failure> {
        const WHAT: &str = "commit";
        let batch = Batch::of(staged.iter().map(|staged| &staged.commit)).map_err(|error| Failure::NotApplied {
            error,
            remedy: Remedy::Apart,
        })?;
        let mut parameters = batch.parameters();
        parameters.push((&self.node, Type::UUID));
        let sent = self.server.ask_again(WHAT, statement, &parameters).await;
        self.queue.learn(&sent);
        let rows = sent?;
        if let Some(clock) = rows.first().map(|row| row.get::<_, Timestamp>("clock")) {
            self.clock.learn(clock);
        }
        if rows.len() != staged.len() {
            let cause = std::io::Error::other("the server did not answer for every commit");
            return Err(Failure::Unknown(StoreError::failed(WHAT, cause)));
        }
        let answers: Vec<_> = rows
            .iter()
            .zip(staged)
            .map(|(row, staged)| batch.answer(row, &staged.commit))
            .collect();
        let newest = answers.iter().flatten().map(|receipt| receipt.position).max();
        announce(&self.position, newest.unwrap_or(0));
        Ok(answers)
    }
}

/// Announces the newest position, if it has moved.
pub(crate) fn announce(position: &watch::Sender<u64>, newest: u64) {
    position.send_if_modified(|position| {
        let moved = newest > *position;
        *position = newest.max(*position);
        moved
    });
}

fn answer_all(staged: Vec<Staged>, answers: Vec<Result<Receipt, CommitError>>) {
    for (staged, answer) in staged.into_iter().zip(answers) {
        // A caller that has stopped waiting for its ticket needs no answer.
        let _ = staged.answer.send(answer);
    }
}

fn fail_all(staged: Vec<Staged>, failure: &Failure) {
    let error = match failure {
        Failure::NotApplied { error, .. } => CommitError::Store(error.clone()),
        Failure::Unknown(error) | Failure::Late(error) => {
            tracing::warn!(%error, commits = staged.len(), "the answer to a batch was lost");
            CommitError::Unknown
        }
    };
    for staged in staged {
        let _ = staged.answer.send(Err(error.clone()));
    }
}
