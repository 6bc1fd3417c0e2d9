//! The one HTTP caller: whatever a step asks of a service leaves through here, an HTTP step's call as much as a question
//! of a built-in step.
//!
//! Every call carries `Idempotency-Key`, the same on each attempt of a visit, and `traceparent`; where the call says so, a
//! Standard Webhooks signature and a bearer token. Calls to one target share its places and its circuit. Of an answer's
//! body no more is read than may be kept, and no secret stands in what is said of it. What an answer *means* is the
//! matter of who asked.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use comanda_engine::{Admission, Postponed, StepCall};
use comanda_model::Order;
use comanda_model::bounds::RESULT_BYTES_MAX;
use comanda_model::decision::context;
use comanda_model::expression::EvaluationError;
use comanda_model::order::bounded;
use comanda_model::order_type::HttpCall;
use comanda_outbound::{Guard, Refused};
use minijinja::value::{Value as Context, merge_maps};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, Method, Request, Response, StatusCode, Url};
use serde_json::Value;

use crate::bearer::{Bearers, Given, TokenError};
use crate::redact::Secrets;
use crate::signature::{self, SignError};
use crate::target::{self, Health, Targets};
use crate::{Options, SetUpError};

/// How much of an answer's body a reason quotes, in bytes.
const QUOTED_BYTES_MAX: usize = 300;
/// The longest `Retry-After` that is believed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest wait for a bearer token; half of the attempt's time, if that is less. So a token that does not come is told
/// as such: the call itself was never made.
const TOKEN_WAIT_MAX: Duration = Duration::from_secs(10);

/// Makes calls. Steps of all kinds share one, and with it the places and circuits of the services.
pub struct Caller {
    client: Client,
    /// For calls whose host comes from an order: it reaches public addresses only, unless the operator allows others.
    guarded: Client,
    /// Whether the operator allows others.
    allow_private: bool,
    /// `env` and `secret`, as templates see them.
    settings: Context,
    /// Taken out of everything that leaves this module.
    secrets: Secrets,
    /// Where callbacks are to be sent, without a slash at the end.
    public_url: String,
    targets: Targets,
    bearers: Bearers,
}

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

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct CallError {
    /// What went wrong, for people and histories: without secrets.
    pub reason: String,
    /// Whether the service may have been reached, and so may have done what it was asked.
    pub sent: bool,
    /// The status, if only the body is missing.
    pub status: Option<StatusCode>,
    /// When to come again, if the service said so.
    pub retry_after: Option<Duration>,
    /// When to come again, if nothing was sent because a service that the call needs takes no calls for now. That is no
    /// attempt.
    pub postponed: Option<Duration>,
}

