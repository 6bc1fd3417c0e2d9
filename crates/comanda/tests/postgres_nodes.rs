//! Three nodes on one database, under load: each is killed, one is stopped in its tracks for longer than its heartbeat
//! allows, and the database itself is restarted as by a crash. Afterwards the clients' ledger, the feed and
//! `comanda verify` agree: every acknowledged order once, final, in order within its lane, no event lost. The second test
//! chooses by a seed what happens to whom, cut-off nodes among it, and all of it behind PgBouncer, which hands each
//! transaction to whichever connection is free; `FAULTS_SEED` repeats a run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

#[path = "../../store-postgres/tests/support/mod.rs"]
mod cluster;
mod support;

use cluster::bouncer::Bouncer;
use cluster::proxy::Proxy;
use support::clients::{Ledger, add_type, check_feed};
use support::random::Random;
use support::{Home, Server};

const NODES: usize = 3;
const CLIENTS: usize = 9;
/// How many connections to the database PgBouncer shares out: less than a third of what the nodes hold to it.
const CONNECTIONS: u16 = 8;
/// How many faults the random run has, one after the other.
const FAULTS: usize = 8;
/// What a node has claimed is given back or taken over long before this, so no order waits for it.
const LONG_LEASE: &str = "[engine]\nlease = \"1h\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_nodes_and_database_nothing_acknowledged_is_lost() {
    let database = tokio::task::spawn_blocking(|| cluster::Cluster::start(&[]))
        .await
        .unwrap();
    let address = database.address("postgres");
    let start = |home: Home| Server::start_with(home, &["--store", &address], &[]);
    let mut nodes: Vec<Server> = Vec::new();
    for _ in 0..NODES {
        let home = tempfile::tempdir().unwrap();
        add_type(home.path());
        std::fs::write(home.path().join("comanda.toml"), LONG_LEASE).unwrap();
        nodes.push(start(Home::Own(home)));
    }
    let ledger = Ledger::new();
    ledger.set_urls(nodes.iter().map(|node| node.url.clone()).collect());
    let clients = ledger.start(CLIENTS);
    ledger.acknowledged_more(60).await;
    for place in 0..NODES {
        let home = nodes.remove(place).kill();
        ledger.acknowledged_more(30).await;
        let node = start(home);
        ledger.set_url(place, &node.url);
        nodes.insert(place, node);
        ledger.acknowledged_more(30).await;
    }
    let database = tokio::task::spawn_blocking(move || {
        database.stop("immediate");
        database.start_again(&[]);
        database
    })
    .await
    .unwrap();
    ledger.acknowledged_more(60).await;
    // Stopped, it holds its claims and its connections and says nothing. What it held is done by others.
    nodes[0].signal("STOP");
    ledger.acknowledged_more(60).await;
    ledger.stop(clients).await;
    let acknowledged = ledger.settle(&nodes[1].url).await;
    nodes[0].signal("CONT");
    for node in nodes {
        check_feed(&node.url, &acknowledged).await;
        node.stop();
    }
    let verified = comanda_store_postgres::Options::new(&address).unwrap();
    let report = comanda_store_postgres::PostgresStore::verify(&verified).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    println!("{} orders, each once, final and in order", acknowledged.len());
    drop(database);
}

/// What happens to a node, or to the database, in the random run.
#[derive(Debug)]
enum Fault {
    /// Killed, and started again.
    Kill,
    /// Stopped in order, and started again.
    Restart,
    /// Stopped in its tracks for a while.
    Pause,
    /// Nothing passes between it and the database for a while, and nothing is closed; what was under way arrives late.
    CutOff,
    /// The database ends every connection.
    Disconnect,
    /// The database crashes, and starts again.
    Crash,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_at_random_lose_nothing_acknowledged() {
    let seed = match std::env::var("FAULTS_SEED") {
        Ok(seed) => seed.parse().expect("FAULTS_SEED is a number"),
        Err(_) => u64::try_from(uuid::Uuid::new_v4().as_u128() >> 64).unwrap(),
    };
    println!("FAULTS_SEED={seed}");
    let mut random = Random(seed);
    let mut database = tokio::task::spawn_blocking(|| cluster::Cluster::start(&[]))
        .await
        .unwrap();
    let (bouncer, held) = tokio::task::spawn_blocking(move || (Bouncer::start(&database, CONNECTIONS), database))
        .await
        .unwrap();
    database = held;
    let mut proxies = Vec::new();
    for _ in 0..NODES {
        proxies.push(Proxy::start(bouncer.port).await);
    }
    let start = |home: Home, place: usize| {
        let address = proxies[place].address("postgres");
        Server::start_with(home, &["--store", &address], &[])
    };
    let mut nodes: Vec<Server> = Vec::new();
    for place in 0..NODES {
        let home = tempfile::tempdir().unwrap();
        add_type(home.path());
        // So that clients go on elsewhere soon when a node is cut off.
        let settings = format!("{LONG_LEASE}[limits]\nrequest_timeout = \"3s\"\n");
        std::fs::write(home.path().join("comanda.toml"), settings).unwrap();
        nodes.push(start(Home::Own(home), place));
    }
    let ledger = Ledger::new();
    ledger.set_urls(nodes.iter().map(|node| node.url.clone()).collect());
    let clients = ledger.start(CLIENTS);
    ledger.acknowledged_more(30).await;
    for _ in 0..FAULTS {
        let place = usize::try_from(random.below(NODES as u64)).unwrap();
        let more = 10 + usize::try_from(random.below(60)).unwrap();
        let fault = match random.below(6) {
            0 => Fault::Kill,
            1 => Fault::Restart,
            2 => Fault::Pause,
            3 => Fault::CutOff,
            4 => Fault::Disconnect,
            _ => Fault::Crash,
        };
        println!("{fault:?} {place}, {more} orders");
        match fault {
            Fault::Kill | Fault::Restart => {
                let node = nodes.remove(place);
                let home = if matches!(fault, Fault::Kill) {
                    node.kill()
                } else {
                    node.stop().1
                };
                ledger.acknowledged_more(more).await;
                nodes.insert(place, start(home, place));
                ledger.set_url(place, &nodes[place].url);
            }
            Fault::Pause => {
                nodes[place].signal("STOP");
                ledger.acknowledged_more(more).await;
                nodes[place].signal("CONT");
            }
            Fault::CutOff => {
                proxies[place].hang();
                ledger.acknowledged_more(more).await;
                proxies[place].go_on();
            }
            Fault::Disconnect => {
                let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                           WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
                database.execute("postgres", all).await;
            }
            Fault::Crash => {
                database = tokio::task::spawn_blocking(move || {
                    database.stop("immediate");
                    database.start_again(&[]);
                    database
                })
                .await
                .unwrap();
            }
        }
        ledger.acknowledged_more(15).await;
    }
    ledger.stop(clients).await;
    let acknowledged = ledger.settle(&nodes[0].url).await;
    for node in nodes {
        check_feed(&node.url, &acknowledged).await;
        node.stop();
    }
    let verified = comanda_store_postgres::Options::new(&database.address("postgres")).unwrap();
    let report = comanda_store_postgres::PostgresStore::verify(&verified).await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    println!("{} orders, each once, final and in order", acknowledged.len());
}
