//! A few threads that read, each with a connection of its own, so that no task of the runtime waits for a disk.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use comanda_store::StoreError;
use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use crate::dictionary::Dictionary;
use crate::failure::{Context, Failure};
use crate::schema::{self, Use};

/// How many reads may wait for a thread; further ones wait for their turn to wait.
const WAITING_MAX: usize = 1024;

/// A connection that reads, and what it has learnt.
pub(crate) struct Reader {
    pub(crate) connection: Connection,
    pub(crate) dictionary: Dictionary,
}

impl Reader {
    /// Opens a reader.
    pub(crate) fn open(path: &Path, purpose: Use, cache_kib: u32) -> Result<Self, StoreError> {
        Ok(Self {
            connection: schema::connect(path, purpose, cache_kib)?,
            dictionary: Dictionary::default(),
        })
    }

    /// Runs reads that must all see the same moment.
    pub(crate) fn at_one_moment<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.connection.prepare_cached("BEGIN")?.execute([])?;
        let answer = read(self);
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        answer
    }
}

type Job = Box<dyn FnOnce(&mut Reader) + Send>;

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    filled: Condvar,
}

/// The reading threads.
pub(crate) struct Readers {
    shared: Arc<Shared>,
    turns: Semaphore,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Readers {
    /// Starts `count` threads, at least one.
    pub(crate) fn start(path: &Path, purpose: Use, count: usize, cache_kib: u32) -> Result<Self, StoreError> {
        let readers = Self {
            shared: Arc::default(),
            turns: Semaphore::new(WAITING_MAX),
            threads: Mutex::default(),
        };
        for number in 0..count.max(1) {
            let mut reader = Reader::open(path, purpose, cache_kib)?;
            let shared = readers.shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("store-read-{number}"))
                .spawn(move || work(&shared, &mut reader))
                .context("start a reading thread")?;
            readers.threads.lock().push(thread);
        }
        Ok(readers)
    }

    /// Runs reads that must all see the same moment, on one of the threads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        read: impl FnOnce(&mut Reader) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.run(what, move |reader| reader.at_one_moment(read)).await
    }

    /// Runs something on one of the threads.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        run: impl FnOnce(&mut Reader) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        let closed = || StoreError::failed(what, std::io::Error::other("the store is closed"));
        let _turn = self.turns.acquire().await.map_err(|_| closed())?;
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |reader| {
            // A caller that has stopped waiting needs no answer.
            let _ = answer.send(run(reader));
        });
        {
            let mut inner = self.shared.inner.lock();
            if inner.closed {
                return Err(closed());
            }
            inner.jobs.push_back(job);
        }
        self.shared.filled.notify_one();
        match answered.await {
            Ok(answer) => answer.context(what),
            Err(_) => Err(closed()),
        }
    }

    /// Ends the threads, after what was asked has been answered.
    pub(crate) fn close(&self) {
        self.shared.inner.lock().closed = true;
        self.shared.filled.notify_all();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has told so on its own.
            let _ = thread.join();
        }
    }
}

fn work(shared: &Shared, reader: &mut Reader) {
    loop {
        let job = {
            let mut inner = shared.inner.lock();
            loop {
                if let Some(job) = inner.jobs.pop_front() {
                    break job;
                }
                if inner.closed {
                    return;
                }
                shared.filled.wait(&mut inner);
            }
        };
        // A bug in one read must not take the thread from all others. The asker learns of it by the lost answer; a
        // transaction left open is ended, and what was learnt is forgotten.
        if catch_unwind(AssertUnwindSafe(|| job(reader))).is_err() {
            reader.dictionary.clear();
        }
        if !reader.connection.is_autocommit() {
            let _ = reader.connection.execute_batch("ROLLBACK");
        }
    }
}
