//! `comanda queues`: how much waits in each queue, is leased, and since when.

use serde_json::Value;

use crate::cli::{QueueCommand, Queues};
use crate::failure::Failure;
use crate::output::{Output, cell};
use crate::remote::{Remote, segment};

pub(super) async fn run(remote: &Remote, args: Queues, output: &mut Output) -> Result<(), Failure> {
    match args.command {
        None | Some(QueueCommand::List) => list(remote, output).await,
        Some(QueueCommand::Show { name }) => show(remote, &name, output).await,
    }
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
    let queue = remote.get(&format!("/v1/queues/{}", segment(name)), &[]).await?.body;
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
