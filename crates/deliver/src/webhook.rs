//! Sending one event to one webhook: signed, bounded in time, without following where it is led.

use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use comanda_outbound::{Guard, Signer, signature};
use comanda_store::seal::is_sealed;
use comanda_store::subscription::Subscription;
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url};

use crate::courier::Courier;
use crate::target::{Outcome, Tried, chain};

/// How long a receiver may take to answer, unless something else is set.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);
/// The longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The two clients: one for addresses that only the operator may name, one for all others.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    guarded: Client,
    open: Client,
}

impl Clients {
    pub(crate) fn new(user_agent: &str, timeout: Duration) -> Result<Self, reqwest::Error> {
        let builder = || {
            Client::builder()
                .user_agent(user_agent.to_owned())
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(timeout.min(Duration::from_secs(10)))
                .timeout(timeout)
                .pool_idle_timeout(Duration::from_secs(60))
        };
        Ok(Self {
            guarded: Guard::apply(builder()).build()?,
            open: builder().build()?,
        })
    }
}

#[async_trait]
impl Courier for Clients {
    async fn carry(&self, to: &Subscription, id: &str, body: String, now: Timestamp) -> Tried {
        let begun = Instant::now();
        let failed = |reason: String, begun: Instant| Tried::new(Outcome::failed(reason), begun);
        let url = match Url::parse(&to.url) {
            Ok(url) => url,
            Err(error) => return failed(format!("the URL is not valid: {error}"), begun),
        };
        if !to.allow_private
            && let Err(refused) = Guard::check(&url)
        {
            return failed(refused.to_string(), begun);
        }
        let mut signers = Vec::new();
        for secret in to
            .secrets
            .iter()
            .filter(|secret| secret.until.is_none_or(|until| until > now))
        {
            if is_sealed(&secret.secret) {
                let reason =
                    "its secret is sealed with a key that is not here: give the key back, or rotate the secret";
                return failed(reason.to_owned(), begun);
            }
            match Signer::from_secret(&secret.secret) {
                Ok(signer) => signers.push(signer),
                Err(error) => return failed(error.to_string(), begun),
            }
        }
        let client = if to.allow_private { &self.open } else { &self.guarded };
        let mut request = client.post(url).header(CONTENT_TYPE, "application/cloudevents+json");
        for (name, value) in signature::headers(&signers, id, now.as_second(), body.as_bytes()) {
            request = request.header(name, value);
        }
        match request.body(body).send().await {
            Ok(response) => Tried {
                status: Some(response.status().as_u16()),
                ..Tried::new(outcome(&response), begun)
            },
            Err(error) => match Guard::refusal(&error) {
                Some(refused) => failed(refused.to_string(), begun),
                None => failed(chain(&error.without_url()), begun),
            },
        }
    }
}

fn outcome(response: &Response) -> Outcome {
    let status = response.status();
    if status.is_success() {
        return Outcome::Delivered;
    }
    if status == StatusCode::GONE {
        return Outcome::Gone;
    }
    let mut reason = status.to_string();
    if status.is_redirection() {
        reason.push_str(" (redirects are not followed)");
    }
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    Outcome::Failed {
        reason,
        retry_after: retry_after.and_then(wait_asked),
        alone: false,
    }
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
fn wait_asked(text: &str) -> Option<Duration> {
    let wait = match text.trim().parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}
