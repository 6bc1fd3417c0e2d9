//! What is said of a broken file: everything at once, each with its place and how to mend it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::collections::BTreeSet;

use comanda_order_type::{Bundle, Known, Read, Severity, read, render, shipped};
use proptest::prelude::*;

const BROKEN: &str = include_str!("broken/repair.toml");
const BROKEN_SCHEMA: &str = include_str!("broken/repair.schema.json");

fn bundle(text: &str) -> Bundle {
    Bundle {
        path: "test.toml".to_owned(),
        text: text.to_owned(),
        schema: None,
    }
}

fn check(text: &str) -> Read {
    read(&bundle(text), &Known::default())
}

fn codes(text: &str) -> Vec<&'static str> {
    check(text)
        .diagnostics
        .iter()
        .map(|diagnostic| diagnostic.code)
        .collect()
}

#[test]
fn a_batch_is_taken_where_it_has_a_meaning() {
    for (from, to) in [
        (
            "\"GET {{ env.URL }}/{{ data.x }}\"",
            "\"POST {{ env.URL }}/\"\nbatch = 10",
        ),
        ("use = \"noop\"", "use = \"noop\"\nbatch = 10"),
        ("use = \"noop\"", "use = \"approval\"\nbatch = 1"),
    ] {
        let codes = broken(from, to);
        assert!(codes.iter().all(|code| !code.contains("batch")), "{to}: {codes:?}");
    }
}

/// A sound type to break.
const SOUND: &str = r#"name = "sound"
initial = "A"
refused = "C"
[schema]
type = "object"
properties.x = { type = "string" }
[statuses.A]
steps = ["one", "two"]
next = "B"
[statuses.B]
to = ["C"]
[statuses.C]
final = true
[steps.one]
http = "GET {{ env.URL }}/{{ data.x }}"
[steps.two]
use = "noop"
"#;

fn broken(from: &str, to: &str) -> Vec<&'static str> {
    assert!(SOUND.contains(from), "{from}");
    let known = Known {
        env: BTreeSet::from(["URL".to_owned()]),
        archives: Some(BTreeSet::from(["failures".to_owned()])),
        ..Known::default()
    };
    let bundle = bundle(&SOUND.replacen(from, to, 1));
    read(&bundle, &known)
        .diagnostics
        .iter()
        .map(|diagnostic| diagnostic.code)
        .collect()
}

#[test]
fn everything_is_said_at_once() {
    let bundle = Bundle {
        path: "order-types/repair.toml".to_owned(),
        text: BROKEN.to_owned(),
        schema: Some(("order-types/repair.schema.json".to_owned(), BROKEN_SCHEMA.to_owned())),
    };
    let read = read(&bundle, &Known::default());
    assert!(read.definition.is_none());
    let rendered = render(&read.diagnostics, &bundle, false);
    assert_eq!(rendered, include_str!("broken/repair.txt"), "\n{rendered}");
}

#[test]
fn a_sound_type_has_nothing_to_say() {
    assert_eq!(broken("name", "name"), Vec::<&str>::new());
}

