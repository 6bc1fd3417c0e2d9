//! The API described for machines: OpenAPI 3.1, with the schemas of bodies taken from the code that reads them, and the
//! mounts of the types that the server has at the moment.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use utoipa::{OpenApi, ToSchema};

use crate::App;
use crate::dead_letters::{DiscardBody, FilterBody, RedriveBody, RedriveStart, Version};
use crate::orders::{AttemptView, CancelBody, SubmitBody, TransitionBody};

/// An order, as `/v1` shows it.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code, reason = "described here, written by `comanda_engine::OrderView`")]
struct Order {
    id: String,
    key: Option<String>,
    #[schema(rename = "type")]
    order_type: String,
    type_version: String,
    status: String,
    #[schema(rename = "final")]
    is_final: bool,
    version: u64,
    customer: Option<String>,
    group: Option<String>,
    #[schema(value_type = Object)]
    data: Value,
    #[schema(value_type = Object)]
    results: Value,
    work: Option<Work>,
    #[schema(format = DateTime)]
    accepted_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
}

/// Why an order is not moving.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code, reason = "described here, written by `comanda_engine::WorkView`")]
struct Work {
    step: Option<String>,
    state: WorkState,
    attempt: Option<u32>,
    #[schema(format = DateTime)]
    due_at: Option<String>,
    last_error: Option<String>,
    #[schema(required = false)]
    waiting_for: Option<String>,
    #[schema(required = false)]
    behind: Option<u32>,
    #[schema(required = false, format = DateTime)]
    deadline_at: Option<String>,
    #[schema(required = false)]
    undoing: Option<bool>,
}

#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "described here, written by `comanda_engine::WorkState`")]
enum WorkState {
    Due,
    Running,
    Retrying,
    Waiting,
    Queued,
    Parked,
}

/// A problem (RFC 9457).
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[allow(dead_code, reason = "described here, written by `problem::Document`")]
struct Problem {
    #[schema(rename = "type")]
    kind: String,
    title: String,
    status: u16,
    code: String,
    detail: String,
    #[schema(required = false)]
    allowed: Option<Vec<String>>,
    #[schema(required = false)]
    errors: Option<Vec<Fault>>,
    request_id: String,
}

/// One fault in the data.
#[derive(ToSchema)]
#[allow(dead_code, reason = "described here, written by `problem::Entry`")]
struct Fault {
    /// JSON pointer (RFC 6901) into the data.
    pointer: String,
    code: String,
    detail: String,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Comanda", description = "Takes orders over HTTP, never loses one, and sees each through the workflow that its type declares."),
    components(schemas(
        Order, Work, WorkState, Problem, Fault, SubmitBody, TransitionBody, CancelBody, AttemptView, FilterBody,
        RedriveBody, RedriveStart, Version, DiscardBody
    ))
)]
struct Schemas;

