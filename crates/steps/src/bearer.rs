//! Bearer tokens by the OAuth 2.0 client credentials grant (RFC 6749, section 4.4).
//!
//! A token is kept until shortly before it expires. Of many calls that need one at the same time, one fetches it and
//! the others wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use comanda_engine::Postponed;
use comanda_model::expression::EvaluationError;
use comanda_model::order::bounded;
use comanda_model::order_type::ClientCredentials;
use minijinja::value::Value as Context;
use parking_lot::Mutex;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use crate::caller::{chain, health};
use crate::target::{self, Health, Targets};

/// How long a token is believed whose answer does not say.
const LIFE: Duration = Duration::from_secs(300);
/// The longest that a token is kept, whatever its answer says.
const LIFE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long before its end a token is replaced, at most; of a short life the last fifth.
const MARGIN: Duration = Duration::from_secs(60);
/// The largest answer of a token endpoint.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How much of a token's type is quoted.
const TYPE_BYTES_MAX: usize = 40;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(transparent)]
    Template(#[from] EvaluationError),
    #[error("the token endpoint did not answer: {0}")]
    Unreachable(String),
    #[error("the token endpoint did not answer within {0:?}")]
    Late(Duration),
    #[error("the token endpoint answered {0}")]
    Status(StatusCode),
    #[error("the token endpoint's answer has no `access_token`")]
    Malformed,
    #[error("the token endpoint gave a token of the type `{0}`, and not a bearer token")]
    Type(String),
    #[error("{}", .0.reason)]
    HeldBack(Postponed),
}

impl TokenError {
    /// What it says of the endpoint.
    fn health(&self) -> Health {
        match self {
            Self::Unreachable(_) | Self::Late(_) => Health::Bad,
            Self::Status(status) => health(*status),
            _ => Health::Good,
        }
    }
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct Grant {
    token_url: String,
    client_id: String,
    scope: Option<String>,
}

#[derive(Clone)]
struct Bearer {
    token: String,
    renew_at: Instant,
}

/// A token for one call.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) token: String,
    /// Whether it was fetched just now, so that fetching another helps nothing if it is not taken.
    pub(crate) is_new: bool,
}

#[derive(Deserialize)]
struct Answer {
    access_token: String,
    token_type: Option<String>,
    /// Seconds. A number by RFC 6749; some endpoints write it as a string or with a fraction.
    expires_in: Option<Value>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Bearer>>>;

/// The tokens that are kept.
#[derive(Default)]
pub(crate) struct Bearers {
    slots: Mutex<HashMap<Grant, Slot>>,
}

impl Bearers {
    /// A token, from before or new. The endpoint has a circuit like any service: while it fails again and again, calls that
    /// need a token are held back and use up no attempt.
    pub(crate) async fn token(
        &self,
        client: &Client,
        targets: &Targets,
        auth: &ClientCredentials,
        settings: &Context,
        within: Duration,
    ) -> Result<Given, TokenError> {
        let grant = grant(auth, settings)?;
        let slot = self.slot(&grant);
        if let Ok(slot) = slot.try_lock()
            && let Some(kept) = kept(&slot)
        {
            return Ok(kept);
        }
        let endpoint = Url::parse(&grant.token_url).map(|url| target::name(&url));
        let endpoint = endpoint.map_err(|error| TokenError::Unreachable(format!("its URL is none: {error}")))?;
        targets.look(&endpoint).map_err(TokenError::HeldBack)?;
        let watch = targets.watch(&endpoint);
        let fetched = async {
            // Whoever fetches holds the slot: the others find the token there.
            let mut slot = slot.lock().await;
            if let Some(kept) = kept(&slot) {
                return Ok(Given { is_new: true, ..kept });
            }
            let secret = auth.client_secret.render(settings)?;
            let bearer = fetch(client, &grant, &secret).await?;
            *slot = Some(bearer.clone());
            Ok(Given {
                token: bearer.token,
                is_new: true,
            })
        };
        let fetched = tokio::time::timeout(within, fetched).await;
        let fetched = fetched.unwrap_or(Err(TokenError::Late(within)));
        watch.end(fetched.as_ref().err().map_or(Health::Good, TokenError::health));
        fetched
    }

    /// A token was not taken: the next call fetches another, unless one has already.
    pub(crate) async fn forget(&self, auth: &ClientCredentials, settings: &Context, token: &str) {
        if let Ok(grant) = grant(auth, settings) {
            let slot = self.slot(&grant);
            let mut slot = slot.lock().await;
            if slot.as_ref().is_some_and(|bearer| bearer.token == token) {
                *slot = None;
            }
        }
    }

