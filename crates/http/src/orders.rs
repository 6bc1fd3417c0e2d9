//! `/v1/orders`: submit, batch, read, list, change.

use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::http::header::{ETAG, LOCATION};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use comanda_deliver::AttemptView;
use comanda_engine::{Accepted, Change, Found, Idempotency, Precondition, Submission, WaitFor};
use comanda_model::{Json, OrderId, Phase};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::access::Caller;
use crate::frame::about;
use crate::keys::Scope;
use crate::listing::{Page, list_cursor, list_query};
use crate::problem::Problem;
use crate::request::{self, Query, etag, wait_asked};
use crate::respond::{insert, json_response};
use crate::{App, body};

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
    let (parts, body) = request.into_parts();
    body::is_json(&parts.headers)?;
    let key = request::idempotency_key(&parts.headers)?;
    let wait = request::prefer_wait(&parts.headers);
    let minimal = request::prefer_minimal(&parts.headers);
    let bytes = body::read(body, &app.options).await?;
    let submission = submission(body::parse(&bytes)?, &caller, key);
    // Both refer to the connection's buffer. While anything does, the connection takes a new one for its next read.
    drop((parts, bytes));
    let accepted = app.service.submit(submission).await?;
    let repeated = accepted.repeated;
    about(accepted.found.stored.order.id());
    let (status, found) = app.settled(accepted, wait).await?;
    let mut response = match minimal {
        true => tagged(status.into_response(), &found),
        false => app.order_response(status, &found),
    };
    let location = format!("/v1/orders/{}", found.stored.order.id());
    insert(response.headers_mut(), LOCATION, &location);
    acceptance_headers(response.headers_mut(), repeated, wait);
    if minimal {
        applied_minimal(response.headers_mut());
    }
    Ok(response)
}

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Tells that no more was answered than the client prefers.
pub(crate) fn applied_minimal(headers: &mut HeaderMap) {
    headers.append(PREFERENCE_APPLIED, HeaderValue::from_static("return=minimal"));
}

/// What the answers to submissions say beside the order; `wait` is how long the client prefers to wait.
pub(crate) fn acceptance_headers(headers: &mut HeaderMap, repeated: bool, wait: Option<Duration>) {
    if repeated {
        headers.insert(
            HeaderName::from_static("idempotency-replayed"),
            HeaderValue::from_static("true"),
        );
    }
    if let Some(wait) = wait {
        insert(headers, PREFERENCE_APPLIED, &format!("wait={}", wait.as_secs()));
    }
}

/// What a body of `/v1` submits.
pub(crate) fn submission(body: SubmitBody, caller: &Caller, key: Option<String>) -> Submission {
    Submission {
        order_type: body.order_type,
        key: body.key,
        data: Json::from_valid(body.data.get()),
        value: None,
        status: body.status,
        due_at: body.due_at,
        idempotency: key.map(|key| Idempotency {
            kept: None,
            scope: caller.by.to_string(),
            key,
        }),
        by: caller.by.clone(),
        traceparent: Some(caller.traceparent.clone()),
    }
}

impl App {
    /// Waits for an accepted order to come to rest, if the client prefers that: 200 if it is final by then.
    pub(crate) async fn settled(
        &self,
        accepted: Accepted,
        wait: Option<Duration>,
    ) -> Result<(StatusCode, Found), Problem> {
        let Some(wait) = wait.filter(|wait| !wait.is_zero()) else {
            return Ok((StatusCode::ACCEPTED, accepted.found));
        };
        let id = accepted.found.stored.order.id();
        let found = Box::pin(self.service.wait(id, WaitFor::Rest, wait))
            .await?
            .unwrap_or(accepted.found);
        let is_final = found.stored.order.head.phase == Phase::Final;
        Ok((if is_final { StatusCode::OK } else { StatusCode::ACCEPTED }, found))
    }

    pub(crate) fn order_response(&self, status: StatusCode, found: &Found) -> Response {
        tagged(json_response(status, &found.view(self.service.now())), found)
    }
}

/// An answer with the order's entity tag.
pub(crate) fn tagged(mut response: Response, found: &Found) -> Response {
    let tag = etag(found.stored.order.head.etag_version);
    insert(response.headers_mut(), ETAG, &tag);
    response
}

/// An order's id, or the problem that there is no such order: an id of another form names none.
pub(crate) fn order_id(text: &str) -> Result<OrderId, Problem> {
    let id = text.parse().map_err(|_| unknown(text))?;
    about(id);
    Ok(id)
}

/// The problem that there is no such order.
pub(crate) fn unknown(id: impl std::fmt::Display) -> Problem {
    Problem::new("unknown-order", format!("there is no order `{id}`"))
}

/// The answer to a client that has the order as it stands.
pub(crate) fn not_modified(headers: &HeaderMap, found: &Found) -> Option<Response> {
    let etag_version = found.stored.order.head.etag_version;
    request::none_match(headers, etag_version).then(|| {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        insert(response.headers_mut(), ETAG, &etag(etag_version));
        response
    })
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
    let wait = wait_asked(&mut query)?;
    query.end()?;
    let found = app.service.find(id).await?.ok_or_else(|| unknown(id))?;
    let found = request::awaited(&app.service, found, wait).await?;
    let unchanged = not_modified(request.headers(), &found);
    Ok(unchanged.unwrap_or_else(|| app.order_response(StatusCode::OK, &found)))
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
    let next_cursor = page.next.map(list_cursor);
    Ok(Page { items, next_cursor }.respond(request.uri()))
}

pub(crate) async fn patch(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Submit)?;
    let id = order_id(&id)?;
    let (parts, body) = request.into_parts();
    let precondition = request::if_match(&parts.headers).ok_or_else(|| {
        Problem::new(
            "precondition-required",
            "a PATCH needs `If-Match` with the order's ETag",
        )
    })?;
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let patch: Box<RawValue> = body::parse(&bytes)?;
    let change = Change {
        by: caller.by,
        reason: None,
        precondition,
    };
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
    let (parts, body) = request.into_parts();
    let precondition = request::if_match(&parts.headers).unwrap_or(Precondition::None);
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let TransitionBody { to, reason, data } = body::parse(&bytes)?;
    let change = Change {
        by: caller.by,
        reason,
        precondition,
    };
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
    let (parts, body) = request.into_parts();
    let precondition = request::if_match(&parts.headers).unwrap_or(Precondition::None);
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    // A cancel without a reason may also go without a body.
    let CancelBody { reason } = match bytes.trim_ascii() {
        [] => CancelBody::default(),
        text => body::parse(text)?,
    };
    let change = Change {
        by: caller.by,
        reason,
        precondition,
    };
    let found = app.service.cancel(id, change).await?;
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
    let after = query
        .take_parsed::<u64>("cursor", "what an earlier page gave you")?
        .unwrap_or(0);
    query.end()?;
    if app.service.store().order(id).await?.is_none() {
        return Err(unknown(id));
    }
    // One more than asked for tells whether there is a next page.
    let mut attempts = app.service.store().attempts(id, after, limit + 1).await?;
    let more = attempts.len() > limit;
    attempts.truncate(limit);
    let next_cursor = attempts.last().filter(|_| more).map(|last| last.number.to_string());
    let items: Vec<AttemptView> = attempts.into_iter().map(AttemptView::from).collect();
    Ok(Page { items, next_cursor }.respond(request.uri()))
}
