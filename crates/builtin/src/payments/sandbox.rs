//! The sandbox: a payment provider that takes no money, keeps a durable book, and misbehaves when it is told to.
//!
//! The source, or the cents of the amount, say how:
//!
//! | source | amount ends in | what happens |
//! |---|---|---|
//! | `decline` | `.51` | it is refused |
//! | `delay` | `.52` | it is answered after two seconds |
//! | `timeout` | `.53` | it is authorised, and the first answer never comes |
//! | `twice` | `.54` | the request reaches the sandbox twice |
//! | `down` | `.55` | the first two requests are not taken at all |

use std::sync::Arc;

use async_trait::async_trait;
use comanda_engine::StepCall;
use comanda_store::Store;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::{Answer, Provider, Request};
use crate::book::{Book, SandboxEntry, SandboxError};
use crate::{Mood, Unanswered};

/// The kind of the book's records.
const PAYMENT: &str = "sandbox-payment";

/// A payment in the sandbox's book. Its id is the key of the request that made it: the order's id and the visit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxPayment {
    /// The payment.
    pub id: String,
    /// The order that it is for.
    pub order_id: String,
    /// How much, as an exact decimal; nothing for a payment that was given up before it came.
    pub amount: Option<String>,
    /// Of what (ISO 4217).
    pub currency: Option<String>,
    /// How it stands.
    pub state: SandboxState,
    /// How many requests to authorise it have come.
    pub requests: u32,
}

impl SandboxEntry for SandboxPayment {
    fn id(&self) -> &str {
        &self.id
    }

    fn order_id(&self) -> &str {
        &self.order_id
    }
}

/// How a payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxState {
    /// Set aside.
    Authorized,
    /// Refused.
    Declined,
    /// Taken.
    Captured,
    /// Given up.
    Voided,
    /// Paid back.
    Refunded,
}

impl SandboxState {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authorized => "authorized",
            Self::Declined => "declined",
            Self::Captured => "captured",
            Self::Voided => "voided",
            Self::Refunded => "refunded",
        }
    }
}

/// The sandbox, with its book in the store.
#[derive(Clone)]
pub struct Sandbox {
    book: Book<SandboxPayment>,
}

fn mood(amount: Decimal, source: Option<&str>) -> Mood {
    if let Some(mood) = source.and_then(Mood::named) {
        return mood;
    }
    let cents = amount.fract().checked_mul(Decimal::ONE_HUNDRED).unwrap_or_default();
    match cents.normalize().to_string().as_str() {
        "51" => Mood::Refuse,
        "52" => Mood::Delay,
        "53" => Mood::Timeout,
        "54" => Mood::Twice,
        "55" => Mood::Down,
        _ => Mood::Well,
    }
}

