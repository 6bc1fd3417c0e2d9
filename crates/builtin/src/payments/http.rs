//! A provider over HTTP: one request for each act, as the settings describe them.
//!
//! 2xx means done, and its JSON names the payment (`payment` or `id`); 402, 409 and 422 are a refusal; anything else is
//! tried again, after the provider was asked what has become of it.

use std::sync::Arc;

use async_trait::async_trait;
use comanda_engine::{Admission, Postponed, StepCall};
use comanda_model::order_type::{BuiltInKind, HttpCall};
use comanda_steps::Caller;
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Provider, Request};
use crate::Unanswered;
use crate::said::{Said, about, is_unknown, member};

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

fn said(reply: comanda_steps::Answer) -> Result<Said, Unanswered> {
    Said::by(reply, Some(StatusCode::PAYMENT_REQUIRED))
}

fn answer(said: Said) -> Answer {
    let body = match said {
        Said::Yes { body, .. } => body,
        Said::No(reason) => return Answer::Refused(reason),
    };
    match member(&body, &["payment", "id"]) {
        Some(payment) => Answer::Done {
            payment,
            state: body["state"].as_str().unwrap_or("done").to_owned(),
        },
        None => Answer::Nothing,
    }
}

#[async_trait]
impl Provider for HttpPayments {
    async fn ask(&self, call: &StepCall<'_>, request: &Request) -> Result<Option<Answer>, Unanswered> {
        if !matches!(request, Request::Authorize { .. }) {
            // The provider makes these happen once by their key.
            return Ok(None);
        }
        let with = Value::Object(about(call));
        let reply = self.caller.send(call, &self.options.find, Some(&with)).await?;
        if is_unknown(&reply) {
            return Ok(None);
        }
        Ok(Some(answer(said(reply)?.naming("payment")?)))
    }

    async fn request(&self, call: &StepCall<'_>, request: &Request) -> Result<Answer, Unanswered> {
        let mut with = about(call);
        let mut tell = |name: &str, value: Value| with.insert(name.to_owned(), value);
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
        let said = said(reply)?;
        Ok(answer(match request {
            Request::Authorize { .. } => said.naming("payment")?,
            _ => said,
        }))
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
