//! `/v1/orders`: submit, batch, read, list, change.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::http::header::{CONTENT_TYPE, ETAG, LINK, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use comanda_engine::{Accepted, Change, Found, Idempotency, Precondition, Submission, WaitFor};
use comanda_model::{Attempt, Json, OrderId, Phase};
use comanda_store::ListQuery;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::frame::Caller;
use crate::keys::Scope;
use crate::problem::Problem;
use crate::request::{self, Query, etag};
use crate::{App, body};

/// How many times larger than another body a batch may be.
const BATCH_FACTOR: usize = 8;
/// The most submissions in one batch.
const BATCH_MAX: usize = 1000;

/// A submission, as `/v1` takes it.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SubmitBody {
    /// The order type.
    #[serde(rename = "type")]
    pub(crate) order_type: String,
    /// The client's own id, unique per type.
    #[serde(default)]
    pub(crate) key: Option<String>,
    /// What the type's schema asks for.
    #[schema(value_type = Object)]
    pub(crate) data: Box<RawValue>,
    /// The status to begin in, where the type leaves that to the submission.
    #[serde(default)]
    pub(crate) status: Option<String>,
    /// When to begin (RFC 3339).
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) due_at: Option<Timestamp>,
}

/// A transition by hand.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TransitionBody {
    /// The status to go to.
    to: String,
    /// Why.
    #[serde(default)]
    reason: Option<String>,
    /// A merge patch (RFC 7396) of the data, applied in the same commit.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    data: Option<Box<RawValue>>,
}

/// Why an order is cancelled.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelBody {
    /// Why.
    #[serde(default)]
    reason: Option<String>,
}

pub(crate) async fn submit(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Submit)?;
    let headers = request.headers().clone();
    body::is_json(&headers)?;
    let bytes = body::read(request, app.options.body_bytes_max).await?;
    let submission = submission(body::parse(&bytes)?, &caller, request::idempotency_key(&headers)?);
    let accepted = app.service.submit(submission).await?;
    let repeated = accepted.repeated;
    let (status, found) = app.settled(accepted, &headers).await?;
    let mut response = app.order_response(status, &found);
    let location = format!("/v1/orders/{}", found.stored.order.id());
    insert(response.headers_mut(), LOCATION, &location);
    acceptance_headers(response.headers_mut(), repeated, &headers);
    Ok(response)
}

/// What the answers to submissions say beside the order.
pub(crate) fn acceptance_headers(headers: &mut HeaderMap, repeated: bool, asked: &HeaderMap) {
    if repeated {
        headers.insert(HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
    }
    if let Some(wait) = request::prefer_wait(asked) {
        insert(headers, HeaderName::from_static("preference-applied"), &format!("wait={}", wait.as_secs()));
    }
}

fn submission(body: SubmitBody, caller: &Caller, key: Option<String>) -> Submission {
    Submission {
        order_type: body.order_type,
        key: body.key,
        data: Json::from_valid(body.data.get()),
        value: None,
        status: body.status,
        due_at: body.due_at,
        idempotency: key.map(|key| Idempotency { scope: caller.by.to_string(), key }),
        by: caller.by.clone(),
        traceparent: Some(caller.traceparent.clone()),
    }
}

impl App {
    /// Waits for an accepted order to come to rest, if the client prefers that: 200 if it is final by then.
    pub(crate) async fn settled(&self, accepted: Accepted, headers: &HeaderMap) -> Result<(StatusCode, Found), Problem> {
        let Some(wait) = request::prefer_wait(headers).filter(|wait| !wait.is_zero()) else {
            return Ok((StatusCode::ACCEPTED, accepted.found));
        };
        let id = accepted.found.stored.order.id();
        let found = self.service.wait(id, WaitFor::Rest, wait).await?.unwrap_or(accepted.found);
        let is_final = found.stored.order.head.phase == Phase::Final;
        Ok((if is_final { StatusCode::OK } else { StatusCode::ACCEPTED }, found))
    }

    pub(crate) fn order_response(&self, status: StatusCode, found: &Found) -> Response {
        let mut response = json_response(status, &found.view(self.service.now()));
        insert(response.headers_mut(), ETAG, &etag(found.stored.order.head.etag_version));
        response
    }
}

pub(crate) fn json_response(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(text) => json_bytes(status, text),
        Err(error) => Problem::new("internal", error.to_string()).into_response(),
    }
}

