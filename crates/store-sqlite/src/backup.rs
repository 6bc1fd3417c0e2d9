//! Copies: of a store while it works, and back into a new place.

use std::fs::File;
use std::path::{Path, PathBuf};

use comanda_store::StoreError;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};

use crate::failure::{Context, corrupt};
use crate::lock::Lock;
use crate::schema::{self, Use};
use crate::verify::verify;

/// Pages copied between two reports of progress: 4 MiB.
const PAGES_PER_STEP: i32 = 1024;
/// The page cache of a copying connection, in KiB.
const CACHE_KIB: u32 = 4096;

/// Copies the database at `from`, as it stands at one moment, to the new file `to`. The file appears only when it is
/// whole and durable. `still` says that nobody writes to it meanwhile.
pub(crate) fn copy(from: &Path, still: bool, to: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
    const WHAT: &str = "write the backup";
    if to.exists() {
        let cause = std::io::Error::new(std::io::ErrorKind::AlreadyExists, format!("{} is there", to.display()));
        return Err(StoreError::failed(WHAT, cause));
    }
    let source = schema::connect(from, if still { reading(from) } else { Use::Read }, CACHE_KIB)?;
    let partial = beside(to, ".partial");
    let copied = copy_pages(&source, &partial, progress).and_then(|()| {
        File::open(&partial).and_then(|file| file.sync_all()).context(WHAT)?;
        std::fs::rename(&partial, to).context(WHAT)?;
        sync_directory_of(to)
    });
    if copied.is_err() {
        // What is left of a copy that failed is of no use; the first error is the one to tell.
        let _ = std::fs::remove_file(&partial);
    }
    copied
}

fn copy_pages(source: &Connection, to: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
    const WHAT: &str = "copy the database";
    // A leftover of a copy that was killed.
    if to.exists() {
        std::fs::remove_file(to).context(WHAT)?;
    }
    crate::make_file(to)?;
    let mut target = Connection::open(to).context(WHAT)?;
    // An open read holds the moment: without it, every commit meanwhile would begin the copy anew.
    source.execute_batch("BEGIN; SELECT count(*) FROM meta").context(WHAT)?;
    let copied = (|| -> rusqlite::Result<()> {
        let backup = Backup::new(source, &mut target)?;
        loop {
            let step = backup.step(PAGES_PER_STEP)?;
            let state = backup.progress();
            let (all, left) = (state.pagecount.max(0) as u64, state.remaining.max(0) as u64);
            progress(all - left.min(all), all);
            match step {
                StepResult::Done => return Ok(()),
                StepResult::More => {}
                // Someone else has the source for a moment: give way.
                _ => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        }
    })();
    source.execute_batch("COMMIT").context(WHAT)?;
    copied.context(WHAT)?;
    target.close().map_err(|(_, error)| error).context(WHAT)
}

/// Copies the store in a directory, as it stands at one moment, to a new file, also while another process has it open.
/// `progress` is told the pages done and the pages there are.
///
/// # Errors
/// [`StoreError::Failed`] if there is no store, or the file is there or cannot be written.
pub fn backup(directory: &Path, to: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), StoreError> {
    copy(&database_of(directory), false, to, progress)
}

/// Makes a store in `to_directory` out of a backup: checks it, copies it, and gives it a new epoch, so that readers
/// of the old feed notice that history may have changed.
///
/// `from` is a backup's file, or the directory of a store that nobody has open.
///
/// # Errors
/// [`StoreError::Corrupt`] if the backup is damaged, [`StoreError::Newer`] if a newer version wrote it,
/// [`StoreError::Locked`] if a process has either open, [`StoreError::Failed`] if there is a store already.
pub fn restore(from: &Path, to_directory: &Path) -> Result<(), StoreError> {
    const WHAT: &str = "restore the backup";
    crate::make_directory(to_directory)?;
    let _lock = Lock::take(to_directory)?;
    let to = to_directory.join(schema::FILE);
    if to.exists() {
        let detail = format!("there is a store in {}", to_directory.display());
        return Err(StoreError::failed(
            WHAT,
            std::io::Error::new(std::io::ErrorKind::AlreadyExists, detail),
        ));
    }
    let report = verify(from, &|_, _| {})?;
    if let Some(fault) = report.faults.first() {
        return Err(corrupt(format!("the backup ({})", fault.what), fault.detail.clone()));
    }
    let _source_lock = if from.is_dir() { Some(Lock::take(from)?) } else { None };
    let from = database_of(from);
    let made = beside(&to, ".restoring");
    for leftover in [made.clone(), beside(&made, "-wal"), beside(&made, "-shm")] {
        if leftover.exists() {
            std::fs::remove_file(&leftover).context(WHAT)?;
        }
    }
    copy(&from, true, &made, &mut |_, _| {})?;
    let connection = schema::connect(&made, Use::Write, CACHE_KIB)?;
    schema::migrate(&connection)?;
    schema::set_epoch(&connection).context(WHAT)?;
    connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .context(WHAT)?;
    connection.close().map_err(|(_, error)| error).context(WHAT)?;
    File::open(&made).and_then(|file| file.sync_all()).context(WHAT)?;
    std::fs::rename(&made, &to).context(WHAT)?;
    sync_directory_of(&to)
}

/// The database's file: of a store's directory, or the file itself.
pub(crate) fn database_of(path: &Path) -> PathBuf {
    if path.is_dir() {
        path.join(schema::FILE)
    } else {
        path.to_owned()
    }
}

/// How to read a file: with its log if it has one, and else as one that nobody writes to, so that a backup can be read
/// from a place that cannot be written to.
pub(crate) fn reading(path: &Path) -> Use {
    let log = std::fs::metadata(beside(path, "-wal"));
    if log.is_ok_and(|log| log.len() > 0) {
        Use::Read
    } else {
        Use::Frozen
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

/// Makes a file's name durable.
pub(crate) fn sync_directory_of(path: &Path) -> Result<(), StoreError> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .context("make the file's name durable")
}
