//! Clients and operators: they do what the plan says, and tell the judge what they were answered.

use std::sync::Arc;
use std::time::Duration;

use comanda_engine::{
    Accepted, Change, CommandError, DeadLetterFilter, Found, Idempotency, Precondition, Redrive, Submission,
    SubmitError, Sweep,
};
use comanda_model::decision::RedriveFrom;
use comanda_model::{Json, Phase};
use comanda_store::{DeadItemMove, Store};
use jiff::SignedDuration;

use crate::plan::{Action, What};
use crate::receivers;
use crate::shop;
use crate::types::{self, NAMES, QUEUES, SHOP};
use crate::world::{Process, World};

/// Numbers of orders that are sent under another's key begin here.
const CONTESTED: u64 = 1000;

/// Does one thing of the plan, at its time.
pub async fn act(world: Arc<World>, action: Action) {
    tokio::time::sleep(Duration::from_millis(action.at_millis)).await;
    world.trace(|| format!("{:?}", action.what));
    let number = action.number;
    match action.what {
        What::Submit {
            n,
            kind,
            group,
            due_in_millis,
            keyed,
            doubled,
            contested,
        } => {
            let due_at = due_in_millis.and_then(|millis| {
                let span = SignedDuration::from_millis(i64::try_from(millis).ok()?);
                world.memory.now().checked_add(span).ok()
            });
            let submission = submission(&world, n, n, kind, group, due_at, keyed);
            let first = submit(&world, n, submission.clone(), (number, 0));
            match (keyed && contested, keyed && doubled) {
                (true, _) => {
                    let other = self::submission(&world, CONTESTED + n, n, kind, group, None, keyed);
                    tokio::join!(first, submit(&world, n, other, (number, 1)));
                }
                (_, true) => {
                    tokio::join!(first, submit(&world, n, submission, (number, 1)));
                }
                _ => first.await,
            }
        }
        What::Edit { n } => edit(&world, n, number).await,
        What::Cancel { n } => {
            let Some(id) = world.judge.lock().by_number(n) else {
                return;
            };
            let process = world.process(number).await;
            let answer = asked(&process, process.service.cancel(id, change(Some("changed my mind")))).await;
            told(&world, &format!("cancel of #{n}"), answer);
        }
        What::Transition { n } => transition(&world, n, number).await,
        What::Approval { n, yes } => approval(&world, n, number, yes).await,
        What::Redrive { start, current, edit } => {
            let redrive = Redrive {
                from: if start {
                    RedriveFrom::Start
                } else {
                    RedriveFrom::FailedStep
                },
                current_version: current,
                patch: edit.then(|| datum(number)),
                dry_run: false,
            };
            let process = world.process(number).await;
            let by = "local".into();
            let answer = asked(
                &process,
                process.service.redrive(DeadLetterFilter::default(), redrive, by),
            )
            .await;
            swept(&world, "redrive", answer);
        }
        What::Receive { sku, quantity } => shop::receive(&world, number, sku, quantity).await,
        What::Count { sku, quantity } => shop::count(&world, number, sku, quantity).await,
        What::Block { who } => shop::block(&world, number, who).await,
        What::Pause { which } => receivers::pause(&world, which).await,
        What::Resume { which } => receivers::resume(&world, which).await,
        What::Discard => discard(&world, number).await,
        What::ChangeTypes => {
            let process = world.process(number).await;
            let Ok(types) = types::definitions(1) else { return };
            let changed = asked(&process, process.service.registry().replace(types)).await;
            world.trace(|| format!("types changed: {changed:?}"));
        }
        What::Crash => {
            let process = world.process(number).await;
            world.kill(&process.life);
        }
        What::Restart => {
            let process = world.process(number).await;
            asked(&process, process.stop()).await;
            world.kill(&process.life);
        }
        What::Stall { millis } => {
            let process = world.process(number).await;
            process.life.hold_still(true);
            tokio::time::sleep(Duration::from_millis(millis)).await;
            process.life.hold_still(false);
            world.trace(|| format!("process {} goes on", process.life.number));
        }
        What::Jump { millis } => world.clock.jump(millis),
    }
}

/// Gives up every dead letter.
pub async fn discard(world: &Arc<World>, number: u64) {
    let process = world.process(number).await;
    let discard = process.service.discard(
        DeadLetterFilter::default(),
        "given up".to_owned(),
        false,
        "local".into(),
    );
    let answer = asked(&process, discard).await;
    swept(world, "discard", answer);
}

/// Moves an order to one of the statuses that it could go to.
pub async fn transition(world: &Arc<World>, n: u64, number: u64) {
    let (id, to) = {
        let judge = world.judge.lock();
        let Some(id) = judge.by_number(n) else { return };
        let Some(known) = judge.known(id) else { return };
        let head = &known.order.head;
        let order_type = types::by_hash(head.type_hash);
        let to = order_type.and_then(|order_type| order_type.status(&head.status).map(|status| status.to.clone()));
        (id, to.unwrap_or_default())
    };
    if to.is_empty() {
        return;
    }
    let mut rolls = world.rolls(("transition", number));
    let to = to[usize::try_from(rolls.below(to.len() as u64)).unwrap_or(0)].clone();
    let patch = rolls.permille(300).then(|| datum(number));
    let process = world.process(number).await;
    let answer = asked(&process, process.service.transition(id, &to, patch, change(None))).await;
    told(world, &format!("transition of #{n} to {to}"), answer);
}

