//! `comanda dead-letters`: look at them, put them back to work, give them up.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::get::{attempts_table, show};
use super::jobs::follow;
use super::list::pages;
use crate::cli::{DeadLetterChoice, DeadLetterList, DeadLetters, Discard, Redrive};
use crate::failure::Failure;
use crate::output::{Output, cell, clean};
use crate::remote::{Remote, segment};

/// How many orders one request names; a request handles at most a thousand.
const IDS_PER_REQUEST: usize = 1000;
/// How many orders one job names.
const IDS_PER_JOB: usize = 300;
/// How many refusals are listed.
const LISTED_MAX: usize = 100;

pub(super) async fn run(remote: &Remote, command: DeadLetters, output: &mut Output) -> Result<(), Failure> {
    match command {
        DeadLetters::List(args) => list(remote, args, output).await,
        DeadLetters::Show { id, .. } => one(remote, &id, output).await,
        DeadLetters::Causes => causes(remote, output).await,
        DeadLetters::Redrive(args) => redrive(remote, args, output).await,
        DeadLetters::Discard(args) => discard(remote, args, output).await,
    }
}

async fn list(remote: &Remote, args: DeadLetterList, output: &mut Output) -> Result<(), Failure> {
    let filters = [("type", args.order_type), ("cause", args.cause)];
    let (orders, next) = pages(remote, "/v1/dead-letters", &filters, args.limit, None).await?;
    if output.is_json() {
        return Ok(output.json(&json!({"items": orders, "nextCursor": next}))?);
    }
    let row = |item: &Value| {
        let (order, dead) = parts(item);
        vec![
            cell(&dead["at"]),
            cell(&order["id"]),
            cell(&order["type"]),
            cell(&order["status"]),
            cell(&dead["step"]),
            cell(&dead["reason"]),
        ]
    };
    output.table(
        &["since", "id", "type", "status", "step", "reason"],
        orders.iter().map(row).collect(),
    )?;
    if next.is_some() {
        eprintln!("There are more: --limit, or see: comanda dead-letters causes");
    }
    Ok(())
}

/// The order and why it is a dead letter, whether the reason stands in the order or beside it.
fn parts(item: &Value) -> (&Value, &Value) {
    let order = if item["order"].is_object() {
        &item["order"]
    } else {
        item
    };
    let dead = if item["deadLetter"].is_object() {
        &item["deadLetter"]
    } else {
        &order["deadLetter"]
    };
    (order, dead)
}

async fn one(remote: &Remote, id: &str, output: &mut Output) -> Result<(), Failure> {
    let item = remote
        .get(&format!("/v1/dead-letters/{}", segment(id)), &[])
        .await?
        .body;
    if output.is_json() {
        return Ok(output.json(&item)?);
    }
    print(&item, output)?;
    eprintln!("Put it back to work: comanda dead-letters redrive {id}");
    Ok(())
}

/// Prints a dead letter for people, wherever it was read from.
pub(super) fn print(item: &Value, output: &mut Output) -> Result<(), Failure> {
    let (order, dead) = parts(item);
    show(order, output)?;
    let cause = if dead["cause"].is_null() {
        &dead["step"]
    } else {
        &dead["cause"]
    };
    output.line(&format!("\ndied {} of {}", cell(&dead["at"]), cell(cause)))?;
    output.line(&format!("reason      {}\n", cell(&dead["reason"])))?;
    attempts_table(&item["attempts"], output)
}

async fn causes(remote: &Remote, output: &mut Output) -> Result<(), Failure> {
    let answer = remote.get("/v1/dead-letter-causes", &[]).await?.body;
    if output.is_json() {
        return Ok(output.json(&answer)?);
    }
    let row = |cause: &Value| {
        let kind = if cause["type"].is_null() {
            &cause["orderType"]
        } else {
            &cause["type"]
        };
        vec![
            cell(&cause["count"]),
            cell(kind),
            cell(&cause["cause"]),
            cell(&cause["example"]),
        ]
    };
    let rows = answer["items"].as_array().into_iter().flatten().map(row).collect();
    output.table(&["orders", "type", "cause", "for example"], rows)?;
    Ok(())
}

async fn redrive(remote: &Remote, args: Redrive, output: &mut Output) -> Result<(), Failure> {
    let mut body = Map::new();
    body.insert(
        "from".to_owned(),
        Value::from(if args.from_start { "start" } else { "failedStep" }),
    );
    body.insert(
        "typeVersion".to_owned(),
        Value::from(if args.current { "current" } else { "accepted" }),
    );
    body.insert("dryRun".to_owned(), Value::from(args.choice.dry_run));
    if let Some(patch) = &args.set {
        let patch: Value = serde_json::from_str(patch).map_err(|source| Failure::Json {
            path: "--set".to_owned(),
            source,
        })?;
        body.insert("data".to_owned(), patch);
    }
    if let Some(rate) = args.rate {
        body.insert("ratePerSecond".to_owned(), Value::from(rate));
        if !args.choice.dry_run {
            return at_a_rate(remote, &args.choice, body, output).await;
        }
    }
    sweep(
        remote,
        "/v1/dead-letters/redrive",
        &args.choice,
        body,
        "redriven",
        output,
    )
    .await
}

