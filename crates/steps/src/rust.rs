//! Steps in Rust: code that a team compiles into its own program, beside everything that Comanda brings along.
//!
//! A step is an async function from a [`StepContext`] to an [`Outcome`]. It is registered under a dotted name, and an order
//! type runs it with `use = "myteam.thing"`. The rules are those of every step: it runs at least once, so its effect goes
//! under [`StepContext::key`], which is the same on each attempt of a visit; a result counts only with the attempt's token;
//! it is given up after the step's `timeout`.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_engine::{Admission, Effect, Postponed, StepCall, StepRunner};
use comanda_model::decision::{StepOutcome, context};
use comanda_model::order_type::{Action, RustStep, Step};
use comanda_model::{Json, Order, Token};
use futures_util::FutureExt;
use minijinja::value::merge_maps;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How an attempt of a step in Rust ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// It is done. What it leaves is `steps.NAME` for later steps, at most 16 KiB of JSON.
    Done(Option<Value>),
    /// No, for good: what was done before is taken back.
    Refused(String),
    /// Not done; another try may mend it.
    Retry {
        /// Why, for people.
        reason: String,
        /// The soonest that another try makes sense; `None`: as the step's `retry` says.
        after: Option<Duration>,
    },
    /// It may have happened or not. The step's question is asked before another try, and an undo takes it back.
    Unknown(String),
    /// It was taken on, and someone will answer with [`StepContext::callback_url`]. Needs `callback = { within = "…" }`.
    Wait,
}

impl Outcome {
    /// Done, and nothing is left for later steps.
    pub const fn done() -> Self {
        Self::Done(None)
    }

    /// Not done; another try, when the step's `retry` says, may mend it.
    pub fn retry(reason: impl fmt::Display) -> Self {
        Self::Retry {
            reason: reason.to_string(),
            after: None,
        }
    }
}

/// What a step's question found out about an attempt whose outcome nobody knew.
#[derive(Clone, Debug, PartialEq)]
pub enum Finding {
    /// It has not happened: the step runs again.
    NotDone,
    /// This is what became of it.
    Known(Outcome),
}

/// One attempt: the order as it stood when it began, and what the step is told.
#[derive(Clone, Debug)]
pub struct StepContext {
    order: Order,
    step: String,
    with: Value,
    key: String,
    undoes: Option<String>,
    attempt: u32,
    uncertain: bool,
    traceparent: String,
    callback_url: Option<String>,
}

impl StepContext {
    /// The order's id.
    pub fn order_id(&self) -> String {
        self.order.id().to_string()
    }

    /// The client's own id of the order, if it has one.
    pub fn order_key(&self) -> Option<&str> {
        self.order.accepted.key.as_deref()
    }

    /// The order's type.
    pub fn order_type(&self) -> &str {
        &self.order.accepted.order_type
    }

    /// The status that the order stands in.
    pub fn status(&self) -> &str {
        &self.order.head.status
    }

    /// The order's data, as the text that was sent: numbers keep their digits.
    pub fn data(&self) -> &Json {
        &self.order.data
    }

    /// The order's data as a type of yours.
    ///
    /// # Errors
    /// If the data does not fit it. The order type's schema is what holds clients to it.
    pub fn data_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.order.data.as_str())
    }

    /// What an earlier step has left.
    pub fn result(&self, step: &str) -> Option<&Json> {
        let found = self.order.results.iter().find(|(name, _)| **name == *step);
        found.map(|(_, result)| result)
    }

    /// The step's name in the order type.
    pub fn step(&self) -> &str {
        &self.step
    }

    /// What the order type tells the step: its `with`, rendered over the order. An object, empty where there is none.
    pub fn with(&self) -> &Value {
        &self.with
    }

    /// What the order type tells the step, as a type of yours.
    ///
    /// # Errors
    /// If it does not fit.
    pub fn with_as<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_value(self.with.clone())
    }

    /// The visit's key: the same on every attempt, so that whoever is called can make the effect happen once.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// In an undo, the key of what is taken back. Whoever is told refuses that key from then on, also if nothing came under it.
    pub fn undoes(&self) -> Option<&str> {
        self.undoes.as_deref()
    }

    /// The attempt within the visit, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether an earlier attempt of the visit may have happened.
    pub fn is_uncertain(&self) -> bool {
        self.uncertain
    }

    /// The W3C `traceparent` to hand on: the order's trace, a span of its own.
    pub fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// Where the result is to be sent if the step waits. It holds a secret: hand it to whoever answers, and log it nowhere.
    pub fn callback_url(&self) -> Option<&str> {
        self.callback_url.as_deref()
    }
}

type Answering<T> = Arc<dyn Fn(StepContext) -> Pin<Box<dyn Future<Output = T> + Send>> + Send + Sync>;

#[derive(Clone)]
struct Registered {
    run: Answering<Outcome>,
    question: Option<Answering<Finding>>,
}

/// The steps in Rust of a program, by name.
#[derive(Clone, Default)]
pub struct RustSteps {
    known: BTreeMap<String, Registered>,
}

impl fmt::Debug for RustSteps {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.known.keys()).finish()
    }
}

