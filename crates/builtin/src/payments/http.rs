//! A provider over HTTP: one request for each act, as the settings describe them.
//!
//! 2xx means done, and its JSON names the payment (`payment` or `id`); 402, 409 and 422 are a refusal; anything else is
//! tried again, after the provider was asked what has become of it.

use std::sync::Arc;

use async_trait::async_trait;
use comanda_engine::{Admission, Postponed, StepCall};
use comanda_model::json::scalar_text;
use comanda_model::order_type::{BuiltInKind, HttpCall};
use comanda_steps::Caller;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use super::{Answer, Provider, Request};
use crate::Unanswered;

/// The requests of a provider. Their templates see what is asked for as `with`: `order`, `key`, `amount`, `currency`,
/// `source`, `payment`, and `undoes`, the key of what is taken back.
#[derive(Clone, Debug)]
pub struct HttpPaymentsOptions {
    /// Sets an amount aside.
    pub authorize: HttpCall,
    /// Takes what was authorised.
    pub capture: HttpCall,
    /// Gives an authorisation up.
    pub void: HttpCall,
    /// Gives up whatever the request under `with.undoes` has come to, where no payment is known. If it has come to nothing,
    /// the provider refuses it from then on: it may still be on its way.
    pub void_by_key: HttpCall,
    /// Pays back what was captured.
    pub refund: HttpCall,
    /// Asks what has become of the payment under `with.key`: 2xx names it, 404 says that there is none.
    pub find: HttpCall,
}

impl HttpPaymentsOptions {
    /// All calls.
    pub fn calls(&self) -> [&HttpCall; 6] {
        [
            &self.authorize,
            &self.capture,
            &self.void,
            &self.void_by_key,
            &self.refund,
            &self.find,
        ]
    }
}

/// A payment provider over HTTP.
pub struct HttpPayments {
    caller: Arc<Caller>,
    options: HttpPaymentsOptions,
}

impl HttpPayments {
    /// A provider.
    pub fn new(caller: Arc<Caller>, options: HttpPaymentsOptions) -> Self {
        Self { caller, options }
    }
}

fn answer(reply: comanda_steps::Answer) -> Result<Answer, Unanswered> {
    if matches!(
        reply.status,
        StatusCode::PAYMENT_REQUIRED | StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY
    ) {
        return Ok(Answer::Refused(reply.described));
    }
    if !reply.status.is_success() {
        return Err(Unanswered::by(reply));
    }
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let payment = ["payment", "id"].into_iter().find_map(|name| scalar_text(&body[name]));
    Ok(match payment {
        Some(payment) => Answer::Done {
            payment,
            state: body["state"].as_str().unwrap_or("done").to_owned(),
        },
        None => Answer::Nothing,
    })
}

#[async_trait]
impl Provider for HttpPayments {
    async fn ask(&self, call: &StepCall<'_>, request: &Request) -> Result<Option<Answer>, Unanswered> {
        if !matches!(request, Request::Authorize { .. }) {
            // The provider makes these happen once by their key.
            return Ok(None);
        }
        let with = json!({"order": call.order.id(), "key": call.idempotency_key});
        let reply = self.caller.send(call, &self.options.find, Some(&with)).await?;
        let described = reply.described.clone();
        match reply.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            _ => match answer(reply)? {
                Answer::Nothing => Err(Unanswered::perhaps_done(format!(
                    "{described}: the answer names no payment (`id`)"
                ))),
                found => Ok(Some(found)),
            },
        }
    }

    async fn request(&self, call: &StepCall<'_>, request: &Request) -> Result<Answer, Unanswered> {
        let mut with = Map::new();
        let mut tell = |name: &str, value: Value| with.insert(name.to_owned(), value);
        tell("order", json!(call.order.id()));
        tell("key", json!(call.idempotency_key));
        let http = match request {
            Request::Authorize {
                amount,
                currency,
                source,
            } => {
                tell("amount", json!(amount.to_string()));
                tell("currency", json!(currency));
                tell("source", json!(source));
                &self.options.authorize
            }
            Request::Capture { payment } => {
                tell("payment", json!(payment));
                &self.options.capture
            }
            Request::Refund { payment, key } => {
                tell("payment", json!(payment));
                tell("undoes", json!(key));
                &self.options.refund
            }
            Request::Void { payment, key } => {
                tell("payment", json!(payment));
                tell("undoes", json!(key));
                match payment {
                    Some(_) => &self.options.void,
                    // Nobody knows whether it was made, or will be: the provider is told either way.
                    None => &self.options.void_by_key,
                }
            }
        };
        let reply = self.caller.send(call, http, Some(&Value::Object(with))).await?;
        let described = reply.described.clone();
        match answer(reply)? {
            Answer::Nothing if matches!(request, Request::Authorize { .. }) => Err(Unanswered::perhaps_done(format!(
                "{described}: the answer names no payment (`id`)"
            ))),
            answer => Ok(answer),
        }
    }

    async fn admit(&self, kind: BuiltInKind) -> Result<Admission, Postponed> {
        let http = match kind {
            BuiltInKind::PaymentsCapture => &self.options.capture,
            BuiltInKind::PaymentsVoid => &self.options.void,
            BuiltInKind::PaymentsRefund => &self.options.refund,
            _ => &self.options.authorize,
        };
        self.caller.admit(http).await
    }
}
