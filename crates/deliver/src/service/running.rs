//! Which workers are at work: one for each subscription that is not paused and is this process's to deliver.

use std::collections::BTreeMap;
use std::time::Duration;

use comanda_engine::Act;
use comanda_store::StoreError;
use comanda_store::subscription::Subscription;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Deliveries, Entry, Pause};
use crate::error::DeliverError;
use crate::worker::{End, Worker};

/// How often a process that shares its store looks which subscriptions are its own.
const FOLLOW: Duration = Duration::from_secs(1);

impl Deliveries {
    /// Takes over what other processes have changed of the subscriptions, where there are any.
    pub(super) async fn refresh(&self, entries: &mut BTreeMap<String, Entry>) -> Result<(), StoreError> {
        if !self.0.is_shared {
            return Ok(());
        }
        let all = self.0.all().await?;
        let gone: Vec<String> = entries
            .keys()
            .filter(|id| !all.iter().any(|one| one.id == **id))
            .cloned()
            .collect();
        for id in gone {
            if let Some(entry) = entries.remove(&id) {
                end(entry.worker).await;
            }
        }
        for subscription in all {
            match entries.get_mut(&subscription.id) {
                Some(entry) => entry.subscription = subscription,
                None => {
                    let entry = Entry {
                        subscription: subscription.clone(),
                        worker: None,
                        hold: None,
                    };
                    entries.insert(subscription.id, entry);
                }
            }
        }
        count_paused(entries);
        Ok(())
    }

    /// Sets to work what this process is to deliver, and ends the work on what it is not, or what was changed.
    pub(super) async fn follow(&self) -> Result<(), StoreError> {
        let Some(held) = self.0.port()?.hold().await? else {
            return Ok(());
        };
        let mut entries = self.0.entries.lock().await;
        let as_held = |entry: &Entry| entry.hold == held.get(&entry.subscription.id).copied();
        if entries.values().all(as_held) && held.keys().all(|id| entries.contains_key(id)) {
            return Ok(());
        }
        // Read after the holds: what is changed in between moves its hold, and is found the next time.
        self.refresh(&mut entries).await?;
        for entry in entries.values_mut() {
            let hold = held.get(&entry.subscription.id).copied();
            if entry.hold != hold {
                end(entry.worker.take()).await;
                entry.hold = hold;
                entry.worker = self.work(&entry.subscription, hold);
            }
        }
        Ok(())
    }

    /// Pauses one as its worker wishes, with an entry in the audit log. If it cannot be paused, the worker goes on.
    pub(super) async fn pause_by_engine(&self, id: &str, reason: String) -> Result<(), DeliverError> {
        let act = Act {
            by: "engine".into(),
            action: "subscription.paused",
            subject: format!("subscription:{id}"),
            before: Some(json!({"state": "active"})),
        };
        let begun = match self.0.service.begin_act(act).await {
            Ok(begun) => begun,
            Err(error) => {
                self.change(id, |_| ()).await?;
                return Err(error.into());
            }
        };
        let after = json!({"state": "paused", "reason": reason});
        let paused = self.pause(id, reason).await;
        let ended = match &paused {
            Ok(_) => Ok(Some(after)),
            Err(error) => Err(error.to_string()),
        };
        self.0.service.end_act(begun, ended).await;
        paused.map(drop)
    }

    /// Sets a worker to work, unless the subscription is paused, or not this process's to deliver.
    pub(super) fn work(
        &self,
        subscription: &Subscription,
        hold: Option<u64>,
    ) -> Option<(CancellationToken, JoinHandle<()>)> {
        let is_ours = hold.is_some() || !self.0.is_shared;
        if subscription.paused.is_some() || self.0.stop.is_cancelled() || !is_ours {
            return None;
        }
        let stop = self.0.stop.child_token();
        let (shared, subscription, token) = (self.0.clone(), subscription.clone(), stop.clone());
        let task = self.0.tasks.spawn(async move {
            loop {
                match Worker::new(shared.clone(), subscription.clone(), hold, token.clone()).await {
                    // Whose it is now is found by whoever looks; that ends this task if it is another's. Else this process was
                    // taken for dead and was heard of again before anyone looked, under the same hold: it goes on.
                    Ok(worker) => match worker.run().await {
                        End::Over => {}
                        End::Stopped => return,
                    },
                    Err(error) => {
                        tracing::warn!(%error, subscription = subscription.id, "deliveries wait for the store");
                    }
                }
                tokio::select! {
                    biased;
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                    () = token.cancelled() => return,
                }
            }
        });
        Some((stop, task))
    }
}

/// Does what workers wish: each has ended when it is heard.
pub(super) async fn pause_loop(deliveries: Deliveries, mut asked: mpsc::UnboundedReceiver<Pause>) {
    loop {
        let pause = tokio::select! {
            biased;
            pause = asked.recv() => pause,
            () = deliveries.0.stop.cancelled() => None,
        };
        let Some(Pause { id, reason }) = pause else { return };
        tracing::warn!(subscription = id, reason, "a subscription is paused");
        if let Err(error) = deliveries.pause_by_engine(&id, reason).await {
            tracing::warn!(%error, subscription = id, "a subscription could not be paused; it goes on trying");
        }
    }
}

/// Looks again and again which subscriptions are this process's to deliver.
pub(super) async fn follow_loop(deliveries: Deliveries) {
    loop {
        if let Err(error) = deliveries.follow().await {
            tracing::warn!(%error, "which subscriptions are to be delivered here could not be read");
        }
        tokio::select! {
            biased;
            () = deliveries.0.changed.notified() => {}
            () = tokio::time::sleep(FOLLOW) => {}
            () = deliveries.0.stop.cancelled() => return,
        }
    }
}

pub(super) async fn end(worker: Option<(CancellationToken, JoinHandle<()>)>) {
    if let Some((stop, task)) = worker {
        stop.cancel();
        // A worker that panicked has ended as well.
        let _ = task.await;
    }
}

pub(super) fn count_paused(entries: &BTreeMap<String, Entry>) {
    let paused = entries
        .values()
        .filter(|entry| entry.subscription.paused.is_some())
        .count();
    metrics::gauge!("comanda_subscriptions_paused").set(u32::try_from(paused).map_or(f64::MAX, f64::from));
}
