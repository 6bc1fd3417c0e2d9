//! The write-ahead log: who copies it into the database, and when.
//!
//! Copying is what sets the tail of the commit times, so a second thread does most of it, beside the writer
//! (`PASSIVE`). But while commits keep coming, that never reaches the end, and a log whose end is never reached is
//! never begun anew. So when only little is left, the writer does the rest itself between two batches, and begins the
//! log anew (`RESTART`). If a long read (a backup) forbids that, the log grows until the read ends; past
//! [`PAGES_HARD`] the writer waits a while for it each time the log has grown by a part more.

use std::path::Path;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;

use crate::schema::{self, PAGE_BYTES, Use};

/// The size of the log, in pages, from which it is copied: 16 MiB.
const PAGES_SOFT: u64 = 16 * 1024 * 1024 / PAGE_BYTES;
/// The size of the log, in pages, from which the writer copies all of it itself: 256 MiB.
const PAGES_HARD: u64 = 256 * 1024 * 1024 / PAGE_BYTES;
/// So little is left that the writer may do it without being missed: 2 MiB.
const PAGES_LITTLE: u64 = 2 * 1024 * 1024 / PAGE_BYTES;
/// How often the second thread tries to come near the end in one go.
const PASSES_MAX: usize = 4;
/// How long the writer waits for readers, normally, and when the log is far too long.
const WAIT_SOFT: Duration = Duration::from_millis(10);
const WAIT_HARD: Duration = Duration::from_millis(500);
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
#[derive(Debug, Default)]
pub(crate) struct Log {
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// What `PRAGMA wal_checkpoint` answers.
struct Checkpoint {
    busy: bool,
    pages: u64,
    copied: u64,
}

fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<Checkpoint> {
    // The mode cannot be bound; it is one of this file's constants.
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |row| {
        let (busy, pages, copied): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Checkpoint {
            busy: busy != 0,
            pages: pages.max(0) as u64,
            copied: copied.max(0) as u64,
        })
    })
}

impl Log {
    /// Told by SQLite after each commit.
    pub(crate) fn grown_to(&self, pages: u64) {
        self.inner.lock().pages = pages;
    }

    /// Called by the writer between batches.
    pub(crate) fn tend(&self, connection: &Connection) {
        let mut inner = self.inner.lock();
        let pages = inner.pages;
        if pages < PAGES_SOFT {
            inner.nearly_done = false;
            inner.blocked_at = 0;
            return;
        }
        let hard = pages >= PAGES_HARD;
        // After readers were in the way, it is tried again only when the log has grown by a part.
        let again = pages >= inner.blocked_at + PAGES_SOFT || inner.blocked_at == 0;
        if !(inner.nearly_done || (hard && !inner.wanted)) || !again {
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
            .and_then(|()| checkpoint(connection, "RESTART"));
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
        if let Err(error) = checkpoint(connection, "TRUNCATE") {
            tracing::warn!(%error, "the store's log could not be copied into the database; the next start will do it");
        }
    }

    /// The second thread ends.
    pub(crate) fn close(&self) {
        self.inner.lock().closing = true;
        self.changed.notify_all();
    }

    /// What the second thread does.
    pub(crate) fn copy_beside(&self, path: &Path) {
        let connection = match schema::connect(path, Use::Write, 2048) {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "the store's log will be copied by the writer only");
                return;
            }
        };
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
                match checkpoint(&connection, "PASSIVE") {
                    Ok(answer) if answer.pages - answer.copied.min(answer.pages) > PAGES_LITTLE && !answer.busy => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(%error, "the store's log could not be copied into the database");
                        break;
                    }
                }
                if self.inner.lock().closing {
                    return;
                }
            }
            let mut inner = self.inner.lock();
            inner.wanted = false;
            inner.nearly_done = true;
        }
    }
}
