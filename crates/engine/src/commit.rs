//! How a decided change becomes a commit, and how a commit whose answer was lost is resolved.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::decision::Change;
use comanda_model::{Attempt, CommitId, Event, Order, Token};
use comanda_store::{ClaimMove, Commit, CommitError, Expect, KeyClaim, Place, Receipt, StoreError};
use tokio::sync::OwnedSemaphorePermit;

use crate::service::Core;
use crate::settling::Settling;

/// How often an unknown outcome is looked up before it is given up as unknown.
const LOOK_UPS_MAX: u32 = 5;

/// A commit in the making: what the store is asked for, and what the committer keeps.
pub(crate) struct Prepared {
    pub(crate) commit: Commit,
    pub(crate) taking: Option<Taking>,
}

/// What a commit is known by when its answer was lost and others have changed the order since.
pub(crate) struct Written {
    expect: Expect,
    attempt: Option<Attempt>,
    event: Option<Event>,
}

impl Written {
    pub(crate) fn of(commit: &Commit) -> Self {
        Self {
            expect: commit.expect,
            attempt: commit.attempts.last().cloned(),
            event: commit.events.last().cloned(),
        }
    }
}

/// The next work that a committer asks to take.
pub(crate) struct Taking {
    pub(crate) token: Token,
    pub(crate) permit: OwnedSemaphorePermit,
}

impl Core {
    /// Makes a commit of a change. If its next work is due at once and there is room, the commit asks to claim it, with
    /// `permit` or with a free one.
    pub(crate) fn prepare(
        &self,
        mut change: Change,
        expect: Expect,
        keys: Vec<KeyClaim>,
        claimed: bool,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Prepared {
        let chance = &self.options.chance;
        change.order.head.commit_id = CommitId(chance.random_id());
        if is_command(expect) {
            change.order.head.remember_command();
        }
        let due_now = change
            .order
            .head
            .due_at(true)
            .is_some_and(|due_at| due_at <= change.order.head.updated_at);
        let may_take = due_now && (change.ends_claim || !claimed) && !self.stopping.is_cancelled();
        let permit = may_take
            .then(|| permit.or_else(|| self.outstanding.clone().try_acquire_owned().ok()))
            .flatten();
        let taking = permit.map(|permit| {
            let work = change.order.head.work.as_ref();
            let token = Token {
                order: change.order.id(),
                visit: work.map_or(0, |work| work.visit),
                attempt: work.map_or(0, |work| work.attempt),
                secret: chance.random_id(),
            };
            Taking { token, permit }
        });
        let claim = match &taking {
            Some(taking) => ClaimMove::Take {
                token: taking.token,
                lease: self.options.lease,
            },
            None if change.ends_claim => ClaimMove::End,
            None => ClaimMove::Keep,
        };
        let commit = Commit {
            expect,
            order: Arc::new(change.order),
            data_changed: change.data_changed,
            events: change.events,
            attempts: change.attempts,
            lane: change.lane,
            enqueue: change.enqueue,
            keys,
            ledger: change.ledger,
            claim,
        };
        Prepared { commit, taking }
    }

    /// Stages one commit, at once, and waits until it is durable. Answers with the order as the commit left it.
    ///
    /// Not an `async fn`: the commit itself would stand in the future, which is moved about with every submission.
    pub(crate) fn commit_one(
        &self,
        commit: Commit,
    ) -> impl Future<Output = Result<(Receipt, Arc<Order>), CommitError>> + Send + '_ {
        let (order, written) = (commit.order.clone(), Written::of(&commit));
        let taken = match commit.claim {
            ClaimMove::Take { token, .. } => Some(token),
            ClaimMove::Keep | ClaimMove::End => None,
        };
        let ticket = self.store.commit(vec![commit]).into_iter().next();
        let settling = ticket.map(|ticket| self.settling(ticket, taken));
        async move {
            let settling = settling.ok_or(CommitError::Closed)?;
            let receipt = self.resolve(settling, &order, &written, taken).await?;
            Ok((receipt, order))
        }
    }

