//! The wire form of types that map more than the shipped ones do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use comanda_model::Json;
use comanda_order_type::{Bundle, Definition, Fault, Known, OrderFacts, WireError, read};
use proptest::prelude::*;

const RENAMED: &str = r#"
name = "renamed"
initial = "OPEN"
[schema]
type = "object"
properties.customer = { type = "string" }
properties.address = { properties = { city = {}, street = {} } }
[wire]
order = { cliente = "/customer", ciudad = "/address/city", kind = { text = "renamed" }, when = { from = "/at", format = "%Y" }, "..." = "/" }
error = { status = 418, body = { code = "@code", http = "@status", what = { faults = "@errors" } } }
[statuses.OPEN]
to = ["DONE"]
[statuses.DONE]
final = true
"#;

fn definition(text: &str) -> Definition {
    let bundle = Bundle {
        path: "test.toml".to_owned(),
        text: text.to_owned(),
        schema: None,
    };
    let read = read(&bundle, &Known::default());
    read.definition.unwrap_or_else(|| panic!("{:?}", read.diagnostics))
}

fn write(definition: &Definition, data: &Json) -> String {
    definition.wire.write(&OrderFacts {
        id: "01900000-0000-7000-8000-000000000001".parse().unwrap(),
        key: None,
        status: "OPEN",
        accepted_at: jiff::Timestamp::UNIX_EPOCH,
        updated_at: jiff::Timestamp::UNIX_EPOCH,
        data: data.clone(),
    })
}

fn renamed() -> Definition {
    definition(&RENAMED.replace("properties.address", "properties.at = {}\nproperties.address"))
}

#[test]
fn members_are_renamed_and_moved_without_touching_their_text() {
    let definition = renamed();
    let body = r#"{"x": 1.10, "cliente":"A \u00f1", "ciudad": "B", "kind":"x", "address": {"street": "S", "n": 1e3}}"#;
    let incoming = definition.wire.read(body.as_bytes()).unwrap();
    assert_eq!(
        incoming.data.as_str(),
        r#"{"x":1.10,"customer":"A \u00f1","address":{"city":"B","street":"S","n":1e3}}"#
    );
    assert_eq!(
        write(&definition, &incoming.data),
        r#"{"cliente":"A \u00f1","ciudad":"B","kind":"renamed","x":1.10,"address":{"city":"B","street":"S","n":1e3}}"#
    );
    let shadowed = definition
        .wire
        .read(br#"{"address":{"city":"old","street":"S"},"ciudad":"new","customer":"a","cliente":"b"}"#);
    assert_eq!(
        shadowed.unwrap().data.as_str(),
        r#"{"address":{"city":"new","street":"S"},"customer":"b"}"#
    );
    let times = Json::parse(r#"{"at":"2026-04-10T23:30:00-05:00"}"#).unwrap();
    assert_eq!(
        write(&definition, &times),
        r#"{"kind":"renamed","when":"2026","at":"2026-04-10T23:30:00-05:00"}"#
            .replace(r#","at":"2026-04-10T23:30:00-05:00""#, "")
    );
    let no_time = Json::parse(r#"{"at":"soon"}"#).unwrap();
    assert_eq!(write(&definition, &no_time), r#"{"kind":"renamed","when":"soon"}"#);
}

#[test]
fn errors_name_the_fields_of_the_wire() {
    let definition = renamed();
    let faults = [
        Fault {
            pointer: "/customer".to_owned(),
            code: "type".to_owned(),
            detail: "must be a text".to_owned(),
        },
        Fault {
            pointer: "/address/city".to_owned(),
            code: "type".to_owned(),
            detail: "must be a text".to_owned(),
        },
        Fault {
            pointer: "/address/n".to_owned(),
            code: "type".to_owned(),
            detail: "must be a text".to_owned(),
        },
    ];
    let error = WireError {
        status: 422,
        code: "invalid-data",
        detail: "",
        faults: &faults,
        allowed: None,
    };
    let (status, body) = definition.wire.error(&error);
    assert_eq!(status, 418);
    assert_eq!(
        body,
        concat!(
            r#"{"code":"invalid-data","http":418,"what":{"faults":[{"field":"cliente","code":"type","message":"must be a text"},"#,
            r#"{"field":"ciudad","code":"type","message":"must be a text"},{"field":"address.n","code":"type","message":"must be a text"}]}}"#
        )
    );
}

#[test]
fn without_a_wire_section_an_order_is_its_id_its_status_and_its_data() {
    let definition = definition("name = \"plain\"\ninitial = \"A\"\n[statuses.A]\nfinal = true\n[schema]\n");
    let incoming = definition.wire.read(br#"{"a":1,"status":"A","id":7}"#).unwrap();
    assert_eq!(
        (incoming.id.as_deref(), incoming.status.as_deref()),
        (Some("7"), Some("A"))
    );
    assert_eq!(
        write(&definition, &Json::parse(r#"{"a":1.0,"id":9}"#).unwrap()),
        r#"{"id":"01900000-0000-7000-8000-000000000001","status":"OPEN","a":1.0}"#
    );
}

#[test]
fn a_key_that_is_not_mapped_stays_in_the_data() {
    let text = "name = \"plain\"\ninitial = \"A\"\nkey = \"/ref\"\n[statuses.A]\nfinal = true\n[schema]\n";
    let definition = definition(text);
    let incoming = definition.wire.read(br#"{"ref":"r"}"#).unwrap();
    assert_eq!((incoming.key, incoming.data.as_str()), (None, r#"{"ref":"r"}"#));
    assert_eq!(definition.order_type.key.as_deref(), Some("/ref"));
}

fn json() -> impl Strategy<Value = String> {
    let number = "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?";
    let leaf = prop_oneof![
        number.prop_map(|digits| digits),
        Just("null".to_owned()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap())
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" , "))),
            prop::collection::hash_map("[a-z]{1,3}", inner, 0..4).prop_map(|members| {
                let members: Vec<String> = members
                    .iter()
                    .map(|(name, value)| format!("\"{name}\" : {value}"))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    // A failure is reproduced by the case that it prints; no file is left behind.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_sent_comes_back_to_the_letter(values in prop::collection::vec(json(), 1..6)) {
        let definition = definition(
            "name = \"p\"\ninitial = \"A\"\n[wire]\norder = { v0 = \"/deep/er\", v1 = \"/other\", \"...\" = \"/\" }\n[statuses.A]\nfinal = true\n[schema]\n",
        );
        let members: Vec<String> = values.iter().enumerate().map(|(at, value)| format!("\"v{at}\":{value}")).collect();
        let body = format!("{{{}}}", members.join(","));
        let incoming = definition.wire.read(body.as_bytes()).unwrap();
        let written = write(&definition, &incoming.data);
        for member in members {
            // A member that holds null is data like any other.
            prop_assert!(written.contains(&member), "{} in {}", member, written);
        }
    }

    #[test]
    fn reading_a_body_never_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let definition = definition("name = \"p\"\ninitial = \"A\"\n[statuses.A]\nfinal = true\n[schema]\n");
        let _ = definition.wire.read(&body);
    }
}
