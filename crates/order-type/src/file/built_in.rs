//! Reads what a built-in step with a dotted name is told: `use = "inventory.reserve"` and its `with`.

use std::time::Duration;

use comanda_model::order_type::{Action, BuiltIn, BuiltInKind};
use comanda_model::template::TemplateTree;

use super::step::Reader;
use crate::diagnostic::did_you_mean;
use crate::fields::Fields;
use crate::tree::Located;

/// The longest that stock can be held.
const HOLD_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

impl Reader<'_, '_> {
    /// The built-in step of this name. `owner` is the step, for messages.
    pub(super) fn dotted(
        &mut self,
        name: &Located<String>,
        mut with: Option<Fields<'_>>,
        owner: &str,
    ) -> Option<Action> {
        let Some(kind) = BuiltInKind::ALL.into_iter().find(|kind| kind.name() == name.value) else {
            let message = format!("there is no built-in step \"{}\"", name.value);
            let help = did_you_mean(&name.value, BuiltInKind::ALL.map(BuiltInKind::name));
            self.report.error("type/unknown-use", &name.span, message, help);
            return None;
        };
        let mut members = Vec::new();
        let mut hold = None;
        for parameter in kind.parameters() {
            let taken = with.as_mut().and_then(|with| with.take(parameter));
            match taken {
                Some((_, node)) => {
                    members.extend(self.body(node).map(|tree| ((*parameter).to_owned(), tree)));
                }
                None if kind.needs().contains(parameter) => {
                    let message = format!("{owner} does not say its `{parameter}`");
                    let help = format!("with = {{ {parameter} = \"{{{{ … }}}}\" }}");
                    self.report.error("type/missing-key", &name.span, message, Some(help));
                }
                None => {}
            }
        }
        if let Some(mut with) = with {
            if kind == BuiltInKind::InventoryReserve {
                hold = with.duration("hold", self.report);
                if hold.is_some_and(|hold| hold.is_zero() || hold > HOLD_MAX) {
                    let message = "`hold` must be longer than nothing and at most a year";
                    self.report.error("type/bad-duration", with.span(), message, None);
                }
            }
            with.finish(&[], self.report);
        }
        Some(Action::BuiltIn(Box::new(BuiltIn {
            kind,
            with: TemplateTree::Object(members),
            hold,
        })))
    }
}
