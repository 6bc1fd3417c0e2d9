//! Claims of workers from outside outlive the process that granted them.
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

use comanda_model::decision::{self, Report};
use comanda_model::order_type::Action;
use comanda_store::conformance::sample::{Shop, commit, done, pass, plain};
use comanda_store::{CommitError, Expect, QueueClaim, Receipt, Store, WorkClaim};
use rusqlite::Connection;
use support::{assert_clean, open};

fn shop(directory: &std::path::Path) -> Shop {
    let mut order_type = plain();
    order_type.steps.get_mut("reserve").unwrap().action = Action::Queue("picking".into());
    let store: Arc<dyn Store> = Arc::new(open(directory));
    Shop::new(&store, order_type)
}

fn asked(worker: &str, lease: Duration) -> QueueClaim {
    QueueClaim {
        queue: "picking".to_owned(),
        worker: worker.to_owned(),
        max: 10,
        lease,
    }
}

async fn answer(shop: &Shop, claim: &WorkClaim) -> Result<Receipt, CommitError> {
    let (order, input) = (shop.order(claim.token.order).await, shop.input());
    let report = Report {
        started_at: input.now,
        ended_at: input.now,
        outcome: done(None),
    };
    let change = decision::report(&order, &shop.order_type, report, &input);
    let expect = Expect::At {
        version: order.head.version,
        token: Some(claim.token),
    };
    shop.put(commit(change, expect)).await
}

#[tokio::test]
async fn a_workers_claim_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let first = shop(directory.path());
    let (kept, lost) = (first.accept("{}").await, first.accept("{}").await);
    let hour = Duration::from_secs(3600);
    let claims = first.store.claim_work(&asked("ann", hour)).await.unwrap().claims;
    assert_eq!((claims[0].token.order, claims[1].token.order), (kept, lost));
    first
        .store
        .renew(&claims[1].token, Duration::from_millis(1))
        .await
        .unwrap();
    first.store.close().await.unwrap();
    drop(first);
    assert_clean(directory.path());

    let second = shop(directory.path());
    pass(&*second.store, second.store.now() + Duration::from_millis(1)).await;
    let stored = second.stored(kept).await;
    assert_eq!(stored.claim, Some((claims[0].token, claims[0].lease_until)));
    assert_eq!(stored.worker.unwrap().name, "ann");
    let counts = second.store.queues().await.unwrap();
    assert_eq!((counts[0].depth, counts[0].leased), (2, 1));
    let again = second.store.claim_work(&asked("bob", hour)).await.unwrap().claims;
    assert_eq!(again.len(), 1, "what is leased is not given away");
    assert_eq!(again[0].token.order, lost);
    assert_eq!(again[0].lost.as_ref().unwrap().name, "ann");
    let late = answer(&second, &claims[1]).await;
    assert!(matches!(late, Err(CommitError::TokenStale)), "{late:?}");
    answer(&second, &claims[0]).await.unwrap();
    answer(&second, &again[0]).await.unwrap();
    second.store.close().await.unwrap();
    drop(second);
    assert_clean(directory.path());
    let database = Connection::open(directory.path().join("comanda.db")).unwrap();
    let rows: i64 = database
        .query_row("SELECT count(*) FROM claims", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 0, "what is answered leaves no claim behind");
}

#[tokio::test]
async fn a_damaged_claim_is_found_and_holds_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let first = shop(directory.path());
    let id = first.accept("{}").await;
    let hour = Duration::from_secs(3600);
    let claims = first.store.claim_work(&asked("ann", hour)).await.unwrap().claims;
    first.store.close().await.unwrap();
    drop(first);
    let database = Connection::open(directory.path().join("comanda.db")).unwrap();
    database.execute("UPDATE claims SET worker = 'eve'", []).unwrap();
    drop(database);
    let report = comanda_store_sqlite::verify(directory.path(), &|_, _| {}).unwrap();
    assert!(
        report
            .faults
            .iter()
            .any(|fault| fault.what.contains("the claim of order")),
        "{report:?}"
    );

    let second = shop(directory.path());
    assert!(second.stored(id).await.claim.is_none());
    let again = second.store.claim_work(&asked("bob", hour)).await.unwrap().claims;
    assert!(again[0].lost.is_none());
    let late = answer(&second, &claims[0]).await;
    assert!(matches!(late, Err(CommitError::TokenStale)), "{late:?}");
    second.store.close().await.unwrap();
    drop(second);
    assert_clean(directory.path());
}

#[tokio::test]
async fn a_claim_that_nobody_waits_for_is_not_made() {
    let directory = tempfile::tempdir().unwrap();
    let shop = shop(directory.path());
    shop.accept("{}").await;
    for _ in 0..20 {
        let store = shop.store.clone();
        let asking = tokio::spawn(async move { store.claim_work(&asked("ann", Duration::from_millis(1))).await });
        asking.abort();
        // Whether the claim was made or not: it is over, or ends with its lease.
        let _ = asking.await;
    }
    pass(&*shop.store, shop.store.now() + Duration::from_millis(5)).await;
    let hour = Duration::from_secs(3600);
    let claims = shop.store.claim_work(&asked("bob", hour)).await.unwrap().claims;
    assert_eq!(claims.len(), 1);
    answer(&shop, &claims[0]).await.unwrap();
    shop.store.close().await.unwrap();
    drop(shop);
    assert_clean(directory.path());
}
