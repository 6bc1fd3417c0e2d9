//! Stock: what the commits and postings that became durable must have left where, and who may hold any.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use comanda_model::ledger::{HELD, HoldState, LedgerLine, OUTSIDE, SHIPPED};
use comanda_model::{Order, OrderId, Phase};
use comanda_store::{Account, Commit, PostError, Posted, Posting};

use super::{Judge, Verdict, hold, number_in};

/// An account and a place in it.
type Place = (Arc<str>, Arc<str>);

/// All stock.
#[derive(Default)]
pub struct Stock {
    balances: BTreeMap<Place, i64>,
    postings: BTreeSet<String>,
    /// What each order has moved.
    moved: BTreeMap<OrderId, Moved>,
    /// Customers that were told to be blocked, with the orders that there were then.
    blocked: BTreeMap<String, BTreeSet<OrderId>>,
}

#[derive(Default)]
struct Moved {
    once: BTreeSet<(Arc<str>, Arc<str>)>,
    places: BTreeMap<Place, i64>,
}

fn apply(places: &mut BTreeMap<Place, i64>, line: &LedgerLine) {
    let quantity = i64::from(line.quantity);
    *places.entry((line.account.clone(), line.from.clone())).or_default() -= quantity;
    *places.entry((line.account.clone(), line.to.clone())).or_default() += quantity;
}

/// What stands in one place, by account.
fn standing(places: &BTreeMap<Place, i64>, wanted: &str) -> BTreeMap<Arc<str>, i64> {
    let there = places
        .iter()
        .filter(|((_, place), quantity)| **place == *wanted && **quantity != 0);
    there
        .map(|((account, _), quantity)| (account.clone(), *quantity))
        .collect()
}

impl Stock {
    fn none_is_negative(&self) -> Verdict {
        for ((account, place), quantity) in &self.balances {
            hold!(
                *quantity >= 0 || **place == *OUTSIDE,
                "stock: {quantity} of {account} stand in `{place}`"
            );
        }
        Ok(())
    }
}

impl Judge {
    /// The lines of a commit that is durable.
    pub(super) fn stock_moved(&mut self, commit: &Commit) -> Verdict {
        let id = commit.order.id();
        let (head, n) = (&commit.order.head, Self::number(commit));
        if commit.ledger.is_empty() && head.holds.is_empty() && !self.stock.moved.contains_key(&id) {
            return Ok(());
        }
        let moved = self.stock.moved.entry(id).or_default();
        for line in &commit.ledger {
            if moved.once.insert((line.once_id.clone(), line.account.clone())) {
                apply(&mut moved.places, line);
                apply(&mut self.stock.balances, line);
            }
        }
        for (place, state) in [(HELD, HoldState::Held), (SHIPPED, HoldState::Shipped)] {
            let is = standing(&moved.places, place);
            let mut said: BTreeMap<Arc<str>, i64> = BTreeMap::new();
            for line in head
                .holds
                .iter()
                .filter(|hold| hold.state == state)
                .flat_map(|hold| &hold.lines)
            {
                *said.entry(line.account.clone()).or_default() += i64::from(line.quantity);
            }
            said.retain(|_, quantity| *quantity != 0);
            hold!(
                is == said,
                "stock: #{n} has moved {is:?} to `{place}`, and its head says {said:?}"
            );
        }
        let held = standing(&moved.places, HELD);
        hold!(
            head.phase != Phase::Final || held.is_empty(),
            "stock: #{n} is final and holds {held:?}"
        );
        hold!(
            held.is_empty() || self.may_buy(&commit.order),
            "customers: #{n} holds {held:?}, and its customer was blocked before it was accepted, or is nobody"
        );
        self.stock.none_is_negative()
    }

