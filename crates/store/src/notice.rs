//! Notices: events of the feed that belong to no order. They tell what becomes of subscriptions, so that others can be told.

use comanda_model::bounds::TEXT_BYTES_MAX;
use comanda_model::order::bounded;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Cursor;

/// An event that belongs to no order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Its id. A notice whose id is in the feed already is not put there again.
    pub id: String,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub kind: NoticeKind,
    /// The subscription's id.
    pub subject: String,
    /// Why, for people.
    pub reason: Option<String>,
    /// Of a gap: the place that the subscription had reached, and the one where it goes on.
    pub gap: Option<(String, String)>,
}

/// The kinds of notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NoticeKind {
    /// A subscription sends nothing more until it is resumed.
    SubscriptionPaused,
    /// A subscription goes on.
    SubscriptionResumed,
    /// Retention has removed events that a subscription had not sent.
    SubscriptionGap,
}

impl NoticeKind {
    /// All there are.
    pub const ALL: [Self; 3] = [
        Self::SubscriptionPaused,
        Self::SubscriptionResumed,
        Self::SubscriptionGap,
    ];

    /// The CloudEvents `type` on the wire.
    pub const fn wire_name(self) -> &'static str {
        match self {
            Self::SubscriptionPaused => "comanda.subscription.paused",
            Self::SubscriptionResumed => "comanda.subscription.resumed",
            Self::SubscriptionGap => "comanda.subscription.gap",
        }
    }
}

impl Notice {
    /// That a subscription was paused, and why.
    pub fn paused(subscription: &str, at: Timestamp, reason: &str) -> Self {
        let reason = bounded(reason.to_owned(), TEXT_BYTES_MAX);
        Self {
            reason: Some(reason),
            ..Self::resumed_or_paused(subscription, at, NoticeKind::SubscriptionPaused, "paused")
        }
    }

    /// That a subscription was resumed.
    pub fn resumed(subscription: &str, at: Timestamp) -> Self {
        Self::resumed_or_paused(subscription, at, NoticeKind::SubscriptionResumed, "resumed")
    }

    fn resumed_or_paused(subscription: &str, at: Timestamp, kind: NoticeKind, word: &str) -> Self {
        Self {
            id: format!("{subscription}:{word}:{}", at.as_microsecond()),
            at,
            kind,
            subject: subscription.to_owned(),
            reason: None,
            gap: None,
        }
    }

    /// That events are missing after a place. Its id is that of the place, so that one gap is told once.
    pub fn gap(subscription: &str, at: Timestamp, after: Cursor, next: Cursor) -> Self {
        Self {
            id: format!("{subscription}:gap:{after}"),
            at,
            kind: NoticeKind::SubscriptionGap,
            subject: subscription.to_owned(),
            reason: None,
            gap: Some((after.to_string(), next.to_string())),
        }
    }
}

/// A notice in the feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedNotice {
    /// The notice.
    pub notice: Notice,
    /// The place just after it.
    pub cursor: Cursor,
}
