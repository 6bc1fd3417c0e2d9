//! The API described for machines: OpenAPI 3.1, with the schemas of bodies taken from the code that reads and writes
//! them, and the mounts of the types that the server has at the moment.

mod operations;
mod shapes;

use std::sync::LazyLock;

use comanda_order_type::Definition;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use self::operations::{Answer, Body, Operation};
use self::shapes::Shapes;
use crate::App;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::to_value(Shapes::openapi()).unwrap_or_default();
    let mut paths = Map::new();
    for entry in operations::operations() {
        let methods = paths.entry(entry.path.to_owned()).or_insert_with(|| json!({}));
        methods[entry.method] = operation(entry);
    }
    document["paths"] = Value::Object(paths);
    let schemas = &mut document["components"]["schemas"];
    // A dead letter is an order and a part of its own. Said here, because no type of ours holds the two together.
    schemas["DeadLetter"] = with(&schemas["Order"], &schemas["DeadLetterPart"]);
    schemas["DeadLetterPage"]["properties"]["items"]["items"] = reference("DeadLetter");
    if let Some(schemas) = schemas.as_object_mut() {
        schemas.shift_remove("DeadLetterPart");
    }
    document["components"]["securitySchemes"] = json!({
        "key": {"type": "http", "scheme": "bearer"},
        "keyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    });
    document
});

/// The API without the mounts: what does not depend on a server's types.
pub fn openapi() -> Value {
    DOCUMENT.clone()
}

/// The schema of an object with the members of both.
fn with(one: &Value, other: &Value) -> Value {
    let mut both = one.clone();
    both["description"] = json!("A dead letter: an order whose step is exhausted, and why.");
    for (name, schema) in other["properties"].as_object().into_iter().flatten() {
        both["properties"][name] = schema.clone();
    }
    let more = other["required"].as_array().cloned().unwrap_or_default();
    if let Some(required) = both["required"].as_array_mut() {
        required.extend(more);
    }
    both
}

fn operation(operation: &Operation) -> Value {
    let mut parameters = Vec::new();
    let in_path = |part: &'static str| part.strip_prefix('{')?.strip_suffix('}');
    for name in operation.path.split('/').filter_map(in_path) {
        parameters.push(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    }
    for (name, kind, text) in operation.query.iter().copied().flatten() {
        parameters.push(json!({"name": name, "in": "query", "description": text, "schema": {"type": kind}}));
    }
    for (name, text) in operation.headers {
        let required = operation.refusals.contains(&"428");
        parameters.push(json!({
            "name": name, "in": "header", "description": text, "required": required, "schema": {"type": "string"},
        }));
    }
    let mut described = json!({"summary": operation.summary});
    if let Some(scope) = operation.scope {
        described["description"] = json!(format!("Needs the scope `{scope}` where keys are set up."));
        described["security"] = json!([{}, {"key": []}, {"keyHeader": []}]);
    }
    if !parameters.is_empty() {
        described["parameters"] = Value::Array(parameters);
    }
    if let Some(body) = request_body(operation.body) {
        described["requestBody"] = body;
    }
    described["responses"] = responses(operation);
    described
}

fn request_body(body: Body) -> Option<Value> {
    let json_body = |schema: &str, required: bool| json!({"required": required, "content": {"application/json": {"schema": reference(schema)}}});
    Some(match body {
        Body::None => return None,
        Body::Needed(schema) => json_body(schema, true),
        Body::Optional(schema) => json_body(schema, false),
        Body::MergePatch => json!({"required": true, "content": {
            "application/merge-patch+json": {"schema": {"type": "object"}},
            "application/json": {"schema": {"type": "object"}},
        }}),
        Body::Batch => json!({"required": true, "content": {
            "application/json": {"schema": {"type": "array", "maxItems": 1000, "items": reference("SubmitBody")}},
            "application/x-ndjson": {"schema": {"type": "string", "description": "One submission per line."}},
        }}),
    })
}

fn responses(operation: &Operation) -> Value {
    let text = |kind: &str| json!({kind: {"schema": {"type": "string"}}});
    let content = match operation.answer {
        Answer::Json(schema) => json!({"application/json": {"schema": reference(schema)}}),
        Answer::Events => json!({
            "application/json": {"schema": reference("EventPage")},
            "text/event-stream": {"schema": {"type": "string", "description": "One `CloudEvent` per event."}},
        }),
        Answer::Text => text("text/plain"),
        Answer::Lines => text("application/x-ndjson"),
        Answer::Html => text("text/html"),
        Answer::Document => json!({"application/json": {"schema": {"type": "object"}}}),
        Answer::Nothing => Value::Null,
    };
    let mut responses = Map::new();
    let mut success = json!({"description": description(operation.success)});
    if !content.is_null() {
        success["content"] = content.clone();
    }
    responses.insert(operation.success.to_owned(), success);
    if operation.path == "/v1/orders" && operation.success == "202" {
        let description = "Final within the time that `Prefer: wait` gave.";
        responses.insert(
            "200".to_owned(),
            json!({"description": description, "content": content}),
        );
    }
    if let Some((status, description, schema)) = operation.or_else {
        let content = json!({"application/json": {"schema": reference(schema)}});
        responses.insert(
            status.to_owned(),
            json!({"description": description, "content": content}),
        );
    }
    let guarded: &[&str] = if operation.scope.is_some() {
        &["401", "403", "429"]
    } else {
        &[]
    };
    for status in operation.refusals.iter().chain(guarded) {
        let answer = match *status {
            "304" => json!({"description": description(status)}),
            "503" if operation.path == "/readyz" => {
                json!({"description": description(status), "content": text("text/plain")})
            }
            status => problem(description(status)),
        };
        responses.insert((*status).to_owned(), answer);
    }
    responses.sort_keys();
    responses.insert("default".to_owned(), problem("Any other problem."));
    Value::Object(responses)
}

fn description(status: &str) -> &'static str {
    match status {
        "200" => "Done.",
        "201" => "Made, and durable.",
        "202" => "Accepted, and durable.",
        "204" => "Done.",
        "304" => "Not modified.",
        "400" => "The request is malformed.",
        "401" => "No valid key.",
        "403" => "The key does not allow this.",
        "404" => "There is no such thing.",
        "409" => "The order does not allow it as it stands.",
        "410" => "The cursor is no longer valid.",
        "412" => "The precondition does not hold.",
        "413" => "Too large.",
        "415" => "Not JSON.",
        "422" => "The data is not what the type asks for: one entry per fault.",
        "428" => "`If-Match` is needed.",
        "429" => "Too many, of this key or of all; `Retry-After` says when.",
        "501" => "The store that the server runs on cannot do this.",
        "503" => "Not now; `Retry-After` says when.",
        _ => "An error.",
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn problem(text: &str) -> Value {
    json!({"description": text, "content": {"application/problem+json": {"schema": reference("Problem")}}})
}

impl App {
    /// The API with the mounts of the present types.
    pub(crate) fn openapi(&self) -> Value {
        let mut document = openapi();
        document["info"]["version"] = json!(self.options.version);
        for definition in self.service.registry().all() {
            let name = &*definition.order_type.name;
            let mut schema = definition.schema.json().clone();
            // A schema with an id of its own is a root of its own; in any other, references are now from the document's.
            if schema.get("$id").is_none() {
                move_references(&mut schema, &format!("#/components/schemas/{name}"));
            }
            document["components"]["schemas"][name] = schema;
            let mounted = |(path, mounted): &(String, String)| (mounted == name).then(|| path.clone());
            let at = self.options.mounts.iter().filter_map(mounted);
            for path in at.chain([format!("/{name}")]) {
                let path = path.trim_end_matches('/');
                document["paths"][path] = collection(&definition);
                document["paths"][format!("{path}/{{id}}")] = member(&definition);
            }
        }
        document
    }
}

/// Makes references from the root of a schema into references from the root of the document that it is put into.
fn move_references(schema: &mut Value, to: &str) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(reference) if name == "$ref" && reference.starts_with('#') => {
                        reference.replace_range(..1, to);
                    }
                    value => move_references(value, to),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| move_references(item, to)),
        _ => {}
    }
}

