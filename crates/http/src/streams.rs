//! Events: pages of the feed and of one order's history, and live streams of both (server-sent events) that resume where
//! they broke off.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use comanda_deliver::tail::{Follower, Heard};
use comanda_deliver::{CloudEvent, NoticeEvent};
use comanda_engine::WaitFor;
use comanda_model::{Event, OrderId, Phase};
use comanda_store::query::InvalidCursor;
use comanda_store::subscription::EventFilter;
use comanda_store::{Cursor, FeedEvent, FeedNotice, FeedPage, FeedStart, StoreError};
use futures_util::Stream;
use futures_util::stream::unfold;
use serde::{Serialize, Serializer};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::App;
use crate::access::Caller;
use crate::keys::Scope;
use crate::listing::Page;
use crate::orders::{order_id, unknown};
use crate::problem::Problem;
use crate::request::Query;

/// How many events a stream reads at once, which bounds what it holds in memory.
const STREAM_PAGE: usize = 100;
/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a stream looks by itself, in case an announcement was missed or came from another node.
const POLL: Duration = Duration::from_secs(5);

/// An event of the feed as it is shown.
enum Shown {
    Order(Box<CloudEvent>),
    Notice(Box<NoticeEvent>),
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Order(event) => event.serialize(serializer),
            Self::Notice(notice) => notice.serialize(serializer),
        }
    }
}

/// What is wanted of a page, as [`in_order`] has it.
fn of_page(page: FeedPage, filter: &EventFilter) -> Vec<(Cursor, Shown)> {
    let events = page.events.into_iter().filter(|event| wanted(filter, event));
    let notices = page.notices.into_iter();
    in_order(events, notices.filter(|one| filter.matches_notice(&one.notice)))
}

/// These in the order of the feed, each with the place just after it.
fn in_order(
    events: impl Iterator<Item = FeedEvent>,
    notices: impl Iterator<Item = FeedNotice>,
) -> Vec<(Cursor, Shown)> {
    let events = events.map(|event| {
        let shown = CloudEvent::new(event.order, event.order_type, event.event);
        (event.cursor, Shown::Order(Box::new(shown)))
    });
    let notices = notices.map(|one| (one.cursor, Shown::Notice(Box::new(one.notice.into()))));
    let mut all: Vec<(Cursor, Shown)> = events.chain(notices).collect();
    all.sort_by_key(|(cursor, _)| *cursor);
    all
}

fn sent(event: &impl Serialize, id: String) -> sse::Event {
    // Texts and numbers always serialize.
    let text = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().id(id).data(text)
}

fn sent_of_feed((cursor, event): (Cursor, Shown)) -> sse::Event {
    sent(&event, cursor.to_string())
}

/// The filters of events. Each may be given several times: one of them is enough.
fn event_filter(query: &mut Query) -> EventFilter {
    let mut all = |name| std::iter::from_fn(|| query.take(name)).collect();
    EventFilter {
        types: all("type"),
        statuses: all("status"),
        events: all("event"),
        customers: all("customer"),
    }
}

fn wanted(filter: &EventFilter, event: &FeedEvent) -> bool {
    filter.matches(&event.order_type, event.customer.as_deref(), &event.event)
}

pub(crate) fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let mut kinds = accepted.flat_map(|accept| accept.split(','));
    kinds.any(|kind| {
        let kind = kind.split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("text/event-stream")
    })
}

/// Where to go on. What a browser sends when it opens a stream again is newer than the address that it began with.
fn resume(query: &mut Query, headers: &HeaderMap) -> Option<String> {
    let asked = query.take("cursor");
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    last.map(str::to_owned).filter(|last| !last.is_empty()).or(asked)
}

impl App {
    pub(crate) fn stream_permit(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.streams.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{} live streams are open", self.options.streams_max);
            Problem::new("too-many-streams", detail).after(Duration::from_secs(5))
        })
    }

    /// Ends when the server, or the engine below it, begins to stop.
    pub(crate) async fn stops(&self) {
        tokio::select! {
            () = self.stopping.cancelled() => {}
            () = self.service.stopped() => {}
        }
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
    let after = match resume(&mut query, request.headers()) {
        None => 0,
        Some(text) => text
            .parse()
            .map_err(|_| Problem::new("invalid-request", format!("`{text}` is not the number of an event")))?,
    };
    query.end()?;
    let stored = app.service.store().order(id).await?.ok_or_else(|| unknown(id))?;
    let order_type = stored.order.accepted.order_type.clone();
    if wants_stream(request.headers()) {
        let state = OrderStream {
            _permit: app.stream_permit()?,
            app,
            id,
            order_type,
            after,
            queue: VecDeque::new(),
        };
        return Ok(respond(unfold(state, OrderStream::next)));
    }
    // One more than asked for tells whether there is a next page.
    let mut events = app.service.store().history(id, after, limit + 1).await?;
    let more = events.len() > limit;
    events.truncate(limit);
    let next_cursor = events.last().filter(|_| more).map(|last| last.number.to_string());
    let items = events
        .into_iter()
        .map(|event| CloudEvent::new(id, order_type.clone(), event))
        .collect();
    Ok(Page { items, next_cursor }.respond(request.uri()))
}

