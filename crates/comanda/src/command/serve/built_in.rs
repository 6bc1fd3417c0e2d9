//! Who is behind the built-in steps: what the settings name, or what Comanda brings along.

use std::collections::BTreeMap;
use std::sync::Arc;

use comanda_builtin::customers::{Customers, Directory, HttpCustomers};
use comanda_builtin::payments::{HttpPayments, Provider, Sandbox};
use comanda_builtin::shipments::{ByHand, Carrier, CarrierSandbox, HttpCarrier};
use comanda_builtin::{BuiltIns, HttpInventory, Options};
use comanda_engine::StepRunner;
use comanda_steps::Caller;
use comanda_store::Store;

use crate::config::{Config, Shipments};

/// Puts the built-in steps in front of the others. They share the caller, so that a service has one circuit, whoever calls it.
pub(super) fn steps(
    config: &Config,
    env: BTreeMap<String, String>,
    caller: Arc<Caller>,
    store: &Arc<dyn Store>,
    others: Arc<dyn StepRunner>,
) -> BuiltIns {
    let payments: Arc<dyn Provider> = match &config.payments {
        Some(options) => Arc::new(HttpPayments::new(caller.clone(), options.clone())),
        None => Arc::new(Sandbox::new(store.clone())),
    };
    let customers: Arc<dyn Directory> = match &config.customers {
        Some(call) => Arc::new(HttpCustomers::new(caller.clone(), call.clone())),
        None => Arc::new(Customers::new(store.clone())),
    };
    let inventory = config.inventory.clone();
    let inventory = inventory.map(|options| HttpInventory::new(caller.clone(), options));
    let carrier: Arc<dyn Carrier> = match &config.shipments {
        Shipments::Carrier(options) => Arc::new(HttpCarrier::new(caller, (**options).clone())),
        Shipments::Sandbox => Arc::new(CarrierSandbox::new(store.clone())),
        Shipments::ByHand => Arc::new(ByHand),
    };
    let options = Options {
        env,
        payments,
        customers,
        carrier,
        inventory,
    };
    BuiltIns::new(options, store.clone(), others)
}
