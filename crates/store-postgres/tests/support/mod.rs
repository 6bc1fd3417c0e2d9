//! A PostgreSQL server of the tests' own: one per test process, on a free port, with a database per test.
//!
//! It lives in memory where there is such a file system, with all its safety settings on, as a store needs them. A
//! shell that reads from a pipe of this process stops it: however the process ends, the pipe then closes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "a test's panic is its failure, and not every test needs all of it"
)]

pub mod bouncer;
pub mod certificates;
pub mod proxy;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use comanda_store_postgres::{Options, PostgresStore};
use tokio::sync::OnceCell;

/// The address of a test's database. When the test is done with it the database is verified: whatever was done, all
/// that is derived must fit.
pub struct Verified(pub String);

impl Drop for Verified {
    fn drop(&mut self) {
        // A test that has failed has told enough.
        if std::thread::panicking() {
            return;
        }
        let options = Options::new(&self.0).expect("the address is one");
        let verify = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be made");
            runtime.block_on(PostgresStore::verify(&options))
        };
        // A thread of its own, for this one may be a runtime's.
        let report = std::thread::spawn(verify).join().expect("it does not panic");
        let report = report.expect("the database can be read");
        assert!(report.is_clean(), "{:#?}", report.faults);
    }
}

/// A running server.
pub struct Cluster {
    pub port: u16,
    pub directory: PathBuf,
    databases: AtomicU32,
    template: OnceCell<()>,
    _watchdog: Child,
}

/// Where a server's program is: in the directory that `POSTGRES_PROGRAMS` names, where the distribution's packages put the
/// newest, or on the path.
fn program(name: &str) -> PathBuf {
    if let Some(programs) = std::env::var_os("POSTGRES_PROGRAMS") {
        let program = Path::new(&programs).join(name);
        assert!(
            program.exists(),
            "POSTGRES_PROGRAMS names no place with {}",
            program.display()
        );
        return program;
    }
    let packaged = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let packaged = packaged.map(|version| version.path().join("bin").join(name));
    let mut found: Vec<PathBuf> = packaged.filter(|path| path.exists()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("`id` runs");
    output.stdout.trim_ascii() == b"0"
}

/// A command that the server's own user runs: it refuses to run as root.
pub fn as_server(program_name: &str) -> Command {
    let program = program(program_name);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
        command.arg(&program);
        command
    } else {
        Command::new(&program)
    };
    if std::env::var_os("POSTGRES_PROGRAMS").is_some() {
        // Parts of the server that it loads when it needs them would else find the system's libraries, of another version.
        command.env("LD_LIBRARY_PATH", program.with_file_name("../lib"));
    }
    command
}

/// A shell's script that the server's own user runs.
pub fn shell_as_server(script: &str) -> Command {
    if is_root() {
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "sh",
            "-c",
            script,
        ]);
        command
    } else {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?} could not be started ({error}); `cargo xtask install` installs it")
    });
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it has an address").port()
}

/// A directory of the server's own, in memory where there is such a file system.
fn empty_directory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let directory = tempfile::Builder::new()
        .prefix("comanda-postgres-")
        .tempdir_in(parent)
        .expect("a directory can be made")
        .keep();
    if is_root() {
        run(Command::new("chown").arg("postgres:postgres").arg(&directory));
    }
    directory
}

impl Cluster {
    /// Makes and starts a server with further settings, such as `fsync=off`.
    pub fn start(settings: &[&str]) -> Self {
        Self::made(empty_directory(), settings)
    }

    /// As [`Self::start`], on a disk that can be made full.
    pub fn start_on_small_disk() -> Self {
        let directory = empty_directory();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../store-postgres/tests/support/full.c");
        // Beside its data, where the server's own user can read it.
        run(Command::new("cc")
            .args(["-O1", "-shared", "-fPIC", "-o"])
            .arg(directory.join("full.so"))
            .arg(source));
        Self::made(directory, &[])
    }

    /// From now on the server's files cannot grow.
    pub fn fill_disk(&self) {
        std::fs::write(self.directory.join("full"), "").expect("the file can be made");
    }

    /// The disk has room again.
    pub fn free_disk(&self) {
        std::fs::remove_file(self.directory.join("full")).expect("the file is there");
    }

    fn made(directory: PathBuf, settings: &[&str]) -> Self {
        let data = directory.join("data");
        run(as_server("initdb").arg("-D").arg(&data).args([
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--data-checksums",
            "--no-sync",
        ]));
        Self::started(directory, settings)
    }

    /// Starts the server whose data stands in a directory, and sees to it that it ends with this process.
    fn started(directory: PathBuf, settings: &[&str]) -> Self {
        // Other processes look for free ports too; whoever loses the race looks again.
        let port = (0..5)
            .find_map(|_| {
                let port = free_port();
                start(&directory, port, settings).then_some(port)
            })
            .unwrap_or_else(|| panic!("{}", std::fs::read_to_string(directory.join("log")).unwrap_or_default()));
        let script = format!(
            "cat > /dev/null; '{}' -D '{}' -m fast stop > /dev/null 2>&1; rm -rf '{}'",
            program("pg_ctl").display(),
            directory.join("data").display(),
            directory.display()
        );
        let mut watchdog = shell_as_server(&script);
        let watchdog = watchdog
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell can be started");
        Self {
            port,
            directory,
            databases: AtomicU32::new(0),
            template: OnceCell::new(),
            _watchdog: watchdog,
        }
    }

