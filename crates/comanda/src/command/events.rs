//! `comanda events`: what happened, and, with `--follow`, what happens.

use std::time::Duration;

use serde_json::{Value, json};

use super::get::{event_row, events_table};
use super::list::PAGE_MAX;
use crate::cli::Events;
use crate::failure::Failure;
use crate::output::Output;
use crate::remote::{LiveEvents, Remote, RemoteError, segment};

pub(super) async fn run(remote: Remote, args: Events, output: &mut Output) -> Result<(), Failure> {
    let path = match &args.id {
        Some(id) => format!("/v1/orders/{}/events", segment(id)),
        None => "/v1/events".to_owned(),
    };
    if args.follow {
        return follow(remote, args, path, output).await;
    }
    let (events, next) = read(&remote, &path, &args.filter(), args.limit, args.cursor).await?;
    if output.is_json() {
        return Ok(output.json(&json!({"items": events, "nextCursor": next}))?);
    }
    events_table(&Value::Array(events), output)
}

async fn follow(remote: Remote, args: Events, path: String, output: &mut Output) -> Result<(), Failure> {
    let mut events = LiveEvents::new(remote.clone(), path, args.filter(), args.cursor);
    loop {
        while let Some(event) = events.next().await? {
            if event.name.as_deref() == Some("reset") {
                eprintln!(
                    "The store is not the one that this cursor is from: beginning at the oldest event that is kept"
                );
                continue;
            }
            if output.is_json() {
                output.line(&event.data.to_string())?;
            } else {
                output.line(&event_row(&event.data).join("  "))?;
            }
        }
        // An order's stream ends with the order; any other end is the server's, which may come back.
        if let Some(id) = &args.id {
            let order = remote.get(&format!("/v1/orders/{}", segment(id)), &[]).await;
            if order.is_ok_and(|order| order.body["final"] == true) {
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        events.reopen();
    }
}

/// Reads events that there are. The feed names a cursor with every page, also with an empty one: it is where to go on
/// later.
async fn read(
    remote: &Remote,
    path: &str,
    filter: &[(&'static str, String)],
    limit: u64,
    mut cursor: Option<String>,
) -> Result<(Vec<Value>, Option<String>), RemoteError> {
    let mut events = Vec::new();
    loop {
        let left = limit - events.len() as u64;
        let mut query = vec![
            ("limit", Some(left.min(PAGE_MAX).to_string())),
            ("cursor", cursor.clone()),
        ];
        query.extend(filter.iter().map(|(name, value)| (*name, Some(value.clone()))));
        let mut page = remote.get(path, &query).await?.body;
        let items = match page["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        events.extend(items);
        let next = page["nextCursor"].as_str().map(str::to_owned);
        // A page without anything that the filter lets through is not the last one.
        let more = next.is_some() && next != cursor && (events.len() as u64) < limit;
        if next.is_some() {
            cursor = next;
        }
        if !more {
            return Ok((events, cursor));
        }
    }
}
