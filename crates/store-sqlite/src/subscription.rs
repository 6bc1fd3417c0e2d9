//! Subscriptions in the file: each a row, with its exceptions and its log in rows of their own. All writing is done by
//! the one writer, between two batches of commits.

use async_trait::async_trait;
use comanda_model::OrderId;
use comanda_store::piece::WholeSubscription;
use comanda_store::subscription::{
    Advance, DELIVERIES_KEPT, Delivery, Exception, Progress, SUBSCRIPTIONS_MAX, Subscription, SubscriptionStore,
};
use comanda_store::{Cursor, FeedEvent, Notice, StoreError};
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::SqliteStore;
use crate::column::Sum;
use crate::failure::{Failure, corrupt};
use crate::read::bound;
use crate::store::ROWS_MAX;
use crate::writer::{Aborted, Writer};

const WRITE: &str = "write a subscription";
const READ: &str = "read the subscriptions";

/// The sum of a row: what it is, which one, and what it says.
pub(crate) fn sum(kind: u8, id: &str, number: i64, text: &str) -> i64 {
    Sum::new(kind, number).text(id).text(text).finish()
}

fn text(value: &impl Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string(value).map_err(|error| StoreError::failed("write a subscription as JSON", error))?)
}

pub(crate) fn parse<T: DeserializeOwned>(what: &str, text: &str, found: i64, expected: i64) -> Result<T, Failure> {
    if found != expected {
        return Err(corrupt(what.to_owned(), "its checksum does not match").into());
    }
    Ok(serde_json::from_str(text).map_err(|error| corrupt(what.to_owned(), error.to_string()))?)
}

/// The number that an exception's sum is made with.
pub(crate) fn number_of(order: &[u8]) -> i64 {
    order
        .iter()
        .fold(0, |sum: i64, byte| sum.wrapping_mul(31).wrapping_add(i64::from(*byte)))
}

impl SqliteStore {
    async fn write_subscription<T: Send + 'static>(
        &self,
        change: impl for<'w, 'c> FnOnce(&'w mut Writer<'c>) -> Result<(T, bool), Failure> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.inner
            .write(WRITE, move |writer| {
                writer.within_transaction(change).map_err(|aborted| match aborted {
                    Aborted::Failed(failure) | Aborted::Unknown(failure) => failure.into_store_error(WRITE),
                })
            })
            .await
    }
}

fn put(writer: &mut Writer<'_>, subscription: &Subscription) -> Result<(), Failure> {
    let spec = text(subscription)?;
    let crc = sum(b'S', &subscription.id, 0, &spec);
    let changed = writer
        .connection
        .prepare_cached("UPDATE subscriptions SET spec = ?2, crc = ?3 WHERE id = ?1")?
        .execute(params![subscription.id, spec, crc])?;
    if changed == 0 {
        let count: i64 = writer
            .connection
            .prepare_cached("SELECT count(*) FROM subscriptions")?
            .query_row([], |row| row.get(0))?;
        if count as usize >= SUBSCRIPTIONS_MAX {
            let error = StoreError::Unsupported {
                store: "sqlite",
                what: "keep more than 1,000 subscriptions",
            };
            return Err(error.into());
        }
        writer
            .connection
            .prepare_cached("INSERT INTO subscriptions (id, spec, crc, delivery) VALUES (?1, ?2, ?3, 0)")?
            .execute(params![subscription.id, spec, crc])?;
    }
    Ok(())
}

#[async_trait]
impl SubscriptionStore for SqliteStore {
    async fn put_subscription(&self, subscription: &Subscription) -> Result<(), StoreError> {
        let subscription = subscription.clone();
        self.write_subscription(move |writer| {
            put(writer, &subscription)?;
            Ok(((), true))
        })
        .await
    }

    async fn put_announced(&self, subscription: &Subscription, notice: &Notice) -> Result<(), StoreError> {
        let (subscription, notice) = (subscription.clone(), notice.clone());
        self.write_subscription(move |writer| {
            put(writer, &subscription)?;
            writer.announce(&notice)?;
            Ok(((), true))
        })
        .await
    }

