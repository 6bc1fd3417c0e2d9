//! The outside: targets of steps that fail, hang, lose their answers and refuse. They keep the rules that receivers are
//! asked to keep: an effect happens once per key, a "no" is for good, and a call whose undo has come is refused.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_engine::{StepCall, StepRunner};
use comanda_model::Json;
use comanda_model::bounds::RESULT_BYTES_MAX;
use comanda_model::decision::StepOutcome;

use crate::judge::number_in;
use crate::life::Life;
use crate::plan::Fault;
use crate::plant::Plant;
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

    async fn forward(&self, key: &str, name: Name) -> StepOutcome {
        let world = &self.world;
        let wrong = |fault| world.goes_wrong(fault, name);
        let mut rolls = world.rolls(("target", name));
        let delay = Duration::from_millis(rolls.one(&[0, 0, 1, 20, 300, 2500]));
        let later = Duration::from_millis(rolls.one(&[10, 1000, 6000, 30_000]));
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        let before = {
            let mut judge = world.judge.lock();
            let effect = judge.effect(key);
            if !effect.done && !effect.undone && wrong(Fault::StepRefuses) {
                effect.refused = true;
            }
            (effect.done, effect.undone || effect.refused)
        };
        match before {
            (_, true) => return refused("no"),
            (true, false) => {}
            (false, false) if wrong(Fault::StepFails) => return failed("out of order"),
            (false, false) if wrong(Fault::StepHangs) => {
                if rolls.permille(600) {
                    self.happens_later(key, later);
                }
                std::future::pending::<()>().await;
            }
            (false, false) if wrong(Fault::StepLosesAnswer) && rolls.permille(500) => {
                self.happens_later(key, later);
                return unknown("connection reset, and the call goes on");
            }
            (false, false) => self.happens(key),
        }
        if wrong(Fault::StepLosesAnswer) {
            return unknown("connection reset after the call");
        }
        if !world.judge.lock().effect(key).done {
            return refused("taken back meanwhile");
        }
        let pad = if wrong(Fault::StepOversized) {
            RESULT_BYTES_MAX
        } else {
            0
        };
        let result = serde_json::json!({"review": rolls.permille(300), "pad": "x".repeat(pad)});
        StepOutcome::Done {
            result: Some(Json::from(&result)),
        }
    }

    async fn undo(&self, key: &str, name: Name) -> StepOutcome {
        let world = &self.world;
        let mut rolls = world.rolls(("target", name));
        let delay = Duration::from_millis(rolls.one(&[0, 0, 1, 20, 300]));
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        if world.goes_wrong(Fault::UndoFails, name) {
            return match rolls.below(4) {
                0 => refused("it cannot be taken back"),
                1 => {
                    world.judge.lock().effect(key).undone = true;
                    unknown("connection reset after the undo")
                }
                _ => failed("out of order"),
            };
        }
        world.judge.lock().effect(key).undone = true;
        let oversized = world.goes_wrong(Fault::StepOversized, name);
        let result = oversized.then(|| Json::from(&serde_json::Value::String("x".repeat(RESULT_BYTES_MAX))));
        StepOutcome::Done { result }
    }

    fn happens(&self, key: &str) {
        let mut judge = self.world.judge.lock();
        let effect = judge.effect(key);
        effect.done |= !effect.undone && !effect.refused;
    }

    /// The target goes on by itself, whatever becomes of the process that called it.
    fn happens_later(&self, key: &str, wait: Duration) {
        let world = self.world.clone();
        let key = key.to_owned();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            let mut judge = world.judge.lock();
            let effect = judge.effect(&key);
            effect.done |= !effect.undone && !effect.refused;
        });
    }
}

/// What a call's luck is drawn for: the order, the visit, whether it is an undo, and which call of these it is.
type Name = (&'static str, u64, u32, bool, u64);

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
            Some(forward) => self.undo(forward, name).await,
            None => self.forward(&call.idempotency_key, name).await,
        };
        self.life.gate().await;
        world.judge.lock().answered(run);
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

fn failed(reason: &str) -> StepOutcome {
    StepOutcome::Failed {
        reason: reason.to_owned(),
        retry_after: None,
    }
}

fn unknown(reason: &str) -> StepOutcome {
    StepOutcome::Unknown {
        reason: reason.to_owned(),
        retry_after: None,
    }
}

fn refused(reason: &str) -> StepOutcome {
    StepOutcome::Refused {
        reason: reason.to_owned(),
    }
}
