//! Order-type files and bodies that nobody would write: the shipped ones, torn apart and put together again, and schemas
//! that refer to themselves. Nothing panics, nothing takes long, each fault has its code and place, and what a type has
//! taken in it gives back.
//!
//! `PROPTEST_CASES` sets how many are tried; `cargo xtask fuzz --minutes N` tries fresh ones for so long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use comanda_model::Json;
use comanda_order_type::{Bundle, Definition, Known, OrderFacts, WireError, read, render, shipped};
use proptest::prelude::*;
use serde_json::{Value, json};

/// No text of a few kilobytes may take longer, on a slow machine that does other things too.
const LONG: Duration = Duration::from_secs(5);

/// What files are made of, for splicing in.
const WORDS: &[&str] = &[
    "[[",
    "]]",
    "{{",
    "}}",
    "{%",
    "%}",
    "\"\"\"",
    "'''",
    "\"",
    "'",
    "=",
    ".",
    ",",
    "\n",
    "#",
    "\\u{0}",
    "\u{0}",
    "\u{feff}",
    "\u{202e}",
    "é",
    "𝄞",
    "-1",
    "0",
    "1e999",
    "99999999999999999999999",
    "0.1",
    "nan",
    "inf",
    "true",
    "9999-12-31",
    "\"\"",
    "\"/\"",
    "\"//~1~0~\"",
    "\"/a/b\"",
    "\"@id\"",
    "\"{{ data.a }}\"",
    "\"{{ steps.x.y }}\"",
    "\"{% for a in b %}\"",
    "\"1d\"",
    "\"99999999999d\"",
    "[statuses.X]\n",
    "[steps.x]\n",
    "[schema]\n",
    "[wire]\n",
    "steps = [\"x\"]\n",
    "next = \"X\"\n",
    "undo = true\n",
    "use = \"noop\"\n",
    "http = \"GET http://x/{{ data.a }}\"\n",
    "queue = \"q\"\n",
    "final = true\n",
    "fifo = { key = \"*\" }\n",
    "require = [\"/a\"]\n",
    "order = { \"...\" = \"/\" }\n",
    "deadline = { after = \"1d\", to = \"X\" }\n",
    "callback = { within = \"1h\" }\n",
];

static CORPUS: LazyLock<Vec<Bundle>> = LazyLock::new(|| {
    let mut bundles = shipped();
    bundles.push(Bundle {
        path: "repair.toml".to_owned(),
        text: include_str!("broken/repair.toml").to_owned(),
        schema: Some((
            "repair.schema.json".to_owned(),
            include_str!("broken/repair.schema.json").to_owned(),
        )),
    });
    bundles
});

static TYPES: LazyLock<Vec<Definition>> = LazyLock::new(|| {
    let known = Known::default();
    shipped()
        .iter()
        .map(|bundle| read(bundle, &known).definition.unwrap())
        .collect()
});

/// One change of a text.
#[derive(Clone, Debug)]
enum Cut {
    Delete(prop::sample::Index, usize),
    Put(prop::sample::Index, &'static str),
    Repeat(prop::sample::Index, usize, usize),
    Move(prop::sample::Index, prop::sample::Index, usize),
    /// A piece of another text.
    Splice(prop::sample::Index, prop::sample::Index, usize),
}

fn cut() -> impl Strategy<Value = Cut> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), 0usize..40).prop_map(|(at, length)| Cut::Delete(at, length)),
        (index(), prop::sample::select(WORDS)).prop_map(|(at, word)| Cut::Put(at, word)),
        (index(), 1usize..40, 2usize..60).prop_map(|(at, length, times)| Cut::Repeat(at, length, times)),
        (index(), index(), 1usize..200).prop_map(|(from, to, length)| Cut::Move(from, to, length)),
        (index(), index(), 1usize..200).prop_map(|(from, to, length)| Cut::Splice(from, to, length)),
    ]
}

fn apply(text: &mut String, cut: &Cut, other: &str) {
    fn place(text: &str, at: &prop::sample::Index) -> usize {
        text.floor_char_boundary(at.index(text.len() + 1))
    }
    fn piece(text: &str, start: usize, length: usize) -> std::ops::Range<usize> {
        start..text.ceil_char_boundary((start + length).min(text.len()))
    }
    match cut {
        Cut::Delete(at, length) => {
            let start = place(text, at);
            text.replace_range(piece(text, start, *length), "");
        }
        Cut::Put(at, word) => text.insert_str(place(text, at), word),
        Cut::Repeat(at, length, times) => {
            let start = place(text, at);
            let repeated = text[piece(text, start, *length)].repeat(*times);
            text.insert_str(start, &repeated);
        }
        Cut::Move(from, to, length) => {
            let start = place(text, from);
            let range = piece(text, start, *length);
            let moved = text[range.clone()].to_owned();
            text.replace_range(range, "");
            text.insert_str(place(text, to), &moved);
        }
        Cut::Splice(from, to, length) => {
            let start = place(other, from);
            text.insert_str(place(text, to), &other[piece(other, start, *length)]);
        }
    }
}

