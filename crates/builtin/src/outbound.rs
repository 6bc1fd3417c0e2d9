//! Questions and requests of built-in steps to services over HTTP, as the settings describe them.
//!
//! Unlike an HTTP step, what an answer means is the built-in's matter: a 404 is a customer that is not known, or a payment
//! that never came.

use std::collections::BTreeMap;
use std::time::Duration;

use comanda_engine::StepCall;
use comanda_model::bounds::RESULT_BYTES_MAX;
use comanda_model::decision::context;
use comanda_model::order::bounded;
use comanda_model::order_type::HttpCall;
use minijinja::value::{Value as Context, merge_maps};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use serde_json::Value;

/// How much of an answer a reason quotes, in bytes.
const QUOTED_BYTES_MAX: usize = 300;

/// What requests may use besides the order.
#[derive(Clone, Default)]
pub struct Settings {
    /// Environment variables, readable in templates as `env.NAME`.
    pub env: BTreeMap<String, String>,
    /// Secrets, readable in templates as `secret.name`. They are taken out of every reason.
    pub secrets: BTreeMap<String, String>,
    /// The `User-Agent`.
    pub user_agent: String,
}

/// A client for the services that the settings name.
#[derive(Clone)]
pub struct Outbound {
    client: Client,
    settings: Context,
    secrets: Vec<String>,
}

/// What a service answered.
pub(crate) struct Reply {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body, if it was JSON.
    pub(crate) body: Option<Value>,
    /// What was asked and how it was answered, for people.
    pub(crate) described: String,
}

impl Reply {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The service understood and will not, however often it is asked.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.status, 402 | 409 | 422)
    }
}

impl Outbound {
    /// Sets the client up.
    ///
    /// # Errors
    /// If the system's certificates or resolver cannot be used.
    pub fn new(settings: Settings) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .user_agent(settings.user_agent)
            // A redirect could lead a call, with its secrets, to where the operator never pointed it.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .build()?;
        // What the operator has set may stand in a URL as it is: it names hosts and paths.
        let trusted = |values: &BTreeMap<String, String>| -> Context {
            let values = values
                .iter()
                .map(|(name, value)| (name.clone(), Context::from_safe_string(value.clone())));
            Context::from_object(values.collect::<BTreeMap<String, Context>>())
        };
        let context = minijinja::context! { env => trusted(&settings.env), secret => trusted(&settings.secrets) };
        let mut secrets: Vec<String> = settings.secrets.into_values().filter(|one| !one.is_empty()).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Ok(Self {
            client,
            settings: context,
            secrets,
        })
    }

    /// Sends one request; `with` is what its templates see under that name. The error is for people.
    pub(crate) async fn send(&self, call: &StepCall<'_>, http: &HttpCall, with: Value) -> Result<Reply, String> {
        self.exchange(call, http, with)
            .await
            .map_err(|reason| self.without_secrets(reason))
    }

    async fn exchange(&self, call: &StepCall<'_>, http: &HttpCall, with: Value) -> Result<Reply, String> {
        let with = minijinja::context! { with => comanda_model::template::from_json(&with) };
        let context = merge_maps([context(call.order)?, self.settings.clone(), with]);
        let text = |error: comanda_model::expression::EvaluationError| error.to_string();
        let url = http.url.render_url(&context).map_err(text)?;
        let url = Url::parse(&url).map_err(|error| format!("`{}` is no URL: {error}", http.url.text()))?;
        let method =
            Method::from_bytes(http.method.as_bytes()).map_err(|_| format!("`{}` is no HTTP method", http.method))?;
        let mut headers = HeaderMap::new();
        let mut insert = |name: &str, value: &str| -> Result<(), String> {
            let fault = |detail: String| format!("header `{name}`: {detail}");
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|error| fault(error.to_string()))?;
            let value = HeaderValue::from_str(value).map_err(|error| fault(error.to_string()))?;
            headers.insert(key, value);
            Ok(())
        };
        insert("idempotency-key", &call.idempotency_key)?;
        insert("traceparent", &call.traceparent)?;
        insert("comanda-attempt", &call.attempt.to_string())?;
        if let Some(undoes) = &call.undoes {
            insert("comanda-undoes", undoes)?;
        }
        for (name, template) in &http.headers {
            insert(name, &template.render(&context).map_err(text)?)?;
        }
        let mut shown = url.clone();
        // What a query holds may not be for logs.
        shown.set_query(None);
        let described = format!("{method} {shown}");
        let mut request = self.client.request(method, url).headers(headers);
        if let Some(body) = &http.body {
            request = request.json(&body.render(&context).map_err(text)?);
        }
        let failed = |error: reqwest::Error| {
            let mut reason = format!("{described}: {}", error.without_url());
            reason.truncate(reason.floor_char_boundary(1000));
            reason
        };
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > RESULT_BYTES_MAX {
                return Err(format!(
                    "{described}: the answer is larger than {RESULT_BYTES_MAX} bytes"
                ));
            }
        }
        let quoted = bounded(String::from_utf8_lossy(&body).trim().to_owned(), QUOTED_BYTES_MAX);
        Ok(Reply {
            status: status.as_u16(),
            body: serde_json::from_slice(&body).ok(),
            described: self.without_secrets(format!("{described}: {status}: {quoted}")),
        })
    }

    fn without_secrets(&self, text: String) -> String {
        self.secrets
            .iter()
            .fold(text, |text, secret| text.replace(secret.as_str(), "***"))
    }
}
