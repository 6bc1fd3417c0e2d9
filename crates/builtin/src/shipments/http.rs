//! A carrier over HTTP: one request for each act, as the settings describe them.
//!
//! 2xx means done, and its JSON names the shipment (`shipment` or `id`), and `carrier` and `trackingNumber` where they are
//! known; 409 and 422 are a refusal; anything else is tried again, after the carrier was asked what has become of it.

use std::sync::Arc;

use async_trait::async_trait;
use comanda_engine::{Admission, Postponed, StepCall};
use comanda_model::order_type::{BuiltInKind, HttpCall};
use comanda_steps::Caller;
use serde_json::{Value, json};

use super::{Answer, Carrier, Request, Shipment};
use crate::Unanswered;
use crate::said::{Said, about, is_unknown, member};

/// The requests of a carrier. Their templates see what is asked for as `with`: `order`, `key`, `to`, `lines`, `service`,
/// `shipment`, and `undoes`, the key of what is taken back.
#[derive(Clone, Debug)]
pub struct HttpCarrierOptions {
    /// Makes a shipment.
    pub create: HttpCall,
    /// Gives a shipment up.
    pub cancel: HttpCall,
    /// Gives up whatever the request under `with.undoes` has come to, where no shipment is known. If it has come to
    /// nothing, the carrier refuses it from then on: it may still be on its way.
    pub cancel_by_key: HttpCall,
    /// Asks what has become of the shipment under `with.key`: 2xx names it, 404 says that there is none.
    pub find: HttpCall,
}

impl HttpCarrierOptions {
    /// All calls.
    pub fn calls(&self) -> [&HttpCall; 4] {
        [&self.create, &self.cancel, &self.cancel_by_key, &self.find]
    }
}

/// A carrier over HTTP.
pub struct HttpCarrier {
    caller: Arc<Caller>,
    options: HttpCarrierOptions,
}

impl HttpCarrier {
    /// A carrier.
    pub fn new(caller: Arc<Caller>, options: HttpCarrierOptions) -> Self {
        Self { caller, options }
    }
}

fn answer(said: Said) -> Answer {
    let body = match said {
        Said::Yes { body, .. } => body,
        Said::No(reason) => return Answer::Refused(reason),
    };
    match member(&body, &["shipment", "id"]) {
        Some(id) => Answer::Done(Shipment {
            id,
            carrier: member(&body, &["carrier"]),
            tracking_number: member(&body, &["trackingNumber", "tracking_number"]),
        }),
        None => Answer::Nothing,
    }
}

#[async_trait]
impl Carrier for HttpCarrier {
    async fn ask(&self, call: &StepCall<'_>, request: &Request) -> Result<Option<Answer>, Unanswered> {
        if !matches!(request, Request::Create { .. }) {
            // The carrier makes this happen once by its key.
            return Ok(None);
        }
        let with = Value::Object(about(call));
        let reply = self.caller.send(call, &self.options.find, Some(&with)).await?;
        if is_unknown(&reply) {
            return Ok(None);
        }
        Ok(Some(answer(Said::by(reply, None)?.naming("shipment")?)))
    }

    async fn request(&self, call: &StepCall<'_>, request: &Request) -> Result<Answer, Unanswered> {
        let mut with = about(call);
        let mut tell = |name: &str, value: Value| with.insert(name.to_owned(), value);
        let http = match request {
            Request::Create { to, lines, service } => {
                tell("to", to.clone());
                tell("lines", lines.clone());
                tell("service", json!(service));
                &self.options.create
            }
            Request::Cancel { shipment, key } => {
                tell("shipment", json!(shipment));
                tell("undoes", json!(key));
                match shipment {
                    Some(_) => &self.options.cancel,
                    // Nobody knows whether it was made, or will be: the carrier is told either way.
                    None => &self.options.cancel_by_key,
                }
            }
        };
        let reply = self.caller.send(call, http, Some(&Value::Object(with))).await?;
        let said = Said::by(reply, None)?;
        Ok(answer(match request {
            Request::Create { .. } => said.naming("shipment")?,
            Request::Cancel { .. } => said,
        }))
    }

    async fn admit(&self, kind: BuiltInKind) -> Result<Admission, Postponed> {
        let http = match kind {
            BuiltInKind::ShipmentsCancel => &self.options.cancel,
            _ => &self.options.create,
        };
        self.caller.admit(http).await
    }
}