/// One operation in a line: method, path, summary, scope, body's schema, success, answer's schema, refusals.
type Operation = (&'static str, &'static str, &'static str, &'static str, Option<&'static str>, &'static str, Option<&'static str>, &'static [&'static str]);

const OPERATIONS: &[Operation] = &[
    ("post", "/v1/orders", "Submit an order. 202 once it is durable; with `Prefer: wait=N`, 200 if it is final within N seconds.", "submit", Some("SubmitBody"), "202", Some("Order"), &["400", "409", "413", "415", "422", "503"]),
    ("get", "/v1/orders", "List orders, newest first.", "read", None, "200", None, &["400"]),
    ("post", "/v1/orders/batch", "Submit up to 1,000 orders, as an array or as lines; each is accepted or refused alone.", "submit", None, "200", None, &["400", "413", "415", "503"]),
    ("get", "/v1/orders/{id}", "Read an order. `wait` and `version` long-poll; `If-None-Match` answers 304.", "read", None, "200", Some("Order"), &["304", "400", "404"]),
    ("patch", "/v1/orders/{id}", "Change an order's data by a merge patch (RFC 7396). `If-Match` is needed.", "submit", None, "200", Some("Order"), &["400", "404", "409", "412", "413", "415", "422", "428", "503"]),
    ("post", "/v1/orders/{id}/transition", "Move an order to another status.", "submit", Some("TransitionBody"), "200", Some("Order"), &["400", "404", "409", "412", "413", "415", "422", "503"]),
    ("post", "/v1/orders/{id}/cancel", "Cancel an order: at once, or when the attempt in flight has ended.", "submit", Some("CancelBody"), "202", Some("Order"), &["400", "404", "409", "412", "413", "415", "422", "503"]),
    ("get", "/v1/orders/{id}/events", "An order's history; a live stream with `Accept: text/event-stream`, resumed by `Last-Event-ID`.", "read", None, "200", None, &["400", "404", "429"]),
    ("get", "/v1/orders/{id}/attempts", "Each try of each step: when, how long, how it ended, why.", "read", None, "200", None, &["400", "404"]),
    ("get", "/v1/events", "All events in commit order; a live stream with `Accept: text/event-stream`.", "read", None, "200", None, &["400", "410", "429"]),
    ("get", "/v1/order-types", "The order types.", "read", None, "200", None, &[]),
    ("get", "/v1/order-types/{name}", "One order type: schema, statuses, steps, a Mermaid map.", "read", None, "200", None, &["404"]),
    ("get", "/v1/dead-letters", "The dead letters, newest first.", "read", None, "200", None, &["400"]),
    ("get", "/v1/dead-letters/{id}", "One dead letter with every attempt.", "read", None, "200", None, &["404", "409"]),
    ("get", "/v1/dead-letter-causes", "What dead letters died of, and how many of each.", "read", None, "200", None, &[]),
    ("post", "/v1/dead-letters/redrive", "Put dead letters back to work, oldest first, at most 1,000 per call.", "operate", Some("RedriveBody"), "200", None, &["400", "413", "415", "503"]),
    ("post", "/v1/dead-letters/discard", "Give dead letters up: what they did is taken back, and they end.", "operate", Some("DiscardBody"), "200", None, &["400", "413", "415", "503"]),
    ("get", "/healthz", "Whether the process lives.", "", None, "200", None, &[]),
    ("get", "/readyz", "Whether it can take orders.", "", None, "200", None, &["503"]),
    ("get", "/metrics", "Metrics in Prometheus's form.", "read", None, "200", None, &["404"]),
];

/// The query parameters of a path.
fn query_parameters(method: &str, path: &str) -> &'static [(&'static str, &'static str, &'static str)] {
    match (method, path) {
        ("get", "/v1/orders") => &[
            ("type", "string", "Of this type."), ("status", "string", "In this status."),
            ("customer", "string", "For this customer."), ("group", "string", "With this group key."),
            ("acceptedAfter", "string", "Accepted at or after (RFC 3339)."), ("acceptedBefore", "string", "Accepted before."),
            ("limit", "integer", "1 to 500; 50."), ("cursor", "string", "`nextCursor` of the page before."),
        ],
        ("get", "/v1/dead-letters") => &[
            ("type", "string", "Of this type."), ("cause", "string", "Of this cause."), ("status", "string", "In this status."),
            ("customer", "string", "For this customer."), ("group", "string", "With this group key."),
            ("acceptedAfter", "string", "Accepted at or after (RFC 3339)."), ("acceptedBefore", "string", "Accepted before."),
            ("limit", "integer", "1 to 500; 50."), ("cursor", "string", "`nextCursor` of the page before."),
        ],
        ("get", "/v1/orders/{id}") => &[
            ("wait", "integer", "Wait so many seconds, at most 60."), ("version", "integer", "…until the order is past this version."),
        ],
        ("get", "/v1/events") => &[
            ("type", "string", "Of orders of this type."), ("limit", "integer", "1 to 500; 50."),
            ("cursor", "string", "`nextCursor` of the page before."),
        ],
        ("get", "/v1/orders/{id}/events" | "/v1/orders/{id}/attempts") => {
            &[("limit", "integer", "1 to 500; 50."), ("cursor", "string", "`nextCursor` of the page before.")]
        }
        _ => &[],
    }
}

fn header_parameters(method: &str, path: &str) -> &'static [(&'static str, &'static str)] {
    match (method, path) {
        ("post", "/v1/orders") => &[
            ("Idempotency-Key", "The same key with the same body answers the same; with another body it is refused."),
            ("Prefer", "`wait=N`: wait up to N seconds for the order to come to rest (RFC 7240)."),
            ("traceparent", "W3C trace context, carried to every outbound call."),
        ],
        ("post", "/v1/orders/batch") => &[("Idempotency-Key", "Taken with each item's index.")],
        ("patch", _) => &[("If-Match", "The order's ETag, or `*`.")],
        ("get", "/v1/orders/{id}") => &[("If-None-Match", "An ETag: 304 if it is still the order's.")],
        ("get", "/v1/events" | "/v1/orders/{id}/events") => &[("Last-Event-ID", "Resume a stream after this event.")],
        _ => &[],
    }
}

fn description(status: &str) -> &'static str {
    match status {
        "200" => "Done.",
        "202" => "Accepted, and durable.",
        "304" => "Not modified.",
        "400" => "The request is malformed.",
        "404" => "There is no such thing.",
        "409" => "The order does not allow it as it stands.",
        "410" => "The cursor is no longer valid.",
        "412" => "The precondition does not hold.",
        "413" => "Too large.",
        "415" => "Not JSON.",
        "422" => "The data is not what the type asks for: one entry per fault.",
        "428" => "`If-Match` is needed.",
        "429" => "Too many; `Retry-After` says when.",
        "503" => "Not now; `Retry-After` says when.",
        _ => "An error.",
    }
}

