//! A link for one order: whoever has it sees how the order goes, and nothing else, without a key and until it expires.

mod page;
mod token;
mod view;

use std::convert::Infallible;
use std::sync::LazyLock;
use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use comanda_deliver::Deliveries;
use comanda_engine::WaitFor;
use comanda_model::OrderId;
use comanda_store::StoreError;
use comanda_store::seal::Sealer;
use futures_util::stream::unfold;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

pub(crate) use view::{Moment, TrackedOrder};

use crate::App;
use crate::access::Caller;
use crate::keys::Scope;
use crate::orders::{order_id, unknown};
use crate::problem::Problem;
use crate::respond::json_response;
use crate::streams::wants_stream;
use token::LinkKey;

/// How long a link is good unless it is said, and at most, in seconds.
const EXPIRES_IN: u64 = 7 * 24 * 60 * 60;
const EXPIRES_IN_MAX: u64 = 90 * 24 * 60 * 60;
/// How often a silent stream says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a link is to be.
#[derive(Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LinkBody {
    /// For how many seconds it is good; seven days unless said, at most 90 days.
    #[serde(default)]
    expires_in: Option<u64>,
}

/// A link.
#[derive(Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LinkView {
    /// Whoever has it sees the order.
    url: String,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
}

/// What leaves the key of links as it is, where nothing else is set up.
static PLAIN: LazyLock<Sealer> = LazyLock::new(Sealer::plain);

impl App {
    fn sealer(&self) -> &Sealer {
        self.options.deliveries.as_ref().map_or(&PLAIN, Deliveries::sealer)
    }
}

/// Seals the key of links anew, if there is one that stands in plain text or under a key that is being replaced.
pub(crate) async fn seal_anew(app: &App) {
    let there = LinkKey::seal_anew(app.service.store().as_ref(), app.sealer()).await;
    // A store without records has no links either.
    if let Err(error) = there.or_else(|error| match error {
        StoreError::Unsupported { .. } => Ok(()),
        error => Err(error),
    }) {
        tracing::error!(%error, "the key of links cannot be used: no link opens until it is rotated");
    }
}

pub(crate) async fn create(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    request: Request,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let id = order_id(&id)?;
    let asked: LinkBody = crate::subscriptions::read(&app, request).await?;
    let expires_in = asked.expires_in.unwrap_or(EXPIRES_IN);
    if !(1..=EXPIRES_IN_MAX).contains(&expires_in) {
        let detail = format!("`expiresIn` must be from 1 to {EXPIRES_IN_MAX} seconds");
        return Err(Problem::new("invalid-request", detail));
    }
    let store = app.service.store();
    store.order(id).await?.ok_or_else(|| unknown(id))?;
    let span = SignedDuration::from_secs(i64::try_from(expires_in).unwrap_or(0));
    let until = app.service.now().checked_add(span).unwrap_or(Timestamp::MAX);
    // What is signed has whole seconds.
    let until = Timestamp::from_second(until.as_second()).unwrap_or(until);
    let token = LinkKey::current(store.as_ref(), app.sealer()).await?.token(id, until);
    let link = LinkView {
        url: format!("{}/v1/links/{token}", app.options.public_url),
        expires_at: until,
    };
    let mut response = json_response(StatusCode::CREATED, &link);
    page::private(&mut response);
    Ok(response)
}

pub(crate) async fn rotate(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<StatusCode, Problem> {
    caller.needs(Scope::Operate)?;
    let store = app.service.store();
    let change = async { Ok(LinkKey::rotate(store.as_ref(), app.sealer()).await?) };
    app.audited(&caller, "links.voided", "links".to_owned(), None, change, |_| None)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn open(State(app): State<App>, Path(token): Path<String>, request: Request) -> Response {
    let for_people = wants_page(request.headers());
    let opened = open_for(&app, &token, request.headers()).await;
    let mut response = match opened {
        Ok(response) => response,
        Err(problem) if for_people && problem.is_about_a_link() => page::gone(problem.status()),
        Err(problem) => problem.into_response(),
    };
    page::private(&mut response);
    response
}

async fn open_for(app: &App, token: &str, headers: &HeaderMap) -> Result<Response, Problem> {
    let store = app.service.store();
    // One that was made up, or signed with an earlier key, says nothing about any order.
    let wrong = || Problem::new("unknown-link", "this link is not valid");
    let (order, until) = LinkKey::current(store.as_ref(), app.sealer())
        .await?
        .read(token)
        .ok_or_else(wrong)?;
    if until <= app.service.now() {
        return Err(Problem::new("link-expired", "this link has expired"));
    }
    let found = app.service.find(order).await?.ok_or_else(wrong)?;
    if wants_stream(headers) {
        let last = headers.get("last-event-id").and_then(|id| id.to_str().ok());
        let seen = last.and_then(|last| last.parse().ok()).unwrap_or(0);
        let head = &found.stored.order.head;
        if head.phase == comanda_model::Phase::Final && seen >= head.events {
            // A browser opens a stream again that has ended, unless it is told that there is no more.
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        let state = LinkStream {
            _permit: app.stream_permit()?,
            app: app.clone(),
            order,
            until,
            seen,
        };
        let stream = Sse::new(unfold(state, LinkStream::next));
        return Ok(stream.keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response());
    }
    let view = TrackedOrder::read(store.as_ref(), order, &found).await?;
    Ok(match wants_page(headers) {
        true => page::page(&view),
        false => json_response(StatusCode::OK, &view),
    })
}

fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    accepted.into_iter().any(|accept| accept.contains("text/html"))
}

/// The order as its customer sees it, again after each change, until it is final or the link expires.
struct LinkStream {
    app: App,
    order: OrderId,
    until: Timestamp,
    /// The number of the last event that was seen.
    seen: u64,
    _permit: OwnedSemaphorePermit,
}

impl LinkStream {
    async fn next(mut self) -> Option<(Result<sse::Event, Infallible>, Self)> {
        loop {
            let left = Duration::try_from(self.until.duration_since(self.app.service.now())).ok();
            let left = left.filter(|left| !left.is_zero())?;
            // The client resumes from its last event when the store is well again.
            let found = self.app.service.find(self.order).await.ok().flatten()?;
            let head = &found.stored.order.head;
            if head.events > self.seen {
                self.seen = head.events;
                let store = self.app.service.store();
                let view = TrackedOrder::read(store.as_ref(), self.order, &found).await.ok()?;
                let text = serde_json::to_string(&view).ok()?;
                let event = sse::Event::default().id(self.seen.to_string()).data(text);
                return Some((Ok(event), self));
            }
            if head.phase == comanda_model::Phase::Final {
                return None;
            }
            let moved = WaitFor::VersionAfter(head.version);
            tokio::select! {
                // A wait ends at once when the engine stops: asked the other way round, this would go in circles.
                biased;
                () = self.app.stops() => return None,
                found = self.app.service.wait(self.order, moved, KEEP_ALIVE.min(left)) => found.ok().flatten()?,
            };
        }
    }
}

/// A token that ends so many seconds from now.
#[cfg(test)]
pub(crate) async fn token_for_tests(app: &App, order: &str, seconds: i64) -> String {
    let store = app.service.store();
    let until = app.service.now() + SignedDuration::from_secs(seconds);
    let key = LinkKey::current(store.as_ref(), &Sealer::plain()).await.unwrap();
    key.token(order.parse().unwrap(), until)
}
