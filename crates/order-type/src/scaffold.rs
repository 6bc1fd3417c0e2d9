//! `comanda new`: an order type that is ready to edit.

use serde_json::{Map, Value, json};

/// How deep a sample is looked into.
const DEPTH_MAX: usize = 16;

/// A new type's TOML file and schema file (`{name}.schema.json`), with comments that say what to change. They pass
/// `check` as they are. With a sample of the data, the schema is made from it: every member of the sample is required
/// and has the sample's type. `name` must be in kebab-case.
pub fn scaffold(name: &str, sample: Option<&Value>) -> (String, String) {
    let default = json!({ "customerId": "c-1", "items": [{ "sku": "A-1", "quantity": 1 }] });
    let sample = sample.filter(|sample| sample.is_object()).unwrap_or(&default);
    let mut schema = Map::new();
    schema.insert(
        "$schema".to_owned(),
        "https://json-schema.org/draft/2020-12/schema".into(),
    );
    if let Value::Object(members) = schema_of(sample, DEPTH_MAX) {
        schema.extend(members);
    }
    schema.insert("examples".to_owned(), Value::Array(vec![sample.clone()]));
    let mut schema = serde_json::to_string_pretty(&Value::Object(schema)).unwrap_or_default();
    schema.push('\n');
    (TEMPLATE.replace("{name}", name), schema)
}

fn schema_of(value: &Value, depth: usize) -> Value {
    if depth == 0 {
        return json!({});
    }
    match value {
        Value::Null => json!({}),
        Value::Bool(_) => json!({ "type": "boolean" }),
        Value::Number(number) if number.is_i64() || number.is_u64() => json!({ "type": "integer" }),
        Value::Number(_) => json!({ "type": "number" }),
        Value::String(_) => json!({ "type": "string", "minLength": usize::from(value != "") }),
        Value::Array(items) => match items.first() {
            // Items of more than one shape are left open.
            Some(first)
                if items
                    .iter()
                    .all(|item| schema_of(item, depth - 1) == schema_of(first, depth - 1)) =>
            {
                json!({ "type": "array", "minItems": 1, "items": schema_of(first, depth - 1) })
            }
            _ => json!({ "type": "array" }),
        },
        Value::Object(members) => {
            let required: Vec<&String> = members.keys().collect();
            let properties: Map<String, Value> = members
                .iter()
                .map(|(name, member)| (name.clone(), schema_of(member, depth - 1)))
                .collect();
            json!({ "type": "object", "required": required, "properties": properties })
        }
    }
}

const TEMPLATE: &str = r##"# The order type `{name}`. `comanda check` says what is wrong with it; `comanda try {name} sample.json` shows the way
# that an order would take. The whole format: docs/order-types.md
name = "{name}"
initial = "RECEIVED"
schema = "{name}.schema.json"               # what the data must look like

# Whom an order is for, as a JSON pointer into the data, so that orders can be listed by customer:
# customer = "/customerId"

# Orders with the same value here are worked in the order in which they were accepted ("*": all of them):
# fifo = { key = "/customerId" }

# How the type looks to its clients at /{name}. Without this section: id, status, and the data.
# [wire.order]
# orderId = "@id"
# status = "@status"
# "..." = "/"

# A status is where an order stands, and what customers see. Its steps run in order, then it goes on to `next`.
[statuses.RECEIVED]
steps = ["process"]
next = "COMPLETED"
to = ["CANCELED"]                           # where the outside may send it from here
refused = "CANCELED"                        # where it goes when a step is refused for good

[statuses.COMPLETED]
final = true

[statuses.CANCELED]
final = true
undo = true                                 # takes back completed steps, in reverse

# A step is work. This one succeeds at once; below is one that calls a service.
[steps.process]
use = "noop"
retry = { attempts = 5, first = "1s", factor = 2, max = "5m" }

# [steps.charge]
# http = "POST {{ env.PAYMENTS_URL }}/charges"
# headers = { Authorization = "Bearer {{ secret.payments }}" }
# body = { reference = "{{ id }}", order = "{{ data }}" }
# timeout = "10s"
# undo = { http = "POST {{ env.PAYMENTS_URL }}/charges/{{ steps.charge.id }}/refund" }
"##;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bundle, Known, read};

    #[test]
    fn a_new_type_passes_its_check() {
        let sample: Value = serde_json::from_str(
            r#"{"a":1.50,"b":{"c":[1,"x"],"d":[],"e":[{"f":null}]},"g":"","h":true,"i":12345678901234567890123}"#,
        )
        .unwrap();
        for sample in [None, Some(&sample), Some(&Value::Null)] {
            let (text, schema) = scaffold("repair-job", sample);
            let schema = Some(("repair-job.schema.json".to_owned(), schema));
            let read = read(
                &Bundle {
                    path: "repair-job.toml".to_owned(),
                    text,
                    schema,
                },
                &Known::default(),
            );
            assert_eq!(read.diagnostics, []);
            let definition = read.definition.unwrap();
            assert_eq!(definition.validate(&definition.sample()), []);
        }
    }
}
