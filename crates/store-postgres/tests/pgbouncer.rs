//! Holds this store to the same behind PgBouncer, which hands each transaction to whichever connection is free.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};

use comanda_store::Store;
use comanda_store_postgres::{Options, PostgresStore};

struct Bouncer {
    port: u16,
    _watchdog: Child,
}

/// One proxy for all tests of this process, with two connections per database, so that they are really shared.
fn bouncer() -> &'static Bouncer {
    static BOUNCER: OnceLock<Bouncer> = OnceLock::new();
    BOUNCER.get_or_init(|| {
        let cluster = support::shared();
        let port = support::free_port();
        let settings = cluster.directory.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             auth_type = any\nunix_socket_dir =\npool_mode = transaction\ndefault_pool_size = 2\n\
             max_client_conn = 2000\nmax_db_connections = 2\n",
            cluster.port
        );
        let text = text.replace("* = host=127.0.0.1", "* = user=postgres host=127.0.0.1");
        std::fs::write(&settings, text).unwrap();
        // The shell ends the proxy when this process ends, however it does: the pipe then closes.
        let script = format!("pgbouncer -q '{}' & cat > /dev/null; kill $!", settings.display());
        let mut command = support::shell_as_server(&script);
        let mut watchdog: Child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(watchdog.try_wait().unwrap().is_none(), "pgbouncer starts");
            std::thread::yield_now();
        }
        Bouncer {
            port,
            _watchdog: watchdog,
        }
    })
}

async fn make() -> (Arc<dyn Store>, support::Verified) {
    assert!(
        Command::new("pgbouncer").arg("--version").output().is_ok(),
        "pgbouncer is missing; `cargo xtask install` installs it"
    );
    let bouncer = tokio::task::spawn_blocking(bouncer).await.unwrap();
    let database = support::shared().database().await;
    let address = format!("postgres://postgres@127.0.0.1:{}/{database}", bouncer.port);
    let mut options = Options::new(&address).unwrap();
    options.connections_max = 4;
    let store = PostgresStore::open(options).await.unwrap();
    (Arc::new(store), support::Verified(address))
}

comanda_store::conformance_tests!(make);
