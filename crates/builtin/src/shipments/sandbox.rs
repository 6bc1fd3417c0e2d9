//! The carrier sandbox: it carries nothing, keeps a durable book, and misbehaves when the service that an order asks for
//! says so.
//!
//! | service | what happens |
//! |---|---|
//! | `refuse` | it is refused |
//! | `delay` | it is answered after two seconds |
//! | `timeout` | the label is made, and the first answer never comes |
//! | `twice` | the request reaches the sandbox twice |
//! | `down` | the first two attempts are not taken at all |

use std::sync::Arc;

use async_trait::async_trait;
use comanda_engine::StepCall;
use comanda_store::Store;
use serde::{Deserialize, Serialize};

use super::{Answer, Carrier, Request, Shipment};
use crate::book::{Book, SandboxEntry, SandboxError};
use crate::{Mood, Unanswered};

/// The kind of the book's records.
const SHIPMENT: &str = "sandbox-shipment";
/// Whom the sandbox says it is.
const CARRIER: &str = "Sandbox";

/// A shipment in the sandbox's book. Its id is the key of the request that made it: the order's id and the visit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxShipment {
    /// The shipment.
    pub id: String,
    /// The order that it is for.
    pub order_id: String,
    /// What it is followed by; nothing for a shipment that was given up before it came.
    pub tracking_number: Option<String>,
    /// How it stands.
    pub state: ShipmentState,
    /// How many requests to make it have come.
    pub requests: u32,
}

impl SandboxEntry for SandboxShipment {
    fn id(&self) -> &str {
        &self.id
    }

    fn order_id(&self) -> &str {
        &self.order_id
    }
}

/// How a shipment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShipmentState {
    /// It has a label.
    Created,
    /// The carrier does not take it.
    Refused,
    /// It was given up.
    Canceled,
}

/// The sandbox, with its book in the store.
#[derive(Clone)]
pub struct CarrierSandbox {
    book: Book<SandboxShipment>,
}

impl CarrierSandbox {
    /// A sandbox that keeps its book in this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            book: Book::new(store, SHIPMENT),
        }
    }

    /// A shipment of the book.
    pub async fn shipment(&self, id: &str) -> Result<Option<SandboxShipment>, SandboxError> {
        self.book.entry(id).await
    }

    /// The book's shipments that stand after `after`, by id and so by order, at most `max`.
    pub async fn book(&self, after: Option<&str>, max: usize) -> Result<Vec<SandboxShipment>, SandboxError> {
        self.book.entries(after, max).await
    }

    /// One request to make a shipment. One that is in the book already, in whatever state, is not made again.
    async fn create(&self, call: &StepCall<'_>, mood: Mood) -> Result<Answer, SandboxError> {
        let id = call.idempotency_key.as_str();
        let order_id = call.order.id().to_string();
        let made = self.book.change(id, |found| {
            Some(match found {
                Some(found) => SandboxShipment {
                    requests: found.requests + 1,
                    ..found.clone()
                },
                None if mood == Mood::Refuse => SandboxShipment {
                    id: id.to_owned(),
                    order_id: order_id.clone(),
                    tracking_number: None,
                    state: ShipmentState::Refused,
                    requests: 1,
                },
                None => SandboxShipment {
                    id: id.to_owned(),
                    order_id: order_id.clone(),
                    tracking_number: Some(tracking_number(id)),
                    state: ShipmentState::Created,
                    requests: 1,
                },
            })
        });
        Ok(made.await?.map_or(Answer::Nothing, created))
    }

    /// Gives a shipment up, by its id or by the key of the request for it, which are the same here. A request that comes
    /// only now is refused from here on.
    async fn cancel(&self, call: &StepCall<'_>, id: &str) -> Result<Answer, SandboxError> {
        let order_id = call.order.id().to_string();
        let canceled = self.book.change(id, |found| match found {
            Some(found) if found.state == ShipmentState::Created => Some(SandboxShipment {
                state: ShipmentState::Canceled,
                ..found.clone()
            }),
            Some(_) => None,
            None => Some(SandboxShipment {
                id: id.to_owned(),
                order_id: order_id.clone(),
                tracking_number: None,
                state: ShipmentState::Canceled,
                requests: 0,
            }),
        });
        canceled.await?;
        Ok(Answer::Nothing)
    }
}

/// A number that looks like a carrier's, and is plainly none: the letters of the key that differ most.
fn tracking_number(key: &str) -> String {
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
    let tail = plain.len().saturating_sub(14);
    format!("SANDBOX-{}", plain.get(tail..).unwrap_or_default().to_ascii_uppercase())
}

fn created(shipment: SandboxShipment) -> Answer {
    match shipment.state {
        ShipmentState::Created => Answer::Done(Shipment {
            id: shipment.id,
            carrier: Some(CARRIER.to_owned()),
            tracking_number: shipment.tracking_number,
        }),
        ShipmentState::Refused => Answer::Refused("the carrier does not take the shipment".to_owned()),
        ShipmentState::Canceled => Answer::Refused("the shipment was canceled before".to_owned()),
    }
}

#[async_trait]
impl Carrier for CarrierSandbox {
    async fn ask(&self, call: &StepCall<'_>, request: &Request) -> Result<Option<Answer>, Unanswered> {
        if !matches!(request, Request::Create { .. }) {
            // Repeating a cancellation changes nothing.
            return Ok(None);
        }
        let found = self.shipment(&call.idempotency_key).await;
        let found = found.map_err(|error| Unanswered::not_done(error.to_string()))?;
        Ok(found.map(created))
    }

    async fn request(&self, call: &StepCall<'_>, request: &Request) -> Result<Answer, Unanswered> {
        match request {
            Request::Create { service, .. } => {
                let mood = service.as_deref().and_then(Mood::named).unwrap_or(Mood::Well);
                mood.take(call, || self.create(call, mood)).await
            }
            Request::Cancel { shipment, key } => match shipment.as_deref().or(key.as_deref()) {
                Some(id) => self.cancel(call, id).await.map_err(SandboxError::unwritten),
                None => Ok(Answer::Nothing),
            },
        }
    }
}
