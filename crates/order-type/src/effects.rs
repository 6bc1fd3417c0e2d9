//! What an order does to stock and money must come to an end, and be taken back where the order is refused later.

use std::collections::{BTreeMap, BTreeSet};

use comanda_model::order_type::{Action, BuiltInKind, Step};
use comanda_model::template::TemplateTree;

use crate::diagnostic::Report;
use crate::file::{File, StepEntry};

/// Everything about effects. `before` are the steps that may have run before an order enters a status.
pub(crate) fn check(file: &File, before: &BTreeMap<&str, BTreeSet<&str>>, report: &mut Report<'_>) {
    without_undo(file, before, report);
    without_payment(file, before, report);
    left_standing(file, report);
}

fn step<'f>(file: &'f File, name: &str) -> Option<&'f StepEntry> {
    file.steps.iter().find(|step| step.name.value == name)
}

fn kind(step: &Step) -> Option<BuiltInKind> {
    match &step.action {
        Action::BuiltIn(built_in) => Some(built_in.kind),
        _ => None,
    }
}

fn has_effect(step: &Step) -> bool {
    match &step.action {
        Action::Http(call) => !["GET", "HEAD"].contains(&call.method.as_str()),
        Action::BuiltIn(built_in) => !matches!(
            built_in.kind,
            BuiltInKind::CustomersCheck
                | BuiltInKind::InventoryRelease
                | BuiltInKind::PaymentsVoid
                | BuiltInKind::ShipmentsCancel
        ),
        other => !other.is_internal(),
    }
}

fn may_be_refused(step: &Step) -> bool {
    match &step.action {
        Action::Http(_)
        | Action::Queue(_)
        | Action::Rust(_)
        | Action::Approval { .. }
        | Action::Fail { refuse: true, .. } => true,
        Action::BuiltIn(built_in) => built_in.kind != BuiltInKind::InventoryRelease,
        _ => false,
    }
}

/// Walks over the steps of each status in their order, with those that may have run before.
fn walk<'f>(
    file: &'f File,
    before: &BTreeMap<&'f str, BTreeSet<&'f str>>,
    mut at: impl FnMut(&'f StepEntry, &BTreeSet<&'f str>),
) {
    for status in &file.statuses {
        let mut run = before.get(status.name.value.as_str()).cloned().unwrap_or_default();
        for name in &status.steps {
            if let Some(entry) = step(file, &name.value) {
                at(entry, &run);
            }
            run.insert(name.value.as_str());
        }
    }
}

/// A refusal takes back what was done before; what has no undo stays done.
fn without_undo(file: &File, before: &BTreeMap<&str, BTreeSet<&str>>, report: &mut Report<'_>) {
    let mut told = BTreeSet::new();
    walk(file, before, |refusing, run| {
        if !may_be_refused(&refusing.step) {
            return;
        }
        let refused = refusing.name.value.as_str();
        for earlier in run.iter().filter(|earlier| **earlier != refused) {
            let Some(entry) = step(file, earlier) else { continue };
            if has_effect(&entry.step) && entry.step.undo.is_none() && told.insert(entry.name.value.as_str()) {
                let message = format!("`{earlier}` has no `undo`, but the later step `{refused}` may be refused");
                let help = "what it did would stay done; add an `undo`".to_owned();
                report.warning("type/no-undo", &entry.name.span, message, Some(help));
            }
        }
    });
}

/// A step that takes, gives up or pays back a payment needs one, which it names or which an earlier step has left.
fn without_payment(file: &File, before: &BTreeMap<&str, BTreeSet<&str>>, report: &mut Report<'_>) {
    let mut told = BTreeSet::new();
    walk(file, before, |entry, run| {
        let Action::BuiltIn(built_in) = &entry.step.action else {
            return;
        };
        let needs = matches!(
            built_in.kind,
            BuiltInKind::PaymentsCapture | BuiltInKind::PaymentsVoid | BuiltInKind::PaymentsRefund
        );
        let names = matches!(&built_in.with, TemplateTree::Object(members) if members.iter().any(|(name, _)| name == "payment"));
        let leaves = |earlier: &&str| step(file, earlier).is_some_and(|earlier| may_leave_payment(&earlier.step));
        if !needs || names || run.iter().any(leaves) || !told.insert(entry.name.value.as_str()) {
            return;
        }
        let message = format!(
            "`{}` has no payment: no step before it authorises one, so that it is always refused",
            built_in.kind.name()
        );
        let help =
            "run a step with use = \"payments.authorize\" before it, or say which: with = { payment = \"{{ … }}\" }";
        report.error("type/no-payment", &entry.name.span, message, Some(help.to_owned()));
    });
}

fn may_leave_payment(step: &Step) -> bool {
    match &step.action {
        Action::Http(_) | Action::Queue(_) | Action::Rust(_) => true,
        _ => kind(step) == Some(BuiltInKind::PaymentsAuthorize),
    }
}

/// What is held or set aside for ever, whichever way an order goes.
fn left_standing(file: &File, report: &mut Report<'_>) {
    let as_step = |wanted: BuiltInKind| file.steps.iter().any(|entry| kind(&entry.step) == Some(wanted));
    let as_undo = |wanted: BuiltInKind| {
        let mut undos = file.steps.iter().filter_map(|entry| entry.step.undo.as_deref());
        undos.any(|undo| kind(undo) == Some(wanted))
    };
    for entry in &file.steps {
        let name = &entry.name.value;
        let (code, message, help) = match kind(&entry.step) {
            Some(BuiltInKind::InventoryReserve)
                if !as_step(BuiltInKind::InventoryShip) && !as_step(BuiltInKind::InventoryRelease) =>
            {
                (
                    "type/reserve-left",
                    format!("`{name}` holds stock, but no step ships or releases it"),
                    "what is held goes back on the shelf when the order is final, though it may be with the customer; add \
                     a step with use = \"inventory.ship\", or use = \"inventory.release\"",
                )
            }
            Some(BuiltInKind::PaymentsAuthorize)
                if !as_step(BuiltInKind::PaymentsCapture)
                    && !as_step(BuiltInKind::PaymentsVoid)
                    && !as_undo(BuiltInKind::PaymentsVoid) =>
            {
                (
                    "type/authorize-left",
                    format!("`{name}` authorises a payment that nothing captures or voids"),
                    "the customer's money stays set aside; add a step with use = \"payments.capture\", and to this one undo \
                     = { use = \"payments.void\" }",
                )
            }
            _ => continue,
        };
        report.warning(code, &entry.name.span, message, Some(help.to_owned()));
    }
}
