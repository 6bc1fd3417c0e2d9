//! Items of statuses' queues: each is a row, put in by the commit that enters the status and taken out when it is done.
//!
//! Of each lane one item at a time is its *head*: the first of those that stand in it. Who claims looks only at heads, so
//! that a long lane costs one entry. Claims and answers are written with the writer's batch, and survive the process.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::decision::Enqueue;
use comanda_model::{Head, OrderId};
use comanda_store::piece::WholeItem;
use comanda_store::{DeadItem, DeadItemMove, ItemClaim, ItemClaims, ItemOutcome, ItemToken, QueueClaim, StoreError};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use crate::Inner;
use crate::claim::time;
use crate::column::Sum;
use crate::failure::{Failure, corrupt};
use crate::readers::Reader;
use crate::work::micros;
use crate::writer::Writer;

/// The most claims of one call.
const CLAIMS_MAX: usize = 1000;
/// The columns of `items`, as [`Item::read`] reads them.
const COLUMNS: &str = "position, queue, seq, status, version, at, lane, parks, attempts_max, attempt, due_at, secret, \
    worker, died_at, reason, crc, head";

/// One row of `items`.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    position: i64,
    pub(crate) queue: i64,
    pub(crate) seq: i64,
    pub(crate) status: i64,
    version: i64,
    at: i64,
    lane: String,
    parks: bool,
    attempts_max: u32,
    attempt: u32,
    due_at: i64,
    secret: Option<[u8; 16]>,
    worker: Option<String>,
    died_at: Option<i64>,
    reason: Option<String>,
    head: bool,
}

impl Item {
    fn sum(&self) -> i64 {
        Sum::new(b'i', self.position)
            .int(self.queue)
            .int(self.seq)
            .int(self.status)
            .int(self.version)
            .int(self.at)
            .text(&self.lane)
            .int(i64::from(self.parks))
            .int(i64::from(self.attempts_max))
            .int(i64::from(self.attempt))
            .int(self.due_at)
            .bytes(self.secret.as_ref().map_or(&[][..], |secret| &secret[..]))
            .maybe(self.worker.as_deref())
            .int(self.died_at.unwrap_or(-1))
            .maybe(self.reason.as_deref())
            .finish()
    }

    fn read(row: &Row<'_>) -> Result<Self, Failure> {
        let item = Self {
            position: row.get(0)?,
            queue: row.get(1)?,
            seq: row.get(2)?,
            status: row.get(3)?,
            version: row.get(4)?,
            at: row.get(5)?,
            lane: row.get(6)?,
            parks: row.get(7)?,
            attempts_max: row.get(8)?,
            attempt: row.get(9)?,
            due_at: row.get(10)?,
            secret: row.get(11)?,
            worker: row.get(12)?,
            died_at: row.get(13)?,
            reason: row.get(14)?,
            head: row.get(16)?,
        };
        if row.get::<_, i64>(15)? != item.sum() {
            let what = format!("the item {} of a queue", item.position);
            return Err(corrupt(what, "its checksum does not match").into());
        }
        Ok(item)
    }

    /// It in a form that other stores know, with the names of its queue and its status.
    pub(crate) fn whole(self, queue: Arc<str>, status: Arc<str>) -> WholeItem {
        let died = self.died_at.and_then(time).zip(self.reason);
        WholeItem {
            position: self.position.max(0) as u64,
            queue,
            status,
            version: self.version.max(0) as u64,
            at: time(self.at).unwrap_or_default(),
            lane: self.lane,
            parks: self.parks,
            attempts_max: self.attempts_max,
            attempt: self.attempt,
            due_at: time(self.due_at).unwrap_or_default(),
            lease: self.secret.map(Uuid::from_bytes).zip(self.worker),
            died,
        }
    }

    /// Whether it stands in its lane: dead letters do if the type parks them.
    fn holds(&self) -> bool {
        self.died_at.is_none() || self.parks
    }
}