/// A bounded rate makes a job of it, which the server goes on with when this program is gone.
async fn at_a_rate(
    remote: &Remote,
    choice: &DeadLetterChoice,
    mut body: Map<String, Value>,
    output: &mut Output,
) -> Result<(), Failure> {
    for filter in filters(choice, IDS_PER_JOB)? {
        body.insert("filter".to_owned(), filter);
        let path = "/v1/dead-letters/redrive";
        let job = remote.post(path, &Value::Object(body.clone()), &[]).await?.body;
        eprintln!(
            "It goes on without this program too: comanda jobs show {}",
            cell(&job["id"])
        );
        follow(remote, job, output).await?;
    }
    Ok(())
}

async fn discard(remote: &Remote, args: Discard, output: &mut Output) -> Result<(), Failure> {
    let mut body = Map::new();
    body.insert("reason".to_owned(), Value::from(args.reason));
    body.insert("dryRun".to_owned(), Value::from(args.choice.dry_run));
    sweep(
        remote,
        "/v1/dead-letters/discard",
        &args.choice,
        body,
        "discarded",
        output,
    )
    .await
}

/// Asks again and again while there is more: each request handles a bounded number of orders.
async fn sweep(
    remote: &Remote,
    path: &str,
    choice: &DeadLetterChoice,
    body: Map<String, Value>,
    done: &str,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut total = Total::default();
    for filter in filters(choice, IDS_PER_REQUEST)? {
        let mut body = body.clone();
        body.insert("filter".to_owned(), filter);
        for round in 0.. {
            let answer = remote.post_slowly(path, &Value::Object(body.clone())).await?.body;
            if round == 0 {
                // What later rounds match is what this one left.
                total.matched += answer["matched"].as_u64().unwrap_or(0);
            }
            total.add(&answer);
            let more = answer["more"] == true;
            // A dry run changes nothing, and neither do orders that refuse: asking again would answer the same.
            if !more || choice.dry_run || answer["changed"].as_u64() == Some(0) {
                total.more |= more;
                break;
            }
            eprintln!("{} {done} so far", total.changed);
        }
    }
    total.tell(choice.dry_run, done, output)
}

/// What to choose by: one filter, or several where more orders are named than one request takes.
fn filters(choice: &DeadLetterChoice, ids_max: usize) -> Result<Vec<Value>, Failure> {
    if !choice.ids.is_empty() {
        return Ok(choice
            .ids
            .chunks(ids_max)
            .map(|ids| filter(choice, Some(ids)))
            .collect());
    }
    if choice.all || choice.order_type.is_some() || choice.cause.is_some() {
        return Ok(vec![filter(choice, None)]);
    }
    Err(Failure::Usage(
        "say which dead letters: their ids, --type, --cause, or --all".to_owned(),
    ))
}

fn filter(choice: &DeadLetterChoice, ids: Option<&[String]>) -> Value {
    let mut filter = Map::new();
    if let Some(ids) = ids {
        filter.insert("orderIds".to_owned(), json!(ids));
    }
    for (name, value) in [("type", &choice.order_type), ("cause", &choice.cause)] {
        if let Some(value) = value {
            filter.insert(name.to_owned(), Value::from(value.as_str()));
        }
    }
    Value::Object(filter)
}

#[derive(Default)]
struct Total {
    matched: u64,
    changed: u64,
    more: bool,
    /// What was left as it is, by order: one that refuses in every round is told once.
    refusals: BTreeMap<String, String>,
}

impl Total {
    fn add(&mut self, answer: &Value) {
        self.changed += answer["changed"].as_u64().unwrap_or(0);
        for item in answer["items"].as_array().into_iter().flatten() {
            if let Some(error) = item["error"].as_str().filter(|_| self.refusals.len() < LISTED_MAX) {
                self.refusals.insert(cell(&item["orderId"]), clean(error));
            }
        }
    }

    fn tell(self, dry_run: bool, done: &str, output: &mut Output) -> Result<(), Failure> {
        for (id, error) in &self.refusals {
            eprintln!("{id}: {error}");
        }
        if output.is_json() {
            let refused: Vec<Value> = self
                .refusals
                .iter()
                .map(|(id, error)| json!({"orderId": id, "error": error}))
                .collect();
            output.json(
                &json!({"matched": self.matched, "changed": self.changed, "dryRun": dry_run,
                "more": self.more, "refused": refused}),
            )?;
        } else if dry_run && self.more {
            output.line(&format!(
                "{} match; of those looked at, {} would be {done}",
                self.matched, self.changed
            ))?;
        } else if dry_run {
            output.line(&format!("{} would be {done}", self.changed))?;
        } else {
            output.line(&format!("{} {done}", self.changed))?;
        }
        let failed = !dry_run && (self.changed < self.matched || !self.refusals.is_empty());
        if failed { Err(Failure::Reported) } else { Ok(()) }
    }
}