#[test]
fn each_mistake_has_its_code() {
    for (from, to, code) in [
        ("name = \"sound\"\n", "", "type/missing-key"),
        ("\"sound\"", "\"Sound\"", "type/bad-name"),
        ("\"sound\"", "\"docs\"", "type/bad-name"),
        ("\"sound\"", "7", "type/wrong-kind"),
        ("initial = \"A\"", "initial = \"AA\"", "type/unknown-status"),
        (
            "initial = \"A\"",
            "initial = \"A\"\nlanguage = \"de\"",
            "type/unknown-language",
        ),
        ("initial = \"A\"", "initial = \"A\"\ncolour = 1", "type/unknown-key"),
        (
            "initial = \"A\"",
            "initial = \"A\"\nnotify = [\"x\"]",
            "type/wrong-kind",
        ),
        ("initial = \"A\"", "initial = { from = \"/a/b\" }", "type/bad-pointer"),
        (
            "initial = \"A\"",
            "initial = \"A\"\ncustomer = \"x\"",
            "type/bad-pointer",
        ),
        (
            "initial = \"A\"",
            "initial = \"A\"\ncustomer = \"/y\"",
            "type/unknown-field",
        ),
        (
            "initial = \"A\"",
            "initial = \"A\"\nfifo = { key = \"*\", scope = \"live\" }",
            "type/unknown-value",
        ),
        ("initial = \"A\"", "initial = \"A", "type/syntax"),
        ("type = \"object\"", "type = \"objekt\"", "type/bad-schema"),
        (
            "properties.x = { type = \"string\" }",
            "properties.x = { format = \"emial\" }",
            "type/unknown-format",
        ),
        (
            "type = \"object\"",
            "type = \"object\"\nexamples = [{ x = 1 }]",
            "type/invalid-example",
        ),
        ("[\"one\", \"two\"]", "[\"one\", \"too\"]", "type/unknown-step"),
        ("[\"one\", \"two\"]", "[\"one\", \"one\"]", "type/repeated-step"),
        ("[\"one\", \"two\"]", "[\"one\"]", "type/unused-step"),
        ("next = \"B\"", "next = []", "type/no-last-branch"),
        (
            "next = \"B\"",
            "next = [{ when = \"data.x\", to = \"B\" }]",
            "type/no-last-branch",
        ),
        (
            "next = \"B\"",
            "next = [{ to = \"B\" }, { to = \"C\" }]",
            "type/unreachable-branch",
        ),
        (
            "next = \"B\"",
            "next = [{ when = \"data.x ==\", to = \"B\" }, { to = \"C\" }]",
            "type/bad-template",
        ),
        (
            "next = \"B\"",
            "next = [{ when = \"env.X\", to = \"B\" }, { to = \"C\" }]",
            "type/unknown-name",
        ),
        (
            "next = \"B\"",
            "next = [{ when = \"dada.x\", to = \"B\" }, { to = \"C\" }]",
            "type/unknown-name",
        ),
        (
            "next = \"B\"",
            "next = [{ when = \"data.y\", to = \"B\" }, { to = \"C\" }]",
            "type/unknown-field",
        ),
        ("next = \"B\"", "next = \"A\"", "type/unreachable-status"),
        (
            "next = \"B\"",
            "next = \"B\"\ndeadline = { after = \"10\", to = \"C\" }",
            "type/bad-duration",
        ),
        ("next = \"B\"", "next = \"B\"\nnotify = [\"x\"]", "type/unknown-value"),
        (
            "next = \"B\"",
            "next = \"B\"\nnotify = [\"customer\"]",
            "type/no-notify-address",
        ),
        (
            "[statuses.A]",
            "[notify]\nemail = \"/x\"\n[statuses.A]",
            "type/unused-notify",
        ),
        (
            "[statuses.A]",
            "[notify]\nlanguage = \"/x\"\n[statuses.A]\nnotify = [\"customer\"]",
            "type/missing-key",
        ),
        (
            "[statuses.A]",
            "[notify]\nemail = \"/mail\"\n[statuses.A]\nnotify = [\"customer\"]",
            "type/unknown-field",
        ),
        (
            "next = \"B\"",
            "next = \"B\"\nqueue = \"Open Repairs\"",
            "type/bad-name",
        ),
        (
            "next = \"B\"",
            "next = \"B\"\nqueue = { name = \"q\", tries = 3 }",
            "type/unknown-key",
        ),
        ("to = [\"C\"]", "", "type/stuck"),
        ("to = [\"C\"]", "next = \"B\"", "type/endless"),
        ("final = true", "to = [\"B\"]", "type/no-way-to-final"),
        ("final = true", "final = true\nto = [\"A\"]", "type/final-with-way-out"),
        (
            "final = true",
            "final = true\naliases = [\"A\"]",
            "type/ambiguous-status",
        ),
        ("final = true", "final = true\nrequire = [\"/y\"]", "type/unknown-field"),
        ("\"GET {{", "\"FETCH {{", "type/bad-call"),
        ("\"GET {{ env.URL }}/", "\"GET ftp://x/", "type/bad-call"),
        (
            "{{ env.URL }}",
            "https://{{ data.x }}/{{ secret.s }}",
            "type/foreign-host",
        ),
        ("{{ env.URL }}", "{{ env.URI }}", "type/missing-env"),
        ("{{ env.URL }}", "{{ env.URL }}{{ secret.s }}", "type/missing-secret"),
        ("{{ data.x }}\"", "{{ data.x }\"", "type/bad-template"),
        ("{{ data.x }}\"", "{{ steps.two.y }}\"", "type/step-not-run"),
        ("{{ data.x }}\"", "{{ steps.tow.y }}\"", "type/unknown-step"),
        ("{{ data.x }}\"", "\"\nheaders = { Host = \"x\" }", "type/bad-header"),
        ("{{ data.x }}\"", "\"\ntimeout = \"2h\"", "type/bad-duration"),
        ("{{ data.x }}\"", "\"\nretry = { attempts = 0 }", "type/wrong-kind"),
        (
            "{{ data.x }}\"",
            "\"\nretry = { first = \"5s\", max = \"1s\" }",
            "type/bad-duration",
        ),
        (
            "{{ data.x }}\"",
            "\"\nexhausted = { notify = [\"customer\"] }",
            "type/no-notify-address",
        ),
        ("{{ data.x }}\"", "\"\nexhausted = {}", "type/missing-key"),
        (
            "{{ data.x }}\"",
            "\"\nexhausted = { archive = \"X y\" }",
            "type/bad-name",
        ),
        (
            "{{ data.x }}\"",
            "\"\nexhausted = { archive = \"failure\" }",
            "type/missing-archive",
        ),
        (
            "{{ data.x }}\"",
            "\"\nunknown = { http = \"GET http://{{ data.x }}/\", headers = { A = \"{{ secret.s }}\" } }",
            "type/foreign-host",
        ),
        ("{{ data.x }}\"", "\"\nunknown = {}", "type/missing-key"),
        ("{{ data.x }}\"", "\"\ncallback = {}", "type/missing-key"),
        ("{{ data.x }}\"", "\"\nsign = \"{{ data.x }}\"", "type/foreign-setting"),
        (
            "{{ data.x }}\"",
            "\"\nauth = { token_url = \"http://x/\", client_id = \"a\" }",
            "type/missing-key",
        ),
        ("{{ data.x }}\"", "\"\ntimeout_total = \"1s\"", "type/bad-duration"),
        ("{{ data.x }}\"", "\"\nundo = { use = \"approval\" }", "type/bad-undo"),
        ("{{ data.x }}\"", "\"\nuse = \"noop\"", "type/two-actions"),
        ("use = \"noop\"", "use = \"inventory.reserve\"", "type/missing-key"),
        ("use = \"noop\"", "use = \"inventory.reserv\"", "type/unknown-use"),
        ("use = \"noop\"", "use = \"noob\"", "type/unknown-use"),
        ("use = \"noop\"", "queue = \"q\"\nbody = 1", "type/unknown-key"),
        ("use = \"noop\"", "use = \"noop\"\nqueue = \"q\"", "type/two-actions"),
        ("use = \"noop\"", "", "type/no-action"),
        ("use = \"noop\"", "use = \"wait\"", "type/missing-key"),
        (
            "use = \"noop\"",
            "use = \"wait\"\nwith = { until = \"/y\" }",
            "type/unknown-field",
        ),
        ("use = \"noop\"", "use = \"noop\"\nbatch = 1001", "type/wrong-kind"),
        ("{{ data.x }}\"", "{{ data.x }}\"\nbatch = 10", "type/bad-batch"),
        ("use = \"noop\"", "use = \"approval\"\nbatch = 10", "type/idle-batch"),
        ("use = \"noop\"", "queue = \"picking\"\nbatch = 10", "type/idle-batch"),
        ("[steps.one]\nhttp = \"GET", "[steps.one]\nhttp = \"POST", ""),
        (
            "[statuses.A]",
            "[wire]\norder = { a = \"@idd\" }\n[statuses.A]",
            "type/unknown-property",
        ),
        (
            "[statuses.A]",
            "[wire]\norder = { a = \"id\" }\n[statuses.A]",
            "type/bad-wire-value",
        ),
        (
            "[statuses.A]",
            "[wire]\norder = { a = \"@key\" }\n[statuses.A]",
            "type/no-key",
        ),
        (
            "[statuses.A]",
            "[wire]\norder = { a = \"/y\" }\n[statuses.A]",
            "type/unknown-field",
        ),
        (
            "[statuses.A]",
            "[wire]\ncors = [\"shop.example\"]\n[statuses.A]",
            "type/bad-origin",
        ),
        (
            "[statuses.A]",
            "[wire]\ndates = { \"/x\" = [\"%d/%m\"] }\n[statuses.A]",
            "type/bad-format",
        ),
        (
            "[statuses.A]",
            "[wire]\nerror = { status = 200 }\n[statuses.A]",
            "type/wrong-kind",
        ),
        (
            "[schema]\ntype = \"object\"\nproperties.x = { type = \"string\" }\n",
            "",
            "type/no-schema",
        ),
        (
            "[schema]\ntype = \"object\"\nproperties.x = { type = \"string\" }\n",
            "schema = \"s.json\"\n",
            "type/no-schema-file",
        ),
    ] {
        let found = broken(from, to);
        if code.is_empty() {
            assert_eq!(found, Vec::<&str>::new(), "{to}");
        } else {
            assert!(found.contains(&code), "{to}: {found:?} lacks {code}");
        }
    }
}

