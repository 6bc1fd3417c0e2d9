//! The built-in steps, as the engine reaches them: the product's own, over the store as the process sees it. The judge sees
//! each call; all others go on to the outside.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use comanda_builtin::BuiltIns;
use comanda_builtin::customers::Customers;
use comanda_builtin::payments::Sandbox;
use comanda_builtin::shipments::CarrierSandbox;
use comanda_engine::{Effect, StepCall, StepRunner};
use comanda_model::decision::StepOutcome;
use comanda_store::Store;

use crate::life::Life;
use crate::outside::Outside;
use crate::world::World;

/// All steps, as one life reaches them.
pub struct Desk {
    world: Arc<World>,
    life: Arc<Life>,
    outside: Arc<Outside>,
    built_ins: BuiltIns,
}

impl Desk {
    /// The steps for a life that begins.
    pub fn new(world: Arc<World>, life: Arc<Life>, store: Arc<dyn Store>) -> Self {
        let outside = Arc::new(Outside::new(world.clone(), life.clone()));
        let options = comanda_builtin::Options {
            env: BTreeMap::new(),
            payments: Arc::new(Sandbox::new(store.clone())),
            customers: Arc::new(Customers::new(store.clone())),
            carrier: Arc::new(CarrierSandbox::new(store.clone())),
            inventory: None,
        };
        Self {
            world,
            life,
            built_ins: BuiltIns::new(options, store, outside.clone()),
            outside,
        }
    }
}

#[async_trait]
impl StepRunner for Desk {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        self.outside.run(call).await
    }

    async fn run_built_in(&self, call: StepCall<'_>) -> Effect {
        let world = &self.world;
        world.deed();
        self.life.gate().await;
        let entered = world.judge.lock().called(self.life.number, &call);
        let run = match entered {
            Ok(run) => run,
            Err(fault) => {
                world.check(Err(fault));
                std::future::pending().await
            }
        };
        let (id, name, undo) = (call.order.id(), call.name.to_owned(), call.undo);
        let effect = self.built_ins.run_built_in(call).await;
        self.life.gate().await;
        world.judge.lock().answered(run);
        world.trace(|| {
            let undo = if undo { "undo of " } else { "" };
            format!(
                "process {}: {undo}`{name}` of #{} comes to {:?}, holds {:?}",
                self.life.number,
                world.name(id),
                effect.outcome,
                effect.hold
            )
        });
        effect
    }
}
