//! Writes orders and errors in a type's own form. Values of the data are copied as the text they were sent as.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::value::RawValue;

use super::{Member, OrderFacts, Source, Wire, WireError};
use crate::locate::Members;
use crate::pointer::{field, token};

/// What values are taken from.
enum Facts<'f> {
    Order {
        order: &'f OrderFacts<'f>,
        data: Members<'f>,
    },
    Error {
        status: u16,
        error: &'f WireError<'f>,
    },
}

impl Wire {
    /// An order as the type shows it: JSON text.
    pub fn write(&self, order: &OrderFacts<'_>) -> String {
        let mut out = String::with_capacity(order.data.as_str().len() + 160);
        self.value(&mut out, &Source::Order, &Facts::order(order));
        out
    }

    /// The answer to an accepted submission: HTTP status and body.
    pub fn accepted(&self, order: &OrderFacts<'_>) -> (u16, String) {
        let mut out = String::with_capacity(order.data.as_str().len() + 160);
        self.value(&mut out, &self.submit_body, &Facts::order(order));
        (self.submit_status, out)
    }

    /// An error as the type shows it: HTTP status and body. Where the type declares no form, it is
    /// `{"error": code, "message": detail, "errors": [{field, code, message}], "allowed": […]}`, the last two only
    /// where there is something to say.
    pub fn error(&self, error: &WireError<'_>) -> (u16, String) {
        let status = match error.status {
            400 | 422 => self.error_status,
            other => other,
        };
        let mut out = String::with_capacity(160);
        self.value(&mut out, &self.error_body, &Facts::Error { status, error });
        (status, out)
    }

    /// Writes a value; `false`, and nothing written, where there is none.
    fn value(&self, out: &mut String, source: &Source, facts: &Facts<'_>) -> bool {
        match (source, facts) {
            (Source::Text(fixed), _) => text(out, fixed),
            (Source::Object(members), _) => self.object(out, members, facts),
            (Source::Formatted(inner, format), _) => return self.formatted(out, inner, format, facts),
            (Source::Order, Facts::Order { .. }) => self.object(out, &self.order, facts),
            (Source::Id, Facts::Order { order, .. }) => quoted(out, &order.id.to_string()),
            (Source::Key, Facts::Order { order, .. }) => match order.key {
                Some(key) => text(out, key),
                None => quoted(out, &order.id.to_string()),
            },
            (Source::Status, Facts::Order { order, .. }) => text(out, order.status),
            (Source::AcceptedAt, Facts::Order { order, .. }) => quoted(out, &order.accepted_at.to_string()),
            (Source::UpdatedAt, Facts::Order { order, .. }) => quoted(out, &order.updated_at.to_string()),
            (Source::Data(path), Facts::Order { data, .. }) => match lookup(data, path) {
                Some(raw) => out.push_str(raw),
                None => return false,
            },
            (Source::Code, Facts::Error { error, .. }) => text(out, error.code),
            (Source::Detail, Facts::Error { error, .. }) => text(out, &self.detail(error)),
            (Source::HttpStatus, Facts::Error { status, .. }) => out.push_str(&status.to_string()),
            (Source::Errors, Facts::Error { error, .. }) => self.errors(out, error),
            (Source::Allowed, Facts::Error { error, .. }) => match error.allowed {
                Some(allowed) => list(out, allowed.iter(), |out, status| text(out, status)),
                None => return false,
            },
            (Source::DefaultError, Facts::Error { error, .. }) => self.default_error(out, error),
            // The parser keeps properties of orders out of errors and the other way round.
            _ => return false,
        }
        true
    }

    fn object(&self, out: &mut String, members: &[(String, Source)], facts: &Facts<'_>) {
        out.push('{');
        for (name, source) in members {
            if let (Source::Spread, Facts::Order { data, .. }) = (source, facts) {
                for (name, raw) in &data.0 {
                    if !self.named.iter().any(|named| named == name) {
                        begin_member(out, name);
                        out.push_str(raw.get());
                    }
                }
                continue;
            }
            let before = out.len();
            begin_member(out, name);
            if !self.value(out, source, facts) {
                out.truncate(before);
            }
        }
        out.push('}');
    }

