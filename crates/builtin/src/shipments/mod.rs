//! Shipments: a carrier is told of a parcel, gives it a label and a tracking number, and can be told that it does not come.
//!
//! A request carries the visit's key, so that a carrier can make one shipment of it however often it comes. An attempt that
//! is not the first, or may not be, asks by that key before it requests anything. A cancellation tells the key of what it takes
//! back, and a carrier refuses that from then on.

mod http;
mod manual;
mod sandbox;

use async_trait::async_trait;
use comanda_engine::{Admission, Postponed, StepCall};
use comanda_model::Json;
use comanda_model::decision::StepOutcome;
use comanda_model::json::scalar_text;
use comanda_model::order_type::BuiltInKind;
use serde_json::{Map, Value, json};

use crate::once::once;
use crate::{Unanswered, refused};

pub use http::{HttpCarrier, HttpCarrierOptions};
pub use manual::ByHand;
pub use sandbox::{CarrierSandbox, SandboxShipment, ShipmentState};

/// What is asked of a carrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make a shipment.
    Create {
        /// Where to, as the order type says it; null where it does not.
        to: Value,
        /// What is in it, likewise.
        lines: Value,
        /// Which of the carrier's services.
        service: Option<String>,
    },
    /// Give a shipment up.
    Cancel {
        /// The shipment; without it, whatever the request under `key` has come to or will come to: a carrier that knows
        /// nothing of it refuses it from then on.
        shipment: Option<String>,
        /// The key of the request that is taken back.
        key: Option<String>,
    },
}

/// A shipment that a carrier has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shipment {
    /// The carrier's id of it.
    pub id: String,
    /// Who carries it.
    pub carrier: Option<String>,
    /// What its recipient follows it by; a carrier may tell it later.
    pub tracking_number: Option<String>,
}

/// What a carrier knows of a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It was carried out.
    Done(Shipment),
    /// There is nothing to tell: the shipment is cancelled, or made by hand.
    Nothing,
    /// It was refused for good.
    Refused(String),
}

/// Who carries parcels.
#[async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// What came of an earlier request under this call's key; `None` if it never came.
    async fn ask(&self, call: &StepCall<'_>, request: &Request) -> Result<Option<Answer>, Unanswered>;

    /// Makes a request. Under the same key it has one effect, however often it is made.
    async fn request(&self, call: &StepCall<'_>, request: &Request) -> Result<Answer, Unanswered>;

    /// Waits, a while at most, until there is room for one more request.
    async fn admit(&self, _kind: BuiltInKind) -> Result<Admission, Postponed> {
        Ok(Admission::default())
    }
}

/// Runs a step that a carrier is told by.
pub(crate) async fn run(carrier: &dyn Carrier, call: &StepCall<'_>, kind: BuiltInKind, told: &Value) -> StepOutcome {
    let request = match request(call, kind, told) {
        Ok(request) => request,
        Err(reason) => return refused(reason),
    };
    match once(call, carrier.ask(call, &request), carrier.request(call, &request)).await {
        Ok(answer) => outcome(answer),
        Err(unanswered) => unanswered.outcome(),
    }
}

fn request(call: &StepCall<'_>, kind: BuiltInKind, told: &Value) -> Result<Request, String> {
    if kind == BuiltInKind::ShipmentsCreate {
        return Ok(Request::Create {
            to: told["to"].clone(),
            lines: told["lines"].clone(),
            service: scalar_text(&told["service"]),
        });
    }
    let named = scalar_text(&told["shipment"]);
    let mut results = call.order.results.iter().rev();
    match &call.undoes {
        Some(key) => {
            let of_step = results.find(|(step, _)| **step == *call.name);
            Ok(Request::Cancel {
                shipment: named.or_else(|| of_step.and_then(|(_, result)| shipment_in(result))),
                key: Some(key.clone()),
            })
        }
        None => {
            let found = named.or_else(|| results.find_map(|(_, result)| shipment_in(result)));
            let shipment = found.ok_or_else(|| "the order has no shipment that an earlier step has left".to_owned())?;
            Ok(Request::Cancel {
                shipment: Some(shipment),
                key: None,
            })
        }
    }
}

fn shipment_in(result: &Json) -> Option<String> {
    result.value().ok()?.get("shipment").and_then(scalar_text)
}

fn outcome(answer: Answer) -> StepOutcome {
    let shipment = match answer {
        Answer::Done(shipment) => shipment,
        Answer::Nothing => return StepOutcome::Done { result: None },
        Answer::Refused(reason) => return refused(reason),
    };
    let mut result = Map::new();
    result.insert("shipment".to_owned(), json!(shipment.id));
    for (name, value) in [
        ("carrier", shipment.carrier),
        ("trackingNumber", shipment.tracking_number),
    ] {
        result.extend(value.map(|value| (name.to_owned(), Value::String(value))));
    }
    StepOutcome::Done {
        result: Some(Json::from(&Value::Object(result))),
    }
}
