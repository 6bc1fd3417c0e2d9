//! `comanda intake`: where orders come from besides the API, and the messages that none could be made of.

use serde_json::{Value, json};

use crate::cli::{IntakeChoice, IntakeCommand};
use crate::failure::Failure;
use crate::output::{Output, cell};
use crate::remote::{Remote, segment};

pub(super) async fn run(remote: &Remote, command: IntakeCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        IntakeCommand::List => list(remote, output).await,
        IntakeCommand::Rejected { name } => rejected(remote, &name, output).await,
        IntakeCommand::Retry(choice) => retry(remote, choice, output).await,
        IntakeCommand::Discard(choice) => discard(remote, choice, output).await,
    }
}

async fn list(remote: &Remote, output: &mut Output) -> Result<(), Failure> {
    let members = ["name", "kind", "type", "accepted", "repeated", "rejected", "lastError"];
    let header = [
        "source",
        "kind",
        "type",
        "accepted",
        "repeated",
        "rejected",
        "waits because",
    ];
    let answer = remote.get("/v1/intake", &[]).await?.body;
    table(&answer, &members, &header, output)
}

async fn rejected(remote: &Remote, name: &str, output: &mut Output) -> Result<(), Failure> {
    let path = format!("/v1/intake/{}/rejected", segment(name));
    let answer = remote.get(&path, &[]).await?.body;
    table(
        &answer,
        &["at", "id", "bytes", "reason"],
        &["tried", "message", "bytes", "reason"],
        output,
    )
}

fn table(answer: &Value, members: &[&str], header: &[&str], output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(answer)?);
    }
    let row = |item: &Value| members.iter().map(|member| cell(&item[*member])).collect();
    let rows = answer["items"].as_array().into_iter().flatten().map(row).collect();
    Ok(output.table(header, rows)?)
}

async fn retry(remote: &Remote, choice: IntakeChoice, output: &mut Output) -> Result<(), Failure> {
    let path = format!("/v1/intake/{}/retry", segment(&choice.name));
    let answer = remote.post_slowly(&path, &which(&choice)?).await?.body;
    let still: Vec<&Value> = answer["rejected"].as_array().into_iter().flatten().collect();
    for one in &still {
        eprintln!("{}: {}", cell(&one["id"]), cell(&one["reason"]));
    }
    if output.is_json() {
        output.json(&answer)?;
    } else {
        output.line(&format!(
            "{} accepted, {} rejected again",
            answer["accepted"],
            still.len()
        ))?;
    }
    if still.is_empty() {
        Ok(())
    } else {
        Err(Failure::Reported)
    }
}

async fn discard(remote: &Remote, choice: IntakeChoice, output: &mut Output) -> Result<(), Failure> {
    let path = format!("/v1/intake/{}/discard", segment(&choice.name));
    let answer = remote.post(&path, &which(&choice)?, &[]).await?.body;
    if output.is_json() {
        return Ok(output.json(&answer)?);
    }
    Ok(output.line(&format!("{} discarded", answer["discarded"]))?)
}

fn which(choice: &IntakeChoice) -> Result<Value, Failure> {
    if choice.ids.is_empty() && !choice.all {
        return Err(Failure::Usage("say which messages: their ids, or --all".to_owned()));
    }
    Ok(json!({"ids": choice.ids, "all": choice.all}))
}
