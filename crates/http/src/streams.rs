//! Events: pages of the feed and of one order's history, and live streams of both (server-sent events) that resume where
//! they broke off.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use comanda_model::{Event, OrderId, Phase};
use comanda_store::{Cursor, FeedStart, StoreError};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::App;
use crate::frame::Caller;
use crate::keys::Scope;
use crate::orders::{json_response, link_next, order_id};
use crate::problem::Problem;
use crate::request::Query;

/// How many events a stream reads at once, which bounds what it holds in memory.
const STREAM_PAGE: usize = 100;
/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a stream looks by itself, in case an announcement was missed or came from another node.
const POLL: Duration = Duration::from_secs(5);

/// An event in the form of CloudEvents 1.0.
pub(crate) fn cloud_event(order: OrderId, order_type: &str, event: &Event) -> Value {
    let mut data = json!({
        "orderType": order_type, "from": event.from, "to": event.to, "by": event.by, "reason": event.reason,
    });
    if !event.changed.is_empty() {
        data["changed"] = json!(event.changed);
    }
    json!({
        "specversion": "1.0",
        "id": format!("{order}:{}", event.number),
        "source": "/orders",
        "type": event.kind.wire_name(),
        "subject": order,
        "time": event.at,
        "sequence": event.number.to_string(),
        "datacontenttype": "application/json",
        "data": data,
    })
}

fn wants_stream(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).is_some_and(|accept| accept.contains("text/event-stream"))
}

fn last_event_id(headers: &HeaderMap) -> Option<String> {
    headers.get("last-event-id").and_then(|id| id.to_str().ok()).map(str::to_owned)
}

fn number(text: &str) -> Result<u64, Problem> {
    text.parse().map_err(|_| Problem::new("invalid-request", format!("`{text}` is not the number of an event")))
}

fn cursor(text: &str) -> Result<Cursor, Problem> {
    text.parse().map_err(|error: comanda_store::query::InvalidCursor| Problem::new("invalid-request", error.to_string()))
}

impl App {
    fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{} live streams are open", self.options.streams_max);
            Problem { retry_after: Some(Duration::from_secs(5)), ..Problem::new("too-many-streams", detail) }
        })
    }
}

pub(crate) async fn of_order(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let id = order_id(&id)?;
    let mut query = Query::parse(request.uri().query());
    let limit = query.take_limit()?;
    let after = query.take("cursor").or_else(|| last_event_id(request.headers()));
    let after = after.map(|after| number(&after)).transpose()?.unwrap_or(0);
    query.end()?;
    let stored = app.service.store().order(id).await?;
    let stored = stored.ok_or_else(|| Problem::new("unknown-order", format!("there is no order {id}")))?;
    let order_type = stored.order.accepted.order_type.to_string();
    if wants_stream(request.headers()) {
        let permit = app.stream_permit()?;
        let position = app.service.store().position();
        let state = OrderStream { app, id, order_type, after, queue: VecDeque::new(), position, _permit: permit };
        return Ok(respond(unfold(state, OrderStream::next)));
    }
    let events = app.service.store().history(id, after, limit).await?;
    let next = events.last().filter(|_| events.len() == limit).map(|last| last.number.to_string());
    let items: Vec<Value> = events.iter().map(|event| cloud_event(id, &order_type, event)).collect();
    let mut response = json_response(StatusCode::OK, &json!({"items": items, "nextCursor": next}));
    link_next(&mut response, request.uri(), next.as_deref());
    Ok(response)
}

