//! A provider over HTTP: one request for each act, as the settings describe them.
//!
//! 2xx means done, and its JSON names the payment (`payment` or `id`); 402, 409 and 422 are a refusal; anything else is
//! tried again, after the provider was asked what has become of it.

use async_trait::async_trait;
use comanda_engine::StepCall;
use comanda_model::json::scalar_text;
use comanda_model::order_type::HttpCall;
use serde_json::{Map, Value, json};

use super::{Answer, Provider, Request};
use crate::outbound::{Outbound, Reply};

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
    /// Pays back what was captured.
    pub refund: HttpCall,
    /// Asks what has become of the payment under `with.key`: 2xx names it, 404 says that there is none.
    pub find: HttpCall,
}

/// A payment provider over HTTP.
pub struct HttpPayments {
    outbound: Outbound,
    options: HttpPaymentsOptions,
}

impl HttpPayments {
    /// A provider.
    pub fn new(outbound: Outbound, options: HttpPaymentsOptions) -> Self {
        Self { outbound, options }
    }

    async fn find(&self, call: &StepCall<'_>, key: &str) -> Result<Option<Answer>, String> {
        let with = json!({"order": call.order.id(), "key": key});
        let reply = self.outbound.send(call, &self.options.find, with).await?;
        match reply.status {
            404 | 410 => Ok(None),
            _ => answer(reply).map(Some),
        }
    }
}

fn answer(reply: Reply) -> Result<Answer, String> {
    if reply.is_refusal() {
        return Ok(Answer::Refused(reply.described));
    }
    if !reply.is_success() {
        return Err(reply.described);
    }
    let body = reply.body.unwrap_or_default();
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
    async fn ask(&self, call: &StepCall<'_>, request: &Request) -> Result<Option<Answer>, String> {
        if !matches!(request, Request::Authorize { .. }) {
            // The provider makes these happen once by their key.
            return Ok(None);
        }
        self.find(call, &call.idempotency_key).await
    }

    async fn request(&self, call: &StepCall<'_>, request: &Request) -> Result<Answer, String> {
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
            Request::Refund { payment } => {
                tell("payment", json!(payment));
                &self.options.refund
            }
            Request::Void { payment, key } => {
                let mut payment = payment.clone();
                if let (None, Some(key)) = (&payment, key) {
                    // Nobody knows whether it was made: the provider does.
                    match self.find(call, key).await? {
                        Some(Answer::Done { payment: found, .. }) => payment = Some(found),
                        Some(Answer::Nothing | Answer::Refused(_)) | None => return Ok(Answer::Nothing),
                    }
                }
                tell("payment", json!(payment));
                tell("undoes", json!(key));
                &self.options.void
            }
        };
        let reply = self.outbound.send(call, http, Value::Object(with)).await?;
        let authorizes = matches!(request, Request::Authorize { .. });
        match answer(reply)? {
            Answer::Nothing if authorizes => Err("the provider's answer names no payment (`id`)".to_owned()),
            answer => Ok(answer),
        }
    }
}