fn operation(operation: &Operation) -> Value {
    let (method, path, summary, scope, body, success, answer, refusals) = *operation;
    let mut parameters = Vec::new();
    for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
        parameters.push(json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}));
    }
    for (name, kind, text) in query_parameters(method, path) {
        parameters.push(json!({"name": name, "in": "query", "description": text, "schema": {"type": kind}}));
    }
    for (name, text) in header_parameters(method, path) {
        let required = method == "patch";
        parameters.push(json!({"name": name, "in": "header", "description": text, "required": required, "schema": {"type": "string"}}));
    }
    let content = match (answer, path) {
        (Some(schema), _) => json!({"application/json": {"schema": reference(schema)}}),
        (None, "/healthz" | "/readyz" | "/metrics") => json!({"text/plain": {"schema": {"type": "string"}}}),
        (None, path) if path.ends_with("/events") => {
            json!({"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}})
        }
        (None, _) => json!({"application/json": {"schema": {"type": "object"}}}),
    };
    let mut responses = Map::new();
    responses.insert(success.to_owned(), json!({"description": description(success), "content": content}));
    if success == "202" && path == "/v1/orders" {
        responses.insert("200".to_owned(), json!({"description": "Final within the time that `Prefer: wait` gave.", "content": content}));
    }
    let guarded: &[&str] = if scope.is_empty() { &[] } else { &["401", "403"] };
    for status in refusals.iter().chain(guarded) {
        let answer = match *status {
            "304" => json!({"description": description(status)}),
            "503" if path == "/readyz" => json!({"description": "Not ready.", "content": {"text/plain": {"schema": {"type": "string"}}}}),
            status => problem_response(description(status)),
        };
        responses.insert((*status).to_owned(), answer);
    }
    responses.insert("default".to_owned(), problem_response("Any other problem."));
    responses.sort_keys();
    let mut operation = json!({"summary": summary, "parameters": parameters, "responses": responses});
    if let Some(schema) = body {
        let required = schema != "CancelBody";
        operation["requestBody"] = json!({"required": required, "content": {"application/json": {"schema": reference(schema)}}});
    } else if path == "/v1/orders/batch" {
        let items = json!({"type": "array", "maxItems": 1000, "items": reference("SubmitBody")});
        operation["requestBody"] = json!({"required": true, "content": {
            "application/json": {"schema": items}, "application/x-ndjson": {"schema": {"type": "string"}}}});
    } else if method == "patch" {
        operation["requestBody"] = json!({"required": true, "content": {"application/merge-patch+json": {"schema": {"type": "object"}}}});
    }
    if !scope.is_empty() {
        operation["description"] = json!(format!("Needs the scope `{scope}` where keys are set up."));
        operation["security"] = json!([{}, {"key": []}]);
    }
    operation
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn problem_response(text: &str) -> Value {
    json!({"description": text, "content": {"application/problem+json": {"schema": reference("Problem")}}})
}

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::to_value(Schemas::openapi()).unwrap_or_default();
    let mut paths = Map::new();
    for entry in OPERATIONS {
        let methods = paths.entry(entry.1.to_owned()).or_insert_with(|| json!({}));
        methods[entry.0] = operation(entry);
    }
    document["paths"] = Value::Object(paths);
    document["components"]["securitySchemes"] = json!({"key": {"type": "http", "scheme": "bearer"}});
    document
});

/// The API without the mounts: what does not depend on a server's types.
pub fn openapi() -> Value {
    DOCUMENT.clone()
}

impl App {
    /// The API with the mounts of the present types.
    pub(crate) fn openapi(&self) -> Value {
        let mut document = openapi();
        document["info"]["version"] = json!(self.options.version);
        for definition in self.service.registry().all() {
            let name = definition.order_type.name.to_string();
            let body = json!({"required": true, "content": {"application/json": {"schema": {"type": "object"}, "example": definition.wire_sample()}}});
            let answer = |text: &str| json!({"description": text, "content": {"application/json": {"schema": {"type": "object"}}}});
            let id = json!([{"name": "id", "in": "path", "required": true, "schema": {"type": "string"}}]);
            let sample = definition.sample();
            let described = format!("In the type's own form. The data of its orders: `{sample}`.");
            let refused = answer("Refused, in the type's own form.");
            document["paths"][format!("/{name}")] = json!({
                "post": {"summary": format!("Submit a {name}."), "description": described, "requestBody": body,
                    "responses": {"200": answer("Accepted, or final."), "202": answer("Accepted, and durable."), "default": refused}},
                "get": {"summary": format!("List orders of type {name}."), "responses": {"200": answer("A page."), "default": refused}},
            });
            document["paths"][format!("/{name}/{{id}}")] = json!({
                "get": {"summary": format!("Read a {name}."), "parameters": id,
                    "responses": {"200": answer("The order."), "304": {"description": "Not modified."}, "404": answer("There is no such order."), "default": refused}},
                "patch": {"summary": format!("Change a {name}."), "parameters": id, "requestBody": body,
                    "responses": {"200": answer("The order."), "404": answer("There is no such order."), "default": refused}},
            });
        }
        document
    }
}
