//! The audit log under what can happen to it: a crash in the middle, keys and types that change elsewhere, age.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use comanda_engine::{Act, AuditEntry, AuditFilter, AuditOutcome, Service};
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use serde_json::{Value, json};
use support::{Scripted, done, options};

async fn start() -> Service {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    Service::start(options(), store, Arc::new(Scripted(|_: &str, _, _| done())), Vec::new())
        .await
        .unwrap()
}

fn act(action: &'static str) -> Act {
    Act {
        by: "key:op".into(),
        action,
        subject: "sku:A-1".to_owned(),
        before: Some(json!({"onHand": 1})),
    }
}

async fn all(service: &Service) -> Vec<AuditEntry> {
    let page = service.audit(&AuditFilter::default(), None, 500).await.unwrap();
    assert_eq!(page.next, None);
    page.entries
}

#[tokio::test]
async fn a_change_whose_end_was_never_told_is_known_to_have_begun() {
    let service = start().await;
    drop(service.begin_act(act("inventory.counted")).await.unwrap());
    let failed = service.begin_act(act("inventory.received")).await.unwrap();
    service.end_act(failed, Err("x".repeat(10_000))).await;
    let large = json!({"text": "x".repeat(10_000)});
    service.note_act(act("inventory.received"), Some(large)).await.unwrap();
    let entries = all(&service).await;
    let outcomes: Vec<AuditOutcome> = entries.iter().map(|entry| entry.outcome).collect();
    assert_eq!(
        outcomes,
        [AuditOutcome::Done, AuditOutcome::Failed, AuditOutcome::Unknown]
    );
    assert!(entries[0].after.as_ref().unwrap().as_str().contains("omitted"));
    assert!(entries[1].error.as_ref().unwrap().len() <= 310);
    service.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn keys_and_types_that_change_elsewhere_are_found_once() {
    let service = start().await;
    let key = |id: &str, revoked: Value| (id.to_owned(), json!({"name": "shop", "revokedAt": revoked}));
    let first = [key("a", Value::Null), key("b", Value::Null)];
    for _ in 0..2 {
        service.audit_changes("key", &first).await.unwrap();
    }
    let second = [key("a", json!("2026-01-01T00:00:00Z"))];
    service.audit_changes("key", &second).await.unwrap();
    let version = |hash: &str| [("sale".to_owned(), json!({"version": hash}))];
    service.audit_changes("order-type", &version("1")).await.unwrap();
    service.audit_changes("order-type", &version("2")).await.unwrap();
    let told: Vec<(String, String)> = all(&service)
        .await
        .into_iter()
        .map(|one| (one.action, one.subject))
        .collect();
    let expected = [
        ("order-type.changed", "order-type:sale"),
        ("order-type.added", "order-type:sale"),
        ("key.removed", "key:b"),
        ("key.revoked", "key:a"),
        ("key.created", "key:b"),
        ("key.created", "key:a"),
    ];
    assert_eq!(
        told,
        expected.map(|(action, subject)| (action.to_owned(), subject.to_owned()))
    );
    service.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn old_entries_go_and_young_ones_stay() {
    let service = start().await;
    for _ in 0..3 {
        service.note_act(act("inventory.counted"), None).await.unwrap();
    }
    let kept = Duration::from_secs(3600);
    assert_eq!(service.prune_audit(kept).await.unwrap(), 0);
    assert_eq!(all(&service).await.len(), 3);
    let oldest = all(&service).await.pop().unwrap();
    // All that is older than nothing at all; the clock has moved on since.
    assert!(service.now() > oldest.at);
    assert_eq!(service.prune_audit(Duration::ZERO).await.unwrap(), 3);
    assert!(all(&service).await.is_empty());
    service.stop(Duration::from_secs(5)).await;
}