pub(crate) async fn of_all(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let mut query = Query::parse(request.uri().query());
    let limit = query.take_limit()?;
    let filter = event_filter(&mut query);
    // A name that is wrong would find nothing, for ever.
    if let Some(unknown) = filter.events.iter().find(|name| !comanda_deliver::is_event(name)) {
        return Err(Problem::new(
            "invalid-request",
            format!("there is no event `{unknown}`"),
        ));
    }
    let begin = match query.take("from").as_deref() {
        None | Some("oldest") => FeedStart::Oldest,
        Some("newest") => FeedStart::Newest,
        Some(other) => {
            let detail = format!("`from` must be `oldest` or `newest`, not `{other}`");
            return Err(Problem::new("invalid-request", detail));
        }
    };
    let from = match resume(&mut query, request.headers()) {
        None => begin,
        Some(text) => FeedStart::After(
            text.parse::<Cursor>()
                .map_err(|error: InvalidCursor| Problem::new("invalid-request", error.to_string()))?,
        ),
    };
    query.end()?;
    if wants_stream(request.headers()) {
        let state = FeedStream {
            _permit: app.stream_permit()?,
            position: app.service.store().position(),
            app,
            from,
            filter,
            follower: None,
            joined: false,
            queue: VecDeque::new(),
        };
        return Ok(respond(unfold(state, FeedStream::next)));
    }
    let page = app.service.store().feed(from, limit).await?;
    // The feed has no end: where to go on later is told with every page.
    let next_cursor = Some(page.next.to_string());
    let items = of_page(page, &filter).into_iter().map(|(_, event)| event).collect();
    Ok(Page { items, next_cursor }.respond(request.uri()))
}

fn respond(stream: impl Stream<Item = Result<sse::Event, Infallible>> + Send + 'static) -> Response {
    Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

/// A stream of one order's events. It ends after the last event of a final order.
struct OrderStream {
    app: App,
    id: OrderId,
    order_type: Arc<str>,
    after: u64,
    queue: VecDeque<Event>,
    _permit: OwnedSemaphorePermit,
}

impl OrderStream {
    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                self.after = event.number;
                let number = event.number.to_string();
                let event = CloudEvent::new(self.id, self.order_type.clone(), event);
                return Some((Ok(sent(&event, number)), self));
            }
            // The client resumes from its last event when the store is well again.
            let store = self.app.service.store();
            let order = store.order(self.id).await.ok().flatten()?.order;
            let head = &order.head;
            if head.events > self.after {
                let events = store.history(self.id, self.after, STREAM_PAGE).await.ok()?;
                if events.is_empty() {
                    return None;
                }
                self.queue.extend(events);
                continue;
            }
            if head.phase == Phase::Final {
                return None;
            }
            let moved = WaitFor::VersionAfter(head.version);
            tokio::select! {
                // A wait ends at once when the engine stops: asked the other way round, this would go in circles.
                biased;
                () = self.app.stops() => return None,
                found = self.app.service.wait(self.id, moved, KEEP_ALIVE) => found.ok().flatten()?,
            };
        }
    }
}

/// A stream of the feed. It reads until it has come to the end; from there on one reader serves all streams.
struct FeedStream {
    app: App,
    from: FeedStart,
    filter: EventFilter,
    follower: Option<Follower>,
    /// Whether it has come as far as what the follower is handed begins.
    joined: bool,
    queue: VecDeque<sse::Event>,
    position: watch::Receiver<u64>,
    _permit: OwnedSemaphorePermit,
}

impl FeedStream {
    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some((Ok(event), self));
            }
            if self.joined {
                if !self.follow().await {
                    return None;
                }
                continue;
            }
            // Both before reading, so that what comes during the read is heard.
            if let (None, Some(deliveries)) = (&self.follower, &self.app.options.deliveries) {
                self.follower = Some(deliveries.tail().follow(self.filter.clone()));
            }
            self.position.mark_unchanged();
            let page = match self.app.service.store().feed(self.from, STREAM_PAGE).await {
                Ok(page) => page,
                Err(StoreError::CursorReset) if self.from != FeedStart::Oldest => {
                    self.from = FeedStart::Oldest;
                    let reset = sse::Event::default().event("reset").data("{\"code\":\"cursor-reset\"}");
                    return Some((Ok(reset), self));
                }
                // The client resumes from its last event when the store is well again.
                Err(_) => return None,
            };
            if self.from == FeedStart::Newest {
                // Told at once: a client that is cut off before the first event must not miss it.
                self.queue.push_back(sse::Event::default().id(page.next.to_string()));
            }
            self.from = FeedStart::After(page.next);
            let is_empty = page.is_empty();
            self.queue
                .extend(of_page(page, &self.filter).into_iter().map(sent_of_feed));
            if is_empty && self.follower.is_some() {
                self.joined = true;
                continue;
            }
            if is_empty && self.queue.is_empty() && !self.changed().await {
                return None;
            }
        }
    }

    /// Takes what the follower is handed. False when the server stops.
    async fn follow(&mut self) -> bool {
        let (Some(follower), FeedStart::After(cursor)) = (&mut self.follower, self.from) else {
            self.joined = false;
            return true;
        };
        let heard = tokio::select! {
            heard = follower.wait() => heard,
            () = self.app.stops() => return false,
        };
        match heard {
            Heard::Part(part) if part.after.epoch == cursor.epoch && part.after.position <= cursor.position => {
                let events = part.events.iter().map(|event| FeedEvent::clone(event));
                let notices = part.notices.iter().map(|notice| FeedNotice::clone(notice));
                let all = in_order(events, notices).into_iter();
                let new = all.filter(|(at, _)| at.position > cursor.position);
                self.queue.extend(new.map(sent_of_feed));
                if part.next.position > cursor.position {
                    self.from = FeedStart::After(part.next);
                }
            }
            // Something before it was missed.
            Heard::Part(_) | Heard::Nothing => self.joined = false,
            Heard::Lost => {
                self.joined = false;
                self.follower = None;
            }
        }
        true
    }

    /// Waits for something to happen. False when the server stops.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.position.changed() => changed.is_ok(),
            () = tokio::time::sleep(POLL) => true,
            () = self.app.stops() => false,
        }
    }
}
