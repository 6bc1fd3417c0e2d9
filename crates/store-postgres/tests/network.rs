//! What may happen on the way to the server, and to the server as a whole: delay, silence, TLS, a failover, a statement
//! that takes too long, no free connection, and errors that the server tells of.
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

use comanda_store::conformance::sample::{Shop, done, key, plain};
use comanda_store::conformance::{claims, commits, feed, hold, items, lanes, ledger, subscriptions};
use comanda_store::{CommitError, FeedStart, Store, StoreError};
use comanda_store_postgres::{Options, PostgresStore};
use support::Cluster;
use support::certificates::Certificates;
use support::proxy::Proxy;

async fn shared() -> &'static Cluster {
    tokio::task::spawn_blocking(support::shared).await.unwrap()
}

async fn open(options: Options) -> Arc<dyn Store> {
    Arc::new(PostgresStore::open(options).await.unwrap())
}

fn is_passing(error: &CommitError) -> bool {
    matches!(error, CommitError::Store(error) if error.is_passing()) || matches!(error, CommitError::Unknown)
}

/// The promises hold however far away the server is.
#[tokio::test(flavor = "multi_thread")]
async fn delay_changes_nothing() {
    let cluster = shared().await;
    for delay in [Duration::from_millis(2), Duration::from_millis(80)] {
        let proxy = Proxy::start(cluster.port).await;
        proxy.set_delay(delay);
        let make = async || {
            let database = cluster.database().await;
            open(Options::new(&proxy.address(&database)).unwrap()).await
        };
        tokio::join!(
            hold(make(), commits::commits_of_one_batch_stack),
            hold(make(), commits::a_repeated_commit_answers_again),
            hold(make(), claims::a_committer_takes_the_next_work),
            hold(make(), lanes::a_parked_dead_letter_holds_its_lane),
            hold(make(), feed::the_feed_is_in_commit_order),
            hold(make(), items::items_of_a_lane_come_in_order),
            hold(make(), ledger::all_lines_or_none),
            hold(make(), subscriptions::progress_moves_in_one_act),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_given_up_and_found_again() {
    let cluster = shared().await;
    let proxy = Proxy::start(cluster.port).await;
    let mut options = Options::new(&proxy.address(&cluster.database().await)).unwrap();
    options.answer_time_max = Duration::from_millis(300);
    let store = open(options).await;
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    proxy.hang();
    // It neither answers nor closes.
    let told = shop.put(shop.accepting("{}")).await.expect_err("nobody answers");
    assert!(is_passing(&told), "{told:?}");
    let health = store.health().await.expect_err("and it is said");
    assert!(health.is_passing(), "{health:?}");
    proxy.go_on();
    // Until a commit succeeds, or for a while, it says that none did.
    while shop.put(shop.accepting("{}")).await.is_err() {}
    while store.health().await.is_err() {}
    assert_eq!(shop.order(id).await.head.version, 1);
    store.close().await.unwrap();
}

/// A trigger that fails each insert of an order with this code, for so many times.
fn failing(code: &str, times: u32) -> String {
    format!(
        "CREATE SEQUENCE tries; CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF nextval('tries') <= {times} THEN RAISE EXCEPTION 'as told' USING ERRCODE = '{code}'; END IF; \
         RETURN NEW; END $$; \
         CREATE TRIGGER fail BEFORE INSERT ON comanda.orders FOR EACH ROW EXECUTE FUNCTION fail()"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_met_another_transaction_is_tried_again() {
    let cluster = shared().await;
    for code in ["40P01", "40001"] {
        let database = cluster.database().await;
        let store = open(Options::new(&cluster.address(&database)).unwrap()).await;
        cluster.execute(&database, &failing(code, 3)).await;
        Shop::new(&store, plain()).accept("{}").await;
        store.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_over_when_there_is_room() {
    let cluster = shared().await;
    let database = cluster.database().await;
    let store = open(Options::new(&cluster.address(&database)).unwrap()).await;
    // The server's own word for it; what fills the disk is not ours to test.
    cluster.execute(&database, &failing("53100", 1)).await;
    let shop = Shop::new(&store, plain());
    let told = shop.put(shop.accepting("{}")).await;
    assert!(matches!(told, Err(CommitError::Store(StoreError::Full(_)))), "{told:?}");
    shop.accept("{}").await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_may_take_no_longer_has_not_happened() {
    let cluster = shared().await;
    let database = cluster.database().await;
    let address = cluster.address(&database);
    let limit = format!("ALTER DATABASE {database} SET statement_timeout = '200ms'");
    cluster.execute("postgres", &limit).await;
    let mut options = Options::new(&address).unwrap();
    options.connections_max = 2;
    let store = open(options).await;
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
        .batch_execute("BEGIN; LOCK TABLE comanda.orders IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let commit = shop.accepting("{}");
    let told = shop.put(commit.clone()).await;
    assert!(
        matches!(told, Err(CommitError::Store(ref error)) if error.is_passing()),
        "it was not applied, and that is known: {told:?}"
    );
    // More readers than connections: each is told in time.
    let readers: Vec<_> = (0..6).map(|_| store.order(id)).collect();
    for told in futures_util::future::join_all(readers).await {
        assert!(told.is_err_and(|error| error.is_passing()));
    }
    client.batch_execute("ROLLBACK").await.unwrap();
    shop.put(commit).await.expect("now it is");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_synchronous_standby_a_failover_loses_nothing_and_the_feed_begins_anew() {
    let first = tokio::task::spawn_blocking(|| Cluster::start(&[])).await.unwrap();
    let (first, second) = tokio::task::spawn_blocking(move || {
        let second = first.standby();
        (first, second)
    })
    .await
    .unwrap();
    first
        .execute("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'")
        .await;
    first.execute("postgres", "SELECT pg_reload_conf()").await;
    let proxy = Proxy::start(first.port).await;
    let mut options = Options::new(&proxy.address("postgres")).unwrap();
    options.answer_time_max = Duration::from_secs(3);
    let store = open(options).await;
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let cursor = store.feed(FeedStart::Oldest, 10).await.unwrap().next;
    let claim = shop.claim_one().await;
    let second = tokio::task::spawn_blocking(move || {
        first.stop("immediate");
        second.promote();
        second
    })
    .await
    .unwrap();
    let told = shop.put(shop.accepting("{}")).await.expect_err("nobody is there");
    assert!(is_passing(&told), "{told:?}");
    assert!(store.health().await.is_err_and(|error| error.is_passing()));
    // The address leads to the other one now.
    proxy.lead_to(second.port);
    while store.health().await.is_err() {}
    assert_eq!(shop.order(id).await.head.version, 1, "what was accepted is there");
    shop.work(&claim, done(None)).await.expect("and the claim on it");
    let feed = store.feed(FeedStart::After(cursor), 10).await;
    assert!(matches!(feed, Err(StoreError::CursorReset)), "{feed:?}");
    assert_eq!(store.feed(FeedStart::Oldest, 10).await.unwrap().events.len(), 1);
    shop.accept("{}").await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_asynchronous_standby_a_failover_loses_what_it_had_not_yet_and_says_so() {
    let (first, second) = tokio::task::spawn_blocking(|| {
        let first = Cluster::start(&[]);
        let second = first.standby();
        (first, second)
    })
    .await
    .unwrap();
    let proxy = Proxy::start(first.port).await;
    let mut options = Options::new(&proxy.address("postgres")).unwrap();
    options.answer_time_max = Duration::from_secs(3);
    let store = open(options).await;
    let shop = Shop::new(&store, plain());
    let kept = shop.accept("{}").await;
    let claim = shop.claim_one().await;
    let sent = first
        .ask("postgres", "SELECT pg_current_wal_insert_lsn()")
        .await
        .unwrap();
    let has_it = format!("SELECT pg_last_wal_replay_lsn() >= '{sent}'");
    second.until("postgres", &has_it, "t").await;
    // From here on it is behind, and nobody waits for it.
    second.cut_off().await;
    shop.work(&claim, done(None)).await.expect("acknowledged");
    let mut keyed = shop.accepting("{}");
    keyed.keys.push(key("once", "k"));
    shop.put(keyed.clone()).await.expect("acknowledged");
    let lost = keyed.order.id();
    let cursor = store.feed(FeedStart::Oldest, 10).await.unwrap().next;
    let mut position = store.position();
    let before = *position.borrow_and_update();
    let second = tokio::task::spawn_blocking(move || {
        first.stop("immediate");
        second.promote();
        second
    })
    .await
    .unwrap();
    proxy.lead_to(second.port);
    while store.health().await.is_err() {}

    assert_eq!(shop.order(kept).await.head.version, 1, "its work is lost");
    assert!(store.order(lost).await.unwrap().is_none(), "and so is this order");
    let feed = store.feed(FeedStart::After(cursor), 10).await;
    assert!(
        matches!(feed, Err(StoreError::CursorReset)),
        "whoever followed is told: {feed:?}"
    );
    // Who waits for what is new is not told of a place that is no more.
    position.changed().await.unwrap();
    assert!(*position.borrow() < before);
    let change = shop.working(&keyed.order, None, done(None));
    let told = shop.put(change).await;
    assert!(
        matches!(told, Err(CommitError::VersionMoved { actual: 0 })),
        "nothing can be built on it: {told:?}"
    );
    // Sent again under the same key, it is made again; the work that was done before is done again under the same claim.
    let mut again = shop.accepting("{}");
    again.keys = keyed.keys;
    shop.put(again).await.expect("the key went with its order");
    shop.work(&claim, done(None))
        .await
        .expect("the claim was there already");
    store.close().await.unwrap();
    let options = Options::new(&second.address("postgres")).unwrap();
    let report = PostgresStore::verify(&options).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_must_show_a_certificate_of_its_name() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(&[])).await.unwrap();
    let certificates = Certificates::of(&["ours", "others"]);
    certificates.sign("ours", "server", "localhost", None);
    cluster.give_certificate(&certificates.file("server.pem"), &certificates.file("server.key"));
    cluster.execute("postgres", "ALTER SYSTEM SET ssl = on").await;
    cluster.execute("postgres", "SELECT pg_reload_conf()").await;
    let address = |host: &str, authority: &str| {
        let file = certificates.file(&format!("{authority}.pem"));
        format!(
            "postgres://postgres@{host}:{}/postgres?sslmode=verify-full&sslrootcert={}",
            cluster.port,
            file.display()
        )
    };
    // The server takes the setting up in its own time.
    let store = loop {
        match PostgresStore::open(Options::new(&address("localhost", "ours")).unwrap()).await {
            Ok(store) => break Arc::new(store) as Arc<dyn Store>,
            Err(error) => assert!(error.is_passing(), "{error:?}"),
        }
    };
    Shop::new(&store, plain()).accept("{}").await;
    store.close().await.unwrap();
    for (host, authority) in [("localhost", "others"), ("127.0.0.1", "ours")] {
        let opened = PostgresStore::open(Options::new(&address(host, authority)).unwrap()).await;
        assert!(opened.is_err(), "{host} with the certificates of {authority}");
    }
    cluster.execute("postgres", "ALTER SYSTEM SET ssl = off").await;
    cluster.execute("postgres", "SELECT pg_reload_conf()").await;
    loop {
        // Never in the clear where TLS was asked for.
        let opened = PostgresStore::open(Options::new(&address("localhost", "ours")).unwrap()).await;
        if opened.is_err() {
            break;
        }
    }
}
