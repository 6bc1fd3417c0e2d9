//! Items of statuses' queues: one for each status entered that has a queue, in order per lane, until it is done or dead.

use std::collections::BTreeMap;

use comanda_model::{EventKind, Order, OrderId, OrderType, Phase};
use comanda_store::{Commit, DeadItem, ItemClaims, ItemOutcome, ItemToken};
use jiff::Timestamp;

use super::{Judge, Verdict, hold};

/// All items, in commit order.
#[derive(Default)]
pub struct Items {
    all: Vec<Item>,
    /// Which item a position in the store is.
    positions: BTreeMap<u64, usize>,
}

struct Item {
    order: OrderId,
    version: u64,
    status: String,
    queue: String,
    lane: String,
    parks: bool,
    attempts_max: u32,
    attempt: u32,
    /// Until when it is leased, or is not handed out again.
    busy_until: Timestamp,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits,
    Leased,
    Done,
    Dead,
}

impl Item {
    /// A lease that ends after the last attempt makes a dead letter, which the store says only when somebody looks.
    fn is_dead(&self, now: Timestamp) -> bool {
        let lost = self.state == State::Leased && self.attempt >= self.attempts_max && self.busy_until <= now;
        self.state == State::Dead || lost
    }
}

impl Items {
    /// The items that somebody still has to be told of: what stands behind a dead letter waits for a person.
    pub fn restless(&self) -> Vec<String> {
        let open = |(index, item): &(usize, &Item)| match item.state {
            State::Waits => !self.is_parked(*index),
            // After its last attempt it is dead once its lease has ended, told or not.
            State::Leased => item.attempt < item.attempts_max && !self.is_parked(*index),
            State::Done | State::Dead => false,
        };
        let restless = self.all.iter().enumerate().filter(open);
        let restless = restless.map(|(_, item)| {
            format!(
                "the item of {} for {} in `{}` is {:?}",
                item.order, item.status, item.queue, item.state
            )
        });
        restless.collect()
    }

    /// Whether an item stands behind a dead letter that holds their lane.
    fn is_parked(&self, index: usize) -> bool {
        let item = &self.all[index];
        self.all[..index].iter().any(|other| {
            let same_lane = other.queue == item.queue && other.lane == item.lane;
            let dead = other.state == State::Dead || other.attempt >= other.attempts_max;
            same_lane && other.parks && dead && other.state != State::Done
        })
    }
}

impl Judge {
    /// A commit that enters a status with a queue puts in one item, and no other does.
    pub(super) fn item_put_in(&mut self, before: Option<&Order>, commit: &Commit, order_type: &OrderType) -> Verdict {
        let (id, head) = (commit.order.id(), &commit.order.head);
        let moved = commit.events.iter().any(|event| event.kind == EventKind::StatusChanged);
        // Who is accepted for later enters its status when it begins.
        let begins =
            before.is_none_or(|before| before.head.phase == Phase::Scheduled) && head.phase != Phase::Scheduled;
        let entered = moved || begins;
        let queue = order_type.status(&head.status).and_then(|status| status.queue.as_ref());
        let expected = queue.filter(|_| entered).map(|queue| &queue.name);
        let put_in = commit.enqueue.as_ref();
        hold!(
            put_in.map(|entry| &entry.queue) == expected,
            "each status entered is told once: {id} in {} was to be told in {expected:?}, and is in {put_in:?}",
            head.status
        );
        if let (Some(entry), Some(queue)) = (put_in, queue) {
            hold!(
                entry.attempts_max == queue.attempts,
                "the item of {id} has {} attempts",
                entry.attempts_max
            );
            self.items.all.push(Item {
                order: id,
                version: head.version,
                status: head.status.to_string(),
                queue: entry.queue.to_string(),
                lane: entry.lane.clone(),
                parks: entry.parks,
                attempts_max: entry.attempts_max,
                attempt: 0,
                busy_until: Timestamp::MIN,
                state: State::Waits,
            });
        }
        Ok(())
    }

    /// Items were handed out.
    pub fn items_claimed(&mut self, now: Timestamp, claims: &ItemClaims) -> Verdict {
        for claim in &claims.claims {
            let id = claim.order.id();
            let of_claim = |item: &Item| item.order == id && item.version == claim.version;
            let found = self.items.all.iter().position(of_claim);
            let index = found.ok_or_else(|| format!("an item of {id} was handed out that never was put in"))?;
            let item = &self.items.all[index];
            hold!(
                matches!(item.state, State::Waits | State::Leased) && item.busy_until <= now,
                "an item of {id} was handed out while it is {:?} (until {}, now {now})",
                item.state,
                item.busy_until
            );
            hold!(
                *item.status == *claim.status && claim.attempt == item.attempt + 1,
                "the item of {id} for {} was handed out as one for {}, for the {}. time",
                item.status,
                claim.status,
                claim.attempt
            );
            for other in &self.items.all[..index] {
                let same_lane = other.queue == item.queue && other.lane == item.lane;
                let passed = other.state == State::Done || (other.is_dead(now) && !other.parks);
                hold!(
                    !same_lane || passed,
                    "first in, first out: an item of {id} was handed out before that of {}, which is {:?}",
                    other.order,
                    other.state
                );
            }
            self.items.positions.insert(claim.token.position, index);
            let item = &mut self.items.all[index];
            item.attempt = claim.attempt;
            item.busy_until = claim.lease_until;
            item.state = State::Leased;
        }
        Ok(())
    }

    /// An answer to an item counted.
    pub fn item_settled(&mut self, now: Timestamp, token: &ItemToken, outcome: &ItemOutcome) {
        let index = self.items.positions.get(&token.position).copied();
        let Some(item) = index.and_then(|index| self.items.all.get_mut(index)) else {
            return;
        };
        item.busy_until = now;
        item.state = match outcome {
            ItemOutcome::Done => State::Done,
            ItemOutcome::Retry { .. } if item.attempt < item.attempts_max => State::Waits,
            ItemOutcome::Retry { .. } | ItemOutcome::Refuse { .. } => State::Dead,
        };
    }

    /// Dead items were given up.
    pub fn items_discarded(&mut self, dead: &[DeadItem]) {
        for dead in dead {
            let of_dead = |item: &&mut Item| item.order == dead.order && item.version == dead.version;
            if let Some(item) = self.items.all.iter_mut().find(of_dead) {
                item.state = State::Done;
            }
        }
    }

    /// Whether every item is done.
    pub fn all_are_told(&self) -> bool {
        self.items.all.iter().all(|item| item.state == State::Done)
    }

    /// After an operator has cleared up, every item is done.
    pub fn items_are_done(&self) -> Verdict {
        let open = self.items.all.iter().find(|item| item.state != State::Done);
        let told = open.map(|item| (&item.status, &item.queue, item.state));
        hold!(
            open.is_none(),
            "nothing is silently stuck, but an operator could not end an item: {told:?}"
        );
        Ok(())
    }
}
