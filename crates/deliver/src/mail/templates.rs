//! The templates of e-mails: `NAME.LANGUAGE.txt`, whose first line is the subject, and beside it `NAME.LANGUAGE.html`.
//! Those in the operator's directory go before those in this program. What stands in HTML is escaped.

use std::collections::BTreeSet;
use std::path::Path;

use comanda_model::comparison::{compare_exactly, rewritten};
use comanda_model::expression::SyntaxError;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde_json::Value;

use super::options::MailError;

/// The languages that are shipped.
const LANGUAGES: [&str; 3] = ["en", "es", "pt"];
/// The most files of a directory that are looked at, and the largest of them, in bytes.
const FILES_MAX: usize = 2000;
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// How many instructions one template may run.
const FUEL: u64 = 100_000;

macro_rules! shipped {
    ($($name:literal),*) => {[$(
        ($name, include_str!(concat!("templates/", $name))),
    )*]};
}

const SHIPPED: [(&str, &str); 24] = shipped![
    "accepted.en.txt",
    "accepted.en.html",
    "accepted.es.txt",
    "accepted.es.html",
    "accepted.pt.txt",
    "accepted.pt.html",
    "status-changed.en.txt",
    "status-changed.en.html",
    "status-changed.es.txt",
    "status-changed.es.html",
    "status-changed.pt.txt",
    "status-changed.pt.html",
    "dead-lettered.en.txt",
    "dead-lettered.en.html",
    "dead-lettered.es.txt",
    "dead-lettered.es.html",
    "dead-lettered.pt.txt",
    "dead-lettered.pt.html",
    "event.en.txt",
    "event.en.html",
    "event.es.txt",
    "event.es.html",
    "event.pt.txt",
    "event.pt.html"
];

/// The templates.
#[derive(Debug)]
pub(super) struct Templates {
    environment: Environment<'static>,
    /// The names of those that are the operator's own.
    own: BTreeSet<String>,
}

/// A message's parts.
#[derive(Debug)]
pub(super) struct Rendered {
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) html: Option<String>,
}

impl Templates {
    /// Those shipped, and over them those of a directory. Every one is compiled, so that a mistake is told at the start.
    pub(super) fn load(directory: Option<&Path>) -> Result<Self, MailError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Chainable);
        environment.set_fuel(Some(FUEL));
        compare_exactly(&mut environment);
        environment.set_auto_escape_callback(|name| match name.ends_with(".html") {
            true => AutoEscape::Html,
            false => AutoEscape::None,
        });
        for (name, text) in SHIPPED {
            add(&mut environment, name.to_owned(), text.to_owned())?;
        }
        let mut own = BTreeSet::new();
        if let Some(directory) = directory {
            let failed = |path: &Path, source| MailError::File {
                path: path.to_owned(),
                source,
            };
            let entries = std::fs::read_dir(directory).map_err(|error| failed(directory, error))?;
            for entry in entries.take(FILES_MAX) {
                let path = entry.map_err(|error| failed(directory, error))?.path();
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if !name.ends_with(".txt") && !name.ends_with(".html") {
                    continue;
                }
                let bytes = std::fs::metadata(&path).map_err(|error| failed(&path, error))?.len();
                if bytes > FILE_BYTES_MAX {
                    let message = format!("it is larger than {FILE_BYTES_MAX} bytes");
                    return Err(MailError::Template {
                        name: name.to_owned(),
                        message,
                    });
                }
                let text = std::fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
                add(&mut environment, name.to_owned(), text)?;
                own.insert(name.to_owned());
            }
        }
        Ok(Self { environment, own })
    }

    /// The shipped language that is meant by a tag such as `pt-BR` (RFC 5646), or else the other one.
    pub(super) fn language<'l>(tag: &'l str, otherwise: &'l str) -> &'l str {
        let primary = tag.split(['-', '_']).next().unwrap_or_default();
        let found = LANGUAGES.iter().find(|code| code.eq_ignore_ascii_case(primary));
        found.copied().unwrap_or(otherwise)
    }

    /// Fills in the first template that there is: the operator's of any of these names, most special first, then ours.
    pub(super) fn render(
        &self,
        names: &[String],
        language: &str,
        context: &Value,
    ) -> Result<Rendered, minijinja::Error> {
        let context = comanda_model::template::from_json(context);
        let there = |base: &String| self.environment.get_template(&format!("{base}.txt")).is_ok();
        let of = |language: &str| {
            names
                .iter()
                .map(|name| format!("{name}.{language}"))
                .collect::<Vec<_>>()
        };
        let bases = [of(language), of("en")].concat();
        let base = bases.iter().find(|base| there(base)).cloned().unwrap_or_default();
        let text = self
            .environment
            .get_template(&format!("{base}.txt"))?
            .render(context.clone())?;
        let subject = self.environment.get_template(&format!("{base}.subject"))?;
        let subject = subject.render(context.clone())?;
        let html_name = format!("{base}.html");
        // Our HTML does not go with a text of the operator's own.
        let fits = self.own.contains(&html_name) || !self.own.contains(&format!("{base}.txt"));
        let html = match self.environment.get_template(&html_name) {
            Ok(template) if fits => Some(template.render(context)?),
            _ => None,
        };
        Ok(Rendered {
            subject: subject.trim().to_owned(),
            text: text.trim_start().to_owned(),
            html,
        })
    }
}

/// Adds a template. The subject, a text's first line, is one of its own: no value can reach from it into the text.
fn add(environment: &mut Environment<'static>, name: String, text: String) -> Result<(), MailError> {
    let mut parts = vec![(name.clone(), text.clone())];
    if let Some(base) = name.strip_suffix(".txt") {
        let (subject, rest) = text.split_once('\n').unwrap_or((&text, ""));
        let subject = subject.trim_start_matches("Subject:").to_owned();
        parts = vec![(format!("{base}.subject"), subject), (name.clone(), rest.to_owned())];
    }
    let refused = |message: String| MailError::Template {
        name: name.clone(),
        message,
    };
    for (part, text) in parts {
        // As it was written first: of that, errors name the places.
        environment
            .template_from_named_str(&part, &text)
            .map_err(|error| refused(error.to_string()))?;
        let exact = rewritten(&text).ok_or_else(|| refused(SyntaxError::of_comparisons(&text).to_string()))?;
        environment
            .add_template_owned(part, exact)
            .map_err(|error| refused(error.to_string()))?;
    }
    Ok(())
}
