//! `/v1/callbacks/{token}`: the result of a call that was answered with 202, and the yes or no of a person.
//!
//! A callback needs no API key: its token is the right to answer for one attempt, and for nothing else.

use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use comanda_engine::{Callback, CallbackError, Change, Precondition};
use comanda_model::decision::StepOutcome;
use comanda_model::{Json, Token};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::access::Caller;
use crate::frame::about;
use crate::keys::Scope;
use crate::orders::order_id;
use crate::problem::Problem;
use crate::request;
use crate::respond::json_response;
use crate::{App, body};

/// What a callback is answered with.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct CallbackTaken {
    /// `done`: the callback counted.
    status: &'static str,
}

/// Why an order is approved.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApproveBody {
    /// Why.
    #[serde(default)]
    reason: Option<String>,
}

/// Why an order is rejected.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RejectBody {
    /// Why.
    reason: String,
}

/// What a callback's body says: an object with `kind` `refuse` or `retry` is no; everything else is the result.
fn outcome(text: Option<Json>) -> Result<StepOutcome, Problem> {
    let Some(result) = text else {
        return Ok(StepOutcome::Done { result: None });
    };
    let value = result
        .value()
        .map_err(|error| Problem::new("malformed-json", error.to_string()))?;
    let member = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    let reason = || member("reason").unwrap_or_else(|| "the callback gave no reason".to_owned());
    Ok(match member("kind").as_deref() {
        Some("refuse") => StepOutcome::Refused { reason: reason() },
        Some("retry") => StepOutcome::Failed {
            reason: reason(),
            retry_after: None,
        },
        _ => StepOutcome::Done { result: Some(result) },
    })
}

pub(crate) async fn take(
    State(app): State<App>,
    Path(token): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let token: Token = token.parse().map_err(|_| CallbackError::Unknown)?;
    about(token.order);
    let (parts, body) = request.into_parts();
    let bytes = body::read(body, &app.options).await?;
    let text = match bytes.trim_ascii() {
        [] => None,
        text => {
            body::is_json(&parts.headers)?;
            let raw: Box<serde_json::value::RawValue> = body::parse(text)?;
            Some(Json::from_valid(raw.get()))
        }
    };
    let callback = Callback {
        token,
        outcome: outcome(text)?,
    };
    app.service.callback(callback).await?;
    Ok(json_response(StatusCode::OK, &CallbackTaken { status: "done" }))
}

pub(crate) async fn approve(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let id = order_id(&id)?;
    let (parts, body) = request.into_parts();
    let precondition = request::if_match(&parts.headers).unwrap_or(Precondition::None);
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let ApproveBody { reason } = match bytes.trim_ascii() {
        [] => ApproveBody::default(),
        text => body::parse(text)?,
    };
    let change = Change {
        by: caller.by,
        reason,
        precondition,
    };
    let found = app.service.approve(id, change).await?;
    Ok(app.order_response(StatusCode::OK, &found))
}

pub(crate) async fn reject(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let id = order_id(&id)?;
    let (parts, body) = request.into_parts();
    let precondition = request::if_match(&parts.headers).unwrap_or(Precondition::None);
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let RejectBody { reason } = body::parse(&bytes)?;
    let change = Change {
        by: caller.by,
        reason: None,
        precondition,
    };
    let found = app.service.reject(id, reason, change).await?;
    Ok(app.order_response(StatusCode::OK, &found))
}
