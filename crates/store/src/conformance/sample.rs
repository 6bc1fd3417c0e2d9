//! Small order types, and an engine in a nutshell: it asks a store for what the real one asks it for, one step at a time.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::decision::{self, Change, Command, Due, Edit, Input, Report, StepOutcome, Submission};
use comanda_model::order_type::{
    Action, Branch, DeadLetterInLane, Deadline, Exhausted, Fifo, FifoScope, Initial, Retry, Status, Step,
};
use comanda_model::{Changed, CommitId, Json, Order, OrderId, OrderType, Phase, Token, TypeHash};
use jiff::Timestamp;
use uuid::Uuid;

use crate::{Claim, ClaimMove, Commit, CommitError, Expect, KeyClaim, Place, Receipt, Store, Stored};

/// A lease that does not end within a check.
pub const LONG: Duration = Duration::from_secs(3600);

/// A lease that ends at once.
pub const SHORT: Duration = Duration::from_millis(1);

/// An order type without lanes: `open` runs `reserve` and `charge` and leads to `done`; `waiting` waits to be sent to
/// `open`; `canceled` takes back. `charge` has one attempt, `reserve` two. The customer is at `/customer`.
pub fn plain() -> OrderType {
    named("plain")
}

/// The same under another name, and so with another hash.
pub fn named(name: &str) -> OrderType {
    let to = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<Arc<str>>>();
    let open = Status {
        steps: to(&["reserve", "charge"]),
        next: vec![Branch {
            when: None,
            to: "done".into(),
        }],
        to: to(&["canceled"]),
        ..Status::default()
    };
    let waiting = Status {
        to: to(&["open", "canceled"]),
        ..Status::default()
    };
    let done = Status {
        is_final: true,
        ..Status::default()
    };
    let canceled = Status {
        is_final: true,
        undo: true,
        ..Status::default()
    };
    OrderType {
        name: name.into(),
        hash: TypeHash::of(name.as_bytes()),
        language: "en".into(),
        initial: Initial::From {
            pointer: "/status".into(),
            ignore_case: false,
            default: Some("open".into()),
        },
        key: None,
        customer: Some("/customer".into()),
        fifo: None,
        refused: Some("canceled".into()),
        cancel: Some("canceled".into()),
        statuses: [
            ("open", open),
            ("waiting", waiting),
            ("done", done),
            ("canceled", canceled),
        ]
        .into_iter()
        .map(|(name, status)| (Arc::from(name), status))
        .collect(),
        steps: [("reserve", step(2)), ("charge", step(1))]
            .into_iter()
            .map(|(name, step)| (Arc::from(name), step))
            .collect(),
        rules: Vec::new(),
        notify: None,
        erase_keep: vec!["/amount".to_owned()],
    }
}

fn step(attempts: u32) -> Step {
    let bare = Step {
        action: Action::Noop,
        when: None,
        timeout: Duration::from_secs(1),
        timeout_total: None,
        unknown: None,
        retry: Retry {
            attempts,
            ..Retry::default()
        },
        exhausted: Exhausted::DeadLetter,
        archive: None,
        notifies_customer: false,
        undo: None,
        batch: 1,
        shows: None,
    };
    Step {
        undo: Some(Box::new(bare.clone())),
        ..bare
    }
}

/// [`plain`] with a lane per customer, for life.
pub fn laned(dead_letter: DeadLetterInLane) -> OrderType {
    let fifo = Fifo {
        key: Some("/customer".into()),
        scope: FifoScope::Life,
        dead_letter,
    };
    OrderType {
        fifo: Some(fifo),
        ..named("laned")
    }
}

/// [`laned`], where an order may stand in `open` and in `waiting` for so long.
pub fn laned_with_deadline(after: Duration) -> OrderType {
    let mut order_type = laned(DeadLetterInLane::Park);
    for status in ["open", "waiting"] {
        let Some(open) = order_type.statuses.get_mut(status) else {
            continue;
        };
        open.deadline = Some(Deadline {
            after,
            to: "canceled".into(),
        });
    }
    order_type
}

/// A lane per customer and status: `open` runs `reserve` and leads to `packing`, which runs `charge` and leads to `done`.
pub fn laned_by_status() -> OrderType {
    let mut order_type = named("by-status");
    order_type.fifo = Some(Fifo {
        key: Some("/customer".into()),
        scope: FifoScope::Status,
        dead_letter: DeadLetterInLane::Park,
    });
    if let Some(open) = order_type.statuses.get_mut("open") {
        let packing = Status {
            steps: vec!["charge".into()],
            ..open.clone()
        };
        open.steps = vec!["reserve".into()];
        open.next = vec![Branch {
            when: None,
            to: "packing".into(),
        }];
        order_type.statuses.insert("packing".into(), packing);
    }
    order_type
}

