//! `/v1/queues/{name}/claims` and `/v1/claims`: programs outside claim work, go on saying that they are at it, and answer.

use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use comanda_engine::{Answered, CommandError, Pull, Pulled};
use comanda_model::decision::StepOutcome;
use comanda_model::{Json, Token};
use comanda_store::{ItemClaim, ItemToken};
use indexmap::IndexMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::access::Caller;
use crate::keys::Scope;
use crate::problem::Problem;
use crate::request::within;
use crate::respond::{Items, json_response};
use crate::{App, body};

/// The most items of one claim, or of one answer.
const ITEMS_MAX: usize = 100;
/// The longest that a claim waits for work.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(30);
/// The longest lease.
const LEASE_SECONDS_MAX: u64 = 3600;
/// The longest name of a worker.
const WORKER_BYTES_MAX: usize = 128;
/// The longest that a worker can ask to be given work again only later.
const DELAY_SECONDS_MAX: u64 = 7 * 24 * 3600;
/// The longest reason; more is cut off where it is stored, but must not be sent without end.
const REASON_BYTES_MAX: usize = 16 * 1024;

/// What a worker claims.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct ClaimBody {
    /// At most so many items; from 1 to 100. Default 1.
    #[schema(minimum = 1, maximum = 100)]
    max: Option<usize>,
    /// How long to wait until there is one; at most 30. Default 0.
    #[schema(maximum = 30)]
    wait_seconds: Option<u64>,
    /// For how long they are claimed; from 1 to 3600. Default 30.
    #[schema(minimum = 1, maximum = 3600)]
    lease_seconds: Option<u64>,
    /// The worker's name, for people; at most 128 bytes. Default: the API key's.
    worker: Option<String>,
}

/// Work that is done.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompleteBody {
    /// From 1 to 100. Each is answered alone.
    items: Vec<CompleteItem>,
}

/// One item that is done.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CompleteItem {
    /// As the claim gave it.
    token: String,
    /// What later steps can read, as `steps.NAME`; at most 16 KiB.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    result: Option<Box<RawValue>>,
}

/// Work that could not be done.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FailBody {
    /// From 1 to 100. Each is answered alone.
    items: Vec<FailItem>,
}

/// One item that could not be done.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FailItem {
    /// As the claim gave it.
    token: String,
    /// Whether another try may help.
    #[serde(default)]
    kind: FailKind,
    /// Why, for people.
    reason: String,
    /// Try again no sooner than after this; at most seven days.
    #[serde(default)]
    #[schema(maximum = 604_800)]
    delay_seconds: Option<u64>,
}

impl FailItem {
    /// What one item says wrong must not keep the others from counting.
    fn check(&self) -> Result<(), Problem> {
        within("delaySeconds", self.delay_seconds.unwrap_or(0), 0, DELAY_SECONDS_MAX)?;
        if self.reason.trim().is_empty() || self.reason.len() > REASON_BYTES_MAX {
            let detail = format!("`reason` must say why, in at most {REASON_BYTES_MAX} bytes");
            return Err(Problem::new("invalid-request", detail));
        }
        Ok(())
    }
}

/// Whether another try may help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FailKind {
    /// It may.
    #[default]
    Retry,
    /// The answer is no, for good.
    Refuse,
}

/// Work that goes on.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct HeartbeatBody {
    /// From 1 to 100. Each is answered alone.
    items: Vec<HeartbeatItem>,
    /// For how long from now; from 1 to 3600. Default 30.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 3600)]
    lease_seconds: Option<u64>,
}

/// One item that is worked on.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeartbeatItem {
    /// As the claim gave it.
    token: String,
}

/// What became of one answer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClaimOutcome {
    /// As it was sent.
    token: String,
    /// `done`: it counts, and is durable. `stale`: the token does not hold the work (any more); nothing was changed.
    /// `error`: nothing was changed, and `problem` says why; it can be sent again.
    status: &'static str,
    /// For a heartbeat: when the claim now ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime, required = false)]
    lease_until: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>, required = false)]
    problem: Option<Value>,
}

