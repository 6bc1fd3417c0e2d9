//! The place of a JSON pointer in the text of a JSON file.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::pointer::tokens;
use crate::tree::Span;

/// The place of the value that a pointer names, as deep as it leads.
pub(crate) fn place(text: &str, pointer: &str) -> Span {
    let mut found = text.trim_ascii();
    for token in tokens(pointer) {
        let next = if found.starts_with('{') {
            let members = serde_json::from_str::<Members<'_>>(found).unwrap_or_default();
            members
                .0
                .into_iter()
                .find(|(name, _)| *name == token)
                .map(|(_, raw)| raw)
        } else if found.starts_with('[') {
            let items = serde_json::from_str::<Vec<&RawValue>>(found).unwrap_or_default();
            token.parse::<usize>().ok().and_then(|at| items.get(at).copied())
        } else {
            None
        };
        let Some(next) = next else { break };
        found = next.get();
    }
    // `found` is a part of `text`, so the distance between their beginnings is its place.
    let start = (found.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    start..start + found.len()
}

/// The members of an object with the text of each, in order; a name that stands twice is there twice.
#[derive(Default)]
pub(crate) struct Members<'a>(pub Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some((Name(name), raw)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
                    members.push((name, raw));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

/// A member's name: borrowed where it has no escapes.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let text = "\n{ \"a\": [1, {\"b\" : \"x\"}] }";
        assert_eq!(&text[place(text, "/a/1/b")], "\"x\"");
        assert_eq!(&text[place(text, "/a/9")], "[1, {\"b\" : \"x\"}]");
        assert_eq!(&text[place(text, "")], "{ \"a\": [1, {\"b\" : \"x\"}] }");
        assert_eq!(place("nonsense", "/a"), 0..8);
    }
}
