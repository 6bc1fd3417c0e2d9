//! Reading: orders with their places, keys, histories, the feed, lists and counters.

use std::sync::Arc;

use comanda_model::{Attempt, Event, Order, OrderId};
use jiff::Timestamp;

use super::state::{Row, State};
use crate::{
    Cause, Counters, Cursor, FeedEvent, FeedNotice, FeedPage, FeedStart, ListQuery, OrderPage, StoreError, Stored,
};

/// The most rows that one page of a list looks at.
const ROWS_PER_PAGE_MAX: usize = 10_000;

/// The most orders on one page, whatever was asked for.
const LIMIT_MAX: usize = 1000;

impl State {
    fn stored(&self, seq: u64, row: &Row, now: Timestamp) -> Stored {
        let held = self.held.get(&row.order.id());
        let leased = held.filter(|held| held.lease_until > now);
        Stored {
            order: Arc::new(row.order.clone()),
            claim: leased.map(|held| (held.token, held.lease_until)),
            worker: held.and_then(|held| Some(held.worker.as_ref()?.1.clone())),
            place: self.place(seq, row),
        }
    }

    pub(super) fn order(&mut self, id: OrderId) -> Option<Stored> {
        let now = self.now();
        let seq = *self.ids.get(&id)?;
        self.rows.get(&seq).map(|row| self.stored(seq, row, now))
    }

    pub(super) fn key(&mut self, scope: &str, key: &str) -> Option<(OrderId, [u8; 32])> {
        let now = self.now();
        let key = self
            .keys
            .get(&(scope.to_owned(), key.to_owned()))
            .filter(|key| !key.is_expired(now))?;
        let row = self.rows.get(&key.seq)?;
        Some((row.order.id(), key.fingerprint))
    }

    pub(super) fn history(&self, id: OrderId, after: u64, max: usize) -> Vec<Event> {
        let events = self.row(id).map(|row| row.events.as_slice()).unwrap_or_default();
        events
            .iter()
            .map(|(_, event)| event)
            .skip_while(|event| event.number <= after)
            .take(max)
            .cloned()
            .collect()
    }

    pub(super) fn attempts(&self, id: OrderId, after: u64, max: usize) -> Vec<Attempt> {
        let attempts = self.row(id).map(|row| row.attempts.as_slice()).unwrap_or_default();
        attempts
            .iter()
            .skip_while(|attempt| attempt.number <= after)
            .take(max)
            .cloned()
            .collect()
    }

    /// A page of the feed. After a removal it begins behind the last event that was removed: from there on it is whole,
    /// and whoever begins at the oldest is not reset again by what it has begun with.
    pub(super) fn feed(&self, from: FeedStart, max: usize) -> Result<FeedPage, StoreError> {
        let after = match from {
            FeedStart::Oldest => self.retained,
            FeedStart::Newest => self.last_position,
            FeedStart::After(cursor) => {
                let known = self.retained..=self.last_position;
                if cursor.epoch != self.epoch || !known.contains(&cursor.position) {
                    return Err(StoreError::CursorReset);
                }
                cursor.position
            }
        };
        let cursor = |position| Cursor {
            epoch: self.epoch,
            position,
        };
        let events = self.feed.range(after + 1..).filter_map(|(position, (seq, index))| {
            let row = self.rows.get(seq)?;
            let (_, event) = row.events.get(*index)?;
            Some(FeedEvent {
                order: row.order.id(),
                order_type: row.order.accepted.order_type.clone(),
                customer: row.order.accepted.customer.clone(),
                group: row.order.accepted.group.clone(),
                event: event.clone(),
                cursor: cursor(*position),
            })
        });
        let notices = self.notices.range(after + 1..).map(|(position, notice)| FeedNotice {
            notice: notice.clone(),
            cursor: cursor(*position),
        });
        let (events, notices) = (events.take(max).collect(), notices.take(max).collect());
        Ok(FeedPage::first(cursor(after), events, notices, max))
    }

    /// Events of an order as the feed has them.
    pub(super) fn events_of(&self, id: OrderId, after: u64, max: usize) -> Vec<FeedEvent> {
        let Some(row) = self.ids.get(&id).and_then(|seq| self.rows.get(seq)) else {
            return Vec::new();
        };
        let accepted = &row.order.accepted;
        let events = row.events.iter().filter(|(_, event)| event.number > after).take(max);
        let event = |(position, event): &(u64, Event)| FeedEvent {
            order: id,
            order_type: accepted.order_type.clone(),
            customer: accepted.customer.clone(),
            group: accepted.group.clone(),
            event: event.clone(),
            cursor: Cursor {
                epoch: self.epoch,
                position: *position,
            },
        };
        events.map(event).collect()
    }

    /// A page of orders. Its cursor is the number of the last one that was looked at.
    pub(super) fn list(&mut self, query: &ListQuery) -> OrderPage {
        let now = self.now();
        let limit = query.limit.clamp(1, LIMIT_MAX);
        let mut page = OrderPage {
            orders: Vec::new(),
            next: None,
        };
        let mut last = query.cursor.unwrap_or(u64::MAX);
        for (looked_at, (seq, row)) in self.rows.range(..last).rev().enumerate() {
            if page.orders.len() >= limit || looked_at >= ROWS_PER_PAGE_MAX {
                page.next = Some(last);
                break;
            }
            if fits(query, &row.order) {
                page.orders.push(self.stored(*seq, row, now));
            }
            last = *seq;
        }
        page
    }

    pub(super) fn causes(&self, max: usize) -> Vec<Cause> {
        self.tally.causes(max)
    }

    pub(super) fn counters(&mut self) -> Counters {
        let now = self.now();
        Counters {
            as_of: Some(now),
            counts: self.tally.counts(),
            oldest_due_at: self.oldest_due_at(now),
        }
    }
}

fn fits(query: &ListQuery, order: &Order) -> bool {
    let (accepted, head) = (&order.accepted, &order.head);
    let is = |wanted: &Option<String>, actual: Option<&str>| wanted.is_none() || wanted.as_deref() == actual;
    is(&query.order_type, Some(&accepted.order_type))
        && is(&query.status, Some(&head.status))
        && is(&query.customer, accepted.customer.as_deref())
        && is(&query.group, accepted.group.as_deref())
        && is(&query.cause, head.dead.as_ref().map(|dead| dead.cause.as_str()))
        && query.phase.is_none_or(|phase| phase == head.phase)
        && query.accepted_after.is_none_or(|after| accepted.at >= after)
        && query.accepted_before.is_none_or(|before| accepted.at < before)
}
