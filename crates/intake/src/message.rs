//! A message, and the order's data within it. Data keeps its text: it is cut out of the message, never written anew.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use comanda_model::Json;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// The longest id of a message, in bytes; of a longer one the hash is taken.
const ID_BYTES_MAX: usize = 200;

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Unique within its source, and the same whenever the message comes.
    pub id: String,
    /// What it says.
    pub body: Bytes,
    /// Where in it the order's data is.
    pub envelope: Envelope,
}

/// What a message's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Envelope {
    /// JSON in the sender's own form: the data is where the source's settings say.
    Plain,
    /// A CloudEvent in structured mode: the data is its `data`.
    CloudEvent,
    /// The data itself, as in a CloudEvent in binary mode.
    Data,
}

impl Message {
    /// A message whose id is as long as any id may be.
    pub fn new(id: &str, body: Bytes, envelope: Envelope) -> Self {
        let id = if id.len() <= ID_BYTES_MAX {
            id.to_owned()
        } else {
            hash(id.as_bytes())
        };
        Self { id, body, envelope }
    }

    /// The order's data. `pointer` is where a plain message has it; the reason, for people, where there is none.
    pub(crate) fn data(&self, pointer: &str) -> Result<Json, String> {
        let pointer = match self.envelope {
            Envelope::Plain => pointer,
            Envelope::CloudEvent => "/data",
            Envelope::Data => "",
        };
        at(&self.body, pointer).map(|raw| Json::from_valid(raw.get()))
    }
}

/// The SHA-256 of something, in hexadecimal.
pub(crate) fn hash(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text at a JSON pointer (RFC 6901).
pub(crate) fn at<'b>(body: &'b [u8], pointer: &str) -> Result<&'b RawValue, String> {
    let mut found: &RawValue = serde_json::from_slice(body).map_err(|error| format!("it is not JSON: {error}"))?;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let text = found.get();
        let inner = match text.as_bytes().first() {
            Some(b'{') => {
                let members: BTreeMap<Cow<'_, str>, &RawValue> =
                    serde_json::from_str(text).map_err(|error| error.to_string())?;
                members.get(token.as_str()).copied()
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| error.to_string())?;
                token.parse::<usize>().ok().and_then(|index| items.get(index).copied())
            }
            _ => None,
        };
        found = inner.ok_or_else(|| format!("there is nothing at {pointer}"))?;
    }
    Ok(found)
}

/// The text of a string or a number at a JSON pointer: an id.
pub(crate) fn scalar_at(body: &[u8], pointer: &str) -> Result<String, String> {
    let raw = at(body, pointer)?.get();
    match raw.as_bytes().first() {
        Some(b'"') => serde_json::from_str(raw).map_err(|error| error.to_string()),
        Some(b'-' | b'0'..=b'9') => Ok(raw.to_owned()),
        _ => Err(format!("what is at {pointer} is no id: neither text nor a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_cut_out_as_it_was_sent() {
        let body = br#"{"a~b":{"c/d":[0,{"amount":1.10, "x" : 1e2}]},"id":"m-1","n":17.0}"#;
        assert_eq!(at(body, "/a~0b/c~1d/1").unwrap().get(), r#"{"amount":1.10, "x" : 1e2}"#);
        assert_eq!(scalar_at(body, "/id").unwrap(), "m-1");
        assert_eq!(scalar_at(body, "/n").unwrap(), "17.0");
        for (pointer, reason) in [("/none", "nothing"), ("/id/x", "nothing"), ("/a~0b/c~1d/9", "nothing")] {
            assert!(at(body, pointer).unwrap_err().contains(reason), "{pointer}");
        }
        assert!(scalar_at(body, "/a~0b").is_err());
        assert!(at(b"{", "").unwrap_err().contains("not JSON"));
        assert!(at(b"\xff", "").is_err());
        let event = Message::new("1", Bytes::from_static(br#"{"data":{"x":1.0}}"#), Envelope::CloudEvent);
        assert_eq!(event.data("/elsewhere").unwrap().as_str(), r#"{"x":1.0}"#);
        let long = Message::new(&"x".repeat(300), Bytes::new(), Envelope::Data);
        assert_eq!(long.id.len(), 64);
    }
}