/// The items of an order, by position.
pub(crate) fn of_order(connection: &Connection, seq: i64) -> Result<Vec<Item>, Failure> {
    let sql = format!("SELECT {COLUMNS} FROM items WHERE seq = ?1 ORDER BY position");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([seq])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        items.push(Item::read(row)?);
    }
    Ok(items)
}

impl Inner {
    /// See [`comanda_store::Store::claim_items`].
    pub(crate) async fn claim_items(&self, asked: &QueueClaim) -> Result<ItemClaims, StoreError> {
        const WHAT: &str = "claim items of a queue";
        let (queue, worker) = (asked.queue.clone(), asked.worker.clone());
        let (max, lease) = (asked.max.min(CLAIMS_MAX), micros(asked.lease));
        let (items, next, wrote) = self
            .operate(WHAT, move |writer, now| {
                let found = writer.claim_items(&queue, &worker, max, now.saturating_add(lease), now)?;
                let wrote = found.2;
                Ok((found, wrote))
            })
            .await?;
        let _ = wrote;
        let next_due_at = next.and_then(time);
        if items.is_empty() {
            return Ok(ItemClaims {
                claims: Vec::new(),
                next_due_at,
            });
        }
        let claims = self
            .readers
            .read(WHAT, move |reader| reader.claimed_items(&items))
            .await?;
        Ok(ItemClaims { claims, next_due_at })
    }

    /// See [`comanda_store::Store::settle_item`].
    pub(crate) async fn settle_item(
        &self,
        token: ItemToken,
        outcome: ItemOutcome,
    ) -> Result<Option<String>, StoreError> {
        self.operate("answer for an item of a queue", move |writer, now| {
            let queue = writer.settle_item(token, &outcome, now)?;
            let wrote = queue.is_some();
            Ok((queue, wrote))
        })
        .await
    }

    /// See [`comanda_store::Store::renew_item`].
    pub(crate) async fn renew_item(&self, token: ItemToken, lease: Duration) -> Result<Option<Timestamp>, StoreError> {
        let lease = micros(lease);
        let until = self
            .operate("extend the claim of an item", move |writer, now| {
                let Some(mut item) = writer.held_item(token)? else {
                    return Ok((None, false));
                };
                item.due_at = now.saturating_add(lease);
                writer.write_item(&item)?;
                Ok((Some(item.due_at), true))
            })
            .await?;
        Ok(until.map(|until| time(until).unwrap_or(Timestamp::MAX)))
    }

    /// See [`comanda_store::Store::move_dead_items`].
    pub(crate) async fn move_dead_items(
        &self,
        queue: &str,
        positions: &[u64],
        to: DeadItemMove,
    ) -> Result<u64, StoreError> {
        let (queue, positions) = (queue.to_owned(), positions.to_vec());
        self.operate("move dead letters of a queue", move |writer, now| {
            let mut moved = 0;
            for position in &positions {
                moved += u64::from(writer.move_dead_item(&queue, *position, to, now)?);
            }
            Ok((moved, moved > 0))
        })
        .await
    }
}

