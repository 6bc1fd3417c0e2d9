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
use reqwest::StatusCode;
use serde_json::{Map, Value, json};

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

/// What a service said to a request.
enum Said {
    Yes(Value),
    No(String),
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
        if call.attempt > 1 || call.uncertain {
            // Whoever cannot say what has happened is not asked to do it again.
            match self.find(call).await {
                Ok(Some(outcome)) => return Ok(outcome),
                Ok(None) => {}
                Err(unanswered) => return Ok(unanswered.unknown()),
            }
        }
        let mut with = about(call);
        with.insert("lines".to_owned(), told["lines"].clone());
        with.insert("backorder".to_owned(), told["backorder"].clone());
        with.insert(
            "holdSeconds".to_owned(),
            json!(built_in.hold.map(|hold| hold.as_secs())),
        );
        held(self.send(call, &self.options.reserve, with).await?)
    }

    async fn find(&self, call: &StepCall<'_>) -> Result<Option<StepOutcome>, Unanswered> {
        let with = Value::Object(about(call));
        let answer = self.caller.send(call, &self.options.find, Some(&with)).await?;
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => Ok(None),
            _ => held(said(answer)?).map(Some),
        }
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

fn about(call: &StepCall<'_>) -> Map<String, Value> {
    let order = ("order".to_owned(), json!(call.order.id()));
    let key = ("key".to_owned(), json!(call.idempotency_key));
    [order, key].into_iter().collect()
}

fn said(answer: Answer) -> Result<Said, Unanswered> {
    match answer.status {
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Ok(Said::No(answer.described)),
        status if status.is_success() && !answer.is_too_large() => {
            let mut body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            if !body.is_object() {
                body = json!({});
            }
            Ok(Said::Yes(body))
        }
        _ => Err(Unanswered::by(answer)),
    }
}

/// How a reservation ends: its answer must name the hold, or nobody can ever give it back.
fn held(said: Said) -> Result<StepOutcome, Unanswered> {
    let mut body = match said {
        Said::Yes(body) => body,
        Said::No(reason) => return Ok(refused(reason)),
    };
    let hold = ["hold", "id"].into_iter().find_map(|name| scalar_text(&body[name]));
    let hold = hold.ok_or_else(|| Unanswered::perhaps_done("the answer names no hold (`id`)"))?;
    body["hold"] = json!(hold);
    Ok(StepOutcome::Done {
        result: Some(Json::from(&body)),
    })
}

fn done(said: Said) -> StepOutcome {
    match said {
        Said::Yes(_) => StepOutcome::Done { result: None },
        Said::No(reason) => refused(reason),
    }
}

/// The hold that a step of the order has left last.
fn hold_of(call: &StepCall<'_>) -> Option<String> {
    let mut results = call.order.results.iter().rev();
    results.find_map(|(_, result)| result.value().ok()?.get("hold").and_then(scalar_text))
}
