//! Which environment variables an order type reads: a program gives its steps these, and no others.

use std::collections::BTreeSet;

use comanda_model::OrderType;
use comanda_model::order_type::{Action, Step};

/// The environment variables that a type's templates read.
pub fn environment_names(order_type: &OrderType) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for step in order_type.steps.values() {
        step_names(step, &mut names);
    }
    names
}

fn step_names(step: &Step, names: &mut BTreeSet<String>) {
    let call = match &step.action {
        Action::Http(call) => Some(call),
        _ => None,
    };
    for call in call.into_iter().chain(&step.unknown) {
        let headers = call.headers.iter().flat_map(|(_, template)| template.names());
        let body = call.body.iter().flat_map(|body| body.names());
        let auth = call.auth.iter().flat_map(|auth| {
            let needed = [&auth.token_url, &auth.client_id, &auth.client_secret];
            needed.into_iter().chain(&auth.scope)
        });
        let settings = auth.chain(&call.sign).flat_map(|template| template.names());
        let all = call.url.names().into_iter().chain(headers).chain(body).chain(settings);
        names.extend(all.filter_map(|name| {
            let rest = name.strip_prefix("env.")?;
            Some(rest.split('.').next().unwrap_or(rest).to_owned())
        }));
    }
    let with = match &step.action {
        Action::BuiltIn(built_in) => Some(&built_in.with),
        Action::Rust(rust) => Some(&rust.with),
        _ => None,
    };
    if let Some(with) = with {
        names.extend(with.names().iter().filter_map(|name| {
            let rest = name.strip_prefix("env.")?;
            Some(rest.split('.').next().unwrap_or(rest).to_owned())
        }));
    }
    if let Some(undo) = &step.undo {
        step_names(undo, names);
    }
}