/// Work that was claimed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ClaimedItem {
    /// What the answer must come with. Whoever has it can answer.
    token: String,
    order_id: String,
    order_type: String,
    /// The client's own id.
    key: Option<String>,
    /// Where the order stands; in a status's queue, the status that it had entered.
    status: String,
    /// The order's version; in a status's queue, that of the change that entered the status.
    version: u64,
    /// The step whose work this is; null in a status's queue.
    step: Option<String>,
    /// Which try this is, from 1.
    attempt: u32,
    /// Whether what the step did is to be taken back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    undo: bool,
    /// The same on every try, so that its effect can be made to happen once.
    idempotency_key: String,
    /// For an undo: the key of the work that it takes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    undoes: Option<String>,
    /// When the claim ends, unless a heartbeat extends it.
    #[schema(value_type = String, format = DateTime)]
    lease_until: Timestamp,
    /// The order's data as it stands.
    #[schema(value_type = Object)]
    data: Json,
    /// What earlier steps left, by step.
    #[schema(value_type = Object)]
    results: IndexMap<String, Json>,
}

impl ClaimedItem {
    fn of_step(pulled: Pulled) -> Self {
        let accepted = &pulled.order.accepted;
        let results = pulled.order.results.iter();
        Self {
            token: pulled.token.expose(),
            order_id: accepted.id.to_string(),
            order_type: accepted.order_type.to_string(),
            key: accepted.key.clone(),
            status: pulled.order.head.status.to_string(),
            version: pulled.order.head.version,
            step: Some(pulled.step.to_string()),
            attempt: pulled.attempt,
            undo: pulled.undo,
            idempotency_key: pulled.idempotency_key,
            undoes: pulled.undoes,
            lease_until: pulled.lease_until,
            results: results
                .map(|(step, result)| (step.to_string(), result.clone()))
                .collect(),
            data: pulled.order.data,
        }
    }
}

impl ClaimedItem {
    fn of_status(claim: ItemClaim) -> Self {
        let accepted = &claim.order.accepted;
        let results = claim.order.results.iter();
        Self {
            token: claim.token.expose(),
            order_id: accepted.id.to_string(),
            order_type: accepted.order_type.to_string(),
            key: accepted.key.clone(),
            status: claim.status.to_string(),
            version: claim.version,
            step: None,
            attempt: claim.attempt,
            undo: false,
            idempotency_key: format!("{}:q{:x}", accepted.id, claim.token.position),
            undoes: None,
            lease_until: claim.lease_until,
            results: results
                .map(|(step, result)| (step.to_string(), result.clone()))
                .collect(),
            data: claim.order.data,
        }
    }
}

pub(crate) async fn claim(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(queue): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Work)?;
    let (parts, body) = request.into_parts();
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let asked: ClaimBody = if bytes.is_empty() {
        ClaimBody::default()
    } else {
        body::parse(&bytes)?
    };
    let max = asked.max.unwrap_or(1);
    within("max", max as u64, 1, ITEMS_MAX as u64)?;
    let wait = asked.wait_seconds.unwrap_or(0);
    within("waitSeconds", wait, 0, WAIT_MAX.as_secs())?;
    let worker = asked.worker.unwrap_or_else(|| caller.by.to_string());
    if worker.is_empty() || worker.len() > WORKER_BYTES_MAX || worker.chars().any(char::is_control) {
        let detail = format!("`worker` must be a name of 1 to {WORKER_BYTES_MAX} bytes");
        return Err(Problem::new("invalid-request", detail));
    }
    let pulled = app
        .service
        .pull(Pull {
            queue,
            worker,
            max,
            wait: Duration::from_secs(wait),
            lease: lease(asked.lease_seconds)?,
        })
        .await?;
    let work = pulled.work.into_iter().map(ClaimedItem::of_step);
    let items = work
        .chain(pulled.items.into_iter().map(ClaimedItem::of_status))
        .collect();
    Ok(json_response(StatusCode::OK, &Items { items }))
}

