//! A type's JSON Schema (2020-12): compiled once, asked for faults on every submission, and walked to see whether the
//! pointers of the file lead anywhere.

use std::fmt;

use comanda_model::money::amount;
use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::Location;
use jsonschema::{Draft, EmailOptions, Keyword, ValidationError, Validator};
use serde_json::{Map, Value};

use crate::fault::Fault;
use crate::language::Language;
use crate::pointer::{token, tokens};

/// The keyword that stands beside `format = "money"` in the schema that is compiled: formats of the validator see only
/// strings, and money is mostly a number.
const MONEY: &str = "comanda-money";

/// The types of JSON Schema.
const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "array", "object", "null"];

/// The most faults that one answer names: enough to mend a form, and a bound on what a bad submission costs.
const FAULTS_MAX: usize = 100;

/// How many references are followed in a row before the schema counts as one that leads in a circle.
const REFERENCES_MAX: usize = 32;

/// The JSON Schema of a type's data.
pub struct Schema {
    json: Value,
    /// What the validator was compiled from.
    compiled: Value,
    validator: Validator,
}

/// Why a schema cannot be used, and where.
#[derive(Debug)]
pub(crate) struct SchemaFault {
    /// JSON pointer into the schema.
    pub pointer: String,
    pub message: String,
}

/// Where a pointer leaves the schema.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lack {
    /// The token that leads nowhere.
    pub token: String,
    /// What there is instead.
    pub known: Vec<String>,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({})", self.json)
    }
}

impl Schema {
    /// The schema as it was written.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// Where amounts of money and their currencies stand in the data: pointers in which `*` stands for every item of an
    /// array. What stands behind a `$ref` or in a choice (`anyOf`) is not found.
    pub(crate) fn money(&self) -> Vec<String> {
        let mut found = Vec::new();
        find_money(&self.json, &mut String::new(), &mut found);
        found
    }

    /// Compiles a schema, or says everything that is wrong with it.
    pub(crate) fn compile(json: Value) -> Result<Self, Vec<SchemaFault>> {
        let mut compiled = json.clone();
        mark_money(&mut compiled);
        let options = jsonschema::options()
            .with_draft(Draft::Draft202012)
            // A type is whole in itself: nothing is fetched.
            .offline()
            .should_validate_formats(true)
            .with_format("iso4217", |text: &str| {
                iso_currency::Currency::from_code(text).is_some()
            })
            // Checked by the keyword beside it.
            .with_format("money", |_: &str| true)
            .with_email_options(
                EmailOptions::default()
                    .with_minimum_sub_domains(2)
                    .without_domain_literal()
                    .without_display_text(),
            )
            .with_keyword(MONEY, money_keyword);
        match options.build(&compiled) {
            Ok(validator) => Ok(Self {
                json,
                compiled,
                validator,
            }),
            Err(first) => {
                let fault = |error: &ValidationError<'_>| SchemaFault {
                    pointer: error.instance_path().to_string(),
                    message: match error.instance_path().as_str().ends_with("/type") && error.instance().is_string() {
                        true => format!("{} is no type; types are {}", error.instance(), TYPES.join(", ")),
                        false => error.to_string(),
                    },
                };
                let mut faults: Vec<SchemaFault> = match jsonschema::draft202012::meta::validate(&json) {
                    Ok(()) => Vec::new(),
                    Err(_) => jsonschema::draft202012::meta::validator()
                        .iter_errors(&json)
                        .take(FAULTS_MAX)
                        .map(|error| fault(&error))
                        .collect(),
                };
                if faults.is_empty() {
                    faults.push(fault(&first));
                }
                Err(faults)
            }
        }
    }

    /// Everything that is wrong with some data. The common case, that nothing is, is decided without making any error.
    pub(crate) fn faults(&self, data: &Value, language: Language) -> Vec<Fault> {
        if self.validator.is_valid(data) {
            return Vec::new();
        }
        let mut faults: Vec<Fault> = Vec::new();
        for error in self.validator.iter_errors(data).take(FAULTS_MAX) {
            for fault in self.of_error(&error, language) {
                if !faults.contains(&fault) {
                    faults.push(fault);
                }
            }
        }
        faults.truncate(FAULTS_MAX);
        faults
    }

    fn of_error(&self, error: &ValidationError<'_>, language: Language) -> Vec<Fault> {
        let at = error.instance_path().to_string();
        let keyword = error.kind().keyword();
        let limit = self
            .compiled
            .pointer(error.schema_path().as_str())
            .unwrap_or(&Value::Null);
        let fault = |pointer: String, code: &str, limit: &Value| Fault {
            pointer,
            code: code.to_owned(),
            detail: language.keyword(code, limit),
        };
        match error.kind() {
            ValidationErrorKind::Required { property } => {
                let pointer = format!("{at}{}", token(property.as_str().unwrap_or_default()));
                vec![fault(pointer, "required", limit)]
            }
            ValidationErrorKind::AdditionalProperties { unexpected }
            | ValidationErrorKind::UnevaluatedProperties { unexpected } => unexpected
                .iter()
                .map(|name| fault(format!("{at}{}", token(name)), keyword, &Value::Null))
                .collect(),
            ValidationErrorKind::Custom { keyword, .. } if keyword == MONEY => {
                vec![fault(at, "format", &Value::from("money"))]
            }
            _ => vec![fault(at, keyword, limit)],
        }
    }

    /// The formats that the schema names, each with its pointer, and whether they are checked.
    pub(crate) fn unknown_formats(&self) -> Vec<(String, String)> {
        let options = jsonschema::options();
        let mut found = Vec::new();
        each_schema(&self.json, &mut String::new(), &mut |pointer, schema| {
            if let Some(format) = schema.get("format").and_then(Value::as_str)
                && !["money", "iso4217"].contains(&format)
                && !options.is_known_format(Draft::Draft202012, format)
            {
                found.push((format!("{pointer}/format"), format.to_owned()));
            }
        });
        found
    }
}

