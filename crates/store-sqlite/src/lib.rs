//! Comanda's embedded store: one SQLite file, one thread that writes, many commits per fsync.
//!
//! A commit is staged in memory (`queue`), taken by the writer together with all others that wait (`writer`),
//! checked (`check`) and written (`apply`), and answered when the transaction that holds it is on the disk. Reads have
//! connections and threads of their own (`readers`) and see only what is durable. Claims live in memory
//! (`claims`), which is safe because one process at a time has the store open (`lock`). The file's layout stands in
//! `schema`; every row of content carries a checksum that is proved whenever it is read (`row`).

mod apply;
mod backfill;
mod backup;
mod check;
mod claim;
mod claims;
mod clock;
mod column;
mod current;
mod dictionary;
mod erase;
mod failure;
mod ids;
mod items;
mod keys;
mod lanes;
mod ledger;
mod list;
mod lock;
mod log;
mod log_check;
mod notice;
mod pending;
mod pieces;
mod queue;
mod read;
mod readers;
mod record;
mod retain;
mod row;
mod schema;
mod statements;
mod store;
mod subscription;
mod tally;
mod verify;
mod work;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use comanda_store::StoreError;
use parking_lot::Mutex;

use crate::clock::Clock;
use crate::failure::Context;
use crate::lock::Lock;
use crate::log::Log;
use crate::queue::Queue;
use crate::readers::Readers;
use crate::schema::Use;
use crate::writer::{CommitCounters, Shared};

pub use backup::{backup, restore};
pub use pieces::Pieces;
pub use verify::{FAULTS_MAX, Fault, Report, verify};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the store's files are; made if it is not there, for its owner only.
    pub directory: PathBuf,
    /// How many commits may wait for the writer; further ones are answered with
    /// [`CommitError::Busy`](comanda_store::CommitError::Busy). Default 10,000.
    pub queue_commits_max: usize,
    /// How many threads read. Default 4.
    pub readers: usize,
    /// The writer's page cache, in KiB; each reader has an eighth of it. Default 64 MiB.
    pub cache_kib: u32,
    /// The largest that the database may become, in bytes; commits past it fail with [`StoreError::Full`]. Default: as
    /// large as the disk.
    pub size_bytes_max: Option<u64>,
}

impl Options {
    /// The defaults, for a store in this directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            queue_commits_max: 10_000,
            readers: 4,
            cache_kib: 64 * 1024,
            size_bytes_max: None,
        }
    }
}

/// The embedded store. Dropping it closes it; [`Store::close`](comanda_store::Store::close) also says how that went.
pub struct SqliteStore {
    inner: Arc<Inner>,
}

/// What outlives a call.
struct Inner {
    shared: Arc<Shared>,
    readers: Readers,
    epoch: u64,
    path: PathBuf,
    /// Nobody writes: the store was opened for reading.
    read_only: bool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<Lock>>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

impl SqliteStore {
    /// Opens the store in a directory; makes both if they are not there. Blocks for as long as the disk needs; after a
    /// crash that includes reading the log once.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it open, [`StoreError::Newer`] if a newer version wrote it,
    /// [`StoreError::Corrupt`] if it is no store, [`StoreError::Failed`] if the directory cannot be used.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        make_directory(&options.directory)?;
        let lock = Lock::take(&options.directory)?;
        let path = options.directory.join(schema::FILE);
        make_file(&path)?;
        log_check::check(&path)?;
        // Before anything reads it, and before anything is written behind it.
        sync_log(&path)?;
        let connection = schema::connect(&path, Use::Write, options.cache_kib)?;
        schema::migrate(&connection)?;
        backup::sync_directory_of(&path)?;
        set_size_max(&connection, options.size_bytes_max)?;
        let (shared, epoch) = share(&connection, &path, options.queue_commits_max)?;
        let copying = schema::connect(&path, Use::Copy, 2048)?;
        let readers = Readers::start(&path, Use::Read, options.readers, options.cache_kib / 8)?;
        let writing = shared.clone();
        let writer = std::thread::Builder::new()
            .name("store-write".to_owned())
            .spawn(move || writer::run(connection, &writing))
            .context("start the writing thread")?;
        let inner = Inner {
            shared: shared.clone(),
            readers,
            epoch,
            path,
            read_only: false,
            threads: Mutex::new(vec![writer]),
            lock: Mutex::new(Some(lock)),
        };
        let store = Self { inner: Arc::new(inner) };
        let copier = std::thread::Builder::new()
            .name("store-log".to_owned())
            .spawn(move || shared.log.copy_beside(&copying))
            .context("start the thread that tends the log")?;
        store.inner.threads.lock().push(copier);
        Ok(store)
    }