/// Says yes or no to an order, whether or not it waits for that.
async fn approval(world: &Arc<World>, n: u64, number: u64, yes: bool) {
    let Some(id) = world.judge.lock().by_number(n) else {
        return;
    };
    let process = world.process(number).await;
    let answer = match yes {
        true => asked(&process, process.service.approve(id, change(None))).await,
        false => asked(&process, process.service.reject(id, "no".to_owned(), change(None))).await,
    };
    told(world, &format!("approval of #{n} ({yes})"), answer);
}

/// Takes away what is dead in the statuses' queues.
pub async fn discard_items(world: &Arc<World>, number: u64) {
    for queue in QUEUES {
        let process = world.process((queue, number)).await;
        let Some(Ok(dead)) = asked(&process, process.service.dead_items(queue, 0, 1000)).await else {
            continue;
        };
        let positions: Vec<u64> = dead.iter().map(|item| item.position).collect();
        let to = DeadItemMove::Discard;
        let moved = asked(&process, process.service.move_dead_items(queue, &positions, to)).await;
        if let Some(Ok(_)) = moved {
            world.judge.lock().items_discarded(&dead);
        }
    }
}

async fn edit(world: &Arc<World>, n: u64, number: u64) {
    let Some((id, etag)) = ({
        let judge = world.judge.lock();
        let id = judge.by_number(n);
        id.and_then(|id| Some((id, judge.known(id)?.order.head.etag_version)))
    }) else {
        return;
    };
    let precondition = match world.rolls(("precondition", number)).permille(400) {
        true => Precondition::EtagIn(vec![etag]),
        false => Precondition::None,
    };
    let change = Change {
        precondition,
        ..change(None)
    };
    let process = world.process(number).await;
    let answer = asked(&process, process.service.edit(id, datum(number), change)).await;
    if let Some(Ok(found)) = &answer {
        let verdict = world.judge.lock().edited(&found.stored.order, number);
        world.check(verdict);
    }
    told(world, &format!("edit of #{n}"), answer);
}

/// Waiting orders whose type lets the outside move them on.
pub fn waiting(world: &World) -> Vec<u64> {
    let judge = world.judge.lock();
    let waits = judge
        .orders()
        .filter(|(_, known)| known.order.head.phase == Phase::Active && known.order.head.work.is_none());
    waits.map(|(_, known)| known.n).collect()
}

fn submission(
    world: &World,
    n: u64,
    key: u64,
    kind: usize,
    group: u64,
    due_at: Option<jiff::Timestamp>,
    keyed: bool,
) -> Submission {
    // Half of those with a key carry the client's own id too.
    let data = match keyed && key % 2 == 1 {
        true => serde_json::json!({"n": n, "group": group, "ref": format!("r{key}")}),
        false => serde_json::json!({"n": n, "group": group}),
    };
    let data = match kind % NAMES.len() {
        SHOP => shop::basket(world, n, data),
        _ => data,
    };
    Submission {
        order_type: NAMES[kind % NAMES.len()].to_owned(),
        key: None,
        data: Json::from(&data),
        value: None,
        status: None,
        due_at,
        idempotency: keyed.then(|| Idempotency {
            kept: None,
            scope: "client".to_owned(),
            key: format!("k{key}"),
        }),
        by: "local".into(),
        traceparent: None,
    }
}

/// Submits; with a key until it is acknowledged or refused, without one only once.
async fn submit(world: &Arc<World>, key: u64, submission: Submission, name: (u64, u64)) {
    let keyed = submission.idempotency.is_some();
    for round in 0.. {
        let process = world.process((name, round)).await;
        let answer = asked(&process, process.service.submit(submission.clone())).await;
        match answer {
            Some(Ok(Accepted { found, repeated })) => {
                let key = keyed.then(|| format!("k{key}"));
                world.trace(|| format!("{key:?} is acknowledged (repeated: {repeated})"));
                let verdict = world.judge.lock().accepted(key.as_deref(), &found.stored.order);
                world.check(verdict);
                return;
            }
            Some(Err(SubmitError::KeyTaken { .. } | SubmitError::IdempotencyKeyReused { .. })) => return,
            Some(Err(SubmitError::Busy { .. } | SubmitError::Store(_))) | None if keyed => {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Some(Err(SubmitError::Busy { .. } | SubmitError::Store(_))) | None => return,
            Some(Err(error)) => {
                world.check(Err(format!("a submission was not taken: {error}")));
                return;
            }
        }
    }
}

/// What a process answers; `None` if it dies over it.
pub async fn asked<T>(process: &Process, question: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = process.life.died() => None,
        answer = question => Some(answer),
    }
}

fn told(world: &World, what: &str, answer: Option<Result<Found, CommandError>>) {
    match answer {
        Some(Ok(found)) => {
            world.trace(|| format!("{what} is acknowledged"));
            let verdict = world.judge.lock().acknowledged(&found.stored.order);
            world.check(verdict);
        }
        Some(Err(error)) => world.trace(|| format!("{what} is refused: {error}")),
        None => world.trace(|| format!("{what} is not answered")),
    }
}

fn swept(world: &World, what: &str, answer: Option<Result<Sweep, CommandError>>) {
    world.trace(|| match answer {
        Some(Ok(sweep)) => {
            let left: Vec<String> = sweep.items.into_iter().filter_map(|item| item.outcome.err()).collect();
            format!("{what}: {} of {} changed; {left:?}", sweep.changed, sweep.matched)
        }
        Some(Err(error)) => format!("{what} is refused: {error}"),
        None => format!("{what} is not answered"),
    });
}

fn change(reason: Option<&str>) -> Change {
    Change {
        by: "local".into(),
        reason: reason.map(str::to_owned),
        precondition: Precondition::None,
    }
}

fn datum(number: u64) -> Json {
    Json::from(&serde_json::json!({ "datum": number }))
}