/// A call that is ready to be sent.
struct Prepared {
    request: Request,
    /// The token that it carries.
    bearer: Option<Given>,
    /// What it carries that may not be kept if it is quoted.
    hidden: Secrets,
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

#[derive(Debug, thiserror::Error)]
enum PrepareError {
    #[error(transparent)]
    Template(#[from] EvaluationError),
    #[error("the order could not be read: {0}")]
    Order(String),
    #[error("`{url}` is no URL: {detail}")]
    Url { url: String, detail: String },
    #[error("{0}; or calls.allow_private is set")]
    Refused(#[from] Refused),
    #[error("header `{name}`: {detail}")]
    Header { name: String, detail: String },
    #[error("`{0}` is no HTTP method")]
    Method(String),
    #[error("`sign`: {0}")]
    Secret(#[from] SignError),
    #[error("no token for the call: {0}")]
    Token(#[from] TokenError),
}

impl Caller {
    /// Sets up the client and what calls share.
    ///
    /// # Errors
    /// If the system's certificates or resolver cannot be used.
    pub fn new(options: Options) -> Result<Self, SetUpError> {
        let targets = Targets::new(&options);
        let user_agent = match options.user_agent.as_str() {
            "" => "comanda",
            named => named,
        };
        let builder = || {
            Client::builder()
                .user_agent(user_agent)
                // A redirect could lead a call, with its secrets, to where the operator never pointed it.
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(Duration::from_secs(10))
                .pool_idle_timeout(Duration::from_secs(60))
        };
        let client = builder().build()?;
        let guarded = if options.allow_private {
            client.clone()
        } else {
            Guard::apply_over(builder(), options.lookup.clone()).build()?
        };
        // What the operator has set may stand in a URL as it is: it names hosts and paths.
        let trusted = |values: &BTreeMap<String, String>| -> Context {
            let values = values
                .iter()
                .map(|(name, value)| (name.clone(), Context::from_safe_string(value.clone())));
            Context::from_object(values.collect::<BTreeMap<String, Context>>())
        };
        let settings = minijinja::context! { env => trusted(&options.env), secret => trusted(&options.secrets) };
        Ok(Self {
            client,
            guarded,
            allow_private: options.allow_private,
            settings,
            secrets: Secrets::new(options.secrets.into_values()),
            public_url: options.public_url.trim_end_matches('/').to_owned(),
            targets,
            bearers: Bearers::default(),
        })
    }

    /// Waits, a while at most, for a place among the calls to the target. Who calls keeps it until the call has ended.
    pub async fn admit(&self, http: &HttpCall) -> Result<Admission, Postponed> {
        // A URL that cannot be made is told by the attempt itself.
        self.admit_to(self.target_of(http)).await
    }

    /// The same for a call whose host may come from the order.
    pub async fn admit_for(&self, http: &HttpCall, order: &Order) -> Result<Admission, Postponed> {
        if http.url.foreign_host().is_none() {
            return self.admit(http).await;
        }
        let context = context(order).map(|order| merge_maps([order, self.settings.clone()]));
        let url = context
            .ok()
            .and_then(|context| http.url.render_foreign_url(&context).ok());
        let url = url.and_then(|url| Url::parse(&url).ok());
        self.admit_to(url.map(|url| target::foreign_name(&url))).await
    }

    async fn admit_to(&self, target: Option<String>) -> Result<Admission, Postponed> {
        match target {
            Some(name) => self.targets.admit(&name).await.map(Admission::holding),
            None => Ok(Admission::default()),
        }
    }

    /// The scheme, host and port that a call goes to, where they come from the operator's settings alone.
    fn target_of(&self, http: &HttpCall) -> Option<String> {
        let authority = http.url.authority().render_url(&self.settings).ok()?;
        let url = Url::parse(&authority).ok()?;
        Some(target::name(&url))
    }

    /// A place at the service that a step's question goes to, where that is another than the step's own, in which the
    /// attempt has one.
    pub(crate) async fn admit_question(&self, http: &HttpCall, question: &HttpCall) -> Result<Admission, Postponed> {
        let asked = self.target_of(question);
        if asked == self.target_of(http) {
            return Ok(Admission::default());
        }
        self.admit_to(asked).await
    }

    /// Makes a call. `with` is what its templates see under that name, beside the order, `env` and `secret`. A call whose
    /// token is not taken any more (401) is made once more with a new one.
    ///
    /// # Errors
    /// If there is no answer; [`CallError::sent`] tells whether the service may have acted all the same.
    pub async fn send(&self, call: &StepCall<'_>, http: &HttpCall, with: Option<&Value>) -> Result<Answer, CallError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let (answer, bearer) = self.send_once(call, http, with).await?;
            let refused = bearer.filter(|_| answer.status == StatusCode::UNAUTHORIZED);
            let Some((auth, bearer)) = http.auth.as_deref().zip(refused) else {
                return Ok(answer);
            };
            self.bearers.forget(auth, &self.settings, &bearer.token).await;
            if bearer.is_new || tries == 2 {
                return Ok(answer);
            }
        }
    }

    async fn send_once(
        &self,
        call: &StepCall<'_>,
        http: &HttpCall,
        with: Option<&Value>,
    ) -> Result<(Answer, Option<Given>), CallError> {
        let Prepared {
            request,
            bearer,
            hidden,
        } = self.prepare(call, http, with).await.map_err(|error| CallError {
            reason: self.secrets.hide(error.to_string()),
            sent: false,
            status: None,
            retry_after: None,
            postponed: match &error {
                PrepareError::Token(TokenError::HeldBack(postponed)) => Some(postponed.after),
                _ => None,
            },
        })?;
        let failed = |reason: String, sent: bool| CallError {
            reason: self.hide(&hidden, reason),
            sent,
            status: None,
            retry_after: None,
            postponed: None,
        };
        let (client, target) = match http.url.foreign_host() {
            Some(_) => (&self.guarded, target::foreign_name(request.url())),
            None => (&self.client, target::name(request.url())),
        };
        let watch = self.targets.watch(&target);
        let url = request.url().clone();
        let asked = format!("{} {}", request.method(), shown(&url));
        let response = match client.execute(request).await {
            Ok(response) => response,
            Err(error) => {
                if let Some(refused) = Guard::refusal(&error) {
                    // Nothing was asked of anyone.
                    watch.end(Health::Good);
                    return Err(failed(
                        format!("{asked}: {refused}; or calls.allow_private is set"),
                        false,
                    ));
                }
                watch.end(Health::Bad);
                let sent = !error.is_connect() && !error.is_builder();
                return Err(failed(format!("{asked}: {}", chain(&error.without_url())), sent));
            }
        };
        watch.end(health(response.status()));
        let answer = self.answer(&hidden, &url, &asked, response).await?;
        Ok((answer, bearer))
    }

    async fn answer(
        &self,
        hidden: &Secrets,
        url: &Url,
        asked: &str,
        mut response: Response,
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
        let body = read(&mut response).await.map_err(|error| {
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

    async fn prepare(
        &self,
        call: &StepCall<'_>,
        http: &HttpCall,
        with: Option<&Value>,
    ) -> Result<Prepared, PrepareError> {
        let callback = http.callback.and(call.callback);
        let callback = callback.map(|token| format!("{}/v1/callbacks/{}", self.public_url, token.expose()));
        let mut request = self.render(call, http, with, callback)?;
        if let Some(secret) = &http.sign {
            let secret = secret.render(&self.settings)?;
            signature::sign(&mut request, &call.idempotency_key, &secret, SystemTime::now())?;
        }
        let mut bearer = None;
        if let Some(auth) = &http.auth {
            let within = TOKEN_WAIT_MAX.min(call.step.timeout / 2);
            let issued = self
                .bearers
                .token(&self.client, &self.targets, auth, &self.settings, within);
            let given = issued.await?;
            let value = header_value("authorization", &format!("Bearer {}", given.token))?;
            request.headers_mut().insert(AUTHORIZATION, value);
            bearer = Some(given);
        }
        if let Some(value) = request.headers_mut().get_mut(AUTHORIZATION) {
            // Neither shown by a log nor kept in a table of compressed headers.
            value.set_sensitive(true);
        }
        let hidden = carried(call, http, &request);
        Ok(Prepared {
            request,
            bearer,
            hidden,
        })
    }

    fn render(
        &self,
        call: &StepCall<'_>,
        http: &HttpCall,
        with: Option<&Value>,
        callback: Option<String>,
    ) -> Result<Request, PrepareError> {
        let order = context(call.order).map_err(PrepareError::Order)?;
        let mut context = merge_maps([order, self.settings.clone()]);
        if let Some(url) = &callback {
            let callback = minijinja::context! { callback => minijinja::context! { url => url } };
            context = merge_maps([context, callback]);
        }
        if let Some(with) = with {
            let with = minijinja::context! { with => comanda_model::template::from_json(with) };
            context = merge_maps([context, with]);
        }
        let foreign = http.url.foreign_host().is_some();
        let url = if foreign {
            http.url.render_foreign_url(&context)?
        } else {
            http.url.render_url(&context)?
        };
        let url = Url::parse(&url).map_err(|error| PrepareError::Url {
            url,
            detail: error.to_string(),
        })?;
        if foreign {
            match Guard::check(&url) {
                Err(Refused::Private { .. }) if self.allow_private => {}
                checked => checked?,
            }
        }
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

    /// A text that may stand in a history: a receiver may have quoted what it was sent.
    fn hide(&self, carried: &Secrets, text: String) -> String {
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

/// What a call carries that may not be kept if its receiver quotes it: the callback's token, and headers made of secrets,
/// as they were sent.
fn carried(call: &StepCall<'_>, http: &HttpCall, request: &Request) -> Secrets {
    let callback = call.callback.map(|token| token.secret.simple().to_string());
    let of_secrets = http
        .headers
        .iter()
        .filter(|(_, template)| template.text().contains("secret"));
    let names = of_secrets
        .map(|(name, _)| name.as_str())
        .chain([AUTHORIZATION.as_str()]);
    let values = names.filter_map(|name| request.headers().get(name)?.to_str().ok());
    // Of `Bearer abc` both: what stands behind the scheme is quoted without it too.
    let parts = values.flat_map(|value| [Some(value), value.split_once(' ').map(|(_, rest)| rest)]);
    Secrets::new(callback.into_iter().chain(parts.flatten().map(str::to_owned)))
}

/// What an answer says of the target, not of the one call.
pub(crate) fn health(status: StatusCode) -> Health {
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

/// A URL for people: without its query, fragment and credentials, which may hold what is not for logs.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
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

    #[test]
    fn what_is_shown_of_a_url_holds_no_secret() {
        let url = Url::parse("http://user:pass@shop.test/a?token=1#token=2").unwrap();
        assert_eq!(shown(&url), "http://shop.test/a");
    }
}
