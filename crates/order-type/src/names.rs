//! Checks the names that conditions and templates read: steps that have run by then, data that the schema has,
//! environment variables and secrets that exist.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::definition::Known;
use crate::diagnostic::{Report, did_you_mean};
use crate::file::{File, Use, UseIn};
use crate::pointer::token;
use crate::schema::lacks;

/// What conditions and templates see of an order.
const OF_ORDER: [&str; 7] = ["data", "steps", "id", "key", "customer", "type", "status"];
/// What outbound calls see besides; `callback.url` is where the result of a call may be sent later.
const OF_SETTINGS: [&str; 3] = ["env", "secret", "callback"];
/// Functions that every expression may call.
const FUNCTIONS: [&str; 4] = ["range", "dict", "namespace", "debug"];

/// Checks one name. `run` is the steps that may have run when it is read.
pub(crate) fn check(
    used: &Use,
    run: &BTreeSet<&str>,
    file: &File,
    schema: Option<&Value>,
    known: &Known,
    report: &mut Report<'_>,
) {
    let mut parts = used.name.split('.');
    let root = parts.next().unwrap_or_default();
    let member = parts.next();
    let calls = matches!(used.within, UseIn::Call | UseIn::Undo);
    match (root, member) {
        ("steps", Some(step)) => check_step(used, step, run, file, report),
        ("data", Some(_)) => {
            let pointer: String = used.name.split('.').skip(1).map(token).collect();
            if let Some(lack) = schema.and_then(|schema| lacks(schema, &pointer)) {
                let message = format!("`{}` is read, but the schema has no `{}`", used.name, lack.token);
                let help = did_you_mean(&lack.token, lack.known.iter().map(String::as_str));
                report.error("type/unknown-field", &used.span, message, help);
            }
        }
        ("env", Some(name)) if calls => missing(used, "environment variable", name, &known.env, known, report),
        ("secret", Some(name)) if calls => missing(used, "secret", name, &known.secrets, known, report),
        (root, _) if OF_ORDER.contains(&root) || FUNCTIONS.contains(&root) => {}
        (root, _) if calls && OF_SETTINGS.contains(&root) => {}
        ("callback", _) if !calls => {
            let message = format!("`{}` cannot be read in a condition", used.name);
            report.error("type/unknown-name", &used.span, message, None);
        }
        (root, _) if OF_SETTINGS.contains(&root) => {
            let message = format!("`{}` cannot be read in a condition", used.name);
            let help = "conditions see only the order, so that they decide the same on every node".to_owned();
            report.error("type/unknown-name", &used.span, message, Some(help));
        }
        (root, _) => {
            let settings = if calls { OF_SETTINGS.as_slice() } else { &[] };
            let names = OF_ORDER.iter().chain(settings).copied();
            let message = format!("there is no `{root}` to read");
            report.error("type/unknown-name", &used.span, message, did_you_mean(root, names));
        }
    }
}

fn check_step(used: &Use, step: &str, run: &BTreeSet<&str>, file: &File, report: &mut Report<'_>) {
    let names = file.steps.iter().map(|step| step.name.value.as_str());
    if !names.clone().any(|name| name == step) {
        let message = format!("`{}` is read, but there is no step `{step}`", used.name);
        report.error("type/unknown-step", &used.span, message, did_you_mean(step, names));
    } else if !run.contains(step) {
        let message = format!("`{}` is read before the step `{step}` has run", used.name);
        report.error("type/step-not-run", &used.span, message, None);
    }
}

fn missing(used: &Use, what: &str, name: &str, there: &BTreeSet<String>, known: &Known, report: &mut Report<'_>) {
    if there.contains(name) {
        return;
    }
    let code = if what == "secret" {
        "type/missing-secret"
    } else {
        "type/missing-env"
    };
    let message = format!("the {what} `{name}` is not set");
    let help = crate::diagnostic::nearest(name, there.iter().map(String::as_str))
        .map(|near| format!("did you mean \"{near}\"?"));
    if known.missing_is_error {
        report.error(code, &used.span, message, help);
    } else {
        report.warning(code, &used.span, message, help);
    }
}
