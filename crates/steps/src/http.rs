//! HTTP calls as steps.
//!
//! A 2xx answer means done, and a JSON body is kept as the step's result; a 202 of a step that takes a callback means
//! that the result comes later. 409 and 422 are a refusal: the service understood and will not, however often it is
//! asked. Everything else, and every failure on the way, is tried again; `Retry-After` (RFC 9110, 10.2.3) is honoured.
//! Where the service may have done it all the same (the connection broke after the call was sent, 500, 502, 504), the
//! outcome is unknown, and the step's question is asked before anything is tried again.
//!
//! Every call carries `Idempotency-Key`, the same on each attempt of a visit, and `traceparent`.

use std::time::{Duration, SystemTime};

use comanda_engine::{Admission, Postponed, StepCall};
use comanda_model::Json;
use comanda_model::bounds::RESULT_BYTES_MAX;
use comanda_model::decision::{StepOutcome, context};
use comanda_model::expression::EvaluationError;
use comanda_model::order::bounded;
use comanda_model::order_type::HttpCall;
use minijinja::value::{Value as Context, merge_maps};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Request, Response, StatusCode, Url};

use crate::Options;
use crate::bearer::{Bearers, TokenError};
use crate::signature::{self, SignError};
use crate::target::{Health, Targets};

/// How much of an answer's body a reason quotes, in bytes.
const QUOTED_BYTES_MAX: usize = 300;
/// The longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) struct HttpSteps {
    client: Client,
    /// `env` and `secret`, as templates see them.
    settings: Context,
    /// Taken out of every text that leaves this module.
    secrets: Vec<String>,
    /// Where callbacks are to be sent, without a slash at the end.
    public_url: String,
    targets: Targets,
    bearers: Bearers,
}

