//! The customer's notices: which events are told, and by which template.

use comanda_model::order_type::OrderType;
use comanda_model::{Event, EventKind};
use comanda_store::subscription::{EventFilter, Ordering, Subscription};

use super::{MAILTO, NOTICES};
use crate::error::DeliverError;
use crate::service::{Deliveries, Shared};

/// The events that can be told to a customer.
const KINDS: [EventKind; 3] = [EventKind::Accepted, EventKind::StatusChanged, EventKind::DeadLettered];

/// Whether a type has the customer told of this.
pub(crate) fn wants(order_type: &OrderType, event: &Event) -> bool {
    match event.kind {
        EventKind::Accepted | EventKind::StatusChanged => order_type.notifies_customer(event.to.as_deref(), None),
        EventKind::DeadLettered => order_type.notifies_customer(None, step_of(event)),
        _ => false,
    }
}

/// The step that an event is by.
pub(super) fn step_of(event: &Event) -> Option<&str> {
    event.by.strip_prefix("step:")
}

/// The template's name.
pub(super) fn template(event: &Event) -> &'static str {
    match event.kind {
        EventKind::Accepted => "accepted",
        EventKind::DeadLettered => "dead-lettered",
        _ => "status-changed",
    }
}

impl Shared {
    /// Whether any type has its customers told of anything.
    pub(crate) fn notifies(&self) -> bool {
        self.service
            .registry()
            .all()
            .iter()
            .any(|definition| has_notices(&definition.order_type))
    }
}

fn has_notices(order_type: &OrderType) -> bool {
    let of_statuses = order_type.statuses.values().any(|status| status.notifies_customer);
    order_type.notify.is_some() && (of_statuses || order_type.steps.values().any(|step| step.notifies_customer))
}

impl Deliveries {
    /// Makes it so that customers are told what the types have them told, from the next event on: whoever sets up a mail
    /// server writes to nobody about the past. Called again when the types have changed. Without a mail server, or over
    /// a store that keeps no subscriptions, that nobody is told is said in the log, and counted.
    ///
    /// # Errors
    /// The store's.
    pub async fn notices(&self) -> Result<(), DeliverError> {
        let shared = &self.0;
        let all = shared.service.registry().all();
        let named: Vec<&str> = all
            .iter()
            .filter(|definition| has_notices(&definition.order_type))
            .map(|definition| &*definition.order_type.name)
            .collect();
        let is_off = shared.options.mail.is_none() || shared.store.subscriptions().is_none();
        let silent = if is_off { named.len() } else { 0 };
        metrics::gauge!("comanda_order_types_without_notices").set(u32::try_from(silent).map_or(f64::MAX, f64::from));
        if named.is_empty() {
            return Ok(());
        }
        if is_off {
            let why = match shared.options.mail {
                None => "no mail server is set up: [mail] in comanda.toml",
                Some(_) => "this store keeps no subscriptions",
            };
            tracing::warn!(
                order_types = named.join(", "),
                why,
                "customers are not told of their orders"
            );
            return Ok(());
        }
        let subscription = Subscription {
            id: NOTICES.to_owned(),
            name: "customers are told of their orders".to_owned(),
            url: MAILTO.to_owned(),
            filter: EventFilter {
                events: KINDS.iter().map(|kind| kind.wire_name().to_owned()).collect(),
                ..EventFilter::default()
            },
            include_order: false,
            secrets: Vec::new(),
            allow_private: true,
            concurrency: 8,
            ordering: Ordering::Order,
            configured: true,
            created_at: shared.store.now(),
            paused: None,
        };
        self.set_up(subscription, false).await
    }
}