/// A step that is done, with the result that it leaves, as JSON text.
pub fn done(result: Option<&str>) -> StepOutcome {
    StepOutcome::Done {
        result: result.map(json),
    }
}

/// A step that failed.
pub fn failed(reason: &str) -> StepOutcome {
    StepOutcome::Failed {
        reason: reason.to_owned(),
        retry_after: None,
    }
}

/// JSON from text that a check wrote down.
pub fn json(text: &str) -> Json {
    Json::parse(text).expect("the check's JSON is valid")
}

/// A key that never expires.
pub fn key(scope: &str, key: &str) -> KeyClaim {
    KeyClaim {
        scope: scope.to_owned(),
        key: key.to_owned(),
        fingerprint: [7; 32],
        expires_at: None,
    }
}

/// A commit as the engine makes one, under a new id, claiming nothing.
pub fn commit(change: Change, expect: Expect) -> Commit {
    let mut order = change.order;
    order.head.commit_id = CommitId(Uuid::new_v4());
    Commit {
        expect,
        order: Arc::new(order),
        data_changed: change.data_changed,
        events: change.events,
        attempts: change.attempts,
        lane: change.lane,
        enqueue: change.enqueue,
        keys: Vec::new(),
        ledger: change.ledger,
        claim: if change.ends_claim {
            ClaimMove::End
        } else {
            ClaimMove::Keep
        },
    }
}

