//! `comanda subscriptions`: who is sent which events, and what was sent.

use serde_json::{Map, Value, json};

use super::list::pages;
use crate::cli::{NewSubscription, ResendEvents, Subscriptions};
use crate::failure::Failure;
use crate::output::{Output, cell};
use crate::remote::{Remote, segment};

const PATH: &str = "/v1/subscriptions";

pub(super) async fn run(remote: &Remote, command: Subscriptions, output: &mut Output) -> Result<(), Failure> {
    let act = |id: &str, act: &str| format!("{PATH}/{}/{act}", segment(id));
    match command {
        Subscriptions::List => list(remote, output).await,
        Subscriptions::Create(args) => create(remote, args, output).await,
        Subscriptions::Show { id } => {
            let one = remote.get(&format!("{PATH}/{}", segment(&id)), &[]).await?.body;
            show(&one, output)
        }
        Subscriptions::Pause { id } => show(&remote.post(&act(&id, "pause"), &json!({}), &[]).await?.body, output),
        Subscriptions::Resume { id } => show(&remote.post(&act(&id, "resume"), &json!({}), &[]).await?.body, output),
        Subscriptions::RotateSecret { id, keep_seconds } => {
            let body = keep_seconds.map_or_else(|| json!({}), |keep| json!({"keepSeconds": keep}));
            show(&remote.post(&act(&id, "rotate-secret"), &body, &[]).await?.body, output)
        }
        Subscriptions::Deliveries { id, limit } => deliveries(remote, &id, limit, output).await,
        Subscriptions::Resend(args) => resend(remote, &args, output).await,
        Subscriptions::Delete { id } => {
            remote.delete(&format!("{PATH}/{}", segment(&id))).await?;
            Ok(output.line(&format!("{} is deleted", crate::output::clean(&id)))?)
        }
    }
}

async fn list(remote: &Remote, output: &mut Output) -> Result<(), Failure> {
    let answer = remote.get(PATH, &[]).await?.body;
    if output.is_json() {
        return Ok(output.json(&answer)?);
    }
    let row = |one: &Value| {
        ["id", "name", "state", "url", "reason"]
            .map(|member| cell(&one[member]))
            .to_vec()
    };
    let rows = answer["items"].as_array().into_iter().flatten().map(row).collect();
    Ok(output.table(&["id", "name", "state", "url", "reason"], rows)?)
}

async fn create(remote: &Remote, args: NewSubscription, output: &mut Output) -> Result<(), Failure> {
    let mut body = Map::new();
    body.insert("url".to_owned(), json!(args.target));
    body.insert("name".to_owned(), json!(args.name.unwrap_or_default()));
    let filter = json!({
        "types": args.order_types, "statuses": args.statuses, "events": args.events, "customers": args.customers,
    });
    body.insert("filter".to_owned(), filter);
    if args.include_order {
        body.insert("include".to_owned(), json!("order"));
    }
    if args.from_oldest {
        body.insert("from".to_owned(), json!("oldest"));
    }
    if args.ed25519 {
        body.insert("signature".to_owned(), json!("ed25519"));
    }
    if let Some(concurrency) = args.concurrency {
        body.insert("concurrency".to_owned(), json!(concurrency));
    }
    if let Some(ordering) = &args.ordering {
        body.insert("ordering".to_owned(), json!(ordering));
    }
    show(&remote.post(PATH, &Value::Object(body), &[]).await?.body, output)
}

fn show(one: &Value, output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        return Ok(output.json(one)?);
    }
    let members = [
        "id",
        "name",
        "url",
        "state",
        "reason",
        "include",
        "signature",
        "concurrency",
        "ordering",
        "failingOrders",
        "createdAt",
    ];
    for member in members {
        if !one[member].is_null() {
            output.line(&format!("{member:<14}{}", cell(&one[member])))?;
        }
    }
    for (name, chosen) in one["filter"].as_object().into_iter().flatten() {
        let chosen: Vec<_> = chosen.as_array().into_iter().flatten().map(cell).collect();
        if !chosen.is_empty() {
            output.line(&format!("{name:<14}{}", chosen.join(", ")))?;
        }
    }
    if !one["secret"].is_null() {
        output.line(&format!("{:<14}{}", "secret", cell(&one["secret"])))?;
        eprintln!("Keep the secret: it is not shown again. The receiver verifies signatures with it.");
    }
    Ok(())
}

async fn deliveries(remote: &Remote, id: &str, limit: u64, output: &mut Output) -> Result<(), Failure> {
    let path = format!("{PATH}/{}/deliveries", segment(id));
    let (log, next) = pages(remote, &path, &[], limit, None).await?;
    if output.is_json() {
        return Ok(output.json(&json!({"items": log, "nextCursor": next}))?);
    }
    let row = |one: &Value| {
        [
            "at",
            "event",
            "type",
            "attempt",
            "delivered",
            "status",
            "tookMs",
            "reason",
        ]
        .map(|member| cell(&one[member]))
        .to_vec()
    };
    let head = ["at", "event", "type", "attempt", "delivered", "status", "ms", "reason"];
    Ok(output.table(&head, log.iter().map(row).collect())?)
}

async fn resend(remote: &Remote, args: &ResendEvents, output: &mut Output) -> Result<(), Failure> {
    let mut body = Map::new();
    for (member, value) in [("event", &args.event), ("since", &args.since), ("until", &args.until)] {
        if let Some(value) = value {
            body.insert(member.to_owned(), json!(value));
        }
    }
    let path = format!("{PATH}/{}/resend", segment(&args.id));
    let answer = remote.post(&path, &Value::Object(body), &[]).await?.body;
    if output.is_json() {
        return Ok(output.json(&answer)?);
    }
    output.line(&format!("events of {} orders are sent again", cell(&answer["orders"])))?;
    if answer["more"] == json!(true) {
        eprintln!("There are more than one call takes: once more with a later --since.");
    }
    Ok(())
}
