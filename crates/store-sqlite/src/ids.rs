//! Which order an id leads to, and the proof that it leads to none.
//!
//! Rows of `ids` carry no checksum. That an entry is right is proved by the order that it leads to, which names its own
//! id. That there is no entry cannot be proved by one, so what stands around the place is looked at: a search that a
//! damaged entry leads astray ends beside that entry, and an entry that is gone leaves an order that no neighbour names.
//! Only what is not found costs this, which is rare: some sixty microseconds, about what reading one order costs.

use comanda_model::OrderId;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use crate::failure::{Failure, corrupt};
use crate::row;

const SEQ_OF: &str = "SELECT i.seq, o.id FROM ids i LEFT JOIN orders o ON o.seq = i.seq WHERE i.id = ?1";
const BEFORE: &str = "SELECT i.id, i.seq, o.id FROM (SELECT id, seq FROM ids WHERE id < ?1 ORDER BY id DESC LIMIT 1) i \
    LEFT JOIN orders o ON o.seq = i.seq";
const AFTER: &str = "SELECT i.id, i.seq, o.id FROM (SELECT id, seq FROM ids WHERE id > ?1 ORDER BY id LIMIT 1) i \
    LEFT JOIN orders o ON o.seq = i.seq";
/// Whether one of the orders with these numbers has the id: of those at either end, if they are many.
const STANDS_BETWEEN: &str = "SELECT \
    EXISTS (SELECT 1 FROM (SELECT id FROM orders WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq LIMIT ?4) WHERE id = ?3) OR \
    EXISTS (SELECT 1 FROM (SELECT id FROM orders WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq DESC LIMIT ?4) WHERE id = ?3)";

/// How far an order's number may be from those of its neighbours by id: ids are made in the order of time, and are
/// committed nearly so.
const DISORDER: i64 = 64;
/// How many orders are looked at from each end: more than one page of the index leads to.
const BETWEEN_MAX: i64 = 512;

/// The number of the order that an id leads to; `None` if it is proved that there is no such order. To be called within
/// a transaction: all that is compared must be of one moment.
pub(crate) fn seq_of(connection: &Connection, id: OrderId) -> Result<Option<i64>, Failure> {
    let found: Option<(i64, Option<[u8; 16]>)> = connection
        .prepare_cached(SEQ_OF)?
        .query_row([id.0.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        Some((seq, Some(order))) if order == *id.0.as_bytes() => Ok(Some(seq)),
        Some((seq, _)) => {
            let detail = format!("it leads to number {seq}, which is missing or another order");
            Err(corrupt(row::of_order("the id", id), detail).into())
        }
        None => prove_absent(connection, id).map(|()| None),
    }
}

/// Proves that no entry leads from an id that was not found, as far as its surroundings can.
pub(crate) fn prove_absent(connection: &Connection, id: OrderId) -> Result<(), Failure> {
    let before = neighbour(connection, BEFORE, id, |neighbour| neighbour < id)?;
    let after = neighbour(connection, AFTER, id, |neighbour| neighbour > id)?;
    let first = match (before, after) {
        (Some(before), Some(after)) => before.min(after),
        (Some(before), None) => before,
        (None, _) => 0,
    };
    let last = match (before, after) {
        (Some(before), Some(after)) => before.max(after),
        (None, Some(after)) => after,
        (_, None) => i64::MAX,
    };
    let stands: bool = connection.prepare_cached(STANDS_BETWEEN)?.query_row(
        params![
            first.saturating_sub(DISORDER),
            last.saturating_add(DISORDER),
            id.0.as_bytes(),
            BETWEEN_MAX
        ],
        |row| row.get(0),
    )?;
    if stands {
        return Err(corrupt(
            row::of_order("the id", id),
            "nothing leads from it to the order, which is there",
        )
        .into());
    }
    Ok(())
}

/// The number of the order that the entry beside an id leads to, if there is an entry. Refuses one that leads to no
/// order of just that id, or stands out of its order.
fn neighbour(
    connection: &Connection,
    sql: &str,
    id: OrderId,
    in_order: impl Fn(OrderId) -> bool,
) -> Result<Option<i64>, Failure> {
    let unproved = |detail: String| -> Failure {
        let what = row::of_order("what stands in the index of ids beside the place", id);
        corrupt(what, format!("{detail}; whether the order is there cannot be told")).into()
    };
    let read = |row: &Row<'_>| -> rusqlite::Result<([u8; 16], i64, Option<[u8; 16]>)> {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    };
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([id.0.as_bytes()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (entry, seq, order) = read(row).map_err(|error| unproved(error.to_string()))?;
    let entry_id = OrderId(Uuid::from_bytes(entry));
    if order != Some(entry) {
        return Err(unproved(format!(
            "{entry_id} leads to number {seq}, which is missing or another order"
        )));
    }
    if !in_order(entry_id) {
        return Err(unproved(format!("{entry_id} stands out of its order")));
    }
    Ok(Some(seq))
}
