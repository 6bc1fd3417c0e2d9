//! What the server does for the audit log by itself: it writes down what was changed elsewhere (API keys, order types), and
//! removes old entries.

use std::sync::Arc;
use std::time::Duration;

use comanda_engine::Service;
use comanda_http::KeyRing;
use comanda_store::StoreError;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often keys and types are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How often old entries are removed.
const PRUNE_EVERY: Duration = Duration::from_secs(60 * 60);

/// What was last seen of the things of a kind.
type Seen = Option<Vec<(String, Value)>>;

pub(super) async fn run(service: Service, keys: Arc<KeyRing>, kept: Duration, end: CancellationToken) {
    let (mut seen_keys, mut seen_types): (Seen, Seen) = (None, None);
    let mut pruned: Option<Instant> = None;
    loop {
        let looked = async {
            note(&service, "key", &mut seen_keys, told_keys(&keys)).await?;
            note(&service, "order-type", &mut seen_types, told_types(&service)).await?;
            if pruned.is_none_or(|at| at.elapsed() >= PRUNE_EVERY) {
                service.prune_audit(kept).await?;
                pruned = Some(Instant::now());
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = looked.await {
            tracing::warn!(%error, "the audit log could not be kept; it is tried again");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = end.cancelled() => return,
        }
    }
}

async fn note(
    service: &Service,
    kind: &'static str,
    seen: &mut Seen,
    now: Vec<(String, Value)>,
) -> Result<(), StoreError> {
    if seen.as_ref() != Some(&now) {
        service.audit_changes(kind, &now).await?;
        *seen = Some(now);
    }
    Ok(())
}

/// The keys without what they are known by.
fn told_keys(keys: &KeyRing) -> Vec<(String, Value)> {
    let told = |key: &comanda_http::Key| {
        let value =
            json!({"name": key.name, "scopes": key.scopes, "createdAt": key.created_at, "revokedAt": key.revoked_at});
        (key.id.clone(), value)
    };
    keys.all().iter().map(told).collect()
}

fn told_types(service: &Service) -> Vec<(String, Value)> {
    let all = service.registry().all();
    let told = all.iter().map(|definition| {
        let order_type = &definition.order_type;
        (
            order_type.name.to_string(),
            json!({"version": order_type.hash.to_string()}),
        )
    });
    told.collect()
}
