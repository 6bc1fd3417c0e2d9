//! How a type looks on the wire: what its mount takes and what it answers with.
//!
//! The mapping is declared as pointers and properties, never as templates. So numbers stay exact, the text of the data
//! is copied and never rebuilt, and what is declared for answers can be read backwards for submissions.

mod parse;
mod read;
mod write;

use std::sync::Arc;

use comanda_model::{Json, OrderId};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde_json::Value;

use crate::fault::{DateRule, Fault};
use crate::language::Language;

pub(crate) use parse::{Parsed, Surroundings, parse};

/// A type's own wire form.
#[derive(Debug)]
pub struct Wire {
    language: Language,
    cors: Vec<String>,
    status_field: Option<String>,
    /// The order's members, in the order of the file.
    order: Vec<(String, Source)>,
    /// The data members that `order` names one by one, which a spread leaves out.
    named: Vec<String>,
    /// What a submission's members are; members that are not here are data under their own names.
    members: IndexMap<String, Member>,
    submit_status: u16,
    submit_body: Source,
    error_status: u16,
    error_body: Source,
    dates: Vec<DateRule>,
}

/// Where a value on the wire comes from.
#[derive(Clone, Debug)]
enum Source {
    Id,
    Key,
    Status,
    AcceptedAt,
    UpdatedAt,
    /// A member of the data, by the tokens of its pointer.
    Data(Vec<String>),
    /// A time, or a text of the data that is one, in a `strftime` format.
    Formatted(Box<Source>, String),
    /// A fixed text.
    Text(String),
    /// All data members that are not named one by one.
    Spread,
    /// The whole order.
    Order,
    /// Members of an error.
    Code,
    Detail,
    HttpStatus,
    Errors,
    Allowed,
    /// The error form of a type that declares none.
    DefaultError,
    Object(Vec<(String, Source)>),
}

/// What a member of a submission is, where it is not simply data under its own name.
#[derive(Clone, Debug)]
enum Member {
    Id,
    Key,
    Status,
    /// Something that is ours to say. A client that sends back what it has read must not be refused for it.
    Ours,
    /// Data at this place.
    Data(Vec<String>),
}

/// A submission or a patch, taken apart.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The order's id, where the wire has it (`@id`).
    pub id: Option<String>,
    /// The client's own id (`@key`). It is not in the data then.
    pub key: Option<String>,
    /// The status, as the client spelled it (`@status`). It is not in the data.
    pub status: Option<String>,
    /// The data, or the merge patch of it: every value to the letter as it was sent.
    pub data: Json,
    /// The same, parsed.
    pub value: Value,
}

/// Why a body could not be taken apart. All texts are in the type's language.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Malformed {
    /// `malformed-json`, `not-an-object`, or `invalid-data` where a member is at fault.
    pub code: &'static str,
    /// What is wrong.
    pub detail: String,
    /// The members at fault; pointers into the wire form.
    pub faults: Vec<Fault>,
}

/// What the wire form of an order is made from.
#[derive(Clone, Debug)]
pub struct OrderFacts<'a> {
    /// The order's id.
    pub id: OrderId,
    /// The client's own id; where there is none, `@key` is the order's id.
    pub key: Option<&'a str>,
    /// The status.
    pub status: &'a str,
    /// When the order was accepted.
    pub accepted_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The data; its members are copied as the text they were sent as.
    pub data: Json,
}

/// What the wire form of an error is made from.
#[derive(Clone, Copy, Debug)]
pub struct WireError<'a> {
    /// The HTTP status. 400 and 422 are answered as `wire.error.status`; all others stay as they are.
    pub status: u16,
    /// What went wrong: `illegal-transition`.
    pub code: &'a str,
    /// The same for people. Replaced by the type's own words where its language has some for this code.
    pub detail: &'a str,
    /// The faults of the data, if that is what went wrong. They then make the message.
    pub faults: &'a [Fault],
    /// Where the order may go instead, for a transition that is not allowed.
    pub allowed: Option<&'a [Arc<str>]>,
}

impl Wire {
    /// The origins that browsers may call from; `*` is every one. Empty: none.
    pub fn cors(&self) -> &[String] {
        &self.cors
    }

    /// The member whose change by PATCH is a transition.
    pub fn status_field(&self) -> Option<&str> {
        self.status_field.as_deref()
    }

    /// The name under which the wire form has the status, if it has it: the status field, or the first member that is
    /// `@status`.
    pub fn status_member(&self) -> Option<&str> {
        self.status_field().or_else(|| {
            let is_status = |(_, source): &&(String, Source)| matches!(source, Source::Status);
            self.order.iter().find(is_status).map(|(name, _)| name.as_str())
        })
    }

    /// What to tell a client about an answer with this code: the type's own words where its language has some,
    /// otherwise `detail`.
    pub fn translate(&self, code: &str, detail: &str) -> String {
        match self.language.answer(code) {
            // Already in this language, and perhaps with the place of the mistake.
            Some(text) if detail.starts_with(text) => detail.to_owned(),
            Some(text) => text.to_owned(),
            None => detail.to_owned(),
        }
    }

    pub(crate) fn language(&self) -> Language {
        self.language
    }

    pub(crate) fn dates(&self) -> &[DateRule] {
        &self.dates
    }

    /// Data as the mount takes it: members renamed to the wire's names, and the status where a submission needs it.
    pub(crate) fn as_sent(&self, data: &Value, status: Option<&str>) -> Value {
        let mut rest = data.clone();
        let mut sent = serde_json::Map::new();
        for (name, member) in &self.members {
            if let Member::Data(path) = member
                && let Some(value) = take(&mut rest, path)
            {
                sent.insert(name.clone(), value);
            }
        }
        if let Value::Object(members) = rest {
            for (name, value) in members {
                sent.entry(name).or_insert(value);
            }
        }
        if let (Some(status), Some(member)) = (status, self.status_member()) {
            sent.insert(member.to_owned(), Value::from(status));
        }
        Value::Object(sent)
    }
}

/// Takes a member out, and the objects that it leaves empty.
fn take(value: &mut Value, path: &[String]) -> Option<Value> {
    let (name, deeper) = path.split_first()?;
    let object = value.as_object_mut()?;
    if deeper.is_empty() {
        return object.shift_remove(name);
    }
    let inner = object.get_mut(name)?;
    let taken = take(inner, deeper);
    if inner.as_object().is_some_and(serde_json::Map::is_empty) {
        object.shift_remove(name);
    }
    taken
}
