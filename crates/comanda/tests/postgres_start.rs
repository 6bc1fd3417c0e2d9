//! Which servers the program refuses at its start, on PostgreSQL, and what it says then: certificates that do not fit, settings
//! of the server, the database or the role that would break a promise, servers that take no writes, formats of newer programs. Each
//! text says what to do, and none has the password in it. And the two roles of the documentation, of which one migrates and one
//! serves.
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

use cluster::Cluster;
use cluster::certificates::Certificates;
use support::{Ran, Server};

const PASSWORD: &str = "geheim-7f3a";

/// Starts the program on a database on which it must not start: what it said.
fn refused(address: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let Ran { code, out, err } = support::run(
        home.path(),
        &["serve", "--listen", "127.0.0.1:0", "--store", address],
        "",
    );
    assert_eq!(code, 1, "{out}{err}");
    assert!(!err.contains(PASSWORD) && !out.contains(PASSWORD), "{out}{err}");
    err
}

/// A cluster with TLS, and what signs its certificate: the program's role must show one of its own.
fn with_tls() -> (Cluster, Certificates) {
    let certificates = Certificates::of(&["ours", "others"]);
    certificates.sign("ours", "server", "localhost", None);
    certificates.sign("ours", "expired", "localhost", Some("20200201000000Z"));
    certificates.sign("ours", "client", "shown", None);
    certificates.sign("others", "stranger", "shown", None);
    let cluster = Cluster::start(&[]);
    cluster.give_certificate(&certificates.file("server.pem"), &certificates.file("server.key"));
    cluster.give_file(&certificates.file("ours.pem"), "authority.pem");
    cluster.give_text(
        "hostssl all shown all cert\nhost all all all trust\nlocal all all trust\nhost replication all all trust\n",
        "pg_hba.conf",
    );
    (cluster, certificates)
}

