//! How attempts are struck: what stands between the engine and the real built-in steps, and the receivers of all others.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use comanda_builtin::BuiltIns;
use comanda_engine::{Admission, Callback, CallbackError, Effect, Postponed, StepCall, StepRunner};
use comanda_model::Order;
use comanda_model::decision::StepOutcome;
use comanda_model::order_type::Step;

use crate::fault::Fault;
use crate::world::World;

/// What the engine runs its steps by: the real built-in ones, and what strikes them.
pub(crate) struct Struck {
    pub(crate) world: Arc<World>,
    pub(crate) built_in: BuiltIns,
}

/// Everything that is not built in.
pub(crate) struct Receivers(pub(crate) Arc<World>);

fn again<'a>(call: &StepCall<'a>) -> StepCall<'a> {
    StepCall {
        order: call.order,
        name: call.name,
        step: call.step,
        attempt: call.attempt,
        undo: call.undo,
        idempotency_key: call.idempotency_key.clone(),
        undoes: call.undoes.clone(),
        uncertain: call.uncertain,
        callback: call.callback,
        traceparent: call.traceparent.clone(),
    }
}

pub(crate) fn unknown() -> StepOutcome {
    StepOutcome::Unknown {
        reason: "the connection broke".to_owned(),
        retry_after: None,
    }
}

pub(crate) fn failed() -> StepOutcome {
    StepOutcome::Failed {
        reason: "out of order".to_owned(),
        retry_after: None,
    }
}

pub(crate) fn refused() -> StepOutcome {
    StepOutcome::Refused {
        reason: "no".to_owned(),
    }
}

impl Struck {
    async fn attempt(&self, call: StepCall<'_>, built_in: bool) -> Effect {
        let fault = self
            .world
            .strikes(call.name, call.attempt, call.undo, &call.idempotency_key);
        let id = call.order.id();
        let once = || async {
            if built_in {
                self.built_in.run_built_in(again(&call)).await
            } else {
                self.built_in.run(again(&call)).await.into()
            }
        };
        match fault {
            None => once().await,
            Some(Fault::Fails) => failed().into(),
            Some(Fault::Refuses) => refused().into(),
            Some(Fault::LosesCall) => unknown().into(),
            Some(Fault::LosesAnswer) => {
                once().await;
                unknown().into()
            }
            Some(Fault::Twice) => {
                once().await;
                once().await
            }
            Some(fault @ (Fault::DiesBefore | Fault::DiesAfter)) => {
                if fault == Fault::DiesAfter {
                    once().await;
                }
                self.world.dies.notify_one();
                std::future::pending().await
            }
            Some(Fault::Cancelled) => {
                self.world.cancel(id).await;
                once().await
            }
        }
    }
}

#[async_trait]
impl StepRunner for Struck {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        self.attempt(call, false).await.outcome
    }

    async fn run_built_in(&self, call: StepCall<'_>) -> Effect {
        self.attempt(call, true).await
    }

    async fn admit(&self, order: &Order, step: &Step) -> Result<Admission, Postponed> {
        self.built_in.admit(order, step).await
    }
}

#[async_trait]
impl StepRunner for Receivers {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        let outcome = self.0.arrives(&call.idempotency_key, call.undoes.as_deref());
        let Some(token) = call.callback.filter(|_| call.name == "book" && !call.undo) else {
            return outcome;
        };
        // Answered by a callback, which comes twice.
        self.0.outside.lock().unwrap().tokens.push(token);
        let world = self.0.clone();
        tokio::spawn(async move {
            for _ in 0..2 {
                let outcome = outcome.clone();
                // Before the 202 is written down it is not awaited yet; the service may have died meanwhile.
                while let Err(CallbackError::Unknown | CallbackError::Command(_)) = world
                    .service()
                    .callback(Callback {
                        token,
                        outcome: outcome.clone(),
                    })
                    .await
                {
                    if world.is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        StepOutcome::Waiting { secret: token.secret }
    }
}
