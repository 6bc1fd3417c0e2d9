//! Problems (RFC 9457): the one place where an error becomes an answer, and the advice that belongs to each code.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use comanda_engine::{CommandError, SubmitError};
use comanda_model::decision::Rejection;
use comanda_order_type::Fault;
use comanda_store::StoreError;
use serde::Serialize;

/// What went wrong with a request.
#[derive(Clone, Debug)]
pub struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) detail: String,
    pub(crate) errors: Vec<Fault>,
    pub(crate) allowed: Option<Vec<Arc<str>>>,
    pub(crate) retry_after: Option<Duration>,
    /// For 405: the methods that there are.
    pub(crate) methods: Option<&'static str>,
}

/// One code: its title, and what to do.
pub struct Advice {
    /// The code on the wire.
    pub code: &'static str,
    /// The HTTP status that it usually comes with.
    pub status: u16,
    /// In a few words.
    pub title: &'static str,
    /// What happened, and what to do.
    pub advice: &'static str,
}

/// Every code that an answer can carry. `/docs/problems/CODE` shows its advice.
pub const CODES: &[Advice] = &[
    Advice { code: "malformed-json", status: 400, title: "Malformed JSON", advice: "The body is not JSON. The detail names the line and the column. Nothing was stored." },
    Advice { code: "invalid-request", status: 400, title: "Invalid request", advice: "A parameter or a header is not what the route takes; the detail names it. Nothing was changed." },
    Advice { code: "unauthorized", status: 401, title: "No valid key", advice: "This server asks for an API key. Send it as `Authorization: Bearer KEY`. Make one with `comanda keys create`." },
    Advice { code: "forbidden", status: 403, title: "The key does not allow this", advice: "The key lacks the scope that the detail names. Make one that has it with `comanda keys create --scope`." },
    Advice { code: "host-not-allowed", status: 421, title: "Host not allowed", advice: "Without keys the server answers only requests to a loopback name, so that no web page can reach it by a trick with DNS. Use http://127.0.0.1 or http://localhost, or set up keys." },
    Advice { code: "not-found", status: 404, title: "Not found", advice: "There is nothing at this path. `/docs` lists the routes." },
    Advice { code: "unknown-order", status: 404, title: "Unknown order", advice: "No order has this id. It may belong to another server, or retention has removed it." },
    Advice { code: "unknown-type", status: 404, title: "Unknown order type", advice: "The server has no order type of this name. `GET /v1/order-types` lists those that it has." },
    Advice { code: "method-not-allowed", status: 405, title: "Method not allowed", advice: "The path exists, but not for this method. The `Allow` header lists those that it takes. Orders are never deleted: cancel them." },
    Advice { code: "illegal-transition", status: 409, title: "Illegal transition", advice: "The order's status does not lead to the one that was asked for. `allowed` lists those that it leads to now." },
    Advice { code: "order-final", status: 409, title: "The order is final", advice: "Nothing changes a final order any more." },
    Advice { code: "undoing", status: 409, title: "The order is taking back what it did", advice: "Wait until it is final, or a dead letter." },
    Advice { code: "not-cancellable", status: 409, title: "Not cancellable", advice: "The order's type does not let anyone cancel from this status. `allowed` lists where it may go." },
    Advice { code: "not-a-dead-letter", status: 409, title: "Not a dead letter", advice: "Only dead letters are redriven or discarded." },
    Advice { code: "only-from-start", status: 409, title: "Only from the start", advice: "What the order's steps did was taken back. Redrive it with `\"from\": \"start\"`." },
    Advice { code: "not-in-this-version", status: 409, title: "Not in this version", advice: "The order's status or step is not in the version of the type that it was to go on with. Redrive it on the version that it was accepted under." },
    Advice { code: "fixed", status: 409, title: "Fixed at acceptance", advice: "The key, the customer and the group key never change. Cancel the order and submit another." },
    Advice { code: "key-taken", status: 409, title: "The id is taken", advice: "The client's own id belongs to an order with other content. Use another id, or read that order." },
    Advice { code: "precondition-failed", status: 412, title: "The order has changed", advice: "Read the order, look at what changed, and send the change again with its new `ETag` in `If-Match`." },
    Advice { code: "too-large", status: 413, title: "Too large", advice: "The detail names the bound. An order's data is at most 128 KiB." },
    Advice { code: "unsupported-media-type", status: 415, title: "Unsupported media type", advice: "Send `Content-Type: application/json` (for a batch also `application/x-ndjson`, for a PATCH also `application/merge-patch+json`)." },
    Advice { code: "invalid-data", status: 422, title: "Invalid data", advice: "`errors` has one entry per fault, each with a JSON pointer into the data. Nothing was stored." },
    Advice { code: "unknown-status", status: 422, title: "Unknown status", advice: "The order's type has no status of this name. `allowed` lists those that it has." },
    Advice { code: "requires", status: 422, title: "Fields are missing", advice: "The status needs fields that the data lacks; `errors` names each. Send them along with the transition." },
    Advice { code: "idempotency-key-reused", status: 422, title: "Idempotency key reused", advice: "The key was sent before with another body. Use a new key for a new submission." },
    Advice { code: "precondition-required", status: 428, title: "If-Match is needed", advice: "Read the order and send its `ETag` in `If-Match`, so that nobody's change is lost. `If-Match: *` takes whatever is there." },
    Advice { code: "too-many-streams", status: 429, title: "Too many streams", advice: "The server holds as many live streams as it is set to. Close some, or raise `limits.streams_max`." },
    Advice { code: "cursor-reset", status: 410, title: "The cursor is no longer valid", advice: "The store was restored or migrated, or its retention has passed the cursor. Begin again without one." },
    Advice { code: "busy", status: 503, title: "Busy", advice: "The server takes no more for now. Send the same request again after the seconds that `Retry-After` names; with an `Idempotency-Key` that is safe." },
    Advice { code: "storage-unavailable", status: 503, title: "The store does not take changes", advice: "The disk is full, read-only or failing; the detail says which. Nothing that was acknowledged is lost. `/readyz` says when it is mended." },
    Advice { code: "request-timeout", status: 503, title: "The request took too long", advice: "The request was given up. Send it again; with an `Idempotency-Key` that is safe." },
    Advice { code: "internal", status: 500, title: "An error of the server", advice: "The server could not do what it should. Its log has the cause under the request id." },
];

