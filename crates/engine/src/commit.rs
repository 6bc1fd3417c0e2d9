//! How a decided change becomes a commit, and how a commit whose answer was lost is resolved.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use comanda_model::decision::Change;
use comanda_model::{Attempt, CommitId, Event, Order, Token};
use comanda_store::{ClaimMove, Commit, CommitError, Expect, KeyClaim, Place, Receipt, StoreError, Ticket};
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

/// What a commit to an order that was there before is known by, when its answer was lost and others have changed the order
/// since.
struct Written {
    attempt: Option<Attempt>,
    event: Option<Event>,
}

/// What a committer keeps of a commit, to find out what came of it if the answer is lost.
pub(crate) struct Kept {
    /// The order as the commit leaves it.
    order: Arc<Order>,
    /// The token of the claim that the commit asks for.
    taken: Option<Token>,
    /// On the heap, because every submission would carry it about; a new order needs none.
    written: Option<Box<Written>>,
}

impl Kept {
    pub(crate) fn of(commit: &Commit) -> Self {
        let is_new = commit.expect == Expect::Absent;
        Self {
            order: commit.order.clone(),
            taken: match commit.claim {
                ClaimMove::Take { token, .. } => Some(token),
                ClaimMove::Keep | ClaimMove::End => None,
            },
            written: (!is_new).then(|| {
                Box::new(Written {
                    attempt: commit.attempts.last().cloned(),
                    event: commit.events.last().cloned(),
                })
            }),
        }
    }
}

/// A staged commit, waited for until it is durable. Answers with the order as the commit left it.
///
/// Not an `async` block: that would hold what it was given beside what it waits with, and it is part of the future of every
/// submission.
pub(crate) struct Committing<'a> {
    core: &'a Core,
    state: State<'a>,
    order: Arc<Order>,
}

type LookUp<'a> = Pin<Box<dyn Future<Output = Result<Receipt, CommitError>> + Send + 'a>>;

enum State<'a> {
    Settling(Settling, Option<Box<Written>>),
    /// The answer was lost. Rare, and large: on the heap.
    LookingUp(LookUp<'a>),
}

impl Future for Committing<'_> {
    type Output = Result<(Receipt, Arc<Order>), CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            let answer = match &mut this.state {
                State::LookingUp(looking_up) => ready!(looking_up.as_mut().poll(context)),
                State::Settling(settling, written) => match ready!(Pin::new(&mut *settling).poll(context)) {
                    Err(CommitError::Unknown) => {
                        let kept = Kept {
                            order: this.order.clone(),
                            taken: settling.taken(),
                            written: written.take(),
                        };
                        this.state = State::LookingUp(Box::pin(this.core.find_out(kept)));
                        continue;
                    }
                    answer => answer,
                },
            };
            return Poll::Ready(answer.map(|receipt| (receipt, this.order.clone())));
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

    /// Stages one commit, at once; the future only waits.
    pub(crate) fn commit_one(&self, commit: Commit) -> Committing<'_> {
        let kept = Kept::of(&commit);
        let ticket = self.store.commit(vec![commit]).into_iter().next();
        // A store answers with a ticket for each commit.
        let ticket = ticket.unwrap_or_else(|| Ticket::failed(CommitError::Closed));
        self.committing(ticket, kept)
    }

    /// Waits for a staged commit. An unknown outcome is resolved by reading, never by guessing.
    pub(crate) fn committing(&self, ticket: Ticket, kept: Kept) -> Committing<'_> {
        let Kept { order, taken, written } = kept;
        Committing {
            core: self,
            state: State::Settling(self.settling(ticket, taken), written),
            order,
        }
    }

    /// Finds out what came of a commit whose answer was lost.
    async fn find_out(&self, kept: Kept) -> Result<Receipt, CommitError> {
        let found = self.look_up(&kept).await;
        if let (Err(_), Some(token)) = (&found, kept.taken) {
            // Nobody will use it, also if the commit comes to be applied after all.
            self.releases.release_in_doubt(token);
        }
        found
    }

    async fn look_up(&self, kept: &Kept) -> Result<Receipt, CommitError> {
        let Kept { order, taken, written } = kept;
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
            let applied = match (&stored, written) {
                (None, _) => false,
                // Order ids are random, so an order under this one is the one that this commit made.
                (Some(_), None) => true,
                (Some(stored), Some(_)) if actual == order.head.version => {
                    stored.order.head.commit_id == order.head.commit_id
                }
                (Some(stored), Some(written)) if actual > order.head.version => {
                    match self.was_followed(order, written, &stored.order).await {
                        Ok(Some(was_followed)) => was_followed,
                        Ok(None) => return Err(CommitError::Unknown),
                        Err(error) => {
                            tracing::warn!(order = %order.id(), %error, "the outcome of a commit could not be looked up yet");
                            continue;
                        }
                    }
                }
                (Some(_), Some(_)) => false,
            };
            if !applied {
                // Not applied: to the caller it is as if another had been quicker, so it reads and decides again.
                return Err(CommitError::VersionMoved { actual });
            }
            let held = stored.as_ref().and_then(|stored| stored.claim).map(|(token, _)| token);
            let queued = stored.is_some_and(|stored| matches!(stored.place, Place::Behind(_)));
            return Ok(Receipt {
                claimed: taken.is_some() && held == *taken,
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
