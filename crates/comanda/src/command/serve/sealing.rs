//! The key that secrets are sealed with before the store gets them.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use comanda_store::seal::Sealer;

use crate::config::{Config, SecretSource, StoreKind, secrets};
use crate::failure::Failure;

/// The key's file in the data directory, where no other place is named.
pub(in crate::command) const KEY_FILE: &str = "secrets.key";

/// Reads the key; makes it at the first start, where it stands in the data directory.
pub(super) fn sealer(config: &Config) -> Result<Sealer, Failure> {
    let unusable = |error| Failure::process("the key that secrets are sealed with cannot be used", error);
    let source = match (&config.encryption, &config.store) {
        (Some(source), _) => source.clone(),
        (None, StoreKind::Sqlite) => {
            let path = config.data.join(KEY_FILE);
            if !path.exists() {
                make(&path, &Sealer::new_key().map_err(unusable)?)?;
            }
            SecretSource::File(path)
        }
        // What is gone with the process needs no key.
        (None, StoreKind::Memory) => return Ok(Sealer::plain()),
        (None, StoreKind::Postgres(_)) => {
            tracing::warn!(
                "secrets of subscriptions stand in the database as they are: set encryption.key_file or encryption.key_env, the \
                 same on every node"
            );
            return Ok(Sealer::plain());
        }
    };
    Sealer::from_keys(&secrets::read_one("encryption", &source)?).map_err(unusable)
}

/// Writes a new file that only its owner can read.
fn make(path: &Path, key: &str) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(path).and_then(|mut file| {
        writeln!(file, "{key}")?;
        file.sync_all()
    });
    written.map_err(|error| Failure::process("the key that secrets are sealed with could not be written", error))
}
