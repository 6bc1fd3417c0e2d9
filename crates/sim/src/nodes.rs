//! Nodes: each is one process after another, started again when it has died.

use std::sync::Arc;
use std::time::Duration;

use comanda_engine::{Chance, Options, SeededChance, Service};

use crate::desk::Desk;
use crate::life::Life;
use crate::plant::Plant;
use crate::receivers;
use crate::store::FaultyStore;
use crate::types;
use crate::world::{Process, World};

/// Keeps a process running on a node, for ever.
pub async fn keep_running(world: Arc<World>, node: usize) {
    loop {
        let life = Life::new(world.next_life());
        let started = tokio::select! {
            biased;
            () = life.died() => None,
            started = start(&world, &life, node) => started,
        };
        if let Some(process) = started {
            world.trace(|| format!("process {} runs on node {node}", life.number));
            world.set_node(node, Some(process));
            life.died().await;
            world.set_node(node, None);
        } else {
            world.kill(&life);
        }
        let mut rolls = world.rolls(("down", life.number));
        let down = if world.is_calm() {
            1
        } else {
            rolls.one(&[1, 100, 2000, 20_000])
        };
        tokio::time::sleep(Duration::from_millis(down)).await;
    }
}

async fn start(world: &Arc<World>, life: &Arc<Life>, node: usize) -> Option<Process> {
    let plan = &world.plan;
    let chance_seed = match world.has(Plant::TokensRepeat) {
        true => world.dice.number("chance"),
        false => world.dice.number(("chance", life.number)),
    };
    let chance: Arc<dyn Chance> = Arc::new(SeededChance::new(chance_seed));
    let options = Options {
        concurrency: plan.concurrency,
        outstanding_max: plan.outstanding_max,
        lease: Duration::from_millis(plan.lease_millis),
        sweep: Duration::from_millis(plan.sweep_millis),
        chance,
        ..Options::default()
    };
    let store = FaultyStore::new(world.clone(), life.clone());
    let steps = Arc::new(Desk::new(world.clone(), life.clone(), store.clone()));
    let types = match types::definitions(0) {
        Ok(types) => types,
        Err(fault) => {
            world.check(Err(format!("the simulation's own types cannot be read: {fault}")));
            return None;
        }
    };
    let service = match Service::start(options, store, steps, types).await {
        Ok(service) => service,
        Err(error) => {
            world.trace(|| format!("process {} could not start on node {node}: {error}", life.number));
            return None;
        }
    };
    // The in-memory store has no holds: as with the embedded one, one process at a time delivers.
    let deliveries = match node {
        0 => match receivers::start(world, life, service.clone()).await {
            Ok(deliveries) => Some(deliveries),
            Err(error) => {
                world.trace(|| format!("process {} could not start to deliver: {error}", life.number));
                return None;
            }
        },
        _ => None,
    };
    Some(Process {
        life: life.clone(),
        service,
        deliveries,
    })
}
