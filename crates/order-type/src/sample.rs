//! Makes an example of a type's data.

use serde_json::{Map, Value};

use crate::schema::resolved;

/// How deep an example is made up; schemas may refer to themselves.
const DEPTH_MAX: usize = 8;
/// How many values an example has at most: parts that refer to each other would else multiply at each depth.
const VALUES_MAX: usize = 1000;

/// The schema's first example, or one made up from its parts.
pub(crate) fn sample(schema: &Value) -> Value {
    let mut values_left = VALUES_MAX;
    let made = of(schema, schema, DEPTH_MAX, &mut values_left);
    if made.is_object() {
        made
    } else {
        Value::Object(Map::new())
    }
}

/// `left` is how many values may still be made.
fn of(schema: &Value, part: &Value, depth: usize, left: &mut usize) -> Value {
    let Some(remaining) = left.checked_sub(1) else {
        return Value::Null;
    };
    *left = remaining;
    let Some(part) = resolved(schema, part) else {
        return Value::Null;
    };
    let first = |name: &str| part.get(name).and_then(|values| values.get(0));
    let stated = first("examples")
        .or_else(|| part.get("default"))
        .or_else(|| part.get("const"))
        .or_else(|| first("enum"));
    if let Some(stated) = stated {
        return stated.clone();
    }
    if depth == 0 {
        return Value::Null;
    }
    let kind = match part.get("type") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str).unwrap_or("object"),
        _ if part.get("items").is_some() => "array",
        _ if part.get("properties").is_some() => "object",
        _ => match first("oneOf").or_else(|| first("anyOf")).or_else(|| first("allOf")) {
            Some(branch) => return of(schema, branch, depth - 1, left),
            None => "string",
        },
    };
    match kind {
        "object" => {
            let empty = Map::new();
            let properties = part.get("properties").and_then(Value::as_object).unwrap_or(&empty);
            let required = part.get("required").and_then(Value::as_array);
            let wanted = |name: &str| match required {
                Some(required) => required.iter().any(|entry| entry == name),
                None => true,
            };
            let members = properties.iter().filter(|(name, _)| wanted(name));
            Value::Object(
                members
                    .map(|(name, part)| (name.clone(), of(schema, part, depth - 1, left)))
                    .collect(),
            )
        }
        "array" => {
            let count = part.get("minItems").and_then(Value::as_u64).unwrap_or(1).min(10);
            let item = |left: &mut usize| match part.get("items") {
                Some(item) => of(schema, item, depth - 1, left),
                None => Value::Null,
            };
            (0..count).map(|_| item(left)).collect()
        }
        "integer" | "number" => number(part),
        "boolean" => Value::Bool(true),
        "null" => Value::Null,
        _ => Value::String(text(part)),
    }
}

fn number(part: &Value) -> Value {
    if let Some(minimum) = part.get("minimum").and_then(Value::as_i64) {
        return Value::from(
            minimum
                .max(1)
                .min(part.get("maximum").and_then(Value::as_i64).unwrap_or(i64::MAX)),
        );
    }
    match part.get("exclusiveMinimum").and_then(Value::as_i64) {
        Some(minimum) => Value::from(minimum.saturating_add(1)),
        None => part.get("minimum").cloned().unwrap_or(Value::from(1)),
    }
}

fn text(part: &Value) -> String {
    let text = match part.get("format").and_then(Value::as_str) {
        Some("email") => "ana@example.com",
        Some("iso4217") => "EUR",
        Some("money") => "9.99",
        Some("date") => "2026-04-30",
        Some("date-time") => "2026-04-30T12:00:00Z",
        Some("uuid") => "01890a5d-ac96-774b-bcce-b302099a8057",
        Some("uri") => "https://example.com/",
        _ => "text",
    };
    let bound = |name: &str| {
        part.get(name)
            .and_then(Value::as_u64)
            .and_then(|bound| usize::try_from(bound).ok())
    };
    let mut text = text.to_owned();
    while text.chars().count() < bound("minLength").unwrap_or(0).min(1000) {
        text.push('x');
    }
    match bound("maxLength") {
        Some(max) if part.get("format").is_none() => text.chars().take(max).collect(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::Language;
    use crate::schema::Schema;

    #[test]
    fn made_up_examples_are_valid() {
        let text = r##"{"type":"object","required":["amount","lines","mail","kind"],"properties":{
            "amount":{"type":"number","exclusiveMinimum":0},"kind":{"enum":["a","b"]},
            "lines":{"type":"array","minItems":2,"items":{"$ref":"#/$defs/line"}},
            "mail":{"type":"string","format":"email"},"left":{"type":"string"}},
            "$defs":{"line":{"type":"object","required":["sku","self"],
                "properties":{"sku":{"type":"string","minLength":6},"self":{"type":["null","object"]}}}}}"##;
        let schema = Schema::compile(serde_json::from_str(text).unwrap()).unwrap();
        let sample = sample(schema.json());
        assert!(schema.faults(&sample, Language::English).is_empty(), "{sample}");
        assert!(sample.get("left").is_none());
    }
}
