//! The write-ahead log: who copies it into the database, and when.
//!
//! Copying is what sets the tail of the commit times, so a second thread does most of it, beside the writer
//! (`PASSIVE`). But while commits keep coming, that never reaches the end, and a log whose end is never reached is
//! never begun anew. So when only little is left, the writer does the rest itself between two batches, and begins the
//! log anew (`RESTART`). If a long read (a backup) forbids that, the log grows until the read ends; past
//! [`Bounds::hard`] the writer waits a while for it each time the log has grown by a part more.
//!
//! When copying fails, the whole log is copied again (`backfill` says why).

use std::path::Path;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::backfill::Backfill;
use crate::schema::PAGE_BYTES;

/// Sizes of the log, in pages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// From here on it is copied.
    soft: u64,
    /// From here on the writer copies all of it itself, whatever the second thread does.
    hard: u64,
    /// So much may be left for the writer without its being missed.
    little: u64,
}

impl Default for Bounds {
    /// 16 MiB, 256 MiB and 2 MiB.
    fn default() -> Self {
        let mebibytes = |count: u64| count * 1024 * 1024 / PAGE_BYTES;
        Self {
            soft: mebibytes(16),
            hard: mebibytes(256),
            little: mebibytes(2),
        }
    }
}

/// How often the second thread tries to come near the end in one go.
const PASSES_MAX: usize = 4;
/// How long the writer waits for readers, normally, and when the log is far too long.
const WAIT_SOFT: Duration = Duration::from_millis(10);
const WAIT_HARD: Duration = Duration::from_millis(100);
/// How long every other wait for a lock is.
pub(crate) const WAIT_LOCK: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Inner {
    /// Pages in the log after the latest commit.
    pages: u64,
    /// The second thread is to copy, or is copying.
    wanted: bool,
    /// The second thread has copied what it can; the writer is to do the rest.
    nearly_done: bool,
    /// The log's size when the writer last tried and readers were in the way.
    blocked_at: u64,
    closing: bool,
}

/// What the writer and the second thread share.
#[derive(Debug)]
pub(crate) struct Log {
    bounds: Bounds,
    inner: Mutex<Inner>,
    changed: Condvar,
    /// Held while it is copied.
    backfill: Mutex<Backfill>,
}

/// What `PRAGMA wal_checkpoint` answers.
struct Checkpoint {
    busy: bool,
    copied: u64,
}

fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<Checkpoint> {
    // The mode cannot be bound; it is one of this file's constants.
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        let (busy, copied): (i64, i64) = (row.get(0)?, row.get(2)?);
        Ok(Checkpoint {
            busy: busy != 0,
            copied: copied.max(0) as u64,
        })
    })
}

impl Log {
    /// The log of the database at this path.
    pub(crate) fn new(database: &Path) -> Self {
        Self {
            bounds: Bounds::default(),
            inner: Mutex::default(),
            changed: Condvar::new(),
            backfill: Mutex::new(Backfill::new(database)),
        }
    }

    /// Copies, unless another does and goes on doing so for longer than `wait`.
    fn copy(&self, connection: &Connection, mode: &str, wait: Duration) -> rusqlite::Result<Checkpoint> {
        const BUSY: Checkpoint = Checkpoint { busy: true, copied: 0 };
        let Some(mut backfill) = self.backfill.try_lock_for(wait) else {
            return Ok(BUSY);
        };
        if backfill.is_stuck() {
            return Ok(BUSY);
        }
        checkpoint(connection, mode).inspect_err(|_| backfill.rewind())
    }

    /// All connections are closed.
    pub(crate) fn closed(&self) {
        self.backfill.lock().close();
    }

    /// Told by SQLite after each commit.
    pub(crate) fn grown_to(&self, pages: u64) {
        self.inner.lock().pages = pages;
    }

    /// Called by the writer between batches.
    pub(crate) fn tend(&self, connection: &Connection) {
        let mut inner = self.inner.lock();
        let pages = inner.pages;
        if pages < self.bounds.soft {
            inner.nearly_done = false;
            inner.blocked_at = 0;
            return;
        }
        // After readers were in the way, it is tried again only when the log has grown by a part.
        let again = inner.blocked_at == 0 || pages >= inner.blocked_at + self.bounds.soft;
        // The hard bound asks nobody: should the second thread hang or have ended, the log must not grow on.
        let hard = pages >= self.bounds.hard;
        if !again || !(inner.nearly_done || hard) {
            if !inner.wanted && !inner.nearly_done {
                inner.wanted = true;
                self.changed.notify_one();
            }
            return;
        }
        inner.nearly_done = false;
        drop(inner);
        let done = self.restart(connection, if hard { WAIT_HARD } else { WAIT_SOFT });
        let mut inner = self.inner.lock();
        if done {
            inner.pages = 0;
            inner.blocked_at = 0;
        } else {
            inner.blocked_at = pages;
        }
    }

