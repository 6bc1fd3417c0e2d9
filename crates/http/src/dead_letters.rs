//! `/v1/dead-letters`: what failed, why, and putting it back to work.

use std::sync::Arc;

use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use comanda_deliver::AttemptView;
use comanda_engine::{DeadLetterFilter, DeadLetterView, Found, Redrive, Sweep, SweepItem, Task};
use comanda_model::decision::RedriveFrom;
use comanda_model::{Json, OrderId, Phase};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::access::Caller;
use crate::keys::Scope;
use crate::listing::{Page, list_cursor, list_query};
use crate::orders::{order_id, unknown};
use crate::problem::Problem;
use crate::request::Query;
use crate::respond::json_response;
use crate::{App, body};

/// The most causes that are listed.
const CAUSES_MAX: usize = 500;
/// The most orders that a job can be given by their ids: what is kept of it is bounded.
const JOB_IDS_MAX: usize = 300;
/// The most attempts that are shown with a dead letter.
const ATTEMPTS_MAX: usize = 1000;

/// Which dead letters; all that is set must hold.
#[derive(Debug, Default, Deserialize, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FilterBody {
    /// These orders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    order_ids: Option<Vec<OrderId>>,
    /// Of this type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    order_type: Option<String>,
    /// Of this cause, as `/v1/dead-letter-causes` names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

impl From<DeadLetterFilter> for FilterBody {
    fn from(filter: DeadLetterFilter) -> Self {
        Self {
            order_ids: filter.order_ids,
            order_type: filter.order_type,
            cause: filter.cause,
        }
    }
}

impl From<FilterBody> for DeadLetterFilter {
    fn from(body: FilterBody) -> Self {
        Self {
            order_ids: body.order_ids,
            order_type: body.order_type,
            cause: body.cause,
        }
    }
}

/// How dead letters are put back to work.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RedriveBody {
    /// Which. It must be there; an empty one is all.
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
    /// At most so many per second. Then it is a job: it goes on in the background, and the answer is 202 with the job.
    #[serde(default)]
    #[schema(minimum = 1)]
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
    /// Which. It must be there: everything is given up by an empty filter, never by leaving something out.
    filter: FilterBody,
    /// Why.
    reason: String,
    /// Only tell what would be done.
    #[serde(default)]
    #[serde(rename = "dryRun")]
    dry_run: bool,
}

fn view(app: &App, found: &Found) -> Value {
    let mut order = json!(found.view(app.service.now()));
    let dead = found.stored.order.head.dead.as_ref();
    order["deadLetter"] = json!(dead.map(DeadLetterView::from));
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
    let next_cursor = page.next.map(list_cursor);
    Ok(Page { items, next_cursor }.respond(request.uri()))
}

pub(crate) async fn one(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let id = order_id(&id)?;
    let found = app.service.find(id).await?;
    let found = found.ok_or_else(|| unknown(id))?;
    if found.stored.order.head.phase != Phase::Dead {
        return Err(Problem::new(
            "not-a-dead-letter",
            format!("order {id} is not a dead letter"),
        ));
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
    let (parts, body) = request.into_parts();
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let body: RedriveBody = body::parse(&bytes)?;
    if body.rate_per_second == Some(0) {
        return Err(Problem::new("invalid-request", "`ratePerSecond` must be at least 1"));
    }
    let current_version = body.type_version == Version::Current;
    let patch = body.data.map(|data| Json::from_valid(data.get()));
    if body.rate_per_second.is_some() && !body.dry_run {
        if body
            .filter
            .order_ids
            .as_ref()
            .is_some_and(|ids| ids.len() > JOB_IDS_MAX)
        {
            let detail = format!("with `ratePerSecond`, `orderIds` names at most {JOB_IDS_MAX}");
            return Err(Problem::new("invalid-request", detail));
        }
        let task = Task::Redrive {
            filter: body.filter.into(),
            from_start: matches!(body.from, RedriveStart::Start),
            current_version,
            patch,
            rate_per_second: body.rate_per_second,
        };
        return app.start_job(task, &caller).await;
    }
    let redrive = Redrive {
        from: match body.from {
            RedriveStart::FailedStep => RedriveFrom::FailedStep,
            RedriveStart::Start => RedriveFrom::Start,
        },
        current_version,
        patch,
        dry_run: body.dry_run,
    };
    let filter = DeadLetterFilter::from(body.filter);
    let asked = json!({"filter": filter, "from": match redrive.from {
        RedriveFrom::FailedStep => "failedStep",
        RedriveFrom::Start => "start",
    }, "currentVersion": current_version, "edited": redrive.patch.is_some()});
    let change = async { Ok(app.service.redrive(filter, redrive, caller.by.clone()).await?) };
    let swept = app
        .sweep(&caller, "dead-letters.redriven", asked, body.dry_run, change)
        .await?;
    Ok(sweep_response(swept, body.dry_run))
}

pub(crate) async fn discard(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let (parts, body) = request.into_parts();
    body::is_json(&parts.headers)?;
    let bytes = body::read(body, &app.options).await?;
    let body: DiscardBody = body::parse(&bytes)?;
    let filter = DeadLetterFilter::from(body.filter);
    let asked = json!({"filter": filter});
    let change = async {
        let by = caller.by.clone();
        Ok(app.service.discard(filter, body.reason, body.dry_run, by).await?)
    };
    let swept = app
        .sweep(&caller, "dead-letters.discarded", asked, body.dry_run, change)
        .await?;
    Ok(sweep_response(swept, body.dry_run))
}

impl App {
    /// Changes many dead letters, with one entry in the audit log; a dry run changes nothing and leaves none. What became
    /// of each order stands in its events.
    async fn sweep(
        &self,
        caller: &Caller,
        action: &'static str,
        asked: Value,
        dry_run: bool,
        change: impl Future<Output = Result<Sweep, Problem>>,
    ) -> Result<Sweep, Problem> {
        if dry_run {
            return change.await;
        }
        let after =
            |sweep: &Sweep| Some(json!({"matched": sweep.matched, "changed": sweep.changed, "more": sweep.more}));
        let subject = "dead-letters".to_owned();
        self.audited(caller, action, subject, Some(asked), change, after).await
    }
}

/// What a call did.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SweepView {
    /// How many dead letters the filter names.
    matched: u64,
    /// How many were changed; in a dry run: would be.
    changed: u64,
    /// Each one that was handled, oldest first.
    items: Vec<SweepItemView>,
    /// Whether there are more than one call handles: call again.
    more: bool,
    dry_run: bool,
}

/// What became of one dead letter.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SweepItemView {
    #[schema(value_type = String)]
    order_id: OrderId,
    #[serde(rename = "type")]
    #[schema(value_type = String)]
    order_type: Arc<str>,
    changed: bool,
    /// Why it was left as it is, if it was.
    error: Option<String>,
}

fn sweep_response(sweep: Sweep, dry_run: bool) -> Response {
    let item = |item: SweepItem| SweepItemView {
        order_id: item.order,
        order_type: item.order_type,
        changed: item.outcome.is_ok(),
        error: item.outcome.err(),
    };
    let view = SweepView {
        matched: sweep.matched,
        changed: sweep.changed,
        items: sweep.items.into_iter().map(item).collect(),
        more: sweep.more,
        dry_run,
    };
    json_response(StatusCode::OK, &view)
}
