//! Reads the `[wire]` section of the file.

use indexmap::IndexMap;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::{Member, Source, Wire};
use crate::diagnostic::{Report, did_you_mean};
use crate::fault::DateRule;
use crate::fields::{Fields, is_pointer, text_of, wrong_kind};
use crate::language::Language;
use crate::pointer::tokens;
use crate::tree::{Key, Located, Node, Span, Tree};

/// What of the rest of the file the wire form depends on.
pub(crate) struct Surroundings<'s> {
    pub language: Language,
    /// The pointer of `key`.
    pub key: Option<&'s Located<String>>,
    /// The pointer of `initial.from`.
    pub status_from: Option<&'s Located<String>>,
}

/// The wire form, and what is to be checked against the schema.
pub(crate) struct Parsed {
    pub wire: Wire,
    /// Pointers into the data.
    pub pointers: Vec<Located<String>>,
    /// Whether the client's own id is moved out of the data.
    pub key_is_moved: bool,
}

/// What a source stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Order,
    Submit,
    Error,
}

impl Place {
    fn properties(self) -> &'static [&'static str] {
        match self {
            Self::Order => &["@id", "@key", "@status", "@acceptedAt", "@updatedAt"],
            Self::Submit => &["@id", "@key", "@status", "@acceptedAt", "@updatedAt", "@order"],
            Self::Error => &["@code", "@detail", "@status", "@errors", "@allowed"],
        }
    }
}

/// Reads the section; without one, the order is `{"id", "status"}` and its data.
pub(crate) fn parse(section: Option<(&Key, &Node)>, around: &Surroundings<'_>, report: &mut Report<'_>) -> Parsed {
    let mut parser = Parser {
        pointers: Vec::new(),
        keys: Vec::new(),
        report,
    };
    let mut wire = Wire {
        language: around.language,
        cors: Vec::new(),
        status_field: None,
        order: vec![
            ("id".to_owned(), Source::Id),
            ("status".to_owned(), Source::Status),
            ("...".to_owned(), Source::Spread),
        ],
        named: Vec::new(),
        members: IndexMap::new(),
        submit_status: 202,
        submit_body: Source::Order,
        error_status: 400,
        error_body: Source::DefaultError,
        dates: Vec::new(),
    };
    if let Some((key, node)) = section
        && let Some(mut fields) = Fields::of(node, &key.span, "[wire]", parser.report)
    {
        wire.cors = parser.cors(&mut fields);
        wire.status_field = fields.text("status_field", parser.report).map(|name| name.value);
        if let Some((key, node)) = fields.take("submit") {
            parser.answer(
                key,
                node,
                "wire.submit",
                Place::Submit,
                &mut wire.submit_status,
                &mut wire.submit_body,
            );
        }
        if let Some((key, node)) = fields.take("error") {
            parser.answer(
                key,
                node,
                "wire.error",
                Place::Error,
                &mut wire.error_status,
                &mut wire.error_body,
            );
        }
        if let Some((key, node)) = fields.take("order") {
            wire.order = parser.order(key, node);
        }
        if let Some((key, node)) = fields.take("dates") {
            wire.dates = parser.dates(key, node);
        }
        fields.finish(&[], parser.report);
    }
    let Parser { pointers, keys, report } = parser;
    if around.key.is_none() {
        for span in &keys {
            let help = "name the member that the client sends it in: key = \"/orderId\"".to_owned();
            report.error(
                "type/no-key",
                span,
                "`@key` is used, but the type has no `key`",
                Some(help),
            );
        }
    }
    wire.members = members(&wire, around);
    wire.named = named(&wire);
    let key_is_moved = wire.members.values().any(|member| matches!(member, Member::Key));
    Parsed {
        wire,
        pointers,
        key_is_moved,
    }
}

/// The mapping, read backwards.
fn members(wire: &Wire, around: &Surroundings<'_>) -> IndexMap<String, Member> {
    let mut members = IndexMap::new();
    for (name, source) in &wire.order {
        let member = match source {
            Source::Id => Member::Id,
            Source::Key if around.key.is_some() => Member::Key,
            Source::Key => Member::Id,
            Source::Status => Member::Status,
            // A member that stands at the top under its own name is where it belongs.
            Source::Data(path) if *path == [name.as_str()] => continue,
            Source::Data(path) => Member::Data(path.clone()),
            Source::Spread => continue,
            Source::Formatted(inner, _) if matches!(**inner, Source::Data(_)) => match &**inner {
                Source::Data(path) if *path != [name.as_str()] => Member::Data(path.clone()),
                _ => continue,
            },
            _ => Member::Ours,
        };
        members.insert(name.clone(), member);
    }
    let from = around.status_from.and_then(|pointer| tokens(&pointer.value).next());
    for name in from.iter().chain(&wire.status_field) {
        members.insert(name.clone(), Member::Status);
    }
    members
}