#[test]
fn an_effect_without_undo_before_a_refusal_is_told() {
    let text = SOUND
        .replace("use = \"noop\"", "http = \"POST http://x/\"")
        .replace("http = \"GET {{ env.URL }}/{{ data.x }}\"", "http = \"POST http://y/\"");
    let read = check(&text);
    assert_eq!(codes(&text), ["type/no-undo"]);
    assert_eq!(read.diagnostics[0].severity, Severity::Warning);
    assert!(read.definition.is_some());
    let mended = text.replace(
        "http = \"POST http://y/\"",
        "http = \"POST http://y/\"\nundo = { http = \"DELETE http://y/{{ steps.one.id }}\" }",
    );
    assert_eq!(codes(&mended), Vec::<&str>::new());
    assert_eq!(
        check(&mended).definition.unwrap().order_type.steps["one"]
            .undo
            .as_ref()
            .unwrap()
            .retry
            .attempts,
        10
    );
}

/// A shop whose stock and money go the whole way, to break.
const SHOP: &str = r#"name = "shop"
initial = "A"
refused = "C"
[schema]
type = "object"
properties.lines = { type = "array" }
[statuses.A]
steps = ["hold", "pay", "ship", "take"]
next = "B"
[statuses.B]
final = true
[statuses.C]
final = true
undo = true
[steps.hold]
use = "inventory.reserve"
with = { lines = "{{ data.lines }}" }
undo = { use = "inventory.release" }
[steps.pay]
use = "payments.authorize"
with = { amount = "{{ steps.hold.total }}", currency = "{{ steps.hold.currency }}" }
undo = { use = "payments.void" }
[steps.ship]
use = "inventory.ship"
undo = { use = "inventory.release" }
[steps.take]
use = "payments.capture"
undo = { use = "payments.refund" }
"#;