impl Problem {
    pub(crate) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let status = CODES.iter().find(|advice| advice.code == code).map_or(500, |advice| advice.status);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code, detail: detail.into(), errors: Vec::new(), allowed: None, retry_after: None, methods: None }
    }

    pub(crate) fn invalid(errors: Vec<Fault>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{} {}", one.pointer, one.detail).trim_start().to_owned(),
            many => format!("the data has {} faults", many.len()),
        };
        Self { errors, ..Self::new("invalid-data", detail) }
    }

    fn allowing(self, allowed: Vec<Arc<str>>) -> Self {
        Self { allowed: Some(allowed), ..self }
    }

    fn after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }

    /// The problem as JSON, for an item of a batch.
    pub(crate) fn document(&self, request_id: &str) -> serde_json::Value {
        serde_json::to_value(self.body(request_id)).unwrap_or_default()
    }

    fn body<'a>(&'a self, request_id: &'a str) -> Document<'a> {
        Document {
            kind: format!("/docs/problems/{}", self.code),
            title: CODES.iter().find(|advice| advice.code == self.code).map_or("Error", |advice| advice.title),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            allowed: self.allowed.as_deref(),
            errors: self.errors.iter().map(|fault| Entry { pointer: &fault.pointer, code: &fault.code, detail: &fault.detail }).collect(),
            request_id,
        }
    }

    /// The answer.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = serde_json::to_vec(&self.body(request_id)).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        self.headers(&mut response);
        response
    }

    /// The headers that belong to the problem, whatever form its body has.
    pub(crate) fn headers(&self, response: &mut Response) {
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(methods) = self.methods {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    code: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<&'a [Arc<str>]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<Entry<'a>>,
    request_id: &'a str,
}

#[derive(Serialize)]
pub(crate) struct Entry<'a> {
    pub(crate) pointer: &'a str,
    pub(crate) code: &'a str,
    pub(crate) detail: &'a str,
}

