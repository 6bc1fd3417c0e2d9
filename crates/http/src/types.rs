//! `/v1/order-types`: which types there are, and what each asks for.

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use comanda_order_type::Definition;
use serde_json::{Value, json};

use crate::App;
use crate::access::Caller;
use crate::keys::Scope;
use crate::problem::Problem;
use crate::respond::json_response;

pub(crate) async fn list(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let items: Vec<Value> = app
        .service
        .registry()
        .all()
        .iter()
        .map(|definition| summary(definition))
        .collect();
    Ok(json_response(StatusCode::OK, &json!({"items": items})))
}

pub(crate) async fn one(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Read)?;
    let Some(definition) = app.service.registry().current(&name) else {
        let nearest = app
            .service
            .registry()
            .nearest(&name)
            .map(|name| format!("; did you mean `{name}`?"));
        let detail = format!("there is no order type `{name}`{}", nearest.unwrap_or_default());
        return Err(Problem::new("unknown-type", detail));
    };
    let mut answer = summary(&definition);
    answer["schema"] = definition.schema.json().clone();
    answer["map"] = json!(definition.mermaid());
    answer["sample"] = definition.sample();
    answer["steps"] = json!(definition.order_type.steps.iter().map(|(name, step)| {
        json!({"name": name, "kind": step.action.kind(), "attempts": step.retry.attempts, "undo": step.undo.is_some()})
    }).collect::<Vec<_>>());
    Ok(json_response(StatusCode::OK, &answer))
}

fn summary(definition: &Definition) -> Value {
    let order_type = &definition.order_type;
    let statuses: Vec<Value> = order_type
        .statuses
        .iter()
        .map(|(name, status)| json!({"name": name, "final": status.is_final, "steps": status.steps, "to": status.to}))
        .collect();
    json!({"name": order_type.name, "hash": order_type.hash, "language": order_type.language, "statuses": statuses})
}