#[test]
fn stock_and_money_that_are_left_standing_are_told() {
    assert_eq!(codes(SHOP), Vec::<&str>::new());
    let without_ship = SHOP.replace("\"ship\", ", "").replace(
        "[steps.ship]\nuse = \"inventory.ship\"\nundo = { use = \"inventory.release\" }\n",
        "",
    );
    assert_eq!(codes(&without_ship), ["type/reserve-left"]);
    let without_capture = SHOP.replace(", \"take\"", "").replace(
        "[steps.take]\nuse = \"payments.capture\"\nundo = { use = \"payments.refund\" }\n",
        "",
    );
    // Who captures elsewhere gives up what is refused.
    assert_eq!(codes(&without_capture), Vec::<&str>::new());
    let without_void = without_capture.replace("undo = { use = \"payments.void\" }\n", "");
    assert_eq!(codes(&without_void), ["type/no-undo", "type/authorize-left"]);
    let too_early = SHOP.replace("\"pay\", \"ship\", \"take\"", "\"take\", \"pay\", \"ship\"");
    assert_eq!(codes(&too_early), ["type/no-payment"]);
    let told = check(&too_early);
    let said = render(&told.diagnostics, &bundle(&too_early), false);
    assert!(
        said.contains("[steps.take]") && said.contains("^") && said.contains("payments.authorize"),
        "{said}"
    );
    let named = too_early.replace(
        "payments.capture\"",
        "payments.capture\"\nwith = { payment = \"{{ id }}\" }",
    );
    assert_eq!(codes(&named), Vec::<&str>::new());
}

