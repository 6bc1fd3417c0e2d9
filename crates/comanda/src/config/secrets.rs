//! Secrets: the configuration names where they are, and they are read once at the start. Their values appear in no
//! output, log or error.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::{ConfigError, SecretReadError};

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In this environment variable.
    Variable(String),
    /// In this file; the line's end after it is not part of it.
    File(PathBuf),
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Reads all secrets, by name.
pub fn read_all(sources: &BTreeMap<String, SecretSource>) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut secrets = BTreeMap::new();
    for (name, source) in sources {
        secrets.insert(name.clone(), read_one(name, source)?);
    }
    Ok(secrets)
}

/// Reads one secret. `name` says which one it is where it cannot be read.
pub fn read_one(name: &str, source: &SecretSource) -> Result<String, ConfigError> {
    read(source).map_err(|error| ConfigError::Secret {
        name: name.to_owned(),
        place: source.to_string(),
        source: error,
    })
}

fn read(source: &SecretSource) -> Result<String, SecretReadError> {
    let text = match source {
        SecretSource::Variable(name) => match std::env::var(name) {
            Ok(text) => text,
            // Its error would carry the value.
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(SecretReadError::File(std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    "it is not text",
                )));
            }
            Err(error @ std::env::VarError::NotPresent) => return Err(error.into()),
        },
        SecretSource::File(path) => std::fs::read_to_string(path)?,
    };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        Err(SecretReadError::Empty)
    } else {
        Ok(text.to_owned())
    }
}
