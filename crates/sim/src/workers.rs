//! Workers from outside: programs that claim the work of steps' queues and the items of statuses' queues, and answer: too
//! late, twice, or never.

use std::sync::Arc;
use std::time::Duration;

use comanda_engine::{Answered, CommandError, Pull, Pulled};
use comanda_model::decision::StepOutcome;
use comanda_store::ItemClaim;

use crate::clients::asked;
use crate::judge::number_in;
use crate::plan::Fault;
use crate::target::{self, Name};
use crate::types::QUEUES;
use crate::world::World;

/// How long a worker waits for a target that does not answer before it forgets the work.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a worker rests when there was nothing to do.
const REST: Duration = Duration::from_secs(3);
/// How often an answer that was not heard is given again.
const ANSWERS_MAX: u32 = 200;

/// Keeps one worker at work, for ever.
pub async fn keep_working(world: Arc<World>, worker: usize) {
    for round in 0_u64.. {
        let name = ("worker", worker, round);
        let mut rolls = world.rolls(name);
        let pull = Pull {
            queue: rolls.one(&QUEUES).to_owned(),
            worker: format!("w{worker}"),
            max: rolls.one(&[1, 1, 3]),
            wait: Duration::from_millis(rolls.one(&[0, 1500])),
            lease: Duration::from_millis(rolls.one(&[1000, 5000, 30_000])),
        };
        let lease = pull.lease;
        let process = world.process(name).await;
        let Some(Ok(pulls)) = asked(&process, process.service.pull(pull)).await else {
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        };
        let nothing = pulls.work.is_empty() && pulls.items.is_empty();
        for work in pulls.work {
            do_work(&world, work, lease).await;
        }
        for item in pulls.items {
            do_item(&world, item, lease).await;
        }
        if nothing {
            tokio::time::sleep(REST).await;
        }
    }
}

async fn do_work(world: &Arc<World>, work: Pulled, lease: Duration) {
    world.deed();
    let n = number_in(work.order.data.as_str(), "n").unwrap_or(u64::MAX);
    let visit = work.order.head.work.as_ref().map_or(0, |work| work.visit);
    let nth = world.nth(("work", n, visit, work.undo));
    let name: Name = ("work", n, visit, work.undo, nth);
    let entered = world.judge.lock().handed_out(&work);
    let run = match entered {
        Ok(run) => run,
        Err(fault) => {
            world.check(Err(fault));
            return;
        }
    };
    world.trace(|| format!("a worker does `{}` of #{n}, attempt {}", work.step, work.attempt));
    if world.goes_wrong(Fault::WorkerDies, name) {
        return;
    }
    let reached = async {
        match &work.undoes {
            Some(forward) => target::undo(world, forward, name).await,
            None => target::forward(world, &work.idempotency_key, name).await,
        }
    };
    let mut outcome = match tokio::time::timeout(PATIENCE, reached).await {
        Ok(outcome @ (StepOutcome::Done { .. } | StepOutcome::Failed { .. } | StepOutcome::Refused { .. })) => outcome,
        // A worker that does not know what happened leaves its lease to end.
        _ => return,
    };
    if world.goes_wrong(Fault::WorkerLate, name) {
        tokio::time::sleep(lease + Duration::from_secs(4)).await;
    }
    let answers = if world.goes_wrong(Fault::WorkerRepeats, name) {
        2
    } else {
        1
    };
    for answer in 0..answers {
        for round in 0..ANSWERS_MAX {
            let process = world.process(("answer", name, answer, round)).await;
            let answered = asked(&process, process.service.answer(work.token, outcome.clone())).await;
            match answered {
                Some(Ok(answered)) => {
                    world.trace(|| format!("the answer to `{}` of #{n} is {answered:?}", work.step));
                    let verdict = match answered {
                        Answered::Done => world.judge.lock().answer_counted(run),
                        Answered::Stale => world.judge.lock().answer_is_late(run),
                    };
                    world.check(verdict);
                    break;
                }
                Some(Err(CommandError::TooLarge { .. })) => outcome = StepOutcome::Done { result: None },
                Some(Err(_)) | None => tokio::time::sleep(Duration::from_millis(300)).await,
            }
        }
    }
}

async fn do_item(world: &Arc<World>, item: ItemClaim, lease: Duration) {
    world.deed();
    let n = world.name(item.order.id());
    let name = ("item", n, item.version, item.attempt);
    world.trace(|| format!("a worker is told that #{n} entered {}", item.status));
    let mut rolls = world.rolls(name);
    if world.goes_wrong(Fault::WorkerDies, name) {
        return;
    }
    if world.goes_wrong(Fault::WorkerLate, name) {
        tokio::time::sleep(lease + Duration::from_secs(4)).await;
    }
    let outcome = match world.goes_wrong(Fault::StepFails, name) {
        true if rolls.permille(300) => StepOutcome::Refused {
            reason: "not for me".to_owned(),
        },
        true => StepOutcome::Failed {
            reason: "out of order".to_owned(),
            retry_after: None,
        },
        false => StepOutcome::Done { result: None },
    };
    for round in 0..ANSWERS_MAX {
        let process = world.process((name, round)).await;
        if let Some(Ok(_)) = asked(&process, process.service.answer_item(item.token, outcome.clone())).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