impl RustSteps {
    /// Registers a step; one of the same name is replaced.
    pub fn insert<F, R>(&mut self, name: &str, run: F)
    where
        F: Fn(StepContext) -> R + Send + Sync + 'static,
        R: Future<Output = Outcome> + Send + 'static,
    {
        let step = Registered {
            run: Arc::new(move |context| Box::pin(run(context))),
            question: None,
        };
        self.known.insert(name.to_owned(), step);
    }

    /// Registers the question of a step: it is asked, under the same key, before anything is tried again where nobody knows
    /// what became of an attempt. A step without one is simply run again. Of a step that is not registered it is dropped.
    pub fn ask<F, R>(&mut self, name: &str, question: F)
    where
        F: Fn(StepContext) -> R + Send + Sync + 'static,
        R: Future<Output = Finding> + Send + 'static,
    {
        if let Some(step) = self.known.get_mut(name) {
            step.question = Some(Arc::new(move |context| Box::pin(question(context))));
        }
    }

    /// Runs these steps, and all others by `others`. `env` is what `with` may read as `env.NAME`; `public_url` is where this
    /// server can be reached by those who send callbacks.
    pub fn over(
        self,
        env: BTreeMap<String, String>,
        public_url: &str,
        others: Arc<dyn StepRunner>,
    ) -> impl StepRunner + use<> {
        Running {
            known: self.known,
            env: minijinja::context! { env => env },
            public_url: public_url.trim_end_matches('/').to_owned(),
            others,
        }
    }
}

struct Running {
    known: BTreeMap<String, Registered>,
    env: minijinja::Value,
    public_url: String,
    others: Arc<dyn StepRunner>,
}

impl Running {
    async fn attempt(&self, call: &StepCall<'_>, rust: &RustStep) -> Result<StepOutcome, String> {
        let missing = || format!("this program was not compiled with the step `{}`", rust.name);
        let step = self.known.get(&*rust.name).ok_or_else(missing)?;
        let told = merge_maps([context(call.order)?, self.env.clone()]);
        let token = rust.callback.and(call.callback);
        let context = StepContext {
            order: call.order.clone(),
            step: call.name.to_owned(),
            with: rust.with.render(&told).map_err(|error| error.to_string())?,
            key: call.idempotency_key.clone(),
            undoes: call.undoes.clone(),
            attempt: call.attempt,
            uncertain: call.uncertain,
            traceparent: call.traceparent.clone(),
            callback_url: token.map(|token| format!("{}/v1/callbacks/{}", self.public_url, token.expose())),
        };
        if let Some(question) = step.question.as_ref().filter(|_| call.uncertain && !call.undo) {
            match guarded(question, context.clone()).await {
                Ok(Finding::NotDone) => {}
                // Who cannot say whether it has happened does not make it sure that it has not.
                Ok(Finding::Known(Outcome::Retry { reason, after })) => {
                    return Ok(StepOutcome::Unknown {
                        reason,
                        retry_after: after,
                    });
                }
                Ok(Finding::Known(outcome)) => return Ok(outcome_of(outcome, token)),
                Err(reason) => return Ok(unknown(reason)),
            }
        }
        Ok(match guarded(&step.run, context).await {
            Ok(outcome) => outcome_of(outcome, token),
            Err(reason) => unknown(reason),
        })
    }
}

/// Runs code that is not ours: a panic in it ends the attempt and nothing else.
async fn guarded<T>(code: &Answering<T>, context: StepContext) -> Result<T, String> {
    let step = context.step.clone();
    let run = AssertUnwindSafe(async { code(context).await }).catch_unwind().await;
    run.map_err(|panic| {
        let said = panic.downcast_ref::<&str>().map(ToString::to_string);
        let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
        format!("the code of `{step}` panicked: {}", said.unwrap_or_default())
    })
}

fn unknown(reason: String) -> StepOutcome {
    StepOutcome::Unknown {
        reason,
        retry_after: None,
    }
}

fn outcome_of(outcome: Outcome, token: Option<Token>) -> StepOutcome {
    match outcome {
        Outcome::Done(result) => StepOutcome::Done {
            result: result.as_ref().map(Json::from),
        },
        Outcome::Refused(reason) => StepOutcome::Refused { reason },
        Outcome::Retry { reason, after } => StepOutcome::Failed {
            reason,
            retry_after: after,
        },
        Outcome::Unknown(reason) => unknown(reason),
        Outcome::Wait => match token {
            Some(token) => StepOutcome::Waiting { secret: token.secret },
            None => unknown("the step waits, but its order type sets no `callback`".to_owned()),
        },
    }
}

#[async_trait]
impl StepRunner for Running {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        match &call.step.action {
            Action::Rust(rust) => self
                .attempt(&call, rust)
                .await
                .unwrap_or_else(|reason| StepOutcome::Failed {
                    reason,
                    retry_after: None,
                }),
            _ => self.others.run(call).await,
        }
    }

    async fn run_built_in(&self, call: StepCall<'_>) -> Effect {
        self.others.run_built_in(call).await
    }

    fn knows(&self, name: &str) -> bool {
        self.known.contains_key(name) || self.others.knows(name)
    }

    async fn admit(&self, order: &Order, step: &Step) -> Result<Admission, Postponed> {
        self.others.admit(order, step).await
    }
}
