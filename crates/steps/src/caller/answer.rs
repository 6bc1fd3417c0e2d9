//! What a service answered: of its body no more is read than may be kept, and no secret stands in what is said of it.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use comanda_model::bounds::RESULT_BYTES_MAX;
use comanda_model::order::bounded;
use comanda_outbound::Secrets;
use reqwest::header::{LOCATION, RETRY_AFTER};
use reqwest::{Response, StatusCode, Url};

use super::{CallError, Caller, chain, shown};

/// How much of an answer's body a reason quotes, in bytes.
const QUOTED_BYTES_MAX: usize = 300;
/// The longest `Retry-After` that is believed.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What a service answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body, up to a little more than [`RESULT_BYTES_MAX`]: without secrets where it is JSON.
    pub body: Vec<u8>,
    /// When to come again, if the service said so (RFC 9110, 10.2.3).
    pub retry_after: Option<Duration>,
    /// What was asked and how it was answered, for people and histories: without secrets.
    pub described: String,
}

impl Answer {
    /// Whether the body is larger than may be kept; then it is not whole.
    pub fn is_too_large(&self) -> bool {
        self.body.len() > RESULT_BYTES_MAX
    }

    /// Whether a service that answers like this may have done what it was asked.
    pub fn may_have_happened(&self) -> bool {
        matches!(
            self.status,
            StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT
        )
    }
}

impl Caller {
    /// Reads the answer to what was asked.
    pub(super) async fn answer(
        &self,
        hidden: &Secrets,
        url: &Url,
        asked: &str,
        mut response: Response,
        bytes_max: usize,
    ) -> Result<Answer, CallError> {
        let status = response.status();
        let header = |name| response.headers().get(name);
        let retry_after = header(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(retry_after);
        let location = header(LOCATION).filter(|_| status.is_redirection());
        let location = location.map(|to| match to.to_str().map(|to| url.join(to)) {
            Ok(Ok(to)) => shown(&to),
            _ => "what is no URL".to_owned(),
        });
        let body = read(&mut response, bytes_max).await.map_err(|error| {
            let reason = format!("{asked}: the answer broke off: {}", chain(&error.without_url()));
            CallError {
                reason: self.hide(hidden, reason),
                sent: true,
                status: Some(status),
                retry_after,
                postponed: None,
            }
        })?;
        let mut described = format!("{asked}: {status}");
        if let Some(to) = location {
            described.push_str(&format!(" to {to} (redirects are not followed)"));
        } else {
            // Without secrets before it is cut: half a secret would not be found.
            let text = self.hide(hidden, String::from_utf8_lossy(&body).trim().to_owned());
            if !text.is_empty() {
                described.push_str(": ");
                described.push_str(&bounded(text, QUOTED_BYTES_MAX));
            }
        }
        Ok(Answer {
            status,
            body: self.hide_in_body(hidden, body),
            retry_after,
            described: self.hide(hidden, described),
        })
    }

    /// One of the answers that came together: what was asked, and how this was answered.
    pub(crate) fn part(&self, asked: &str, hidden: &Secrets, status: StatusCode, body: &str) -> Answer {
        let mut described = format!("{asked}: {status}");
        let text = self.hide(hidden, body.to_owned());
        if !text.is_empty() {
            described.push_str(": ");
            described.push_str(&bounded(text, QUOTED_BYTES_MAX));
        }
        Answer {
            status,
            body: body.as_bytes().to_vec(),
            retry_after: None,
            described,
        }
    }

    /// A text that may stand in a history: a receiver may have quoted what it was sent.
    pub(super) fn hide(&self, carried: &Secrets, text: String) -> String {
        self.secrets.hide(carried.hide(text))
    }

    /// A body that may become a result.
    fn hide_in_body(&self, carried: &Secrets, body: Vec<u8>) -> Vec<u8> {
        let hidden = str::from_utf8(&body).ok().and_then(|text| {
            let once = carried.hide_in_json(text);
            let twice = self.secrets.hide_in_json(&once);
            match (&once, &twice) {
                (Cow::Borrowed(_), Cow::Borrowed(_)) => None,
                _ => Some(twice.into_owned()),
            }
        });
        hidden.map_or(body, String::into_bytes)
    }
}

/// Reads a body up to just over what may be kept.
async fn read(response: &mut Response, bytes_max: usize) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > bytes_max {
            break;
        }
    }
    Ok(body)
}

/// `Retry-After`: seconds, or an HTTP date.
fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // More seconds than can be counted.
        Err(_) if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => RETRY_AFTER_MAX,
        Err(_) => httpdate::parse_http_date(value)
            .ok()?
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_takes_both_forms() {
        assert_eq!(retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(retry_after("soon"), None);
        for absurd in [
            "99999999999",
            "99999999999999999999999999",
            "Fri, 31 Dec 9999 23:59:59 GMT",
        ] {
            assert_eq!(retry_after(absurd), Some(RETRY_AFTER_MAX), "{absurd}");
        }
        for nothing in ["", "-5", "1.5", "Fri, 99 Dec 9999 23:59:59 GMT"] {
            assert_eq!(retry_after(nothing), None, "{nothing}");
        }
    }
}
