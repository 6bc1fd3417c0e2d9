//! `comanda submit`: one order.

use http::HeaderName;
use http::StatusCode;
use serde_json::{Map, Value};

use super::{read_json, work_text};
use crate::cli::Submit;
use crate::failure::Failure;
use crate::output::{Output, cell};
use crate::remote::Remote;

pub(super) async fn run(remote: &Remote, args: Submit, output: &mut Output) -> Result<(), Failure> {
    let data = read_json(args.file.as_deref())?;
    let mut body = Map::new();
    body.insert("type".to_owned(), Value::from(args.order_type));
    for (name, value) in [("key", args.key), ("status", args.status), ("dueAt", args.due_at)] {
        if let Some(value) = value {
            body.insert(name.to_owned(), Value::from(value));
        }
    }
    body.insert("data".to_owned(), data);
    let mut headers = Vec::new();
    if let Some(key) = &args.idempotency_key {
        headers.push((HeaderName::from_static("idempotency-key"), format!("\"{key}\"")));
    }
    if let Some(seconds) = args.wait {
        headers.push((HeaderName::from_static("prefer"), format!("wait={seconds}")));
    }
    let answer = remote.post("/v1/orders", &Value::Object(body), &headers).await?;
    let order = &answer.body;
    if output.is_json() {
        output.json(order)?;
    } else {
        // The id goes to stdout alone, so that a script can keep it.
        output.line(&cell(&order["id"]))?;
        let replayed = if answer.headers.contains_key("idempotency-replayed") {
            " (submitted before)"
        } else {
            ""
        };
        eprintln!(
            "{} is {}: {}{replayed}",
            cell(&order["type"]),
            cell(&order["status"]),
            work_text(order)
        );
    }
    if args.wait.is_some() && answer.status == StatusCode::ACCEPTED {
        eprintln!(
            "It is accepted but not final yet. Look again: comanda get {}",
            cell(&order["id"])
        );
    }
    Ok(())
}