    /// Waits for a commit. An unknown outcome is resolved by reading, never by guessing.
    /// `taken` is the token of the claim that the commit asked for.
    pub(crate) async fn resolve(
        &self,
        settling: Settling,
        order: &Order,
        written: &Written,
        taken: Option<Token>,
    ) -> Result<Receipt, CommitError> {
        match settling.await {
            // Rare and large: on the heap, so that the future of every other commit is small.
            Err(CommitError::Unknown) => {
                let found = Box::pin(self.look_up(order, written, taken)).await;
                if let (Err(_), Some(token)) = (&found, taken) {
                    // Nobody will use it, also if the commit comes to be applied after all.
                    self.releases.release_in_doubt(token);
                }
                found
            }
            answer => answer,
        }
    }

    async fn look_up(&self, order: &Order, written: &Written, taken: Option<Token>) -> Result<Receipt, CommitError> {
        for look_up in 0..LOOK_UPS_MAX {
            if look_up > 0 {
                tokio::time::sleep(Duration::from_millis(50 << look_up)).await;
            }
            let stored = match self.store.order(order.id()).await {
                Ok(stored) => stored,
                Err(error) => {
                    tracing::warn!(order = %order.id(), %error, "the outcome of a commit could not be looked up yet");
                    continue;
                }
            };
            let actual = stored.as_ref().map_or(0, |stored| stored.order.head.version);
            let applied = match (&stored, written.expect) {
                (None, _) => false,
                // Order ids are random, so an order under this one is the one that this commit made.
                (Some(_), Expect::Absent) => true,
                (Some(stored), Expect::At { .. } | Expect::Queued { .. }) if actual == order.head.version => {
                    stored.order.head.commit_id == order.head.commit_id
                }
                (Some(stored), Expect::At { .. } | Expect::Queued { .. }) if actual > order.head.version => {
                    match self.was_followed(order, written, &stored.order).await {
                        Ok(Some(was_followed)) => was_followed,
                        Ok(None) => return Err(CommitError::Unknown),
                        Err(error) => {
                            tracing::warn!(order = %order.id(), %error, "the outcome of a commit could not be looked up yet");
                            continue;
                        }
                    }
                }
                (Some(_), Expect::At { .. } | Expect::Queued { .. }) => false,
            };
            if !applied {
                // Not applied: to the caller it is as if another had been quicker, so it reads and decides again.
                return Err(CommitError::VersionMoved { actual });
            }
            let held = stored.as_ref().and_then(|stored| stored.claim).map(|(token, _)| token);
            let queued = stored.is_some_and(|stored| matches!(stored.place, Place::Behind(_)));
            return Ok(Receipt {
                claimed: taken.is_some() && held == taken,
                queued,
                promoted: None,
                position: 0,
            });
        }
        Err(CommitError::Unknown)
    }

    /// Whether a commit of ours is part of the past of an order that others have changed since; `None` if that cannot be
    /// told any more.
    ///
    /// A commit that came with a token is known by what it wrote down: nobody else could write of that attempt. Any number
    /// may give the same command in the same moment, or send the same callback, so that what these wrote down does not tell
    /// whose it was: they are remembered by their ids.
    async fn was_followed(&self, ours: &Order, written: &Written, theirs: &Order) -> Result<Option<bool>, StoreError> {
        let id = ours.id();
        let commit_id = ours.head.commit_id;
        let is_remembered = ours.head.was_commanded_by(commit_id) == Some(true);
        if is_remembered && let Some(known) = theirs.head.was_commanded_by(commit_id) {
            return Ok(Some(known));
        }
        let is_there = match (&written.attempt, &written.event) {
            (Some(attempt), _) if theirs.head.attempts >= attempt.number => {
                let attempts = self.store.attempts(id, attempt.number - 1, 1).await?;
                attempts.first() == Some(attempt)
            }
            (_, Some(event)) if theirs.head.events >= event.number => {
                let events = self.store.history(id, event.number - 1, 1).await?;
                events.first() == Some(event)
            }
            _ => false,
        };
        Ok((!is_there || !is_remembered).then_some(is_there))
    }
}

/// Whether a commit is conditional on the order alone, and not on a token.
fn is_command(expect: Expect) -> bool {
    matches!(expect, Expect::At { token: None, .. } | Expect::Queued { .. })
}
