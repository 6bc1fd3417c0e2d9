//! `comanda queues`: how much stands in them, their dead letters, and a worker's three requests by hand.

use serde_json::{Value, json};

use super::list::pages;
use crate::cli::{QueueChoice, QueueClaim, QueueCommand, QueueDeadLetters, QueueFail, Queues};
use crate::failure::Failure;
use crate::output::{Output, cell};
use crate::remote::{Remote, segment};

/// How many dead letters one request moves.
const IDS_PER_REQUEST: usize = 1000;

pub(super) async fn run(remote: &Remote, args: Queues, output: &mut Output) -> Result<(), Failure> {
    match args.command {
        None | Some(QueueCommand::List) => list(remote, output).await,
        Some(QueueCommand::Show { name }) => show(remote, &name, output).await,
        Some(QueueCommand::Claim(args)) => claim(remote, args, output).await,
        Some(QueueCommand::Complete { token, result }) => complete(remote, token, result, output).await,
        Some(QueueCommand::Fail(args)) => fail(remote, args, output).await,
        Some(QueueCommand::DeadLetters(QueueDeadLetters::List { name, limit })) => {
            dead_letters(remote, &name, limit, output).await
        }
        Some(QueueCommand::DeadLetters(QueueDeadLetters::Redrive(choice))) => {
            move_dead(remote, choice, "redrive", "redriven", output).await
        }
        Some(QueueCommand::DeadLetters(QueueDeadLetters::Discard(choice))) => {
            move_dead(remote, choice, "discard", "discarded", output).await
        }
    }
}

/// A queue's route.
fn path(name: &str, rest: &str) -> String {
    format!("/v1/queues/{}{rest}", segment(name))
}

async fn list(remote: &Remote, output: &mut Output) -> Result<(), Failure> {
    let answer = remote.get("/v1/queues", &[]).await?.body;
    if output.is_json() {
        return Ok(output.json(&answer)?);
    }
    let row = |queue: &Value| {
        let members = ["name", "depth", "leased", "dead", "oldestAt"];
        members.iter().map(|member| cell(&queue[*member])).collect()
    };
    let rows = answer["items"].as_array().into_iter().flatten().map(row).collect();
    Ok(output.table(&["queue", "depth", "leased", "dead", "oldest since"], rows)?)
}

async fn show(remote: &Remote, name: &str, output: &mut Output) -> Result<(), Failure> {
    let queue = remote.get(&path(name, ""), &[]).await?.body;
    if output.is_json() {
        return Ok(output.json(&queue)?);
    }
    for (label, member) in [
        ("queue", "name"),
        ("depth", "depth"),
        ("leased", "leased"),
        ("dead", "dead"),
        ("oldest", "oldestAt"),
    ] {
        output.line(&format!("{label:<11} {}", cell(&queue[member])))?;
    }
    Ok(())
}

async fn claim(remote: &Remote, args: QueueClaim, output: &mut Output) -> Result<(), Failure> {
    let asked = json!({"max": args.max, "waitSeconds": args.wait, "leaseSeconds": args.lease});
    let answer = remote.post(&path(&args.name, "/claims"), &asked, &[]).await?.body;
    if output.is_json() {
        return Ok(output.json(&answer)?);
    }
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |item: &Value| {
        let members = [
            "token",
            "orderId",
            "orderType",
            "status",
            "step",
            "attempt",
            "leaseUntil",
        ];
        members.iter().map(|member| cell(&item[*member])).collect()
    };
    let header = ["token", "order", "type", "status", "step", "attempt", "until"];
    output.table(&header, items.iter().map(row).collect())?;
    if items.is_empty() {
        eprintln!("Nothing can be claimed now.");
    }
    Ok(())
}

async fn complete(remote: &Remote, token: String, result: Option<String>, output: &mut Output) -> Result<(), Failure> {
    let mut item = json!({"token": token});
    if let Some(result) = result {
        item["result"] = serde_json::from_str(&result).map_err(|source| Failure::Json {
            path: "--result".to_owned(),
            source,
        })?;
    }
    answer(remote, "/v1/claims/complete", item, output).await
}

async fn fail(remote: &Remote, args: QueueFail, output: &mut Output) -> Result<(), Failure> {
    let kind = if args.refuse { "refuse" } else { "retry" };
    let mut item = json!({"token": args.token, "kind": kind, "reason": args.reason});
    if let Some(delay) = args.delay {
        item["delaySeconds"] = delay.into();
    }
    answer(remote, "/v1/claims/fail", item, output).await
}

/// Sends one answer about claimed work, and fails unless it counts.
async fn answer(remote: &Remote, path: &str, item: Value, output: &mut Output) -> Result<(), Failure> {
    let answer = remote.post(path, &json!({"items": [item]}), &[]).await?.body;
    let outcome = &answer["items"][0];
    if output.is_json() {
        output.json(outcome)?;
    } else {
        output.line(&cell(&outcome["status"]))?;
    }
    if outcome["status"] == "done" {
        return Ok(());
    }
    if outcome["status"] == "stale" {
        eprintln!("The token does not hold the work, or no longer: nothing was changed.");
    } else {
        eprintln!("{}", cell(&outcome["problem"]["detail"]));
    }
    Err(Failure::Reported)
}

async fn dead_letters(remote: &Remote, name: &str, limit: u64, output: &mut Output) -> Result<(), Failure> {
    let (items, next) = pages(remote, &path(name, "/dead-letters"), &[], limit, None).await?;
    if output.is_json() {
        return Ok(output.json(&json!({"items": items, "nextCursor": next}))?);
    }
    let row = |item: &Value| {
        let members = ["diedAt", "id", "orderId", "status", "attempts", "reason"];
        members.iter().map(|member| cell(&item[*member])).collect()
    };
    let header = ["since", "id", "order", "status", "attempts", "reason"];
    output.table(&header, items.iter().map(row).collect())?;
    if next.is_some() {
        eprintln!("There are more: --limit");
    }
    Ok(())
}

async fn move_dead(
    remote: &Remote,
    choice: QueueChoice,
    act: &str,
    done: &str,
    output: &mut Output,
) -> Result<(), Failure> {
    // All are looked up first: what dies again meanwhile is not moved twice.
    let ids = if choice.all {
        let (items, _) = pages(remote, &path(&choice.name, "/dead-letters"), &[], u64::MAX, None).await?;
        items.iter().filter_map(|item| item["id"].as_u64()).collect()
    } else {
        choice.ids
    };
    let mut changed = 0;
    for ids in ids.chunks(IDS_PER_REQUEST) {
        let route = path(&choice.name, &format!("/dead-letters/{act}"));
        let answer = remote.post(&route, &json!({"ids": ids}), &[]).await?.body;
        changed += answer["changed"].as_u64().unwrap_or(0);
    }
    if output.is_json() {
        output.json(&json!({"matched": ids.len(), "changed": changed}))?;
    } else {
        output.line(&format!("{changed} {done}"))?;
    }
    if changed < ids.len() as u64 {
        eprintln!(
            "{} are no dead letters of this queue (any more).",
            ids.len() as u64 - changed
        );
        return Err(Failure::Reported);
    }
    Ok(())
}
