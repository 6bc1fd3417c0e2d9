//! The order types that this process offers: those shipped, and those of the user's directory.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use comanda_order_type::{Bundle, Definition, Diagnostic, Known, ReadError, Severity, read, read_directory, shipped};

use crate::config::Config;

/// Why the order types cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TypesError {
    /// A file or directory could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Files have mistakes: the rendered diagnostics.
    #[error("{}order types with mistakes: {}", rendered(.diagnostics), .names.join(", "))]
    Mistakes {
        /// The files.
        names: Vec<String>,
        /// Every diagnostic, with its place.
        diagnostics: String,
    },
    /// Two files give one name to different types.
    #[error("there are two order types `{name}`: {first} and {second}")]
    Doubled {
        /// The name.
        name: Arc<str>,
        /// One file.
        first: String,
        /// The other.
        second: String,
    },
    /// A path that was named is not there.
    #[error("{0} is neither a file nor a directory")]
    NotThere(PathBuf),
}

fn rendered(diagnostics: &str) -> String {
    if diagnostics.is_empty() {
        String::new()
    } else {
        format!("\n{}\n\n", diagnostics.trim_end())
    }
}

impl TypesError {
    /// What to do about it.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::Mistakes { .. } => Some("Mend them, and see: comanda check".to_owned()),
            Self::Doubled { .. } => Some("Give one of them another name".to_owned()),
            Self::Read(_) | Self::NotThere(_) => None,
        }
    }
}

/// One file that was read.
pub struct Checked {
    /// The file.
    pub bundle: Bundle,
    /// The type, if the file has no error.
    pub definition: Option<Definition>,
    /// What there is to say about the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl Checked {
    /// Reads a file's content.
    pub fn new(bundle: Bundle, known: &Known) -> Self {
        let read = read(&bundle, known);
        Self {
            bundle,
            definition: read.definition,
            diagnostics: read.diagnostics,
        }
    }

    /// The diagnostics as people read them.
    pub fn rendered(&self) -> String {
        if self.diagnostics.is_empty() {
            return String::new();
        }
        let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        comanda_order_type::render(&self.diagnostics, &self.bundle, color)
    }

    /// How many errors and how many warnings.
    pub fn counts(&self) -> (usize, usize) {
        let errors = self
            .diagnostics
            .iter()
            .filter(|diagnostic| is_error(diagnostic))
            .count();
        (errors, self.diagnostics.len() - errors)
    }
}

/// Whether a diagnostic keeps the type from being used.
pub fn is_error(diagnostic: &Diagnostic) -> bool {
    matches!(diagnostic.severity, Severity::Error)
}

/// What templates may name: the environment, the settings in `[env]`, and the secrets.
pub fn known(config: &Config, missing_is_error: bool) -> Known {
    let process = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    Known {
        env: process.chain(config.env.keys().cloned()).collect(),
        secrets: config.secrets.keys().cloned().collect(),
        // `serve` has a place for one that is not set up, and says where.
        archives: (!missing_is_error).then(|| config.archives.keys().cloned().collect()),
        missing_is_error,
    }
}

/// Loads all types for running them: those shipped and those of the directory. Warnings are handed back rendered.
pub fn load(directory: &Path, known: &Known) -> Result<(Vec<Definition>, String), TypesError> {
    let own = read_directory(directory)?;
    // What is shipped names nothing that has to be set, so that the program starts everywhere.
    let lenient = Known {
        missing_is_error: false,
        ..clone_known(known)
    };
    let files = shipped().into_iter().map(|bundle| Checked::new(bundle, &lenient));
    let files = files.chain(own.into_iter().map(|bundle| Checked::new(bundle, known)));
    let mut definitions: BTreeMap<Arc<str>, Definition> = BTreeMap::new();
    let (mut names, mut mistakes, mut warnings) = (Vec::new(), String::new(), String::new());
    for file in files {
        let Some(definition) = &file.definition else {
            names.push(file.bundle.path.clone());
            mistakes.push_str(&file.rendered());
            continue;
        };
        warnings.push_str(&file.rendered());
        let order_type = &definition.order_type;
        match definitions.get(&order_type.name) {
            // The same content twice is one type: a shipped file that was copied and not changed.
            Some(other) if other.order_type.hash == order_type.hash => {}
            Some(other) => {
                return Err(TypesError::Doubled {
                    name: order_type.name.clone(),
                    first: place(&other.bundle),
                    second: place(&file.bundle),
                });
            }
            None => {
                definitions.insert(order_type.name.clone(), definition.clone());
            }
        }
    }
    if names.is_empty() {
        let definitions: Vec<Definition> = definitions.into_values().collect();
        for clash in queues_of_two_kinds(&definitions) {
            warnings.push_str(&format!(
                "{clash}
"
            ));
        }
        Ok((definitions, warnings))
    } else {
        Err(TypesError::Mistakes {
            names,
            diagnostics: mistakes,
        })
    }
}

/// Something that is probably a mistake, and shows only when all types are looked at together.
#[derive(Debug, thiserror::Error)]
#[error("warning[{CLASH}]: {message}\n  = help: {help}")]
pub struct Clash {
    /// What is the matter.
    pub message: String,
    /// What to do about it.
    pub help: &'static str,
}

/// The code of a [`Clash`].
pub const CLASH: &str = "type/two-queues";

/// The queues that are a step's in one type and a status's in another. Within one type that is a mistake of its file.
pub fn queues_of_two_kinds(definitions: &[Definition]) -> Vec<Clash> {
    let types = || definitions.iter().map(|definition| &definition.order_type);
    let mut of_steps: BTreeMap<&str, &str> = BTreeMap::new();
    for order_type in types() {
        of_steps.extend(order_type.step_queues().map(|queue| (&**queue, &*order_type.name)));
    }
    let mut clashes: BTreeMap<&str, Clash> = BTreeMap::new();
    for order_type in types() {
        for queue in order_type.status_queues() {
            if let Some(other) = of_steps.get(&**queue) {
                clashes.entry(queue).or_insert_with(|| Clash {
                    message: format!(
                        "the queue `{queue}` is a status's in `{}` and a step's in `{other}`",
                        order_type.name
                    ),
                    help: "a claim is given the work of steps first, so that items may wait without end; give one of \
                           them another name",
                });
            }
        }
    }
    clashes.into_values().collect()
}

fn place(bundle: &Bundle) -> String {
    let is_shipped = shipped()
        .iter()
        .any(|shipped| shipped.path == bundle.path && shipped.text == bundle.text);
    if is_shipped {
        format!("{} (shipped)", bundle.path)
    } else {
        bundle.path.clone()
    }
}

fn clone_known(known: &Known) -> Known {
    Known {
        env: known.env.clone(),
        secrets: known.secrets.clone(),
        archives: known.archives.clone(),
        missing_is_error: known.missing_is_error,
    }
}

/// The bundles that paths name: files, and all files of directories.
pub fn bundles(paths: &[PathBuf]) -> Result<Vec<Bundle>, TypesError> {
    let mut bundles = Vec::new();
    for path in paths {
        if path.is_dir() {
            bundles.extend(read_directory(path)?);
        } else if path.is_file() {
            bundles.push(Bundle::read(path)?);
        } else {
            return Err(TypesError::NotThere(path.clone()));
        }
    }
    Ok(bundles)
}
