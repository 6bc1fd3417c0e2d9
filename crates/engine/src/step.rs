//! The step port: how the engine has a step run that reaches outside.

use std::any::Any;
use std::time::Duration;

use async_trait::async_trait;
use comanda_model::decision::StepOutcome;
use comanda_model::order_type::Step;
use comanda_model::{HoldMove, Order, Token};

/// Runs steps that reach outside the order. One implementation knows all kinds; the binary composes it.
#[async_trait]
pub trait StepRunner: Send + Sync + 'static {
    /// Makes one attempt. It never panics and always ends: the engine ends it when `step.timeout` has passed, and
    /// counts that as failed. The outcome says whether another try may help.
    async fn run(&self, call: StepCall<'_>) -> StepOutcome;

    /// Makes one attempt of a built-in step, whose effect on the ledger is part of the commit that answers it. Nothing has
    /// moved before that commit, and if there is too little then, the attempt is made again. Without built-ins it fails.
    async fn run_built_in(&self, call: StepCall<'_>) -> Effect {
        Effect::from(StepOutcome::Failed {
            reason: format!("the built-in step `{}` cannot be run here", call.step.action.kind()),
            retry_after: None,
        })
    }

    /// Whether a step in Rust of this name is compiled in. An order type that needs one that is not cannot be run.
    fn knows(&self, _name: &str) -> bool {
        false
    }

    /// Whether a service outside keeps the stock, so that built-in steps which move it are run like those that call one, and
    /// the store's ledger is left alone.
    fn keeps_stock_elsewhere(&self) -> bool {
        false
    }

    /// Waits, a while at most, until the step's target has room for one more call. The engine asks before it gives
    /// the attempt one of its own places, so that calls to a slow target hold up no others.
    ///
    /// A target that takes no calls for now is told as [`Postponed`]: the attempt is made later and does not count.
    async fn admit(&self, _order: &Order, _step: &Step) -> Result<Admission, Postponed> {
        Ok(Admission::default())
    }
}

/// The right to make one call to a target; given back when it is dropped.
#[derive(Default)]
pub struct Admission {
    _place: Option<Box<dyn Any + Send>>,
}

impl Admission {
    /// A right that lasts as long as `place` is kept.
    pub fn holding(place: impl Any + Send) -> Self {
        Self {
            _place: Some(Box::new(place)),
        }
    }
}

/// Why an attempt is not made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Postponed {
    /// Why.
    pub reason: String,
    /// When to come again.
    pub after: Duration,
}

/// What an attempt of a built-in step came to.
#[derive(Clone, Debug)]
pub struct Effect {
    /// How it ended.
    pub outcome: StepOutcome,
    /// What it does to the order's holds, if it is done.
    pub hold: Option<HoldMove>,
}

impl From<StepOutcome> for Effect {
    fn from(outcome: StepOutcome) -> Self {
        Self { outcome, hold: None }
    }
}

/// One attempt.
#[derive(Debug)]
pub struct StepCall<'a> {
    /// The order as it stood when the attempt began.
    pub order: &'a Order,
    /// The step's name.
    pub name: &'a str,
    /// The step, or its undo step.
    pub step: &'a Step,
    /// The attempt within the visit, from 1.
    pub attempt: u32,
    /// Whether this takes the visit back.
    pub undo: bool,
    /// The key that is the same on every attempt of a visit, so that the receiver can make the effect happen once.
    pub idempotency_key: String,
    /// The key of the call that this undo takes back, so that the receiver can refuse that call if it comes late.
    pub undoes: Option<String>,
    /// Whether an earlier attempt of the visit may have happened: the step's question comes first.
    pub uncertain: bool,
    /// The token that a callback must come with, where the step is answered by one.
    pub callback: Option<Token>,
    /// W3C trace context for the call: the order's trace, a span of its own.
    pub traceparent: String,
}
