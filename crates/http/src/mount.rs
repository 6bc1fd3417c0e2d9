//! Mounts: each type in its own wire form at `/{type}`, and wherever the operator puts it besides.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, LOCATION, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use comanda_engine::{Change, Found, Idempotency, Precondition, Submission};
use comanda_model::Json;
use comanda_order_type::{Definition, Fault, Incoming, OrderFacts, WireError};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::access::Caller;
use crate::frame::about;
use crate::keys::Scope;
use crate::listing::{Page, list_cursor, list_query};
use crate::orders::{acceptance_headers, not_modified, tagged};
use crate::problem::Problem;
use crate::request::{self, Query, wait_asked};
use crate::respond::{insert, json_text};
use crate::{App, body};

/// What is encoded in a segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a path under a mount names.
#[derive(Debug)]
pub(crate) struct Mounted {
    pub(crate) definition: Arc<Definition>,
    /// Where the type is mounted, as the request has it.
    at: String,
    /// The order's id, or the client's own, if the path names an order.
    pub(crate) id: Option<String>,
}

impl App {
    /// The type that a path belongs to: one of the operator's mounts, else the type of that name.
    pub(crate) fn mounted(&self, path: &str) -> Option<Mounted> {
        let extra = self.options.mounts.iter().find_map(|(prefix, name)| {
            let rest = path.strip_prefix(prefix.trim_end_matches('/'))?;
            (rest.is_empty() || rest.starts_with('/')).then_some((name.as_str(), rest))
        });
        let (name, rest) = match extra {
            Some(found) => found,
            None => {
                let path = path.strip_prefix('/')?;
                path.split_at(path.find('/').unwrap_or(path.len()))
            }
        };
        let definition = self.service.registry().current(name)?;
        let id = match rest.trim_start_matches('/') {
            "" => None,
            id if id.contains('/') => return None,
            id => Some(percent_decode_str(id).decode_utf8().ok()?.into_owned()),
        };
        let at = path[..path.len() - rest.len()].to_owned();
        Some(Mounted { definition, at, id })
    }
}

impl Mounted {
    /// The name under which its requests are counted.
    pub(crate) fn route(&self) -> String {
        let id = if self.id.is_some() { "/{id}" } else { "" };
        format!("/{}{id}", self.definition.order_type.name)
    }

    /// A problem in the type's own form and language.
    pub(crate) fn refusal(&self, mut problem: Problem, origin: Option<&HeaderValue>) -> Response {
        let error = WireError {
            status: problem.status.as_u16(),
            code: problem.code,
            detail: &problem.detail,
            faults: &problem.errors,
            allowed: problem.allowed.as_deref(),
        };
        let (status, text) = self.definition.wire.error(&error);
        let mut response = json_text(http_status(status), text);
        problem.headers(&mut response);
        allow_origin(&self.definition, origin, response.headers_mut());
        // The frame still logs it.
        problem.is_written = true;
        response.extensions_mut().insert(problem);
        response
    }
}

pub(crate) async fn handle(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    mounted: Option<Extension<Arc<Mounted>>>,
    request: Request,
) -> Response {
    let Some(Extension(mounted)) = mounted else {
        let detail = format!("there is nothing at {}", request.uri().path());
        return Problem::new("not-found", detail).into_response();
    };
    let origin = request.headers().get(ORIGIN).cloned();
    let mount = Mount {
        app: &app,
        caller,
        mounted: &mounted,
    };
    let methods = match mounted.id {
        Some(_) => "GET, HEAD, PATCH, OPTIONS",
        None => "GET, HEAD, POST, OPTIONS",
    };
    let answered = match (request.method().clone(), &mounted.id) {
        (Method::OPTIONS, _) => Ok(mount.options(methods)),
        (Method::POST, None) => mount.submit(request).await,
        // On the heap, so that the future of a submission is no larger than it needs to be.
        (Method::GET | Method::HEAD, None) => Box::pin(mount.list(request)).await,
        (Method::GET | Method::HEAD, Some(id)) => Box::pin(mount.get(id, request)).await,
        (Method::PATCH, Some(id)) => Box::pin(mount.patch(id, request)).await,
        (method, _) => {
            let detail = format!("{} does not take {method}", request.uri().path());
            let problem = Problem::new("method-not-allowed", detail);
            Err(Problem {
                methods: Some(methods),
                ..problem
            })
        }
    };
    match answered {
        Ok(mut response) => {
            allow_origin(&mounted.definition, origin.as_ref(), response.headers_mut());
            response
        }
        Err(problem) => mounted.refusal(problem, origin.as_ref()),
    }
}

