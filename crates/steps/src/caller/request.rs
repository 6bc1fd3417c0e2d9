//! What is asked: the request that a call's templates come to, its signature, and its token.

use std::time::{Duration, SystemTime};

use comanda_engine::StepCall;
use comanda_model::decision::context;
use comanda_model::expression::EvaluationError;
use comanda_model::order_type::HttpCall;
use comanda_outbound::{Guard, Refused, Secrets};
use minijinja::value::merge_maps;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Request, Url};
use serde_json::Value;

use super::{Caller, Exchange, chain};
use crate::bearer::{Given, TokenError};
use crate::signature::{self, SignError};

/// The longest wait for a bearer token; half of the attempt's time, if that is less. So a token that does not come is told
/// as such: the call itself was never made.
const TOKEN_WAIT_MAX: Duration = Duration::from_secs(10);

/// A call that is ready to be sent.
pub(super) struct Prepared {
    pub(super) request: Request,
    /// The token that it carries.
    pub(super) bearer: Option<Given>,
    /// What it carries that may not be kept if it is quoted.
    pub(super) hidden: Secrets,
}

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
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
    #[error("its body cannot be sent again")]
    Body,
}

impl Caller {
    /// Signs a request and gives it its token.
    pub(super) async fn prepare(
        &self,
        exchange: &Exchange<'_>,
        mut request: Request,
    ) -> Result<Prepared, PrepareError> {
        let http = exchange.http;
        if let Some(secret) = &http.sign {
            let secret = secret.render(&self.settings)?;
            signature::sign(&mut request, exchange.sign_as, &secret, SystemTime::now())?;
        }
        let mut bearer = None;
        if let Some(auth) = &http.auth {
            let within = TOKEN_WAIT_MAX.min(exchange.timeout / 2);
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
        let hidden = carried(exchange, &request);
        Ok(Prepared {
            request,
            bearer,
            hidden,
        })
    }

    /// The request that a call's templates come to.
    pub(super) fn render(
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
}

/// What a call carries that may not be kept if its receiver quotes it: tokens of callbacks, and headers made of secrets, as
/// they were sent.
fn carried(exchange: &Exchange<'_>, request: &Request) -> Secrets {
    let headers = exchange.http.headers.iter();
    let of_secrets = headers.filter(|(_, template)| template.text().contains("secret"));
    let names = of_secrets
        .map(|(name, _)| name.as_str())
        .chain([AUTHORIZATION.as_str()]);
    let values = names.filter_map(|name| request.headers().get(name)?.to_str().ok());
    // Of `Bearer abc` both: what stands behind the scheme is quoted without it too.
    let parts = values.flat_map(|value| [Some(value), value.split_once(' ').map(|(_, rest)| rest)]);
    let parts = parts.flatten().map(str::to_owned);
    Secrets::new(exchange.hidden.iter().cloned().chain(parts))
}

fn header_value(name: &str, value: &str) -> Result<HeaderValue, PrepareError> {
    HeaderValue::from_str(value).map_err(|error| PrepareError::Header {
        name: name.to_owned(),
        detail: error.to_string(),
    })
}
