//! While someone else holds a transaction open, everything that was removed since stays in the way: claims must not look at it
//! again and again, and must still find at once whatever can be claimed. Counted by the database, not by a clock.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::sync::Arc;

use comanda_model::order_type::{DeadLetterInLane, StatusQueue};
use comanda_store::conformance::sample::{LONG, Shop, laned};
use comanda_store::{ItemOutcome, QueueClaim, Store};
use comanda_store_postgres::{Options, PostgresStore};
use support::Cluster;

/// How many rows nobody but the held transaction could see, and how often each claim is made.
const DEAD: u64 = 8_000;
const CLAIMS: u64 = 20;

/// Someone else's transaction. It ends when its client is dropped.
async fn hold(cluster: &Cluster, database: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(&cluster.address(database), tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT txid_current()")
        .await
        .unwrap();
    client
}

/// Rows of due work and of items that were there and are gone.
fn dead() -> String {
    format!(
        "INSERT INTO comanda.due (id, seq, due_at, queue, queued_at, visit, attempt)
            SELECT gen_random_uuid(), 0, now() - interval '1 minute', 'q', now() - interval '1 minute', 1, 1 FROM generate_series(1, {DEAD});
         DELETE FROM comanda.due WHERE seq = 0;
         INSERT INTO comanda.items (position, queue, id, status, version, at, lane, parks, attempts_max, attempt, due_at, holds, head)
            SELECT -n, 'q', gen_random_uuid(), 's', 1, now(), n::text, false, 3, 0, now() - interval '1 minute', true, true
            FROM generate_series(1, {DEAD}) AS n;
         DELETE FROM comanda.items WHERE position < 0"
    )
}

fn asked() -> QueueClaim {
    QueueClaim {
        queue: "q".to_owned(),
        worker: "ann".to_owned(),
        max: 10,
        lease: LONG,
    }
}

async fn set_up() -> (&'static Cluster, String, tokio_postgres::Client, Arc<dyn Store>) {
    let cluster = tokio::task::spawn_blocking(support::shared).await.unwrap();
    let database = cluster.database().await;
    let held = hold(cluster, &database).await;
    cluster.execute(&database, &dead()).await;
    let options = Options::new(&cluster.address(&database)).unwrap();
    let store = Arc::new(PostgresStore::open(options).await.unwrap());
    (cluster, database, held, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_rows_are_passed_over_once_not_by_every_claim() {
    let (cluster, database, held, store) = set_up().await;
    for _ in 0..CLAIMS {
        assert!(store.claim(10, LONG).await.unwrap().claims.is_empty());
        assert!(store.claim_work(&asked()).await.unwrap().claims.is_empty());
        assert!(store.claim_items(&asked()).await.unwrap().claims.is_empty());
    }
    // A connection tells what it has read at the latest when it ends.
    store.close().await.unwrap();
    let gone =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'comanda' AND datname = current_database()";
    cluster.until(&database, gone, "0").await;
    for index in ["due_by_wake", "due_by_queue", "items_heads"] {
        let read = format!("SELECT idx_tup_read FROM pg_stat_all_indexes WHERE indexrelname = '{index}'");
        let read: u64 = cluster.ask(&database, &read).await.unwrap().parse().unwrap();
        assert!(
            read >= DEAD,
            "{index}: one claim begins at the beginning, or this shows nothing: {read}"
        );
        // It looks twice: for what can be claimed, and for what is due next. If time passes it may begin there once more.
        assert!(read < DEAD * 6, "{index}: {read} entries for {CLAIMS} claims");
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_to_the_head_of_its_lane_is_claimed_at_once_however_long_it_has_waited() {
    let (cluster, database, held, store) = set_up().await;
    let mut order_type = laned(DeadLetterInLane::Park);
    order_type.statuses.get_mut("waiting").unwrap().queue = Some(StatusQueue {
        name: "q".into(),
        attempts: 3,
    });
    let shop = Shop::new(&store, order_type);
    // Claims learn that much is dead.
    assert!(shop.claim(10).await.is_empty());
    assert!(store.claim_items(&asked()).await.unwrap().claims.is_empty());
    let first = shop.accept(r#"{"customer":"c"}"#).await;
    let second = shop.accept(r#"{"customer":"c"}"#).await;
    let told = shop.accept(r#"{"customer":"i","status":"waiting"}"#).await;
    let told_later = shop.accept(r#"{"customer":"i","status":"waiting"}"#).await;
    let claim = shop.claim_one().await;
    assert_eq!(claim.order.id(), first);
    let item = store.claim_items(&asked()).await.unwrap().claims.remove(0);
    assert_eq!(item.order.id(), told);
    // As if they had waited for an hour, before which no claim looks any more.
    let waited = format!(
        "UPDATE comanda.heads SET due_at = due_at - interval '1 hour' WHERE id = '{second}';
         UPDATE comanda.items SET due_at = due_at - interval '1 hour' WHERE id = '{told_later}'"
    );
    cluster.execute(&database, &waited).await;
    assert!(shop.claim(10).await.is_empty(), "the first is at the head");
    shop.finish(claim).await;
    store.settle_item(&item.token, &ItemOutcome::Done).await.unwrap();
    let claim = shop.claim_one().await;
    assert_eq!(claim.order.id(), second);
    let next = store.claim_items(&asked()).await.unwrap().claims;
    assert_eq!(next.len(), 1, "{next:?}");
    assert_eq!(next[0].order.id(), told_later);
    // Given back, it can be claimed again at once.
    store.release(&[claim.token]).await.unwrap();
    assert_eq!(shop.claim_one().await.order.id(), second);
    drop(held);
    store.close().await.unwrap();
}
