//! Expressions, templates, amounts, tokens and patches that nobody would write. Nothing panics, takes long or takes much
//! memory; no value leaves its place in a URL; what is accepted reads back as the same.
//!
//! `PROPTEST_CASES` sets how many are tried; `cargo xtask fuzz --minutes N` tries fresh ones for so long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::time::{Duration, Instant};

use comanda_model::expression::Expression;
use comanda_model::json::merge_patch;
use comanda_model::money::amount;
use comanda_model::template::Template;
use comanda_model::template::from_json;
use comanda_model::{Json, Token, TypeHash};
use proptest::prelude::*;
use serde_json::{Value, json};

/// No text of a few hundred bytes may take longer, on a slow machine that does other things too.
const LONG: Duration = Duration::from_secs(5);

/// What templates are made of.
const WORDS: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "|",
    ".",
    ",",
    ":",
    "+",
    "-",
    "*",
    "**",
    "/",
    "//",
    "%",
    "~",
    "==",
    "<",
    " and ",
    " or ",
    " not ",
    " in ",
    " is ",
    " if ",
    " else ",
    " for i in ",
    "endfor",
    "endif",
    " set x = ",
    "data",
    "data.text",
    "data.list",
    "data.n",
    "data.deep",
    "data['text']",
    "steps.a",
    "env.HOST",
    "id",
    "x",
    "i",
    "1",
    "0",
    "-1",
    "1.5",
    "1e308",
    "99999999999999999999",
    "'a'",
    "\"b\"",
    "range(9)",
    "range(100000)",
    "none",
    "true",
    "|length",
    "|upper",
    "|tojson",
    "|default('x')",
    "|urlencode",
    "|round(2)",
    "|int",
    "|float",
    "|replace('a', data.text)",
    "|join(data.text)",
    "|indent(99999999)",
    "|batch(1)",
    "|slice(9)",
    "|sort",
    "|reverse",
    "|list",
    "|abs",
    "|first",
    "|map('upper')",
    " is defined",
    "loop.index",
    "\\",
    "\n",
    "é",
    "\u{0}",
    " ",
    "data.text * 99999999999",
    "data.list * 99999999",
    "9 ** 999999",
    "range(99999999999)",
    "lipsum(9)",
];

fn context() -> minijinja::value::Value {
    from_json(&json!({
        "data": {"text": "a/b?c=d#e&f%2F é", "list": [1, 2, "x"], "n": 7, "deep": {"a": {"b": [null]}}},
        "steps": {"a": {"total": "1.10"}}, "id": "0190", "env": {"HOST": "example.com"},
    }))
}

fn within<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = run();
    assert!(begun.elapsed() < LONG, "{what} took {:?}", begun.elapsed());
    answer
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(WORDS), 0..14).prop_map(|words| words.concat())
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[0-9]{1,20}\\.[0-9]{1,20}".prop_filter_map("a number", |text| serde_json::from_str(&text).ok()),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-c~/]{0,2}", inner), 0..5).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    // A failure is reproduced by the case that it prints; no file is left behind.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn expressions(text in text()) {
        within(&text, || {
            let Ok(expression) = Expression::compile(&text) else { return };
            assert_eq!(expression.text(), text);
            expression.names();
            if let Err(error) = expression.holds(&context()) {
                assert!(!error.message.is_empty());
            }
        });
    }

    #[test]
    fn templates(text in text()) {
        within(&text, || {
            let template = match Template::compile(&text) {
                Ok(template) => template,
                Err(error) => {
                    assert!(!error.message.is_empty());
                    assert!(error.range.is_none_or(|range| range.end <= text.len()));
                    return;
                }
            };
            assert_eq!(template.text(), text);
            template.names();
            template.names_in_authority();
            for rendered in [template.render(&context()), template.render_url(&context())].into_iter().flatten() {
                assert!(rendered.len() < 64 << 20, "{} bytes", rendered.len());
            }
            let _ = template.render_json(&context());
        });
    }

    /// Whatever an order's data says, it fills its segment and its parameter, and no more.
    #[test]
    fn urls(segment in "\\PC{1,12}", parameter in "\\PC{0,12}") {
        let template = Template::compile("http://{{ env.HOST }}/a/{{ data.s }}/b?c={{ data.p }}").unwrap();
        let context = from_json(&json!({"env": {"HOST": "example.com"}, "data": {"s": segment, "p": parameter}}));
        let empty_or_dots = |text: &str| text.bytes().all(|byte| byte == b'.');
        let rendered = match template.render_url(&context) {
            Ok(rendered) => rendered,
            Err(error) => {
                prop_assert!(empty_or_dots(&segment) || empty_or_dots(&parameter), "{}", error);
                return Ok(());
            }
        };
        let (path, query) = rendered.split_once('?').unwrap();
        prop_assert_eq!(path.matches('/').count(), 5, "{}", rendered);
        prop_assert!(query.starts_with("c=") && !query[2..].contains(['&', '#', '?', '=', ' ']), "{}", rendered);
        prop_assert!(!rendered.contains('#'));
        prop_assert!(!rendered.split(['/', '?']).any(|part| part == ".." || part == "."), "{}", rendered);
    }

    /// What is an amount is written as digits, and is the same amount when it is read again.
    #[test]
    fn amounts(text in prop_oneof!["[-+]?[0-9_.]{0,33}", "[0-9]{1,29}[eE][-+]?[0-9]{1,12}", "\\PC{0,6}"]) {
        let as_text = amount(&Value::from(text.clone()));
        if let Ok(read) = as_text {
            let plain = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
            prop_assert!(text.bytes().all(plain), "`{}` is no amount, and was read as {}", text, read);
            prop_assert_eq!(amount(&Value::from(read.to_string())).unwrap(), read);
        }
        if let Ok(number) = serde_json::from_str::<Value>(&text) && number.is_number() {
            prop_assert_eq!(amount(&number), as_text);
        }
    }

    #[test]
    fn tokens(text in prop_oneof!["[0-9a-f]{32}\\.[0-9a-f]{1,9}\\.[0-9a-f]{1,9}\\.[0-9a-f]{32}", "\\PC{0,40}", "[0-9a-f.-]{0,90}"]) {
        if let Ok(token) = text.parse::<Token>() {
            prop_assert_eq!(token.expose(), text.clone());
            prop_assert!(!format!("{token:?}").contains(&text[text.len() - 32..]), "a secret is shown");
        }
    }

    #[test]
    fn hashes(text in prop_oneof!["sha256:[0-9a-fA-F+]{64}", "sha256:\\PC{0,64}", "\\PC{0,10}"]) {
        if let Ok(hash) = text.parse::<TypeHash>() {
            prop_assert_eq!(hash.to_string(), text.to_lowercase());
        }
    }

    /// JSON keeps its text, and a merge patch does what RFC 7396 says: a second time it changes nothing.
    #[test]
    fn json_and_patches(target in json_value(), patch in json_value()) {
        let kept = Json::from(&target);
        prop_assert_eq!(&Json::parse(kept.as_str()).unwrap(), &kept);
        prop_assert_eq!(kept.value().unwrap(), target.clone());
        let mut once = target;
        merge_patch(&mut once, &patch);
        let mut twice = once.clone();
        merge_patch(&mut twice, &patch);
        prop_assert_eq!(twice, once);
    }
}

/// Found by making hashes up: each pair of digits was read as a number, which can have a sign.
#[test]
fn a_hash_has_digits_only() {
    assert!(format!("sha256:+1{}", "0".repeat(62)).parse::<TypeHash>().is_err());
}
