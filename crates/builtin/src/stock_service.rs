//! Stock that a service over HTTP keeps: one request for each act, as the settings describe them.
//!
//! 2xx means done, and the JSON that answers a reservation names the hold (`hold` or `id`) and is kept whole, for later steps
//! read its `total` and `currency`; 409 and 422 are a refusal; anything else is tried again, after the service was asked what
//! has become of it. Comanda's own ledger is not touched.

use std::sync::Arc;

use comanda_engine::{Admission, Postponed, StepCall};
use comanda_model::Json;
use comanda_model::decision::StepOutcome;
use comanda_model::json::scalar_text;
use comanda_model::order_type::{BuiltIn, BuiltInKind, HttpCall};
use comanda_steps::{Answer, Caller};
use serde_json::{Map, Value, json};

use crate::once::once;
use crate::said::{Said, about, is_unknown, member};
use crate::{Unanswered, refused};

/// The requests of a service that keeps stock. Their templates see what is asked for as `with`: `order`, `key`, `lines`,
/// `backorder`, `holdSeconds`, `hold`, and `undoes`, the key of what is taken back.
#[derive(Clone, Debug)]
pub struct HttpInventoryOptions {
    /// Holds all lines, or none.
    pub reserve: HttpCall,
    /// Takes what a hold has out of the stock.
    pub ship: HttpCall,
    /// Gives back whatever a hold has, be it held or shipped.
    pub release: HttpCall,
    /// Gives back whatever the request under `with.undoes` has come to, where no hold is known. If it has come to nothing, the
    /// service refuses it from then on: it may still be on its way.
    pub release_by_key: HttpCall,
    /// Asks what has become of the reservation under `with.key`: 2xx names the hold, 404 says that there is none.
    pub find: HttpCall,
}

impl HttpInventoryOptions {
    /// All calls.
    pub fn calls(&self) -> [&HttpCall; 5] {
        [
            &self.reserve,
            &self.ship,
            &self.release,
            &self.release_by_key,
            &self.find,
        ]
    }
}

/// A service that keeps stock.
pub struct HttpInventory {
    caller: Arc<Caller>,
    options: HttpInventoryOptions,
}

impl HttpInventory {
    /// A service.
    pub fn new(caller: Arc<Caller>, options: HttpInventoryOptions) -> Self {
        Self { caller, options }
    }

    /// Waits, a while at most, until there is room for one more request.
    pub(crate) async fn admit(&self, kind: BuiltInKind) -> Result<Admission, Postponed> {
        let http = match kind {
            BuiltInKind::InventoryShip => &self.options.ship,
            BuiltInKind::InventoryRelease => &self.options.release,
            _ => &self.options.reserve,
        };
        self.caller.admit(http).await
    }

    pub(crate) async fn run(&self, call: &StepCall<'_>, built_in: &BuiltIn, told: &Value) -> StepOutcome {
        let outcome = match built_in.kind {
            BuiltInKind::InventoryReserve => self.reserve(call, built_in, told).await,
            BuiltInKind::InventoryShip => self.ship(call).await,
            _ => self.release(call).await,
        };
        outcome.unwrap_or_else(Unanswered::outcome)
    }

    async fn reserve(&self, call: &StepCall<'_>, built_in: &BuiltIn, told: &Value) -> Result<StepOutcome, Unanswered> {
        let request = async {
            let mut with = about(call);
            with.insert("lines".to_owned(), told["lines"].clone());
            with.insert("backorder".to_owned(), told["backorder"].clone());
            with.insert(
                "holdSeconds".to_owned(),
                json!(built_in.hold.map(|hold| hold.as_secs())),
            );
            held(self.send(call, &self.options.reserve, with).await?)
        };
        once(call, self.find(call), request).await
    }

    async fn find(&self, call: &StepCall<'_>) -> Result<Option<StepOutcome>, Unanswered> {
        let with = Value::Object(about(call));
        let answer = self.caller.send(call, &self.options.find, Some(&with)).await?;
        if is_unknown(&answer) {
            return Ok(None);
        }
        held(said(answer)?).map(Some)
    }

    async fn ship(&self, call: &StepCall<'_>) -> Result<StepOutcome, Unanswered> {
        let Some(hold) = hold_of(call) else {
            return Ok(refused("the order has no hold that an earlier step has left"));
        };
        let mut with = about(call);
        with.insert("hold".to_owned(), json!(hold));
        self.send(call, &self.options.ship, with).await.map(done)
    }

    async fn release(&self, call: &StepCall<'_>) -> Result<StepOutcome, Unanswered> {
        let hold = hold_of(call);
        let http = match (&hold, &call.undoes) {
            (Some(_), _) => &self.options.release,
            (None, Some(_)) => &self.options.release_by_key,
            (None, None) => return Ok(StepOutcome::Done { result: None }),
        };
        let mut with = about(call);
        with.insert("hold".to_owned(), json!(hold));
        with.insert("undoes".to_owned(), json!(call.undoes));
        self.send(call, http, with).await.map(done)
    }

    async fn send(&self, call: &StepCall<'_>, http: &HttpCall, with: Map<String, Value>) -> Result<Said, Unanswered> {
        said(self.caller.send(call, http, Some(&Value::Object(with))).await?)
    }
}

/// An answer that is larger than may be kept is not whole, and so is none.
fn said(answer: Answer) -> Result<Said, Unanswered> {
    if answer.status.is_success() && answer.is_too_large() {
        return Err(Unanswered::by(answer));
    }
    Said::by(answer, None)
}

/// How a reservation ends: its answer must name the hold, or nobody can ever give it back.
fn held(said: Said) -> Result<StepOutcome, Unanswered> {
    let mut body = match said.naming("hold")? {
        Said::Yes { body, .. } => body,
        Said::No(reason) => return Ok(refused(reason)),
    };
    let hold = member(&body, &["hold", "id"]);
    body["hold"] = json!(hold);
    Ok(StepOutcome::Done {
        result: Some(Json::from(&body)),
    })
}

fn done(said: Said) -> StepOutcome {
    match said {
        Said::Yes { .. } => StepOutcome::Done { result: None },
        Said::No(reason) => refused(reason),
    }
}

/// The hold that a step of the order has left last.
fn hold_of(call: &StepCall<'_>) -> Option<String> {
    let mut results = call.order.results.iter().rev();
    results.find_map(|(_, result)| result.value().ok()?.get("hold").and_then(scalar_text))
}