/// A body of a mount. Where the wire form has the data's own names, it has the data's schema.
fn wire_body(definition: &Definition, sample: &Value) -> Value {
    let is_plain = definition.validate(sample).is_empty();
    let schema = if is_plain {
        reference(&definition.order_type.name)
    } else {
        json!({"type": "object"})
    };
    json!({"required": true, "content": {"application/json": {"schema": schema, "example": sample}}})
}

fn wire_answer(text: &str) -> Value {
    json!({"description": text, "content": {"application/json": {"schema": {"type": "object"}}}})
}

fn collection(definition: &Definition) -> Value {
    let name = &definition.order_type.name;
    json!({
        "post": {
            "summary": format!("Submit an order of type `{name}`, in the type's own form."),
            "requestBody": wire_body(definition, &definition.wire_sample()),
            "responses": {
                "200": wire_answer("Accepted or changed; or final within the time that `Prefer: wait` gave."),
                "202": wire_answer("Accepted, and durable."),
                "default": wire_answer("Refused, in the type's own form."),
            },
        },
        "get": {
            "summary": format!("List the orders of type `{name}`, newest first."),
            "responses": {"200": wire_answer("A page."), "default": wire_answer("Refused, in the type's own form.")},
        },
    })
}

fn member(definition: &Definition) -> Value {
    let name = &definition.order_type.name;
    let id = json!([{"name": "id", "in": "path", "required": true, "description": "The order's id, or the client's own.",
        "schema": {"type": "string"}}]);
    json!({
        "get": {
            "summary": format!("Read an order of type `{name}`."),
            "parameters": id,
            "responses": {
                "200": wire_answer("The order."),
                "304": {"description": "Not modified."},
                "404": wire_answer("There is no such order."),
                "default": wire_answer("Refused, in the type's own form."),
            },
        },
        "patch": {
            "summary": format!("Change an order of type `{name}`: its data, or its status."),
            "parameters": id,
            "requestBody": {"required": true, "content": {"application/json": {"schema": {"type": "object"}}}},
            "responses": {
                "200": wire_answer("The order."),
                "404": wire_answer("There is no such order."),
                "409": wire_answer("The order does not allow it as it stands."),
                "default": wire_answer("Refused, in the type's own form."),
            },
        },
    })
}