fn named(wire: &Wire) -> Vec<String> {
    let mut named = Vec::new();
    for (name, source) in &wire.order {
        match source {
            Source::Spread => continue,
            Source::Data(path) if path.len() == 1 => named.extend(path.first().cloned()),
            Source::Formatted(inner, _) => {
                if let Source::Data(path) = &**inner {
                    named.extend(path.first().filter(|_| path.len() == 1).cloned());
                }
            }
            _ => {}
        }
        named.push(name.clone());
    }
    named
}

struct Parser<'p, 'b> {
    pointers: Vec<Located<String>>,
    /// Where `@key` is used.
    keys: Vec<Span>,
    report: &'p mut Report<'b>,
}

impl Parser<'_, '_> {
    fn cors(&mut self, fields: &mut Fields<'_>) -> Vec<String> {
        let origins = fields.texts("cors", self.report);
        for origin in &origins {
            let rest = origin
                .value
                .strip_prefix("https://")
                .or_else(|| origin.value.strip_prefix("http://"));
            if origin.value != "*" && rest.is_none_or(|host| host.is_empty() || host.contains(['/', ' '])) {
                let message = format!("\"{}\" is no origin", origin.value);
                let help = "an origin is \"*\" or a scheme and a host, as in \"https://shop.example\"".to_owned();
                self.report.error("type/bad-origin", &origin.span, message, Some(help));
            }
        }
        origins.into_iter().map(|origin| origin.value).collect()
    }

    fn answer(&mut self, key: &Key, node: &Node, owner: &str, place: Place, status: &mut u16, body: &mut Source) {
        let Some(mut fields) = Fields::of(node, &key.span, owner, self.report) else {
            return;
        };
        let (min, max) = if place == Place::Error { (400, 499) } else { (200, 299) };
        let stated = fields.whole("status", min, max, self.report);
        *status = stated.and_then(|stated| u16::try_from(stated).ok()).unwrap_or(*status);
        if let Some((_, node)) = fields.take("body")
            && let Some(source) = self.source("body", node, place)
        {
            *body = source;
        }
        fields.finish(&[], self.report);
    }

