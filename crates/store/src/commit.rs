//! A commit: one order's change, applied wholly or not at all.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use comanda_model::decision::{Enqueue, LaneMove};
use comanda_model::{Attempt, Event, EventKind, LedgerLine, Order, OrderId, Token};
use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::error::CommitError;

/// One order's change.
///
/// The store checks, in this order: an order that is already there under this `commit_id` (answers as the first time),
/// keys, the expectation (the token first, then the version), the bounds, and last whether the ledger has what the commit
/// takes from it. Then everything is applied.
#[derive(Clone, Debug)]
pub struct Commit {
    /// What must be so for the commit to be applied.
    pub expect: Expect,
    /// The order afterwards; `order.head.commit_id` names this commit and `order.head.version` is one above the
    /// expected one (1 for a new order). `order.results` is not written: results stand in the attempts.
    pub order: Arc<Order>,
    /// Whether `order.data` is to be written. A new order's always is.
    pub data_changed: bool,
    /// What happened, numbered on from the order's last event. [`EventKind::Erased`](comanda_model::EventKind::Erased)
    /// among them also empties what stands outside the head and the data, in the same act: the reasons of all earlier
    /// events and the reasons and results of all attempts go, the acceptance is written again without what
    /// `order.accepted` lacks (the order is no longer found by its customer or group), and dead letters of queues lose
    /// their reasons. A store without [`Capabilities::erasure`](crate::Capabilities::erasure) is given no such event.
    pub events: Vec<Event>,
    /// The attempts that ended, numbered on from the order's last attempt.
    pub attempts: Vec<Attempt>,
    /// How the order moves between lanes. The store promotes the next of a lane that is left, in the same commit.
    pub lane: LaneMove,
    /// The item that it puts into a queue, in the same commit. A store without
    /// [`Capabilities::status_queues`](crate::Capabilities::status_queues) is given none.
    pub enqueue: Option<Enqueue>,
    /// Keys that shall lead to this order.
    pub keys: Vec<KeyClaim>,
    /// What moves in the ledger; at most [`LEDGER_LINES_MAX`](comanda_model::bounds::LEDGER_LINES_MAX) lines. A line whose
    /// account this order has moved under the same `once_id` before is passed over.
    pub ledger: Vec<LedgerLine>,
    /// What becomes of a claim on the order.
    pub claim: ClaimMove,
}

impl Commit {
    /// Whether it erases its order.
    pub fn erases(&self) -> bool {
        self.events.iter().any(|event| event.kind == EventKind::Erased)
    }
}

/// What must be so for a commit to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such order.
    Absent,
    /// The order is at this version and, where a token is given, the claim is held under it.
    At {
        /// The version that the change was decided on.
        version: u64,
        /// The token of the attempt that the change answers.
        token: Option<Token>,
    },
    /// The order is at this version and stands behind others in its lane, so that nothing of its work can have begun. One
    /// that has come to the head meanwhile is answered with [`CommitError::VersionMoved`], though its version is the same:
    /// read and decide again.
    Queued {
        /// The version that the change was decided on.
        version: u64,
    },
}

/// What becomes of a claim on the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimMove {
    /// It stays as it is.
    Keep,
    /// It ends, whoever holds it.
    End,
    /// The committer takes the order's next work under this token, if the order is at the head of its lane. Any
    /// other claim ends.
    Take {
        /// The token.
        token: Token,
        /// For how long.
        lease: Duration,
    },
}

/// A key that leads to an order: a client's own id, or an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyClaim {
    /// What the key is unique within, such as `type:sale` or `idempotency:KEYID`.
    pub scope: String,
    /// The key.
    pub key: String,
    /// The SHA-256 of what was submitted, to tell a repetition from another submission under the same key.
    pub fingerprint: [u8; 32],
    /// When the key may be used again; `None` for never.
    pub expires_at: Option<Timestamp>,
}

/// What a durable commit came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Whether the claim that the commit asked for was granted.
    pub claimed: bool,
    /// Whether the order's work is due only later than any order before it in its lane.
    pub queued: bool,
    /// The order that was promoted to the head of the lane that was left, if its work is due at once, or can be claimed
    /// from its queue.
    pub promoted: Option<OrderId>,
    /// The feed position of the commit's last event (of the last one before it, if it has none). Of a commit that stands
    /// in one batch twice, the second answer may say 0.
    pub position: u64,
}

/// Resolves when a commit is durable, or has failed.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<Receipt, CommitError>>);

impl Ticket {
    /// A ticket and the end that resolves it. An end that is dropped resolves it with [`CommitError::Unknown`].
    pub fn new() -> (oneshot::Sender<Result<Receipt, CommitError>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }

    /// A ticket that has already failed.
    pub fn failed(error: CommitError) -> Self {
        let (sender, ticket) = Self::new();
        // The receiver is in our hands, so the send cannot fail.
        let _ = sender.send(Err(error));
        ticket
    }
}

impl Future for Ticket {
    type Output = Result<Receipt, CommitError>;
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(CommitError::Unknown)))
    }
}