/// Sets a setting of the whole server, and waits until it holds.
async fn set(cluster: &Cluster, name: &str, value: &str) {
    cluster
        .execute("postgres", &format!("ALTER SYSTEM SET {name} = '{value}'"))
        .await;
    cluster.execute("postgres", "SELECT pg_reload_conf()").await;
    cluster.until("postgres", &format!("SHOW {name}"), value).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_who_its_certificate_says_and_so_are_we() {
    let (cluster, certificates) = with_tls();
    let made = format!("CREATE ROLE shown LOGIN SUPERUSER; CREATE ROLE orders LOGIN SUPERUSER PASSWORD '{PASSWORD}'");
    cluster.execute("postgres", &made).await;
    set(&cluster, "ssl_ca_file", "authority.pem").await;
    set(&cluster, "ssl", "on").await;
    let port = cluster.port;
    let file = |name: &str| certificates.file(name).display().to_string();
    let database = cluster.database().await;
    let address = |user: &str, host: &str, more: &str| {
        format!("postgres://{user}:{PASSWORD}@{host}:{port}/{database}?sslmode=verify-full{more}")
    };
    let ours = format!("&sslrootcert={}", file("ours.pem"));
    let own = |name: &str| {
        format!(
            "{ours}&sslcert={}&sslkey={}",
            file(&format!("{name}.pem")),
            file(&format!("{name}.key"))
        )
    };

    let server = Server::start(&["--store", &address("orders", "localhost", &ours)]);
    assert_eq!(server.http("GET", "/readyz", &[], "").0, 200);
    server.stop();
    let server = Server::start(&["--store", &address("shown", "localhost", &own("client"))]);
    assert_eq!(server.http("GET", "/readyz", &[], "").0, 200);
    server.stop();

    let others = format!("&sslrootcert={}", file("others.pem"));
    for (address, told, advice) in [
        (
            address("orders", "127.0.0.1", &ours),
            "not valid for name",
            "Write a name that the server's certificate has",
        ),
        (address("orders", "localhost", &others), "UnknownIssuer", "sslrootcert="),
        (address("orders", "localhost", ""), "UnknownIssuer", "sslrootcert="),
        (address("shown", "localhost", &ours), "certificate", "sslcert="),
        (
            address("shown", "localhost", &own("stranger")),
            "certificate",
            "sslcert=",
        ),
    ] {
        let said = refused(&address);
        assert!(said.contains(told) && said.contains(advice), "{said}");
    }
    for (more, told) in [
        ("&sslrootcert=nowhere.pem", "nowhere.pem"),
        ("&sslcert=only.pem", "sslkey"),
        ("&sslpassword=x", "only known parameters"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let ran = support::run(
            home.path(),
            &["serve", "--store", &address("orders", "localhost", more)],
            "",
        );
        assert!(ran.code != 0 && ran.err.contains(told), "{ran:?}");
        assert!(!ran.err.contains(PASSWORD), "{ran:?}");
    }

    cluster.give_certificate(&certificates.file("expired.pem"), &certificates.file("expired.key"));
    cluster.execute("postgres", "SELECT pg_reload_conf()").await;
    // The server takes it up in its own time.
    let said = loop {
        let home = tempfile::tempdir().unwrap();
        let store = address("orders", "localhost", &ours);
        let ran = support::run(home.path(), &["migrate", "status", "--store", &store], "");
        if ran.code != 0 {
            break ran.err;
        }
    };
    assert!(said.contains("expired") && said.contains("has not expired"), "{said}");
    set(&cluster, "ssl", "off").await;
    let said = refused(&address("orders", "localhost", &ours));
    assert!(
        said.contains("does not support TLS") && said.contains("ssl = on"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_break_a_promise_is_refused_wherever_it_is_set() {
    let cluster = Cluster::start(&[]);
    let made = format!("CREATE ROLE orders LOGIN SUPERUSER PASSWORD '{PASSWORD}'");
    cluster.execute("postgres", &made).await;
    let database = cluster.database().await;
    let address = format!("postgres://orders:{PASSWORD}@127.0.0.1:{}/{database}", cluster.port);
    let newer = "UPDATE comanda.meta SET value = 1000 WHERE name IN ('format', 'usable_by')";
    cluster
        .execute("postgres", "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1'")
        .await;
    for (place, done, undone, told, advice) in [
        (
            "postgres",
            "ALTER ROLE orders SET synchronous_commit = off",
            "ALTER ROLE orders RESET ALL",
            "synchronous_commit = off",
            "Set it to on",
        ),
        (
            "postgres",
            "ALTER DATABASE test_0 SET synchronous_commit = off",
            "ALTER DATABASE test_0 RESET ALL",
            "synchronous_commit = off",
            "Set it to on",
        ),
        (
            "postgres",
            "ALTER ROLE orders SET default_transaction_isolation = 'serializable'",
            "ALTER ROLE orders RESET ALL",
            "default_transaction_isolation is serializable",
            "read committed",
        ),
        (
            "postgres",
            "ALTER ROLE orders SET default_transaction_read_only = on",
            "ALTER ROLE orders RESET ALL",
            "read-only",
            "default_transaction_read_only",
        ),
        ("test_0", newer, "SELECT 1", "format 1000", "Use a newer version"),
    ] {
        cluster.execute(place, done).await;
        let said = refused(&address);
        assert!(said.contains(told) && said.contains(advice), "{done}: {said}");
        cluster.execute(place, undone).await;
    }
    let wrong = |from: &str, to: &str| address.replace(from, to);
    for (address, told, advice) in [
        (wrong("test_0", "latin"), "LATIN1", "UTF8"),
        (wrong("test_0", "nowhere"), "\"nowhere\" does not exist", "createdb"),
        (
            wrong("orders:", "nobody:"),
            "\"nobody\" does not exist",
            "Check user and password",
        ),
        (
            wrong(&format!(":{}/", cluster.port), ":1/"),
            "refused",
            "Check host and port",
        ),
    ] {
        let said = refused(&address);
        assert!(said.contains(told) && said.contains(advice), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_breaks_a_promise_under_a_running_node_is_told() {
    let cluster = Cluster::start(&[]);
    let mut server = Server::start(&["--store", &cluster.address(&cluster.database().await)]);
    assert_eq!(server.http("GET", "/readyz", &[], "").0, 200);
    set(&cluster, "synchronous_commit", "off").await;
    // Connections take a setting up when they are next used.
    while server.http("GET", "/readyz", &[], "").0 != 503 {}
    let said = server.wait_for_line("this node is not ready");
    assert!(said.contains("synchronous_commit = off"), "{said}");
    set(&cluster, "synchronous_commit", "on").await;
    while server.http("GET", "/readyz", &[], "").0 != 200 {}
    server.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_refused_and_the_server_that_it_follows_is_named_as_the_place() {
    let (first, second) = tokio::task::spawn_blocking(|| {
        let first = Cluster::start(&[]);
        let second = first.standby();
        (first, second)
    })
    .await
    .unwrap();
    let said = refused(&second.address("postgres"));
    assert!(
        said.contains("standby") && said.contains("the server that it follows"),
        "{said}"
    );
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_role_migrates_and_another_serves() {
    let cluster = Cluster::start(&[]);
    // As in docs/postgresql.md.
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/postgresql.md")).unwrap();
    let blocks: Vec<&str> = text
        .split("```sql\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    let [roles, grants] = blocks[..] else {
        panic!("the page has another number of blocks of SQL: {blocks:#?}");
    };
    for statement in roles
        .split_inclusive(';')
        .filter(|statement| !statement.trim().is_empty())
    {
        cluster.execute("postgres", statement).await;
    }
    let address = |role: &str| format!("postgres://{role}:PASSWORD@127.0.0.1:{}/orders", cluster.port);
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| support::run(home.path(), args, "");
    let said = refused(&address("comanda_serve"));
    assert!(said.contains("comanda migrate up"), "{said}");
    run(&["migrate", "up", "--store", &address("comanda_migrate")]).ok();
    cluster.execute_as("comanda_migrate", "orders", grants).await;
    let server = Server::start(&["--store", &address("comanda_serve")]);
    let sale = r#"{"type":"sale","data":{"amount":12.50,"currency":"EUR"}}"#;
    let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
    let (status, _, body) = server.http("POST", "/v1/orders", &headers, sale);
    assert_eq!(status, 200, "{body}");
    run(&["verify", "--store", &address("comanda_serve")]).ok();
    server.stop();
    // What later formats bring is usable by the role that serves without another grant.
    cluster
        .execute_as("comanda_migrate", "orders", "CREATE TABLE comanda.later (n integer)")
        .await;
    cluster
        .execute_as("comanda_serve", "orders", "SELECT n FROM comanda.later")
        .await;
}
