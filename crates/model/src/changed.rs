//! What an edit changed: which member of the data, and what stood there before and stands there now.
//!
//! The values are for the audit of one order. They are kept with its events and nowhere else, events leave the house
//! without them, and they go when the order is erased.

use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::Json;

/// The longest value that is kept, in bytes of JSON text.
pub const VALUE_BYTES_MAX: usize = 1024;
/// The most bytes of values that one event keeps.
pub const VALUES_BYTES_MAX: usize = 8 * 1024;
/// What stands in the place of a pointer when a redrive moves an order to another version of its type.
pub const TYPE_VERSION: &str = "@typeVersion";

/// One thing that an event changed. As JSON a text with the pointer or, while the values are kept, an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// A JSON pointer (RFC 6901) into the data, or [`TYPE_VERSION`].
    pub pointer: String,
    /// What stood and stands there; `None` when it was too large to keep, or is erased.
    pub values: Option<Values>,
}

/// What stood and stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    /// Before; `None` if nothing stood there.
    pub before: Option<Json>,
    /// After; `None` if nothing stands there.
    pub after: Option<Json>,
}

impl Changed {
    /// A change with its values, unless one of them is larger than is kept.
    pub fn new(pointer: impl Into<String>, before: Option<Json>, after: Option<Json>) -> Self {
        let fits = |value: &Option<Json>| value.as_ref().is_none_or(|json| json.as_str().len() <= VALUE_BYTES_MAX);
        Self {
            pointer: pointer.into(),
            values: (fits(&before) && fits(&after)).then_some(Values { before, after }),
        }
    }

    /// Takes the values out of what is past the bound of one event.
    pub fn bound(all: &mut [Self]) {
        let mut bytes = 0;
        for one in all {
            bytes += one.values.as_ref().map_or(0, Values::bytes);
            if bytes > VALUES_BYTES_MAX {
                one.values = None;
            }
        }
    }
}

impl Values {
    fn bytes(&self) -> usize {
        let bytes = |value: &Option<Json>| value.as_ref().map_or(0, |json| json.as_str().len());
        bytes(&self.before) + bytes(&self.after)
    }
}

impl Serialize for Changed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(values) = &self.values else {
            return serializer.serialize_str(&self.pointer);
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("pointer", &self.pointer)?;
        for (name, value) in [("before", &values.before), ("after", &values.after)] {
            if let Some(value) = value {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Changed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChangedVisitor)
    }
}

struct ChangedVisitor;

impl<'de> Visitor<'de> for ChangedVisitor {
    type Value = Changed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON pointer, or an object with one")
    }

    fn visit_str<E: de::Error>(self, pointer: &str) -> Result<Changed, E> {
        Ok(Changed {
            pointer: pointer.to_owned(),
            values: None,
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Changed, A::Error> {
        let (mut pointer, mut before, mut after) = (None, None, None);
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "pointer" => pointer = Some(map.next_value()?),
                // Not through an `Option`: a member that was null is not one that was absent.
                "before" => before = Some(map.next_value::<Json>()?),
                "after" => after = Some(map.next_value::<Json>()?),
                other => return Err(de::Error::unknown_field(other, &["pointer", "before", "after"])),
            }
        }
        Ok(Changed {
            pointer: pointer.ok_or_else(|| de::Error::missing_field("pointer"))?,
            values: Some(Values { before, after }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Option<Json> {
        Some(Json::from_valid(text))
    }

    #[test]
    fn values_come_back_to_the_letter_and_null_is_not_absent() {
        for (changed, text) in [
            (
                Changed::new("/a", None, json("1.10")),
                r#"{"pointer":"/a","after":1.10}"#,
            ),
            (
                Changed::new("/a", json("null"), json("1E5")),
                r#"{"pointer":"/a","before":null,"after":1E5}"#,
            ),
            (
                Changed::new("/a", json("[1, 2]"), None),
                r#"{"pointer":"/a","before":[1, 2]}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&changed).unwrap(), text);
            assert_eq!(serde_json::from_str::<Changed>(text).unwrap(), changed);
        }
        // As events were written before values were kept.
        let old: Vec<Changed> = serde_json::from_str(r#"["/a"]"#).unwrap();
        assert_eq!(serde_json::to_string(&old).unwrap(), r#"["/a"]"#);
    }

    #[test]
    fn what_is_too_large_is_named_without_its_values() {
        let large = format!("\"{}\"", "x".repeat(VALUE_BYTES_MAX));
        assert_eq!(Changed::new("/a", json(&large), None).values, None);
        let fits = format!("\"{}\"", "x".repeat(VALUE_BYTES_MAX - 2));
        let mut many: Vec<Changed> = (0..10)
            .map(|n| Changed::new(format!("/{n}"), None, json(&fits)))
            .collect();
        Changed::bound(&mut many);
        let kept = many.iter().filter(|one| one.values.is_some()).count();
        assert_eq!(kept, VALUES_BYTES_MAX / VALUE_BYTES_MAX);
    }
}
