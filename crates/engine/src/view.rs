//! An order as the outside sees it, and above all why it is not moving.

use std::sync::Arc;

use comanda_model::decision::shown;
use comanda_model::order::DeadLetter;
use comanda_model::{Json, Order, OrderId, Phase, TypeHash, WorkKind};
use comanda_order_type::Definition;
use comanda_store::{Place, Stored};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::Serialize;

/// An order with the version of its type that it lives on.
#[derive(Clone, Debug)]
pub struct Found {
    /// The order as it stands in the store.
    pub stored: Stored,
    /// Its type, in its version.
    pub definition: Arc<Definition>,
}

impl Found {
    /// The data, with what steps show among it.
    pub fn shown(&self) -> Json {
        shown(&self.definition.order_type, &self.stored.order)
    }
}

/// An order, as `/v1` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OrderView {
    /// The order's id.
    pub id: OrderId,
    /// The client's own id.
    pub key: Option<String>,
    /// The name of its type.
    #[serde(rename = "type")]
    pub order_type: Arc<str>,
    /// The version of its type that it lives on.
    pub type_version: TypeHash,
    /// Where it stands.
    pub status: Arc<str>,
    /// Whether nothing moves it any more.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Counts its changes.
    pub version: u64,
    /// Whom it is for.
    pub customer: Option<String>,
    /// Its group key.
    pub group: Option<String>,
    /// Its data, as sent.
    pub data: Json,
    /// What its steps left.
    pub results: IndexMap<Arc<str>, Json>,
    /// Why it is not moving; null when it is final.
    pub work: Option<WorkView>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When what it knew of its customer was erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub erased_at: Option<Timestamp>,
}

/// What an order is about to do, or waits for.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkView {
    /// The step, if it is about one.
    pub step: Option<Arc<str>>,
    /// In one word.
    pub state: WorkState,
    /// The attempt that is next or running.
    pub attempt: Option<u32>,
    /// When it is due.
    pub due_at: Option<Timestamp>,
    /// The latest failure.
    pub last_error: Option<String>,
    /// For whom or what it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting_for: Option<String>,
    /// Since when its step is held back, because its service takes no calls or has no room for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_back_since: Option<Timestamp>,
    /// The worker that has claimed it from its queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// How many orders of its lane are before it (counted up to 1000).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind: Option<u32>,
    /// When the deadline of its status passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<Timestamp>,
    /// Whether it is taking back what it did.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub undoing: bool,
}

/// Why an order is a dead letter, as `/v1` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterView {
    /// When it became one.
    pub at: Timestamp,
    /// The step that was exhausted; empty when the reason is not a step's.
    pub step: Arc<str>,
    /// What groups it with others that died of the same thing.
    pub cause: String,
    /// The reason, whole.
    pub reason: String,
    /// Whether it was an undo that failed.
    pub undo_failed: bool,
}

impl From<&DeadLetter> for DeadLetterView {
    fn from(dead: &DeadLetter) -> Self {
        Self {
            at: dead.at,
            step: dead.step.clone(),
            cause: dead.cause.clone(),
            reason: dead.reason.clone(),
            undo_failed: dead.undo_failed,
        }
    }
}

/// Why an order is not moving, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkState {
    /// It will be taken up at once.
    Due,
    /// A step is running.
    Running,
    /// A step failed and is tried again at `dueAt`.
    Retrying,
    /// It waits for someone or for a time; `waitingFor` says which.
    Waiting,
    /// It stands behind others of its lane.
    Queued,
    /// It is a dead letter: it waits for a redrive or a discard.
    Parked,
}

impl WorkState {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Due => "due",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Parked => "parked",
        }
    }
}

impl Found {
    /// The order as `/v1` shows it.
    pub fn view(&self, now: Timestamp) -> OrderView {
        let Stored {
            order,
            claim,
            worker,
            place,
        } = &self.stored;
        let head = &order.head;
        OrderView {
            id: order.id(),
            key: order.accepted.key.clone(),
            order_type: order.accepted.order_type.clone(),
            type_version: head.type_hash,
            status: head.status.clone(),
            is_final: head.phase == Phase::Final,
            version: head.version,
            customer: order.accepted.customer.clone(),
            group: order.accepted.group.clone(),
            data: order.data.clone(),
            results: order.results.iter().cloned().collect(),
            work: self.work(order, claim.is_some(), *place, now).map(|view| WorkView {
                // One whose lease has ended holds nothing that anyone should wait for.
                worker: worker
                    .as_ref()
                    .filter(|_| claim.is_some())
                    .map(|worker| worker.name.clone()),
                ..view
            }),
            accepted_at: order.accepted.at,
            updated_at: head.updated_at,
            erased_at: head.erased_at,
        }
    }

    fn work(&self, order: &Order, claimed: bool, place: Place, now: Timestamp) -> Option<WorkView> {
        let head = &order.head;
        if head.phase == Phase::Final {
            return None;
        }
        let work = head.work.as_ref();
        let mut view = WorkView {
            step: work.and_then(|work| work.kind.step().cloned()),
            state: WorkState::Waiting,
            attempt: work.filter(|work| work.kind.step().is_some()).map(|work| work.attempt),
            due_at: work.and_then(|work| work.due_at),
            last_error: work.and_then(|work| work.last_error.clone()),
            waiting_for: None,
            held_back_since: None,
            worker: None,
            behind: None,
            deadline_at: head.status_until,
            undoing: head.phase == Phase::Undoing,
        };
        let due_now = view.due_at.is_some_and(|due_at| due_at <= now);
        match (work, place) {
            _ if head.phase == Phase::Dead => {
                view.state = WorkState::Parked;
                view.waiting_for = Some("a redrive or a discard".to_owned());
            }
            (Some(_), Place::Behind(count)) => {
                view.state = WorkState::Queued;
                view.behind = Some(count);
            }
            (Some(work), _) if work.awaiting.is_some() => {
                let step = work.kind.step().map_or("", |name| &**name);
                view.waiting_for = Some(format!("the callback of `{step}`"));
            }
            (Some(_), _) if claimed => view.state = WorkState::Running,
            (Some(work), _) if work.held_back_since.is_some() => {
                let reason = work.last_error.as_deref().unwrap_or("its service takes no calls");
                view.waiting_for = Some(format!("its service: {reason}"));
                view.held_back_since = work.held_back_since;
            }
            (Some(work), _) if due_now && work.queue.is_some() => {
                let queue = work.queue.as_deref().unwrap_or_default();
                view.waiting_for = Some(format!("a worker of the queue `{queue}`"));
            }
            (Some(_), _) if due_now => view.state = WorkState::Due,
            (Some(work), _) => match &work.kind {
                WorkKind::Begin => view.waiting_for = Some("its dueAt".to_owned()),
                WorkKind::Wait(_) => view.waiting_for = Some("its time".to_owned()),
                WorkKind::Approval(at) => view.waiting_for = Some(format!("an approval of `{}`", at.name)),
                WorkKind::Advance | WorkKind::Step(_) | WorkKind::Undo(_) => view.state = WorkState::Retrying,
            },
            (None, _) => {
                let to = self
                    .definition
                    .order_type
                    .status(&head.status)
                    .map(|status| status.to.as_slice());
                view.waiting_for = Some(format!("a transition to {}", to.unwrap_or_default().join(" or ")));
            }
        }
        Some(view)
    }
}
