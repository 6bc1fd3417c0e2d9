//! `POST /v1/orders/batch`: many submissions in one request, each accepted or refused alone.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use comanda_engine::Found;
use comanda_model::OrderId;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::access::Caller;
use crate::keys::Scope;
use crate::orders::{applied_minimal, submission};
use crate::problem::{Document, Problem};
use crate::respond::json_response;
use crate::{App, body, request};

/// The most submissions in one batch.
const BATCH_MAX: usize = 1000;

#[derive(Serialize)]
struct Answer<'a, O> {
    items: Vec<Item<'a, O>>,
}

/// What became of one submission.
#[derive(Serialize)]
struct Item<'a, O> {
    index: usize,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<&'a O>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Document<'a>>,
}

/// No more of an order than where to find it, and where it stands.
#[derive(Serialize)]
struct Reference {
    id: OrderId,
    status: Arc<str>,
}

pub(crate) async fn submit(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Submit)?;
    let (parts, body) = request.into_parts();
    let lines = body::is_ndjson(&parts.headers);
    if !lines {
        body::is_json(&parts.headers)?;
    }
    let key = request::idempotency_key(&parts.headers)?;
    let minimal = request::prefer_minimal(&parts.headers);
    let bytes = body::read_batch(body, &app.options).await?;
    let items: Vec<&RawValue> = if lines { by_line(&bytes)? } else { body::parse(&bytes)? };
    if items.len() > BATCH_MAX {
        let detail = format!("a batch has at most {BATCH_MAX} items, not {}", items.len());
        return Err(Problem::new("too-large", detail));
    }
    // Each order counts as a request; the request itself was counted already.
    let standing = match caller.rate {
        Some(_) => Box::pin(app.count(&caller, items.len().saturating_sub(1))).await?,
        None => None,
    };
    let mut submissions = Vec::with_capacity(items.len());
    let mut refused = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let key = key.as_ref().map(|key| format!("{key}#{index}"));
        match body::parse(item.get().as_bytes()) {
            Ok(body) => {
                submissions.push(submission(body, &caller, key));
                refused.push(None);
            }
            Err(problem) => refused.push(Some(problem)),
        }
    }
    // They refer to the connection's buffer. While anything does, the connection takes a new one for its next read.
    drop((parts, bytes));
    let mut answers = app.service.submit_batch(submissions).await.into_iter();
    let found = refused.into_iter().map(|refused| match refused {
        Some(problem) => Err(problem),
        None => match answers.next() {
            Some(answer) => Ok(answer?.found),
            None => Err(Problem::new("internal", "the item was not answered")),
        },
    });
    let mut response = if minimal {
        let reference = |found: Found| Reference {
            id: found.stored.order.id(),
            status: found.stored.order.head.status.clone(),
        };
        let mut response = answer(found.map(|found| found.map(reference)).collect(), &caller);
        applied_minimal(response.headers_mut());
        response
    } else {
        let now = app.service.now();
        answer(found.map(|found| found.map(|found| found.view(now))).collect(), &caller)
    };
    if let Some(standing) = standing {
        standing.tell(response.headers_mut());
    }
    Ok(response)
}

fn answer<O: Serialize>(outcomes: Vec<Result<O, Problem>>, caller: &Caller) -> Response {
    let items = outcomes
        .iter()
        .enumerate()
        .map(|(index, outcome)| Item {
            index,
            status: outcome
                .as_ref()
                .map_or_else(|problem| problem.status, |_| StatusCode::ACCEPTED)
                .as_u16(),
            order: outcome.as_ref().ok(),
            problem: outcome
                .as_ref()
                .err()
                .map(|problem| problem.document(&caller.request_id)),
        })
        .collect();
    json_response(StatusCode::OK, &Answer { items })
}

/// The items of a batch that is lines of JSON. Empty lines are none.
fn by_line(bytes: &[u8]) -> Result<Vec<&RawValue>, Problem> {
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(index, line)| {
            body::parse(line).map_err(|problem| {
                // The parser saw only this line, and counted it as the first.
                let detail = problem.detail.replace("line 1 ", "");
                Problem {
                    detail: format!("line {}: {detail}", index + 1),
                    ..problem
                }
            })
        })
        .collect()
}