    fn order(&mut self, key: &Key, node: &Node) -> Vec<(String, Source)> {
        let Tree::Table(entries) = &node.value else {
            wrong_kind("order", "a table", &node.value, &node.span, self.report);
            return Vec::new();
        };
        if entries.is_empty() {
            self.report
                .error("type/missing-key", &key.span, "[wire.order] names no member", None);
        }
        let mut order = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            if key.value == "..." {
                match &node.value {
                    Tree::Text(pointer) if pointer == "/" => order.push((key.value.clone(), Source::Spread)),
                    _ => {
                        let help = "write \"...\" = \"/\"".to_owned();
                        let message = "`...` spreads the whole data";
                        self.report
                            .error("type/bad-wire-value", &node.span, message, Some(help));
                    }
                }
                continue;
            }
            if let Some(source) = self.source(&key.value, node, Place::Order) {
                order.push((key.value.clone(), source));
            }
        }
        order
    }

    fn source(&mut self, name: &str, node: &Node, place: Place) -> Option<Source> {
        match &node.value {
            Tree::Text(text) => {
                let text = Located {
                    value: text.clone(),
                    span: node.span.clone(),
                };
                self.reference(name, &text, place)
            }
            Tree::Table(entries) if node.value.get("text").is_some() || node.value.get("from").is_some() => {
                let span = entries.first().map_or(&node.span, |(key, _)| &key.span);
                let mut fields = Fields::of(node, span, format!("`{name}`"), self.report)?;
                let source = if let Some(text) = fields.text("text", self.report) {
                    Some(Source::Text(text.value))
                } else {
                    let from = fields.text("from", self.report);
                    let inner = from.and_then(|from| self.reference(name, &from, place));
                    let format = fields.text("format", self.report);
                    self.formatted(name, inner?, format, &node.span)
                };
                fields.finish(&[], self.report);
                source
            }
            Tree::Table(entries) if place != Place::Order => {
                let mut members = Vec::with_capacity(entries.len());
                for (key, node) in entries {
                    members.push((key.value.clone(), self.source(&key.value, node, place)?));
                }
                Some(Source::Object(members))
            }
            other => {
                let message = format!("`{name}` must be a wire value, not {}", other.kind());
                self.bad_value(&node.span, message);
                None
            }
        }
    }

    fn bad_value(&mut self, span: &Span, message: String) {
        let help = "a wire value is a pointer (\"/x\"), a property (\"@id\"), or { text = \"…\" }".to_owned();
        self.report.error("type/bad-wire-value", span, message, Some(help));
    }

    fn reference(&mut self, name: &str, text: &Located<String>, place: Place) -> Option<Source> {
        if text.value.starts_with('@') {
            let source = match (text.value.as_str(), place) {
                ("@detail", Place::Error) => Source::Detail,
                ("@code", Place::Error) => Source::Code,
                ("@status", Place::Error) => Source::HttpStatus,
                ("@errors", Place::Error) => Source::Errors,
                ("@allowed", Place::Error) => Source::Allowed,
                ("@order", Place::Submit) => Source::Order,
                ("@id", Place::Order | Place::Submit) => Source::Id,
                ("@key", Place::Order | Place::Submit) => {
                    self.keys.push(text.span.clone());
                    Source::Key
                }
                ("@status", Place::Order | Place::Submit) => Source::Status,
                ("@acceptedAt", Place::Order | Place::Submit) => Source::AcceptedAt,
                ("@updatedAt", Place::Order | Place::Submit) => Source::UpdatedAt,
                (unknown, _) => {
                    let message = format!("there is no property `{unknown}` here");
                    let help = did_you_mean(unknown, place.properties().iter().copied());
                    self.report.error("type/unknown-property", &text.span, message, help);
                    return None;
                }
            };
            return Some(source);
        }
        if place == Place::Error || !text.value.starts_with('/') {
            self.bad_value(&text.span, format!("`{name}` is no wire value"));
            return None;
        }
        if !is_pointer(text, self.report) {
            return None;
        }
        let path: Vec<String> = tokens(&text.value).collect();
        let in_list = path
            .iter()
            .any(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        if place == Place::Order && in_list {
            let help = "name the list itself; a submission is read by the same mapping".to_owned();
            let message = format!("`{name}` points into a list");
            self.report
                .error("type/bad-wire-value", &text.span, message, Some(help));
            return None;
        }
        self.pointers.push(text.clone());
        Some(Source::Data(path))
    }

    fn formatted(&mut self, name: &str, inner: Source, format: Option<Located<String>>, span: &Span) -> Option<Source> {
        let Some(format) = format else { return Some(inner) };
        if !matches!(inner, Source::AcceptedAt | Source::UpdatedAt | Source::Data(_)) {
            self.bad_value(span, format!("`{name}` has a `format`, but is no time"));
            return None;
        }
        if let Err(error) = jiff::fmt::strtime::format(&format.value, &Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC)) {
            let message = format!("`{name}` has a `format` that cannot be used: {error}");
            let help = "formats are those of strftime, as in \"%Y-%m-%dT%H:%M:%S\"".to_owned();
            self.report.error("type/bad-format", &format.span, message, Some(help));
            return None;
        }
        Some(Source::Formatted(Box::new(inner), format.value))
    }

    fn dates(&mut self, key: &Key, node: &Node) -> Vec<DateRule> {
        let Tree::Table(entries) = &node.value else {
            wrong_kind("dates", "a table", &node.value, &key.span, self.report);
            return Vec::new();
        };
        let mut rules = Vec::with_capacity(entries.len());
        for (key, node) in entries {
            let items = match &node.value {
                Tree::List(items) => items.as_slice(),
                Tree::Text(_) => std::slice::from_ref(node),
                other => {
                    wrong_kind(&key.value, "a list of formats", other, &node.span, self.report);
                    continue;
                }
            };
            if items.is_empty() {
                self.report
                    .error("type/bad-format", &node.span, "a date needs at least one format", None);
            }
            let mut formats = Vec::with_capacity(items.len());
            for item in items {
                let Some(format) = text_of(&key.value, item, self.report) else {
                    continue;
                };
                let day = Date::constant(2026, 4, 30);
                let shown = jiff::fmt::strtime::format(&format.value, day);
                let back = shown.and_then(|text| Date::strptime(&format.value, text));
                if !back.is_ok_and(|back| back == day) {
                    let message = format!("\"{}\" is no format of a date", format.value);
                    let help = "a date format has a year, a month and a day, as in \"%d/%m/%Y\"".to_owned();
                    self.report.error("type/bad-format", &format.span, message, Some(help));
                    continue;
                }
                formats.push(format.value);
            }
            if is_pointer(key, self.report) {
                self.pointers.push(key.clone());
                rules.push(DateRule {
                    pointer: key.value.clone(),
                    formats,
                });
            }
        }
        rules
    }
}