/// One request to a mount.
struct Mount<'a> {
    app: &'a App,
    caller: Caller,
    mounted: &'a Mounted,
}

fn facts(found: &Found) -> OrderFacts<'_> {
    let order = &found.stored.order;
    OrderFacts {
        id: order.id(),
        key: order.accepted.key.as_deref(),
        status: &order.head.status,
        accepted_at: order.accepted.at,
        updated_at: order.head.updated_at,
        data: found.shown(),
    }
}

impl Mount<'_> {
    fn definition(&self) -> &Definition {
        &self.mounted.definition
    }

    async fn submit(&self, request: Request) -> Result<Response, Problem> {
        self.caller.needs(Scope::Submit)?;
        let (parts, body) = request.into_parts();
        let headers = parts.headers;
        body::is_json(&headers)?;
        let key = request::idempotency_key(&headers)?;
        let bytes = body::read(body, &self.app.options).await?;
        let incoming = self.incoming(&bytes)?;
        let definition = self.definition();
        if let (Some(id), Some(_)) = (&incoming.id, definition.wire.status_field()) {
            let id = id.clone();
            let precondition = request::if_match(&headers).unwrap_or(Precondition::None);
            let found = Box::pin(self.update(&id, incoming, precondition)).await?;
            let (_, text) = found.definition.wire.accepted(&facts(&found));
            return Ok(tagged(json_text(StatusCode::OK, text), &found));
        }
        let by = self.caller.by.clone();
        let submission = Submission {
            order_type: definition.order_type.name.to_string(),
            key: incoming.key,
            data: incoming.data,
            value: Some(incoming.value),
            status: incoming.status,
            due_at: None,
            idempotency: key.map(|key| Idempotency {
                kept: None,
                scope: by.to_string(),
                key,
            }),
            by,
            traceparent: Some(self.caller.traceparent.clone()),
        };
        let wait = request::prefer_wait(&headers);
        // They refer to the connection's buffer. While anything does, the connection takes a new one for its next read.
        drop((parts.uri, parts.extensions, headers, bytes));
        let accepted = self.app.service.submit(submission).await?;
        let repeated = accepted.repeated;
        about(accepted.found.stored.order.id());
        let (status, found) = self.app.settled(accepted, wait).await?;
        let (declared, text) = found.definition.wire.accepted(&facts(&found));
        let status = match status {
            StatusCode::OK => status,
            _ => http_status(declared),
        };
        let mut response = tagged(json_text(status, text), &found);
        self.located(&mut response, &found);
        acceptance_headers(response.headers_mut(), repeated, wait);
        Ok(response)
    }

    fn incoming(&self, bytes: &[u8]) -> Result<Incoming, Problem> {
        self.definition().wire.read(bytes).map_err(|malformed| {
            let code = match malformed.code {
                "malformed-json" => "malformed-json",
                _ => "invalid-data",
            };
            Problem {
                errors: malformed.faults,
                ..Problem::new(code, malformed.detail)
            }
        })
    }

    async fn found(&self, id: &str) -> Result<Found, Problem> {
        let name = &self.definition().order_type.name;
        let found = self.app.service.find_in_type(name, id).await?;
        let found = found.ok_or_else(|| Problem::new("unknown-order", format!("there is no order `{id}`")))?;
        about(found.stored.order.id());
        Ok(found)
    }

    async fn get(&self, id: &str, request: Request) -> Result<Response, Problem> {
        self.caller.needs(Scope::Read)?;
        let found = self.found(id).await?;
        // Parameters that mean nothing here are passed over: clients of before may send what they like.
        let wait = wait_asked(&mut Query::parse(request.uri().query()))?;
        let found = request::awaited(&self.app.service, found, wait).await?;
        if let Some(response) = not_modified(request.headers(), &found) {
            return Ok(response);
        }
        Ok(self.order(&found))
    }

    fn order(&self, found: &Found) -> Response {
        // An order is written in the form of the version that it lives on.
        tagged(
            json_text(StatusCode::OK, found.definition.wire.write(&facts(found))),
            found,
        )
    }

    fn located(&self, response: &mut Response, found: &Found) {
        let accepted = &found.stored.order.accepted;
        let at = &self.mounted.at;
        let location = match &accepted.key {
            Some(key) => format!("{at}/{}", utf8_percent_encode(key, SEGMENT)),
            None => format!("{at}/{}", accepted.id),
        };
        insert(response.headers_mut(), LOCATION, &location);
    }

    async fn list(&self, request: Request) -> Result<Response, Problem> {
        self.caller.needs(Scope::Read)?;
        let order_type = &self.definition().order_type;
        let mut query = Query::parse(request.uri().query());
        let mut list = list_query(&mut query)?;
        query.end()?;
        list.order_type = Some(order_type.name.to_string());
        list.status = list.status.map(|status| match order_type.resolve_status(&status) {
            Some(known) => known.to_string(),
            None => status,
        });
        let page = self.app.service.store().list(&list).await?;
        let mut items = Vec::with_capacity(page.orders.len());
        for stored in page.orders {
            let found = self.app.service.found(stored).await?;
            items.push(Json::from_valid(found.definition.wire.write(&facts(&found))));
        }
        let next_cursor = page.next.map(list_cursor);
        Ok(Page { items, next_cursor }.respond(request.uri()))
    }

    async fn patch(&self, id: &str, request: Request) -> Result<Response, Problem> {
        self.caller.needs(Scope::Submit)?;
        let (parts, body) = request.into_parts();
        let precondition = request::if_match(&parts.headers).unwrap_or(Precondition::None);
        body::is_json(&parts.headers)?;
        let bytes = body::read(body, &self.app.options).await?;
        let found = self.update(id, self.incoming(&bytes)?, precondition).await?;
        Ok(self.order(&found))
    }

    /// Changes an order: its data by a merge patch, and its status where the body names another.
    async fn update(&self, id: &str, incoming: Incoming, precondition: Precondition) -> Result<Found, Problem> {
        let found = self.found(id).await?;
        let order = &found.stored.order;
        let other_id = |sent: &String| *sent != order.id().to_string() && sent != id;
        if incoming.id.as_ref().is_some_and(other_id) || incoming.key.is_some() && incoming.key != order.accepted.key {
            let fault = Fault {
                pointer: String::new(),
                code: "fixed".to_owned(),
                detail: "the id cannot change".to_owned(),
            };
            return Err(Problem {
                errors: vec![fault],
                ..Problem::new("fixed", "the id cannot change")
            });
        }
        let change = Change {
            by: self.caller.by.clone(),
            reason: None,
            precondition,
        };
        let order_type = &found.definition.order_type;
        let stays = |to: &String| order_type.resolve_status(to) == Some(&order.head.status);
        let is_empty = incoming.value.as_object().is_some_and(serde_json::Map::is_empty);
        let service = &self.app.service;
        Ok(match incoming.status.filter(|to| !stays(to)) {
            Some(to) => {
                let patch = (!is_empty).then_some(incoming.data);
                service.transition(order.id(), &to, patch, change).await?
            }
            None if is_empty => {
                request::hold(&change.precondition, order.head.etag_version)?;
                found
            }
            None => service.edit(order.id(), incoming.data, change).await?,
        })
    }

    fn options(&self, methods: &'static str) -> Response {
        let mut response = StatusCode::NO_CONTENT.into_response();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        response
    }
}

/// Whether pages of this origin may use a type's mount.
pub(crate) fn allows_origin(definition: &Definition, origin: &HeaderValue) -> bool {
    let allowed = definition.wire.cors();
    allowed
        .iter()
        .any(|allowed| allowed == "*" || allowed.as_bytes() == origin.as_bytes())
}

/// Tells a browser what its pages may do (CORS), where the type lets them do anything.
fn allow_origin(definition: &Definition, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    const SENT: &str = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Prefer, X-API-Key, \
                        X-Request-Id, traceparent";
    const SHOWN: &str = "ETag, Idempotency-Replayed, Link, Location, Retry-After, X-Request-Id";
    let every = definition.wire.cors().iter().any(|allowed| allowed == "*");
    if !every && !definition.wire.cors().is_empty() {
        // A cache must not show one origin the answer to another, nor to none.
        headers.append(VARY, HeaderValue::from_static("Origin"));
    }
    let Some(origin) = origin.filter(|origin| allows_origin(definition, origin)) else {
        return;
    };
    let shown = if every {
        HeaderValue::from_static("*")
    } else {
        origin.clone()
    };
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, shown);
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, HEAD, POST, PATCH, OPTIONS"),
    );
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(SENT));
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(SHOWN));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
}

fn http_status(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
