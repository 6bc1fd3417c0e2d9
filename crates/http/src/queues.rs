//! `/v1/queues`: how much stands in them, and the dead letters of those that statuses fill.

use axum::extract::{Extension, Path, RawQuery, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use comanda_store::{DeadItemMove, QueueCount};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::access::Caller;
use crate::keys::Scope;
use crate::problem::Problem;
use crate::request::{Query, within};
use crate::respond::{Items, json_response};
use crate::{App, body};

/// The most dead letters of a queue that one request moves.
const DEAD_IDS_MAX: u64 = 1000;

/// How much stands in a queue.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QueueView {
    /// Its name.
    name: String,
    /// How much is in it: what waits, what is leased, and what is tried again later. Of a lane only the first.
    depth: u64,
    /// How much of it is leased.
    leased: u64,
    /// How much is in its own dead letters.
    dead: u64,
    /// Since when that which has waited longest could be claimed; null if nothing waits.
    #[schema(value_type = Option<String>, format = DateTime)]
    oldest_at: Option<Timestamp>,
    /// The same as an age; 0 if nothing waits.
    oldest_age_seconds: u64,
}

fn view(count: QueueCount, now: Timestamp) -> QueueView {
    let age = count.oldest_at.map(|oldest_at| now.duration_since(oldest_at).as_secs());
    QueueView {
        name: count.queue,
        depth: count.depth,
        leased: count.leased,
        dead: count.dead,
        oldest_at: count.oldest_at,
        oldest_age_seconds: age.and_then(|age| u64::try_from(age).ok()).unwrap_or(0),
    }
}

pub(crate) async fn list(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let queues = app.service.queues().await?;
    let now = app.service.now();
    let items: Vec<QueueView> = queues.into_iter().map(|count| view(count, now)).collect();
    Ok(json_response(StatusCode::OK, &Items { items }))
}

pub(crate) async fn one(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let queue = app.service.queue(&name).await?;
    Ok(json_response(StatusCode::OK, &view(queue, app.service.now())))
}

/// Which dead letters of a queue.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeadItemsBody {
    /// Their ids, from 1 to 1000.
    ids: Vec<u64>,
}

/// A dead letter of a queue.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeadItemView {
    /// Names it within the queue.
    id: u64,
    order_id: String,
    /// The status that the order had entered.
    status: String,
    /// The version of the change that entered it.
    version: u64,
    /// How often it was handed out.
    attempts: u32,
    #[schema(value_type = String, format = DateTime)]
    died_at: Timestamp,
    reason: String,
}

/// A page of a queue's dead letters.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeadItemPage {
    /// Oldest first.
    items: Vec<DeadItemView>,
    /// Where the next page begins; null when there is nothing more.
    next_cursor: Option<String>,
}

/// How many dead letters of a queue were moved.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DeadItemsMoved {
    /// Those that were there.
    changed: u64,
}

pub(crate) async fn dead_letters(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let mut query = Query::parse(query.as_deref());
    let limit = query.take_limit()?;
    let after = query
        .take_parsed::<u64>("cursor", "the `nextCursor` of a page")?
        .unwrap_or(0);
    query.end()?;
    let dead = app.service.dead_items(&name, after, limit).await?;
    let next_cursor = dead
        .last()
        .filter(|_| dead.len() == limit)
        .map(|last| last.position.to_string());
    let view = |dead: comanda_store::DeadItem| DeadItemView {
        id: dead.position,
        order_id: dead.order.to_string(),
        status: dead.status.to_string(),
        version: dead.version,
        attempts: dead.attempt,
        died_at: dead.died_at,
        reason: dead.reason,
    };
    let items = dead.into_iter().map(view).collect();
    Ok(json_response(StatusCode::OK, &DeadItemPage { items, next_cursor }))
}

pub(crate) async fn redrive(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    app.move_dead(&caller, &name, request, DeadItemMove::Redrive).await
}

pub(crate) async fn discard(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    app.move_dead(&caller, &name, request, DeadItemMove::Discard).await
}

impl App {
    async fn move_dead(
        &self,
        caller: &Caller,
        queue: &str,
        request: Request,
        to: DeadItemMove,
    ) -> Result<Response, Problem> {
        caller.needs(Scope::Operate)?;
        let (parts, body) = request.into_parts();
        body::is_json(&parts.headers)?;
        let asked: DeadItemsBody = body::parse(&body::read(body, &self.options).await?)?;
        within("ids", asked.ids.len() as u64, 1, DEAD_IDS_MAX)?;
        let action = match to {
            DeadItemMove::Redrive => "queue.dead-letters-redriven",
            DeadItemMove::Discard => "queue.dead-letters-discarded",
        };
        let change = async { Ok(self.service.move_dead_items(queue, &asked.ids, to).await?) };
        let before = Some(serde_json::json!({"ids": asked.ids}));
        let after = |changed: &u64| Some(serde_json::json!({"changed": changed}));
        let subject = format!("queue:{queue}");
        let changed = self.audited(caller, action, subject, before, change, after).await?;
        Ok(json_response(StatusCode::OK, &DeadItemsMoved { changed }))
    }
}
