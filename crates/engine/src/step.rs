//! The step port: how the engine has a step run that reaches outside.

use async_trait::async_trait;
use comanda_model::Order;
use comanda_model::decision::StepOutcome;
use comanda_model::order_type::Step;

/// Runs steps that reach outside the order. One implementation knows all kinds; the binary composes it.
#[async_trait]
pub trait StepRunner: Send + Sync + 'static {
    /// Makes one attempt. It never panics and always ends: the engine ends it when `step.timeout` has passed, and
    /// counts that as failed. The outcome says whether another try may help.
    async fn run(&self, call: StepCall<'_>) -> StepOutcome;
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
    /// W3C trace context for the call: the order's trace, a span of its own.
    pub traceparent: String,
}
