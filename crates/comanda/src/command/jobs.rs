//! `comanda erase` and `comanda jobs`: changes to many orders that the server makes in the background.

use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{Erase, Jobs};
use crate::failure::Failure;
use crate::output::{Output, cell, progress};
use crate::remote::{Remote, segment};

/// How often a job is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(250);

pub(super) async fn erase(remote: &Remote, args: Erase, output: &mut Output) -> Result<(), Failure> {
    if let Some(id) = &args.order {
        let order = remote
            .post(&format!("/v1/orders/{}/erase", segment(id)), &json!({}), &[])
            .await?
            .body;
        if output.is_json() {
            return Ok(output.json(&order)?);
        }
        return Ok(output.line("erased")?);
    }
    let customer = args.customer.unwrap_or_default();
    let body = json!({"cancelFirst": args.cancel_first, "dryRun": args.dry_run});
    let path = format!("/v1/customers/{}/erase", segment(&customer));
    let answer = remote.post_slowly(&path, &body).await?.body;
    if !args.dry_run {
        return follow(remote, answer, output).await;
    }
    if output.is_json() {
        return Ok(output.json(&answer)?);
    }
    output.line(&format!(
        "{} would be erased; {} of them are not final",
        cell(&answer["orders"]),
        cell(&answer["notFinal"])
    ))?;
    let row = |order: &Value| vec![cell(&order["orderId"]), cell(&order["status"])];
    let rows: Vec<_> = answer["notFinalOrders"]
        .as_array()
        .into_iter()
        .flatten()
        .map(row)
        .collect();
    if !rows.is_empty() {
        output.table(&["not final", "status"], rows)?;
    }
    Ok(())
}

pub(super) async fn run(remote: &Remote, command: Jobs, output: &mut Output) -> Result<(), Failure> {
    match command {
        Jobs::List => list(remote, output).await,
        Jobs::Show { id, wait } => {
            let job = find(remote, &id).await?;
            if wait {
                follow(remote, job, output).await
            } else {
                show(&job, output)
            }
        }
        Jobs::Stop { id } => {
            let job = remote
                .post(&format!("/v1/jobs/{}/stop", segment(&id)), &json!({}), &[])
                .await?
                .body;
            show(&job, output)
        }
    }
}

async fn find(remote: &Remote, id: &str) -> Result<Value, Failure> {
    Ok(remote.get(&format!("/v1/jobs/{}", segment(id)), &[]).await?.body)
}

/// Waits until a job has ended, and fails if it left anything as it was.
pub(super) async fn follow(remote: &Remote, mut job: Value, output: &mut Output) -> Result<(), Failure> {
    let id = cell(&job["id"]);
    let bar = progress(job["matched"].as_u64().unwrap_or(0), "orders");
    while job["state"] == "running" {
        tokio::time::sleep(ASK_EVERY).await;
        job = find(remote, &id).await?;
        bar.set_length(job["matched"].as_u64().unwrap_or(0));
        bar.set_position(job["changed"].as_u64().unwrap_or(0));
    }
    bar.finish_and_clear();
    show(&job, output)?;
    if job["state"] == "done" && job["skipped"] == 0 {
        Ok(())
    } else {
        Err(Failure::Reported)
    }
}

fn show(job: &Value, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(job)?);
    }
    for member in [
        "id",
        "kind",
        "state",
        "by",
        "createdAt",
        "updatedAt",
        "matched",
        "changed",
        "skipped",
    ] {
        output.line(&format!("{member:<11} {}", cell(&job[member])))?;
    }
    for failure in job["failures"].as_array().into_iter().flatten() {
        eprintln!("{}: {}", cell(&failure["orderId"]), cell(&failure["error"]));
    }
    Ok(())
}

async fn list(remote: &Remote, output: &mut Output) -> Result<(), Failure> {
    let answer = remote.get("/v1/jobs", &[]).await?.body;
    if output.is_json() {
        return Ok(output.json(&answer)?);
    }
    let row = |job: &Value| {
        let members = [
            "createdAt",
            "id",
            "kind",
            "state",
            "by",
            "matched",
            "changed",
            "skipped",
        ];
        members.iter().map(|member| cell(&job[*member])).collect()
    };
    let rows = answer["items"].as_array().into_iter().flatten().map(row).collect();
    let header = ["since", "id", "kind", "state", "by", "matched", "changed", "skipped"];
    Ok(output.table(&header, rows)?)
}
