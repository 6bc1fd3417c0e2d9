//! Pages for people and probes: home, documentation, problems, health, metrics. None of them needs anything from elsewhere.

use std::fmt::Write;

use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use comanda_store::StoreError;
use serde_json::Value;

use crate::App;
use crate::access::Caller;
use crate::codes::CODES;
use crate::keys::Scope;
use crate::problem::Problem;
use crate::respond::json_response;

const STYLE: &str = "
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:14px/1.45 ui-monospace,monospace;background:color-mix(in srgb,currentColor 8%,transparent);border-radius:4px}
code{padding:.1em .3em}pre{padding:.8em;overflow:auto}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3em .6em;border-bottom:1px solid color-mix(in srgb,currentColor 20%,transparent);vertical-align:top}
.method{font-weight:600;display:inline-block;min-width:4.5em}details{margin:.4em 0}summary{cursor:pointer}
";

fn html(title: &str, body: &str) -> Response {
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title} · Comanda</title><style>{STYLE}</style><body>{body}</body></html>"
    );
    let mut response = Response::new(Body::from(page));
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

pub(crate) async fn health() -> &'static str {
    "ok\n"
}

/// Ready means: the store takes commits.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    if app.stopping.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    let health = app.service.store().health().await;
    tell_of_readiness(&app, health.as_ref().err());
    match health {
        Ok(()) => "ready\n".into_response(),
        // Anyone may ask: the causes, which can name hosts and roles, are for the log.
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error}\n")).into_response(),
    }
}

/// Writes to the log why this node is not ready, and when it is again: once for each change, however often probes ask.
fn tell_of_readiness(app: &App, error: Option<&StoreError>) {
    let reason = error.map(|error| {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    });
    let mut told = app.unready.lock();
    if *told == reason {
        return;
    }
    match error {
        Some(error) => {
            let error: &(dyn std::error::Error + 'static) = error;
            tracing::warn!(error, "this node is not ready");
        }
        None => tracing::info!("this node is ready again"),
    }
    *told = reason;
}

pub(crate) async fn metrics(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let Some(render) = &app.options.metrics else {
        return Err(Problem::new("not-found", "this server keeps no metrics"));
    };
    let mut response = Response::new(Body::from(render()));
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
    );
    Ok(response)
}

pub(crate) async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    Problem::new("method-not-allowed", detail)
}

pub(crate) async fn home(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let counters = app.service.store().counters().await?;
    let mut body = String::from(
        "<h1>Comanda</h1><p><a href=\"/docs\">API documentation</a> · <a href=\"/openapi.json\">OpenAPI</a> · \
         <a href=\"/metrics\">metrics</a> · <a href=\"/v1/dead-letters\">dead letters</a></p><h2>Orders</h2>\
         <table><tr><th>type<th>status<th>phase<th>orders",
    );
    for count in &counters.counts {
        let (order_type, status) = (escape(&count.order_type), escape(&count.status));
        // Writing to a string cannot fail.
        let _ = write!(
            body,
            "<tr><td>{order_type}<td>{status}<td>{}<td>{}",
            count.phase.name(),
            count.count
        );
    }
    body.push_str("</table><h2>Order types</h2><table><tr><th>type<th>mounted at<th>version");
    for definition in app.service.registry().all() {
        let order_type = &definition.order_type;
        let name = escape(&order_type.name);
        let mut at = format!("<code>/{name}</code>");
        for (path, _) in app
            .options
            .mounts
            .iter()
            .filter(|(_, mounted)| **mounted == *order_type.name)
        {
            let _ = write!(at, " <code>{}</code>", escape(path));
        }
        let hash = order_type.hash.to_string();
        let _ = write!(
            body,
            "<tr><td><a href=\"/v1/order-types/{name}\">{name}</a><td>{at}<td><code>{}</code>",
            &hash[..19]
        );
    }
    body.push_str("</table>");
    Ok(html("Home", &body))
}

pub(crate) async fn openapi(State(app): State<App>) -> Response {
    json_response(StatusCode::OK, &app.openapi())
}

pub(crate) async fn problem(Path(code): Path<String>) -> Result<Response, Problem> {
    let Some(advice) = CODES.iter().find(|advice| advice.code == code) else {
        return Err(Problem::new("not-found", format!("there is no problem `{code}`")));
    };
    let body = format!(
        "<p><a href=\"/docs\">Documentation</a></p><h1>{}</h1><p><code>{}</code>, usually with status {}</p><p>{}</p>",
        escape(advice.title),
        advice.code,
        advice.status,
        escape(advice.advice)
    );
    Ok(html(advice.title, &body))
}

/// The documentation, made from the same description that `/openapi.json` gives.
pub(crate) async fn docs(State(app): State<App>) -> Response {
    let document = app.openapi();
    let mut body = String::from(
        "<h1>Comanda: API</h1><p>Made from <a href=\"/openapi.json\">/openapi.json</a>. Problems are \
         <a href=\"https://www.rfc-editor.org/rfc/rfc9457\">RFC 9457</a>.</p>",
    );
    let empty = serde_json::Map::new();
    for (path, methods) in document["paths"].as_object().unwrap_or(&empty) {
        for (method, operation) in methods.as_object().unwrap_or(&empty) {
            operation_html(&mut body, path, method, operation);
        }
    }
    body.push_str("<h2>Problems</h2><table>");
    for advice in CODES {
        let _ = write!(
            body,
            "<tr><td><a href=\"/docs/problems/{0}\"><code>{0}</code></a><td>{1}<td>{2}",
            advice.code,
            advice.status,
            escape(advice.advice)
        );
    }
    body.push_str("</table><h2>Schemas</h2>");
    for (name, schema) in document["components"]["schemas"].as_object().unwrap_or(&empty) {
        let text = serde_json::to_string_pretty(schema).unwrap_or_default();
        let _ = write!(
            body,
            "<details id=\"{0}\"><summary>{0}</summary><pre>{1}</pre></details>",
            escape(name),
            escape(&text)
        );
    }
    html("API", &body)
}

fn operation_html(body: &mut String, path: &str, method: &str, operation: &Value) {
    let summary = operation["summary"].as_str().unwrap_or_default();
    let _ = write!(
        body,
        "<details><summary><span class=\"method\">{}</span><code>{}</code> {}</summary><p>{}</p>",
        method.to_uppercase(),
        escape(path),
        escape(summary),
        escape(operation["description"].as_str().unwrap_or_default())
    );
    let parameters = operation["parameters"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if !parameters.is_empty() {
        body.push_str("<table>");
        for parameter in parameters {
            let text = |name: &str| escape(parameter[name].as_str().unwrap_or_default());
            let _ = write!(
                body,
                "<tr><td><code>{}</code><td>{}<td>{}",
                text("name"),
                text("in"),
                text("description")
            );
        }
        body.push_str("</table>");
    }
    if !operation["requestBody"].is_null() {
        let text = serde_json::to_string_pretty(&operation["requestBody"]["content"]).unwrap_or_default();
        let _ = write!(body, "<p>Body</p><pre>{}</pre>", escape(&text));
    }
    body.push_str("<table>");
    let empty = serde_json::Map::new();
    for (status, response) in operation["responses"].as_object().unwrap_or(&empty) {
        let _ = write!(
            body,
            "<tr><td>{status}<td>{}",
            escape(response["description"].as_str().unwrap_or_default())
        );
    }
    body.push_str("</table></details>");
}
