//! `/v1/intake`: orders that arrive from outside. A signed webhook is taken here; what sources have rejected is looked
//! at, tried again, or given up.

use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use comanda_intake::{Intake, IntakeError, Rejected, Retried, SourceState, Taken, Which};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::access::Caller;
use crate::frame::about;
use crate::keys::Scope;
use crate::listing::Page;
use crate::problem::Problem;
use crate::respond::json_response;
use crate::{App, body};

/// What became of a message.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct MessageTaken {
    /// `accepted`: it is an order now. `repeated`: it was one before. `rejected`: no order can be made of it, and it is
    /// kept for someone to look at.
    status: &'static str,
    /// The order.
    order_id: Option<String>,
    /// Why it was rejected.
    reason: Option<String>,
}

/// A source of orders.
#[derive(utoipa::ToSchema)]
#[schema(as = IntakeSource)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "only its description is used; the answer is `comanda_intake`'s")]
pub(crate) struct SourceView {
    name: String,
    /// `webhook`, `feed` or `directory`.
    kind: String,
    /// The order type that its messages become.
    #[serde(rename = "type")]
    order_type: String,
    /// How many orders were made of its messages since the start.
    accepted: u64,
    /// How many of its messages had come before, since the start.
    repeated: u64,
    /// How many rejected messages are kept.
    rejected: u64,
    /// Why it does not go on, while it does not.
    last_error: Option<String>,
}

/// All sources.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct SourceList {
    #[schema(value_type = Vec<SourceView>)]
    items: Vec<SourceState>,
}

/// A message that no order could be made of.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RejectedView {
    /// The message's id, unique within its source.
    id: String,
    reason: String,
    /// When it was tried last.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// How large it is.
    bytes: u64,
    /// Whether it was too large to be kept whole; then it cannot be tried again.
    truncated: bool,
}

/// Rejected messages, longest tried first: all there are.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RejectedList {
    items: Vec<RejectedView>,
    next_cursor: Option<String>,
}

/// Which rejected messages: those with these ids, or all.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WhichBody {
    /// Those with these ids.
    #[serde(default)]
    ids: Vec<String>,
    /// All of the source.
    #[serde(default)]
    all: bool,
}

/// What became of rejected messages that were tried again.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct RetriedView {
    /// How many are orders now.
    accepted: u64,
    /// Those that are still rejected.
    rejected: Vec<StillRejected>,
}

/// A message that was rejected again.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct StillRejected {
    id: String,
    reason: String,
}

/// What was given up.
#[derive(Serialize, utoipa::ToSchema)]
pub(crate) struct DiscardedView {
    /// How many messages.
    discarded: u64,
}

impl From<IntakeError> for Problem {
    fn from(error: IntakeError) -> Self {
        let detail = error.to_string();
        match error {
            IntakeError::Unknown(_) | IntakeError::NotWebhook(_) => Self::new("unknown-source", detail),
            IntakeError::Webhook(_) => Self::new("webhook-unverified", detail),
            IntakeError::Busy { after } => Self::new("busy", detail).after(after),
            IntakeError::Full(_) => Self::new("intake-full", detail),
            IntakeError::Secret { .. } | IntakeError::Client(_) => Self::new("internal", detail),
            IntakeError::Store(error) => error.into(),
        }
    }
}

impl From<Rejected> for RejectedView {
    fn from(rejected: Rejected) -> Self {
        Self {
            id: rejected.id,
            reason: rejected.reason,
            at: rejected.at,
            bytes: rejected.bytes,
            truncated: rejected.truncated,
        }
    }
}

impl App {
    fn intake(&self) -> Result<&Intake, Problem> {
        let none = || Problem::new("unknown-source", "this server has no sources");
        self.options.intake.as_ref().ok_or_else(none)
    }
}

pub(crate) async fn receive(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    let intake = app.intake()?;
    let (parts, body) = request.into_parts();
    let bytes = body::read(body, &app.options).await?;
    let taken = intake.receive(&name, &parts.headers, bytes).await?;
    let (status, order, reason) = match taken {
        Taken::Accepted(order) => ("accepted", Some(order), None),
        Taken::Repeated(order) => ("repeated", Some(order), None),
        Taken::Rejected(reason) => ("rejected", None, Some(reason)),
    };
    if let Some(order) = order {
        about(order);
    }
    let order_id = order.map(|order| order.to_string());
    // A rejected one is taken too: it is kept here, and would be no better if it were sent again.
    Ok(json_response(
        StatusCode::ACCEPTED,
        &MessageTaken {
            status,
            order_id,
            reason,
        },
    ))
}

pub(crate) async fn list(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let items = match &app.options.intake {
        Some(intake) => intake.sources().await,
        None => Vec::new(),
    };
    Ok(json_response(StatusCode::OK, &SourceList { items }))
}

pub(crate) async fn rejected(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let rejected = app.intake()?.rejected(&name).await?;
    let items: Vec<RejectedView> = rejected.into_iter().map(RejectedView::from).collect();
    let next_cursor = None;
    Ok(Page { items, next_cursor }.respond(request.uri()))
}

pub(crate) async fn retry(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let which = which(&app, request).await?;
    let intake = app.intake()?;
    let before = Some(told(&which));
    let change = async { Ok(intake.retry(&name, which).await?) };
    let after = |retried: &Retried| Some(json!({"accepted": retried.accepted, "rejected": retried.rejected.len()}));
    let subject = format!("source:{name}");
    let retried = app
        .audited(&caller, "intake.retried", subject, before, change, after)
        .await?;
    let rejected = retried.rejected.into_iter();
    let view = RetriedView {
        accepted: retried.accepted,
        rejected: rejected.map(|(id, reason)| StillRejected { id, reason }).collect(),
    };
    Ok(json_response(StatusCode::OK, &view))
}

pub(crate) async fn discard(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let which = which(&app, request).await?;
    let intake = app.intake()?;
    let before = Some(told(&which));
    let change = async { Ok(intake.discard(&name, which).await?) };
    let after = |discarded: &u64| Some(json!({"discarded": discarded}));
    let subject = format!("source:{name}");
    let discarded = app
        .audited(&caller, "intake.discarded", subject, before, change, after)
        .await?;
    Ok(json_response(StatusCode::OK, &DiscardedView { discarded }))
}

/// Which rejected messages, as the audit log keeps it.
fn told(which: &Which) -> Value {
    match which {
        Which::All => json!({"all": true}),
        Which::Ids(ids) => json!({"ids": ids}),
    }
}

async fn which(app: &App, request: Request) -> Result<Which, Problem> {
    let (parts, body) = request.into_parts();
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let WhichBody { ids, all } = body::parse(&bytes)?;
    match (ids.is_empty(), all) {
        (false, false) => Ok(Which::Ids(ids)),
        (true, true) => Ok(Which::All),
        _ => Err(Problem::new("invalid-request", "say which: `ids`, or `all`")),
    }
}
