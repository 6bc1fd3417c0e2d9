//! The steps that Comanda brings along: inventory, payments, customers and shipments, with what people and programs ask of them
//! outside of orders.
//!
//! What moves stock is part of the commit that answers the step: nothing has moved before it, and it moves once per visit.
//! Payments, customers and shipments are ports with an adapter each for a service over HTTP, where the settings name one, and one
//! that is kept here.

mod book;
pub mod customers;
pub mod inventory;
mod mood;
mod once;
pub mod payments;
mod said;
pub mod shipments;
mod stock_service;
mod unanswered;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use comanda_engine::{Admission, Effect, Postponed, StepCall, StepRunner};
use comanda_model::Order;
use comanda_model::decision::{StepOutcome, context};
use comanda_model::order_type::{Action, BuiltIn, BuiltInKind, Step};
use comanda_store::{Store, StoreError};
use minijinja::value::{Value as Context, merge_maps};
use serde_json::Value;

pub use book::{SandboxEntry, SandboxError};
pub(crate) use mood::Mood;
pub use stock_service::{HttpInventory, HttpInventoryOptions};
pub use unanswered::Unanswered;

/// How the built-in steps work.
pub struct Options {
    /// Environment variables, readable in templates as `env.NAME`.
    pub env: BTreeMap<String, String>,
    /// Who takes payments.
    pub payments: Arc<dyn payments::Provider>,
    /// Who knows the customers.
    pub customers: Arc<dyn customers::Directory>,
    /// Who carries parcels.
    pub carrier: Arc<dyn shipments::Carrier>,
    /// Who keeps the stock, where that is not Comanda itself.
    pub inventory: Option<HttpInventory>,
}

/// Runs all steps: those that are built in here, all others by `others`.
pub struct BuiltIns {
    store: Arc<dyn Store>,
    others: Arc<dyn StepRunner>,
    env: Context,
    payments: Arc<dyn payments::Provider>,
    customers: Arc<dyn customers::Directory>,
    carrier: Arc<dyn shipments::Carrier>,
    inventory: Option<HttpInventory>,
}

impl BuiltIns {
    /// Puts the built-in steps in front of others.
    pub fn new(options: Options, store: Arc<dyn Store>, others: Arc<dyn StepRunner>) -> Self {
        let Options {
            env,
            payments,
            customers,
            carrier,
            inventory,
        } = options;
        Self {
            store,
            others,
            env: minijinja::context! { env => env },
            payments,
            customers,
            carrier,
            inventory,
        }
    }

    /// What the step is told, rendered over the order.
    fn told(&self, call: &StepCall<'_>, built_in: &BuiltIn) -> Result<Value, String> {
        let context = merge_maps([context(call.order)?, self.env.clone()]);
        built_in.with.render(&context).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl StepRunner for BuiltIns {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        self.others.run(call).await
    }

    fn knows(&self, name: &str) -> bool {
        self.others.knows(name)
    }

    async fn admit(&self, order: &Order, step: &Step) -> Result<Admission, Postponed> {
        let Action::BuiltIn(built_in) = &step.action else {
            return self.others.admit(order, step).await;
        };
        match built_in.kind {
            BuiltInKind::CustomersCheck => self.customers.admit().await,
            BuiltInKind::PaymentsAuthorize
            | BuiltInKind::PaymentsCapture
            | BuiltInKind::PaymentsVoid
            | BuiltInKind::PaymentsRefund => self.payments.admit(built_in.kind).await,
            BuiltInKind::ShipmentsCreate | BuiltInKind::ShipmentsCancel => self.carrier.admit(built_in.kind).await,
            BuiltInKind::InventoryReserve | BuiltInKind::InventoryRelease | BuiltInKind::InventoryShip => {
                match &self.inventory {
                    Some(service) => service.admit(built_in.kind).await,
                    None => Ok(Admission::default()),
                }
            }
        }
    }

    fn keeps_stock_elsewhere(&self) -> bool {
        self.inventory.is_some()
    }

    async fn run_built_in(&self, call: StepCall<'_>) -> Effect {
        let Action::BuiltIn(built_in) = &call.step.action else {
            return self.others.run(call).await.into();
        };
        let told = match self.told(&call, built_in) {
            Ok(told) => told,
            Err(reason) => return failed(reason).into(),
        };
        if let (Some(service), true) = (&self.inventory, built_in.kind.is_of_stock()) {
            return service.run(&call, built_in, &told).await.into();
        }
        match built_in.kind {
            BuiltInKind::InventoryReserve => inventory::reserve(&*self.store, &call, built_in, &told).await,
            BuiltInKind::CustomersCheck => customers::check(&*self.customers, &call, &told).await.into(),
            BuiltInKind::PaymentsAuthorize
            | BuiltInKind::PaymentsCapture
            | BuiltInKind::PaymentsVoid
            | BuiltInKind::PaymentsRefund => payments::run(&*self.payments, &call, built_in.kind, &told).await.into(),
            BuiltInKind::ShipmentsCreate | BuiltInKind::ShipmentsCancel => {
                shipments::run(&*self.carrier, &call, built_in.kind, &told).await.into()
            }
            // The engine does these itself: they need nothing but the order.
            BuiltInKind::InventoryRelease | BuiltInKind::InventoryShip => Effect {
                outcome: StepOutcome::Done { result: None },
                hold: built_in.hold_move(None),
            },
        }
    }
}

/// Not done; another try may mend it.
fn failed(reason: impl Into<String>) -> StepOutcome {
    StepOutcome::Failed {
        reason: reason.into(),
        retry_after: None,
    }
}

/// No, for good.
fn refused(reason: impl Into<String>) -> StepOutcome {
    StepOutcome::Refused { reason: reason.into() }
}

fn failed_by_store(error: &StoreError) -> StepOutcome {
    failed(error.to_string())
}
