//! What may happen to a server and to the way to it: settings that break promises, answers that are lost, connections
//! that are cut, a restart, a node that dies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use comanda_model::decision::Enqueue;
use comanda_model::order_type::DeadLetterInLane;
use comanda_store::conformance::ledger::{line, posting};
use comanda_store::conformance::sample::{LONG, Shop, done, laned, plain};
use comanda_store::conformance::subscriptions::subscription;
use comanda_store::subscription::Advance;
use comanda_store::{CommitError, Cursor, Store, StoreError};
use comanda_store_postgres::{Options, PostgresStore};
use support::Cluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn cluster(settings: &'static [&'static str]) -> Cluster {
    tokio::task::spawn_blocking(move || Cluster::start(settings))
        .await
        .unwrap()
}

async fn shared() -> &'static Cluster {
    tokio::task::spawn_blocking(support::shared).await.unwrap()
}

async fn open(address: &str) -> Arc<dyn Store> {
    Arc::new(PostgresStore::open(Options::new(address).unwrap()).await.unwrap())
}

/// A proxy on the way to the server. While it is deaf it passes on what is asked, and cuts the connection instead of
/// passing on the answer.
async fn proxy(port: u16) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap().port();
    let deaf = Arc::new(AtomicBool::new(false));
    let cut = deaf.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let cut = cut.clone();
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let (mut client_read, mut client_write) = client.into_split();
                let (mut server_read, mut server_write) = server.into_split();
                let up = async {
                    // A side that closes is all that ends it.
                    let _ = tokio::io::copy(&mut client_read, &mut server_write).await;
                };
                let down = async {
                    let mut buffer = vec![0; 64 * 1024];
                    while let Ok(count @ 1..) = server_read.read(&mut buffer).await {
                        if cut.load(Ordering::SeqCst) || client_write.write_all(&buffer[..count]).await.is_err() {
                            return;
                        }
                    }
                };
                tokio::select! { () = up => {} () = down => {} }
            });
        }
    });
    (here, deaf)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_would_lose_orders_is_refused() {
    for (setting, name) in [
        (&["fsync=off"], "fsync"),
        (&["synchronous_commit=off"], "synchronous_commit"),
    ] {
        let cluster = cluster(setting).await;
        let opened = PostgresStore::open(Options::new(&cluster.address("postgres")).unwrap()).await;
        let Err(StoreError::Failed { source, .. }) = opened else {
            panic!("a server with {name} = off was taken");
        };
        assert!(source.to_string().contains(&format!("{name} = off")), "{source}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_is_unknown_and_can_be_looked_up() {
    let cluster = shared().await;
    let database = cluster.database().await;
    let (port, deaf) = proxy(cluster.port).await;
    let store = open(&format!("postgres://postgres@127.0.0.1:{port}/{database}")).await;
    let shop = Shop::new(&store, plain());
    shop.accept("{}").await;
    let commit = shop.accepting(r#"{"n":1}"#);
    deaf.store(true, Ordering::SeqCst);
    let answer = shop.put(commit.clone()).await;
    assert!(matches!(answer, Err(CommitError::Unknown)), "{answer:?}");
    deaf.store(false, Ordering::SeqCst);
    // The connection was cut after the server had been asked, so it was applied; the store reaches it by itself.
    let found = shop.order(commit.order.id()).await;
    assert_eq!(found.head.commit_id, commit.order.head.commit_id);
    shop.put(commit).await.expect("sent again, it has succeeded");
    assert_eq!(store.history(found.id(), 0, 10).await.unwrap().len(), 1, "once");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_is_survived() {
    let cluster = cluster(&[]).await;
    let store = open(&cluster.address("postgres")).await;
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let claim = shop.claim_one().await;
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.stop("immediate");
        cluster
    })
    .await
    .unwrap();
    let refused = shop.put(shop.accepting("{}")).await;
    assert!(
        matches!(refused, Err(CommitError::Store(ref error)) if error.is_passing())
            || matches!(refused, Err(CommitError::Unknown)),
        "{refused:?}"
    );
    assert!(store.health().await.is_err_and(|error| error.is_passing()));
    let cluster = tokio::task::spawn_blocking(move || {
        cluster.start_again(&[]);
        cluster
    })
    .await
    .unwrap();
    store.health().await.expect("it is well again, by itself");
    assert_eq!(shop.order(id).await.head.version, 1, "what was accepted is there");
    shop.work(&claim, done(None)).await.expect("and the claim on it");
    shop.accept("{}").await;
    store.close().await.unwrap();
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_server_says_so_and_is_still_read() {
    let cluster = shared().await;
    let database = cluster.database().await;
    let store = open(&cluster.address(&database)).await;
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let set = |mode| format!("ALTER DATABASE {database} SET default_transaction_read_only = {mode}");
    let cut = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'");
    cluster.execute("postgres", &set("on")).await;
    cluster.execute("postgres", &cut).await;
    // The first statements meet the connections that were cut.
    let told = loop {
        match shop.put(shop.accepting("{}")).await {
            Err(CommitError::Unknown) => {}
            told => break told,
        }
    };
    assert!(
        matches!(told, Err(CommitError::Store(StoreError::ReadOnly(_)))),
        "{told:?}"
    );
    assert!(matches!(store.health().await, Err(StoreError::ReadOnly(_))));
    assert_eq!(shop.order(id).await.head.version, 1, "it can be read");
    cluster.execute("postgres", &set("off")).await;
    cluster.execute("postgres", &cut).await;
    while store.health().await.is_err() {}
    while shop.put(shop.accepting("{}")).await.is_err() {}
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_that_is_gone_held_is_claimed_at_once() {
    let cluster = shared().await;
    let database = cluster.database().await;
    let address = cluster.address(&database);
    let store = open(&address).await;
    let shop = Shop::new(&store, plain());
    let id = shop.accept("{}").await;
    let held = shop.claim_one().await;
    let other = open(&address).await;
    assert!(other.claim(10, LONG).await.unwrap().claims.is_empty(), "it is held");
    // As the heartbeat finds it after a kill: the node's time has passed.
    cluster
        .execute(
            &database,
            "UPDATE comanda.nodes SET alive_until = now() - interval '1 s' \
             WHERE id = (SELECT node FROM comanda.due WHERE node IS NOT NULL); \
             SELECT comanda.beat(gen_random_uuid(), 1000000)",
        )
        .await;
    let taken = other.claim(10, LONG).await.unwrap().claims;
    assert_eq!(taken.len(), 1, "the other node takes it over");
    assert_eq!(taken[0].order.id(), id);
    let late = shop.work(&held, done(None)).await;
    assert!(
        matches!(late, Err(CommitError::TokenStale)),
        "the first one's result does not count: {late:?}"
    );
    store.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_claim_took_whose_answer_was_lost_is_given_back_and_nothing_else() {
    let cluster = shared().await;
    let database = cluster.database().await;
    let (port, deaf) = proxy(cluster.port).await;
    let store = open(&format!("postgres://postgres@127.0.0.1:{port}/{database}")).await;
    let other = open(&cluster.address(&database)).await;
    let shop = Shop::new(&store, plain());
    let first = shop.accept("{}").await;
    let held = store.claim(10, LONG).await.unwrap().claims;
    assert_eq!(held.len(), 1);
    let second = shop.accept("{}").await;
    loop {
        deaf.store(true, Ordering::SeqCst);
        assert!(store.claim(10, LONG).await.is_err());
        deaf.store(false, Ordering::SeqCst);
        let left = other.claim(10, LONG).await.unwrap().claims;
        if left.is_empty() {
            break;
        }
        // It was cut off before it was asked: once more.
        other.release(&[left[0].token]).await.unwrap();
    }
    let claim_until_there_is_one = async {
        loop {
            let claims = store.claim(10, LONG).await.unwrap().claims;
            if !claims.is_empty() {
                return claims;
            }
        }
    };
    let again = tokio::time::timeout(Duration::from_secs(60), claim_until_there_is_one)
        .await
        .expect("what was claimed unknowingly comes back");
    let ids: Vec<_> = again.iter().map(|claim| claim.order.id()).collect();
    assert_eq!(ids, [second]);
    assert_eq!(held[0].order.id(), first);
    for claim in held.iter().chain(&again) {
        store.renew(&claim.token, LONG).await.expect("it is held");
    }
    store.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_the_database_cannot_hold_come_back_whole() {
    let cluster = shared().await;
    let store = open(&cluster.address(&cluster.database().await)).await;
    let shop = Shop::new(&store, plain());
    let mut commit = shop.accepting("{}");
    let accepted = Arc::make_mut(&mut Arc::make_mut(&mut commit.order).accepted);
    accepted.group = Some("a\0b\u{F8F0}".to_owned());
    let expected = commit.order.clone();
    shop.put(commit).await.unwrap();
    assert_eq!(shop.order(expected.id()).await, *expected);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_write_at_once_lose_nothing_and_the_feed_has_no_gap() {
    const NODES: usize = 3;
    const EACH: usize = 40;
    let cluster = shared().await;
    let address = cluster.address(&cluster.database().await);
    let mut nodes = Vec::new();
    for _ in 0..NODES {
        nodes.push(open(&address).await);
    }
    let reader = nodes[0].clone();
    let mut writers = Vec::new();
    for node in &nodes {
        for _ in 0..4 {
            let shop = Shop::new(node, plain());
            writers.push(tokio::spawn(async move {
                for _ in 0..EACH {
                    let id = shop.accept("{}").await;
                    let order = shop.order(id).await;
                    shop.put(shop.working(&order, None, done(None))).await.unwrap();
                }
            }));
        }
    }
    let wanted = NODES * 4 * EACH;
    let mut seen = std::collections::HashMap::new();
    let mut from = comanda_store::FeedStart::Oldest;
    let mut accepted = 0;
    let read = async {
        while accepted < wanted || seen.values().any(|last| *last < 1) {
            let page = reader.feed(from, 50).await.unwrap();
            for event in &page.events {
                let last = seen.entry(event.order).or_insert(0);
                assert_eq!(event.event.number, *last + 1, "no event of an order is missing");
                *last += 1;
                accepted += usize::from(event.event.number == 1);
            }
            from = comanda_store::FeedStart::After(page.next);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read)
        .await
        .expect("every event comes");
    for writer in writers {
        writer.await.unwrap();
    }
    for node in nodes {
        node.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wrong_hand_has_done_is_found() {
    let cluster = shared().await;
    for (damage, found) in [
        ("UPDATE comanda.due SET due_at = due_at + interval '1 s'", "it is due"),
        ("DELETE FROM comanda.due", "it is due"),
        ("DELETE FROM comanda.events WHERE number = 1", "its events"),
        ("UPDATE comanda.heads SET version = 7", "its columns"),
        ("DELETE FROM comanda.orders", "a head without an order"),
        ("DELETE FROM comanda.heads", "an order without a head"),
        ("DELETE FROM comanda.lanes", "a lane"),
        ("DELETE FROM comanda.lane_waiting", "it says that it stands"),
        ("DELETE FROM comanda.balances", "a balance"),
        ("UPDATE comanda.items SET head = false", "a lane of a queue"),
        ("DELETE FROM comanda.items", "a count"),
        (
            "INSERT INTO comanda.tally_changes (kind, a, b, c, n) VALUES ('s', 'laned', 'new', '1', 1)",
            "a count",
        ),
    ] {
        let database = cluster.database().await;
        let address = cluster.address(&database);
        let store = open(&address).await;
        let shop = Shop::new(&store, laned(DeadLetterInLane::Park));
        for _ in 0..2 {
            shop.accept(r#"{"customer":"c"}"#).await;
        }
        let stock = vec![line("A", "outside", "on-hand", 3, "")];
        store.post(&posting("in", stock)).await.unwrap();
        let mut told = shop.accepting(r#"{"customer":"d"}"#);
        told.enqueue = Some(Enqueue {
            queue: "news".into(),
            lane: "l".to_owned(),
            parks: true,
            attempts_max: 3,
        });
        shop.put(told).await.unwrap();
        store.close().await.unwrap();
        let options = Options::new(&address).unwrap();
        assert!(PostgresStore::verify(&options).await.unwrap().is_clean());
        cluster.execute(&database, damage).await;
        let report = PostgresStore::verify(&options).await.unwrap();
        let told = report.faults.iter().any(|fault| fault.detail.starts_with(found));
        assert!(told, "{damage}: {report:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_wrong_hand_has_done_to_the_ledger_is_found() {
    let cluster = shared().await;
    for (damage, found) in [
        (
            "UPDATE comanda.balances SET quantity = quantity + 1 WHERE place = 'on-hand'",
            "a balance",
        ),
        ("UPDATE comanda.balances SET account = 'stock:B'", "a balance"),
        (
            "INSERT INTO comanda.balances VALUES ('stock:B', 'on-hand', 1)",
            "a balance",
        ),
        ("UPDATE comanda.ledger_entries SET quantity = 1", "a balance"),
        ("UPDATE comanda.ledger_entries SET target = 'shipped'", "a balance"),
        (
            "SET session_replication_role = replica; DELETE FROM comanda.ledger_entries",
            "a balance",
        ),
        // Lost as a whole, the books still balance.
        (
            "SET session_replication_role = replica; DELETE FROM comanda.postings",
            "there are more or fewer",
        ),
        (
            "SET session_replication_role = replica; DELETE FROM comanda.ledger_entries; \
             DELETE FROM comanda.balances WHERE place = 'aside'; UPDATE comanda.balances SET quantity = 3 WHERE place = 'on-hand'",
            "there are more or fewer",
        ),
        (
            "INSERT INTO comanda.postings SELECT 'again', fingerprint, at, counted FROM comanda.postings",
            "there are more or fewer",
        ),
        (
            "INSERT INTO comanda.ledger_entries SELECT id, 'again', account, source, target, quantity \
             FROM comanda.ledger_entries",
            "a balance",
        ),
        (
            "UPDATE comanda.ledger_entries SET id = gen_random_uuid()",
            "movements of an order",
        ),
        ("UPDATE comanda.ledger_flows SET quantity = quantity + 1", "a balance"),
        ("DELETE FROM comanda.ledger_flows", "a balance"),
    ] {
        let database = cluster.database().await;
        let address = cluster.address(&database);
        let store = open(&address).await;
        let shop = Shop::new(&store, plain());
        let stock = vec![line("A", "outside", "on-hand", 3, "")];
        store.post(&posting("in", stock)).await.unwrap();
        let order = shop.order(shop.accept("{}").await).await;
        let mut moving = shop.working(&order, None, done(None));
        moving.ledger = vec![line("A", "on-hand", "aside", 2, "1.1")];
        shop.put(moving).await.unwrap();
        store.close().await.unwrap();
        let options = Options::new(&address).unwrap();
        let report = PostgresStore::verify(&options).await.unwrap();
        assert!(report.is_clean(), "{report:#?}");
        cluster.execute(&database, damage).await;
        let report = PostgresStore::verify(&options).await.unwrap();
        let told = report.faults.iter().any(|fault| fault.detail.starts_with(found));
        assert!(told, "{damage}: {report:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_one_nodes_at_a_time() {
    let cluster = shared().await;
    let database = cluster.database().await;
    let address = cluster.address(&database);
    let (one, other) = (open(&address).await, open(&address).await);
    let (first, second) = (one.subscriptions().unwrap(), other.subscriptions().unwrap());
    let made = subscription("hook", &*one);
    first.put_subscription(&made).await.unwrap();
    let held = first.hold().await.unwrap().unwrap()["hook"];
    assert!(second.hold().await.unwrap().unwrap().is_empty(), "it is taken");
    let advance = |hold| Advance {
        notice: None,
        hold,
        cursor: Some(Cursor { epoch: 1, position: 7 }),
        failed: Vec::new(),
        settled: Vec::new(),
        deliveries: Vec::new(),
    };
    assert!(first.advance("hook", advance(Some(held))).await.unwrap());
    assert!(
        !second.advance("hook", advance(Some(held))).await.unwrap(),
        "not its own"
    );
    second.put_subscription(&made).await.unwrap();
    let late = first.advance("hook", advance(Some(held))).await.unwrap();
    assert!(!late, "it was changed since");
    let held = first.hold().await.unwrap().unwrap()["hook"];
    assert!(
        second.advance("hook", advance(None)).await.unwrap(),
        "anyone may change it"
    );
    assert!(!first.advance("hook", advance(Some(held))).await.unwrap());
    let held = first.hold().await.unwrap().unwrap()["hook"];
    // As after a kill: the node's time has passed, by the database's clock.
    let gone = "UPDATE comanda.nodes SET alive_until = now() - interval '1 s' \
                WHERE id = (SELECT node FROM comanda.subscriptions)";
    cluster.execute(&database, gone).await;
    assert!(
        !first.advance("hook", advance(Some(held))).await.unwrap(),
        "it has lapsed"
    );
    let taken = second.hold().await.unwrap().unwrap()["hook"];
    assert!(taken > held);
    assert!(second.advance("hook", advance(Some(taken))).await.unwrap());
    assert!(!first.advance("hook", advance(Some(held))).await.unwrap());
    one.close().await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_format_before_is_widened_and_its_nodes_go_on() {
    let cluster = shared().await;
    let formats = [
        include_str!("../src/formats/1.sql"),
        include_str!("../src/formats/2.sql"),
        include_str!("../src/formats/3.sql"),
        include_str!("../src/formats/4.sql"),
        include_str!("../src/formats/5.sql"),
    ];
    for format in [3, 4, 5] {
        widen(cluster, format, &formats[..format]).await;
    }
    let made = Options::new(&cluster.address(&cluster.database().await)).unwrap();
    let status = PostgresStore::migration_status(&made).await.unwrap();
    assert_eq!(
        status.usable_by, status.newest,
        "one that was made new lacks what older nodes call"
    );
}

/// Widens a database of an older format.
async fn widen(cluster: &Cluster, format: usize, formats: &[&str]) {
    let database = cluster.empty_database().await;
    for tables in formats {
        cluster.execute(&database, tables).await;
    }
    let known = format!("INSERT INTO comanda.meta VALUES ('format', {format}), ('usable_by', {format})");
    cluster.execute(&database, &known).await;
    let posting = "INSERT INTO comanda.postings (once, fingerprint, at) VALUES ('earlier', '', now())";
    cluster.execute(&database, posting).await;
    let options = Options::new(&cluster.address(&database)).unwrap();
    let mut strict = options.clone();
    strict.migrate = false;
    let refused = PostgresStore::open(strict).await;
    assert!(
        refused.is_err_and(|error| error.is_passing()),
        "it is not migrated unasked"
    );
    let store = open(&cluster.address(&database)).await;
    Shop::new(&store, plain()).accept("{}").await;
    let status = PostgresStore::migration_status(&options).await.unwrap();
    assert_eq!((status.found, status.usable_by), (status.newest, 3));
    store.close().await.unwrap();
    // What the functions of the format before do that were under way when it was widened: neither makes the counts wrong.
    let added = "INSERT INTO comanda.postings (once, fingerprint, at) VALUES ('under way', '', now())";
    cluster.execute(&database, added).await;
    let removed =
        "DO $$ BEGIN DELETE FROM comanda.postings; ASSERT false; EXCEPTION WHEN serialization_failure THEN END $$";
    cluster.execute(&database, removed).await;
    let report = PostgresStore::verify(&options).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    let lost = "SET session_replication_role = replica; DELETE FROM comanda.postings WHERE once = 'earlier'";
    cluster.execute(&database, lost).await;
    assert!(
        !PostgresStore::verify(&options).await.unwrap().is_clean(),
        "what was there before is counted too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_of_an_older_build_are_replaced_under_the_nodes_at_work_and_never_put_back() {
    const OTHER: &str = "CREATE OR REPLACE FUNCTION comanda.item_lane(p_queue text, p_lane text) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 1 /* older build */'";
    const IS_OTHER: &str = "DO 'BEGIN ASSERT (SELECT prosrc LIKE ''%older build%'' FROM pg_proc WHERE oid = ''comanda.item_lane''::regproc); END'";
    const IS_OURS: &str = "DO 'BEGIN ASSERT NOT (SELECT prosrc LIKE ''%older build%'' FROM pg_proc WHERE oid = ''comanda.item_lane''::regproc); END'";
    let cluster = shared().await;
    let database = cluster.database().await;
    let address = cluster.address(&database);
    let options = Options::new(&address).unwrap();
    let at_work = open(&address).await;
    let shop = Shop::new(&at_work, plain());
    let known = PostgresStore::migration_status(&options).await.unwrap();
    assert!(
        !known.has_older_functions(),
        "one that was made new has its own: {known:?}"
    );

    cluster.execute(&database, OTHER).await;
    cluster
        .execute(
            &database,
            "UPDATE comanda.meta SET value = value - 1 WHERE name = 'functions'",
        )
        .await;
    assert!(
        PostgresStore::migration_status(&options)
            .await
            .unwrap()
            .has_older_functions()
    );
    cluster
        .execute(
            &database,
            "CREATE ROLE comanda_reads LOGIN; GRANT USAGE ON SCHEMA comanda TO comanda_reads; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA comanda TO comanda_reads",
        )
        .await;
    let only_serves = format!("postgres://comanda_reads@127.0.0.1:{}/{database}", cluster.port);
    open(&only_serves).await.close().await.unwrap();
    cluster.execute(&database, IS_OTHER).await;
    let newer = open(&address).await;
    cluster.execute(&database, IS_OURS).await;
    assert_eq!(PostgresStore::migration_status(&options).await.unwrap(), known);
    let id = shop.accept("{}").await;
    assert_eq!(Shop::new(&newer, plain()).order(id).await.head.version, 1);

    cluster.execute(&database, OTHER).await;
    cluster
        .execute(
            &database,
            "UPDATE comanda.meta SET value = value + 1 WHERE name = 'functions'",
        )
        .await;
    open(&address).await.close().await.unwrap();
    PostgresStore::migrate(&options).await.unwrap();
    cluster.execute(&database, IS_OTHER).await;
    newer.close().await.unwrap();
    at_work.close().await.unwrap();
}

/// The grants are those of `docs/postgresql.md`, read from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_only_serves_is_enough() {
    let cluster = shared().await;
    let database = cluster.empty_database().await;
    let owner = Options::new(&cluster.address(&database)).unwrap();
    PostgresStore::migrate(&owner).await.unwrap();
    let docs = include_str!("../../../docs/postgresql.md");
    let grants: Vec<&str> = docs.lines().filter(|line| line.starts_with("GRANT ")).collect();
    assert_eq!(grants.len(), 4, "the page shows them");
    let grants = format!("CREATE ROLE comanda_serve LOGIN; {}", grants.join("\n"));
    cluster.execute(&database, &grants).await;
    let address = format!("postgres://comanda_serve@127.0.0.1:{}/{database}", cluster.port);
    let store = open(&address).await;
    let shop = Shop::new(&store, laned(DeadLetterInLane::Park));
    let id = shop.accept(r#"{"customer":"c"}"#).await;
    let claim = shop.claim_one().await;
    shop.finish(claim).await;
    shop.cancel(shop.accept(r#"{"customer":"c"}"#).await).await;
    assert!(!store.history(id, 0, 10).await.unwrap().is_empty());
    store.feed(comanda_store::FeedStart::Oldest, 10).await.unwrap();
    store.counters().await.unwrap();
    store.retain(store.now(), 10).await.unwrap();
    store.health().await.unwrap();
    let migrated = PostgresStore::migrate(&Options::new(&address).unwrap()).await;
    assert!(migrated.is_ok(), "there is nothing to migrate: {migrated:?}");
    store.close().await.unwrap();
    let report = PostgresStore::verify(&owner).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
}
