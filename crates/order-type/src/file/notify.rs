//! Reads who is told of what happens: `notify = ["customer"]` in a status or in `exhausted`, and `[notify]`, where the
//! data says how.

use comanda_model::order_type::Notify;

use crate::diagnostic::{Report, did_you_mean};
use crate::fields::Fields;
use crate::tree::{Located, Span};

/// Whom a type can have told.
const PARTIES: [&str; 1] = ["customer"];

/// `notify = ["customer"]`: its place if the customer is named.
pub(super) fn parties(fields: &mut Fields<'_>, report: &mut Report<'_>) -> Option<Span> {
    let named = fields.texts("notify", report);
    for party in &named {
        if !PARTIES.contains(&party.value.as_str()) {
            let message = format!("`notify` cannot tell \"{}\"", party.value);
            let help = did_you_mean(&party.value, PARTIES)
                .or_else(|| Some("it tells \"customer\"; others subscribe: docs/subscriptions.md".to_owned()));
            report.error("type/unknown-value", &party.span, message, help);
        }
    }
    named
        .into_iter()
        .find(|party| party.value == "customer")
        .map(|party| party.span)
}

/// `[notify]`.
pub(super) fn place(
    fields: &mut Fields<'_>,
    pointers: &mut Vec<Located<String>>,
    report: &mut Report<'_>,
) -> Option<(Notify, Span)> {
    let (key, node) = fields.take("notify")?;
    let mut inner = Fields::of(node, &key.span, "[notify]", report)?;
    if inner.take("email").is_none() {
        inner.missing("email", report);
    }
    let email = inner.pointer("email", report);
    let language = inner.pointer("language", report);
    inner.finish(&[], report);
    pointers.extend([&email, &language].into_iter().flatten().cloned());
    let notify = Notify {
        email: email?.value,
        language: language.map(|pointer| pointer.value),
    };
    Some((notify, key.span.clone()))
}
