//! The frame of every request: its id and trace, who asks, the host check, the time limit, what is counted and logged, and
//! the body of a problem.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;
use uuid::Uuid;

use crate::App;
use crate::keys::Scope;
use crate::problem::Problem;
use crate::request;

/// Who asks, and in what trace.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// `local`, or `key:ID`.
    pub(crate) by: Arc<str>,
    /// What the caller's key allows; `None` where no key is needed.
    scopes: Option<Vec<Scope>>,
    /// The trace context, the client's or a new one.
    pub(crate) traceparent: String,
    /// How long the request may take, the client's waiting not counted.
    pub(crate) request_id: String,
}

impl Caller {
    /// Refuses a caller whose key lacks a scope.
    pub(crate) fn needs(&self, scope: Scope) -> Result<(), Problem> {
        match &self.scopes {
            Some(scopes) if !scopes.contains(&scope) => {
                Err(Problem::new("forbidden", format!("this needs a key with the scope `{}`", scope.name())))
            }
            _ => Ok(()),
        }
    }
}

/// Passes a request through.
pub(crate) async fn frame(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let request_id = request_id(request.headers());
    let traceparent = request::traceparent(request.headers()).unwrap_or_else(new_trace);
    let method = request.method().clone();
    let route = match request.extensions().get::<MatchedPath>() {
        Some(path) => path.as_str().to_owned(),
        None => app.mount_name(request.uri().path()),
    };
    let trace_id = traceparent.get(3..35).unwrap_or_default().to_owned();
    let span = tracing::info_span!("request", %method, route, request_id, trace_id);
    let open = matches!(route.as_str(), "/healthz" | "/readyz" | "/docs" | "/docs/problems/{code}" | "/openapi.json")
        || method == Method::OPTIONS;
    let answered = async {
        let caller = match app.caller(request.headers(), open, traceparent, request_id.clone()) {
            Ok(caller) => caller,
            Err(problem) => return problem.into_response(),
        };
        let limit = app.options.request_timeout + waits(&request);
        request.extensions_mut().insert(caller);
        match tokio::time::timeout(limit, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::new("request-timeout", format!("no answer within {limit:?}")).into_response(),
        }
    };
    let mut response = answered.instrument(span.clone()).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = problem.render(&request_id);
    }
    let status = response.status();
    let took = started.elapsed();
    span.in_scope(|| {
        if status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE {
            tracing::error!(status = status.as_u16(), ?took, "answered");
        } else {
            tracing::debug!(status = status.as_u16(), ?took, "answered");
        }
    });
    count(&app, &method, route, status, took);
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

fn count(_: &App, method: &Method, route: String, status: StatusCode, took: Duration) {
    let method = match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PATCH => "PATCH",
        Method::OPTIONS => "OPTIONS",
        Method::HEAD => "HEAD",
        // A label for whatever a client makes up would grow without bound.
        _ => "other",
    };
    metrics::counter!("comanda_http_requests_total", "route" => route.clone(), "method" => method, "status" => status.as_u16().to_string())
        .increment(1);
    metrics::histogram!("comanda_http_request_duration_seconds", "route" => route, "method" => method)
        .record(took.as_secs_f64());
}

/// How much of its time a request spends waiting because it asks to.
fn waits(request: &Request) -> Duration {
    let asked = request::prefer_wait(request.headers()).unwrap_or_default();
    let polled = request::Query::parse(request.uri().query()).take("wait").and_then(|wait| wait.parse().ok());
    asked + Duration::from_secs(polled.unwrap_or(0).min(60))
}

fn request_id(headers: &HeaderMap) -> String {
    let sane = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    let sent = headers.get("x-request-id").and_then(|id| id.to_str().ok()).filter(sane);
    sent.map_or_else(|| Uuid::now_v7().simple().to_string(), str::to_owned)
}

fn new_trace() -> String {
    let trace = Uuid::new_v4().simple();
    let span = Uuid::new_v4().simple().to_string();
    format!("00-{trace}-{}-01", &span[..16])
}

impl App {
    fn caller(
        &self,
        headers: &HeaderMap,
        open: bool,
        traceparent: String,
        request_id: String,
    ) -> Result<Caller, Problem> {
        let local = Caller { by: "local".into(), scopes: None, traceparent, request_id };
        if self.options.keys.is_empty() {
            let host = headers.get(HOST).and_then(|host| host.to_str().ok());
            // HTTP/2 has the host in the URI, which only a client that is no browser could forge here.
            if self.loopback && host.is_some_and(|host| !request::is_loopback_host(host)) {
                let host = host.unwrap_or_default();
                return Err(Problem::new("host-not-allowed", format!("`{host}` is no name of this machine")));
            }
            return Ok(local);
        }
        if open {
            return Ok(local);
        }
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = bearer.and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer ")));
        let secret = bearer.or_else(|| headers.get("x-api-key").and_then(|value| value.to_str().ok()));
        let secret = secret.ok_or_else(|| Problem::new("unauthorized", "the request carries no API key"))?;
        let key = self.options.keys.find(secret.trim());
        let key = key.ok_or_else(|| Problem::new("unauthorized", "the API key is unknown or revoked"))?;
        Ok(Caller { by: format!("key:{}", key.id).into(), scopes: Some(key.scopes), ..local })
    }

    /// The name under which a mount's requests are counted.
    fn mount_name(&self, path: &str) -> String {
        match self.mounted(path) {
            Some(mounted) if mounted.id.is_some() => format!("/{}/{{id}}", mounted.definition.order_type.name),
            Some(mounted) => format!("/{}", mounted.definition.order_type.name),
            None => "unknown".to_owned(),
        }
    }
}
