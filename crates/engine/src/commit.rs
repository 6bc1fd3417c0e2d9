//! How a decided change becomes a commit, and how a commit whose answer was lost is resolved.

use std::time::Duration;

use comanda_model::decision::Change;
use comanda_model::{CommitId, Order, Token};
use comanda_store::{ClaimMove, Commit, CommitError, Expect, KeyClaim, Place, Receipt, Ticket};
use tokio::sync::OwnedSemaphorePermit;

use crate::service::Core;

/// How often an unknown outcome is looked up before it is given up as unknown.
const LOOK_UPS_MAX: u32 = 5;

/// A commit in the making: what the store is asked for, and what the committer keeps.
pub(crate) struct Prepared {
    pub(crate) commit: Commit,
    pub(crate) taking: Option<Taking>,
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
            order: change.order,
            data_changed: change.data_changed,
            events: change.events,
            attempts: change.attempts,
            lane: change.lane,
            keys,
            claim,
        };
        Prepared { commit, taking }
    }

    /// Stages one commit and waits until it is durable. Answers with the order as the commit left it.
    pub(crate) async fn commit_one(&self, commit: Commit) -> Result<(Receipt, Order), CommitError> {
        let (order, expect) = (commit.order.clone(), commit.expect);
        let taken = match commit.claim {
            ClaimMove::Take { token, .. } => Some(token),
            ClaimMove::Keep | ClaimMove::End => None,
        };
        let Some(ticket) = self.store.commit(vec![commit]).into_iter().next() else {
            return Err(CommitError::Closed);
        };
        let receipt = self.resolve(ticket, &order, expect, taken).await?;
        Ok((receipt, order))
    }

    /// Waits for a commit. An unknown outcome is resolved by reading, never by guessing.
    /// `taken` is the token of the claim that the commit asked for.
    pub(crate) async fn resolve(
        &self,
        ticket: Ticket,
        order: &Order,
        expect: Expect,
        taken: Option<Token>,
    ) -> Result<Receipt, CommitError> {
        match ticket.await {
            Err(CommitError::Unknown) => self.look_up(order, expect, taken).await,
            answer => answer,
        }
    }

    async fn look_up(&self, order: &Order, expect: Expect, taken: Option<Token>) -> Result<Receipt, CommitError> {
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
            let applied = match (&stored, expect) {
                (None, _) => false,
                // Order ids are random, so an order under this one is the one that this commit made.
                (Some(_), Expect::Absent) => true,
                (Some(stored), Expect::At { .. }) if actual == order.head.version => {
                    stored.order.head.commit_id == order.head.commit_id
                }
                (Some(stored), Expect::At { .. }) if actual > order.head.version => {
                    self.was_followed(order, &stored.order).await?
                }
                (Some(_), Expect::At { .. }) => false,
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

    /// Whether the commit that wrote `ours` came before the one that wrote `theirs`: then what `ours` recorded is there.
    async fn was_followed(&self, ours: &Order, theirs: &Order) -> Result<bool, CommitError> {
        if ours.head.attempts > 0 && theirs.head.attempts >= ours.head.attempts {
            let attempts = self.store.attempts(ours.id(), ours.head.attempts - 1, 1).await?;
            if attempts
                .first()
                .is_some_and(|attempt| attempt.ended_at == ours.head.updated_at)
            {
                return Ok(true);
            }
        }
        if ours.head.events == 0 || theirs.head.events < ours.head.events {
            return Ok(false);
        }
        let events = self.store.history(ours.id(), ours.head.events - 1, 1).await?;
        Ok(events.first().is_some_and(|event| event.at == ours.head.updated_at))
    }
}
