//! `comanda list`: orders, newest first.

use serde_json::{Value, json};

use super::work_text;
use crate::cli::List;
use crate::failure::Failure;
use crate::output::{Output, cell};
use crate::remote::{Remote, RemoteError};

/// The largest page that a server gives.
pub(super) const PAGE_MAX: u64 = 500;

pub(super) async fn run(remote: &Remote, args: List, output: &mut Output) -> Result<(), Failure> {
    let filters = [
        ("type", args.order_type),
        ("status", args.status),
        ("customer", args.customer),
        ("group", args.group),
        ("acceptedAfter", args.accepted_after),
        ("acceptedBefore", args.accepted_before),
    ];
    let (orders, next) = pages(remote, "/v1/orders", &filters, args.limit, args.cursor).await?;
    if output.is_json() {
        return Ok(output.json(&json!({"items": orders, "nextCursor": next}))?);
    }
    let row = |order: &Value| {
        let mut row: Vec<String> = ["acceptedAt", "id", "type", "key", "status"]
            .iter()
            .map(|name| cell(&order[*name]))
            .collect();
        row.push(work_text(order));
        row
    };
    output.table(
        &["accepted", "id", "type", "key", "status", "work"],
        orders.iter().map(row).collect(),
    )?;
    if let Some(next) = next {
        eprintln!("There are more: --limit, or --cursor {next}");
    }
    Ok(())
}

/// Reads pages until `limit` orders are there or nothing is left. Pages can be short, even empty, and still go on.
pub(super) async fn pages(
    remote: &Remote,
    path: &str,
    filters: &[(&str, Option<String>)],
    limit: u64,
    mut cursor: Option<String>,
) -> Result<(Vec<Value>, Option<String>), RemoteError> {
    let mut items = Vec::new();
    loop {
        let left = limit - items.len() as u64;
        let mut query = filters.to_vec();
        query.push(("limit", Some(left.min(PAGE_MAX).to_string())));
        query.push(("cursor", cursor.take()));
        let mut page = remote.get(path, &query).await?.body;
        if let Value::Array(page) = page["items"].take() {
            items.extend(page);
        }
        cursor = page["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() || items.len() as u64 >= limit {
            return Ok((items, cursor));
        }
    }
}
