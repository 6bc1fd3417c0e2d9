//! What is sent one after another: the events of one lane, or of an order that has none, in the order in which the feed has
//! them. Here it is decided which events of orders that failed may go next, and what is left when one of them fails again.
//!
//! An exception knows an order's first unsent event and a position of the feed that this event does not stand before. So the
//! exception with the lowest position is the one that its whole lane waits for, and an order's event may go as soon as no
//! other order of its lane can have an earlier one.

use std::collections::BTreeMap;
use std::sync::Arc;

use comanda_model::{Event, OrderId};
use comanda_store::FeedEvent;
use comanda_store::subscription::{Exception, Ordering, Subscription};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// The most events of one lane that are sent again in one go.
const EVENTS_MAX: usize = 200;

/// What is sent one after another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// The orders of a type with one group key, by a digest of both: a group key can name a person.
    Group(String),
    /// An order that is alone.
    Order(OrderId),
}

impl Lane {
    /// The lane in which a subscription is sent an event.
    pub(crate) fn of(subscription: &Subscription, event: &FeedEvent) -> Self {
        let group = event.group.as_ref().filter(|_| subscription.ordering == Ordering::Lane);
        group.map_or(Self::Order(event.order), |group| {
            let mut digest = Sha256::new();
            digest.update(event.order_type.as_bytes());
            digest.update([0]);
            digest.update(group.as_bytes());
            let digest = digest.finalize();
            Self::Group(digest[..16].iter().map(|byte| format!("{byte:02x}")).collect())
        })
    }

    /// The lane of an order that failed.
    pub(crate) fn of_exception(exception: &Exception) -> Self {
        match &exception.lane {
            Some(lane) => Self::Group(lane.clone()),
            None => Self::Order(exception.order),
        }
    }

    /// As an exception keeps it.
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            Self::Group(name) => Some(name.clone()),
            Self::Order(_) => None,
        }
    }
}

/// The exception that each lane waits for.
pub(crate) fn heads<'e>(exceptions: impl Iterator<Item = &'e Exception>) -> BTreeMap<Lane, &'e Exception> {
    let mut heads: BTreeMap<Lane, &Exception> = BTreeMap::new();
    for one in exceptions {
        heads
            .entry(Lane::of_exception(one))
            .and_modify(|head| {
                if (one.position, one.order) < (head.position, head.order) {
                    *head = one;
                }
            })
            .or_insert(one);
    }
    heads
}

/// One event that is to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) order: OrderId,
    pub(crate) order_type: Arc<str>,
    pub(crate) event: Event,
    /// Where the feed has it.
    pub(crate) position: u64,
}

impl From<FeedEvent> for Item {
    fn from(event: FeedEvent) -> Self {
        Self {
            order: event.order,
            order_type: event.order_type,
            event: event.event,
            position: event.cursor.position,
        }
    }
}

/// Events of one lane that are to be sent, one after another.
#[derive(Debug)]
pub(crate) struct Group {
    lane: Lane,
    pub(crate) items: Vec<Item>,
    /// The last event of each order that the cursor has passed, and how often its first one was tried.
    orders: BTreeMap<OrderId, (u64, u32)>,
    /// What stays for later whatever becomes of the items.
    rest: Vec<Exception>,
}

/// What an order that failed has to be sent.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) exception: Exception,
    /// The events from the first unsent one on that are wanted, with their positions.
    pub(crate) items: Vec<Item>,
    /// Up to which event, and where in the feed, its history was looked at, if it has more than that.
    pub(crate) cut_at: Option<(u64, u64)>,
}

impl Group {
    /// Of events that come from the feed for the first time.
    pub(crate) fn new(lane: Lane) -> Self {
        Self {
            lane,
            items: Vec::new(),
            orders: BTreeMap::new(),
            rest: Vec::new(),
        }
    }

    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Adds the next event that the feed has of this lane.
    pub(crate) fn push(&mut self, event: &FeedEvent) {
        self.orders.insert(event.order, (event.event.number, 0));
        self.items.push(Item {
            order: event.order,
            order_type: event.order_type.clone(),
            event: event.event.clone(),
            position: event.cursor.position,
        });
    }

