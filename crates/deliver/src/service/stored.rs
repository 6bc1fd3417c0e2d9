//! Subscriptions as they stand in the store: their secrets sealed, and what becomes of them told in the same act.

use comanda_store::subscription::Subscription;
use comanda_store::{Notice, StoreError};

use super::Shared;
use crate::error::DeliverError;

impl Shared {
    /// All subscriptions, their secrets opened. One that cannot be opened stays sealed, and nothing can be signed with it.
    pub(super) async fn all(&self) -> Result<Vec<Subscription>, StoreError> {
        let mut all = self.port()?.all_subscriptions().await?;
        for subscription in &mut all {
            let what = purpose(&subscription.id);
            for secret in &mut subscription.secrets {
                if let Ok(opened) = self.options.sealer.open(&what, &secret.secret) {
                    secret.secret = opened;
                }
            }
        }
        Ok(all)
    }

    /// Keeps a subscription, its secrets sealed. If it is paused or goes on with that, everyone who wants to know is told in
    /// the same act.
    pub(super) async fn keep(
        &self,
        before: Option<&Subscription>,
        subscription: &Subscription,
    ) -> Result<(), DeliverError> {
        let mut sealed = subscription.clone();
        let what = purpose(&sealed.id);
        for secret in &mut sealed.secrets {
            secret.secret = self.options.sealer.seal(&what, &secret.secret)?;
        }
        let was_paused = before.is_some_and(|before| before.paused.is_some());
        let notice = match (was_paused, &sealed.paused) {
            (false, Some(paused)) => Notice::paused(&sealed.id, self.store.now(), &paused.reason),
            (true, None) => Notice::resumed(&sealed.id, self.store.now()),
            _ => return Ok(self.port()?.put_subscription(&sealed).await?),
        };
        Ok(self.port()?.put_announced(&sealed, &notice).await?)
    }

    /// Seals what stands in the store in plain text, or under a key that is being replaced.
    pub(super) async fn seal_anew(&self) -> Result<(), DeliverError> {
        for mut subscription in self.port()?.all_subscriptions().await? {
            let what = purpose(&subscription.id);
            let mut is_old = false;
            for secret in &mut subscription.secrets {
                match self.options.sealer.open(&what, &secret.secret) {
                    Ok(opened) => {
                        is_old |= !self.options.sealer.is_current(&secret.secret);
                        secret.secret = opened;
                    }
                    Err(error) => {
                        tracing::error!(%error, subscription = subscription.id, "its secret cannot be used: nothing is sent");
                    }
                }
            }
            if is_old {
                self.keep(Some(&subscription), &subscription).await?;
            }
        }
        Ok(())
    }
}

/// What a subscription's secrets are sealed for.
fn purpose(id: &str) -> String {
    format!("subscription:{id}")
}
