//! `/v1/dead-letters`: what failed, why, and putting it back to work.

use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use comanda_engine::{DeadLetterFilter, Found, Redrive, Sweep};
use comanda_model::decision::RedriveFrom;
use comanda_model::{Json, OrderId, Phase};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::frame::Caller;
use crate::keys::Scope;
use crate::orders::{AttemptView, json_response, link_next, list_cursor, list_query, order_id};
use crate::problem::Problem;
use crate::request::Query;
use crate::{App, body};

/// The most causes that are listed.
const CAUSES_MAX: usize = 500;
/// The most attempts that are shown with a dead letter.
const ATTEMPTS_MAX: usize = 1000;

/// Which dead letters; all that is set must hold.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FilterBody {
    /// These orders.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>)]
    order_ids: Option<Vec<OrderId>>,
    /// Of this type.
    #[serde(default, rename = "type")]
    order_type: Option<String>,
    /// Of this cause, as `/v1/dead-letter-causes` names it.
    #[serde(default)]
    cause: Option<String>,
}

impl From<FilterBody> for DeadLetterFilter {
    fn from(body: FilterBody) -> Self {
        Self { order_ids: body.order_ids, order_type: body.order_type, cause: body.cause }
    }
}

/// How dead letters are put back to work.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RedriveBody {
    /// Which; all where it is left out.
    #[serde(default)]
    filter: FilterBody,
    /// From the step that was exhausted, or from the start.
    #[serde(default)]
    from: RedriveStart,
    /// On the version of the type that the order was accepted under, or on the current one.
    #[serde(default)]
    type_version: Version,
    /// A merge patch (RFC 7396) of the data.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    data: Option<Box<RawValue>>,
    /// At most so many per second.
    #[serde(default)]
    rate_per_second: Option<u32>,
    /// Only tell what would be done.
    #[serde(default)]
    dry_run: bool,
}

/// Where a redrive takes up.
#[derive(Clone, Copy, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RedriveStart {
    /// At the step that was exhausted.
    #[default]
    FailedStep,
    /// At the initial status, after everything has been taken back.
    Start,
}

/// Which version of its type an order goes on with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Version {
    /// The one that it was accepted under.
    #[default]
    Accepted,
    /// The current one.
    Current,
}

/// Which dead letters are given up, and why.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DiscardBody {
    /// Which; at least one of its members must be set.
    filter: FilterBody,
    /// Why.
    reason: String,
}

fn view(app: &App, found: &Found) -> Value {
    let mut order = json!(found.view(app.service.now()));
    let dead = found.stored.order.head.dead.as_ref();
    order["deadLetter"] = json!(dead.map(|dead| {
        json!({"at": dead.at, "step": dead.step, "cause": dead.cause, "reason": dead.reason, "undoFailed": dead.undo_failed})
    }));
    order["traceparent"] = json!(found.stored.order.accepted.traceparent);
    order
}

pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let mut query = Query::parse(request.uri().query());
    let cause = query.take("cause");
    let mut list = list_query(&mut query)?;
    query.end()?;
    list.cause = cause;
    list.phase = Some(Phase::Dead);
    let page = app.service.store().list(&list).await?;
    let mut items = Vec::with_capacity(page.orders.len());
    for stored in page.orders {
        items.push(view(&app, &app.service.found(stored).await?));
    }
    let next = page.next.map(list_cursor);
    let mut response = json_response(StatusCode::OK, &json!({"items": items, "nextCursor": next}));
    link_next(&mut response, request.uri(), next.as_deref());
    Ok(response)
}

pub(crate) async fn one(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let id = order_id(&id)?;
    let found = app.service.find(id).await?;
    let found = found.ok_or_else(|| Problem::new("unknown-order", format!("there is no order {id}")))?;
    if found.stored.order.head.phase != Phase::Dead {
        return Err(Problem::new("not-a-dead-letter", format!("order {id} is not a dead letter")));
    }
    let attempts = app.service.store().attempts(id, 0, ATTEMPTS_MAX).await?;
    let mut answer = view(&app, &found);
    answer["attempts"] = json!(attempts.into_iter().map(AttemptView::from).collect::<Vec<_>>());
    Ok(json_response(StatusCode::OK, &answer))
}

pub(crate) async fn causes(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let causes = app.service.store().causes(CAUSES_MAX).await?;
    let items: Vec<Value> = causes
        .into_iter()
        .map(|cause| {
            json!({"cause": cause.cause, "type": cause.order_type, "count": cause.count, "example": cause.example})
        })
        .collect();
    Ok(json_response(StatusCode::OK, &json!({"items": items})))
}

pub(crate) async fn redrive(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    body::is_json(request.headers())?;
    let bytes = body::read(request, app.options.body_bytes_max).await?;
    let body: RedriveBody = body::parse(&bytes)?;
    if body.rate_per_second == Some(0) {
        return Err(Problem::new("invalid-request", "`ratePerSecond` must be at least 1"));
    }
    let redrive = Redrive {
        from: match body.from {
            RedriveStart::FailedStep => RedriveFrom::FailedStep,
            RedriveStart::Start => RedriveFrom::Start,
        },
        current_version: body.type_version == Version::Current,
        patch: body.data.map(|data| Json::from_valid(data.get())),
        rate_per_second: body.rate_per_second,
        dry_run: body.dry_run,
    };
    let sweep = app.service.redrive(body.filter.into(), redrive, caller.by).await?;
    Ok(sweep_response(&sweep, body.dry_run))
}

pub(crate) async fn discard(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    body::is_json(request.headers())?;
    let bytes = body::read(request, app.options.body_bytes_max).await?;
    let body: DiscardBody = body::parse(&bytes)?;
    let FilterBody { order_ids, order_type, cause } = &body.filter;
    if order_ids.is_none() && order_type.is_none() && cause.is_none() {
        let detail = "`filter` must name orders, a type or a cause: everything is not given up by leaving something out";
        return Err(Problem::new("invalid-request", detail));
    }
    let sweep = app.service.discard(body.filter.into(), body.reason, caller.by).await?;
    Ok(sweep_response(&sweep, false))
}

fn sweep_response(sweep: &Sweep, dry_run: bool) -> Response {
    let items: Vec<Value> = sweep
        .items
        .iter()
        .map(|item| {
            json!({"orderId": item.order, "type": item.order_type, "changed": item.outcome.is_ok(), "reason": item.outcome.as_ref().err()})
        })
        .collect();
    let answer = json!({"matched": sweep.matched, "changed": sweep.changed, "items": items, "more": sweep.more, "dryRun": dry_run});
    json_response(StatusCode::OK, &answer)
}