impl Writer<'_> {
    /// Puts an item into its queue, at the end of its lane.
    pub(crate) fn put_item(&mut self, seq: i64, entry: &Enqueue, head: &Head, now: i64) -> Result<(), Failure> {
        let queue = self.tally.intern_queue(self.connection, &entry.queue)?;
        let status = self.dictionary.intern_name(self.connection, &head.status)?;
        self.counters.lane_position += 1;
        let in_front: bool = self
            .connection
            .prepare_cached("SELECT 1 FROM items WHERE queue = ?1 AND lane = ?2 AND holds = 1 LIMIT 1")?
            .exists(params![queue, entry.lane])?;
        let item = Item {
            position: self.counters.lane_position,
            queue,
            seq,
            status,
            version: head.version as i64,
            at: now,
            lane: entry.lane.clone(),
            parks: entry.parks,
            attempts_max: entry.attempts_max,
            attempt: 0,
            due_at: now,
            secret: None,
            worker: None,
            died_at: None,
            reason: None,
            head: !in_front,
        };
        self.write_item(&item)?;
        self.tally.count_queue(&entry.queue, 1, 0);
        Ok(())
    }

    fn write_item(&mut self, item: &Item) -> Result<(), Failure> {
        self.connection
            .prepare_cached(
                "REPLACE INTO items (position, queue, seq, status, version, at, lane, parks, attempts_max, attempt, due_at, \
                 secret, worker, died_at, reason, crc, head, holds) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
            )?
            .execute(params![
                item.position,
                item.queue,
                item.seq,
                item.status,
                item.version,
                item.at,
                item.lane,
                item.parks,
                item.attempts_max,
                item.attempt,
                item.due_at,
                item.secret,
                item.worker,
                item.died_at,
                item.reason,
                item.sum(),
                item.head && item.died_at.is_none(),
                item.holds(),
            ])?;
        Ok(())
    }

    fn item(&mut self, position: u64) -> Result<Option<Item>, Failure> {
        let mut statement = self
            .connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM items WHERE position = ?1"))?;
        let mut rows = statement.query([i64::try_from(position).unwrap_or(-1)])?;
        rows.next()?.map(Item::read).transpose()
    }

    fn held_item(&mut self, token: ItemToken) -> Result<Option<Item>, Failure> {
        let item = self.item(token.position)?;
        Ok(item.filter(|item| item.secret.as_ref() == Some(token.secret.as_bytes())))
    }

    fn queue_name(&self, queue: i64) -> Result<Arc<str>, Failure> {
        let name = self.tally.queue_name(queue);
        Ok(name.ok_or_else(|| corrupt("an item", format!("there is no queue {queue}")))?)
    }

    /// Claims heads of lanes that are due. Answers them, when to come again, and whether anything was written.
    fn claim_items(
        &mut self,
        queue: &str,
        worker: &str,
        max: usize,
        lease_until: i64,
        now: i64,
    ) -> Result<(Vec<Item>, Option<i64>, bool), Failure> {
        let Some(queue) = self.tally.queue(queue) else {
            return Ok((Vec::new(), None, false));
        };
        let (mut items, mut wrote) = (Vec::new(), false);
        while items.len() < max {
            let room = (max - items.len()) as i64;
            let due: Vec<Item> = {
                let mut statement = self.connection.prepare_cached(&format!(
                    "SELECT {COLUMNS} FROM items WHERE queue = ?1 AND head = 1 AND due_at <= ?2 \
                     ORDER BY due_at, position LIMIT ?3"
                ))?;
                let mut rows = statement.query(params![queue, now, room])?;
                let mut due = Vec::new();
                while let Some(row) = rows.next()? {
                    due.push(Item::read(row)?);
                }
                due
            };
            if due.is_empty() {
                break;
            }
            for mut item in due {
                wrote = true;
                if item.attempt >= item.attempts_max
                    && let Some(worker) = item.worker.take()
                {
                    let reason = format!("the worker `{worker}` gave no answer before its lease ended");
                    self.bury(item, reason, now)?;
                    continue;
                }
                item.attempt += 1;
                item.due_at = lease_until;
                item.secret = Some(Uuid::new_v4().into_bytes());
                item.worker = Some(worker.to_owned());
                self.write_item(&item)?;
                items.push(item);
            }
        }
        let next: Option<i64> = self
            .connection
            .prepare_cached("SELECT min(due_at) FROM items WHERE queue = ?1 AND head = 1")?
            .query_row([queue], |row| row.get(0))?;
        Ok((items, next, wrote))
    }

    fn settle_item(&mut self, token: ItemToken, outcome: &ItemOutcome, now: i64) -> Result<Option<String>, Failure> {
        let Some(mut item) = self.held_item(token)? else {
            return Ok(None);
        };
        let name = self.queue_name(item.queue)?;
        match outcome {
            ItemOutcome::Done => {
                self.delete_item(&item)?;
                self.tally.count_queue(&name, -1, 0);
            }
            ItemOutcome::Retry { delay, .. } if item.attempt < item.attempts_max => {
                item.secret = None;
                item.worker = None;
                item.due_at = now.saturating_add(micros(*delay));
                self.write_item(&item)?;
            }
            ItemOutcome::Retry { reason, .. } | ItemOutcome::Refuse { reason } => {
                self.bury(item, reason.clone(), now)?;
            }
        }
        Ok(Some(name.to_string()))
    }

    /// The item becomes a dead letter of its queue.
    fn bury(&mut self, mut item: Item, reason: String, now: i64) -> Result<(), Failure> {
        let name = self.queue_name(item.queue)?;
        item.secret = None;
        item.worker = None;
        item.died_at = Some(now);
        item.reason = Some(comanda_model::order::bounded(
            reason,
            comanda_model::bounds::TEXT_BYTES_MAX,
        ));
        self.write_item(&item)?;
        self.tally.count_queue(&name, -1, 1);
        if item.holds() { Ok(()) } else { self.promote_item(&item) }
    }

    fn delete_item(&mut self, item: &Item) -> Result<(), Failure> {
        self.connection
            .prepare_cached("DELETE FROM items WHERE position = ?1")?
            .execute([item.position])?;
        self.promote_item(item)
    }

    /// Sees to it that the first that stands in a lane is its head, and no other. One that is leased stays the head until
    /// it has been answered for.
    fn promote_item(&mut self, left: &Item) -> Result<(), Failure> {
        let head: Option<(i64, bool)> = self
            .connection
            .prepare_cached(
                "SELECT position, secret IS NOT NULL FROM items \
                 WHERE queue = ?1 AND lane = ?2 AND holds = 1 AND head = 1 LIMIT 1",
            )?
            .query_row(params![left.queue, left.lane], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        if head.is_some_and(|(_, leased)| leased) {
            return Ok(());
        }
        let first: Option<(i64, bool)> = self
            .connection
            .prepare_cached(
                "SELECT position, died_at IS NOT NULL FROM items \
                 WHERE queue = ?1 AND lane = ?2 AND holds = 1 ORDER BY position LIMIT 1",
            )?
            .query_row(params![left.queue, left.lane], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((first, dead)) = first else { return Ok(()) };
        let mut set = self
            .connection
            .prepare_cached("UPDATE items SET head = ?2 WHERE position = ?1")?;
        if let Some((head, _)) = head.filter(|(head, _)| *head != first) {
            set.execute((head, false))?;
        }
        set.execute((first, !dead))?;
        Ok(())
    }

    fn move_dead_item(&mut self, queue: &str, position: u64, to: DeadItemMove, now: i64) -> Result<bool, Failure> {
        let queue = self.tally.queue(queue);
        let item = self.item(position)?;
        let Some(mut item) = item.filter(|item| Some(item.queue) == queue && item.died_at.is_some()) else {
            return Ok(false);
        };
        let name = self.queue_name(item.queue)?;
        match to {
            DeadItemMove::Discard => {
                self.delete_item(&item)?;
                self.tally.count_queue(&name, 0, -1);
            }
            DeadItemMove::Redrive => {
                item.died_at = None;
                item.reason = None;
                item.attempt = 0;
                item.due_at = now;
                item.head = false;
                self.write_item(&item)?;
                self.promote_item(&item)?;
                self.tally.count_queue(&name, 1, -1);
            }
        }
        Ok(true)
    }
}

impl Writer<'_> {
    /// Takes the reasons out of an erased order's dead letters.
    pub(crate) fn empty_items(&mut self, seq: i64) -> Result<(), Failure> {
        let mut items = Vec::new();
        {
            let sql = format!("SELECT {COLUMNS} FROM items WHERE seq = ?1 AND reason IS NOT NULL");
            let mut statement = self.connection.prepare_cached(&sql)?;
            let mut rows = statement.query([seq])?;
            while let Some(row) = rows.next()? {
                items.push(Item::read(row)?);
            }
        }
        for mut item in items {
            item.reason = None;
            self.write_item(&item)?;
        }
        Ok(())
    }
}

