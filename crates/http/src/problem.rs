//! Problems (RFC 9457): the one place where an error becomes an answer, and the advice that belongs to each code.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use comanda_engine::{CallbackError, CommandError, SubmitError};
use comanda_model::decision::Rejection;
use comanda_order_type::Fault;
use comanda_store::StoreError;
use serde::Serialize;

use crate::codes::CODES;

/// What went wrong with a request.
#[derive(Clone, Debug)]
pub struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) detail: String,
    pub(crate) errors: Vec<Fault>,
    pub(crate) allowed: Option<Vec<Arc<str>>>,
    /// When to try again.
    pub(crate) retry_after_seconds: Option<u32>,
    /// For 405: the methods that there are.
    pub(crate) methods: Option<&'static str>,
    /// Whether the answer has its body already, in the form of a mount.
    pub(crate) is_written: bool,
}

impl Problem {
    pub(crate) fn new(code: &'static str, detail: impl Into<String>) -> Self {
        let status = CODES
            .iter()
            .find(|advice| advice.code == code)
            .map_or(500, |advice| advice.status);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        // Whoever is told to come again is told when.
        let passing = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        Self {
            status,
            code,
            detail: detail.into(),
            errors: Vec::new(),
            allowed: None,
            retry_after_seconds: passing.then_some(1),
            methods: None,
            is_written: false,
        }
    }

    pub(crate) fn invalid(errors: Vec<Fault>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{} {}", one.pointer, one.detail).trim_start().to_owned(),
            many => format!("the data has {} faults", many.len()),
        };
        Self {
            errors,
            ..Self::new("invalid-data", detail)
        }
    }

    fn allowing(self, allowed: Vec<Arc<str>>) -> Self {
        Self {
            allowed: Some(allowed),
            ..self
        }
    }

    /// Whether it is that a link for one order is void.
    pub(crate) fn is_about_a_link(&self) -> bool {
        matches!(self.code, "unknown-link" | "link-expired")
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Says when to try again.
    pub(crate) fn after(self, after: Duration) -> Self {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        Self {
            retry_after_seconds: Some(u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)),
            ..self
        }
    }

    /// The problem as it is shown.
    pub(crate) fn document<'a>(&'a self, request_id: &'a str) -> Document<'a> {
        Document {
            kind: format!("/docs/problems/{}", self.code),
            title: CODES
                .iter()
                .find(|advice| advice.code == self.code)
                .map_or("Error", |advice| advice.title),
            status: self.status.as_u16(),
            code: self.code,
            detail: &self.detail,
            allowed: self.allowed.as_deref(),
            errors: self
                .errors
                .iter()
                .map(|fault| Entry {
                    pointer: &fault.pointer,
                    code: &fault.code,
                    detail: &fault.detail,
                })
                .collect(),
            request_id,
        }
    }

    /// Writes the problem into an answer that has no body yet.
    pub(crate) fn write(&self, request_id: &str, mut response: Response) -> Response {
        let body = serde_json::to_vec(&self.document(request_id)).unwrap_or_default();
        *response.body_mut() = Body::from(body);
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        // The router has counted the body that was not there yet.
        response.headers_mut().remove(CONTENT_LENGTH);
        self.headers(&mut response);
        response
    }

    /// The headers that belong to the problem, whatever form its body has.
    pub(crate) fn headers(&self, response: &mut Response) {
        if let Some(seconds) = self.retry_after_seconds {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(methods) = self.methods {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }
}

/// A problem as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document<'a> {
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

/// One fault of the data, as it is shown.
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
            SubmitError::UnknownType { .. } => Self {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                ..Self::new("unknown-type", detail)
            },
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
            CommandError::UnknownQueue { .. } => Self::new("unknown-queue", detail),
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

impl From<CallbackError> for Problem {
    fn from(error: CallbackError) -> Self {
        let detail = error.to_string();
        match error {
            CallbackError::Unknown => Self::new("unknown-callback", detail),
            CallbackError::Over { .. } => Self::new("callback-over", detail),
            CallbackError::Command(error) => error.into(),
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
            Rejection::NotFinal { .. } => Self::new("order-not-final", detail),
            Rejection::Undoing => Self::new("undoing", detail),
            Rejection::NotCancellable { allowed, .. } => Self::new("not-cancellable", detail).allowing(allowed),
            Rejection::NoApproval { .. } => Self::new("no-approval", detail),
            Rejection::NotDead => Self::new("not-a-dead-letter", detail),
            Rejection::OnlyFromStart => Self::new("only-from-start", detail),
            Rejection::NotInThisVersion { .. } => Self::new("not-in-this-version", detail),
            Rejection::Requires { missing, .. } => {
                let fault = |field: comanda_model::decision::MissingField| Fault {
                    pointer: field.field,
                    code: "required".to_owned(),
                    detail: field.message,
                };
                Self {
                    errors: missing.into_iter().map(fault).collect(),
                    ..Self::new("requires", detail)
                }
            }
            Rejection::Fixed { pointer, what } => {
                let fault = Fault {
                    pointer,
                    code: "fixed".to_owned(),
                    detail: format!("{what} cannot change"),
                };
                Self {
                    errors: vec![fault],
                    ..Self::new("fixed", detail)
                }
            }
            Rejection::Data(_) => Self::new("internal", detail),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = %error, cause = ?std::error::Error::source(&error), "the store failed");
        match &error {
            StoreError::Unsupported { .. } => Self::new("not-supported", error.to_string()),
            StoreError::CursorReset => Self::new("cursor-reset", error.to_string()),
            error if error.is_passing() => {
                Self::new("storage-unavailable", error.to_string()).after(Duration::from_secs(5))
            }
            StoreError::Corrupt { .. } => Self::new("data-damaged", error.to_string()),
            _ => Self::new("internal", error.to_string()),
        }
    }
}