#[test]
fn what_is_missing_in_the_environment_is_an_error_only_where_it_is_needed() {
    let lenient = check(SOUND);
    assert_eq!(lenient.diagnostics[0].severity, Severity::Warning);
    assert!(lenient.definition.is_some());
    let strict = read(
        &bundle(SOUND),
        &Known {
            missing_is_error: true,
            ..Known::default()
        },
    );
    assert!(strict.definition.is_none());
}

#[test]
fn every_code_is_documented() {
    let page = include_str!("../../../docs/order-types.md");
    let mut codes = BTreeSet::new();
    for source in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
        .unwrap()
        .chain(std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/file")).unwrap())
        .chain(std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/wire")).unwrap())
    {
        let path = source.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            codes.extend(
                text.split('"')
                    .filter(|part| part.starts_with("type/") && part.len() < 40)
                    .map(str::to_owned),
            );
        }
    }
    assert!(codes.len() > 30);
    for code in codes {
        assert!(
            page.contains(&format!("| `{code}` |")),
            "{code} is not in docs/order-types.md"
        );
    }
}

proptest! {
    // A failure is reproduced by the case that it prints; no file is left behind.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reading_never_panics(text in any::<String>()) {
        let bundle = bundle(&text);
        let read = read(&bundle, &Known::default());
        render(&read.diagnostics, &bundle, true);
    }

    /// Mutations of real files get much deeper than arbitrary text.
    #[test]
    fn reading_a_mangled_file_never_panics(which in 0usize..6, at in any::<prop::sample::Index>(), length in 0usize..12, with in "[\\PC\n]{0,6}") {
        let mut bundles = shipped();
        bundles.push(Bundle {
            path: "repair.toml".to_owned(),
            text: BROKEN.to_owned(),
            schema: Some(("repair.schema.json".to_owned(), BROKEN_SCHEMA.to_owned())),
        });
        let mut bundle = bundles.swap_remove(which);
        let mangle = |text: &mut String| {
            let start = text.floor_char_boundary(at.index(text.len()));
            let end = text.ceil_char_boundary((start + length).min(text.len()));
            text.replace_range(start..end, &with);
        };
        mangle(&mut bundle.text);
        let read_it = |bundle: &Bundle| {
            let read = read(bundle, &Known::default());
            render(&read.diagnostics, bundle, false);
            if let Some(definition) = read.definition {
                definition.mermaid();
                definition.wire_sample();
            }
        };
        read_it(&bundle);
        if let Some((_, text)) = &mut bundle.schema {
            mangle(text);
        }
        read_it(&bundle);
    }
}

#[test]
fn the_first_type_of_the_page_is_sound() {
    let page = include_str!("../../../docs/order-types.md");
    let (_, after) = page.split_once("## A first type\n\n```toml\n").unwrap();
    let (text, _) = after.split_once("```").unwrap();
    let known = Known {
        env: BTreeSet::from(["PAYMENTS_URL".to_owned()]),
        secrets: BTreeSet::from(["payments".to_owned()]),
        missing_is_error: true,
        ..Known::default()
    };
    let read = read(&bundle(text), &known);
    assert_eq!(read.diagnostics, []);
    assert_eq!(
        read.definition.unwrap().mermaid(),
        concat!(
            "stateDiagram-v2\n",
            "    state \"RECEIVED (charge)\" as s0\n",
            "    state \"DONE\" as s1\n",
            "    state \"REFUSED\" as s2\n",
            "    [*] --> s0\n",
            "    s0 --> s1\n",
            "    s0 --> s2 : refused\n",
            "    s1 --> [*]\n",
            "    s2 --> [*]\n",
        )
    );
}
