//! PgBouncer between the store and the server: each transaction goes to whichever connection is free.

use std::net::TcpStream;
use std::process::{Child, Stdio};

use super::{Cluster, free_port, shell_as_server};

/// A running PgBouncer.
pub struct Bouncer {
    pub port: u16,
    _watchdog: Child,
}

impl Bouncer {
    /// Starts one before a server, with so many connections to each database.
    pub fn start(cluster: &Cluster, connections: u16) -> Self {
        let port = free_port();
        let settings = cluster.directory.join(format!("pgbouncer-{port}.ini"));
        // Where the server is away it looks again after a second; its own default is 15.
        let text = format!(
            "[databases]\n* = user=postgres host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nauth_type = any\nunix_socket_dir =\npool_mode = transaction\n\
             default_pool_size = {connections}\nmax_client_conn = 2000\nmax_db_connections = {connections}\n\
             server_login_retry = 1\n",
            cluster.port
        );
        std::fs::write(&settings, text).expect("the file can be written");
        // The shell ends the proxy when this process ends, however it does: the pipe then closes.
        let script = format!("pgbouncer -q '{}' & cat > /dev/null; kill $!", settings.display());
        let mut watchdog = shell_as_server(&script)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell can be started");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = watchdog.try_wait().expect("it can be asked for");
            assert!(
                ended.is_none(),
                "pgbouncer does not start; `cargo xtask install` installs it"
            );
            std::thread::yield_now();
        }
        Self {
            port,
            _watchdog: watchdog,
        }
    }
}