pub(crate) async fn complete(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let asked: CompleteBody = read(&app, &caller, request).await?;
    let items = bounded(asked.items)?;
    let answers = items.into_iter().map(|item| {
        let result = item.result.map(|result| Json::from_valid(result.get()));
        app.answer(item.token, StepOutcome::Done { result })
    });
    Ok(outcomes(futures_util::future::join_all(answers).await))
}

pub(crate) async fn fail(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let asked: FailBody = read(&app, &caller, request).await?;
    let items = bounded(asked.items)?;
    let answers = items.into_iter().map(async |item| {
        if let Err(problem) = item.check() {
            return ClaimOutcome::error(item.token, problem);
        }
        let outcome = match item.kind {
            FailKind::Refuse => StepOutcome::Refused { reason: item.reason },
            FailKind::Retry => StepOutcome::Failed {
                reason: item.reason,
                retry_after: item.delay_seconds.map(Duration::from_secs),
            },
        };
        app.answer(item.token, outcome).await
    });
    Ok(outcomes(futures_util::future::join_all(answers).await))
}

pub(crate) async fn heartbeat(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let asked: HeartbeatBody = read(&app, &caller, request).await?;
    let lease = lease(asked.lease_seconds)?;
    let items = bounded(asked.items)?;
    let answers = items.into_iter().map(|item| app.extend(item.token, lease));
    Ok(outcomes(futures_util::future::join_all(answers).await))
}

impl App {
    async fn answer(&self, token: String, outcome: StepOutcome) -> ClaimOutcome {
        if let Ok(item) = token.parse::<ItemToken>() {
            let answered = self.service.answer_item(item, outcome).await;
            return ClaimOutcome::of(token, answered);
        }
        let Ok(parsed) = token.parse::<Token>() else {
            return ClaimOutcome::of(token, Ok(Answered::Stale));
        };
        let answered = self.service.answer(parsed, outcome).await;
        ClaimOutcome::of(token, answered)
    }

    async fn extend(&self, token: String, lease: Duration) -> ClaimOutcome {
        let extended = match (token.parse::<ItemToken>(), token.parse::<Token>()) {
            (Ok(item), _) => self.service.heartbeat_item(item, lease).await,
            (_, Ok(work)) => self.service.heartbeat(work, lease).await,
            _ => Ok(None),
        };
        match extended {
            Ok(Some(until)) => ClaimOutcome {
                lease_until: Some(until),
                ..ClaimOutcome::of(token, Ok(Answered::Done))
            },
            Ok(None) => ClaimOutcome::of(token, Ok(Answered::Stale)),
            Err(error) => ClaimOutcome::of(token, Err(error)),
        }
    }
}

impl ClaimOutcome {
    fn of(token: String, answered: Result<Answered, CommandError>) -> Self {
        let status = match answered {
            Ok(Answered::Done) => "done",
            Ok(Answered::Stale) => "stale",
            Err(error) => return Self::error(token, Problem::from(error)),
        };
        Self {
            token,
            status,
            lease_until: None,
            problem: None,
        }
    }

    fn error(token: String, problem: Problem) -> Self {
        let told = json!({"code": problem.code, "status": problem.status.as_u16(), "detail": problem.detail});
        Self {
            token,
            status: "error",
            lease_until: None,
            problem: Some(told),
        }
    }
}

fn outcomes(items: Vec<ClaimOutcome>) -> Response {
    json_response(StatusCode::OK, &Items { items })
}

async fn read<T: serde::de::DeserializeOwned>(app: &App, caller: &Caller, request: Request) -> Result<T, Problem> {
    caller.needs(Scope::Work)?;
    let (parts, body) = request.into_parts();
    body::is_json(&parts.headers)?;
    // A hundred results of 16 KiB are more than a body of one thing may have.
    body::parse(&body::read_batch(body, &app.options).await?)
}

fn bounded<T>(items: Vec<T>) -> Result<Vec<T>, Problem> {
    within("items", items.len() as u64, 1, ITEMS_MAX as u64)?;
    Ok(items)
}

fn lease(seconds: Option<u64>) -> Result<Duration, Problem> {
    let seconds = seconds.unwrap_or(30);
    within("leaseSeconds", seconds, 1, LEASE_SECONDS_MAX)?;
    Ok(Duration::from_secs(seconds))
}
