//! Giving claims back, so that the orders are found at once instead of when their leases have ended.

use std::sync::Arc;

use comanda_model::Token;
use comanda_store::Store;

use crate::service::Core;

/// Gives claims back. One that cannot be given back ends with its lease.
pub(crate) async fn release(store: &Arc<dyn Store>, tokens: &[Token]) {
    if let Err(error) = store.release(tokens).await {
        let orders: Vec<_> = tokens.iter().map(|token| token.order.to_string()).collect();
        tracing::warn!(?orders, %error, "claims could not be given back; they end with their leases");
    }
}

impl Core {
    /// Gives a claim back and wakes the claim loop, so that the order is read and decided again.
    pub(crate) async fn give_back(&self, token: Token) {
        release(&self.store, &[token]).await;
        self.wake.now();
    }

    /// Gives a claim back beside whatever the caller goes on to do. The order is found when the claim loop looks next.
    pub(crate) fn spawn_release(&self, token: Token) {
        let store = self.store.clone();
        self.tasks.spawn(async move { release(&store, &[token]).await });
    }
}
