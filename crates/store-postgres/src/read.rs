//! What is read: orders with their places, histories, attempts, the feed, lists.

use std::sync::Arc;

use comanda_model::{Acceptance, Attempt, Event, EventKind, Json, Order, OrderId, Outcome, Token};
use comanda_store::{
    Cursor, FeedEvent, FeedNotice, FeedPage, FeedStart, ListQuery, Numbered, Place, StoreError, Stored, Worker,
};
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::failure::corrupt;
use crate::text::{from_column, to_column};

/// The most rows that one page of a list looks at.
pub(crate) const LIST_ROWS_MAX: i64 = 10_000;

fn maybe(row: &Row, name: &str) -> Option<String> {
    row.get::<_, Option<String>>(name).map(from_column)
}

fn text(row: &Row, name: &str) -> String {
    from_column(row.get(name))
}

fn shared(row: &Row, name: &str) -> Arc<str> {
    text(row, name).into()
}

fn count(row: &Row, name: &str) -> u64 {
    u64::try_from(row.get::<_, i64>(name)).unwrap_or(0)
}

fn small(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// A row of `comanda.read`: the order as it stands, and the claim on it whether or not its lease has ended.
pub(crate) fn stored(row: &Row) -> Result<Stored, StoreError> {
    let id = OrderId(row.get("id"));
    let head: String = row.get("head");
    let head =
        serde_json::from_str(&head).map_err(|error| corrupt(format!("the head of order {id}"), error.to_string()))?;
    let accepted = Acceptance {
        id,
        order_type: shared(row, "order_type"),
        key: maybe(row, "key"),
        customer: maybe(row, "customer"),
        group: maybe(row, "group_key"),
        status: shared(row, "status"),
        at: row.get("at"),
        traceparent: maybe(row, "traceparent"),
    };
    let order = Order {
        accepted: Arc::new(accepted),
        head,
        data: Json::from_valid(row.get::<_, String>("data")),
        results: results(row),
    };
    let secret: Option<Uuid> = row.get("secret");
    let claim = secret.and_then(|secret| {
        let until: Option<Timestamp> = row.get("lease_until");
        let part = |name| row.get::<_, Option<i32>>(name).map_or(0, small);
        let token = Token {
            order: id,
            visit: part("held_visit"),
            attempt: part("held_attempt"),
            secret,
        };
        until.map(|until| (token, until))
    });
    let place = match row.get::<_, i32>("behind") {
        -1 => Place::Alone,
        0 => Place::Head,
        behind => Place::Behind(small(behind).min(Place::BEHIND_MAX)),
    };
    Ok(Stored {
        order: Arc::new(order),
        claim,
        worker: maybe(row, "worker")
            .zip(row.get("since"))
            .map(|(name, since)| Worker { name, since }),
        place,
    })
}

/// The results that stand: of each step the latest, unless it was taken back since.
fn results(row: &Row) -> Vec<(Arc<str>, Json)> {
    let steps: Option<Vec<String>> = row.get("steps");
    let undos: Option<Vec<bool>> = row.get("undos");
    let found: Option<Vec<Option<String>>> = row.get("results");
    let mut results: Vec<(Arc<str>, Json)> = Vec::new();
    let rows = steps.into_iter().flatten().zip(undos.into_iter().flatten());
    for ((step, undo), result) in rows.zip(found.into_iter().flatten()) {
        let step = from_column(step);
        results.retain(|(other, _)| **other != *step);
        if let (false, Some(result)) = (undo, result) {
            results.push((step.into(), Json::from_valid(result)));
        }
    }
    results
}

pub(crate) const HISTORY: &str = "SELECT number, at, kind, from_status, to_status, by, reason, changed \
     FROM comanda.events WHERE id = $1 AND number > $2 ORDER BY number LIMIT $3";

pub(crate) fn event(row: &Row) -> Result<Event, StoreError> {
    let changed: Option<String> = row.get("changed");
    let changed = changed.map(|text| serde_json::from_str(&text));
    Ok(Event {
        number: count(row, "number"),
        at: row.get("at"),
        kind: EventKind::from_number(row.get::<_, i16>("kind").into())?,
        from: maybe(row, "from_status").map(Arc::from),
        to: maybe(row, "to_status").map(Arc::from),
        by: shared(row, "by"),
        reason: maybe(row, "reason"),
        changed: changed
            .transpose()
            .map_err(|error| corrupt("what an event changed", error.to_string()))?
            .unwrap_or_default(),
    })
}

pub(crate) const ATTEMPTS: &str = "SELECT number, visit, attempt, step, undo, started_at, ended_at, outcome, reason, \
     result FROM comanda.attempts WHERE id = $1 AND number > $2 ORDER BY number LIMIT $3";

pub(crate) fn attempt(row: &Row) -> Result<Attempt, StoreError> {
    Ok(Attempt {
        number: count(row, "number"),
        visit: small(row.get("visit")),
        attempt: small(row.get("attempt")),
        step: shared(row, "step"),
        undo: row.get("undo"),
        started_at: row.get("started_at"),
        ended_at: row.get("ended_at"),
        outcome: Outcome::from_number(row.get::<_, i16>("outcome").into())?,
        reason: maybe(row, "reason"),
        result: row.get::<_, Option<String>>("result").map(Json::from_valid),
    })
}

pub(crate) const FEED: &str = "SELECT * FROM comanda.feed_page($1, $2, $3)";

pub(crate) const EVENTS_OF: &str = "SELECT e.position, e.id, e.number, e.at, e.kind, e.from_status, e.to_status, e.by, e.reason, \
     e.changed, o.order_type, o.customer, o.group_key FROM comanda.events e JOIN comanda.orders o ON o.id = e.id \
     WHERE e.id = $1 AND e.number > $2 ORDER BY e.number LIMIT $3";

/// An event of the feed.
pub(crate) fn feed_event(row: &Row, epoch: u64, position: i64) -> Result<FeedEvent, StoreError> {
    Ok(FeedEvent {
        order: OrderId(row.get("id")),
        order_type: shared(row, "order_type"),
        customer: maybe(row, "customer"),
        group: maybe(row, "group_key"),
        event: event(row)?,
        cursor: Cursor {
            epoch,
            position: u64::try_from(position).unwrap_or(0),
        },
    })
}

/// The parameters that say where a page begins.
pub(crate) fn feed_start(from: FeedStart) -> (i16, i64) {
    match from {
        FeedStart::After(cursor) => (0, i64::try_from(cursor.position).unwrap_or(i64::MAX)),
        FeedStart::Oldest => (1, 0),
        FeedStart::Newest => (2, 0),
    }
}

/// A page of at most `max` from its rows, which may be more.
pub(crate) fn feed_page(rows: &[Row], from: FeedStart, max: usize) -> Result<FeedPage, StoreError> {
    let first = rows
        .first()
        .ok_or_else(|| corrupt("the feed", "the database does not tell where it begins"))?;
    let (retained, newest) = (count(first, "retained"), count(first, "newest"));
    // The epoch is the store's, and moves with the server's timeline: after a failover or a restore positions may name
    // other events than before.
    let timeline: Option<&str> = first.get("timeline");
    let timeline = timeline.and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    let epoch = (count(first, "epoch") << 20) | (timeline & 0xF_FFFF);
    let after = match from {
        FeedStart::Oldest => retained,
        FeedStart::Newest => newest,
        FeedStart::After(cursor) => {
            if cursor.epoch != epoch || !(retained..=newest).contains(&cursor.position) {
                return Err(StoreError::CursorReset);
            }
            cursor.position
        }
    };
    let mut events = Vec::with_capacity(rows.len());
    let mut notices = Vec::new();
    for row in rows {
        let Some(position) = row.get::<_, Option<i64>>("position") else {
            continue;
        };
        let Some(text) = row.get::<_, Option<&str>>("notice") else {
            events.push(feed_event(row, epoch, position)?);
            continue;
        };
        let notice = serde_json::from_str(text).map_err(|error| corrupt("a notice of the feed", error.to_string()))?;
        let position = u64::try_from(position).unwrap_or(0);
        let cursor = Cursor { epoch, position };
        notices.push(FeedNotice { notice, cursor });
    }
    Ok(FeedPage::first(Cursor { epoch, position: after }, events, notices, max))
}

/// A list's two statements, over the same parameters: the page's ids, and how far it looked.
pub(crate) struct ListStatements {
    pub(crate) page: String,
    pub(crate) looked: String,
    parameters: Vec<(Box<dyn ToSql + Send + Sync>, Type)>,
    /// How many of the parameters `looked` takes; they are the first.
    looked_count: usize,
}

impl ListStatements {
    /// The statements for a page of at most `limit` orders, and one more to see whether there are more. One index leads
    /// to a bounded number of rows, newest first; all other conditions are looked at there.
    pub(crate) fn new(query: &ListQuery, limit: usize) -> Self {
        let mut parameters: Vec<(Box<dyn ToSql + Send + Sync>, Type)> = Vec::new();
        let mut place = |value: Box<dyn ToSql + Send + Sync>, kind: Type| {
            parameters.push((value, kind));
            parameters.len()
        };
        let text = |text: &str| Box::new(to_column(text).into_owned());
        let cursor = query.cursor.and_then(|cursor| i64::try_from(cursor).ok());
        place(Box::new(cursor.unwrap_or(i64::MAX)), Type::INT8);
        let (table, leads) = match query {
            ListQuery { cause: Some(cause), .. } => {
                let at = place(text(cause), Type::TEXT);
                ("heads", format!("phase = 3 AND cause = ${at} AND "))
            }
            ListQuery {
                customer: Some(name), ..
            } => {
                let at = place(text(name), Type::TEXT);
                ("orders", format!("customer = ${at} AND "))
            }
            ListQuery { group: Some(group), .. } => {
                let at = place(text(group), Type::TEXT);
                ("orders", format!("group_key = ${at} AND "))
            }
            ListQuery {
                status: Some(status), ..
            } => {
                let at = place(text(status), Type::TEXT);
                ("heads", format!("status = ${at} AND "))
            }
            ListQuery {
                phase: Some(comanda_model::Phase::Dead),
                ..
            } => ("heads", "phase = 3 AND ".to_owned()),
            _ => ("orders", String::new()),
        };
        let inner = format!(
            "SELECT id, seq FROM comanda.{table} WHERE {leads}seq < $1 ORDER BY seq DESC LIMIT {LIST_ROWS_MAX}"
        );
        let looked_count = parameters.len();
        let mut place = |value: Box<dyn ToSql + Send + Sync>, kind: Type| {
            parameters.push((value, kind));
            parameters.len()
        };
        let mut conditions = vec!["true".to_owned()];
        for (column, wanted) in [
            ("o.order_type", &query.order_type),
            ("h.status", &query.status),
            ("o.customer", &query.customer),
            ("o.group_key", &query.group),
            ("h.cause", &query.cause),
        ] {
            if let Some(wanted) = wanted {
                let at = place(text(wanted), Type::TEXT);
                conditions.push(format!("{column} = ${at}"));
            }
        }
        if let Some(phase) = query.phase {
            conditions.push(format!("h.phase = {}", phase.number()));
        }
        for (relation, time) in [(">=", query.accepted_after), ("<", query.accepted_before)] {
            if let Some(time) = time {
                let at = place(Box::new(time), Type::TIMESTAMPTZ);
                conditions.push(format!("o.at {relation} ${at}"));
            }
        }
        let page = format!(
            "SELECT i.id, i.seq FROM ({inner}) AS i JOIN comanda.orders o ON o.id = i.id JOIN comanda.heads h ON h.id = i.id \
             WHERE {} ORDER BY i.seq DESC LIMIT {}",
            conditions.join(" AND "),
            limit + 1
        );
        Self {
            page,
            looked: format!("SELECT count(*), min(seq) FROM ({inner}) AS i"),
            parameters,
            looked_count,
        }
    }

    /// The parameters of `page`.
    pub(crate) fn parameters(&self) -> Vec<crate::server::Parameter<'_>> {
        let parameters = self.parameters.iter();
        parameters
            .map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone()))
            .collect()
    }

    /// The parameters of `looked`.
    pub(crate) fn looked_parameters(&self) -> Vec<crate::server::Parameter<'_>> {
        let mut parameters = self.parameters();
        parameters.truncate(self.looked_count);
        parameters
    }
}
