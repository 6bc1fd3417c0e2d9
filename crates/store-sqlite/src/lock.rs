//! One process per store: a file that is locked as long as the store is open.
//!
//! The lock is the operating system's, so that it ends with the process, however it ends. That is also what makes
//! it safe to keep claims in memory only: whoever opens the store knows that nobody holds one.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use comanda_store::StoreError;

use crate::failure::Context;

/// The lock's name within the store's directory.
pub(crate) const FILE: &str = "comanda.lock";

/// Held as long as the store is open.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock, and writes down whose it is.
    pub(crate) fn take(directory: &Path) -> Result<Self, StoreError> {
        const WHAT: &str = "lock the store";
        let path = directory.join(FILE);
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .context(WHAT)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // A process that has only just locked it may not have written its id yet.
                let _ = file.take(32).read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown" } else { pid.trim() };
                return Err(StoreError::Locked {
                    path: directory.display().to_string(),
                    pid: pid.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(error).context(WHAT),
        }
        file.set_len(0).context(WHAT)?;
        file.rewind().context(WHAT)?;
        write!(file, "{}", std::process::id()).context(WHAT)?;
        Ok(Self { _file: file })
    }
}
