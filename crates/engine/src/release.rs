//! Giving claims back, so that the orders are found at once instead of when their leases have ended. What the store does not
//! take is kept, and given back again before the claim loop looks for due work.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::Token;
use comanda_store::Store;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::service::Core;

/// For how long a claim that a commit may still take is given back again, and how often. A commit whose answer was lost on the
/// network can come to the store that much later.
const DOUBT: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(1);

/// The most claims that are kept to be given back: about as many as one call of a store takes well. Those beyond end with their
/// leases.
const OWED_MAX: usize = 10_000;

/// A claim that is to be given back.
struct Owed {
    token: Token,
    at: Instant,
    /// When once more has been enough.
    until: Instant,
}

/// Gives claims back.
pub(crate) struct Releases {
    store: Arc<dyn Store>,
    owed: Mutex<Vec<Owed>>,
}

impl Releases {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            owed: Mutex::default(),
        }
    }

    /// Gives claims back, later if the store does not take them now.
    pub(crate) async fn release(&self, tokens: &[Token]) {
        if let Err(error) = self.store.release(tokens).await {
            let orders: Vec<_> = tokens.iter().map(|token| token.order.to_string()).collect();
            tracing::warn!(?orders, %error, "claims could not be given back; it is tried again");
            let now = Instant::now();
            self.keep(tokens.iter().map(|token| Owed {
                token: *token,
                at: now,
                until: now,
            }));
        }
    }

    fn keep(&self, more: impl Iterator<Item = Owed>) {
        let mut owed = self.owed.lock();
        let room = OWED_MAX.saturating_sub(owed.len());
        owed.extend(more.take(room));
    }

    /// Gives a claim back that a commit asked for whose outcome is not known: it has it, has it not, or will have it.
    pub(crate) fn release_in_doubt(&self, token: Token) {
        let now = Instant::now();
        self.keep(std::iter::once(Owed {
            token,
            at: now,
            until: now + DOUBT,
        }));
    }

    /// Gives back what is still to be given back.
    pub(crate) async fn release_owed(&self) {
        let now = Instant::now();
        let due: Vec<Owed> = self.owed.lock().extract_if(.., |owed| owed.at <= now).collect();
        if due.is_empty() {
            return;
        }
        let tokens: Vec<Token> = due.iter().map(|owed| owed.token).collect();
        let released = self.store.release(&tokens).await;
        if let Err(error) = &released {
            tracing::debug!(%error, claims = tokens.len(), "claims could not be given back yet");
        }
        let again = due.into_iter().filter(|owed| released.is_err() || owed.until > now);
        self.keep(again.map(|owed| Owed {
            at: now + AGAIN,
            ..owed
        }));
    }
}

impl Core {
    /// Gives a claim back and wakes the claim loop, so that the order is read and decided again.
    pub(crate) async fn give_back(&self, token: Token) {
        self.releases.release(&[token]).await;
        self.wake.now();
    }

    /// Gives a claim back beside whatever the caller goes on to do. The order is found when the claim loop looks next.
    pub(crate) fn spawn_release(&self, token: Token) {
        let releases = self.releases.clone();
        self.tasks.spawn(async move { releases.release(&[token]).await });
    }
}