    fn restart(&self, connection: &Connection, wait: Duration) -> bool {
        let answer = connection
            .busy_timeout(wait)
            .and_then(|()| self.copy(connection, "RESTART", wait));
        let reset = connection.busy_timeout(WAIT_LOCK);
        match answer.and_then(|answer| reset.map(|()| answer)) {
            Ok(answer) => !answer.busy,
            Err(error) => {
                // Commits do not depend on it: what matters will fail there, and be told there.
                tracing::warn!(%error, "the store's log could not be copied into the database");
                false
            }
        }
    }

    /// The last thing the writer does: leaves a database whose log is empty.
    pub(crate) fn finish(&self, connection: &Connection) {
        if let Err(error) = self.copy(connection, "TRUNCATE", WAIT_LOCK) {
            tracing::warn!(%error, "the store's log could not be copied into the database; the next start will do it");
            // SQLite would try once more when the connection is closed, and then throw the log away.
            if let Err(error) = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
                tracing::error!(%error, "the store's log could not be kept");
            }
        }
    }

    /// The second thread ends.
    pub(crate) fn close(&self) {
        self.inner.lock().closing = true;
        self.changed.notify_all();
    }

    /// What the second thread does.
    pub(crate) fn copy_beside(&self, connection: &Connection) {
        loop {
            {
                let mut inner = self.inner.lock();
                while !inner.wanted && !inner.closing {
                    self.changed.wait(&mut inner);
                }
                if inner.closing {
                    return;
                }
            }
            for _ in 0..PASSES_MAX {
                let copied = match self.copy(connection, "PASSIVE", WAIT_LOCK) {
                    Ok(answer) => answer.copied,
                    Err(error) => {
                        tracing::warn!(%error, "the store's log could not be copied into the database");
                        break;
                    }
                };
                let inner = self.inner.lock();
                // What SQLite answers is how long the log was when it began; meanwhile the writer has gone on.
                if inner.closing || inner.pages.saturating_sub(copied) <= self.bounds.little {
                    break;
                }
            }
            let mut inner = self.inner.lock();
            inner.wanted = false;
            inner.nearly_done = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::schema::{self, Use};

    /// A writer without a second thread: what is left is what the writer does by itself.
    fn alone(path: &Path) -> (Connection, Arc<Log>) {
        let log = Arc::new(Log {
            bounds: Bounds {
                soft: 64,
                hard: 256,
                little: 8,
            },
            ..Log::new(path)
        });
        let mut connection = schema::connect(path, Use::Write, 1024).unwrap();
        schema::migrate(&connection).unwrap();
        let told = log.clone();
        connection
            .wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: std::ffi::c_int| {
                told.grown_to(pages.max(0) as u64);
                Ok(())
            }))
            .unwrap();
        (connection, log)
    }

    /// Writes until `rounds` commits are done; answers the most pages that the log had.
    fn write(connection: &Connection, log: &Log, rounds: usize) -> u64 {
        let mut most = 0;
        for _ in 0..rounds {
            connection
                .execute(
                    "INSERT OR REPLACE INTO meta VALUES (abs(random()) % 400, randomblob(9000))",
                    [],
                )
                .unwrap();
            most = most.max(log.inner.lock().pages);
            log.tend(connection);
        }
        most
    }

    #[test]
    fn the_log_stays_bounded_without_the_second_thread() {
        let directory = tempfile::tempdir().unwrap();
        let (connection, log) = alone(&directory.path().join("a.db"));
        let most = write(&connection, &log, 400);
        assert!((256..256 + 64).contains(&most), "the log had {most} pages");
        assert!(log.inner.lock().wanted, "the second thread was asked, and did nothing");
    }

    #[test]
    fn a_long_read_lets_the_log_grow_only_until_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let (connection, log) = alone(&path);
        let reader = schema::connect(&path, Use::Read, 1024).unwrap();
        reader.execute_batch("BEGIN; SELECT count(*) FROM meta").unwrap();
        assert!(write(&connection, &log, 200) > 256 + 64, "the read holds the log");
        reader.execute_batch("COMMIT").unwrap();
        write(&connection, &log, 100);
        assert!(log.inner.lock().pages < 256 + 64, "it was begun anew");
    }
}