/// A schema of which each part can refer to every other.
fn schema() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(&["a", "b", "c"][..]);
    let leaf = prop_oneof![
        names.prop_map(|name| json!({"$ref": format!("#/$defs/{name}")})),
        Just(json!({"$ref": "#"})),
        Just(json!(true)),
        Just(json!({"type": "number", "format": "money", "minimum": 0})),
        Just(json!({"type": "string", "minLength": 100_000, "maxLength": 3})),
        Just(json!({"type": "string", "pattern": "^(a+)+$"})),
        Just(json!({"type": "integer", "minimum": 1e30, "maximum": -1, "multipleOf": 0.1})),
        Just(json!({"enum": [1, "a", null]})),
    ];
    let part = leaf.prop_recursive(4, 24, 4, |inner| {
        let members = prop::collection::btree_map("[a-c~/]{1,2}", inner.clone(), 0..4);
        prop_oneof![
            (inner.clone(), 0u64..2000)
                .prop_map(|(items, least)| json!({"type": "array", "items": items, "minItems": least})),
            members.prop_map(|members| json!({"type": "object", "properties": members})),
            prop::collection::vec(inner, 1..3).prop_map(|branches| json!({"allOf": branches})),
        ]
    });
    (part.clone(), part.clone(), part.clone(), part).prop_map(|(a, b, c, mut root)| {
        if let Some(members) = root.as_object_mut() {
            members.insert("$defs".to_owned(), json!({"a": a, "b": b, "c": c}));
        }
        root
    })
}

/// JSON of all kinds, with the members that the shipped types know.
fn body() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        "-?[0-9]{1,30}(\\.[0-9]{1,30})?",
        "[1-9][0-9]{0,2}[eE][+-]?[0-9]{1,6}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number.prop_filter_map("a number", |text| serde_json::from_str(&text).ok()),
        "\\PC{0,12}".prop_map(Value::from),
        "[0-3]?[0-9][/-][01]?[0-9][/-][0-9]{1,5}".prop_map(Value::from),
        Just(json!("EUR")),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let name = prop::sample::select(
            &[
                "amount",
                "currency",
                "orderId",
                "items",
                "sku",
                "quantity",
                "price",
                "total_price",
                "estado",
                "status",
                "id",
                "fecha_entrega",
                "descripcion",
                "userId",
                "products",
                "customerId",
                "a",
                "",
                "~/",
                "\u{0}",
            ][..],
        );
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..8).prop_map(|members| members
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()),
        ]
    })
}

fn read_it(bundle: &Bundle) {
    let begun = Instant::now();
    let read = read(bundle, &Known::default());
    assert!(
        read.definition.is_some() || !read.diagnostics.is_empty(),
        "refused without a word: {bundle:?}"
    );
    for diagnostic in &read.diagnostics {
        assert!(
            diagnostic.code.contains('/') && !diagnostic.message.is_empty(),
            "{diagnostic:?}"
        );
    }
    render(&read.diagnostics, bundle, false);
    if let Some(definition) = read.definition {
        definition.mermaid();
        let sample = definition.sample();
        assert!(
            sample.to_string().len() < 1 << 20,
            "a sample of {} bytes",
            sample.to_string().len()
        );
        definition.validate(&sample);
        // What is stored is read again after a restart, and must be the same version then.
        let again = Bundle::from_source(&definition.order_type.name, &bundle.to_source()).unwrap();
        assert_eq!(again.hash(), definition.order_type.hash);
    }
    assert!(begun.elapsed() < LONG, "it took {:?}", begun.elapsed());
}

fn facts<'a>(status: &'a str, data: &'a Json) -> OrderFacts<'a> {
    OrderFacts {
        id: "01900000-0000-7000-8000-000000000001".parse().unwrap(),
        key: Some("k-1"),
        status,
        accepted_at: jiff::Timestamp::UNIX_EPOCH,
        updated_at: jiff::Timestamp::UNIX_EPOCH,
        data: data.clone(),
    }
}

