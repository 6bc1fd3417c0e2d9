//! The one HTTP caller: whatever a step asks of a service leaves through here, an HTTP step's call as much as a question
//! of a built-in step.
//!
//! Every call carries `Idempotency-Key`, the same on each attempt of a visit, and `traceparent`; where the call says so, a
//! Standard Webhooks signature and a bearer token. Calls to one target share its places and its circuit. Of an answer's
//! body no more is read than may be kept, and no secret stands in what is said of it. What an answer *means* is the
//! matter of who asked.

mod answer;
mod request;

use std::collections::BTreeMap;
use std::time::Duration;

use comanda_engine::{Admission, Postponed, StepCall};
use comanda_model::Order;
use comanda_model::bounds::RESULT_BYTES_MAX;
use comanda_model::decision::context;
use comanda_model::order_type::HttpCall;
use comanda_outbound::{Guard, Secrets};
use minijinja::value::{Value as Context, merge_maps};
use reqwest::{Client, Request, StatusCode, Url};
use serde_json::Value;

use crate::bearer::{Bearers, TokenError};
use crate::target::{self, Health, Targets};
use crate::{Options, SetUpError};

pub use answer::Answer;
pub(crate) use answer::RETRY_AFTER_MAX;
use request::{PrepareError, Prepared};

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

/// What is particular to one exchange with a service.
pub(crate) struct Exchange<'a> {
    /// The call.
    pub(crate) http: &'a HttpCall,
    /// The id that it is signed under.
    pub(crate) sign_as: &'a str,
    /// How long it may take.
    pub(crate) timeout: Duration,
    /// What it carries that may not be kept if its receiver quotes it.
    pub(crate) hidden: Vec<String>,
    /// How much of the answer is read.
    pub(crate) body_bytes_max: usize,
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
        self.admit_to(self.target_for(http, order)).await
    }

    fn target_for(&self, http: &HttpCall, order: &Order) -> Option<String> {
        if http.url.foreign_host().is_none() {
            return self.target_of(http);
        }
        let context = merge_maps([context(order).ok()?, self.settings.clone()]);
        let url = http.url.render_foreign_url(&context).ok()?;
        Url::parse(&url).ok().map(|url| target::foreign_name(&url))
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

    /// Refuses if calls to the target are held back, and takes no place: the attempt goes out with others, in a call that
    /// takes one for them all.
    pub(crate) fn look_for(&self, http: &HttpCall, order: &Order) -> Result<(), Postponed> {
        self.target_for(http, order)
            .map_or(Ok(()), |name| self.targets.look(&name))
    }

    /// A place at the service that a request goes to.
    pub(crate) async fn admit_request(&self, http: &HttpCall, request: &Request) -> Result<Admission, Postponed> {
        let name = match http.url.foreign_host() {
            Some(_) => target::foreign_name(request.url()),
            None => target::name(request.url()),
        };
        self.admit_to(Some(name)).await
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
        let exchange = Exchange {
            http,
            sign_as: &call.idempotency_key,
            timeout: call.step.timeout,
            hidden: hidden_of(call).into_iter().collect(),
            body_bytes_max: RESULT_BYTES_MAX,
        };
        let callback = self.callback_url(call, http);
        self.exchange(&exchange, || self.render(call, http, with, callback.clone()))
            .await
    }

    /// The request of one attempt as it would be sent alone, without signature and token.
    pub(crate) fn request(&self, call: &StepCall<'_>, http: &HttpCall) -> Result<Request, CallError> {
        let rendered = self.render(call, http, None, self.callback_url(call, http));
        rendered.map_err(|error| self.not_sent(&error))
    }

    /// Sends a request that is ready but for its signature and its token, within the exchange's bounds.
    pub(crate) async fn send_request(&self, exchange: &Exchange<'_>, request: &Request) -> Result<Answer, CallError> {
        // Its body is text, so that it can always be copied.
        let copy = || request.try_clone().ok_or(PrepareError::Body);
        self.exchange(exchange, copy).await
    }

    /// Where the callback of an attempt is to be sent, if it may bring its result.
    pub(crate) fn callback_url(&self, call: &StepCall<'_>, http: &HttpCall) -> Option<String> {
        let token = http.callback.and(call.callback)?;
        Some(format!("{}/v1/callbacks/{}", self.public_url, token.expose()))
    }

    async fn exchange<F>(&self, exchange: &Exchange<'_>, request: F) -> Result<Answer, CallError>
    where
        F: Fn() -> Result<Request, PrepareError> + Sync,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            let prepared = match request() {
                Ok(request) => self.prepare(exchange, request).await,
                Err(error) => Err(error),
            };
            let prepared = prepared.map_err(|error| self.not_sent(&error))?;
            let bearer = prepared.bearer.clone();
            let answer = self.execute(exchange, prepared).await?;
            let refused = bearer.filter(|_| answer.status == StatusCode::UNAUTHORIZED);
            let Some((auth, bearer)) = exchange.http.auth.as_deref().zip(refused) else {
                return Ok(answer);
            };
            self.bearers.forget(auth, &self.settings, &bearer.token).await;
            if bearer.is_new || tries == 2 {
                return Ok(answer);
            }
        }
    }

    /// Why a call was not even made.
    fn not_sent(&self, error: &PrepareError) -> CallError {
        CallError {
            reason: self.secrets.hide(error.to_string()),
            sent: false,
            status: None,
            retry_after: None,
            postponed: match error {
                PrepareError::Token(TokenError::HeldBack(postponed)) => Some(postponed.after),
                _ => None,
            },
        }
    }

    async fn execute(&self, exchange: &Exchange<'_>, prepared: Prepared) -> Result<Answer, CallError> {
        let Prepared { request, hidden, .. } = prepared;
        let http = exchange.http;
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
        self.answer(&hidden, &url, &asked, response, exchange.body_bytes_max)
            .await
    }
}

/// What of an attempt may not be kept if its receiver quotes it: the callback's token.
pub(crate) fn hidden_of(call: &StepCall<'_>) -> Option<String> {
    call.callback.map(|token| token.secret.simple().to_string())
}

/// What an answer says of the target, not of the one call.
pub(crate) fn health(status: StatusCode) -> Health {
    match status {
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Health::Bad,
        _ => Health::Good,
    }
}

/// A URL for people: without its query, fragment and credentials, which may hold what is not for logs.
pub(crate) fn shown(url: &Url) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_url_holds_no_secret() {
        let url = Url::parse("http://user:pass@shop.test/a?token=1#token=2").unwrap();
        assert_eq!(shown(&url), "http://shop.test/a");
    }
}
