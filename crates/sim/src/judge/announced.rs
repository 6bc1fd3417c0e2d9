//! What receivers were told: everything that they wanted, each event as it was committed, at least once and in order per
//! order, or per lane; nothing that is not in the store, and nothing while the subscription is paused.

use std::collections::{BTreeMap, BTreeSet};

use comanda_model::{Event, OrderId};
use comanda_store::subscription::Ordering;
use serde_json::Value;

use super::{Judge, Known, Verdict, hold};
use crate::receivers::{WISHES, Wish};

/// What was told to whom.
#[derive(Default)]
pub struct Announced {
    told: BTreeMap<(String, OrderId), BTreeSet<u64>>,
    /// Subscriptions whose pause was acknowledged; of those that go on by themselves, in which life.
    paused: BTreeMap<String, Option<u32>>,
    /// How often each was asked to go on.
    resumes: BTreeMap<String, u64>,
}

fn wants(wish: &Wish, known: &Known, event: &Event) -> bool {
    let of_type = wish.types.is_empty() || wish.types.contains(&&*known.order.accepted.order_type);
    of_type && (wish.events.is_empty() || wish.events.contains(&event.kind.wire_name()))
}

impl Judge {
    /// How often a subscription was asked to go on.
    pub fn resumed_times(&self, id: &str) -> u64 {
        self.announced.resumes.get(id).copied().unwrap_or(0)
    }

    /// A pause was acknowledged that was asked for when the subscription had been told `resumes` times to go on; one more
    /// since then, and nobody can say which of the two came last. A pause that does not last ends with the life.
    pub fn paused(&mut self, id: &str, resumes: u64, life: u32, lasts: bool) {
        if self.resumed_times(id) == resumes {
            self.announced.paused.insert(id.to_owned(), (!lasts).then_some(life));
        }
    }

    /// A subscription is asked to go on.
    pub fn resumes(&mut self, id: &str) {
        self.announced.paused.remove(id);
        *self.announced.resumes.entry(id.to_owned()).or_default() += 1;
    }

    /// A receiver is told of an event.
    pub fn announced(&mut self, to: &str, life: u32, id: &str, body: &str) -> Verdict {
        let paused = self.announced.paused.get(to);
        hold!(
            paused.is_none_or(|of| of.is_some_and(|of| of != life)),
            "subscriptions: `{to}` is sent {id}, and is paused"
        );
        let wish = WISHES.iter().find(|wish| wish.id == to);
        let wish = wish.ok_or_else(|| format!("subscriptions: nobody has made `{to}`"))?;
        let (order, number) = id.split_once(':').unwrap_or_default();
        let (Ok(order), Ok(number)) = (order.parse::<OrderId>(), number.parse::<u64>()) else {
            return Err(format!(
                "subscriptions: `{to}` is sent {id}, which is no event of an order"
            ));
        };
        let known = self.orders.get(&order);
        let index = usize::try_from(number).unwrap_or(0).wrapping_sub(1);
        let event = known.and_then(|known| Some((known, known.events.get(index)?)));
        let (known, event) =
            event.ok_or_else(|| format!("subscriptions: {id} was announced, and is not in the store"))?;
        let told: Value = serde_json::from_str(body).unwrap_or_default();
        let data = &told["data"];
        let same = told["id"] == *id
            && told["type"] == *event.kind.wire_name()
            && data["from"].as_str() == event.from.as_deref()
            && data["to"].as_str() == event.to.as_deref()
            && data["by"] == *event.by;
        hold!(same, "subscriptions: {id} was announced as {told}, and is {event:?}");
        if let Some(version) = data["order"]["version"].as_u64() {
            hold!(
                version <= known.commits.len() as u64,
                "subscriptions: with {id} went version {version} of #{}, which is not durable",
                known.n
            );
        }
        hold!(
            wants(wish, known, event),
            "subscriptions: `{to}` is sent {id}, which it does not want"
        );
        if wish.ordering == Ordering::Lane {
            self.lane_before(wish, known, (order, number))?;
        }
        let received = self.announced.told.entry((to.to_owned(), order)).or_default();
        let missing = known.events[..index]
            .iter()
            .find(|earlier| wants(wish, known, earlier) && !received.contains(&earlier.number));
        if let Some(missing) = missing {
            return Err(format!(
                "subscriptions: `{to}` is sent event {number} of #{} before event {}",
                known.n, missing.number
            ));
        }
        received.insert(number);
        Ok(())
    }

    /// Whatever stands in the feed before an event, of any order of its lane, has been sent before it.
    fn lane_before(&self, wish: &Wish, known: &Known, sent: (OrderId, u64)) -> Verdict {
        let lane = |known: &Known| {
            let accepted = &known.order.accepted;
            accepted.group.clone().map(|group| (accepted.order_type.clone(), group))
        };
        let Some(of) = lane(known) else { return Ok(()) };
        let before = self.feed.iter().take_while(|entry| **entry != sent);
        for (order, number) in before {
            let Some(earlier) = self
                .orders
                .get(order)
                .filter(|earlier| lane(earlier).as_ref() == Some(&of))
            else {
                continue;
            };
            let index = usize::try_from(*number).unwrap_or(0).wrapping_sub(1);
            let wanted = earlier
                .events
                .get(index)
                .is_some_and(|event| wants(wish, earlier, event));
            let told = self.announced.told.get(&(wish.id.to_owned(), *order));
            hold!(
                !wanted || told.is_some_and(|told| told.contains(number)),
                "subscriptions: `{}` is sent event {} of #{} before event {number} of #{}, an earlier one of its lane",
                wish.id,
                sent.1,
                known.n,
                earlier.n
            );
        }
        Ok(())
    }

    /// What is still to be announced.
    pub fn unannounced(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for wish in &WISHES {
            for (id, known) in &self.orders {
                let told = self.announced.told.get(&(wish.id.to_owned(), *id));
                let untold = known
                    .events
                    .iter()
                    .find(|event| wants(wish, known, event) && told.is_none_or(|told| !told.contains(&event.number)));
                missing.extend(
                    untold.map(|event| format!("`{}` was never sent event {} of #{}", wish.id, event.number, known.n)),
                );
            }
        }
        missing
    }

    /// Everything was announced to whoever wanted it.
    pub fn all_is_announced(&self) -> Verdict {
        match self.unannounced().first() {
            None => Ok(()),
            Some(missing) => Err(format!("subscriptions: {missing}")),
        }
    }
}