fn take_in(definition: &Definition, body: &[u8]) {
    let begun = Instant::now();
    match definition.wire.read(body) {
        Ok(incoming) => {
            let faults = definition.validate(&incoming.value);
            for fault in &faults {
                assert!(fault.pointer.is_empty() || fault.pointer.starts_with('/'), "{fault:?}");
                assert!(!fault.code.is_empty() && !fault.detail.is_empty(), "{fault:?}");
            }
            let (_, told) = definition.wire.error(&WireError {
                code: "invalid-data",
                detail: "no",
                status: 422,
                faults: &faults,
                allowed: None,
            });
            serde_json::from_str::<Value>(&told).unwrap();
            // What it shows of an order can be sent back, and is the same data then.
            let shown = definition.wire.write(&facts("pending", &incoming.data));
            let again = definition.wire.read(shown.as_bytes()).unwrap();
            if incoming.value.is_object() {
                let shown_again = definition.wire.write(&facts("pending", &again.data));
                assert_eq!(shown_again, shown);
            }
        }
        Err(malformed) => {
            assert!(
                !malformed.code.is_empty() && !malformed.detail.is_empty(),
                "{malformed:?}"
            );
        }
    }
    assert!(begun.elapsed() < LONG, "it took {:?}", begun.elapsed());
}

proptest! {
    // A failure is reproduced by the case that it prints; no file is left behind.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn files_torn_apart(which in 0usize..6, other in 0usize..6, of_schema in any::<bool>(), cuts in prop::collection::vec(cut(), 1..8)) {
        let mut bundle = CORPUS[which].clone();
        for cut in &cuts {
            match &mut bundle.schema {
                Some((_, schema)) if of_schema => apply(schema, cut, &CORPUS[other].text),
                _ => apply(&mut bundle.text, cut, &CORPUS[other].text),
            }
        }
        read_it(&bundle);
    }

    #[test]
    fn schemas_that_refer_to_themselves(schema in schema()) {
        read_it(&Bundle {
            path: "made.toml".to_owned(),
            text: "name = \"made\"\ninitial = \"A\"\nschema = \"made.schema.json\"\nkey = \"/a\"\n[statuses.A]\nto = [\"B\"]\n[statuses.B]\nfinal = true\n".to_owned(),
            schema: Some(("made.schema.json".to_owned(), schema.to_string())),
        });
    }

    #[test]
    fn bodies_of_all_kinds(which in 0usize..5, body in body()) {
        take_in(&TYPES[which], body.to_string().as_bytes());
    }

    #[test]
    fn bodies_torn_apart(which in 0usize..5, cuts in prop::collection::vec(cut(), 0..5)) {
        let definition = &TYPES[which];
        let mut text = definition.wire_sample().to_string();
        for cut in &cuts {
            apply(&mut text, cut, &CORPUS[0].text);
        }
        take_in(definition, text.as_bytes());
    }

    #[test]
    fn bytes(which in 0usize..5, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        take_in(&TYPES[which], &bytes);
    }
}

#[test]
fn nesting_without_end_is_refused_and_does_not_end_the_process() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        for definition in TYPES.iter() {
            let refused = definition.wire.read(deep.as_bytes()).unwrap_err();
            assert!(
                ["malformed-json", "not-an-object"].contains(&refused.code),
                "{refused:?}"
            );
        }
    }
    for (open, close) in [("[", "]"), ("{ a = ", "}")] {
        read_it(&Bundle {
            path: "deep.toml".to_owned(),
            text: format!("name = \"deep\"\nx = {}1{}", open.repeat(20_000), close.repeat(20_000)),
            schema: None,
        });
    }
    for inner in ["(", "[", "not ", "-", "a.b if ", "{1:"] {
        let text = format!(
            "name = \"deep\"\ninitial = \"A\"\n[statuses.A]\nnext = [{{ when = \"{}\", to = \"B\" }}, {{ to = \"B\" }}]\n[statuses.B]\nfinal = true\n",
            inner.repeat(20_000)
        );
        read_it(&Bundle {
            path: "deep.toml".to_owned(),
            text,
            schema: None,
        });
    }
}

/// Found by making schemas up: an example of this had a hundred million values.
#[test]
fn a_schema_that_multiplies_at_each_depth_has_an_example() {
    let schema = json!({
        "type": "object", "properties": {"a": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"type": "array", "minItems": 10, "items": {"$ref": "#/$defs/a"}}},
    });
    read_it(&Bundle {
        path: "made.toml".to_owned(),
        text: "name = \"made\"\ninitial = \"A\"\nschema = \"made.schema.json\"\n[statuses.A]\nto = [\"B\"]\n[statuses.B]\nfinal = true\n".to_owned(),
        schema: Some(("made.schema.json".to_owned(), schema.to_string())),
    });
}