    /// Of orders that failed: what may be sent of them now. `beyond` is the lowest position of those of the lane that were not
    /// fetched.
    pub(crate) fn again(lane: Lane, fetched: Vec<Fetched>, beyond: Option<u64>, now: Timestamp) -> Self {
        let cuts = fetched
            .iter()
            .filter_map(|one| one.cut_at.map(|(_, position)| position + 1));
        // Of what stands here or later something earlier may be missing.
        let bound = cuts.chain(beyond).min().unwrap_or(u64::MAX);
        let mut group = Self::new(lane);
        let mut items: Vec<Item> = Vec::new();
        let mut cuts = BTreeMap::new();
        for one in fetched {
            let exception = one.exception;
            group
                .orders
                .insert(exception.order, (exception.until, exception.attempts));
            cuts.extend(one.cut_at.map(|cut| (exception.order, cut)));
            items.extend(one.items);
        }
        items.sort_by_key(|item| item.position);
        let sendable = items.partition_point(|item| item.position < bound).min(EVENTS_MAX);
        let later = items.split_off(sendable);
        group.items = items;
        group.rest = group.unsent(&later, now);
        for (order, (number, position)) in cuts {
            if !group.rest.iter().any(|rest| rest.order == order) {
                let (until, _) = group.orders.get(&order).copied().unwrap_or((number, 0));
                group.rest.push(Exception {
                    order,
                    number: number + 1,
                    until,
                    attempts: 0,
                    retry_at: now,
                    lane: group.lane.name(),
                    position: position + 1,
                });
            }
        }
        // What was not reached for want of an earlier one keeps its count of tries.
        for rest in &mut group.rest {
            if !group.items.iter().any(|item| item.order == rest.order)
                && let Some((_, attempts)) = group.orders.get(&rest.order)
            {
                rest.attempts = *attempts;
            }
        }
        group
    }

    /// Every order that the group has events of.
    pub(crate) fn orders(&self) -> impl Iterator<Item = &OrderId> {
        self.orders.keys()
    }

    /// How often an order's first event was tried.
    pub(crate) fn attempts(&self, order: &OrderId) -> u32 {
        self.orders.get(order).map_or(0, |(_, attempts)| *attempts)
    }

    /// What is left when the items from this one on are not sent; the first of them was tried so often.
    pub(crate) fn left(&self, from: usize, attempts: u32, retry_at: Timestamp) -> Vec<Exception> {
        let mut left = self.unsent(self.items.get(from..).unwrap_or_default(), retry_at);
        if let Some(first) = left.first_mut() {
            first.attempts = attempts;
        }
        for rest in &self.rest {
            if !left.iter().any(|one| one.order == rest.order) {
                let retry_at = if left.is_empty() { rest.retry_at } else { retry_at };
                left.push(Exception {
                    retry_at,
                    ..rest.clone()
                });
            }
        }
        left
    }

    /// Of each order the first of these events, as an exception; in the order of the events.
    fn unsent(&self, items: &[Item], retry_at: Timestamp) -> Vec<Exception> {
        let mut unsent: Vec<Exception> = Vec::new();
        for item in items {
            if unsent.iter().any(|one| one.order == item.order) {
                continue;
            }
            let (until, _) = self.orders.get(&item.order).copied().unwrap_or((item.event.number, 0));
            unsent.push(Exception {
                order: item.order,
                number: item.event.number,
                until,
                attempts: 0,
                retry_at,
                lane: self.lane.name(),
                position: item.position,
            });
        }
        unsent
    }
}

#[cfg(test)]
mod tests {
    use comanda_model::EventKind;

    use super::*;

    fn order(n: u128) -> OrderId {
        OrderId(uuid::Uuid::from_u128(n))
    }

    fn item(order: OrderId, number: u64, position: u64) -> Item {
        Item {
            order,
            order_type: Arc::from("work"),
            event: Event {
                number,
                at: Timestamp::UNIX_EPOCH,
                kind: EventKind::Edited,
                from: None,
                to: None,
                by: Arc::from("engine"),
                reason: None,
                changed: Vec::new(),
            },
            position,
        }
    }

