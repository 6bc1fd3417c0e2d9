//! The real binary on PostgreSQL: an order to its end, a node that is killed, two nodes on one database.
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

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use support::hook::{Hook, SECRET};
use support::{Home, PATIENCE, Server};

const SALE: &str = r#"{"type":"sale","data":{"amount":12.50,"currency":"EUR"}}"#;

async fn database() -> String {
    let cluster = tokio::task::spawn_blocking(cluster::shared).await.unwrap();
    cluster.address(&cluster.database().await)
}

/// Submits a sale and waits until it is final.
fn sell(server: &Server) -> String {
    let (status, _, body) = server.http(
        "POST",
        "/v1/orders",
        &[("content-type", "application/json"), ("prefer", "wait=30")],
        SALE,
    );
    assert_eq!(status, 200, "{body}");
    let order: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(order["status"], "COMPLETED", "{body}");
    order["id"].as_str().unwrap().to_owned()
}

/// What the receiver hears of orders that are sold: that they were accepted, and that they are done.
fn both_events(orders: &[String]) -> BTreeSet<String> {
    let events = |id: &String| [format!("{id}:1"), format!("{id}:2")];
    orders.iter().flat_map(events).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_survives_the_death_of_its_node() {
    let address = database().await;
    let first = Server::start(&["--store", &address]);
    let id = sell(&first);
    let home = first.kill();
    let second = Server::start_in(home.path(), &["--store", &address]);
    let (status, order) = second.get(&format!("/v1/orders/{id}"));
    assert_eq!((status, order["status"].as_str()), (200, Some("COMPLETED")));
    sell(&second);
    let (status, _) = second.stop();
    assert!(status.success(), "it stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_takes_the_other_shows_and_streams() {
    let address = database().await;
    let (one, other) = (
        Server::start(&["--store", &address]),
        Server::start(&["--store", &address]),
    );
    let host = other.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "GET /v1/events HTTP/1.1\r\nhost: {host}\r\naccept: text/event-stream\r\n\r\n"
    )
    .unwrap();
    let mut lines = BufReader::new(stream)
        .lines()
        .map(|line| line.expect("the stream goes on"));
    // The head says that the stream has begun, so that nothing is missed.
    assert!(lines.by_ref().any(|line| line.contains("text/event-stream")));
    let id = sell(&one);
    let completed = lines.find(|line| line.contains(&id) && line.contains("COMPLETED"));
    assert!(completed.is_some(), "the other node streams it to its end");
    let (status, order) = other.get(&format!("/v1/orders/{id}"));
    assert_eq!((status, order["status"].as_str()), (200, Some("COMPLETED")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_migrated_and_verified_by_command() {
    let cluster = tokio::task::spawn_blocking(cluster::shared).await.unwrap();
    let address = cluster.address(&cluster.empty_database().await);
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| support::run(home.path(), args, "");
    let status = run(&["migrate", "status", "--store", &address]).ok();
    assert!(status.out.starts_with("empty"), "{status:?}");
    assert_ne!(
        run(&["verify", "--store", &address]).code,
        0,
        "there is nothing to verify"
    );
    let up = run(&["migrate", "up", "--store", &address]).ok();
    assert!(up.out.contains("up to date"), "{up:?}");
    run(&["migrate", "up", "--store", &address]).ok();
    let server = Server::start(&["--store", &address]);
    sell(&server);
    let verified = run(&["verify", "--store", &address]).ok();
    assert!(
        verified.out.contains("1 orders") && verified.out.contains("sound"),
        "{verified:?}"
    );
    let backup = run(&["backup", "copy", "--data", "nowhere"]);
    assert_ne!(backup.code, 0, "{backup:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_order_on_whatever_node_it_comes_to() {
    let address = database().await;
    let nodes = [
        Server::start(&["--store", &address]),
        Server::start(&["--store", &address]),
    ];
    let submit = |server: &Server| {
        let headers = [("content-type", "application/json"), ("idempotency-key", "\"k-1\"")];
        let (status, _, body) = server.http("POST", "/v1/orders", &headers, SALE);
        assert_eq!(status, 202, "{body}");
        let order: serde_json::Value = serde_json::from_str(&body).unwrap();
        order["id"].as_str().unwrap().to_owned()
    };
    let first = submit(&nodes[0]);
    assert_eq!(submit(&nodes[1]), first);
    assert_eq!(submit(&nodes[0]), first);
}

/// A configuration that has every event delivered to a receiver.
fn delivering_to(hook: &Hook) -> String {
    format!(
        "[[subscriptions]]\nname = \"hook\"\nurl = \"http://127.0.0.1:{}/\"\n\
         secret = {{ env = \"HOOK_SECRET\" }}\nfrom = \"oldest\"\n",
        hook.port
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_at_a_time_delivers_and_another_takes_over() {
    let address = database().await;
    let hook = Hook::start();
    let node = || {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("comanda.toml"), delivering_to(&hook)).unwrap();
        Server::start_with(Home::Own(home), &["--store", &address], &[("HOOK_SECRET", SECRET)])
    };
    let (first, second) = (node(), node());
    let mut orders: Vec<String> = (0..10).map(|_| sell(&first)).collect();
    // Whoever is asked tells, and whoever is told stops the one that delivers.
    second.run(&["subscriptions", "pause", "hook"], "").ok();
    let shown = first
        .run(&["subscriptions", "show", "hook", "--output", "json"], "")
        .ok();
    assert_eq!(shown.json()["state"], "paused", "{shown:?}");
    orders.extend((0..5).map(|_| sell(&second)));
    first.run(&["subscriptions", "resume", "hook"], "").ok();
    orders.extend((0..5).map(|_| sell(&second)));
    // It delivers, for it was there first; another node finds that it is gone, and goes on.
    first.kill();
    orders.extend((0..5).map(|_| sell(&second)));
    let expected = both_events(&orders);
    tokio::task::spawn_blocking(move || hook.wait_for(&expected))
        .await
        .unwrap();
    let log = second
        .run(&["subscriptions", "deliveries", "hook", "--output", "json"], "")
        .ok();
    assert!(!log.json()["items"].as_array().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_go_on_when_their_node_is_heard_of_again() {
    let cluster = tokio::task::spawn_blocking(cluster::shared).await.unwrap();
    let database = cluster.database().await;
    let hook = Hook::start();
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("comanda.toml"), delivering_to(&hook)).unwrap();
    let arguments = [
        "--store",
        &cluster.address(&database),
        "--log-level",
        "debug,hyper=warn",
    ];
    let mut node = Server::start_with(Home::Own(home), &arguments, &[("HOOK_SECRET", SECRET)]);
    let mut orders = vec![sell(&node)];
    // As when the database was away for longer than a heartbeat counts, and deliveries are written before the next heartbeat is: whose
    // they are was not asked meanwhile.
    let silenced = "ALTER FUNCTION comanda.beat(uuid, bigint) RENAME TO beat_of_later; \
         CREATE FUNCTION comanda.beat(p_node uuid, p_span bigint) RETURNS void LANGUAGE sql AS 'SELECT'; \
         ALTER FUNCTION comanda.hold_subscriptions(uuid) RENAME TO hold_of_later; \
         UPDATE comanda.nodes SET alive_until = now() - interval '1 s'";
    cluster.execute(&database, silenced).await;
    orders.push(sell(&node));
    node.wait_for_line("deliveries stop, for this process does not hold them");
    let heard = "DROP FUNCTION comanda.beat(uuid, bigint); \
         ALTER FUNCTION comanda.beat_of_later(uuid, bigint) RENAME TO beat";
    cluster.execute(&database, heard).await;
    let lives = "SELECT alive_until > now() FROM comanda.nodes";
    cluster.until(&database, lives, "t").await;
    let asked = "ALTER FUNCTION comanda.hold_of_later(uuid) RENAME TO hold_subscriptions";
    cluster.execute(&database, asked).await;
    orders.push(sell(&node));
    let expected = both_events(&orders);
    tokio::task::spawn_blocking(move || hook.wait_for(&expected))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_enters_a_status_on_one_node_is_claimed_on_the_other() {
    let address = database().await;
    let (one, other) = (
        Server::start(&["--store", &address]),
        Server::start(&["--store", &address]),
    );
    let body = r#"{"type":"work-order","status":"recibida","data":{"descripcion":"d","fecha_entrega":"01/02/2027"}}"#;
    let (status, order) = one.post("/v1/orders", body);
    assert_eq!(status, 202, "{order}");
    let (status, claims) = other.post(
        "/v1/queues/ordenes-recibidas/claims",
        r#"{"max":1,"waitSeconds":20,"worker":"w"}"#,
    );
    assert_eq!(status, 200, "{claims}");
    assert_eq!(claims["items"][0]["orderId"], order["id"], "{claims}");
    let token = &claims["items"][0]["token"];
    let done = format!(r#"{{"items":[{{"token":{token}}}]}}"#);
    let (_, answer) = one.post("/v1/claims/complete", &done);
    assert_eq!(answer["items"][0]["status"], "done", "{answer}");
    let verified = support::run(one.home.path(), &["verify", "--store", &address], "").ok();
    assert!(verified.out.contains("sound"), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_count_a_keys_rate_together() {
    let address = database().await;
    let homes = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    // So slow that nothing comes back while the test runs.
    let create = [
        "keys", "create", "shop", "--scope", "read", "--rate", "1/h", "--burst", "40",
    ];
    let made = support::run(homes[0].path(), &create, "").ok();
    let key = made.out.trim();
    std::fs::create_dir(homes[1].path().join("comanda-data")).unwrap();
    let [first, second] = homes.each_ref().map(|home| home.path().join("comanda-data/keys.json"));
    std::fs::copy(first, second).unwrap();
    let nodes = homes.map(|home| Server::start_with(Home::Own(home), &["--store", &address], &[]));
    let ask = |node: &Server| match node.http("GET", "/v1/orders", &[("x-api-key", key)], "") {
        (200, ..) => true,
        (429, headers, body) => {
            assert!(headers.contains("retry-after"), "{headers}");
            assert!(body.contains("rate-limited"), "{body}");
            false
        }
        other => panic!("{other:?}"),
    };
    let mut allowed = [0, 0];
    loop {
        let answers = nodes.each_ref().map(ask);
        if answers == [false, false] {
            break;
        }
        for (allowed, answer) in allowed.iter_mut().zip(answers) {
            *allowed += u32::from(answer);
        }
    }
    // A share that was leased and not spent in time is lost, so it can be less; more than the burst it never is.
    assert!(
        allowed.iter().sum::<u32>() <= 40 && allowed.iter().all(|one| *one > 1),
        "{allowed:?}"
    );
}

/// The id of an order, and a cursor behind all events.
fn sold(server: &Server) -> (String, String) {
    let id = sell(server);
    let (_, page) = server.get("/v1/events?limit=500");
    (id, page["nextCursor"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_restored_and_readers_of_events_are_told() {
    let cluster = tokio::task::spawn_blocking(cluster::shared).await.unwrap();
    let (from, to) = (cluster.database().await, cluster.empty_database().await);
    let server = Server::start(&["--store", &cluster.address(&from)]);
    let (id, cursor) = sold(&server);
    let dump = cluster.directory.join("orders.dump");
    let tool = |name: &str, database: &str| {
        let mut command = cluster::as_server(name);
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-d", database, "-p"]);
        command.arg(cluster.port.to_string());
        command
    };
    // As in docs/postgresql.md, while the node is at work.
    cluster::run(tool("pg_dump", &from).args(["--format=custom", "--file"]).arg(&dump));
    let later = sell(&server);
    let home = server.stop().1;
    let again = Server::start_in(home.path(), &["--store", &cluster.address(&from)]);
    let (status, _) = again.get(&format!("/v1/events?cursor={cursor}"));
    assert_eq!(status, 200, "a restart changes nothing");
    again.stop();

    cluster::run(tool("pg_restore", &to).args(["--exit-on-error"]).arg(&dump));
    let address = cluster.address(&to);
    support::run(home.path(), &["verify", "--store", &address], "").ok();
    let restored = Server::start(&["--store", &address]);
    let (status, order) = restored.get(&format!("/v1/orders/{id}"));
    assert_eq!((status, order["status"].as_str()), (200, Some("COMPLETED")));
    assert_eq!(restored.get(&format!("/v1/orders/{later}")).0, 404);
    // Its next events have the places of others that the reader has had.
    let (_, cursor_here) = sold(&restored);
    let (status, problem) = restored.get(&format!("/v1/events?cursor={cursor}"));
    assert_eq!(
        (status, problem["code"].as_str()),
        (410, Some("cursor-reset")),
        "{problem}"
    );
    assert_eq!(restored.get(&format!("/v1/events?cursor={cursor_here}")).0, 200);
    restored.stop();
}
