//! Reading bodies: bounded, of the right type, and JSON.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;

use crate::Options;
use crate::problem::Problem;

/// How many times larger than another body a batch may be.
const BATCH_FACTOR: usize = 8;

/// Reads a body of one thing.
pub(crate) async fn read(body: Body, options: &Options) -> Result<Bytes, Problem> {
    read_up_to(body, options.body_bytes_max, options.request_timeout).await
}

/// Reads a body of many things.
pub(crate) async fn read_batch(body: Body, options: &Options) -> Result<Bytes, Problem> {
    let bytes_max = options.body_bytes_max.saturating_mul(BATCH_FACTOR);
    read_up_to(body, bytes_max, options.request_timeout).await
}

async fn read_up_to(body: Body, bytes_max: usize, within: Duration) -> Result<Bytes, Problem> {
    let too_large = || Problem::new("too-large", format!("the body is larger than {bytes_max} bytes"));
    // One that says beforehand that it is too large need not be sent.
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(within, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Problem::new("invalid-request", format!("the body broke off: {error}"))),
        Err(_) => Err(Problem::new(
            "request-timeout",
            format!("the body was not sent within {within:?}"),
        )),
    }
}

/// Refuses a body that says that it is something else. One that says nothing is taken for JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    media_type(headers, |kind| {
        kind == "application/json" || kind.ends_with("+json") || kind == "text/json"
    })
}

/// Whether a body says that it is lines of JSON.
pub(crate) fn is_ndjson(headers: &HeaderMap) -> bool {
    let lines = |kind: &str| {
        matches!(
            kind,
            "application/x-ndjson" | "application/ndjson" | "application/jsonl"
        )
    };
    headers.contains_key(CONTENT_TYPE) && media_type(headers, lines).is_ok()
}

fn media_type(headers: &HeaderMap, fits: impl Fn(&str) -> bool) -> Result<(), Problem> {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let value = value.to_str().unwrap_or_default();
    let kind = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if fits(&kind) {
        return Ok(());
    }
    Err(Problem::new("unsupported-media-type", format!("`{value}` is not JSON")))
}

/// Parses a body; a fault is told with its member, its line and its column.
pub(crate) fn parse<'b, T: Deserialize<'b>>(bytes: &'b [u8]) -> Result<T, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer);
    let value = parsed.map_err(|error| {
        let member = error.path().to_string();
        let error = error.into_inner();
        match error.classify() {
            serde_json::error::Category::Data if member == "." => Problem::new("invalid-request", error.to_string()),
            serde_json::error::Category::Data => Problem::new("invalid-request", format!("`{member}`: {error}")),
            _ => malformed(&error),
        }
    })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::new("malformed-json", error.to_string())
}