impl Reader {
    /// Reads the orders of items that were claimed. One that cannot be read is left out: its lease ends.
    fn claimed_items(&mut self, items: &[Item]) -> Result<Vec<ItemClaim>, Failure> {
        let mut claims = Vec::with_capacity(items.len());
        for item in items {
            let order = match self.order_by_seq(item.seq) {
                Ok(Some(loaded)) => loaded.order,
                Ok(None) => continue,
                Err(failure) => {
                    let error = failure.into_store_error("read an order");
                    tracing::error!(seq = item.seq, %error, "an order whose item was claimed cannot be read");
                    continue;
                }
            };
            claims.push(ItemClaim {
                token: ItemToken {
                    position: item.position.max(0) as u64,
                    secret: Uuid::from_bytes(item.secret.unwrap_or_default()),
                },
                order,
                status: self.dictionary.name(&self.connection, item.status)?,
                version: item.version.max(0) as u64,
                attempt: item.attempt,
                lease_until: time(item.due_at).unwrap_or(Timestamp::MAX),
            });
        }
        Ok(claims)
    }

    pub(crate) fn dead_items(&mut self, queue: &str, after: u64, max: usize) -> Result<Vec<DeadItem>, Failure> {
        let items: Vec<(Item, OrderId)> = {
            let mut statement = self.connection.prepare_cached(&format!(
                "SELECT {COLUMNS}, (SELECT id FROM orders o WHERE o.seq = items.seq) FROM items \
                 WHERE queue = (SELECT id FROM queues WHERE name = ?1) AND died_at IS NOT NULL AND position > ?2 \
                 ORDER BY position LIMIT ?3"
            ))?;
            let mut rows = statement.query(params![
                queue,
                crate::read::bound(after),
                crate::read::bound(max as u64)
            ])?;
            let mut items = Vec::new();
            while let Some(row) = rows.next()? {
                items.push((Item::read(row)?, OrderId(Uuid::from_bytes(row.get(17)?))));
            }
            items
        };
        let mut dead = Vec::with_capacity(items.len());
        for (item, order) in items {
            dead.push(DeadItem {
                position: item.position.max(0) as u64,
                order,
                status: self.dictionary.name(&self.connection, item.status)?,
                version: item.version.max(0) as u64,
                attempt: item.attempt,
                died_at: item.died_at.and_then(time).unwrap_or(Timestamp::UNIX_EPOCH),
                reason: item.reason.unwrap_or_default(),
            });
        }
        Ok(dead)
    }

    /// Reads every item. `each` is told the row's queue and whether it is dead, or what is wrong.
    pub(crate) fn each_item(&self, mut each: impl FnMut(Result<(i64, bool), Failure>)) -> Result<(), Failure> {
        let mut statement = self.connection.prepare(&format!(
            "SELECT {COLUMNS}, (SELECT version FROM heads h WHERE h.seq = items.seq), holds, \
             EXISTS (SELECT 1 FROM events e WHERE e.seq = items.seq AND e.to_status = items.status) FROM items"
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (version, holds, entered): (Option<i64>, bool, bool) = (row.get(17)?, row.get(18)?, row.get(19)?);
            each(Item::read(row).and_then(|item| {
                let detail = match version {
                    None => "it leads to no order",
                    // It was put in by the commit that entered the status, which is not after the newest.
                    Some(version) if version < item.version => "it is of a version that its order has not reached",
                    Some(_) if !entered => "its order never entered its status",
                    Some(_) if holds != item.holds() => "its place in its lane is not the one that it should have",
                    Some(_) => return Ok((item.queue, item.died_at.is_some())),
                };
                Err(corrupt(format!("the item {} of a queue", item.position), detail).into())
            }));
        }
        Ok(())
    }
}
