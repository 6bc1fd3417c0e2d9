//! What a server says when it says no (RFC 9457), as people read it.

use std::fmt;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::output::clean;

/// A problem, as the server described it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// Which problem it is, in kebab-case; empty if the server did not say.
    pub code: String,
    /// What is wrong.
    pub detail: String,
    /// One line per fault of the data.
    pub errors: Vec<String>,
    /// Where the order may go instead, for an illegal transition.
    pub allowed: Option<Vec<String>>,
    /// What to name when asking about it.
    pub request_id: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Problem {
    /// Reads a problem from a body of JSON, as far as it is one.
    pub fn read(status: StatusCode, retry_after: Option<Duration>, body: &Value) -> Self {
        let text = |name: &str| body[name].as_str().map(clean);
        let fault = |fault: &Value| {
            let part = |name: &str| fault[name].as_str().map(clean).unwrap_or_default();
            let place = part("pointer");
            let place = if place.is_empty() { "the data".to_owned() } else { place };
            format!("{place}: {} ({})", part("detail"), part("code"))
        };
        let texts = |value: &Value| -> Vec<String> {
            value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|item| item.as_str().map(clean))
                .collect()
        };
        Self {
            status,
            code: text("code").unwrap_or_default(),
            detail: text("detail")
                .or_else(|| text("title"))
                .unwrap_or_else(|| format!("the server answered {status}")),
            errors: body["errors"].as_array().into_iter().flatten().map(fault).collect(),
            allowed: body.get("allowed").filter(|allowed| allowed.is_array()).map(texts),
            request_id: text("requestId"),
            retry_after,
        }
    }

    /// Whether waiting may mend it.
    pub fn is_passing(&self) -> bool {
        matches!(
            self.status,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        )
    }

    /// What to do about it.
    pub fn advice(&self) -> Option<String> {
        match self.status {
            StatusCode::UNAUTHORIZED => Some("Set COMANDA_API_KEY to a key of this server".to_owned()),
            StatusCode::FORBIDDEN if self.code != "host-not-allowed" => {
                Some("Use a key that has this scope: comanda keys list".to_owned())
            }
            _ if self.is_passing() => {
                let seconds = self.retry_after.map_or(1, |after| after.as_secs().max(1));
                Some(format!("Try again in {seconds} s"))
            }
            status if status.is_server_error() => {
                let request = self.request_id.as_ref()?;
                Some(format!("The server's log tells more about request {request}"))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        match self.allowed.as_deref() {
            None => {}
            Some([]) => f.write_str(" (nothing leads on from here)")?,
            Some(allowed) => write!(f, " (allowed: {})", allowed.join(", "))?,
        }
        self.errors.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_tells_every_fault() {
        let body = serde_json::json!({
            "code": "invalid-data", "detail": "The data is not valid.",
            "errors": [{"pointer": "/amount", "code": "required", "detail": "is required"}],
        });
        let problem = Problem::read(StatusCode::UNPROCESSABLE_ENTITY, None, &body);
        assert_eq!(
            problem.to_string(),
            "The data is not valid.\n  /amount: is required (required)"
        );
        assert!(problem.advice().is_none());
        let body = serde_json::json!({"code": "illegal-transition", "detail": "No.", "allowed": ["a", "b"]});
        assert_eq!(
            Problem::read(StatusCode::CONFLICT, None, &body).to_string(),
            "No. (allowed: a, b)"
        );
    }

    #[test]
    fn what_is_not_a_problem_is_still_told() {
        let problem = Problem::read(StatusCode::BAD_GATEWAY, None, &Value::Null);
        assert_eq!(problem.to_string(), "the server answered 502 Bad Gateway");
    }
}
