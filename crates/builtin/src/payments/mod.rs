//! Payments: authorise, capture, void, refund, over whoever takes them.
//!
//! Every request carries the visit's key, so that a provider can make it happen once. An attempt that is not the first, or may not be, asks
//! by that key before it requests anything: what was charged and not answered is found, never charged again. A void tells
//! the key of what it takes back, and a provider refuses that from then on.

mod http;
mod sandbox;

use async_trait::async_trait;
use comanda_engine::{Admission, Postponed, StepCall};
use comanda_model::Json;
use comanda_model::decision::StepOutcome;
use comanda_model::json::scalar_text;
use comanda_model::money::amount;
use comanda_model::order_type::BuiltInKind;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::once::once;
use crate::{Unanswered, refused};

pub use http::{HttpPayments, HttpPaymentsOptions};
pub use sandbox::{Sandbox, SandboxPayment, SandboxState};

/// What is asked of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Set an amount aside.
    Authorize {
        /// How much.
        amount: Decimal,
        /// Of what (ISO 4217).
        currency: String,
        /// From where: a card's or an account's token, as the order names it.
        source: Option<String>,
    },
    /// Take what was authorised.
    Capture {
        /// The payment.
        payment: String,
    },
    /// Give an authorisation up, or pay back what was captured.
    Void {
        /// The payment; without it, whatever the request under `key` has come to or will come to: a provider that knows
        /// nothing of it refuses it from then on.
        payment: Option<String>,
        /// The key of the request that is taken back.
        key: Option<String>,
    },
    /// Pay back what was captured.
    Refund {
        /// The payment.
        payment: String,
        /// The key of the capture that is taken back, if this takes one back: it may never have come, and must do nothing
        /// if it comes now.
        key: Option<String>,
    },
}

/// What a provider knows of a request.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It was carried out: the payment, and how it stands.
    Done {
        /// The provider's id of the payment.
        payment: String,
        /// How it stands, in the provider's words.
        state: String,
    },
    /// There was nothing to take back.
    Nothing,
    /// It was refused for good.
    Refused(String),
}

/// Who takes payments.
#[async_trait]
pub trait Provider: Send + Sync + 'static {
    /// What came of an earlier request under this call's key; `None` if it never came.
    async fn ask(&self, call: &StepCall<'_>, request: &Request) -> Result<Option<Answer>, Unanswered>;

    /// Makes a request. Under the same key it has one effect, however often it is made.
    async fn request(&self, call: &StepCall<'_>, request: &Request) -> Result<Answer, Unanswered>;

    /// Waits, a while at most, until there is room for one more request.
    async fn admit(&self, _kind: BuiltInKind) -> Result<Admission, Postponed> {
        Ok(Admission::default())
    }
}

/// Runs a payment step.
pub(crate) async fn run(provider: &dyn Provider, call: &StepCall<'_>, kind: BuiltInKind, told: &Value) -> StepOutcome {
    let request = match request(call, kind, told) {
        Ok(request) => request,
        Err(reason) => return refused(reason),
    };
    match once(call, provider.ask(call, &request), provider.request(call, &request)).await {
        Ok(answer) => outcome(&request, answer),
        Err(unanswered) => unanswered.outcome(),
    }
}

fn request(call: &StepCall<'_>, kind: BuiltInKind, told: &Value) -> Result<Request, String> {
    let named = scalar_text(&told["payment"]);
    let payment = || {
        let found = named.clone().or_else(|| payment_of(call));
        found.ok_or_else(|| "the order has no payment that an earlier step has left".to_owned())
    };
    match kind {
        BuiltInKind::PaymentsAuthorize => {
            let sum = amount(&told["amount"]).map_err(|error| format!("the amount {error}"))?;
            if sum.is_sign_negative() || sum.is_zero() {
                return Err(format!("an amount of {sum} cannot be paid"));
            }
            let currency = told["currency"].as_str().unwrap_or_default().to_owned();
            if currency.len() != 3 || !currency.bytes().all(|byte| byte.is_ascii_uppercase()) {
                return Err(format!("`{currency}` is no currency (ISO 4217)"));
            }
            Ok(Request::Authorize {
                amount: sum,
                currency,
                source: scalar_text(&told["source"]),
            })
        }
        BuiltInKind::PaymentsCapture => Ok(Request::Capture { payment: payment()? }),
        BuiltInKind::PaymentsRefund => Ok(Request::Refund {
            payment: payment()?,
            key: call.undoes.clone(),
        }),
        _ => {
            let of_step = call.order.results.iter().find(|(step, _)| **step == *call.name);
            let of_step = of_step.and_then(|(_, result)| payment_in(result));
            match &call.undoes {
                Some(key) => Ok(Request::Void {
                    payment: named.or(of_step),
                    key: Some(key.clone()),
                }),
                None => Ok(Request::Void {
                    payment: Some(payment()?),
                    key: None,
                }),
            }
        }
    }
}

fn payment_in(result: &Json) -> Option<String> {
    result.value().ok()?.get("payment").and_then(scalar_text)
}

/// The payment that a step of the order has left last.
fn payment_of(call: &StepCall<'_>) -> Option<String> {
    let mut results = call.order.results.iter().rev();
    results.find_map(|(_, result)| payment_in(result))
}

fn outcome(request: &Request, answer: Answer) -> StepOutcome {
    let mut result = match answer {
        Answer::Done { payment, state } => json!({"payment": payment, "id": payment, "state": state}),
        Answer::Nothing => return StepOutcome::Done { result: None },
        Answer::Refused(reason) => return refused(reason),
    };
    if let Request::Authorize { amount, currency, .. } = request {
        result["amount"] = json!(amount.to_string());
        result["currency"] = json!(currency);
    }
    StepOutcome::Done {
        result: Some(Json::from(&result)),
    }
}
