//! Subscriptions in memory.

use std::collections::{BTreeMap, VecDeque};

use async_trait::async_trait;
use comanda_model::OrderId;

use super::MemoryStore;
use super::state::State;
use crate::subscription::{
    Advance, DELIVERIES_KEPT, Delivery, Exception, Progress, SUBSCRIPTIONS_MAX, Subscription, SubscriptionStore,
};
use crate::{Cursor, FeedEvent, Notice, StoreError};

/// One subscription, with how far it has come.
pub(super) struct Kept {
    subscription: Subscription,
    cursor: Option<Cursor>,
    exceptions: BTreeMap<OrderId, Exception>,
    deliveries: VecDeque<Delivery>,
    last_delivery: u64,
}

impl State {
    /// Puts a notice at the feed's end, unless it is in the feed; answers where that is now.
    fn announce(&mut self, notice: Notice) -> u64 {
        if !self.notices.values().any(|there| there.id == notice.id) {
            self.last_position += 1;
            self.notices.insert(self.last_position, notice);
        }
        self.last_position
    }
}

fn put(all: &mut BTreeMap<String, Kept>, subscription: &Subscription) -> Result<(), StoreError> {
    if let Some(kept) = all.get_mut(&subscription.id) {
        kept.subscription = subscription.clone();
        return Ok(());
    }
    if all.len() >= SUBSCRIPTIONS_MAX {
        return Err(StoreError::Unsupported {
            store: "memory",
            what: "keep more than 1,000 subscriptions",
        });
    }
    let kept = Kept {
        subscription: subscription.clone(),
        cursor: None,
        exceptions: BTreeMap::new(),
        deliveries: VecDeque::new(),
        last_delivery: 0,
    };
    all.insert(subscription.id.clone(), kept);
    Ok(())
}

#[async_trait]
impl SubscriptionStore for MemoryStore {
    async fn put_subscription(&self, subscription: &Subscription) -> Result<(), StoreError> {
        put(&mut self.shared.inner.lock().state.subscriptions, subscription)
    }

    async fn all_subscriptions(&self) -> Result<Vec<Subscription>, StoreError> {
        let all = &self.shared.inner.lock().state.subscriptions;
        Ok(all.values().map(|kept| kept.subscription.clone()).collect())
    }

    async fn remove_subscription(&self, id: &str) -> Result<bool, StoreError> {
        Ok(self.shared.inner.lock().state.subscriptions.remove(id).is_some())
    }

    async fn progress(&self, id: &str) -> Result<Option<Progress>, StoreError> {
        let all = &self.shared.inner.lock().state.subscriptions;
        let progress = |kept: &Kept| {
            Some(Progress {
                cursor: kept.cursor?,
                exceptions: kept.exceptions.values().cloned().collect(),
            })
        };
        Ok(all.get(id).and_then(progress))
    }

    async fn put_announced(&self, subscription: &Subscription, notice: &Notice) -> Result<(), StoreError> {
        let newest = {
            let state = &mut self.shared.inner.lock().state;
            put(&mut state.subscriptions, subscription)?;
            state.announce(notice.clone())
        };
        self.shared.announce(newest);
        Ok(())
    }

    async fn advance(&self, id: &str, advance: Advance) -> Result<bool, StoreError> {
        let mut inner = self.shared.inner.lock();
        inner.fails_progress()?;
        let Some(kept) = inner.state.subscriptions.get_mut(id) else {
            return Ok(false);
        };
        kept.cursor = advance.cursor.or(kept.cursor);
        for order in &advance.settled {
            kept.exceptions.remove(order);
        }
        for exception in advance.failed {
            kept.exceptions.insert(exception.order, exception);
        }
        for delivery in advance.deliveries {
            kept.last_delivery += 1;
            kept.deliveries.push_front(Delivery {
                number: kept.last_delivery,
                ..delivery
            });
        }
        kept.deliveries.truncate(DELIVERIES_KEPT);
        let announced = advance.notice.map(|notice| inner.state.announce(notice));
        let lost = inner.loses_progress();
        drop(inner);
        if let Some(newest) = announced {
            self.shared.announce(newest);
        }
        lost.map(|()| true)
    }

    async fn events_of(&self, order: OrderId, after: u64, max: usize) -> Result<Vec<FeedEvent>, StoreError> {
        Ok(self.shared.inner.lock().state.events_of(order, after, max))
    }

    async fn deliveries(&self, id: &str, before: u64, max: usize) -> Result<Vec<Delivery>, StoreError> {
        let all = &self.shared.inner.lock().state.subscriptions;
        let log = all.get(id).map(|kept| kept.deliveries.iter()).into_iter().flatten();
        let log = log.filter(|delivery| delivery.number < before).take(max);
        Ok(log.cloned().collect())
    }
}
