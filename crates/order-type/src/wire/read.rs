//! Takes a submission apart without touching the text of its values.

use std::borrow::Cow;
use std::collections::HashSet;

use comanda_model::Json;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Incoming, Malformed, Member, Wire};
use crate::fault::Fault;
use crate::locate::Members;
use crate::pointer::token;

/// Up to this many members, comparing each name with each is faster than hashing them.
const FEW: usize = 16;

/// The data while it is put together.
enum Part<'a> {
    Raw(&'a str),
    Object(Parts<'a>),
}

type Parts<'a> = Vec<(Cow<'a, str>, Part<'a>)>;

impl Wire {
    /// Reads the body of a POST or PATCH to the mount. Members that the wire form maps are moved to their place; all
    /// others are data under their own names. Values keep their text to the letter.
    pub fn read(&self, body: &[u8]) -> Result<Incoming, Malformed> {
        let text = std::str::from_utf8(body)
            .map_err(|_| self.malformed("UTF-8"))?
            .trim_ascii();
        if !text.starts_with('{') {
            let valid = serde_json::from_str::<&RawValue>(text);
            return Err(match valid {
                Ok(_) => self.not_an_object(),
                Err(error) => self.malformed_json(&error),
            });
        }
        let Members(members) = serde_json::from_str(text).map_err(|error| self.malformed_json(&error))?;
        if let Some(name) = repeated(&members) {
            let detail = self
                .language
                .pick("stands twice", "aparece dos veces", "aparece duas vezes");
            return Err(self.member_fault(name, "duplicate", detail));
        }
        let mut incoming = Incoming {
            id: None,
            key: None,
            status: None,
            data: Json::from_valid(""),
            value: Value::Null,
        };
        let plain = members
            .iter()
            .all(|(name, _)| !self.members.contains_key(name.as_ref()));
        incoming.data = if plain {
            Json::from_valid(text)
        } else {
            let mut parts: Parts<'_> = Vec::with_capacity(members.len());
            for (name, raw) in members {
                match self.members.get(name.as_ref()) {
                    None => merge(&mut parts, name, raw.get()),
                    Some(Member::Data(path)) => put(&mut parts, path, raw.get()),
                    Some(Member::Ours) => {}
                    Some(Member::Id) => incoming.id = self.scalar(&name, raw)?,
                    Some(Member::Key) => incoming.key = self.scalar(&name, raw)?,
                    Some(Member::Status) => {
                        let status = self.scalar(&name, raw)?;
                        incoming.status = incoming.status.or(status);
                    }
                }
            }
            let mut text = String::with_capacity(text.len());
            write_parts(&mut text, &parts);
            Json::from_valid(text)
        };
        incoming.value = incoming.data.value().map_err(|error| self.malformed_json(&error))?;
        Ok(incoming)
    }

    /// A string, or a number's digits; null is as good as absent.
    fn scalar(&self, name: &str, raw: &RawValue) -> Result<Option<String>, Malformed> {
        let text = raw.get();
        let wrong = || {
            let code = if text == "\"\"" { "minLength" } else { "type" };
            let limit = if code == "type" {
                Value::from("string")
            } else {
                Value::from(1)
            };
            self.member_fault(name, code, &self.language.keyword(code, &limit))
        };
        match text.as_bytes().first() {
            Some(b'"') => {
                let value: String = serde_json::from_str(text).map_err(|error| self.malformed_json(&error))?;
                if value.is_empty() {
                    Err(wrong())
                } else {
                    Ok(Some(value))
                }
            }
            Some(b'-' | b'0'..=b'9') => Ok(Some(text.to_owned())),
            Some(b'n') => Ok(None),
            _ => Err(wrong()),
        }
    }

    fn member_fault(&self, name: &str, code: &str, detail: &str) -> Malformed {
        let fault = Fault {
            pointer: token(name),
            code: code.to_owned(),
            detail: detail.to_owned(),
        };
        Malformed {
            code: "invalid-data",
            detail: format!("{name} {detail}"),
            faults: vec![fault],
        }
    }

    fn malformed_json(&self, error: &serde_json::Error) -> Malformed {
        let text = self
            .language
            .pick("line {}, column {}", "línea {}, columna {}", "linha {}, coluna {}");
        let place = text
            .replacen("{}", &error.line().to_string(), 1)
            .replacen("{}", &error.column().to_string(), 1);
        self.malformed(&place)
    }

    fn malformed(&self, place: &str) -> Malformed {
        let text = self
            .language
            .answer("malformed-json")
            .unwrap_or("The body is not valid JSON");
        Malformed {
            code: "malformed-json",
            detail: format!("{text} ({place})"),
            faults: Vec::new(),
        }
    }

    fn not_an_object(&self) -> Malformed {
        let text = self
            .language
            .answer("not-an-object")
            .unwrap_or("The body must be a JSON object");
        Malformed {
            code: "not-an-object",
            detail: text.to_owned(),
            faults: Vec::new(),
        }
    }
}

/// The first name that stands twice: which of the two values was meant cannot be known.
fn repeated<'m>(members: &'m [(Cow<'_, str>, &RawValue)]) -> Option<&'m str> {
    if members.len() <= FEW {
        let names = || members.iter().map(|(name, _)| name.as_ref());
        return names()
            .enumerate()
            .find(|(at, name)| names().take(*at).any(|before| before == *name))
            .map(|(_, name)| name);
    }
    let mut seen = HashSet::with_capacity(members.len());
    members
        .iter()
        .map(|(name, _)| name.as_ref())
        .find(|name| !seen.insert(*name))
}

/// The members of an object's text. The text was parsed before, so that it cannot fail.
fn expand(raw: &str) -> Parts<'_> {
    let Members(members) = serde_json::from_str(raw).unwrap_or_default();
    members
        .into_iter()
        .map(|(name, raw)| (name, Part::Raw(raw.get())))
        .collect()
}

/// Puts a mapped member into its place; it wins over what an unmapped member says of the same place.
fn put<'a>(parts: &mut Parts<'a>, path: &[String], raw: &'a str) {
    let Some((name, deeper)) = path.split_first() else {
        return;
    };
    let at = match parts.iter().position(|(known, _)| known == name) {
        Some(at) => at,
        None => {
            parts.push((Cow::Owned(name.clone()), Part::Object(Vec::new())));
            parts.len() - 1
        }
    };
    let part = &mut parts[at].1;
    if deeper.is_empty() {
        *part = Part::Raw(raw);
        return;
    }
    if let Part::Raw(raw) = part {
        *part = Part::Object(if raw.starts_with('{') { expand(raw) } else { Vec::new() });
    }
    if let Part::Object(inner) = part {
        put(inner, deeper, raw);
    }
}

/// Adds an unmapped member to what mapped ones have put there already.
fn merge<'a>(parts: &mut Parts<'a>, name: Cow<'a, str>, raw: &'a str) {
    let Some((_, part)) = parts.iter_mut().find(|(known, _)| *known == name) else {
        parts.push((name, Part::Raw(raw)));
        return;
    };
    if let (Part::Object(inner), true) = (part, raw.starts_with('{')) {
        for (name, part) in expand(raw) {
            if let Part::Raw(raw) = part {
                merge(inner, name, raw);
            }
        }
    }
}

fn write_parts(out: &mut String, parts: &Parts<'_>) {
    out.push('{');
    for (index, (name, part)) in parts.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        super::write::text(out, name);
        out.push(':');
        match part {
            Part::Raw(raw) => out.push_str(raw),
            Part::Object(inner) => write_parts(out, inner),
        }
    }
    out.push('}');
}
