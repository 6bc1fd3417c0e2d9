//! An order as its customer sees it: where it stands, how it came there, and why it failed, as far as that may be told.

use std::sync::Arc;

use comanda_deliver::mail::{Told, language};
use comanda_engine::Found;
use comanda_model::{Event, EventKind, OrderId, Phase};
use comanda_store::{Store, StoreError};
use jiff::Timestamp;
use serde::Serialize;

/// The newest events that are shown.
const EVENTS_MAX: u64 = 500;

/// An order, for its customer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TrackedOrder {
    /// The client's own id, or ours.
    pub(super) reference: String,
    #[schema(value_type = String)]
    pub(super) status: Arc<str>,
    /// Whether nothing moves it any more.
    #[serde(rename = "final")]
    pub(super) is_final: bool,
    /// Whether it stands still because something failed.
    pub(super) failed: bool,
    /// `en`, `es` or `pt`: the language of the reasons.
    pub(super) language: String,
    #[schema(value_type = String, format = DateTime)]
    pub(super) accepted_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub(super) updated_at: Timestamp,
    /// How it came there, oldest first.
    pub(super) history: Vec<Moment>,
}

/// One thing that happened to an order, for its customer.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Moment {
    #[schema(value_type = String, format = DateTime)]
    pub(super) at: Timestamp,
    /// The status that it entered; null where a step failed.
    #[schema(value_type = Option<String>)]
    pub(super) status: Option<Arc<str>>,
    /// Why, if that may be told.
    pub(super) reason: Option<String>,
}

impl TrackedOrder {
    pub(super) async fn read(store: &dyn Store, order: OrderId, found: &Found) -> Result<Self, StoreError> {
        let stored = &found.stored.order;
        let order_type = &found.definition.order_type;
        let data = found.shown().value().unwrap_or_default();
        let language = language(order_type, &data);
        let after = stored.head.events.saturating_sub(EVENTS_MAX);
        let max = usize::try_from(EVENTS_MAX).unwrap_or(usize::MAX);
        let events = store.history(order, after, max).await?;
        let shown = |event: &Event| {
            matches!(
                event.kind,
                EventKind::Accepted | EventKind::StatusChanged | EventKind::DeadLettered
            )
        };
        let history = events.iter().filter(|event| shown(event)).map(|event| Moment {
            at: event.at,
            status: event.to.clone().filter(|_| event.kind != EventKind::DeadLettered),
            reason: Told::new(order_type, event, language).reason,
        });
        Ok(Self {
            reference: stored.accepted.key.clone().unwrap_or_else(|| order.to_string()),
            status: stored.head.status.clone(),
            is_final: stored.head.phase == Phase::Final,
            failed: stored.head.phase == Phase::Dead,
            language: language.to_owned(),
            accepted_at: stored.accepted.at,
            updated_at: stored.head.updated_at,
            history: history.collect(),
        })
    }
}
