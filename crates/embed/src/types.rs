//! Reads the order types that were handed over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use comanda_order_type::{Bundle, Definition, Known, read, read_directory, render, shipped};

use crate::error::StartError;

/// Where order types come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Directory(PathBuf),
    Text(String),
    Shipped,
}

/// Reads all of them, and says everything that is wrong with any.
pub(crate) fn load(
    sources: &[Source],
    env: &BTreeMap<String, String>,
    secrets: &BTreeMap<String, String>,
) -> Result<Vec<Definition>, StartError> {
    let process = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let strict = Known {
        env: process.chain(env.keys().cloned()).collect::<BTreeSet<_>>(),
        secrets: secrets.keys().cloned().collect(),
        archives: None,
        missing_is_error: true,
    };
    // What is shipped names services that need not be there.
    let lenient = Known {
        missing_is_error: false,
        ..strict.clone()
    };
    let mut definitions: BTreeMap<String, Definition> = BTreeMap::new();
    let (mut names, mut diagnostics, mut texts) = (Vec::new(), String::new(), 0);
    for source in sources {
        let (bundles, known) = match source {
            Source::Directory(path) => (directory(path)?, &strict),
            Source::Shipped => (shipped(), &lenient),
            Source::Text(text) => {
                texts += 1;
                let bundle = Bundle {
                    path: format!("order type {texts}"),
                    text: text.clone(),
                    schema: None,
                };
                (vec![bundle], &strict)
            }
        };
        for bundle in bundles {
            let read = read(&bundle, known);
            let Some(definition) = read.definition else {
                diagnostics.push_str(&render(&read.diagnostics, &bundle, false));
                names.push(bundle.path);
                continue;
            };
            if !read.diagnostics.is_empty() {
                tracing::warn!("{}", render(&read.diagnostics, &bundle, false));
            }
            let order_type = &definition.order_type;
            let name = order_type.name.to_string();
            match definitions.get(&name) {
                // The same content twice is one type.
                Some(other) if other.order_type.hash == order_type.hash => {}
                Some(_) => return Err(StartError::Doubled { name }),
                None => {
                    definitions.insert(name, definition);
                }
            }
        }
    }
    if names.is_empty() {
        Ok(definitions.into_values().collect())
    } else {
        Err(StartError::Mistakes { names, diagnostics })
    }
}

fn directory(path: &Path) -> Result<Vec<Bundle>, StartError> {
    if !path.is_dir() {
        return Err(StartError::NoDirectory {
            path: path.display().to_string(),
        });
    }
    Ok(read_directory(path)?)
}