/// Why a call could not be made, before anything was sent.
#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Template(#[from] EvaluationError),
    #[error("the order could not be read: {0}")]
    Order(String),
    #[error("`{url}` is no URL: {detail}")]
    Url { url: String, detail: String },
    #[error("the host of `{template}` would come from the order ({name}); only the operator may name a host")]
    Host { template: String, name: String },
    #[error("header `{name}`: {detail}")]
    Header { name: String, detail: String },
    #[error("`{0}` is no HTTP method")]
    Method(String),
    #[error("`sign`: {0}")]
    Secret(#[from] SignError),
    #[error("no token for the call: {0}")]
    Token(#[from] TokenError),
}

/// What the question about an attempt came to.
enum Asked {
    /// This is what became of the attempt.
    Known(StepOutcome),
    /// It did not happen: it may be tried again.
    NotDone,
}

impl HttpSteps {
    pub(crate) fn new(options: Options) -> Result<Self, reqwest::Error> {
        let targets = Targets::new(&options);
        let client = Client::builder()
            .user_agent(if options.user_agent.is_empty() {
                "comanda".to_owned()
            } else {
                options.user_agent
            })
            // A redirect could lead a call, with its secrets, to where the operator never pointed it.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(60))
            .build()?;
        // What the operator has set may stand in a URL as it is: it names hosts and paths.
        let trusted = |values: &std::collections::BTreeMap<String, String>| -> Context {
            let values = values
                .iter()
                .map(|(name, value)| (name.clone(), Context::from_safe_string(value.clone())));
            Context::from_object(values.collect::<std::collections::BTreeMap<String, Context>>())
        };
        let settings = minijinja::context! { env => trusted(&options.env), secret => trusted(&options.secrets) };
        let mut secrets: Vec<String> = options
            .secrets
            .into_values()
            .filter(|secret| !secret.is_empty())
            .collect();
        // The longest first, so that a secret that contains another is taken out whole.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Self {
            client,
            settings,
            secrets,
            public_url: options.public_url.trim_end_matches('/').to_owned(),
            targets,
            bearers: Bearers::default(),
        })
    }

    /// Waits for a place among the calls to the target.
    pub(crate) async fn admit(&self, http: &HttpCall) -> Result<Admission, Postponed> {
        // A URL that cannot be made is told by the attempt itself.
        match self.target_of(http) {
            Some(name) => self.targets.admit(&name).await.map(Admission::holding),
            None => Ok(Admission::default()),
        }
    }

    /// The scheme, host and port that a call goes to. They come from the operator's settings, never from an order.
    fn target_of(&self, http: &HttpCall) -> Option<String> {
        let authority = http.url.authority().render_url(&self.settings).ok()?;
        let url = Url::parse(&authority).ok()?;
        Some(url.origin().ascii_serialization())
    }

    /// Makes one attempt: asks first what became of an earlier one, if that is not known.
    pub(crate) async fn call(&self, call: &StepCall<'_>, http: &HttpCall) -> StepOutcome {
        let question = call.step.unknown.as_deref().filter(|_| call.uncertain && !call.undo);
        if let Some(question) = question
            && let Asked::Known(outcome) = self.ask(call, question).await
        {
            return outcome;
        }
        let request = match self.prepare(call, http).await {
            Ok(request) => request,
            Err(error) => return self.failed(call, error.to_string(), None),
        };
        let watch = self.targets.watch(request.url());
        let (method, url) = (request.method().clone(), shown(request.url()));
        match self.client.execute(request).await {
            Ok(response) => {
                let status = response.status();
                watch.end(health(status));
                if status == StatusCode::UNAUTHORIZED
                    && let Some(auth) = &http.auth
                {
                    self.bearers.forget(auth, &self.settings).await;
                }
                if status == StatusCode::ACCEPTED
                    && http.callback.is_some()
                    && let Some(token) = call.callback
                {
                    return StepOutcome::Waiting { secret: token.secret };
                }
                self.outcome(call, &method, &url, response).await
            }
            Err(error) => {
                watch.end(Health::Bad);
                let sent = !error.is_connect() && !error.is_builder();
                let reason = format!("{method} {url}: {}", chain(&error.without_url()));
                if sent {
                    // The service may have done what it was asked.
                    self.unknown(call, reason, None)
                } else {
                    self.failed(call, reason, None)
                }
            }
        }
    }

    /// Asks, under the visit's key, what became of it.
    async fn ask(&self, call: &StepCall<'_>, question: &HttpCall) -> Asked {
        let still_unknown = |reason: String| Asked::Known(self.unknown(call, format!("asked: {reason}"), None));
        let request = match self.prepare(call, question).await {
            Ok(request) => request,
            Err(error) => return still_unknown(error.to_string()),
        };
        let watch = self.targets.watch(request.url());
        let (method, url) = (request.method().clone(), shown(request.url()));
        let response = match self.client.execute(request).await {
            Ok(response) => response,
            Err(error) => {
                watch.end(Health::Bad);
                return still_unknown(format!("{method} {url}: {}", chain(&error.without_url())));
            }
        };
        let status = response.status();
        watch.end(health(status));
        if status == StatusCode::NOT_FOUND {
            return Asked::NotDone;
        }
        match self.outcome(call, &method, &url, response).await {
            StepOutcome::Failed { reason, retry_after } => Asked::Known(self.unknown(call, reason, retry_after)),
            known => Asked::Known(known),
        }
    }

    async fn prepare(&self, call: &StepCall<'_>, http: &HttpCall) -> Result<Request, PrepareError> {
        let callback = http.callback.and(call.callback);
        let callback = callback.map(|token| format!("{}/v1/callbacks/{}", self.public_url, token.expose()));
        let mut request = self.render(call, http, callback)?;
        if let Some(secret) = &http.sign {
            let secret = secret.render(&self.settings)?;
            signature::sign(&mut request, &call.idempotency_key, &secret, SystemTime::now())?;
        }
        if let Some(auth) = &http.auth {
            let token = self.bearers.token(&self.client, auth, &self.settings).await?;
            let mut value = header_value("authorization", &format!("Bearer {token}"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    fn render(&self, call: &StepCall<'_>, http: &HttpCall, callback: Option<String>) -> Result<Request, PrepareError> {
        let order = context(call.order).map_err(PrepareError::Order)?;
        let mut context = merge_maps([order, self.settings.clone()]);
        if let Some(url) = &callback {
            let callback = minijinja::context! { callback => minijinja::context! { url => url } };
            context = merge_maps([context, callback]);
        }
        let foreign = http
            .url
            .names_in_authority()
            .into_iter()
            .find(|name| !(name.starts_with("env.") || name.starts_with("secret.")));
        if let Some(name) = foreign {
            return Err(PrepareError::Host {
                template: http.url.text().to_owned(),
                name,
            });
        }
        let url = http.url.render_url(&context)?;
        let url = Url::parse(&url).map_err(|error| PrepareError::Url {
            url,
            detail: error.to_string(),
        })?;
        let method =
            Method::from_bytes(http.method.as_bytes()).map_err(|_| PrepareError::Method(http.method.clone()))?;
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("idempotency-key", Some(&call.idempotency_key)),
            ("traceparent", Some(&call.traceparent)),
            ("comanda-undoes", call.undoes.as_ref()),
            ("comanda-callback", callback.as_ref()),
        ] {
            if let Some(value) = value {
                headers.insert(HeaderName::from_static(name), header_value(name, value)?);
            }
        }
        headers.insert(
            HeaderName::from_static("comanda-attempt"),
            HeaderValue::from(call.attempt),
        );
        for (name, template) in &http.headers {
            let value = header_value(name, &template.render(&context)?)?;
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|error| PrepareError::Header {
                name: name.clone(),
                detail: error.to_string(),
            })?;
            headers.insert(key, value);
        }
        let mut request = self.client.request(method, url);
        if let Some(body) = &http.body {
            if !headers.contains_key(CONTENT_TYPE) {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            }
            request = request.body(body.render(&context)?.to_string());
        }
        request.headers(headers).build().map_err(|error| PrepareError::Url {
            url: http.url.text().to_owned(),
            detail: chain(&error),
        })
    }

    async fn outcome(&self, call: &StepCall<'_>, method: &Method, url: &str, mut response: Response) -> StepOutcome {
        let status = response.status();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(retry_after);
        let body = match read(&mut response).await {
            Ok(body) => body,
            // The service may have done what it was asked: only another attempt, under the same key, tells.
            Err(error) => {
                let reason = format!("{method} {url}: the answer broke off: {}", chain(&error.without_url()));
                return self.unknown(call, reason, retry_after);
            }
        };
        if status.is_success() {
            let text = String::from_utf8_lossy(&body);
            let result = match Json::parse(&text) {
                Ok(json) => Some(json),
                Err(_) if body.len() > RESULT_BYTES_MAX => {
                    Some(Json::from_valid(format!("\"{}\"", "x".repeat(body.len()))))
                }
                // An answer that is no JSON leaves nothing for later steps.
                Err(_) => None,
            };
            return StepOutcome::Done { result };
        }
        let quoted = bounded(String::from_utf8_lossy(&body).trim().to_owned(), QUOTED_BYTES_MAX);
        let mut reason = format!("{method} {url}: {status}");
        if let Some(to) = response
            .headers()
            .get(reqwest::header::LOCATION)
            .filter(|_| status.is_redirection())
        {
            reason.push_str(&format!(
                " to {} (redirects are not followed)",
                String::from_utf8_lossy(to.as_bytes())
            ));
        } else if !quoted.is_empty() {
            reason.push_str(": ");
            reason.push_str(&quoted);
        }
        if matches!(status, StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY) {
            return StepOutcome::Refused {
                reason: self.without_secrets(call, reason),
            };
        }
        if may_have_happened(status) {
            return self.unknown(call, reason, retry_after);
        }
        self.failed(call, reason, retry_after)
    }

    fn failed(&self, call: &StepCall<'_>, reason: String, retry_after: Option<Duration>) -> StepOutcome {
        StepOutcome::Failed {
            reason: self.without_secrets(call, reason),
            retry_after,
        }
    }

    fn unknown(&self, call: &StepCall<'_>, reason: String, retry_after: Option<Duration>) -> StepOutcome {
        StepOutcome::Unknown {
            reason: self.without_secrets(call, reason),
            retry_after,
        }
    }

    /// A text that may stand in a history: a receiver may have quoted what it was sent.
    fn without_secrets(&self, call: &StepCall<'_>, text: String) -> String {
        let own = call.callback.map(|token| token.secret.simple().to_string());
        let bearers = self.bearers.known();
        let secrets = self.secrets.iter().chain(&own).chain(&bearers);
        secrets.fold(text, |text, secret| text.replace(secret.as_str(), "***"))
    }
}

/// Whether a service that answers like this may have done what it was asked.
fn may_have_happened(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::INTERNAL_SERVER_ERROR | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT
    )
}

/// What an answer says of the target, not of the one call.
fn health(status: StatusCode) -> Health {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Health::Bad,
        _ => Health::Good,
    }
}

fn header_value(name: &str, value: &str) -> Result<HeaderValue, PrepareError> {
    HeaderValue::from_str(value).map_err(|error| PrepareError::Header {
        name: name.to_owned(),
        detail: error.to_string(),
    })
}

/// Reads a body up to just over what may be kept.
async fn read(response: &mut Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > RESULT_BYTES_MAX {
            break;
        }
    }
    Ok(body)
}

/// A URL for people: without its query and credentials, which may hold what is not for logs.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // Neither can fail for a URL that has a host, and one without has no credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// An error with all its causes, which is where the useful part stands.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}

/// `Retry-After`: seconds, or an HTTP date.
fn retry_after(value: &str) -> Option<Duration> {
    let wait = match value.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
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
        assert_eq!(retry_after("99999999999"), Some(RETRY_AFTER_MAX));
    }

    #[test]
    fn what_is_shown_of_a_url_holds_no_secret() {
        let url = Url::parse("http://user:pass@shop.test/a?token=1").unwrap();
        assert_eq!(shown(&url), "http://shop.test/a");
    }
}
