//! `comanda get`: one order, and on request its history.

use serde_json::{Value, json};

use super::work_text;
use crate::cli::Get;
use crate::failure::Failure;
use crate::output::{Output, cell, clean};
use crate::remote::{Remote, segment};

pub(super) async fn run(remote: &Remote, args: Get, output: &mut Output) -> Result<(), Failure> {
    let path = format!("/v1/orders/{}", segment(&args.id));
    let mut order = remote
        .get(&path, &[("wait", args.wait.map(|seconds| seconds.to_string()))])
        .await?
        .body;
    let history = if args.history {
        let limit = || [("limit", Some("500".to_owned()))];
        let events = remote.get(&format!("{path}/events"), &limit()).await?.body;
        let attempts = remote.get(&format!("{path}/attempts"), &limit()).await?.body;
        Some((events["items"].clone(), attempts["items"].clone()))
    } else {
        None
    };
    if output.is_json() {
        if let Some((events, attempts)) = history {
            order = json!({"order": order, "events": events, "attempts": attempts});
        }
        return Ok(output.json(&order)?);
    }
    show(&order, output)?;
    if let Some((events, attempts)) = history {
        output.line("")?;
        events_table(&events, output)?;
        output.line("")?;
        attempts_table(&attempts, output)?;
    }
    Ok(())
}

/// Prints an order for people.
pub(super) fn show(order: &Value, output: &mut Output) -> Result<(), Failure> {
    let mut lines = vec![("id", cell(&order["id"]))];
    for (label, name) in [
        ("key", "key"),
        ("type", "type"),
        ("status", "status"),
        ("customer", "customer"),
        ("group", "group"),
    ] {
        if !order[name].is_null() {
            lines.push((label, cell(&order[name])));
        }
    }
    lines.push((
        "work",
        if order["final"] == true {
            "final".to_owned()
        } else {
            work_text(order)
        },
    ));
    for (label, value) in [
        ("due", &order["work"]["dueAt"]),
        ("last error", &order["work"]["lastError"]),
    ] {
        if !value.is_null() {
            lines.push((label, cell(value)));
        }
    }
    lines.push(("accepted", cell(&order["acceptedAt"])));
    lines.push((
        "updated",
        format!("{} (version {})", cell(&order["updatedAt"]), order["version"]),
    ));
    for (label, value) in lines {
        output.buffered_line(&format!("{label:<12}{value}"))?;
    }
    for name in ["data", "results"] {
        let value = &order[name];
        if value.as_object().is_some_and(|members| !members.is_empty()) {
            let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
            output.buffered_line(&format!("{name}:"))?;
            output.buffered_line(&text)?;
        }
    }
    Ok(output.flush()?)
}

/// Prints CloudEvents as a table.
pub(super) fn events_table(events: &Value, output: &mut Output) -> Result<(), Failure> {
    let rows = events.as_array().into_iter().flatten().map(event_row).collect();
    Ok(output.table(&["time", "order", "event", "status", "by", "reason"], rows)?)
}

/// One CloudEvent as the cells of a row.
pub(super) fn event_row(event: &Value) -> Vec<String> {
    let data = &event["data"];
    let kind = event["type"].as_str().unwrap_or_default();
    let status = match (data["from"].as_str(), data["to"].as_str()) {
        (Some(from), Some(to)) => format!("{from} → {to}"),
        (None, Some(to)) => to.to_owned(),
        _ => "-".to_owned(),
    };
    vec![
        cell(&event["time"]),
        cell(&event["subject"]),
        clean(kind.strip_prefix("comanda.order.").unwrap_or(kind)),
        clean(&status),
        cell(&data["by"]),
        cell(&data["reason"]),
    ]
}

/// Prints attempts as a table.
pub(super) fn attempts_table(attempts: &Value, output: &mut Output) -> Result<(), Failure> {
    let row = |attempt: &Value| {
        let undo = if attempt["undo"] == true { " (undo)" } else { "" };
        vec![
            cell(&attempt["startedAt"]),
            format!("{}{undo}", cell(&attempt["step"])),
            format!("{}.{}", cell(&attempt["visit"]), cell(&attempt["attempt"])),
            cell(&attempt["outcome"]),
            format!("{} ms", cell(&attempt["durationMs"])),
            cell(&attempt["reason"]),
        ]
    };
    let rows = attempts.as_array().into_iter().flatten().map(row).collect();
    Ok(output.table(&["started", "step", "visit.attempt", "outcome", "took", "reason"], rows)?)
}