impl IntoResponse for Problem {
    /// The body is written by the outermost layer, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        let detail = error.to_string();
        match error {
            SubmitError::UnknownType { .. } => Self { status: StatusCode::UNPROCESSABLE_ENTITY, ..Self::new("unknown-type", detail) },
            SubmitError::Invalid(faults) => Self::invalid(faults),
            SubmitError::Rejected(rejection) => rejection.into(),
            SubmitError::KeyTaken { .. } => Self::new("key-taken", detail),
            SubmitError::IdempotencyKeyReused { .. } => Self::new("idempotency-key-reused", detail),
            SubmitError::TooLarge { .. } => Self::new("too-large", detail),
            SubmitError::Busy { after } => Self::new("busy", detail).after(after),
            SubmitError::Store(error) => error.into(),
        }
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        let detail = error.to_string();
        match error {
            CommandError::UnknownOrder(_) => Self::new("unknown-order", detail),
            CommandError::UnknownVersion { .. } => Self::new("internal", detail),
            CommandError::Invalid(faults) => Self::invalid(faults),
            CommandError::Rejected(rejection) => rejection.into(),
            CommandError::PreconditionFailed { .. } => Self::new("precondition-failed", detail),
            CommandError::TooLarge { .. } => Self::new("too-large", detail),
            CommandError::Busy { after } => Self::new("busy", detail).after(after),
            CommandError::Store(error) => error.into(),
        }
    }
}

impl From<Rejection> for Problem {
    fn from(rejection: Rejection) -> Self {
        let detail = rejection.to_string();
        match rejection {
            Rejection::UnknownStatus { known, .. } => Self::new("unknown-status", detail).allowing(known),
            Rejection::IllegalTransition { allowed, .. } => Self::new("illegal-transition", detail).allowing(allowed),
            Rejection::Final { .. } => Self::new("order-final", detail).allowing(Vec::new()),
            Rejection::Undoing => Self::new("undoing", detail),
            Rejection::NotCancellable { allowed, .. } => Self::new("not-cancellable", detail).allowing(allowed),
            Rejection::NotDead => Self::new("not-a-dead-letter", detail),
            Rejection::OnlyFromStart => Self::new("only-from-start", detail),
            Rejection::NotInThisVersion { .. } => Self::new("not-in-this-version", detail),
            Rejection::Requires { missing, .. } => {
                let fault = |field: comanda_model::decision::MissingField| Fault {
                    pointer: field.field,
                    code: "required".to_owned(),
                    detail: field.message,
                };
                Self { errors: missing.into_iter().map(fault).collect(), ..Self::new("requires", detail) }
            }
            Rejection::Fixed { pointer, what } => {
                let fault = Fault { pointer, code: "fixed".to_owned(), detail: format!("{what} cannot change") };
                Self { errors: vec![fault], ..Self::new("fixed", detail) }
            }
            Rejection::Data(_) => Self::new("internal", detail),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %error, cause = ?std::error::Error::source(&error), "the store failed");
        match &error {
            StoreError::CursorReset => Self::new("cursor-reset", error.to_string()),
            error if error.is_passing() => {
                Self::new("storage-unavailable", error.to_string()).after(Duration::from_secs(5))
            }
            _ => Self::new("internal", error.to_string()),
        }
    }
}