/// Where a pointer leaves a schema, if it does. Lenient where the schema is open: behind a composition, a member
/// that `additionalProperties` allows by name, or a part that says nothing of its members.
pub(crate) fn lacks(root: &Value, pointer: &str) -> Option<Lack> {
    let mut at = root;
    for name in tokens(pointer) {
        at = resolved(root, at)?;
        let schema = at.as_object()?;
        let open = [
            "allOf",
            "anyOf",
            "oneOf",
            "if",
            "not",
            "patternProperties",
            "$dynamicRef",
            "dependentSchemas",
        ];
        if let Some(next) = schema.get("properties").and_then(|properties| properties.get(&name)) {
            at = next;
            continue;
        }
        if open.iter().any(|keyword| schema.contains_key(*keyword)) {
            return None;
        }
        let numeric = name.bytes().all(|byte| byte.is_ascii_digit());
        let is_list = schema.contains_key("items") || schema.get("type").is_some_and(|kind| kind == "array");
        if numeric && is_list {
            at = schema.get("items")?;
            continue;
        }
        match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => return None,
            Some(next @ Value::Object(_)) => {
                at = next;
                continue;
            }
            _ => {}
        }
        let known: Vec<String> = schema
            .get("properties")
            .and_then(Value::as_object)
            .map(|properties| properties.keys().cloned().collect())
            .unwrap_or_default();
        let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
        let scalar = matches!(
            schema.get("type").and_then(Value::as_str),
            Some("string" | "number" | "integer" | "boolean" | "null" | "array")
        );
        if known.is_empty() && !closed && !scalar {
            return None;
        }
        return Some(Lack { token: name, known });
    }
    None
}

/// Follows references within the schema.
pub(crate) fn resolved<'s>(root: &'s Value, mut at: &'s Value) -> Option<&'s Value> {
    for _ in 0..REFERENCES_MAX {
        let Some(reference) = at.get("$ref").and_then(Value::as_str) else {
            return Some(at);
        };
        at = root.pointer(reference.strip_prefix('#')?)?;
    }
    None
}

/// Keywords whose values are not schemas but data.
const DATA_KEYWORDS: [&str; 5] = ["enum", "const", "default", "examples", "required"];

/// Calls for every object of the schema that may be a schema.
fn each_schema(value: &Value, pointer: &mut String, call: &mut impl FnMut(&str, &Map<String, Value>)) {
    let length = pointer.len();
    match value {
        Value::Object(members) => {
            call(pointer, members);
            for (name, member) in members {
                if !DATA_KEYWORDS.contains(&name.as_str()) || member.is_object() {
                    pointer.push_str(&token(name));
                    each_schema(member, pointer, call);
                    pointer.truncate(length);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointer.push_str(&format!("/{index}"));
                each_schema(item, pointer, call);
                pointer.truncate(length);
            }
        }
        _ => {}
    }
}

fn find_money(schema: &Value, at: &mut String, found: &mut Vec<String>) {
    let format = schema.get("format").and_then(Value::as_str);
    if matches!(format, Some("money" | "iso4217")) {
        found.push(at.clone());
    }
    let length = at.len();
    for (name, member) in schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        at.push_str(&token(name));
        find_money(member, at, found);
        at.truncate(length);
    }
    if let Some(items) = schema.get("items") {
        at.push_str("/*");
        find_money(items, at, found);
        at.truncate(length);
    }
}