    async fn all_subscriptions(&self) -> Result<Vec<Subscription>, StoreError> {
        self.inner
            .readers
            .read(READ, |reader| {
                let mut statement = reader
                    .connection
                    .prepare_cached("SELECT id, spec, crc FROM subscriptions ORDER BY id")?;
                let mut rows = statement.query([])?;
                let mut all = Vec::new();
                while let Some(row) = rows.next()? {
                    let (id, spec): (String, String) = (row.get(0)?, row.get(1)?);
                    let what = format!("the subscription {id}");
                    all.push(parse(&what, &spec, row.get(2)?, sum(b'S', &id, 0, &spec))?);
                }
                Ok(all)
            })
            .await
    }

    async fn remove_subscription(&self, id: &str) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.write_subscription(move |writer| {
            for table in ["subscription_exceptions", "deliveries"] {
                let sql = format!("DELETE FROM {table} WHERE subscription = ?1");
                writer.connection.prepare_cached(&sql)?.execute([&id])?;
            }
            let removed = writer
                .connection
                .prepare_cached("DELETE FROM subscriptions WHERE id = ?1")?
                .execute([&id])?;
            Ok((removed > 0, true))
        })
        .await
    }

    async fn progress(&self, id: &str) -> Result<Option<Progress>, StoreError> {
        let id = id.to_owned();
        self.inner
            .readers
            .read(READ, move |reader| progress(&reader.connection, &id))
            .await
    }

    async fn advance(&self, id: &str, advance: Advance) -> Result<bool, StoreError> {
        let id = id.to_owned();
        self.write_subscription(move |writer| {
            let applied = apply(writer.connection, &id, &advance)?;
            if let Some(notice) = advance.notice.filter(|_| applied) {
                writer.announce(&notice)?;
            }
            Ok((applied, applied))
        })
        .await
    }

    async fn events_of(&self, order: OrderId, after: u64, max: usize) -> Result<Vec<FeedEvent>, StoreError> {
        let (epoch, max) = (self.inner.epoch, max.min(ROWS_MAX));
        self.inner
            .readers
            .read("read an order's events", move |reader| {
                reader.feed_of(epoch, order, after, max)
            })
            .await
    }

    async fn deliveries(&self, id: &str, before: u64, max: usize) -> Result<Vec<Delivery>, StoreError> {
        let id = id.to_owned();
        self.inner
            .readers
            .read(READ, move |reader| {
                let mut statement = reader.connection.prepare_cached(
                    "SELECT number, delivery, crc FROM deliveries WHERE subscription = ?1 AND number < ?2 \
                     ORDER BY number DESC LIMIT ?3",
                )?;
                let mut rows = statement.query(params![id, bound(before), bound(max as u64)])?;
                let mut log = Vec::new();
                while let Some(row) = rows.next()? {
                    let (number, text): (i64, String) = (row.get(0)?, row.get(1)?);
                    let what = format!("delivery {number} of the subscription {id}");
                    log.push(parse(&what, &text, row.get(2)?, sum(b'D', &id, number, &text))?);
                }
                Ok(log)
            })
            .await
    }
}

fn progress(connection: &Connection, id: &str) -> Result<Option<Progress>, Failure> {
    let cursor: Option<(Option<i64>, Option<i64>)> = connection
        .prepare_cached("SELECT epoch, position FROM subscriptions WHERE id = ?1")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((Some(epoch), Some(position))) = cursor else {
        return Ok(None);
    };
    let mut statement = connection.prepare_cached(
        "SELECT order_id, exception, crc FROM subscription_exceptions WHERE subscription = ?1 ORDER BY order_id",
    )?;
    let mut rows = statement.query([id])?;
    let mut exceptions: Vec<Exception> = Vec::new();
    while let Some(row) = rows.next()? {
        let (order, text): (Vec<u8>, String) = (row.get(0)?, row.get(1)?);
        let what = format!("an exception of the subscription {id}");
        exceptions.push(parse(
            &what,
            &text,
            row.get(2)?,
            sum(b'X', id, number_of(&order), &text),
        )?);
    }
    let cursor = Cursor {
        epoch: epoch as u64,
        position: position as u64,
    };
    Ok(Some(Progress { cursor, exceptions }))
}