    fn formatted(&self, out: &mut String, inner: &Source, format: &str, facts: &Facts<'_>) -> bool {
        let Facts::Order { order, data } = facts else {
            return false;
        };
        let (time, raw) = match inner {
            Source::AcceptedAt => (Some(order.accepted_at), None),
            Source::UpdatedAt => (Some(order.updated_at), None),
            Source::Data(path) => {
                let Some(raw) = lookup(data, path) else { return false };
                let time = serde_json::from_str::<String>(raw)
                    .ok()
                    .and_then(|text| text.parse::<Timestamp>().ok());
                (time, Some(raw))
            }
            _ => return false,
        };
        let shown = time.and_then(|time| jiff::fmt::strtime::format(format, &time.to_zoned(TimeZone::UTC)).ok());
        match (shown, raw) {
            (Some(shown), _) => text(out, &shown),
            // What is no time is shown as it was sent.
            (None, Some(raw)) => out.push_str(raw),
            (None, None) => return false,
        }
        true
    }

    /// What an error says to people: every fault by its field, or the type's own words for the code.
    fn detail(&self, error: &WireError<'_>) -> String {
        if !error.faults.is_empty() {
            let faults: Vec<String> = error
                .faults
                .iter()
                .map(|fault| {
                    let field = field(&self.on_wire(&fault.pointer));
                    let sentence = fault.detail.starts_with(char::is_uppercase);
                    match (field.is_empty(), sentence) {
                        (true, _) => fault.detail.clone(),
                        (false, true) => format!("{field}: {}", fault.detail),
                        (false, false) => format!("{field} {}", fault.detail),
                    }
                })
                .collect();
            return faults.join("; ");
        }
        let detail = self.translate(error.code, error.detail);
        match error.allowed {
            Some(allowed) if !allowed.is_empty() && self.language.answer(error.code).is_some() => {
                format!("{detail}. {}: {}", self.language.allowed(), allowed.join(", "))
            }
            _ => detail,
        }
    }

    fn errors(&self, out: &mut String, error: &WireError<'_>) {
        list(out, error.faults.iter(), |out, fault| {
            out.push_str("{\"field\":");
            text(out, &field(&self.on_wire(&fault.pointer)));
            out.push_str(",\"code\":");
            text(out, &fault.code);
            out.push_str(",\"message\":");
            text(out, &fault.detail);
            out.push('}');
        });
    }

    fn default_error(&self, out: &mut String, error: &WireError<'_>) {
        out.push_str("{\"error\":");
        text(out, error.code);
        out.push_str(",\"message\":");
        text(out, &self.detail(error));
        if !error.faults.is_empty() {
            out.push_str(",\"errors\":");
            self.errors(out, error);
        }
        if let Some(allowed) = error.allowed {
            out.push_str(",\"allowed\":");
            list(out, allowed.iter(), |out, status| text(out, status));
        }
        out.push('}');
    }

    /// A pointer into the data as a pointer into the wire form.
    fn on_wire(&self, pointer: &str) -> String {
        for (name, member) in &self.members {
            if let Member::Data(path) = member {
                let mapped: String = path.iter().map(|part| token(part)).collect();
                if let Some(rest) = pointer.strip_prefix(&mapped)
                    && (rest.is_empty() || rest.starts_with('/'))
                {
                    return format!("{}{rest}", token(name));
                }
            }
        }
        pointer.to_owned()
    }
}

impl<'f> Facts<'f> {
    fn order(order: &'f OrderFacts<'f>) -> Self {
        // Data that is kept is a valid object; were it none, the order would still be shown, without it.
        let data = serde_json::from_str(order.data.as_str()).unwrap_or_default();
        Self::Order { order, data }
    }
}

/// The text of a member of the data.
fn lookup<'d>(data: &Members<'d>, path: &[String]) -> Option<&'d str> {
    let (name, deeper) = path.split_first()?;
    let mut raw = data.0.iter().find(|(known, _)| known == name)?.1.get();
    for name in deeper {
        let next = if raw.starts_with('[') {
            serde_json::from_str::<Vec<&RawValue>>(raw)
                .ok()?
                .get(name.parse::<usize>().ok()?)
                .copied()
        } else {
            let Members(members) = serde_json::from_str(raw).ok()?;
            members.into_iter().find(|(known, _)| known == name).map(|(_, raw)| raw)
        };
        raw = next?.get();
    }
    Some(raw)
}

fn begin_member(out: &mut String, name: &str) {
    if !out.ends_with('{') {
        out.push(',');
    }
    text(out, name);
    out.push(':');
}

fn list<T>(out: &mut String, items: impl Iterator<Item = T>, mut write: impl FnMut(&mut String, T)) {
    out.push('[');
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(']');
}

fn quoted(out: &mut String, plain: &str) {
    out.push('"');
    out.push_str(plain);
    out.push('"');
}

/// Writes a JSON string.
pub(super) fn text(out: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        return quoted(out, text);
    }
    // A string always serializes.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}