fn mark_money(value: &mut Value) {
    match value {
        Value::Object(members) => {
            if members.get("format").is_some_and(|format| format == "money") {
                members.insert(MONEY.to_owned(), Value::Bool(true));
            }
            for (name, member) in members.iter_mut() {
                if !DATA_KEYWORDS.contains(&name.as_str()) {
                    mark_money(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mark_money),
        _ => {}
    }
}

struct Money;

impl<'i> Keyword<'i> for Money {
    fn validate(&self, instance: &'i Value) -> Result<(), ValidationError<'i>> {
        if Keyword::is_valid(self, instance) {
            return Ok(());
        }
        Err(ValidationError::custom("no exact amount of money"))
    }

    fn is_valid(&self, instance: &'i Value) -> bool {
        // What is neither a number nor a string is `type`'s to refuse.
        !(instance.is_number() || instance.is_string()) || amount(instance).is_ok()
    }
}

fn money_keyword<'a>(
    _: &'a Map<String, Value>,
    _: &'a Value,
    _: Location,
) -> Result<Box<dyn for<'i> Keyword<'i>>, ValidationError<'a>> {
    Ok(Box::new(Money))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str) -> Schema {
        Schema::compile(serde_json::from_str(text).unwrap()).unwrap()
    }

    fn faults(schema: &Schema, text: &str) -> Vec<(String, String, String)> {
        schema
            .faults(&serde_json::from_str(text).unwrap(), Language::English)
            .into_iter()
            .map(|fault| (fault.pointer, fault.code, fault.detail))
            .collect()
    }

    fn fault(pointer: &str, code: &str, detail: &str) -> (String, String, String) {
        (pointer.to_owned(), code.to_owned(), detail.to_owned())
    }

    #[test]
    fn money_and_currencies() {
        let schema = schema(
            r#"{"type":"object","required":["amount","currency"],"properties":{
                "amount":{"type":"number","minimum":0,"format":"money"},
                "price":{"type":"string","format":"money"},
                "currency":{"type":"string","format":"iso4217"}}}"#,
        );
        assert!(faults(&schema, r#"{"amount":99.99,"currency":"EUR","price":"1.10"}"#).is_empty());
        assert_eq!(
            faults(&schema, r#"{"amount":-1,"currency":"eurs"}"#),
            [
                fault("/amount", "minimum", "must be at least 0"),
                fault(
                    "/currency",
                    "format",
                    "must be a currency code of ISO 4217, such as EUR"
                ),
            ]
        );
        assert_eq!(
            faults(&schema, r#"{"amount":"12"}"#),
            [
                fault("/currency", "required", "is required"),
                fault("/amount", "type", "must be a number"),
            ]
        );
        let long = r#"{"amount":1.00000000000000000000000000000000001,"currency":"EUR","price":"x"}"#;
        let money = "must be an exact amount of money, with at most 28 digits";
        assert_eq!(
            faults(&schema, long),
            [fault("/amount", "format", money), fault("/price", "format", money)]
        );
    }

    #[test]
    fn big_numbers_are_compared_exactly() {
        let schema = schema(r#"{"maximum": 0.30000000000000000000001}"#);
        assert!(faults(&schema, "0.3").is_empty());
        assert_eq!(faults(&schema, "0.30000000000000000000002").len(), 1);
    }

    #[test]
    fn e_mail_is_asserted() {
        let schema = schema(r#"{"format":"email"}"#);
        assert!(faults(&schema, r#""ana@example.com""#).is_empty());
        for wrong in [
            "ana",
            "ana@",
            "ana@localhost",
            "Ana <ana@example.com>",
            "ana@[127.0.0.1]",
        ] {
            assert_eq!(faults(&schema, &format!("\"{wrong}\"")).len(), 1, "{wrong}");
        }
    }

    #[test]
    fn limits_behind_references_are_told() {
        let schema = schema(
            r##"{"properties":{"lines":{"items":{"$ref":"#/$defs/line"}}},"additionalProperties":false,
                "$defs":{"line":{"properties":{"q":{"minimum":3}}}}}"##,
        );
        assert_eq!(
            faults(&schema, r#"{"lines":[{"q":1}],"x":1}"#),
            [
                fault("/lines/0/q", "minimum", "must be at least 3"),
                fault("/x", "additionalProperties", "is not expected here"),
            ]
        );
    }

    #[test]
    fn pointers_that_lead_nowhere() {
        let schema = schema(
            r##"{"properties":{"lines":{"type":"array","items":{"$ref":"#/$defs/line"}},"any":{},"open":{"type":"object"},
                "map":{"additionalProperties":{"properties":{"x":{}}}},"name":{"type":"string"}},
                "$defs":{"line":{"properties":{"sku":{}},"additionalProperties":false}}}"##,
        );
        for right in ["/lines", "/lines/0/sku", "/any/x/y", "/open/x", "/map/k/x", "/name"] {
            assert_eq!(lacks(schema.json(), right), None, "{right}");
        }
        for (wrong, at) in [
            ("/line", "line"),
            ("/lines/0/sk", "sk"),
            ("/lines/x", "x"),
            ("/name/x", "x"),
            ("/map/k/y", "y"),
        ] {
            assert_eq!(
                lacks(schema.json(), wrong).map(|lack| lack.token).as_deref(),
                Some(at),
                "{wrong}"
            );
        }
    }

    #[test]
    fn broken_schemas_say_where() {
        let text = r#"{"type":"objekt","properties":{"a":{"minimum":"x"}}}"#;
        let faults = Schema::compile(serde_json::from_str(text).unwrap()).unwrap_err();
        let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert!(
            pointers.contains(&"/type") && pointers.contains(&"/properties/a/minimum"),
            "{faults:?}"
        );
        assert!(Schema::compile(serde_json::json!({ "$ref": "https://example.com/x.json" })).is_err());
        assert!(Schema::compile(serde_json::json!({ "pattern": "(" })).is_err());
    }
}
