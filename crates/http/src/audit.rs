//! `/v1/audit`: who changed what, when, and how it stood before and after. Whatever a route changes that is not one order
//! goes through [`App::audited`]; what is changed of one order stands in its events.

use std::collections::BTreeMap;

use axum::extract::{Extension, Request, State};
use axum::response::Response;
use comanda_engine::{Act, AuditEntry, AuditFilter, AuditOutcome};
use comanda_model::{Event, Json, OrderId};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::App;
use crate::access::Caller;
use crate::keys::Scope;
use crate::listing::Page;
use crate::orders::{order_id, unknown};
use crate::problem::Problem;
use crate::request::Query;

/// How the subject of an order begins.
const ORDER: &str = "order:";
/// How many of an order's events one look reads.
const READ: u64 = 500;

/// A change.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AuditView {
    id: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// Who: `key:ID`; `local` for programs on the server's machine.
    by: String,
    /// What was done, such as `subscription.paused`.
    action: String,
    /// To what, such as `subscription:sub_1` or `order:0190…`.
    subject: String,
    /// `done`, `failed` (nothing was changed), or `unknown`: the server ended in the middle.
    outcome: &'static str,
    /// How it stood before. Of an order: its status, and what was changed of its data by JSON pointer.
    #[schema(value_type = Option<Object>)]
    before: Option<Json>,
    /// How it stood after, or what came of it.
    #[schema(value_type = Option<Object>)]
    after: Option<Json>,
    /// What was changed and is not shown: it was too large, or is erased.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    omitted: Vec<String>,
    /// Why, as whoever did it said.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The code of the problem, where it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<AuditEntry> for AuditView {
    fn from(entry: AuditEntry) -> Self {
        Self {
            id: entry.id,
            at: entry.at,
            by: entry.by.to_string(),
            action: entry.action,
            subject: entry.subject,
            outcome: match entry.outcome {
                AuditOutcome::Done => "done",
                AuditOutcome::Failed => "failed",
                AuditOutcome::Unknown => "unknown",
            },
            before: entry.before,
            after: entry.after,
            omitted: Vec::new(),
            reason: None,
            error: entry.error,
        }
    }
}

impl AuditView {
    /// The change that an order's event tells of.
    fn of_event(order: OrderId, event: Event) -> Self {
        let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
        let mut omitted = Vec::new();
        let text = |status: &str| Json::from(&Value::from(status));
        before.extend(event.from.as_deref().map(|from| ("status".to_owned(), text(from))));
        after.extend(event.to.as_deref().map(|to| ("status".to_owned(), text(to))));
        for changed in event.changed {
            match changed.values {
                Some(values) => {
                    before.extend(values.before.map(|value| (changed.pointer.clone(), value)));
                    after.extend(values.after.map(|value| (changed.pointer, value)));
                }
                None => omitted.push(changed.pointer),
            }
        }
        let object = |members: BTreeMap<String, Json>| {
            let text = (!members.is_empty()).then(|| serde_json::to_string(&members));
            text.and_then(Result::ok).map(Json::from_valid)
        };
        let action = event.kind.wire_name();
        Self {
            id: format!("{order}:{}", event.number),
            at: event.at,
            by: event.by.to_string(),
            action: action.strip_prefix("comanda.").unwrap_or(action).to_owned(),
            subject: format!("{ORDER}{order}"),
            outcome: "done",
            before: object(before),
            after: object(after),
            omitted,
            reason: event.reason,
            error: None,
        }
    }
}

/// Whether a caller did it, and not a step, a deadline or the engine.
fn is_by_caller(by: &str) -> bool {
    by == "local" || by.starts_with("key:")
}

impl App {
    /// Makes a change with its entry in the audit log: written before it, so that nothing is changed without one, and
    /// again when it has ended.
    pub(crate) async fn audited<T>(
        &self,
        caller: &Caller,
        action: &'static str,
        subject: String,
        before: Option<Value>,
        change: impl Future<Output = Result<T, Problem>>,
        after: impl FnOnce(&T) -> Option<Value>,
    ) -> Result<T, Problem> {
        let act = Act {
            by: caller.by.clone(),
            action,
            subject,
            before,
        };
        let begun = self.service.begin_act(act).await?;
        let changed = change.await;
        let ended = match &changed {
            Ok(value) => Ok(after(value)),
            // Its detail can quote what was sent.
            Err(problem) => Err(problem.code.to_owned()),
        };
        self.service.end_act(begun, ended).await;
        changed
    }
}

pub(crate) async fn list(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let mut query = Query::parse(request.uri().query());
    let limit = query.take_limit()?;
    let cursor = query.take("cursor");
    let filter = AuditFilter {
        by: query.take("by"),
        action: query.take("action"),
        subject: query.take("subject"),
        since: query.take_time("since")?,
        until: query.take_time("until")?,
    };
    query.end()?;
    let order = filter
        .subject
        .as_deref()
        .and_then(|subject| subject.strip_prefix(ORDER));
    let (items, next_cursor) = match order {
        Some(id) => of_order(&app, order_id(id)?, &filter, cursor.as_deref(), limit).await?,
        None => {
            let is_key = |cursor: &&str| cursor.bytes().all(|byte| byte.is_ascii_hexdigit());
            if cursor.as_deref().is_some_and(|cursor| !is_key(&cursor)) {
                return Err(wrong_cursor());
            }
            let page = app.service.audit(&filter, cursor.as_deref(), limit).await?;
            (page.entries.into_iter().map(AuditView::from).collect(), page.next)
        }
    };
    Ok(Page { items, next_cursor }.respond(request.uri()))
}

fn wrong_cursor() -> Problem {
    Problem::new("invalid-request", "`cursor` must be what an earlier page gave you")
}

/// What callers changed of one order, newest first.
async fn of_order(
    app: &App,
    id: OrderId,
    filter: &AuditFilter,
    cursor: Option<&str>,
    limit: usize,
) -> Result<(Vec<AuditView>, Option<String>), Problem> {
    let store = app.service.store();
    let stored = store.order(id).await?.ok_or_else(|| unknown(id))?;
    let mut until = match cursor {
        Some(text) => text.parse::<u64>().map_err(|_| wrong_cursor())?.saturating_sub(1),
        None => stored.order.head.events,
    };
    until = until.min(stored.order.head.events);
    let mut items = Vec::new();
    while until > 0 {
        let after = until.saturating_sub(READ);
        let count = usize::try_from(until - after).unwrap_or(0);
        let events = store.history(id, after, count).await?;
        for event in events.into_iter().rev() {
            let number = event.number;
            let is_asked_for = is_by_caller(&event.by) && filter.matches(&summary(id, &event));
            if !is_asked_for {
                continue;
            }
            items.push(AuditView::of_event(id, event));
            if items.len() == limit {
                return Ok((items, (number > 1).then(|| number.to_string())));
            }
        }
        until = after;
    }
    Ok((items, None))
}

/// An event as an entry, for what a filter asks of it.
fn summary(id: OrderId, event: &Event) -> AuditEntry {
    let action = event.kind.wire_name();
    AuditEntry {
        id: String::new(),
        at: event.at,
        by: event.by.clone(),
        action: action.strip_prefix("comanda.").unwrap_or(action).to_owned(),
        subject: format!("{ORDER}{id}"),
        outcome: AuditOutcome::Done,
        before: None,
        after: None,
        error: None,
    }
}
