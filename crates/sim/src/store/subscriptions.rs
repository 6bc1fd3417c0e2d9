//! Subscriptions as one process sees them: what is read and written of them fails like everything else.

use async_trait::async_trait;
use comanda_model::OrderId;
use comanda_store::subscription::{Advance, Delivery, Progress, Subscription, SubscriptionStore};
use comanda_store::{FeedEvent, Notice, StoreError};

use super::FaultyStore;
use crate::plant::Plant;

impl FaultyStore {
    /// A subscription as it is sent to the store, where a planted bug forgets that it is paused.
    fn as_sent(&self, subscription: &Subscription) -> Subscription {
        let mut sent = subscription.clone();
        if self.world.has(Plant::PauseForgotten) {
            sent.paused = None;
        }
        sent
    }
}

#[async_trait]
impl SubscriptionStore for FaultyStore {
    async fn put_subscription(&self, subscription: &Subscription) -> Result<(), StoreError> {
        let name = self.world.dice.number(&subscription.id);
        let sent = self.as_sent(subscription);
        let memory = &self.world.memory;
        self.write_aside("put_subscription", name, memory.put_subscription(&sent))
            .await
    }

    async fn put_announced(&self, subscription: &Subscription, notice: &Notice) -> Result<(), StoreError> {
        let name = self.world.dice.number(&subscription.id);
        let sent = self.as_sent(subscription);
        let memory = &self.world.memory;
        self.write_aside("put_announced", name, memory.put_announced(&sent, notice))
            .await
    }

    async fn all_subscriptions(&self) -> Result<Vec<Subscription>, StoreError> {
        self.way("all_subscriptions").await?;
        self.world.memory.all_subscriptions().await
    }

    async fn remove_subscription(&self, id: &str) -> Result<bool, StoreError> {
        let name = self.world.dice.number(id);
        let memory = &self.world.memory;
        self.write_aside("remove_subscription", name, memory.remove_subscription(id))
            .await
    }

    async fn progress(&self, id: &str) -> Result<Option<Progress>, StoreError> {
        self.way("progress").await?;
        let mut progress = self.world.memory.progress(id).await?;
        if let (Some(progress), true) = (&mut progress, self.world.has(Plant::ExceptionDropped)) {
            progress.exceptions.clear();
        }
        self.life.gate().await;
        Ok(progress)
    }

    async fn advance(&self, id: &str, advance: Advance) -> Result<bool, StoreError> {
        let name = self.world.dice.number(id);
        let memory = &self.world.memory;
        self.write_aside("advance", name, memory.advance(id, advance)).await
    }

    async fn events_of(&self, order: OrderId, after: u64, max: usize) -> Result<Vec<FeedEvent>, StoreError> {
        self.way("events_of").await?;
        self.world.memory.events_of(order, after, max).await
    }

    async fn deliveries(&self, id: &str, before: u64, max: usize) -> Result<Vec<Delivery>, StoreError> {
        self.way("deliveries").await?;
        self.world.memory.deliveries(id, before, max).await
    }
}
