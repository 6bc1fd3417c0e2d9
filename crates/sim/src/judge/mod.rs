//! The judge: a simple model of what may be so, told of everything that becomes durable, of every claim, of every call
//! that reaches the outside and of every answer. It shares no code with the engine or a store, and says the first thing
//! that it finds wrong.

mod announced;
mod answers;
mod claims;
mod commits;
mod items;
mod lanes;
mod money;
mod outcome;
mod rest;
mod status;
mod stock;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use comanda_model::{Attempt, CommitId, Event, Order, OrderId, OrderType, Token};
use comanda_store::Commit;
use jiff::Timestamp;
use uuid::Uuid;

use crate::types;
use announced::Announced;
use items::Items;
use lanes::Lanes;
use money::Money;
use stock::Stock;

/// What was found wrong.
pub type Verdict = Result<(), String>;

/// Fails with a message unless something holds.
macro_rules! hold {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(format!($($message)+));
        }
    };
}
use hold;

/// What the judge knows of an order.
pub struct Known {
    /// Its number in the plan.
    pub n: u64,
    /// As the last durable commit left it.
    pub order: Arc<Order>,
    /// All events.
    pub events: Vec<Event>,
    /// All attempts.
    pub attempts: Vec<Attempt>,
    /// Which commit made which version; version 1 first.
    pub commits: Vec<CommitId>,
    /// Every datum that an edit brought.
    pub edits: BTreeSet<u64>,
    /// The claim, if it has not been ended, and until when it lasts.
    pub held: Option<(Token, Timestamp)>,
    /// Whether a worker from outside has it: then it outlives the processes.
    pub held_by_worker: bool,
    /// A dead letter that has left its lane, and was not redriven since.
    pub left_lane: bool,
    /// Given up: what it did is to be taken back.
    pub discarded: bool,
}

/// What became of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It is held.
    Held,
    /// A commit that came with it ended it: its result counted.
    Answered,
    /// Another took the order, or moved it on.
    Ended,
}

/// One call that has reached the outside, or one piece of work that was handed to a worker.
struct Run {
    /// The process that called; none for a worker from outside, which has no part in what befalls processes.
    life: Option<u32>,
    order: OrderId,
    step: String,
    visit: u32,
    attempt: u32,
    undo: bool,
    secret: Uuid,
    answered: bool,
    /// How often its lateness was written down.
    stale: u32,
}

/// An effect outside, by the key of the call that made it.
#[derive(Default)]
pub struct Effect {
    /// Whether it happened.
    pub done: bool,
    /// Whether it was taken back; then it must never happen.
    pub undone: bool,
    /// Whether the outside has said no, which is for good.
    pub refused: bool,
}

/// The judge.
#[derive(Default)]
pub struct Judge {
    orders: BTreeMap<OrderId, Known>,
    by_number: BTreeMap<u64, Vec<OrderId>>,
    lanes: Lanes,
    feed: Vec<(OrderId, u64)>,
    tokens: HashMap<Uuid, Fate>,
    commit_ids: BTreeSet<Uuid>,
    runs: Vec<Run>,
    /// The token that a life has last made ready for a call, by order.
    renewed: HashMap<(u32, OrderId), Token>,
    effects: BTreeMap<String, Effect>,
    /// The secrets that callbacks were sent with.
    callbacks: BTreeSet<Uuid>,
    items: Items,
    stock: Stock,
    money: Money,
    announced: Announced,
    acknowledged: BTreeMap<String, OrderId>,
    dead_lives: BTreeSet<u32>,
    /// Durable commits.
    pub commits: u64,
    /// Calls that reached the outside.
    pub calls: u64,
}

impl Judge {
    /// What is known of an order.
    pub fn known(&self, id: OrderId) -> Option<&Known> {
        self.orders.get(&id)
    }

    /// The order that has a number in the plan, if one is durable.
    pub fn by_number(&self, n: u64) -> Option<OrderId> {
        self.by_number.get(&n).and_then(|ids| ids.first().copied())
    }

    /// All orders.
    pub fn orders(&self) -> impl Iterator<Item = (&OrderId, &Known)> {
        self.orders.iter()
    }

    /// An effect outside.
    pub fn effect(&mut self, key: &str) -> &mut Effect {
        self.effects.entry(key.to_owned()).or_default()
    }

    /// A life has ended; its claims with it if nobody else could hold them.
    pub fn life_ended(&mut self, life: u32, claims_too: bool) {
        self.dead_lives.insert(life);
        if claims_too {
            for known in self.orders.values_mut().filter(|known| !known.held_by_worker) {
                if let Some((token, _)) = known.held.take() {
                    self.tokens.insert(token.secret, Fate::Ended);
                }
            }
        }
    }

    /// A submission was acknowledged with an order.
    pub fn accepted(&mut self, key: Option<&str>, answer: &Order) -> Verdict {
        let id = answer.id();
        let known = self.orders.get(&id).ok_or_else(|| {
            format!("accepted is durable: an order was acknowledged ({id}) that the store does not hold")
        })?;
        hold!(
            known.order.accepted == answer.accepted,
            "same key, same answer: the acknowledgement of #{} tells another acceptance than the store",
            known.n
        );
        hold!(
            answer.head.version == 1,
            "same key, same answer: #{} was acknowledged at version {}",
            known.n,
            answer.head.version
        );
        if let Some(key) = key {
            let first = *self.acknowledged.entry(key.to_owned()).or_insert(id);
            hold!(
                first == id,
                "same key, same answer: `{key}` was acknowledged as {first} and as {id}"
            );
        }
        Ok(())
    }

    /// A command was acknowledged with the order as it then stood.
    pub fn acknowledged(&self, answer: &Order) -> Verdict {
        let id = answer.id();
        let known = self
            .orders
            .get(&id)
            .ok_or("an order was answered that is not durable")?;
        let version = usize::try_from(answer.head.version).unwrap_or(0);
        let durable = version.checked_sub(1).and_then(|index| known.commits.get(index));
        hold!(
            durable == Some(&answer.head.commit_id),
            "durable before visible: #{} was answered at version {version}, which is not durable",
            known.n
        );
        Ok(())
    }

    /// An edit was acknowledged.
    pub fn edited(&self, answer: &Order, datum: u64) -> Verdict {
        self.acknowledged(answer)?;
        let known = self
            .orders
            .get(&answer.id())
            .ok_or("an order was answered that is not durable")?;
        hold!(
            known.edits.contains(&datum),
            "an edit of #{} was acknowledged and is nowhere in its history",
            known.n
        );
        Ok(())
    }

    fn type_of(order: &Order) -> Result<Arc<OrderType>, String> {
        types::by_hash(order.head.type_hash)
            .ok_or_else(|| format!("an order lives on an unknown type {}", order.head.type_hash))
    }

    /// The number that a commit's order has in the plan.
    fn number(commit: &Commit) -> u64 {
        number_in(commit.order.data.as_str(), "n").unwrap_or(u64::MAX)
    }
}

/// A whole number that stands at a name in an object.
pub fn number_in(json: &str, name: &str) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_str(json).ok()?;
    value.get(name)?.as_u64()
}
