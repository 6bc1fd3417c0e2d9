//! Strikes one commit of an order's life.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::fault::Strike;
use crate::world::World;

/// Lets commits through one at a time, and strikes the one after the first `before`. Answers how many were let through.
pub(crate) async fn through_commits(world: Arc<World>, before: u32, strike: Strike, over: Arc<Notify>) -> u32 {
    let faults = world.store.faults();
    let mut through = 0;
    loop {
        if through == before && strike == Strike::Busy {
            // It is turned away before it could be staged.
            faults.busy_next(1);
            faults.resume();
            return through;
        }
        if faults.staged() == 0 {
            tokio::select! {
                () = over.notified() => return through,
                () = tokio::time::sleep(Duration::from_micros(200)) => continue,
            }
        }
        if through < before {
            through += u32::from(faults.let_one_through());
            continue;
        }
        match strike {
            Strike::DiesBefore => world.restart().await,
            Strike::DiesAfter => {
                faults.let_one_through();
                world.restart().await;
            }
            Strike::LosesAnswer => {
                faults.lose_next_answers(1);
                faults.resume();
            }
            Strike::Fails => {
                faults.fail_next_commits(1);
                faults.resume();
            }
            Strike::Busy => {}
        }
        return through;
    }
}
