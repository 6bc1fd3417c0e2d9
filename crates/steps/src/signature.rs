//! Puts a Standard Webhooks signature on a call.

use std::time::SystemTime;

use comanda_outbound::signature::headers;
use comanda_outbound::{SecretError, Signer};
use reqwest::Request;
use reqwest::header::{HeaderName, HeaderValue};

/// Why a call could not be signed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("the visit's key cannot stand in a header")]
    Key,
}

/// Signs a request. `id` is the same on every attempt, so that the receiver knows a repetition.
pub(crate) fn sign(request: &mut Request, id: &str, secret: &str, now: SystemTime) -> Result<(), SignError> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
    let signer = Signer::from_secret(secret)?;
    for (name, value) in headers([&signer], id, seconds, body) {
        let value = HeaderValue::from_str(&value).map_err(|_| SignError::Key)?;
        request.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok(())
}
