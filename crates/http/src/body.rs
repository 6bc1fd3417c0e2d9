//! Reading bodies: bounded, of the right type, and JSON.

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use crate::problem::Problem;

/// Reads a body up to a bound.
pub(crate) async fn read(request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    let body = Limited::new(request.into_body(), bytes_max);
    match body.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Problem::new("too-large", format!("the body is larger than {bytes_max} bytes")))
        }
        Err(error) => Err(Problem::new("invalid-request", format!("the body broke off: {error}"))),
    }
}

/// Refuses a body that says that it is something else. One that says nothing is taken for JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    media_type(headers, |kind| kind == "application/json" || kind.ends_with("+json") || kind == "text/json")
}

/// Whether a body says that it is lines of JSON.
pub(crate) fn is_ndjson(headers: &HeaderMap) -> bool {
    let lines = |kind: &str| matches!(kind, "application/x-ndjson" | "application/ndjson" | "application/jsonl");
    headers.contains_key(CONTENT_TYPE) && media_type(headers, lines).is_ok()
}

fn media_type(headers: &HeaderMap, fits: impl Fn(&str) -> bool) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let value = value.to_str().unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if fits(&kind) {
        return Ok(());
    }
    Err(Problem::new("unsupported-media-type", format!("`{value}` is not JSON")))
}

/// Parses a body; a fault is told with its line and column.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        let code = match error.classify() {
            serde_json::error::Category::Data => "invalid-request",
            _ => "malformed-json",
        };
        Problem::new(code, error.to_string())
    })
}
