//! A failed order as it stands in an archive: one JSON object, the dead letter as the API shows it and everything that
//! belongs to it, so that it can be read without the store.

use comanda_engine::{DeadLetterView, Found, Service};
use comanda_model::{Attempt, Event};
use comanda_store::{Store, StoreError};
use serde_json::{Value, json};

use super::key;
use crate::attempt::AttemptView;
use crate::event::CloudEvent;

/// How many are read at once.
const PAGE: usize = 500;
/// The newest of an order's events and attempts that are kept. An order that has more was redriven for weeks.
const KEPT_MAX: u64 = 10_000;

/// The key and the text of an order that became a dead letter by `event`. It is the order as it stands when it is
/// written: one that was redriven meanwhile shows that.
pub(super) async fn document(
    service: &Service,
    archive: &str,
    found: &Found,
    event: &Event,
) -> Result<(String, String), StoreError> {
    let order = &found.stored.order;
    let (id, order_type) = (order.id(), &order.accepted.order_type);
    let now = service.now();
    // Both only grow, so that what is read up to here belongs to the order as it was read.
    let events = events(service.store().as_ref(), found).await?;
    let attempts = attempts(service.store().as_ref(), found).await?;
    let first = events.first().map_or(1, |event| event.number);
    let events: Vec<CloudEvent> = events
        .into_iter()
        .map(|event| CloudEvent::new(id, order_type.clone(), event))
        .collect();
    let source = service.store().type_source(order.head.type_hash).await?;
    let mut document = json!({
        "archive": {"name": archive, "version": 1, "writtenAt": now, "event": format!("{id}:{}", event.number),
            "truncated": first > 1 || order.head.attempts > KEPT_MAX},
    });
    if let (Value::Object(members), Value::Object(view)) = (&mut document, json!(found.view(now))) {
        members.extend(view);
    }
    // What it died of here, also where it has been redriven since.
    let dead = order.head.dead.as_ref().filter(|dead| dead.at == event.at);
    document["deadLetter"] = match dead {
        Some(dead) => json!(DeadLetterView::from(dead)),
        None => json!({"at": event.at, "step": super::follow::step_of(event), "cause": null,
            "reason": event.reason, "undoFailed": event.kind == comanda_model::EventKind::UndoFailed}),
    };
    document["traceparent"] = json!(order.accepted.traceparent);
    document["attempts"] = json!(attempts.into_iter().map(AttemptView::from).collect::<Vec<_>>());
    document["events"] = json!(events);
    document["typeSource"] = json!(source.map(|source| {
        let text = serde_json::from_str(&source.source).unwrap_or(Value::String(source.source));
        json!({"name": source.name, "hash": source.hash, "source": text})
    }));
    Ok((key(order_type, id, event.number, event.at), document.to_string()))
}

async fn events(store: &dyn Store, found: &Found) -> Result<Vec<Event>, StoreError> {
    let (id, last) = (found.stored.order.id(), found.stored.order.head.events);
    let mut after = last.saturating_sub(KEPT_MAX);
    let mut all = Vec::new();
    while after < last {
        let page = store.history(id, after, PAGE).await?;
        let Some(end) = page.last() else { break };
        after = end.number;
        all.extend(page.into_iter().filter(|event| event.number <= last));
    }
    Ok(all)
}

async fn attempts(store: &dyn Store, found: &Found) -> Result<Vec<Attempt>, StoreError> {
    let (id, last) = (found.stored.order.id(), found.stored.order.head.attempts);
    let mut after = last.saturating_sub(KEPT_MAX);
    let mut all = Vec::new();
    while after < last {
        let page = store.attempts(id, after, PAGE).await?;
        let Some(end) = page.last() else { break };
        after = end.number;
        all.extend(page.into_iter().filter(|attempt| attempt.number <= last));
    }
    Ok(all)
}
