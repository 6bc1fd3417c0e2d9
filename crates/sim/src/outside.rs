//! The outside, as the engine's calls reach it: the judge sees each, the targets answer, at once or by a callback.

use std::sync::Arc;

use async_trait::async_trait;
use comanda_engine::{StepCall, StepRunner};
use comanda_model::decision::StepOutcome;
use comanda_model::order_type::Action;

use crate::callbacks;
use crate::judge::number_in;
use crate::life::Life;
use crate::plant::Plant;
use crate::target;
use crate::world::World;

/// The targets, as one life reaches them.
pub struct Outside {
    world: Arc<World>,
    life: Arc<Life>,
}

impl Outside {
    /// The targets for a life that begins.
    pub fn new(world: Arc<World>, life: Arc<Life>) -> Self {
        Self { world, life }
    }
}

#[async_trait]
impl StepRunner for Outside {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        let world = &self.world;
        world.deed();
        self.life.gate().await;
        let mut call = call;
        let (id, n) = (
            call.order.id(),
            number_in(call.order.data.as_str(), "n").unwrap_or(u64::MAX),
        );
        let work_visit = call.order.head.work.as_ref().map_or(0, |work| work.visit);
        if world.has(Plant::OldVisitKey) && !call.undo && work_visit > 1 {
            call.idempotency_key = format!("{id}:1");
        }
        if world.has(Plant::QuestionNotAsked) {
            call.uncertain = false;
        }
        let entered = world.judge.lock().called(self.life.number, &call);
        let run = match entered {
            Ok(run) => run,
            Err(fault) => {
                world.check(Err(fault));
                std::future::pending().await
            }
        };
        let name = (
            "call",
            n,
            work_visit,
            call.undo,
            world.nth(("call", n, work_visit, call.undo)),
        );
        world.trace(|| {
            let undo = if call.undo { "undo of " } else { "" };
            format!(
                "process {}: calls {undo}`{}` of #{n}, visit {work_visit}, attempt {}",
                self.life.number, call.name, call.attempt
            )
        });
        let outcome = match &call.undoes {
            Some(forward) => target::undo(world, forward, name).await,
            None => target::forward(world, &call.idempotency_key, name).await,
        };
        let takes_callback = matches!(&call.step.action, Action::Http(http) if http.callback.is_some());
        let outcome = match call.callback.filter(|_| takes_callback && !call.undo) {
            Some(token) => callbacks::taken_on(world, token, outcome, name),
            None => outcome,
        };
        self.life.gate().await;
        if !matches!(outcome, StepOutcome::Waiting { .. }) {
            world.judge.lock().answered(run);
        }
        world.trace(|| {
            let answer = match &outcome {
                StepOutcome::Done { .. } => "done",
                StepOutcome::Failed { reason, .. }
                | StepOutcome::Refused { reason }
                | StepOutcome::Unknown { reason, .. }
                | StepOutcome::Postponed { reason, .. }
                | StepOutcome::Lost { reason } => reason,
                StepOutcome::Waiting { .. } => "later",
            };
            format!(
                "process {}: `{}` of #{n} answers: {answer}",
                self.life.number, call.name
            )
        });
        outcome
    }
}
