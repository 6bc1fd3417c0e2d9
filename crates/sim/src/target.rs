//! The targets of steps, as they are behind every way of reaching them: they fail, hang, lose their answers and refuse. They
//! keep the rules that receivers are asked to keep: an effect happens once per key, a "no" is for good, and a call whose undo
//! has come is refused.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::Json;
use comanda_model::bounds::RESULT_BYTES_MAX;
use comanda_model::decision::StepOutcome;

use crate::plan::Fault;
use crate::world::World;

/// What a call's luck is drawn for: the order, the visit, whether it is an undo, and which call of these it is.
pub type Name = (&'static str, u64, u32, bool, u64);

/// A call, or a piece of work, reaches its target.
pub async fn forward(world: &Arc<World>, key: &str, name: Name) -> StepOutcome {
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
                happens_later(world, key, later);
            }
            std::future::pending::<()>().await;
        }
        (false, false) if wrong(Fault::StepLosesAnswer) && rolls.permille(500) => {
            happens_later(world, key, later);
            return unknown("connection reset, and the call goes on");
        }
        (false, false) => happens(world, key),
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

/// What was done under a key is taken back.
pub async fn undo(world: &Arc<World>, key: &str, name: Name) -> StepOutcome {
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

fn happens(world: &World, key: &str) {
    let mut judge = world.judge.lock();
    let effect = judge.effect(key);
    effect.done |= !effect.undone && !effect.refused;
}

/// The target goes on by itself, whatever becomes of the process that called it.
fn happens_later(world: &Arc<World>, key: &str, wait: Duration) {
    let world = world.clone();
    let key = key.to_owned();
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        let mut judge = world.judge.lock();
        let effect = judge.effect(&key);
        effect.done |= !effect.undone && !effect.refused;
    });
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
