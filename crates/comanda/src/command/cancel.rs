//! `comanda cancel`.

use serde_json::{Map, Value};

use super::work_text;
use crate::cli::Cancel;
use crate::failure::Failure;
use crate::output::{Output, cell};
use crate::remote::{Remote, segment};

pub(super) async fn run(remote: &Remote, args: Cancel, output: &mut Output) -> Result<(), Failure> {
    let mut body = Map::new();
    if let Some(reason) = args.reason {
        body.insert("reason".to_owned(), Value::from(reason));
    }
    let path = format!("/v1/orders/{}/cancel", segment(&args.id));
    let order = remote.post(&path, &Value::Object(body), &[]).await?.body;
    if output.is_json() {
        return Ok(output.json(&order)?);
    }
    // While an attempt is in flight the cancel is only noted: the order moves when the attempt has ended.
    Ok(output.line(&format!(
        "{} is {}: {}",
        cell(&order["id"]),
        cell(&order["status"]),
        work_text(&order)
    ))?)
}