    fn exception(order: OrderId, number: u64, until: u64, position: u64) -> Exception {
        Exception {
            order,
            number,
            until,
            attempts: 3,
            retry_at: Timestamp::UNIX_EPOCH,
            lane: Some("lane".to_owned()),
            position,
        }
    }

    fn sent(group: &Group) -> Vec<u64> {
        group.items.iter().map(|item| item.position).collect()
    }

    fn lane() -> Lane {
        Lane::Group("lane".to_owned())
    }

    #[test]
    fn events_of_several_orders_go_in_the_order_of_the_feed() {
        let (one, two) = (order(1), order(2));
        let fetched = vec![
            Fetched {
                exception: exception(one, 1, 2, 10),
                items: vec![item(one, 1, 10), item(one, 2, 30)],
                cut_at: None,
            },
            Fetched {
                exception: exception(two, 1, 2, 20),
                items: vec![item(two, 1, 20), item(two, 2, 40)],
                cut_at: None,
            },
        ];
        let group = Group::again(lane(), fetched, None, Timestamp::UNIX_EPOCH);
        assert_eq!(sent(&group), [10, 20, 30, 40]);
        assert_eq!(group.attempts(&one), 3);
        let left = group.left(2, 1, Timestamp::UNIX_EPOCH);
        let left: Vec<_> = left
            .iter()
            .map(|left| (left.order, left.number, left.until, left.attempts, left.position))
            .collect();
        assert_eq!(left, [(one, 2, 2, 1, 30), (two, 2, 2, 0, 40)]);
        assert!(group.left(4, 0, Timestamp::UNIX_EPOCH).is_empty(), "all were sent");
    }

    #[test]
    fn nothing_goes_that_something_unknown_may_stand_before() {
        let one = order(1);
        let fetched = || {
            vec![Fetched {
                exception: exception(one, 1, 9, 10),
                items: vec![item(one, 1, 10), item(one, 2, 30)],
                cut_at: None,
            }]
        };
        let group = Group::again(lane(), fetched(), Some(20), Timestamp::UNIX_EPOCH);
        assert_eq!(sent(&group), [10]);
        let left = group.left(1, 0, Timestamp::UNIX_EPOCH);
        assert_eq!(left.len(), 1);
        assert_eq!(
            (left[0].number, left[0].position),
            (2, 30),
            "it waits for the other order"
        );
        let mut cut = fetched();
        cut[0].cut_at = Some((2, 30));
        let group = Group::again(lane(), cut, None, Timestamp::UNIX_EPOCH);
        assert_eq!(sent(&group), [10, 30]);
        let left = group.left(2, 0, Timestamp::UNIX_EPOCH);
        assert_eq!(left.len(), 1);
        assert_eq!(
            (left[0].number, left[0].until, left[0].position),
            (3, 9, 31),
            "there is more of it"
        );
    }

    #[test]
    fn a_position_that_was_only_a_bound_is_known_afterwards() {
        // Kept by an earlier version, which knew no positions.
        let one = order(1);
        let fetched = vec![Fetched {
            exception: exception(one, 1, 1, 0),
            items: vec![item(one, 1, 50)],
            cut_at: None,
        }];
        let group = Group::again(lane(), fetched, Some(20), Timestamp::UNIX_EPOCH);
        assert!(group.items.is_empty());
        let left = group.left(0, 0, Timestamp::UNIX_EPOCH);
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].position, left[0].attempts), (50, 3));
    }

    #[test]
    fn a_lane_waits_for_its_earliest_order() {
        let (late, early, alone) = (
            exception(order(1), 1, 1, 20),
            exception(order(2), 1, 1, 10),
            Exception {
                lane: None,
                ..exception(order(3), 1, 1, 5)
            },
        );
        let all = [late, early, alone];
        let heads = heads(all.iter());
        assert_eq!(heads.len(), 2);
        assert_eq!(heads[&lane()].order, order(2));
    }
}