/// Waits until the store's clock has passed a moment, which is never far away in a check.
pub async fn pass(store: &dyn Store, moment: Timestamp) {
    while store.now() <= moment {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A walk by chance that is the same on every run: a store that fails it fails it again.
pub struct Walk(pub u64);

impl Walk {
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        // Xorshift; what matters is only that it wanders.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

/// A store and a type whose orders it is to keep.
#[derive(Clone)]
pub struct Shop {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The type.
    pub order_type: Arc<OrderType>,
}

impl Shop {
    /// A shop.
    pub fn new(store: &Arc<dyn Store>, order_type: OrderType) -> Self {
        Self {
            store: store.clone(),
            order_type: Arc::new(order_type),
        }
    }

    /// What a decision knows now. Retries are due at once.
    pub fn input(&self) -> Input {
        Input {
            now: self.store.now(),
            jitter: 0.5,
            wait_scale: 0.0,
            by: "local".into(),
        }
    }

    /// The commit that accepts an order with this data, to begin now.
    pub fn accepting(&self, data: &str) -> Commit {
        self.accepting_at(data, None)
    }

    /// The commit that accepts an order, to begin later. The data's `/status` says where, `open` if it does not.
    pub fn accepting_at(&self, data: &str, due_at: Option<Timestamp>) -> Commit {
        let value = json(data).value().expect("the check's JSON can be read");
        let submission = Submission {
            id: OrderId(Uuid::now_v7()),
            key: value.get("key").and_then(|key| key.as_str()).map(str::to_owned),
            data: json(data),
            value: &value,
            status: value
                .get("status")
                .and_then(|status| status.as_str())
                .map(str::to_owned),
            due_at,
            traceparent: None,
        };
        let change = decision::accept(&self.order_type, submission, &self.input()).expect("the sample is accepted");
        commit(change, Expect::Absent)
    }

    /// Commits, and waits until that is durable or has failed.
    pub async fn put(&self, commit: Commit) -> Result<Receipt, CommitError> {
        let mut tickets = self.store.commit(vec![commit]);
        assert_eq!(tickets.len(), 1, "a commit has one ticket");
        tickets.remove(0).await
    }

    /// Accepts an order.
    pub async fn accept(&self, data: &str) -> OrderId {
        let commit = self.accepting(data);
        let id = commit.order.id();
        self.put(commit).await.expect("the order is accepted");
        id
    }

    /// An order as it stands, with its claim and place.
    pub async fn stored(&self, id: OrderId) -> Stored {
        // A store that answers at once never lets go of its task: without this, no check that loops would end in time.
        tokio::task::yield_now().await;
        let stored = self.store.order(id).await.expect("the order can be read");
        stored.unwrap_or_else(|| panic!("order {id} is there"))
    }

    /// An order as it stands.
    pub async fn order(&self, id: OrderId) -> Order {
        Arc::unwrap_or_clone(self.stored(id).await.order)
    }

    /// Claims up to `max` orders for long.
    pub async fn claim(&self, max: usize) -> Vec<Claim> {
        self.store
            .claim(max, LONG)
            .await
            .expect("due orders are claimed")
            .claims
    }

    /// Claims the one order that is due.
    pub async fn claim_one(&self) -> Claim {
        let mut claims = self.claim(100).await;
        assert_eq!(claims.len(), 1, "one order is due and not claimed");
        claims.remove(0)
    }

    /// What a due order's work comes to if its step, where it has one, ends like this.
    pub fn working(&self, order: &Order, token: Option<Token>, outcome: StepOutcome) -> Commit {
        let input = self.input();
        let change = match decision::due(order, &self.order_type, &input) {
            Due::Run(_) => {
                let report = Report {
                    started_at: input.now,
                    ended_at: input.now,
                    outcome,
                };
                decision::report(order, &self.order_type, report, &input)
            }
            Due::Change(change) => *change,
            Due::Nothing => panic!("order {} is due: {:?}", order.id(), order.head),
        };
        commit(
            change,
            Expect::At {
                version: order.head.version,
                token,
            },
        )
    }

    /// Answers a claim: its step ends like this.
    pub async fn work(&self, claim: &Claim, outcome: StepOutcome) -> Result<Receipt, CommitError> {
        let Stored { order, place, .. } = self.stored(claim.token.order).await;
        let commit = match place {
            Place::Behind(_) => {
                let expect = Expect::At {
                    version: order.head.version,
                    token: Some(claim.token),
                };
                let change = decision::due_queued(&order, &self.order_type, &self.input());
                commit(change.expect("the deadline of a queued order has passed"), expect)
            }
            Place::Alone | Place::Head => self.working(&order, Some(claim.token), outcome),
        };
        self.put(commit).await
    }

    /// Works a claimed order until nothing of it is due any more, each commit claiming the next work for itself.
    /// Answers the last commit's receipt.
    pub async fn finish(&self, claim: Claim) -> Receipt {
        let (mut order, mut token) = (claim.order, claim.token);
        loop {
            let next = Token {
                secret: Uuid::new_v4(),
                ..token
            };
            let mut commit = self.working(&order, Some(token), done(None));
            commit.claim = ClaimMove::Take {
                token: next,
                lease: LONG,
            };
            order = commit.order.clone();
            let receipt = self.put(commit).await.expect("the holder's work counts");
            if !receipt.claimed {
                return receipt;
            }
            token = next;
        }
    }

    /// What a command from outside comes to.
    pub fn commanding(&self, order: &Order, command: Command) -> Commit {
        let change = decision::decide(order, &self.order_type, command, &self.input());
        let version = order.head.version;
        commit(
            change.expect("the command is possible"),
            Expect::At { version, token: None },
        )
    }

    /// Gives a command.
    pub async fn command(&self, id: OrderId, command: Command) -> Receipt {
        let order = self.order(id).await;
        self.put(self.commanding(&order, command))
            .await
            .expect("nobody else changes the order")
    }

    /// The commit that replaces an order's data.
    pub fn editing(&self, order: &Order, data: &str) -> Commit {
        let edit = Edit {
            data: json(data),
            changed: vec![Changed::new("/note", None, Some(Json::from_valid(r#""ring twice""#)))],
        };
        self.commanding(order, Command::Edit(edit))
    }

    /// Accepts an order that becomes a dead letter for this reason.
    pub async fn accept_dead(&self, data: &str, reason: &str) -> OrderId {
        let id = self.accept(data).await;
        self.kill(id, reason).await;
        id
    }

    /// Fails an order's steps until it is a dead letter.
    pub async fn kill(&self, id: OrderId, reason: &str) {
        loop {
            let order = self.order(id).await;
            if order.head.phase == Phase::Dead {
                return;
            }
            let commit = self.working(&order, None, failed(reason));
            self.put(commit).await.expect("nobody else works the order");
        }
    }

    /// Cancels an order.
    pub async fn cancel(&self, id: OrderId) -> Receipt {
        self.command(
            id,
            Command::Cancel {
                reason: None,
                in_flight: false,
                begun: false,
            },
        )
        .await
    }
}
