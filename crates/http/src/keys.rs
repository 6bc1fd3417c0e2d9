//! API keys: made once, shown once, kept as hashes in a file that the command line writes and the server reads.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::rate::KeyRate;

/// How often the file is looked at for changes.
const LOOK: Duration = Duration::from_secs(1);

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Submit and change orders.
    Submit,
    /// Read orders, events, types and metrics.
    Read,
    /// Claim work from queues.
    Work,
    /// Redrive and discard dead letters.
    Operate,
}

impl Scope {
    /// The name in files, flags and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Submit => "submit",
            Self::Read => "read",
            Self::Work => "work",
            Self::Operate => "operate",
        }
    }
}

/// A key, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Key {
    /// Names the key in the history of what it changed.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// SHA-256 of the secret, in hexadecimal.
    pub hash: String,
    /// How much it may ask; `None`: as much as it likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<KeyRate>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
}

/// Why the keys could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file could not be read or written.
    #[error("{path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not one of ours.
    #[error("{path} holds no keys that can be read")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// There is no such key.
    #[error("there is no key `{0}`. `comanda keys list` shows those that there are")]
    Unknown(String),
}

/// The keys of a server.
pub struct KeyRing {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    keys: Arc<Vec<Key>>,
    modified: Option<Stamp>,
    looked_at: Instant,
}

impl KeyRing {
    /// Reads the file. One that is not there holds no keys.
    pub fn open(path: &Path) -> Result<Self, KeyError> {
        // Looked at before reading: a change in between is then found with the next look.
        let modified = modified(path);
        let state = State {
            keys: Arc::new(Self::list(path)?),
            modified,
            looked_at: Instant::now(),
        };
        Ok(Self {
            path: path.to_owned(),
            state: Mutex::new(state),
        })
    }

    /// A ring without keys and without a file.
    pub fn none() -> Self {
        let state = State {
            keys: Arc::default(),
            modified: None,
            looked_at: Instant::now(),
        };
        Self {
            path: PathBuf::new(),
            state: Mutex::new(state),
        }
    }

    /// Whether there is no key at all, revoked ones included: a server whose only key was revoked stays closed.
    pub fn is_empty(&self) -> bool {
        self.keys().is_empty()
    }

    /// The key that a secret belongs to, if it is valid.
    pub fn find(&self, secret: &str) -> Option<Key> {
        let hash = hash(secret);
        let keys = self.keys();
        // Every key is compared, each in constant time, so that the time tells nothing about a hash.
        let mut found = None;
        for key in keys.iter() {
            if bool::from(key.hash.as_bytes().ct_eq(hash.as_bytes())) && key.revoked_at.is_none() {
                found = Some(key.clone());
            }
        }
        found
    }

    /// All keys, revoked ones included, as the file has them now.
    pub fn all(&self) -> Arc<Vec<Key>> {
        self.keys()
    }

    /// The keys, read again if the file has changed.
    fn keys(&self) -> Arc<Vec<Key>> {
        let mut state = self.state.lock();
        if state.looked_at.elapsed() >= LOOK {
            state.looked_at = Instant::now();
            let changed = modified(&self.path);
            if changed != state.modified {
                match Self::list(&self.path) {
                    Ok(keys) => {
                        state.keys = Arc::new(keys);
                        state.modified = changed;
                    }
                    Err(error) => tracing::error!(%error, "the changed API keys could not be read; the old ones stay"),
                }
            }
        }
        state.keys.clone()
    }

    /// Makes a key. The secret is answered once and kept nowhere.
    pub fn create(path: &Path, name: &str, scopes: &[Scope], rate: Option<KeyRate>) -> Result<(Key, String), KeyError> {
        let mut keys = Self::list(path)?;
        let id = URL_SAFE_NO_PAD
            .encode(&uuid::Uuid::new_v4().as_bytes()[..6])
            .replace(['-', '_'], "x");
        let mut random = [0; 32];
        random[..16].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        random[16..].copy_from_slice(uuid::Uuid::new_v4().as_bytes());
        let secret = format!("cmd_{id}_{}", URL_SAFE_NO_PAD.encode(random));
        let key = Key {
            id,
            name: name.to_owned(),
            scopes: scopes.to_vec(),
            hash: hash(&secret),
            rate,
            created_at: Timestamp::now(),
            revoked_at: None,
        };
        keys.push(key.clone());
        write(path, &keys)?;
        Ok((key, secret))
    }

    /// All keys, revoked ones included.
    pub fn list(path: &Path) -> Result<Vec<Key>, KeyError> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|source| KeyError::Format {
                path: path.to_owned(),
                source,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(KeyError::File {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// Gives a key another rate, or none.
    pub fn limit(path: &Path, id: &str, rate: Option<KeyRate>) -> Result<(), KeyError> {
        let mut keys = Self::list(path)?;
        let key = keys
            .iter_mut()
            .find(|key| key.id == id)
            .ok_or_else(|| KeyError::Unknown(id.to_owned()))?;
        key.rate = rate;
        write(path, &keys)
    }

    /// Revokes a key for good.
    pub fn revoke(path: &Path, id: &str) -> Result<(), KeyError> {
        let mut keys = Self::list(path)?;
        let key = keys
            .iter_mut()
            .find(|key| key.id == id)
            .ok_or_else(|| KeyError::Unknown(id.to_owned()))?;
        key.revoked_at.get_or_insert_with(Timestamp::now);
        write(path, &keys)
    }
}

fn hash(secret: &str) -> String {
    Sha256::digest(secret)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// By what a change of the file shows. Two changes can fall into one tick of the file system's clock, but hardly leave
/// the same length.
type Stamp = (SystemTime, u64);

fn modified(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// Writes beside and renames over, so that a reader never sees half a file.
fn write(path: &Path, keys: &[Key]) -> Result<(), KeyError> {
    let failed = |source| KeyError::File {
        path: path.to_owned(),
        source,
    };
    let text = serde_json::to_vec_pretty(keys).map_err(|source| KeyError::Format {
        path: path.to_owned(),
        source,
    })?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(failed)?;
    }
    let beside = path.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&beside).map_err(failed)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&beside, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_secret_until_it_is_revoked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let (key, secret) = KeyRing::create(&path, "shop", &[Scope::Submit], None).unwrap();
        let ring = KeyRing::open(&path).unwrap();
        assert_eq!(ring.find(&secret).unwrap().id, key.id);
        assert!(ring.find("cmd_nothing").is_none());
        assert!(!fs::read_to_string(&path).unwrap().contains(&secret));
        KeyRing::revoke(&path, &key.id).unwrap();
        let ring = KeyRing::open(&path).unwrap();
        assert!(ring.find(&secret).is_none() && !ring.is_empty());
    }
    #[test]
    fn a_changed_file_is_read_again_and_a_broken_one_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let ring = KeyRing::open(&path).unwrap();
        // As if the last look were long ago.
        let look = || ring.state.lock().looked_at -= 2 * LOOK;
        assert!(ring.is_empty());
        let (key, secret) = KeyRing::create(&path, "shop", &[Scope::Read], None).unwrap();
        assert!(ring.find(&secret).is_none(), "not looked at yet");
        look();
        assert!(ring.find(&secret).is_some());
        fs::write(&path, "[").unwrap();
        look();
        assert!(ring.find(&secret).is_some());
        assert!(matches!(KeyRing::list(&path), Err(KeyError::Format { .. })));
        fs::write(&path, "[]").unwrap();
        assert!(matches!(KeyRing::revoke(&path, &key.id), Err(KeyError::Unknown(_))));
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_reads_the_file() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/keys.json");
        KeyRing::create(&path, "shop", &[], None).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