pub(crate) fn json_bytes(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

pub(crate) async fn batch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Submit)?;
    let headers = request.headers().clone();
    let key = request::idempotency_key(&headers)?;
    let lines = body::is_ndjson(&headers);
    if !lines {
        body::is_json(&headers)?;
    }
    let bytes = body::read(request, app.options.body_bytes_max.saturating_mul(BATCH_FACTOR)).await?;
    let parts: Vec<Box<RawValue>> = if lines {
        let line = |(index, line): (usize, &[u8])| {
            body::parse(line).map_err(|problem| Problem { detail: format!("line {}: {}", index + 1, problem.detail), ..problem })
        };
        let filled = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.trim_ascii().is_empty());
        filled.map(line).collect::<Result<_, _>>()?
    } else {
        body::parse(&bytes)?
    };
    if parts.len() > BATCH_MAX {
        return Err(Problem::new("too-large", format!("a batch has at most {BATCH_MAX} items, not {}", parts.len())));
    }
    let mut submissions = Vec::with_capacity(parts.len());
    let parsed: Vec<Result<(), Problem>> = parts
        .iter()
        .enumerate()
        .map(|(index, part)| {
            let key = key.as_ref().map(|key| format!("{key}#{index}"));
            submissions.push(submission(body::parse(part.get().as_bytes())?, &caller, key));
            Ok(())
        })
        .collect();
    let mut answers = app.service.submit_batch(submissions).await.into_iter();
    let now = app.service.now();
    let items: Vec<serde_json::Value> = parsed
        .into_iter()
        .enumerate()
        .map(|(index, parsed)| {
            let answer = match parsed {
                Ok(()) => answers.next().map(|answer| answer.map_err(Problem::from)),
                Err(problem) => Some(Err(problem)),
            };
            match answer {
                Some(Ok(accepted)) => json!({"index": index, "status": 202, "order": accepted.found.view(now)}),
                Some(Err(problem)) => {
                    json!({"index": index, "status": problem.status.as_u16(), "problem": problem.document(&caller.request_id)})
                }
                None => json!({"index": index, "status": 503}),
            }
        })
        .collect();
    Ok(json_response(StatusCode::OK, &json!({"items": items})))
}

/// An order's id, or the problem that there is no such order: an id of another form names none.
pub(crate) fn order_id(text: &str) -> Result<OrderId, Problem> {
    text.parse().map_err(|_| Problem::new("unknown-order", format!("there is no order `{text}`")))
}

pub(crate) async fn get(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let id = order_id(&id)?;
    let mut query = Query::parse(request.uri().query());
    let wait = query.take_parsed::<u64>("wait", "a number of seconds")?;
    let version = query.take_parsed::<u64>("version", "a version")?;
    query.end()?;
    let found = match wait {
        Some(seconds) => {
            let until = version.map_or(WaitFor::Rest, WaitFor::VersionAfter);
            app.service.wait(id, until, Duration::from_secs(seconds.min(60))).await?
        }
        None => app.service.find(id).await?,
    };
    let found = found.ok_or_else(|| Problem::new("unknown-order", format!("there is no order {id}")))?;
    let etag_version = found.stored.order.head.etag_version;
    if request::none_match(request.headers(), etag_version) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        insert(response.headers_mut(), ETAG, &etag(etag_version));
        return Ok(response);
    }
    Ok(app.order_response(StatusCode::OK, &found))
}

/// The filters that lists of orders take.
pub(crate) fn list_query(query: &mut Query) -> Result<ListQuery, Problem> {
    let cursor = query.take("cursor").map(|text| {
        u64::from_str_radix(text.trim_start_matches('o'), 16)
            .map_err(|_| Problem::new("invalid-request", "`cursor` must be what an earlier page gave you"))
    });
    Ok(ListQuery {
        order_type: query.take("type"),
        status: query.take("status"),
        customer: query.take("customer"),
        group: query.take("group"),
        phase: None,
        cause: None,
        accepted_after: query.take_time("acceptedAfter")?,
        accepted_before: query.take_time("acceptedBefore")?,
        limit: query.take_limit()?,
        cursor: cursor.transpose()?,
    })
}

/// The text of a list's cursor.
pub(crate) fn list_cursor(next: u64) -> String {
    format!("o{next:x}")
}