/// Answers whether there is such a subscription.
fn apply(connection: &Connection, id: &str, advance: &Advance) -> Result<bool, Failure> {
    let last: Option<i64> = connection
        .prepare_cached("SELECT delivery FROM subscriptions WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    let Some(mut number) = last else { return Ok(false) };
    if let Some(cursor) = advance.cursor {
        connection
            .prepare_cached("UPDATE subscriptions SET epoch = ?2, position = ?3 WHERE id = ?1")?
            .execute(params![id, cursor.epoch as i64, cursor.position as i64])?;
    }
    for OrderId(order) in &advance.settled {
        connection
            .prepare_cached("DELETE FROM subscription_exceptions WHERE subscription = ?1 AND order_id = ?2")?
            .execute(params![id, order.as_bytes()])?;
    }
    for exception in &advance.failed {
        let order: &Uuid = &exception.order.0;
        let text = text(exception)?;
        let crc = sum(b'X', id, number_of(order.as_bytes()), &text);
        connection
            .prepare_cached(
                "REPLACE INTO subscription_exceptions (subscription, order_id, exception, crc) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![id, order.as_bytes(), text, crc])?;
    }
    for delivery in &advance.deliveries {
        number += 1;
        let text = text(&Delivery {
            number: number as u64,
            ..delivery.clone()
        })?;
        connection
            .prepare_cached("INSERT INTO deliveries (subscription, number, delivery, crc) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![id, number, text, sum(b'D', id, number, &text)])?;
    }
    if !advance.deliveries.is_empty() {
        connection
            .prepare_cached("UPDATE subscriptions SET delivery = ?2 WHERE id = ?1")?
            .execute(params![id, number])?;
        connection
            .prepare_cached("DELETE FROM deliveries WHERE subscription = ?1 AND number <= ?2")?
            .execute(params![id, number - DELIVERIES_KEPT as i64])?;
    }
    Ok(true)
}

/// Every subscription in one piece, by id. A cursor counts only if it is one of this epoch.
pub(crate) fn whole(connection: &Connection, epoch: u64) -> Result<Vec<WholeSubscription>, Failure> {
    let mut statement = connection.prepare("SELECT id, spec, crc, delivery FROM subscriptions ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, spec): (String, String) = (row.get(0)?, row.get(1)?);
        let what = format!("the subscription {id}");
        let subscription = parse(&what, &spec, row.get(2)?, sum(b'S', &id, 0, &spec))?;
        let progress = progress(connection, &id)?;
        let mut exceptions = Vec::new();
        let position = progress.map(|progress| {
            exceptions = progress.exceptions;
            (progress.cursor.epoch == epoch).then_some(progress.cursor.position)
        });
        exceptions.sort_by_key(|exception| exception.order);
        all.push(WholeSubscription {
            subscription,
            position,
            exceptions,
            deliveries_count: row.get::<_, i64>(3)?.max(0) as u64,
        });
    }
    Ok(all)
}

/// Reads the log of every subscription, by id and number.
pub(crate) fn each_delivery(
    connection: &Connection,
    mut each: impl FnMut(String, Delivery) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let sql = "SELECT subscription, number, delivery, crc FROM deliveries ORDER BY subscription, number";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (id, number, text): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let what = format!("delivery {number} of the subscription {id}");
        let delivery = parse(&what, &text, row.get(3)?, sum(b'D', &id, number, &text))?;
        each(id, delivery)?;
    }
    Ok(())
}
