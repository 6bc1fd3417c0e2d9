//! Mounts: each type in its own wire form at `/{type}`, and wherever the operator puts it besides.

use std::sync::Arc;

use axum::extract::{Extension, Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ETAG, LOCATION, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use comanda_engine::{Change, Found, Idempotency, Precondition, Submission};
use comanda_model::Json;
use comanda_order_type::{Definition, Fault, Incoming, OrderFacts, WireError};

use crate::frame::Caller;
use crate::keys::Scope;
use crate::orders::{acceptance_headers, insert, json_bytes, json_response, link_next, list_cursor, list_query};
use crate::problem::Problem;
use crate::request::{self, Query, etag};
use crate::{App, body};

/// What a path under a mount names.
pub(crate) struct Mounted {
    pub(crate) definition: Arc<Definition>,
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
            id => Some(percent_encoding::percent_decode_str(id).decode_utf8().ok()?.into_owned()),
        };
        Some(Mounted { definition, id })
    }
}

pub(crate) async fn handle(State(app): State<App>, Extension(caller): Extension<Caller>, request: Request) -> Response {
    let Some(Mounted { definition, id }) = app.mounted(request.uri().path()) else {
        let detail = format!("there is nothing at {}", request.uri().path());
        return Problem::new("not-found", detail).into_response();
    };
    let origin = request.headers().get(ORIGIN).cloned();
    let mount = Mount { app, caller, definition };
    let answered = match (request.method().clone(), id) {
        (Method::OPTIONS, _) => Ok(StatusCode::NO_CONTENT.into_response()),
        (Method::POST, None) => mount.submit(request).await,
        (Method::GET | Method::HEAD, None) => mount.list(request).await,
        (Method::GET | Method::HEAD, Some(id)) => mount.get(&id, request.headers()).await,
        (Method::PATCH, Some(id)) => mount.patch(&id, request).await,
        (_, id) => {
            let methods = if id.is_some() { "GET, HEAD, PATCH, OPTIONS" } else { "GET, HEAD, POST, OPTIONS" };
            Err(Problem { methods: Some(methods), ..Problem::new("method-not-allowed", "orders are not deleted or replaced") })
        }
    };
    let mut response = answered.unwrap_or_else(|problem| mount.refusal(&problem));
    mount.cors(origin, response.headers_mut());
    response
}

struct Mount {
    app: App,
    caller: Caller,
    definition: Arc<Definition>,
}

fn facts(found: &Found) -> OrderFacts<'_> {
    let order = &found.stored.order;
    OrderFacts {
        id: order.id(),
        key: order.accepted.key.as_deref(),
        status: &order.head.status,
        accepted_at: order.accepted.at,
        updated_at: order.head.updated_at,
        data: &order.data,
    }
}

impl Mount {
    async fn submit(&self, request: Request) -> Result<Response, Problem> {
        self.caller.needs(Scope::Submit)?;
        let headers = request.headers().clone();
        body::is_json(&headers)?;
        let bytes = body::read(request, self.app.options.body_bytes_max).await?;
        let incoming = self.incoming(&bytes)?;
        let wire = &self.definition.wire;
        if let (Some(id), Some(_)) = (&incoming.id, wire.status_field()) {
            let id = id.clone();
            return self.update(&id, incoming, Precondition::None).await;
        }
        let key = request::idempotency_key(&headers)?;
        let by = self.caller.by.clone();
        let submission = Submission {
            order_type: self.definition.order_type.name.to_string(),
            key: incoming.key,
            data: incoming.data,
            value: Some(incoming.value),
            status: incoming.status,
            due_at: None,
            idempotency: key.map(|key| Idempotency { scope: by.to_string(), key }),
            by,
            traceparent: Some(self.caller.traceparent.clone()),
        };
        if self.app.options.bench_no_store {
            return Ok(self.answer_unstored(submission));
        }
        let accepted = self.app.service.submit(submission).await?;
        let repeated = accepted.repeated;
        let (status, found) = self.app.settled(accepted, &headers).await?;
        let (declared, text) = wire.accepted(&facts(&found));
        let status = if status == StatusCode::OK { status } else { code(declared) };
        let mut response = json_bytes(status, text);
        let order = &found.stored.order;
        insert(response.headers_mut(), LOCATION, &format!("/{}/{}", self.definition.order_type.name, order.id()));
        insert(response.headers_mut(), ETAG, &etag(order.head.etag_version));
        acceptance_headers(response.headers_mut(), repeated, &headers);
        Ok(response)
    }

    /// The answer of a server that only measures: everything but the storing.
    fn answer_unstored(&self, submission: Submission) -> Response {
        let value = submission.value.unwrap_or_default();
        let faults = self.definition.validate(&value);
        if !faults.is_empty() {
            return self.refusal(&Problem::invalid(faults));
        }
        let now = self.app.service.now();
        let id = comanda_model::OrderId(uuid::Uuid::now_v7());
        let key = submission.key;
        let facts = OrderFacts { id, key: key.as_deref(), status: "", accepted_at: now, updated_at: now, data: &submission.data };
        let (status, text) = self.definition.wire.accepted(&facts);
        json_bytes(code(status), text)
    }