/// Adds a `Link` to the next page (RFC 8288) to an answer.
pub(crate) fn link_next(response: &mut Response, uri: &axum::http::Uri, next: Option<&str>) {
    let Some(next) = next else { return };
    let mut pairs = form_urlencoded::Serializer::new(String::new());
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if name != "cursor" {
            pairs.append_pair(&name, &value);
        }
    }
    pairs.append_pair("cursor", next);
    insert(response.headers_mut(), LINK, &format!("<{}?{}>; rel=\"next\"", uri.path(), pairs.finish()));
}

pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let mut query = Query::parse(request.uri().query());
    let list = list_query(&mut query)?;
    query.end()?;
    let page = app.service.store().list(&list).await?;
    let now = app.service.now();
    let mut items = Vec::with_capacity(page.orders.len());
    for stored in page.orders {
        items.push(app.service.found(stored).await?.view(now));
    }
    let next = page.next.map(list_cursor);
    let mut response = json_response(StatusCode::OK, &json!({"items": items, "nextCursor": next}));
    link_next(&mut response, request.uri(), next.as_deref());
    Ok(response)
}

pub(crate) async fn patch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Submit)?;
    let id = order_id(&id)?;
    let precondition = request::if_match(request.headers())
        .ok_or_else(|| Problem::new("precondition-required", "a PATCH needs `If-Match` with the order's ETag"))?;
    body::is_json(request.headers())?;
    let bytes = body::read(request, app.options.body_bytes_max).await?;
    let patch: Box<RawValue> = body::parse(&bytes)?;
    let change = Change { by: caller.by, reason: None, precondition };
    let found = app.service.edit(id, Json::from_valid(patch.get()), change).await?;
    Ok(app.order_response(StatusCode::OK, &found))
}

pub(crate) async fn transition(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Submit)?;
    let id = order_id(&id)?;
    let precondition = request::if_match(request.headers()).unwrap_or(Precondition::None);
    body::is_json(request.headers())?;
    let bytes = body::read(request, app.options.body_bytes_max).await?;
    let TransitionBody { to, reason, data } = body::parse(&bytes)?;
    let change = Change { by: caller.by, reason, precondition };
    let patch = data.map(|data| Json::from_valid(data.get()));
    let found = app.service.transition(id, &to, patch, change).await?;
    Ok(app.order_response(StatusCode::OK, &found))
}

pub(crate) async fn cancel(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Submit)?;
    let id = order_id(&id)?;
    let precondition = request::if_match(request.headers()).unwrap_or(Precondition::None);
    body::is_json(request.headers())?;
    let bytes = body::read(request, app.options.body_bytes_max).await?;
    let CancelBody { reason } = if bytes.trim_ascii().is_empty() { CancelBody::default() } else { body::parse(&bytes)? };
    let found = app.service.cancel(id, Change { by: caller.by, reason, precondition }).await?;
    Ok(app.order_response(StatusCode::ACCEPTED, &found))
}

pub(crate) async fn attempts(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let id = order_id(&id)?;
    let mut query = Query::parse(request.uri().query());
    let limit = query.take_limit()?;
    let after = query.take_parsed::<u64>("cursor", "what an earlier page gave you")?.unwrap_or(0);
    query.end()?;
    if app.service.store().order(id).await?.is_none() {
        return Err(Problem::new("unknown-order", format!("there is no order {id}")));
    }
    let attempts = app.service.store().attempts(id, after, limit).await?;
    let next = attempts.last().filter(|_| attempts.len() == limit).map(|last| last.number.to_string());
    let items: Vec<AttemptView> = attempts.into_iter().map(AttemptView::from).collect();
    let mut response = json_response(StatusCode::OK, &json!({"items": items, "nextCursor": next}));
    link_next(&mut response, request.uri(), next.as_deref());
    Ok(response)
}

/// One try of a step.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AttemptView {
    number: u64,
    visit: u32,
    attempt: u32,
    #[schema(value_type = String)]
    step: Arc<str>,
    undo: bool,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    ended_at: Timestamp,
    duration_ms: u64,
    outcome: &'static str,
    reason: Option<String>,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        let took = attempt.ended_at.duration_since(attempt.started_at).as_millis();
        Self {
            number: attempt.number,
            visit: attempt.visit,
            attempt: attempt.attempt,
            step: attempt.step,
            undo: attempt.undo,
            started_at: attempt.started_at,
            ended_at: attempt.ended_at,
            duration_ms: u64::try_from(took).unwrap_or(0),
            outcome: attempt.outcome.name(),
            reason: attempt.reason,
        }
    }
}
