//! Who is behind the built-in steps: what the settings name, or what Comanda brings along.

use std::collections::BTreeMap;
use std::sync::Arc;

use comanda_builtin::customers::{Customers, Directory, HttpCustomers};
use comanda_builtin::payments::{HttpPayments, Provider, Sandbox};
use comanda_builtin::{BuiltIns, Options, Outbound, Settings};
use comanda_engine::StepRunner;
use comanda_store::Store;

use crate::config::Config;
use crate::failure::Failure;

/// Puts the built-in steps in front of the others.
pub(super) fn steps(
    config: &Config,
    env: BTreeMap<String, String>,
    secrets: BTreeMap<String, String>,
    store: &Arc<dyn Store>,
    others: Arc<dyn StepRunner>,
) -> Result<BuiltIns, Failure> {
    let settings = Settings {
        env: env.clone(),
        secrets,
        user_agent: concat!("comanda/", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    let outbound =
        Outbound::new(settings).map_err(|error| Failure::process("the HTTP client could not be set up", error))?;
    let payments: Arc<dyn Provider> = match &config.payments {
        Some(options) => Arc::new(HttpPayments::new(outbound.clone(), options.clone())),
        None => Arc::new(Sandbox::new(store.clone())),
    };
    let customers: Arc<dyn Directory> = match &config.customers {
        Some(call) => Arc::new(HttpCustomers::new(outbound, call.clone())),
        None => Arc::new(Customers::new(store.clone())),
    };
    let options = Options {
        env,
        payments,
        customers,
    };
    Ok(BuiltIns::new(options, store.clone(), others))
}
