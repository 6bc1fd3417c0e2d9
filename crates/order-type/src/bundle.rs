//! The source of one version of an order type: its TOML file and the schema file that it names.

use std::io;
use std::path::{Path, PathBuf};

use comanda_model::TypeHash;
use serde::{Deserialize, Serialize};

use crate::tree::{self, Tree};

/// The largest file that is read, in bytes: far above any real order type, and a bound on what is embedded in a store.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The most order types in one directory.
const FILES_MAX: usize = 1000;

/// The source of one version: the TOML file and the schema file it names, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The TOML file's path, for messages.
    pub path: String,
    /// The TOML file's text.
    pub text: String,
    /// The schema file's path, for messages, and its text; `None` where the schema is inline or could not be found.
    pub schema: Option<(String, String)>,
}

/// Why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file or directory could not be read.
    #[error("{} could not be read", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is over its bound.
    #[error("{} is larger than {bytes_max} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// The bound.
        bytes_max: u64,
    },
    /// The directory holds too many files.
    #[error("{} holds more than {files_max} order types", path.display())]
    TooMany {
        /// Which.
        path: PathBuf,
        /// The bound.
        files_max: usize,
    },
}

/// Why a stored source could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the stored source of order type `{name}` could not be read")]
pub struct SourceError {
    name: String,
    source: serde_json::Error,
}

#[derive(Serialize, Deserialize)]
struct Source {
    toml: String,
    schema: Option<String>,
}

impl Bundle {
    /// The source as it is stored: JSON with the two texts and without their paths, so that the same type has the same
    /// hash wherever its files stand.
    pub fn to_source(&self) -> String {
        let source = Source {
            toml: self.text.clone(),
            schema: self.schema.as_ref().map(|(_, text)| text.clone()),
        };
        // Two strings always serialize; an empty source would not be read back.
        serde_json::to_string(&source).unwrap_or_default()
    }

    /// The bundle of a stored source. `name` is the type's, for messages.
    pub fn from_source(name: &str, source: &str) -> Result<Self, SourceError> {
        let source: Source = serde_json::from_str(source).map_err(|error| SourceError {
            name: name.to_owned(),
            source: error,
        })?;
        let schema = source.schema.map(|text| (format!("{name}.schema.json"), text));
        Ok(Self {
            path: format!("{name}.toml"),
            text: source.toml,
            schema,
        })
    }

    /// The hash of the source.
    pub fn hash(&self) -> TypeHash {
        TypeHash::of(self.to_source().as_bytes())
    }

    /// Reads an order-type file, and the schema file that it names, which stands beside it. A schema file that is not
    /// there is told by [`crate::read()`], with its place.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let text = read_file(path)?;
        let mut bundle = Self {
            path: path.display().to_string(),
            text,
            schema: None,
        };
        if let Some(name) = bundle.schema_name() {
            let beside = path.parent().unwrap_or_else(|| Path::new("")).join(name);
            match read_file(&beside) {
                Ok(text) => bundle.schema = Some((beside.display().to_string(), text)),
                Err(ReadError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bundle)
    }

    /// The name of the schema file, where the TOML file names one.
    pub(crate) fn schema_name(&self) -> Option<String> {
        let (tree, _) = tree::parse(&self.text);
        match &tree.value.get("schema")?.value {
            Tree::Text(name) => Some(name.clone()),
            _ => None,
        }
    }
}

fn read_file(path: &Path) -> Result<String, ReadError> {
    let io = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(io)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge {
            path: path.to_owned(),
            bytes_max: FILE_BYTES_MAX,
        });
    }
    std::fs::read_to_string(path).map_err(io)
}

/// Reads every `*.toml` of a directory, sorted by name. A directory that is not there is empty.
pub fn read_directory(dir: &Path) -> Result<Vec<Bundle>, ReadError> {
    let io = |source| ReadError::Io {
        path: dir.to_owned(),
        source,
    };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") && path.is_file() {
            if paths.len() == FILES_MAX {
                return Err(ReadError::TooMany {
                    path: dir.to_owned(),
                    files_max: FILES_MAX,
                });
            }
            paths.push(path);
        }
    }
    paths.sort();
    paths.iter().map(|path| Bundle::read(path)).collect()
}

/// A shipped type: the name of its files, the TOML text, and the schema text.
macro_rules! embedded {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../order-types/", $name, ".toml")),
            None,
        )
    };
    ($name:literal, schema) => {
        (
            $name,
            include_str!(concat!("../../../order-types/", $name, ".toml")),
            Some(include_str!(concat!("../../../order-types/", $name, ".schema.json"))),
        )
    };
}

const SHIPPED: [(&str, &str, Option<&str>); 5] = [
    embedded!("purchase", schema),
    embedded!("sale"),
    embedded!("shop-order", schema),
    embedded!("storefront-order", schema),
    embedded!("work-order", schema),
];

/// The order types that are inside the binary, sorted by name.
pub fn shipped() -> Vec<Bundle> {
    SHIPPED
        .iter()
        .map(|(name, text, schema)| Bundle {
            path: format!("order-types/{name}.toml"),
            text: (*text).to_owned(),
            schema: schema.map(|text| (format!("order-types/{name}.schema.json"), text.to_owned())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_comes_back_with_the_same_hash() {
        for bundle in shipped() {
            let back = Bundle::from_source("x", &bundle.to_source()).unwrap();
            assert_eq!(back.hash(), bundle.hash());
            assert_eq!(back.text, bundle.text);
        }
        assert!(Bundle::from_source("x", "{}").is_err());
    }

    #[test]
    fn a_directory_is_read_with_its_schemas() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.toml"), "schema = \"b.schema.json\"").unwrap();
        std::fs::write(dir.path().join("b.schema.json"), "{}").unwrap();
        std::fs::write(dir.path().join("a.toml"), "schema = \"nowhere.json\"").unwrap();
        std::fs::write(dir.path().join("notes.txt"), "").unwrap();
        let bundles = read_directory(dir.path()).unwrap();
        assert_eq!(bundles.len(), 2);
        assert!(bundles[0].path.ends_with("a.toml") && bundles[0].schema.is_none());
        assert_eq!(bundles[1].schema.as_ref().unwrap().1, "{}");
        assert!(read_directory(&dir.path().join("none")).unwrap().is_empty());
    }
}