impl Sandbox {
    /// A sandbox that keeps its book in this store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            book: Book::new(store, PAYMENT),
        }
    }

    /// A payment of the book.
    pub async fn payment(&self, id: &str) -> Result<Option<SandboxPayment>, SandboxError> {
        self.book.entry(id).await
    }

    /// The book's payments that stand after `after`, by id and so by order, at most `max`.
    pub async fn book(&self, after: Option<&str>, max: usize) -> Result<Vec<SandboxPayment>, SandboxError> {
        self.book.entries(after, max).await
    }

    /// One request to authorise. A payment that is in the book already, in whatever state, is not made again.
    async fn authorize(&self, call: &StepCall<'_>, request: &Request, mood: Mood) -> Result<Answer, SandboxError> {
        let Request::Authorize { amount, currency, .. } = request else {
            return Ok(Answer::Nothing);
        };
        let id = call.idempotency_key.as_str();
        let order_id = call.order.id().to_string();
        let found = self.book.change(id, |found| {
            Some(match found {
                Some(found) => SandboxPayment {
                    requests: found.requests + 1,
                    ..found.clone()
                },
                None => SandboxPayment {
                    id: id.to_owned(),
                    order_id: order_id.clone(),
                    amount: Some(amount.to_string()),
                    currency: Some(currency.clone()),
                    state: if mood == Mood::Refuse {
                        SandboxState::Declined
                    } else {
                        SandboxState::Authorized
                    },
                    requests: 1,
                },
            })
        });
        Ok(found.await?.map_or(Answer::Nothing, |payment| authorized(&payment)))
    }

    /// Takes a payment to another state, from those that allow it.
    async fn advance(&self, id: &str, request: &Request) -> Result<Answer, SandboxError> {
        let next = |state: SandboxState| match (request, state) {
            (Request::Capture { .. }, SandboxState::Authorized) => Some(SandboxState::Captured),
            (Request::Void { .. }, SandboxState::Authorized) => Some(SandboxState::Voided),
            (Request::Void { .. } | Request::Refund { .. }, SandboxState::Captured) => Some(SandboxState::Refunded),
            // The capture that this takes back may still be on its way: it must find nothing to take.
            (Request::Refund { key: Some(_), .. }, SandboxState::Authorized) => Some(SandboxState::Voided),
            _ => None,
        };
        let found = self.book.change(id, |found| {
            let found = found?;
            next(found.state).map(|state| SandboxPayment { state, ..found.clone() })
        });
        let Some(payment) = found.await? else {
            return Ok(Answer::Refused(format!("there is no payment `{id}`")));
        };
        let stands = match request {
            Request::Capture { .. } => payment.state == SandboxState::Captured,
            Request::Refund { key: Some(_), .. } => true,
            Request::Refund { .. } => payment.state == SandboxState::Refunded,
            Request::Void { .. } => true,
            Request::Authorize { .. } => false,
        };
        Ok(if stands {
            done(&payment)
        } else {
            Answer::Refused(format!("the payment `{id}` is {}", payment.state.name()))
        })
    }

    /// Takes back whatever the request under a key has come to. A request that comes only now is refused from here on.
    async fn take_back(&self, call: &StepCall<'_>, key: &str, request: &Request) -> Result<Answer, SandboxError> {
        let order_id = call.order.id().to_string();
        let found = self.book.change(key, |found| match found {
            Some(_) => None,
            None => Some(SandboxPayment {
                id: key.to_owned(),
                order_id: order_id.clone(),
                amount: None,
                currency: None,
                state: SandboxState::Voided,
                requests: 0,
            }),
        });
        match found.await? {
            Some(payment) if payment.amount.is_none() => Ok(Answer::Nothing),
            _ => self.advance(key, request).await,
        }
    }
}

fn done(payment: &SandboxPayment) -> Answer {
    Answer::Done {
        payment: payment.id.clone(),
        state: payment.state.name().to_owned(),
    }
}

fn authorized(payment: &SandboxPayment) -> Answer {
    match payment.state {
        SandboxState::Authorized | SandboxState::Captured => done(payment),
        SandboxState::Declined => Answer::Refused("the payment was declined".to_owned()),
        SandboxState::Voided | SandboxState::Refunded => {
            Answer::Refused(format!("the payment was {} before", payment.state.name()))
        }
    }
}

#[async_trait]
impl Provider for Sandbox {
    async fn ask(&self, call: &StepCall<'_>, request: &Request) -> Result<Option<Answer>, Unanswered> {
        if !matches!(request, Request::Authorize { .. }) {
            // Repeating these changes nothing, so they need not be asked for.
            return Ok(None);
        }
        let found = self.payment(&call.idempotency_key).await;
        let found = found.map_err(|error| Unanswered::not_done(error.to_string()))?;
        Ok(found.as_ref().map(authorized))
    }

    async fn request(&self, call: &StepCall<'_>, request: &Request) -> Result<Answer, Unanswered> {
        let answer = match request {
            Request::Authorize { amount, source, .. } => {
                let mood = mood(*amount, source.as_deref());
                return mood.take(call, || self.authorize(call, request, mood)).await;
            }
            Request::Void {
                key: Some(key),
                payment: None,
            } => self.take_back(call, key, request).await,
            Request::Void { payment: Some(id), .. }
            | Request::Capture { payment: id }
            | Request::Refund { payment: id, .. } => self.advance(id, request).await,
            Request::Void {
                key: None,
                payment: None,
            } => Ok(Answer::Nothing),
        };
        answer.map_err(SandboxError::unwritten)
    }
}
