//! Takes secrets out of what is kept of an answer: a service may quote what it was sent.
//!
//! A secret is found as it is, and in the forms in which it travels: escaped in JSON, percent-encoded in a URL, in base64. In reasons
//! every secret is hidden. In results only those of [`RESULT_SECRET_BYTES_MIN`] and more are, and only within strings:
//! later steps read them, and `1` as somebody's secret must not make another number of an amount.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// What stands in the place of a secret.
const HIDDEN: &str = "***";
/// The shortest secret that is taken out of results.
pub const RESULT_SECRET_BYTES_MIN: usize = 8;

/// The secrets of the program, or of one call.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    /// Each in all its forms, the longest first, so that one that contains another is hidden whole.
    forms: Vec<Form>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Form {
    text: String,
    /// Whether the secret itself is long enough to be taken out of results.
    in_results: bool,
}

impl Secrets {
    /// Secrets to be hidden. Empty ones are none.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut forms: Vec<Form> = Vec::new();
        for secret in secrets.into_iter().filter(|secret| !secret.is_empty()) {
            let in_results = secret.len() >= RESULT_SECRET_BYTES_MIN;
            for text in travelling(secret) {
                let form = Form { text, in_results };
                if !forms.contains(&form) {
                    forms.push(form);
                }
            }
        }
        forms.sort_by_key(|form| std::cmp::Reverse(form.text.len()));
        Self { forms }
    }

    /// A text that may stand in a reason or a log.
    pub fn hide(&self, text: String) -> String {
        self.forms
            .iter()
            .fold(text, |text, form| match text.contains(&form.text) {
                true => text.replace(&form.text, HIDDEN),
                false => text,
            })
    }

    /// JSON that may be kept as a result: its strings without secrets, all else digit for digit. What is no JSON is left
    /// as it is, since nothing is kept of it.
    pub fn hide_in_json<'a>(&self, json: &'a str) -> Cow<'a, str> {
        let mut kept = String::new();
        // Up to here it stands in `kept` already.
        let mut copied = 0;
        let mut at = 0;
        while let Some(start) = json[at..].find('"').map(|found| at + found) {
            let Some(length) = literal_length(&json[start..]) else {
                break;
            };
            let end = start + length;
            if let Ok(text) = serde_json::from_str::<String>(&json[start..end])
                && let Some(hidden) = self.hide_in_result(&text)
            {
                kept.push_str(&json[copied..start]);
                kept.push_str(&serde_json::Value::from(hidden).to_string());
                copied = end;
            }
            at = end;
        }
        if copied == 0 {
            return Cow::Borrowed(json);
        }
        kept.push_str(&json[copied..]);
        Cow::Owned(kept)
    }

    /// `None` if there is nothing to hide.
    fn hide_in_result(&self, text: &str) -> Option<String> {
        let mut hidden = Cow::Borrowed(text);
        for form in self.forms.iter().filter(|form| form.in_results) {
            if hidden.contains(&form.text) {
                hidden = Cow::Owned(hidden.replace(&form.text, HIDDEN));
            }
        }
        match hidden {
            Cow::Borrowed(_) => None,
            Cow::Owned(hidden) => Some(hidden),
        }
    }
}

/// A secret as it is and as it is written into JSON, a URL, a form and a login.
fn travelling(secret: String) -> [String; 5] {
    let quoted = serde_json::Value::from(secret.as_str()).to_string();
    let in_login = STANDARD.encode(&secret);
    let escaped = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let escaped = escaped.unwrap_or(&quoted).to_owned();
    let in_url = utf8_percent_encode(&secret, NON_ALPHANUMERIC).to_string();
    let in_form = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    [secret, escaped, in_url, in_form, in_login]
}

/// The length of the string literal that a text begins with, its quotes included.
fn literal_length(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (index, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(index + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(all: &[&str]) -> Secrets {
        Secrets::new(all.iter().map(|&secret| secret.to_owned()))
    }

    #[test]
    fn a_secret_is_found_in_every_form_in_which_it_travels() {
        let secrets = secrets(&["pass\"word/+ 1", ""]);
        for quoted in [
            "it was pass\"word/+ 1, no",
            r#"{"was":"pass\"word/+ 1"}"#,
            "?was=pass%22word%2F%2B%201",
            "was=pass%22word%2F%2B+1",
            "Basic cGFzcyJ3b3JkLysgMQ==",
        ] {
            let hidden = secrets.hide(quoted.to_owned());
            assert!(
                hidden.contains("***") && !hidden.contains("word") && !hidden.contains("cGFz"),
                "{hidden}"
            );
        }
        assert_eq!(secrets.hide("nothing of it".to_owned()), "nothing of it");
    }

    #[test]
    fn one_that_contains_another_is_hidden_whole() {
        let secrets = secrets(&["alpha-beta", "alpha-beta-gamma"]);
        assert_eq!(secrets.hide("alpha-beta-gamma alpha-beta".to_owned()), "*** ***");
    }

    #[test]
    fn a_result_loses_its_secrets_and_nothing_else() {
        let secrets = secrets(&["s3cret-s3cret", "12345678", "shop", "quo\"ted-secret"]);
        let json = r#"{ "id": "shop-1", "amount": 12345678, "n":1.10, "s3cret-s3cret": ["Bearer s3cret-s3cret", "\\\""],
 "u": "\u0073\u0033cret-s3cret", "q": "quo\"ted-secret" }"#;
        assert_eq!(
            secrets.hide_in_json(json),
            r#"{ "id": "shop-1", "amount": 12345678, "n":1.10, "***": ["Bearer ***", "\\\""],
 "u": "***", "q": "***" }"#
        );
        let clean = r#"{"id":"shop-1","open":"never closed"#;
        assert!(matches!(secrets.hide_in_json(clean), Cow::Borrowed(same) if same == clean));
    }
}
