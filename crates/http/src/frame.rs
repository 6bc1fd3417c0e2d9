//! The frame of every request: its id and trace, who asks, the time limit, what is counted and logged, and the body of
//! a problem.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::ORIGIN;
use axum::http::{HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::future::Either;
use percent_encoding::percent_decode_str;
use tracing::Instrument;

use crate::App;
use crate::access::{Asked, Caller, request_id, traceparent};
use crate::mount::Mounted;
use crate::problem::Problem;
use crate::request::{self, WAIT_MAX};
use crate::threads::is_short;

/// The most time that putting back dead letters at a given rate takes: as many as one call handles, one per second.
const SWEEP_MAX: Duration = Duration::from_secs(1000);

/// Passes a request through.
pub(crate) async fn frame(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let parent = request::traceparent(request.headers());
    let caller = Caller::local(traceparent(parent.as_deref()), request_id(request.headers()));
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let mounted = match matched {
        Some(_) => None,
        None => app.mounted(request.uri().path()).map(Arc::new),
    };
    let method = request.method().clone();
    let route = match (&matched, &mounted) {
        (Some(path), _) => path.as_str().to_owned(),
        (None, Some(mounted)) => mounted.route(),
        (None, None) => "unknown".to_owned(),
    };
    let request_id = caller.request_id.clone();
    let span = tracing::info_span!(
        "request", otel.kind = "server", %method, route, request_id, parent, traceparent = caller.traceparent,
        trace_id = caller.traceparent.get(3..35).unwrap_or_default(),
        order_id = tracing::field::Empty,
    );
    let asked = Asked {
        method: &method,
        uri: request.uri(),
        headers: request.headers(),
        mounted: mounted.as_deref(),
        open: is_open(&route) || method == Method::OPTIONS,
    };
    let admitted = app.admit(&asked, caller);
    let limit = time_limit(&app, &method, &route, &request);
    let origin = mounted.as_ref().and_then(|_| request.headers().get(ORIGIN).cloned());
    let answered = async {
        let caller = match admitted {
            Ok(caller) => caller,
            Err(problem) => return refusal(mounted.as_deref(), problem, origin.as_ref()),
        };
        // The routes' own answer to this would be no problem but a line of text.
        if percent_decode_str(request.uri().path()).decode_utf8().is_err() {
            let problem = Problem::new("not-found", "nothing is here: the path is not UTF-8 when it is decoded");
            return refusal(mounted.as_deref(), problem, origin.as_ref());
        }
        let standing = match caller.rate {
            None => None,
            // On the heap: most callers have no rate, and the future of their request need not hold this.
            Some(_) => match Box::pin(app.count(&caller, 1)).await {
                Ok(standing) => standing,
                Err(problem) => return refusal(mounted.as_deref(), problem, origin.as_ref()),
            },
        };
        request.extensions_mut().insert(caller);
        if let Some(mounted) = &mounted {
            request.extensions_mut().insert(mounted.clone());
        }
        let is_short = is_short(&route, mounted.as_deref(), &request);
        let answer = next.run(request);
        let answer = match app.shared_threads.as_ref().filter(|_| !is_short) {
            Some(shared) => Either::Right(Box::pin(shared.run(answer))),
            None => Either::Left(answer),
        };
        let mut response = match tokio::time::timeout(limit, answer).await {
            Ok(response) => response,
            Err(_) => {
                let problem = Problem::new("request-timeout", format!("no answer within {limit:?}"));
                refusal(mounted.as_deref(), problem, origin.as_ref())
            }
        };
        if let Some(standing) = standing {
            standing.tell(response.headers_mut());
        }
        response
    };
    let mut response = answered.instrument(span.clone()).await;
    let problem = response.extensions_mut().remove::<Problem>();
    let (status, took) = (response.status(), started.elapsed());
    span.in_scope(|| {
        let (code, detail) = problem
            .as_ref()
            .map_or(("", ""), |problem| (problem.code, &problem.detail));
        if status.is_server_error() {
            tracing::info!(status = status.as_u16(), code, detail, ?took, "answered");
        } else {
            tracing::debug!(status = status.as_u16(), code, ?took, "answered");
        }
    });
    if let Some(problem) = problem.filter(|problem| !problem.is_written) {
        response = problem.write(&request_id, response);
    }
    app.meters.answered(&route, &method, status, took);
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert("x-request-id", value);
    }
    response
}

/// A problem, in the form of the mount that it happened at.
fn refusal(mounted: Option<&Mounted>, problem: Problem, origin: Option<&HeaderValue>) -> Response {
    match mounted {
        Some(mounted) => mounted.refusal(problem, origin),
        None => problem.into_response(),
    }
}

/// What everyone may have, key or not.
fn is_open(route: &str) -> bool {
    matches!(
        route,
        "/healthz"
            | "/readyz"
            | "/docs"
            | "/docs/problems/{code}"
            | "/openapi.json"
            // The token, or the signature, is the right.
            | "/v1/callbacks/{token}"
            | "/v1/links/{token}"
            | "/v1/intake/{name}"
    )
}

/// How long a request may take: the client's own waiting is added, and the pace that it asks for.
fn time_limit(app: &App, method: &Method, route: &str, request: &Request) -> Duration {
    let limit = app.options.request_timeout;
    if *method == Method::POST && route.starts_with("/v1/dead-letters/") {
        return limit + SWEEP_MAX;
    }
    if route == "/v1/queues/{name}/claims" {
        return limit + crate::claims::WAIT_MAX;
    }
    let asked = request::prefer_wait(request.headers()).unwrap_or_default();
    let polled = request::Query::parse(request.uri().query())
        .take("wait")
        .and_then(|wait| wait.parse().ok())
        .map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds).min(WAIT_MAX));
    limit + asked + polled
}

/// Notes which order a request is about, for the log.
pub(crate) fn about(order: impl std::fmt::Display) {
    tracing::Span::current().record("order_id", tracing::field::display(order));
}