    fn incoming(&self, bytes: &[u8]) -> Result<Incoming, Problem> {
        self.definition.wire.read(bytes).map_err(|malformed| {
            let code = if malformed.code == "malformed-json" { "malformed-json" } else { "invalid-data" };
            Problem { errors: malformed.faults, ..Problem::new(code, malformed.detail) }
        })
    }

    async fn found(&self, id: &str) -> Result<Found, Problem> {
        let found = self.app.service.find_in_type(&self.definition.order_type.name, id).await?;
        found.ok_or_else(|| Problem::new("unknown-order", format!("there is no order `{id}`")))
    }

    async fn get(&self, id: &str, headers: &HeaderMap) -> Result<Response, Problem> {
        self.caller.needs(Scope::Read)?;
        let found = self.found(id).await?;
        if request::none_match(headers, found.stored.order.head.etag_version) {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            insert(response.headers_mut(), ETAG, &etag(found.stored.order.head.etag_version));
            return Ok(response);
        }
        Ok(self.order(&found))
    }

    fn order(&self, found: &Found) -> Response {
        // An order is written in the form of the version that it lives on.
        let mut response = json_bytes(StatusCode::OK, found.definition.wire.write(&facts(found)));
        insert(response.headers_mut(), ETAG, &etag(found.stored.order.head.etag_version));
        response
    }

    async fn list(&self, request: Request) -> Result<Response, Problem> {
        self.caller.needs(Scope::Read)?;
        let mut query = Query::parse(request.uri().query());
        let mut list = list_query(&mut query)?;
        query.end()?;
        list.order_type = Some(self.definition.order_type.name.to_string());
        let page = self.app.service.store().list(&list).await?;
        let mut items = Vec::with_capacity(page.orders.len());
        for stored in page.orders {
            let found = self.app.service.found(stored).await?;
            items.push(Json::from_valid(found.definition.wire.write(&facts(&found))));
        }
        let next = page.next.map(list_cursor);
        let mut response = json_response(StatusCode::OK, &ListBody { items, next_cursor: next.clone() });
        link_next(&mut response, request.uri(), next.as_deref());
        Ok(response)
    }

    async fn patch(&self, id: &str, request: Request) -> Result<Response, Problem> {
        self.caller.needs(Scope::Submit)?;
        let precondition = request::if_match(request.headers()).unwrap_or(Precondition::None);
        body::is_json(request.headers())?;
        let bytes = body::read(request, self.app.options.body_bytes_max).await?;
        let incoming = self.incoming(&bytes)?;
        self.update(id, incoming, precondition).await
    }

    /// Changes an order: its data by a merge patch, and its status where the body names one.
    async fn update(&self, id: &str, incoming: Incoming, precondition: Precondition) -> Result<Response, Problem> {
        let found = self.found(id).await?;
        let order = &found.stored.order;
        let same_id = incoming.id.as_deref().is_none_or(|sent| sent == order.id().to_string() || sent == id);
        if !same_id || incoming.key.is_some() && incoming.key != order.accepted.key {
            let fault = Fault { pointer: String::new(), code: "fixed".to_owned(), detail: "the id cannot change".to_owned() };
            return Err(Problem { errors: vec![fault], ..Problem::new("fixed", "the id cannot change") });
        }
        let change = Change { by: self.caller.by.clone(), reason: None, precondition };
        let order_id = order.id();
        let found = match &incoming.status {
            Some(to) => self.app.service.transition(order_id, to, Some(incoming.data), change).await?,
            None => self.app.service.edit(order_id, incoming.data, change).await?,
        };
        Ok(self.order(&found))
    }

    /// A problem in the type's own form and language.
    fn refusal(&self, problem: &Problem) -> Response {
        let faults = &problem.errors;
        let error = WireError {
            status: problem.status.as_u16(),
            code: problem.code,
            detail: &problem.detail,
            faults,
            allowed: problem.allowed.as_deref(),
        };
        let (status, text) = self.definition.wire.error(&error);
        let mut response = json_bytes(code(status), text);
        problem.headers(&mut response);
        response
    }

    fn cors(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        let allowed = self.definition.wire.cors();
        let Some(origin) = origin.filter(|_| !allowed.is_empty()) else { return };
        if allowed.iter().any(|allowed| allowed == "*") {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        } else if allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(VARY, HeaderValue::from_static("Origin"));
        } else {
            return;
        }
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PATCH, OPTIONS"));
        let sent = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Prefer, X-API-Key, traceparent";
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(sent));
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("ETag, Link, Location, Retry-After, X-Request-Id"));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
}

#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct ListBody {
    items: Vec<Json>,
    next_cursor: Option<String>,
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