    /// A server that follows this one, and can take its place.
    pub fn standby(&self) -> Self {
        let directory = empty_directory();
        run(as_server("pg_basebackup")
            .args([
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-c",
                "fast",
                "-R",
                "--no-sync",
                "-p",
            ])
            .arg(self.port.to_string())
            .arg("-D")
            .arg(directory.join("data")));
        Self::started(directory, &[])
    }

    /// Has a standby take the place of the server that it follows.
    pub fn promote(&self) {
        run(as_server("pg_ctl")
            .arg("-D")
            .arg(self.directory.join("data"))
            .args(["-w", "promote"]));
    }

    /// Gives the server a certificate and its key, for `ssl = on`.
    pub fn give_certificate(&self, certificate: &Path, key: &Path) {
        self.give_file(certificate, "server.crt");
        self.give_file(key, "server.key");
    }

    /// Gives the server a file among its data.
    pub fn give_file(&self, from: &Path, name: &str) {
        let text = std::fs::read_to_string(from).expect("the file can be read");
        self.give_text(&text, name);
    }

    /// Gives the server a file with this text among its data.
    pub fn give_text(&self, text: &str, name: &str) {
        let to = self.directory.join("data").join(name);
        std::fs::write(&to, text).expect("the file can be written");
        run(Command::new("chmod").arg("600").arg(&to));
        if is_root() {
            run(Command::new("chown").arg("postgres:postgres").arg(&to));
        }
    }

    /// Starts the server again after it was stopped.
    pub fn start_again(&self, settings: &[&str]) {
        assert!(start(&self.directory, self.port, settings), "the server starts again");
    }

    /// Stops the server: `fast`, `immediate` (as by a crash).
    pub fn stop(&self, mode: &str) {
        run(as_server("pg_ctl")
            .arg("-D")
            .arg(self.directory.join("data"))
            .args(["-m", mode, "-w", "stop"]));
    }

    /// The address of a database.
    pub fn address(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs SQL, outside of any transaction.
    pub async fn execute(&self, database: &str, sql: &str) {
        self.execute_as("postgres", database, sql).await;
    }

    /// As [`Self::execute`], by another role.
    pub async fn execute_as(&self, role: &str, database: &str, sql: &str) {
        let address = self.address(database).replace("postgres@", &format!("{role}@"));
        let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls)
            .await
            .expect("the server takes connections");
        let connection = tokio::spawn(connection);
        client.batch_execute(sql).await.expect("the statement is executed");
        drop(client);
        // Without a client the connection ends; how it ends tells nothing.
        let _ = connection.await;
    }

    /// What a query answers in its first row's first column, as text.
    pub async fn ask(&self, database: &str, query: &str) -> Option<String> {
        let (client, connection) = tokio_postgres::connect(&self.address(database), tokio_postgres::NoTls)
            .await
            .expect("the server takes connections");
        let connection = tokio::spawn(connection);
        let messages = client.simple_query(query).await.expect("the query is answered");
        drop(client);
        // Without a client the connection ends; how it ends tells nothing.
        let _ = connection.await;
        messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    }

    /// Asks until it is answered so.
    pub async fn until(&self, database: &str, query: &str, answer: &str) {
        let begun = std::time::Instant::now();
        loop {
            let told = self.ask(database, query).await;
            if told.as_deref() == Some(answer) {
                return;
            }
            assert!(begun.elapsed().as_secs() < 60, "{query} is {told:?}, not {answer}");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Has a standby hear nothing more of the server that it follows.
    pub async fn cut_off(&self) {
        self.execute("postgres", "ALTER SYSTEM SET primary_conninfo = ''").await;
        self.execute("postgres", "SELECT pg_reload_conf()").await;
        self.until("postgres", "SELECT count(*) FROM pg_stat_wal_receiver", "0")
            .await;
    }

    /// A new database without orders, in the newest format; its name. It is a copy of one that is made once.
    pub async fn database(&self) -> String {
        self.template
            .get_or_init(|| async {
                let made = "CREATE DATABASE made TEMPLATE template0";
                self.execute("postgres", made).await;
                let options = Options::new(&self.address("made")).expect("the address is one");
                PostgresStore::migrate(&options).await.expect("the schema is made");
            })
            .await;
        self.copy_of("made").await
    }

    /// A new database with nothing in it at all; its name.
    pub async fn empty_database(&self) -> String {
        self.copy_of("template0").await
    }

    async fn copy_of(&self, template: &str) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        // Files are copied in memory; a checkpoint for each would make all of them wait.
        let copy = format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log");
        self.execute("postgres", &copy).await;
        name
    }
}

fn start(directory: &Path, port: u16, settings: &[&str]) -> bool {
    let mut options = format!(
        "-p {port} -k '{}' -c listen_addresses=127.0.0.1 -c shared_buffers=64MB -c max_connections=400",
        directory.display()
    );
    for setting in settings {
        options.push_str(&format!(" -c {setting}"));
    }
    let mut command = as_server("pg_ctl");
    let library = directory.join("full.so");
    if library.exists() {
        command
            .env("LD_PRELOAD", library)
            .env("FULL_DISK", directory.join("full"));
    }
    let status = command
        .arg("-D")
        .arg(directory.join("data"))
        .arg("-l")
        .arg(directory.join("log"))
        .args(["-o", &options, "-w", "-t", "60", "start"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("pg_ctl runs");
    status.success()
}

/// The server that all tests of this process share.
pub fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(&[]))
}
