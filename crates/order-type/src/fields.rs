//! Reads the members of one table of the file: each by its name and kind, and at the end says which were unknown.

use std::time::Duration;

use crate::diagnostic::{Report, did_you_mean};
use crate::duration;
use crate::pointer;
use crate::tree::{Key, Located, Node, Span, Tree};

/// The members of a table that are still to be read.
pub(crate) struct Fields<'n> {
    /// What the table is, for messages: `[statuses.DONE]`.
    owner: String,
    span: Span,
    entries: &'n [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// The members of a table; anything else is reported. `span` is where to point for what is missing.
    pub fn of(node: &'n Node, span: &Span, owner: impl Into<String>, report: &mut Report<'_>) -> Option<Self> {
        let owner = owner.into();
        match &node.value {
            Tree::Table(entries) => Some(Self {
                owner,
                span: span.clone(),
                entries,
                known: Vec::new(),
            }),
            other => {
                let message = format!("{owner} must be a table, not {}", other.kind());
                report.error("type/wrong-kind", &node.span, message, None);
                None
            }
        }
    }

    /// Where the table stands.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// What the table is.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// A member of any kind.
    pub fn take(&mut self, name: &'static str) -> Option<(&'n Key, &'n Node)> {
        self.known.push(name);
        self.entries
            .iter()
            .find(|(key, _)| key.value == name)
            .map(|(key, node)| (key, node))
    }

    /// A member that must be there.
    pub fn need(&mut self, name: &'static str, report: &mut Report<'_>) -> Option<(&'n Key, &'n Node)> {
        let found = self.take(name);
        if found.is_none() {
            self.missing(name, report);
        }
        found
    }

    /// Says that a member is missing.
    pub fn missing(&self, name: &str, report: &mut Report<'_>) {
        report.error(
            "type/missing-key",
            &self.span,
            format!("{} needs `{name}`", self.owner),
            None,
        );
    }

    /// A string.
    pub fn text(&mut self, name: &'static str, report: &mut Report<'_>) -> Option<Located<String>> {
        let (_, node) = self.take(name)?;
        text_of(name, node, report)
    }

    /// A JSON pointer.
    pub fn pointer(&mut self, name: &'static str, report: &mut Report<'_>) -> Option<Located<String>> {
        self.text(name, report).filter(|text| is_pointer(text, report))
    }

    /// A boolean, with its place.
    pub fn flag(&mut self, name: &'static str, report: &mut Report<'_>) -> Option<Located<bool>> {
        let (key, node) = self.take(name)?;
        match node.value {
            Tree::Flag(value) => Some(Located {
                value,
                span: key.span.clone(),
            }),
            ref other => {
                wrong_kind(name, "true or false", other, &node.span, report);
                None
            }
        }
    }

    /// A whole number within bounds.
    pub fn whole(&mut self, name: &'static str, min: u32, max: u32, report: &mut Report<'_>) -> Option<u32> {
        let (_, node) = self.take(name)?;
        let number = match &node.value {
            Tree::Number(digits) => digits.parse::<u32>().ok().filter(|number| (min..=max).contains(number)),
            _ => None,
        };
        if number.is_none() {
            let message = format!("`{name}` must be a whole number from {min} to {max}");
            report.error("type/wrong-kind", &node.span, message, None);
        }
        number
    }

    /// A duration.
    pub fn duration(&mut self, name: &'static str, report: &mut Report<'_>) -> Option<Duration> {
        let text = self.text(name, report)?;
        match duration::parse(&text.value) {
            Ok(duration) => Some(duration),
            Err(error) => {
                let message = format!("`{name}` is no duration");
                report.error("type/bad-duration", &text.span, message, Some(error.to_string()));
                None
            }
        }
    }

    /// A list of strings.
    pub fn texts(&mut self, name: &'static str, report: &mut Report<'_>) -> Vec<Located<String>> {
        let Some((_, node)) = self.take(name) else {
            return Vec::new();
        };
        match &node.value {
            Tree::List(items) => items.iter().filter_map(|item| text_of(name, item, report)).collect(),
            other => {
                wrong_kind(name, "a list of strings", other, &node.span, report);
                Vec::new()
            }
        }
    }

    /// Says which members are not known. Those of `later` belong to a later version; they are never passed over.
    pub fn finish(self, later: &[&str], report: &mut Report<'_>) {
        for (key, _) in self.entries {
            let name = key.value.as_str();
            if self.known.contains(&name) {
                continue;
            }
            if later.contains(&name) {
                not_supported(&format!("`{name}`"), &key.span, report);
                continue;
            }
            let message = format!("{} has no `{name}`", self.owner);
            report.error(
                "type/unknown-key",
                &key.span,
                message,
                did_you_mean(name, self.known.iter().copied()),
            );
        }
    }
}

/// Says that something is not in this version.
pub(crate) fn not_supported(what: &str, span: &Span, report: &mut Report<'_>) {
    report.error(
        "type/not-supported",
        span,
        format!("{what} is not in this version"),
        Some("take it out".to_owned()),
    );
}

/// A string, or a report that it is none.
pub(crate) fn text_of(name: &str, node: &Node, report: &mut Report<'_>) -> Option<Located<String>> {
    match &node.value {
        Tree::Text(text) if text.len() <= TEXT_BYTES_MAX => Some(Located {
            value: text.clone(),
            span: node.span.clone(),
        }),
        Tree::Text(_) => {
            let message = format!("`{name}` is longer than {TEXT_BYTES_MAX} bytes");
            report.error("type/too-long", &node.span, message, None);
            None
        }
        other => {
            wrong_kind(name, "a string", other, &node.span, report);
            None
        }
    }
}

/// The longest string in an order type, in bytes: far above what a template or a message needs.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Whether a text is a JSON pointer, or a report that it is none.
pub(crate) fn is_pointer(text: &Located<String>, report: &mut Report<'_>) -> bool {
    let Some(fault) = pointer::fault(&text.value) else {
        return true;
    };
    let message = format!("\"{}\" is no JSON pointer", text.value);
    report.error("type/bad-pointer", &text.span, message, Some(fault.to_owned()));
    false
}

/// A queue's name, or a report that it is none.
pub(crate) fn queue_name(node: &Node, report: &mut Report<'_>) -> Option<Located<String>> {
    kebab_name("queue", "a queue", "new-orders", node, report)
}

/// A name in kebab-case of something that stands outside the file, or a report that it is none.
pub(crate) fn kebab_name(
    member: &str,
    what: &str,
    example: &str,
    node: &Node,
    report: &mut Report<'_>,
) -> Option<Located<String>> {
    let name = text_of(member, node, report)?;
    let text = name.value.as_str();
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    let sound = plain && text.len() <= 64 && text.starts_with(|first: char| first.is_ascii_lowercase());
    if sound && !text.ends_with('-') {
        return Some(name);
    }
    let help = format!("{what}'s name is in kebab-case, at most 64 letters: \"{example}\"");
    let message = format!("\"{text}\" is no name of {what}");
    report.error("type/bad-name", &name.span, message, Some(help));
    None
}

/// Says that a member is of the wrong kind.
pub(crate) fn wrong_kind(name: &str, wanted: &str, found: &Tree, span: &Span, report: &mut Report<'_>) {
    report.error(
        "type/wrong-kind",
        span,
        format!("`{name}` must be {wanted}, not {}", found.kind()),
        None,
    );
}
