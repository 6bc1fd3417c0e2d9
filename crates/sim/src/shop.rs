//! What people and programs do in the shop beside its orders: stock comes in and is counted, customers are blocked.

use std::sync::Arc;
use std::time::Duration;

use comanda_builtin::customers::{Customer, CustomerError, Customers};
use comanda_builtin::inventory::{Inventory, InventoryError, Price};
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::clients::asked;
use crate::world::World;

/// What is sold, and what one costs, in hundredths.
pub const SKUS: [(&str, u64); 3] = [("A", 125), ("B", 1000), ("C", 50)];
/// Who buys. The last one is nobody, the one before is blocked from the beginning.
pub const CUSTOMERS: [&str; 5] = ["ann", "bob", "cat", "blocked", "nobody"];
/// How a payment can behave; see the sandbox.
const SOURCES: [&str; 9] = ["", "", "", "", "decline", "delay", "timeout", "twice", "down"];
/// How often something that was not answered is asked again.
const TRIES_MAX: u64 = 200;

/// Fills the shop before anything happens.
pub async fn open(world: &Arc<World>) {
    let inventory = Inventory::new(&*world.memory);
    for (sku, hundredths) in SKUS {
        let price = Price {
            amount: Decimal::new(i64::try_from(hundredths).unwrap_or(0), 2),
            currency: "EUR".to_owned(),
        };
        if let Err(error) = inventory.set_price(sku, &price).await {
            world.check(Err(format!("a price could not be set: {error}")));
        }
    }
    let customers = Customers::new(world.memory.clone());
    for id in &CUSTOMERS[..CUSTOMERS.len() - 1] {
        if let Err(error) = customers.register(customer(id, *id == "blocked")).await {
            world.check(Err(format!("a customer could not be registered: {error}")));
        }
    }
    world.judge.lock().customer_is_blocked("blocked");
}

/// What an order of the shop says.
pub fn basket(world: &World, n: u64, mut data: Value) -> Value {
    let mut rolls = world.rolls(("basket", n));
    let mut products = Vec::new();
    for (sku, _) in SKUS {
        if products.is_empty() || rolls.permille(400) {
            products.push(json!({"sku": sku, "quantity": 1 + rolls.below(4)}));
        }
    }
    data["customer"] = json!(rolls.one(&[0, 0, 0, 1, 1, 1, 2, 2, 3, 4].map(|index: usize| CUSTOMERS[index])));
    data["products"] = Value::Array(products);
    data["payment"] = json!(rolls.one(&SOURCES));
    data["backorder"] = json!(rolls.permille(400));
    data
}

/// Stock comes in; told again until it is acknowledged, under the same key.
pub async fn receive(world: &Arc<World>, number: u64, sku: usize, quantity: u32) {
    let (sku, _) = SKUS[sku % SKUS.len()];
    let key = format!("receive-{number}");
    for round in 0..TRIES_MAX {
        let process = world.process(("receive", number, round)).await;
        let store = process.service.store().clone();
        match asked(&process, Inventory::new(&*store).receive(sku, quantity, Some(&key))).await {
            Some(Ok(_)) => {
                world.trace(|| format!("{quantity} of {sku} are acknowledged"));
                let verdict = world.judge.lock().posting_acknowledged(&key);
                world.check(verdict);
                return;
            }
            Some(Err(InventoryError::Store(_) | InventoryError::Busy)) | None => {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Some(Err(error)) => {
                world.check(Err(format!("stock was not received: {error}")));
                return;
            }
        }
    }
}

/// So many are found by counting.
pub async fn count(world: &Arc<World>, number: u64, sku: usize, quantity: u32) {
    let (sku, _) = SKUS[sku % SKUS.len()];
    let key = format!("count-{number}");
    let process = world.process(("count", number)).await;
    let store = process.service.store().clone();
    let answer = asked(&process, Inventory::new(&*store).count(sku, quantity, Some(&key))).await;
    world.trace(|| format!("counting {quantity} of {sku}: {answer:?}"));
}

/// A customer is blocked, and registers again, which does not help.
pub async fn block(world: &Arc<World>, number: u64, who: usize) {
    let id = CUSTOMERS[who % 3];
    for round in 0..TRIES_MAX {
        let process = world.process(("block", number, round)).await;
        let customers = Customers::new(process.service.store().clone());
        match asked(&process, customers.set_blocked(id, true)).await {
            Some(Ok(_)) => {
                world.trace(|| format!("{id} is blocked"));
                world.judge.lock().customer_is_blocked(id);
                break;
            }
            Some(Err(CustomerError::Store(_) | CustomerError::Busy)) | None => {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Some(Err(error)) => {
                world.check(Err(format!("a customer was not blocked: {error}")));
                return;
            }
        }
    }
    let process = world.process(("register", number)).await;
    let customers = Customers::new(process.service.store().clone());
    let again = asked(&process, customers.register(customer(id, false))).await;
    world.trace(|| format!("{id} registers again: {again:?}"));
}

fn customer(id: &str, blocked: bool) -> Customer {
    Customer {
        id: id.to_owned(),
        name: id.to_owned(),
        blocked,
        prepaid: false,
    }
}
