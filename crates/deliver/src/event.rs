//! Events in the form of [CloudEvents 1.0](https://github.com/cloudevents/spec), as streams, pages and deliveries
//! carry them.

use std::sync::Arc;

use comanda_model::{Event, OrderId};
use comanda_store::Notice;
use jiff::Timestamp;
use serde::Serialize;

/// An event in the form of CloudEvents 1.0.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct CloudEvent {
    specversion: &'static str,
    /// Unique: the order's id and the number of the event.
    pub id: String,
    source: &'static str,
    /// `comanda.order.accepted`, `comanda.order.status-changed` and so on.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The order's id.
    #[schema(value_type = String)]
    subject: OrderId,
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    /// The number of the event within its order, from 1, without gaps.
    sequence: String,
    datacontenttype: &'static str,
    data: EventData,
}

/// What happened.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventData {
    #[schema(value_type = String)]
    order_type: Arc<str>,
    /// The status before.
    #[schema(value_type = Option<String>)]
    from: Option<Arc<str>>,
    /// The status after.
    #[schema(value_type = Option<String>)]
    to: Option<Arc<str>>,
    /// Who did it: `step:NAME`, `undo:NAME`, `key:ID`, `local`, `deadline`, `schedule`, `engine`.
    #[schema(value_type = String)]
    by: Arc<str>,
    reason: Option<String>,
    /// JSON pointers of the data that an edit changed; `@typeVersion` where a redrive moved the order to another version.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    changed: Vec<String>,
}

/// What becomes of a subscription, in the form of CloudEvents 1.0.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct NoticeEvent {
    specversion: &'static str,
    /// Unique.
    pub id: String,
    source: &'static str,
    /// `comanda.subscription.paused`, `comanda.subscription.resumed` or `comanda.subscription.gap`.
    #[serde(rename = "type")]
    // What tells it from an event of an order.
    #[schema(value_type = String, pattern = r"^comanda\.subscription\.")]
    pub kind: &'static str,
    /// The subscription's id.
    subject: String,
    #[schema(value_type = String, format = DateTime)]
    time: Timestamp,
    datacontenttype: &'static str,
    data: NoticeData,
}

/// What became of a subscription.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct NoticeData {
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Of a gap: the place in the feed that the subscription had reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
    /// Of a gap: where it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl From<Notice> for NoticeEvent {
    fn from(notice: Notice) -> Self {
        let (after, next) = notice.gap.unzip();
        Self {
            specversion: "1.0",
            id: notice.id,
            source: "/subscriptions",
            kind: notice.kind.wire_name(),
            subject: notice.subject,
            time: notice.at,
            datacontenttype: "application/json",
            data: NoticeData {
                reason: notice.reason,
                after,
                next,
            },
        }
    }
}

impl CloudEvent {
    /// The form of an event of an order of this type.
    pub fn new(order: OrderId, order_type: Arc<str>, event: Event) -> Self {
        Self {
            specversion: "1.0",
            id: format!("{order}:{}", event.number),
            source: "/orders",
            kind: event.kind.wire_name(),
            subject: order,
            time: event.at,
            sequence: event.number.to_string(),
            datacontenttype: "application/json",
            data: EventData {
                order_type,
                from: event.from,
                to: event.to,
                by: event.by,
                reason: event.reason,
                changed: event.changed.into_iter().map(|one| one.pointer).collect(),
            },
        }
    }
}
