//! The worker of the queue, which misbehaves as planned.

use std::sync::Arc;
use std::time::Duration;

use comanda_engine::{Answered, Pull, Pulled};
use comanda_model::decision::StepOutcome;

use crate::fault::Fault;
use crate::steps::{failed, refused};
use crate::world::World;

/// How long a worker has the work that it claims.
const LEASE: Duration = Duration::from_millis(40);

/// The worker of the queue: claims, does, answers, and misbehaves as planned.
pub(crate) async fn work(world: Arc<World>) {
    loop {
        let pull = Pull {
            queue: "picking".to_owned(),
            worker: "ann".to_owned(),
            max: 10,
            wait: Duration::from_millis(50),
            lease: LEASE,
        };
        // The process may just be dead.
        let pulls = world.service().pull(pull).await.unwrap_or_default();
        for pulled in pulls.work {
            handle(&world, pulled).await;
        }
        tokio::task::yield_now().await;
    }
}

async fn handle(world: &Arc<World>, pulled: Pulled) {
    let Pulled {
        token,
        attempt,
        undo,
        idempotency_key: key,
        undoes,
        ..
    } = pulled;
    let fault = world.strikes("pick", attempt, undo, &key);
    let does = || world.arrives(&key, undoes.as_deref());
    let answer = async |outcome: StepOutcome| {
        // An answer that is lost to a dying process is sent again.
        loop {
            match world.service().answer(token, outcome.clone()).await {
                Ok(answered) => return answered,
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    match fault {
        None => {
            answer(does()).await;
        }
        Some(Fault::Fails) => {
            answer(failed()).await;
        }
        Some(Fault::Refuses) => {
            answer(refused()).await;
        }
        Some(Fault::LosesCall) => {}
        Some(Fault::LosesAnswer) => {
            let outcome = does();
            let (world, late) = (world.clone(), outcome);
            tokio::spawn(async move {
                // By then the lease has ended, and most likely another has the work.
                tokio::time::sleep(2 * LEASE).await;
                let _ = world.service().answer(token, late).await;
            });
        }
        Some(Fault::Twice) => {
            let outcome = does();
            answer(outcome.clone()).await;
            assert_eq!(answer(outcome).await, Answered::Stale, "an answer counts once");
        }
        Some(fault @ (Fault::DiesBefore | Fault::DiesAfter)) => {
            let outcome = (fault == Fault::DiesAfter).then(&does);
            world.restart().await;
            // The claim has survived.
            answer(outcome.unwrap_or_else(does)).await;
        }
        Some(Fault::Cancelled) => {
            world.cancel(token.order).await;
            answer(does()).await;
        }
    }
}