    /// A posting came to the store. `answer` is what the store says of it.
    pub fn posted(&mut self, posting: &Posting, answer: &Result<Posted, PostError>) -> Verdict {
        let Ok(posted) = answer else { return Ok(()) };
        let new = self.stock.postings.insert(posting.once_id.clone());
        match posted {
            Posted::Repeated => hold!(
                !new,
                "stock: {} was never posted, and is called repeated",
                posting.once_id
            ),
            Posted::Applied => {
                hold!(new, "stock: {} was applied a second time", posting.once_id);
                if let Some((account, place, expected)) = &posting.expect {
                    let place = (account.as_str().into(), place.as_str().into());
                    let actual = self.stock.balances.get(&place).copied().unwrap_or(0);
                    hold!(
                        actual == *expected,
                        "stock: {} rests on {expected} of {account} where there are {actual}",
                        posting.once_id
                    );
                }
                for line in &posting.lines {
                    apply(&mut self.stock.balances, line);
                }
            }
        }
        self.stock.none_is_negative()
    }

    /// Somebody was told that a posting under a key has happened.
    pub fn posting_acknowledged(&self, key: &str) -> Verdict {
        hold!(
            self.stock.postings.contains(&format!("inventory:key:{key}")),
            "stock: {key} was acknowledged and is not durable"
        );
        Ok(())
    }

    /// The store's balances are what was moved, and of each account nothing was made or lost.
    pub fn stock_is_true(&self, accounts: &[Account]) -> Verdict {
        let told = accounts.iter().flat_map(|account| {
            let name: Arc<str> = account.account.as_str().into();
            let places = account.places.iter();
            places.map(move |(place, quantity)| ((name.clone(), place.clone()), *quantity))
        });
        let told: BTreeMap<Place, i64> = told.filter(|(_, quantity)| *quantity != 0).collect();
        let mut truth = self.stock.balances.clone();
        truth.retain(|_, quantity| *quantity != 0);
        hold!(told == truth, "stock: the store says {told:?}, and it is {truth:?}");
        for account in accounts {
            let sum: i64 = account.places.iter().map(|(_, quantity)| quantity).sum();
            hold!(sum == 0, "stock: all places of {} come to {sum}", account.account);
        }
        Ok(())
    }

    /// A customer's block was acknowledged: orders that are accepted from now on get nothing.
    pub fn customer_is_blocked(&mut self, id: &str) {
        let orders = self.orders.keys().copied().collect();
        self.stock.blocked.entry(id.to_owned()).or_insert(orders);
    }

    /// Whether an order is for somebody who may buy.
    pub(super) fn may_buy(&self, order: &Order) -> bool {
        let Some(customer) = order.accepted.customer.as_deref() else {
            return false;
        };
        let blocked = self.stock.blocked.get(customer);
        customer != "nobody" && blocked.is_none_or(|before| before.contains(&order.id()))
    }

    /// What an order has shipped is what it ordered, or nothing.
    pub(super) fn shipped_is(&self, id: OrderId, whole: bool) -> Verdict {
        let known = self.orders.get(&id).ok_or("an order vanished")?;
        let moved = self.stock.moved.get(&id);
        let shipped = moved.map(|moved| standing(&moved.places, SHIPPED)).unwrap_or_default();
        let mut wanted: BTreeMap<Arc<str>, i64> = BTreeMap::new();
        if whole {
            for line in products(known.order.data.as_str()) {
                let account: Arc<str> = format!("stock:{}", line.0).into();
                *wanted.entry(account).or_default() += i64::try_from(line.1).unwrap_or(0);
            }
        }
        hold!(
            shipped == wanted,
            "stock: #{} ended in {}, and {shipped:?} of it is shipped instead of {wanted:?}",
            known.n,
            known.order.head.status
        );
        Ok(())
    }
}

/// SKU and quantity of each line of an order.
pub(super) fn products(data: &str) -> Vec<(String, u64)> {
    let value: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
    let lines = value["products"].as_array().into_iter().flatten();
    lines
        .filter_map(|line| {
            Some((
                line["sku"].as_str()?.to_owned(),
                number_in(&line.to_string(), "quantity")?,
            ))
        })
        .collect()
}
