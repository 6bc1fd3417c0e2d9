//! Having SQLite copy its whole log into the database again, after a copy that failed.
//!
//! SQLite copies the log in parts, and syncs the database only with the last part. When that sync fails, it copies the
//! last part once more, and trusts the next sync for the earlier ones. But a kernel that could not write a page says so
//! once, and then takes the page for clean: the next sync succeeds, the log is begun anew, and the pages of the earlier
//! parts are on no disk. A power cut then leaves a database that is malformed. So after any failure, how far the log
//! has been copied (`nBackfill` in the index of the log, at the place that SQLite's file format documents) is set back to nothing: the
//! next copy writes every page again, and only then may the log be begun anew.

use std::fs::File;
use std::path::{Path, PathBuf};

/// Where `nBackfill` stands in the file with the suffix `-shm`; see "WAL-Index File Format" in SQLite's documentation.
#[cfg(unix)]
const BACKFILL_AT: u64 = 96;

/// How far the log has been copied: held by whoever copies it.
#[derive(Debug)]
pub(crate) struct Backfill {
    index: PathBuf,
    /// Once opened it stays open as long as SQLite has it open: closing it would end SQLite's own locks on it, which
    /// the operating system counts by process.
    opened: Option<File>,
    /// It could not be set back. Then nothing is copied any more until the store is opened again, which begins at nothing.
    stuck: bool,
}

impl Backfill {
    /// For the database at this path.
    pub(crate) fn new(database: &Path) -> Self {
        let mut index = database.as_os_str().to_owned();
        index.push("-shm");
        Self {
            index: index.into(),
            opened: None,
            stuck: false,
        }
    }

    /// Whether the log may be copied at all.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Sets it back, so that the next copy begins with the log's first page.
    pub(crate) fn rewind(&mut self) {
        if let Err(error) = self.set_back() {
            self.stuck = true;
            tracing::error!(
                %error,
                "the store's log could not be copied, nor be marked to be copied again; it grows until the next start"
            );
        }
    }

    #[cfg(unix)]
    fn set_back(&mut self) -> std::io::Result<()> {
        let file = match self.opened.take() {
            Some(file) => file,
            None => File::options().write(true).open(&self.index)?,
        };
        // SQLite has the file mapped, and nobody else copies while we hold this.
        let written = std::os::unix::fs::FileExt::write_all_at(&file, &0_u32.to_ne_bytes(), BACKFILL_AT);
        self.opened = Some(file);
        written
    }

    #[cfg(not(unix))]
    fn set_back(&mut self) -> std::io::Result<()> {
        Err(std::io::Error::new(
            std::io::ErrorKind::Unsupported,
            format!("{} cannot be changed on this system", self.index.display()),
        ))
    }

    /// SQLite has closed everything.
    pub(crate) fn close(&mut self) {
        self.opened = None;
    }
}