    /// Opens a store that no process has open, for reading only: commits fail with [`StoreError::ReadOnly`].
    ///
    /// # Errors
    /// As [`SqliteStore::open`]; also if there is no store.
    pub fn open_read_only(options: Options) -> Result<Self, StoreError> {
        let lock = Lock::take(&options.directory)?;
        let path = options.directory.join(schema::FILE);
        log_check::check(&path)?;
        let purpose = backup::reading(&path);
        let connection = schema::connect(&path, purpose, 1024)?;
        check_present_format(&connection)?;
        let (shared, epoch) = share(&connection, &path, 0)?;
        let readers = Readers::start(&path, purpose, options.readers, options.cache_kib / 8)?;
        let inner = Inner {
            shared,
            readers,
            epoch,
            path,
            read_only: true,
            threads: Mutex::default(),
            lock: Mutex::new(Some(lock)),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Changes how large the database may become, in bytes; `None` for as large as the disk. A bound below its present
    /// size keeps it from growing. Waits until the writer has taken notice.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the store is closed.
    pub async fn set_size_bytes_max(&self, size_bytes_max: Option<u64>) -> Result<(), StoreError> {
        self.inner
            .write("bound the database", move |writer| {
                set_size_max(writer.connection, size_bytes_max)
            })
            .await
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.inner.shut();
    }
}

impl Inner {
    /// Ends all threads, after what was staged is durable, and gives the lock back. Repeating it does nothing.
    fn shut(&self) {
        self.shared.queue.close();
        self.shared.log.close();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has told so on its own.
            let _ = thread.join();
        }
        self.readers.close();
        self.shared.log.closed();
        self.lock.lock().take();
    }
}

/// Makes durable what a killed process had written to the log and not yet synced. It counts from now on, so it may be told.
fn sync_log(database: &Path) -> Result<(), StoreError> {
    const WHAT: &str = "make the log durable";
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    match std::fs::File::options().write(true).open(log) {
        Ok(log) => log.sync_all().context(WHAT),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).context(WHAT),
    }
}

/// Reads what a store begins with: its counters, counts and epoch.
fn share(connection: &rusqlite::Connection, path: &Path, commits_max: usize) -> Result<(Arc<Shared>, u64), StoreError> {
    let (counters, clock) = CommitCounters::load(connection).context("read the store's counters")?;
    let claims = claims::Claims::default();
    work::restore(connection, &claims)?;
    let shared = Shared {
        queue: Queue::new(commits_max),
        claims,
        clock: Clock::new(clock),
        log: Log::new(path),
        counts: Mutex::new(store::counts(connection)?),
        ailment: Mutex::new(None),
        position: tokio::sync::watch::Sender::new(counters.position as u64),
    };
    Ok((Arc::new(shared), schema::epoch(connection)?))
}

/// Refuses a file that is not in the present format, where it may not be changed.
pub(crate) fn check_present_format(connection: &rusqlite::Connection) -> Result<(), StoreError> {
    let found = schema::format(connection)?;
    if found < schema::FORMAT {
        let cause = std::io::Error::other(format!(
            "it has format {found}, and this program reads format {}: open it once for writing",
            schema::FORMAT
        ));
        return Err(StoreError::failed("read the store", cause));
    }
    Ok(())
}

fn set_size_max(connection: &rusqlite::Connection, size_bytes_max: Option<u64>) -> Result<(), StoreError> {
    // The largest that SQLite knows.
    const PAGES_MAX: u64 = 0xffff_fffe;
    let pages = size_bytes_max.map_or(PAGES_MAX, |bytes| (bytes / schema::PAGE_BYTES).clamp(1, PAGES_MAX));
    connection
        .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
        .context("bound the database")
}

/// Makes a directory that only its owner can look into: it holds customers' data.
pub(crate) fn make_directory(directory: &Path) -> Result<(), StoreError> {
    if directory.is_dir() {
        return Ok(());
    }
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).context("make the store's directory")?;
    // A power cut must not take the directory with all that is durable in it.
    backup::sync_directory_of(directory)
}

/// Makes an empty file that only its owner can read, if there is none. SQLite makes the log like the database.
pub(crate) fn make_file(path: &Path) -> Result<(), StoreError> {
    let mut options = std::fs::File::options();
    options.create(true).truncate(false).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop).context("make the database's file")
}
