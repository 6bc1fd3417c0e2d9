//! A greenhouse that takes orders for seedlings: Comanda with two steps in Rust, and what takes one of them back.

mod beds;

use std::process::ExitCode;
use std::sync::Arc;

use comanda::{Finding, Outcome, StepContext};
use serde::Deserialize;
use serde_json::json;

use crate::beds::{Beds, Planted};

/// What `with` tells the step `greenhouse.plant`.
#[derive(Deserialize)]
struct Order {
    plant: String,
    count: u32,
}

fn main() -> ExitCode {
    let beds = Arc::new(Beds::with_places(100));
    let (planting, asking, clearing) = (beds.clone(), beds.clone(), beds);
    comanda::builder()
        .step("greenhouse.plant", move |context| {
            let beds = planting.clone();
            async move { plant(&beds, &context) }
        })
        .question("greenhouse.plant", move |context| {
            let beds = asking.clone();
            async move {
                match beds.planted(context.key()) {
                    Some(bed) => Finding::Known(Outcome::Done(Some(json!({"bed": bed})))),
                    None => Finding::NotDone,
                }
            }
        })
        .step("greenhouse.clear", move |context| {
            let beds = clearing.clone();
            async move {
                // Also if nothing was planted: the attempt may still be on its way, and is refused from now on.
                beds.clear(context.undoes().unwrap_or_default());
                Outcome::done()
            }
        })
        .main()
}

fn plant(beds: &Beds, context: &StepContext) -> Outcome {
    let order: Order = match context.with_as() {
        Ok(order) => order,
        Err(error) => return Outcome::Refused(format!("this cannot be planted: {error}")),
    };
    match beds.plant(context.key(), order.count) {
        Planted::In(bed) => Outcome::Done(Some(json!({"bed": bed, "plant": order.plant}))),
        Planted::Full => Outcome::Refused(format!("there is no room for {} {}", order.count, order.plant)),
        Planted::Cleared => Outcome::Refused("this bed was cleared before".to_owned()),
    }
}
