//! `comanda approve` and `comanda reject`.

use serde_json::{Map, Value};

use super::work_text;
use crate::cli::{Approve, Reject};
use crate::failure::Failure;
use crate::output::{Output, cell};
use crate::remote::{Remote, segment};

pub(super) async fn approve(remote: &Remote, args: Approve, output: &mut Output) -> Result<(), Failure> {
    answer(remote, &args.id, "approve", args.reason, output).await
}

pub(super) async fn reject(remote: &Remote, args: Reject, output: &mut Output) -> Result<(), Failure> {
    answer(remote, &args.id, "reject", Some(args.reason), output).await
}

async fn answer(
    remote: &Remote,
    id: &str,
    verb: &str,
    reason: Option<String>,
    output: &mut Output,
) -> Result<(), Failure> {
    let body: Map<String, Value> = reason
        .map(|reason| ("reason".to_owned(), Value::from(reason)))
        .into_iter()
        .collect();
    let path = format!("/v1/orders/{}/{verb}", segment(id));
    let order = remote.post(&path, &Value::Object(body), &[]).await?.body;
    if output.is_json() {
        return Ok(output.json(&order)?);
    }
    Ok(output.line(&format!(
        "{} is {}: {}",
        cell(&order["id"]),
        cell(&order["status"]),
        work_text(&order)
    ))?)
}