    fn slot(&self, grant: &Grant) -> Slot {
        self.slots.lock().entry(grant.clone()).or_default().clone()
    }
}

/// What a slot holds, if it is still good.
fn kept(slot: &Option<Bearer>) -> Option<Given> {
    let bearer = slot.as_ref().filter(|bearer| bearer.renew_at > Instant::now())?;
    Some(Given {
        token: bearer.token.clone(),
        is_new: false,
    })
}

fn grant(auth: &ClientCredentials, settings: &Context) -> Result<Grant, EvaluationError> {
    Ok(Grant {
        token_url: auth.token_url.render(settings)?,
        client_id: auth.client_id.render(settings)?,
        scope: auth.scope.as_ref().map(|scope| scope.render(settings)).transpose()?,
    })
}

fn form(grant: &Grant) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "client_credentials");
    if let Some(scope) = &grant.scope {
        form.append_pair("scope", scope);
    }
    form.finish()
}

async fn fetch(client: &Client, grant: &Grant, secret: &str) -> Result<Bearer, TokenError> {
    // RFC 6749, section 2.3.1: id and secret are form-encoded before they are joined.
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let credentials = STANDARD.encode(format!("{}:{}", encoded(&grant.client_id), encoded(secret)));
    let unreachable = |error: reqwest::Error| TokenError::Unreachable(chain(&error.without_url()));
    let mut response = client
        .post(&grant.token_url)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(AUTHORIZATION, format!("Basic {credentials}"))
        .body(form(grant))
        .send()
        .await
        .map_err(unreachable)?;
    if !response.status().is_success() {
        // The body is not quoted: it may repeat what it was sent.
        return Err(TokenError::Status(response.status()));
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
    }
    read(&body)
}

/// Reads an endpoint's answer (RFC 6749, section 5.1).
fn read(body: &[u8]) -> Result<Bearer, TokenError> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| TokenError::Malformed)?;
    let visible = |byte: u8| byte.is_ascii_graphic();
    if answer.access_token.is_empty() || !answer.access_token.bytes().all(visible) {
        // It could not stand in a header, and kept it would be in the way of a better one.
        return Err(TokenError::Malformed);
    }
    if let Some(other) = answer.token_type.filter(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err(TokenError::Type(bounded(other, TYPE_BYTES_MAX)));
    }
    let life = answer
        .expires_in
        .as_ref()
        .and_then(seconds)
        .unwrap_or(LIFE)
        .min(LIFE_MAX);
    Ok(Bearer {
        token: answer.access_token,
        renew_at: Instant::now() + life - MARGIN.min(life / 5),
    })
}

/// A span in seconds, however it is written. One that is over already counts as none at all: the token is used once.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds: f64 = match value {
        Value::Number(number) => number.to_string().parse().ok()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    let seconds = seconds.clamp(0.0, LIFE_MAX.as_secs_f64());
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(expires_in: &str) -> Duration {
        let body = format!(r#"{{"access_token":"t","token_type":"bearer","expires_in":{expires_in}}}"#);
        read(body.as_bytes()).unwrap().renew_at - Instant::now()
    }

    #[tokio::test(start_paused = true)]
    async fn the_life_of_a_token_is_read_however_it_is_written() {
        let hour = Duration::from_secs(3600) - MARGIN;
        for written in ["3600", "\"3600\"", "3600.0", "\" 3600 \""] {
            assert_eq!(life(written), hour, "{written}");
        }
        for unsaid in ["null", "\"soon\"", "true", "\"NaN\""] {
            assert_eq!(life(unsaid), LIFE - MARGIN, "{unsaid}");
        }
        for over in ["0", "-1", "-1e300"] {
            assert_eq!(life(over), Duration::ZERO, "{over}");
        }
        for endless in ["99999999999999999999999999", "1e300", "\"inf\""] {
            assert_eq!(life(endless), LIFE_MAX - MARGIN, "{endless}");
        }
    }

    #[test]
    fn what_is_no_bearer_token_is_not_kept() {
        for body in [
            "",
            "<html>",
            "[]",
            "{}",
            r#"{"access_token":7}"#,
            r#"{"access_token":""}"#,
            r#"{"access_token":"a\nb"}"#,
            r#"{"access_token":"a b"}"#,
            r#"{"access_token":"a","token_type":"mac"}"#,
        ] {
            assert!(read(body.as_bytes()).is_err(), "{body}");
        }
    }
}