pub(crate) async fn of_all(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let mut query = Query::parse(request.uri().query());
    let limit = query.take_limit()?;
    let order_type = query.take("type");
    let after = query.take("cursor").or_else(|| last_event_id(request.headers()));
    query.end()?;
    let after = after.map(|after| cursor(&after)).transpose()?;
    if wants_stream(request.headers()) {
        let permit = app.stream_permit()?;
        let position = app.service.store().position();
        // A live stream without a place begins now; a page begins at the oldest event that is kept.
        let from = after.map_or(FeedStart::Newest, FeedStart::After);
        let state =
            FeedStream { app, from, order_type, queue: VecDeque::new(), position, ended: false, _permit: permit };
        return Ok(respond(unfold(state, FeedStream::next)));
    }
    let page = app.service.store().feed(after.map_or(FeedStart::Oldest, FeedStart::After), limit).await?;
    let wanted = |name: &str| order_type.as_deref().is_none_or(|wanted| wanted == name);
    let items: Vec<Value> = page
        .events
        .iter()
        .filter(|event| wanted(&event.order_type))
        .map(|event| cloud_event(event.order, &event.order_type, &event.event))
        .collect();
    let next = page.next.to_string();
    let mut response = json_response(StatusCode::OK, &json!({"items": items, "nextCursor": next}));
    link_next(&mut response, request.uri(), Some(&next));
    Ok(response)
}

fn respond(stream: impl Stream<Item = Result<sse::Event, Infallible>> + Send + 'static) -> Response {
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

/// A stream of one order's events. It ends after the last event of a final order.
struct OrderStream {
    app: App,
    id: OrderId,
    order_type: String,
    after: u64,
    queue: VecDeque<Event>,
    position: watch::Receiver<u64>,
    _permit: OwnedSemaphorePermit,
}

impl OrderStream {
    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                self.after = event.number;
                let data = cloud_event(self.id, &self.order_type, &event);
                let event = sse::Event::default().id(event.number.to_string()).data(data.to_string());
                return Some((Ok(event), self));
            }
            // Marked as seen before reading, so that what comes during the read wakes at once.
            self.position.mark_unchanged();
            let store = self.app.service.store();
            let stored = store.order(self.id).await.ok().flatten()?;
            let events = store.history(self.id, self.after, STREAM_PAGE).await.ok()?;
            if events.is_empty() {
                if stored.order.head.phase == Phase::Final && stored.order.head.events <= self.after {
                    return None;
                }
                if !changed(&self.app, &mut self.position).await {
                    return None;
                }
            }
            self.queue.extend(events);
        }
    }
}

/// A stream of the feed.
struct FeedStream {
    app: App,
    from: FeedStart,
    order_type: Option<String>,
    queue: VecDeque<sse::Event>,
    position: watch::Receiver<u64>,
    ended: bool,
    _permit: OwnedSemaphorePermit,
}

impl FeedStream {
    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some((Ok(event), self));
            }
            if self.ended {
                return None;
            }
            self.position.mark_unchanged();
            let page = match self.app.service.store().feed(self.from, STREAM_PAGE).await {
                Ok(page) => page,
                Err(StoreError::CursorReset) => {
                    self.ended = true;
                    self.queue.push_back(sse::Event::default().event("reset").data("{\"code\":\"cursor-reset\"}"));
                    continue;
                }
                // The client resumes from its last event when the store is well again.
                Err(_) => return None,
            };
            self.from = FeedStart::After(page.next);
            let wanted = |name: &str| self.order_type.as_deref().is_none_or(|wanted| wanted == name);
            let empty = page.events.is_empty();
            for event in page.events.iter().filter(|event| wanted(&event.order_type)) {
                let data = cloud_event(event.order, &event.order_type, &event.event);
                self.queue.push_back(sse::Event::default().id(event.cursor.to_string()).data(data.to_string()));
            }
            if empty && !changed(&self.app, &mut self.position).await {
                return None;
            }
        }
    }
}

/// Waits for something to happen. False when the server stops.
async fn changed(app: &App, position: &mut watch::Receiver<u64>) -> bool {
    tokio::select! {
        changed = position.changed() => changed.is_ok(),
        () = tokio::time::sleep(POLL) => true,
        () = app.stopping.cancelled() => false,
        () = app.service.stopped() => false,
    }
}
