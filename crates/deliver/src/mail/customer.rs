//! What a customer may know of an event: a reason that was written for people, never an address, an answer or an error
//! of the services behind.

use comanda_model::order_type::{Action, BuiltInKind, OrderType};
use comanda_model::{Event, EventKind};
use serde_json::Value;

use super::notices::step_of;
use super::templates::Templates;

/// An event, as its customer may know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Why, if that may be told.
    pub reason: Option<String>,
    /// The step that it failed at.
    pub step: Option<String>,
}

impl Told {
    /// What may be told, in a language (`en`, `es`, `pt`).
    pub fn new(order_type: &OrderType, event: &Event, language: &str) -> Self {
        let step = step_of(event);
        let failed = event.kind == EventKind::DeadLettered
            || (event.kind == EventKind::StatusChanged && event.reason.is_some() && step.is_some());
        let reason = match (&event.reason, step) {
            (None, _) => None,
            // Someone wrote it about this order.
            (Some(reason), None) if is_a_person(&event.by) => Some(reason.clone()),
            (Some(_), None) if &*event.by == "deadline" => Some(pick(
                language,
                "the time for it has passed",
                "se acabó el plazo",
                "o prazo terminou",
            )),
            (Some(_), None) => None,
            (Some(reason), Some(name)) => Some(match order_type.steps.get(name).map(|step| &step.action) {
                Some(Action::BuiltIn(built_in)) if is_of_the_stock(built_in.kind) => reason.clone(),
                Some(Action::Fail { .. } | Action::Approval { .. }) if event.kind == EventKind::StatusChanged => {
                    reason.clone()
                }
                _ => pick(
                    language,
                    &format!("the step “{name}” did not succeed"),
                    &format!("el paso «{name}» no se pudo completar"),
                    &format!("a etapa «{name}» não pôde ser concluída"),
                ),
            }),
        };
        Self {
            reason,
            step: step.filter(|_| failed).map(str::to_owned),
        }
    }
}

/// The language that an order's customer reads: what the data says, as far as there are messages in it, or else the
/// type's.
pub fn language<'a>(order_type: &'a OrderType, data: &'a Value) -> &'a str {
    let pointer = order_type.notify.as_ref().and_then(|notify| notify.language.as_deref());
    let tag = pointer
        .and_then(|pointer| data.pointer(pointer))
        .and_then(Value::as_str);
    Templates::language(tag.unwrap_or(&order_type.language), &order_type.language)
}

/// Whether a change was asked for through the API.
fn is_a_person(by: &str) -> bool {
    by == "local" || by.starts_with("key:")
}

/// Whether what the step says is about the goods alone.
fn is_of_the_stock(kind: BuiltInKind) -> bool {
    matches!(
        kind,
        BuiltInKind::InventoryReserve | BuiltInKind::InventoryRelease | BuiltInKind::InventoryShip
    )
}

fn pick(language: &str, english: &str, spanish: &str, portuguese: &str) -> String {
    match language {
        "es" => spanish,
        "pt" => portuguese,
        _ => english,
    }
    .to_owned()
}
