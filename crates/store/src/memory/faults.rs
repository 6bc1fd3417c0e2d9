//! Failing on purpose: what can happen to a commit on its way, so that tests need no broken disk.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Answer, Inner, Shared};
use crate::{Commit, CommitError, Receipt, StoreError};

/// The most commits that wait while the store is stalled; past it they are told to come again.
const STAGED_MAX: usize = 10_000;

/// What a caller that is told to come again is told to wait.
const BUSY_AFTER: Duration = Duration::from_millis(10);

/// What is to go wrong, and what waits meanwhile.
#[derive(Default)]
pub(super) struct Plan {
    fail: u32,
    lose: u32,
    busy: u32,
    fail_progress: u32,
    lose_progress: u32,
    stalling: bool,
    staged: VecDeque<(Commit, Answer)>,
}

/// Makes a store fail on purpose. Counts are of commits that are still to come, and setting one replaces it; 0 ends a
/// fault. Where several are set, a commit is first turned away as busy, then stalled, then failed, then its answer lost.
#[derive(Clone)]
pub struct Faults(pub(super) Arc<Shared>);

impl Faults {
    /// The next `count` commits are not applied, and answered with [`StoreError::Failed`].
    pub fn fail_next_commits(&self, count: u32) {
        self.0.inner.lock().faults.fail = count;
    }

    /// The next `count` commits are applied if they can be, and then answered with [`CommitError::Unknown`]. One that
    /// cannot be applied is answered with the reason.
    pub fn lose_next_answers(&self, count: u32) {
        self.0.inner.lock().faults.lose = count;
    }

    /// The next `count` advances of subscriptions are not applied, and answered with [`StoreError::Failed`].
    pub fn fail_next_progress(&self, count: u32) {
        self.0.inner.lock().faults.fail_progress = count;
    }

    /// The next `count` advances of subscriptions are applied, and then answered with [`StoreError::Failed`].
    pub fn lose_next_progress(&self, count: u32) {
        self.0.inner.lock().faults.lose_progress = count;
    }

    /// The next `count` commits are not applied, and answered with [`CommitError::Busy`].
    pub fn busy_next(&self, count: u32) {
        self.0.inner.lock().faults.busy = count;
    }

    /// From now on commits are staged, and neither visible nor answered, until [`Faults::resume`].
    pub fn stall(&self) {
        self.0.inner.lock().faults.stalling = true;
    }

    /// Applies what was staged, in order, and goes on as before the stall.
    pub fn resume(&self) {
        let mut inner = self.0.inner.lock();
        inner.faults.stalling = false;
        while let Some((commit, answer)) = inner.faults.staged.pop_front() {
            inner.settle(commit, answer);
        }
        let newest = inner.state.last_position;
        drop(inner);
        self.0.announce(newest);
    }

    /// Applies the first commit that was staged, and goes on staging. Answers whether there was one.
    pub fn let_one_through(&self) -> bool {
        let mut inner = self.0.inner.lock();
        let Some((commit, answer)) = inner.faults.staged.pop_front() else {
            return false;
        };
        inner.settle(commit, answer);
        let newest = inner.state.last_position;
        drop(inner);
        self.0.announce(newest);
        true
    }

    /// Ends the claims of the process, as when it has died; those of workers from outside stand. What is staged dies
    /// with it: it is not applied, and its tickets resolve as unknown.
    pub fn crash(&self) {
        let mut inner = self.0.inner.lock();
        inner.faults = Plan::default();
        inner.state.held.retain(|_, held| held.worker.is_some());
    }

    /// How many commits wait for [`Faults::resume`].
    pub fn staged(&self) -> usize {
        self.0.inner.lock().faults.staged.len()
    }
}

impl Inner {
    /// Takes a commit: applies it, or keeps it while the store is stalled.
    pub(super) fn stage(&mut self, commit: Commit, answer: Answer) {
        let plan = &mut self.faults;
        if plan.busy > 0 || plan.staged.len() >= STAGED_MAX {
            plan.busy = plan.busy.saturating_sub(1);
            // Nobody waits any more if this fails; so below.
            let _ = answer.send(Err(CommitError::Busy { after: BUSY_AFTER }));
        } else if plan.stalling {
            plan.staged.push_back((commit, answer));
        } else {
            self.settle(commit, answer);
        }
    }

    /// Whether an advance of a subscription fails.
    pub(super) fn fails_progress(&mut self) -> Result<(), StoreError> {
        on_purpose(&mut self.faults.fail_progress)
    }

    /// Whether the answer to an advance of a subscription that was applied is lost.
    pub(super) fn loses_progress(&mut self) -> Result<(), StoreError> {
        on_purpose(&mut self.faults.lose_progress)
    }

    fn settle(&mut self, commit: Commit, answer: Answer) {
        let _ = answer.send(self.come_to(commit));
    }

    fn come_to(&mut self, commit: Commit) -> Result<Receipt, CommitError> {
        if self.faults.fail > 0 {
            self.faults.fail -= 1;
            let source = std::io::Error::other("failed on purpose");
            return Err(StoreError::failed("commit", source).into());
        }
        let answer = self.state.commit(commit);
        if self.faults.lose > 0 {
            self.faults.lose -= 1;
            return answer.and(Err(CommitError::Unknown));
        }
        answer
    }
}

/// Fails as often as is left.
fn on_purpose(left: &mut u32) -> Result<(), StoreError> {
    if *left == 0 {
        return Ok(());
    }
    *left -= 1;
    Err(StoreError::failed(
        "advance",
        std::io::Error::other("failed on purpose"),
    ))
}
