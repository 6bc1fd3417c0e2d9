//! Reads a step in Rust: `use = "myteam.thing"` and its `with`. Which names there are is known when a server starts.

use comanda_model::order_type::{Action, BuiltInKind, RustStep};
use comanda_model::template::TemplateTree;

use super::step::Reader;
use crate::diagnostic::nearest;
use crate::fields::wrong_kind;
use crate::tree::{Key, Located, Node, Tree};

/// Whether a name is one of a step in Rust: dotted, in words of lower case, and not in a family of the built-in steps.
pub(super) fn is_name(name: &str) -> bool {
    let is_word = |word: &str| {
        word.starts_with(|first: char| first.is_ascii_lowercase())
            && word
                .chars()
                .all(|one| one.is_ascii_lowercase() || one.is_ascii_digit() || matches!(one, '-' | '_'))
    };
    let built_in = BuiltInKind::ALL.map(BuiltInKind::name);
    let family = |name: &str| name.split('.').next().map(str::to_owned);
    name.contains('.')
        && name.split('.').all(is_word)
        && !built_in.iter().any(|one| family(one) == family(name))
        // What is almost a built-in step is one that was misspelt.
        && nearest(name, built_in).is_none()
}

impl Reader<'_, '_> {
    /// The step in Rust of this name.
    pub(super) fn rust(&mut self, name: &Located<String>, with: Option<(&Key, &Node)>) -> Option<Action> {
        let with = match with {
            None => TemplateTree::Object(Vec::new()),
            Some((_, node)) if matches!(node.value, Tree::Table(_)) => self.body(node)?,
            Some((_, node)) => {
                wrong_kind("with", "a table", &node.value, &node.span, self.report);
                return None;
            }
        };
        Some(Action::Rust(Box::new(RustStep {
            name: name.value.as_str().into(),
            with,
            callback: None,
        })))
    }
}
