//! What is read: orders with their places, histories, attempts, the feed, due work.

use std::sync::Arc;

use comanda_model::{Attempt, Event, Json, Order, OrderId, TypeHash};
use comanda_store::{Cause, Cursor, FeedEvent, FeedPage, FeedStart, Place, StoreError, TypeSource};
use rusqlite::{OptionalExtension, params};
use uuid::Uuid;

use crate::failure::{Failure, corrupt};
use crate::ids;
use crate::notice;
use crate::readers::Reader;
use crate::row::{self, EVENT_COLUMNS_COUNT, ORDER_COLUMNS_COUNT, Results};

const ORDER_BY_ID: &str = concat!(
    "SELECT ",
    row::order_columns!(),
    ", ",
    row::data_columns!(),
    ", ",
    row::head_columns!(),
    ", i.seq, o.seq, h.seq \
     FROM ids i LEFT JOIN orders o ON o.seq = i.seq LEFT JOIN heads h ON h.seq = i.seq WHERE i.id = ?1"
);
const ORDER_BY_SEQ: &str = concat!(
    "SELECT ",
    row::order_columns!(),
    ", ",
    row::data_columns!(),
    ", ",
    row::head_columns!(),
    ", ?1, o.seq, h.seq \
     FROM orders o LEFT JOIN heads h ON h.seq = o.seq WHERE o.seq = ?1"
);
const ATTEMPT_BY_NUMBER: &str = concat!(
    "SELECT ",
    row::attempt_columns!(),
    " FROM attempts a WHERE a.seq = ?1 AND a.number = ?2"
);
const ATTEMPTS_AFTER: &str = concat!(
    "SELECT ",
    row::attempt_columns!(),
    " FROM attempts a WHERE a.seq = ?1 AND a.number > ?2 ORDER BY a.number LIMIT ?3"
);
const COUNTS_EVENTS: &str = "SELECT events FROM heads WHERE seq = ?1";
const COUNTS_ATTEMPTS: &str = "SELECT attempts FROM heads WHERE seq = ?1";
const EVENTS_AFTER: &str = concat!(
    "SELECT ",
    row::event_columns!(),
    " FROM events e WHERE e.seq = ?1 AND e.number > ?2 ORDER BY e.number LIMIT ?3"
);
const FEED_AFTER: &str = concat!(
    "SELECT ",
    row::event_columns!(),
    ", ",
    row::order_columns!(),
    " FROM events e LEFT JOIN orders o ON o.seq = e.seq WHERE e.position > ?1 ORDER BY e.position LIMIT ?2"
);

/// Where the columns of the data and the head stand in the two order queries.
const DATA_AT: usize = ORDER_COLUMNS_COUNT;
const HEAD_AT: usize = DATA_AT + 2;
const SEQ_AT: usize = HEAD_AT + 13;

/// An order, and where it stands.
pub(crate) struct Loaded {
    pub(crate) order: Order,
    pub(crate) place: Place,
}

impl Reader {
    /// An order by its id.
    pub(crate) fn order(&mut self, id: OrderId) -> Result<Option<Loaded>, Failure> {
        self.load(ORDER_BY_ID, id.0.as_bytes(), Some(id))
    }

    /// An order by its number.
    pub(crate) fn order_by_seq(&mut self, seq: i64) -> Result<Option<Loaded>, Failure> {
        self.load(ORDER_BY_SEQ, seq, None)
    }

    fn load(&mut self, sql: &str, by: impl rusqlite::ToSql, id: Option<OrderId>) -> Result<Option<Loaded>, Failure> {
        let (seq, accepted, data, found) = {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query([by])?;
            let Some(row) = rows.next()? else {
                return id
                    .map_or(Ok(()), |id| ids::prove_absent(&self.connection, id))
                    .map(|()| None);
            };
            let seq: i64 = row.get(SEQ_AT)?;
            let name = || id.map_or_else(|| seq.to_string(), |id| id.to_string());
            for (at, what) in [(SEQ_AT + 1, "the acceptance"), (SEQ_AT + 2, "the head")] {
                if row.get::<_, Option<i64>>(at)?.is_none() {
                    return Err(corrupt(row::of_order(what, name()), "it is missing").into());
                }
            }
            let (accepted, _) = row::acceptance(&self.connection, &mut self.dictionary, row, 0, seq)?;
            if id.is_some_and(|id| id != accepted.id) {
                let detail = format!("its id leads to order {}", accepted.id);
                return Err(corrupt(row::of_order("the acceptance", name()), detail).into());
            }
            let data = row::data(row, DATA_AT, seq, accepted.id)?;
            let found = row::head(&self.connection, &mut self.dictionary, row, HEAD_AT, seq, accepted.id)?;
            (seq, accepted, data, found)
        };
        let place = match found.head.lane.as_ref().filter(|lane| lane.standing) {
            Some(lane) => self.place(&lane.name, seq, found.lane_position)?,
            None => Place::Alone,
        };
        let results = self.results(seq, accepted.id, &found.results)?;
        let order = Order {
            accepted: Arc::new(accepted),
            head: found.head,
            data,
            results,
        };
        Ok(Some(Loaded { order, place }))
    }

    fn place(&self, lane: &str, seq: i64, position: Option<i64>) -> Result<Place, Failure> {
        let head: Option<i64> = self
            .connection
            .prepare_cached("SELECT seq FROM lanes WHERE lane = ?1 AND waiting = 0")?
            .query_row([lane], |row| row.get(0))
            .optional()?;
        if head == Some(seq) {
            return Ok(Place::Head);
        }
        let before: u32 = self
            .connection
            .prepare_cached(
                "SELECT count(*) FROM (SELECT 1 FROM lanes WHERE lane = ?1 AND waiting = 1 AND position < ?2 LIMIT ?3)",
            )?
            .query_row(params![lane, position, Place::BEHIND_MAX], |row| row.get(0))?;
        Ok(Place::Behind(
            (before + u32::from(head.is_some())).min(Place::BEHIND_MAX),
        ))
    }

    fn results(&mut self, seq: i64, id: OrderId, numbers: &Results) -> Result<Vec<(Arc<str>, Json)>, Failure> {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let mut statement = self.connection.prepare_cached(ATTEMPT_BY_NUMBER)?;
        let mut results = Vec::with_capacity(numbers.len());
        for (step, number) in numbers {
            let mut rows = statement.query(params![seq, *number as i64])?;
            let missing = || corrupt(row::of_order(&format!("attempt {number}"), id), "its result is missing");
            let row = rows.next()?.ok_or_else(missing)?;
            let (_, attempt) = row::attempt(&self.connection, &mut self.dictionary, row, id)?;
            results.push((step.clone(), attempt.result.ok_or_else(missing)?));
        }
        Ok(results)
    }

    /// The id of the order with this number.
    pub(crate) fn id_of(&self, seq: i64) -> Result<Option<OrderId>, Failure> {
        Ok(self
            .connection
            .prepare_cached("SELECT id FROM orders WHERE seq = ?1")?
            .query_row([seq], |row| Ok(OrderId(Uuid::from_bytes(row.get(0)?))))
            .optional()?)
    }

    /// A part of an order's events.
    pub(crate) fn history(&mut self, id: OrderId, after: u64, max: usize) -> Result<Vec<Event>, Failure> {
        let Some(seq) = ids::seq_of(&self.connection, id)? else {
            return Ok(Vec::new());
        };
        let mut statement = self.connection.prepare_cached(EVENTS_AFTER)?;
        let mut rows = statement.query(params![seq, bound(after), bound(max as u64)])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            events.push(row::event(&self.connection, &mut self.dictionary, row, id)?.2);
        }
        self.is_whole(
            "the events",
            COUNTS_EVENTS,
            id,
            seq,
            (after, max),
            events.iter().map(|event| event.number),
        )?;
        Ok(events)
    }

    /// Refuses a part of an order's rows in which one is missing: a checksum proves only what is there. The head counts
    /// them, and they are numbered without gaps.
    fn is_whole(
        &self,
        what: &str,
        counted: &str,
        id: OrderId,
        seq: i64,
        (after, max): (u64, usize),
        found: impl ExactSizeIterator<Item = u64>,
    ) -> Result<(), Failure> {
        let counted: Option<i64> = self
            .connection
            .prepare_cached(counted)?
            .query_row([seq], |row| row.get(0))
            .optional()?;
        let counted = counted.unwrap_or(0).max(0) as u64;
        let expected = counted.saturating_sub(after).min(max as u64);
        let there = found.len() as u64;
        if there != expected || found.zip(after.saturating_add(1)..).any(|(number, due)| number != due) {
            let detail = format!("after number {after} there are {there}, and should be {expected}");
            return Err(corrupt(row::of_order(what, id), detail).into());
        }
        Ok(())
    }

    /// All events of an order, each with its position.
    pub(crate) fn events_of(&mut self, seq: i64, id: OrderId) -> Result<Vec<(u64, Event)>, Failure> {
        let mut statement = self.connection.prepare_cached(EVENTS_AFTER)?;
        let mut rows = statement.query(params![seq, 0, i64::MAX])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            let (position, _, event) = row::event(&self.connection, &mut self.dictionary, row, id)?;
            events.push((position as u64, event));
        }
        Ok(events)
    }

    /// A part of an order's attempts.
    pub(crate) fn attempts(&mut self, id: OrderId, after: u64, max: usize) -> Result<Vec<Attempt>, Failure> {
        let Some(seq) = ids::seq_of(&self.connection, id)? else {
            return Ok(Vec::new());
        };
        let mut statement = self.connection.prepare_cached(ATTEMPTS_AFTER)?;
        let mut rows = statement.query(params![seq, bound(after), bound(max as u64)])?;
        let mut attempts = Vec::new();
        while let Some(row) = rows.next()? {
            attempts.push(row::attempt(&self.connection, &mut self.dictionary, row, id)?.1);
        }
        let numbers = attempts.iter().map(|attempt| attempt.number);
        self.is_whole("the attempts", COUNTS_ATTEMPTS, id, seq, (after, max), numbers)?;
        Ok(attempts)
    }

    /// A page of the feed.
    ///
    /// Retention removes orders wherever they stand in the feed. A cursor from before the newest event that it has
    /// removed may therefore have missed some, and is reset; the feed begins behind that event, so that whoever
    /// begins again misses nothing from there on.
    pub(crate) fn feed(&mut self, epoch: u64, from: FeedStart, max: usize) -> Result<FeedPage, Failure> {
        let (newest, retained): (i64, i64) = self
            .connection
            .prepare_cached("SELECT position, retained FROM state WHERE id = 0")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (newest, retained) = (newest as u64, retained as u64);
        let after = match from {
            FeedStart::Oldest => retained,
            FeedStart::Newest => newest,
            FeedStart::After(cursor) => {
                if cursor.epoch != epoch || cursor.position > newest || cursor.position < retained {
                    return Err(StoreError::CursorReset.into());
                }
                cursor.position
            }
        };
        let mut events = Vec::new();
        let mut statement = self.connection.prepare_cached(FEED_AFTER)?;
        let mut rows = statement.query(params![bound(after), bound(max as u64)])?;
        while let Some(row) = rows.next()? {
            let position: i64 = row.get(0)?;
            let seq: i64 = row.get(1)?;
            if row.get::<_, Option<Vec<u8>>>(EVENT_COLUMNS_COUNT)?.is_none() {
                let detail = format!("its event at {position} is there, but it is missing");
                return Err(corrupt(row::of_order("the acceptance", seq), detail).into());
            }
            let (accepted, _) = row::acceptance(&self.connection, &mut self.dictionary, row, EVENT_COLUMNS_COUNT, seq)?;
            let (position, _, event) = row::event(&self.connection, &mut self.dictionary, row, accepted.id)?;
            events.push(FeedEvent {
                order: accepted.id,
                order_type: accepted.order_type,
                customer: accepted.customer,
                group: accepted.group,
                event,
                cursor: Cursor {
                    epoch,
                    position: position as u64,
                },
            });
        }
        let notices = notice::after(&self.connection, epoch, bound(after), bound(max as u64))?;
        let start = Cursor { epoch, position: after };
        Ok(FeedPage::first(start, events, notices, max))
    }

    /// Events of an order as the feed has them.
    pub(crate) fn feed_of(
        &mut self,
        epoch: u64,
        id: OrderId,
        after: u64,
        max: usize,
    ) -> Result<Vec<FeedEvent>, Failure> {
        let Some(seq) = ids::seq_of(&self.connection, id)? else {
            return Ok(Vec::new());
        };
        let sql = concat!("SELECT ", row::order_columns!(), " FROM orders o WHERE o.seq = ?1");
        let accepted = {
            let mut statement = self.connection.prepare_cached(sql)?;
            let mut rows = statement.query([seq])?;
            let row = rows
                .next()?
                .ok_or_else(|| corrupt(row::of_order("the acceptance", id), "it is missing"))?;
            row::acceptance(&self.connection, &mut self.dictionary, row, 0, seq)?.0
        };
        let mut statement = self.connection.prepare_cached(EVENTS_AFTER)?;
        let mut rows = statement.query(params![seq, bound(after), bound(max as u64)])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            let (position, _, event) = row::event(&self.connection, &mut self.dictionary, row, id)?;
            events.push(FeedEvent {
                order: id,
                order_type: accepted.order_type.clone(),
                customer: accepted.customer.clone(),
                group: accepted.group.clone(),
                event,
                cursor: Cursor {
                    epoch,
                    position: position as u64,
                },
            });
        }
        self.is_whole(
            "the events",
            COUNTS_EVENTS,
            id,
            seq,
            (after, max),
            events.iter().map(|one| one.event.number),
        )?;
        Ok(events)
    }

    /// The first entries of the due list: when, and the order's number.
    pub(crate) fn due(&self, max: usize) -> Result<Vec<(i64, i64)>, Failure> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT at, seq FROM due ORDER BY at, seq LIMIT ?1")?;
        let rows = statement.query_map([bound(max as u64)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// A type's source.
    pub(crate) fn type_source(&self, hash: TypeHash) -> Result<Option<TypeSource>, Failure> {
        let found: Option<(Option<String>, Option<String>, Option<i64>)> = self
            .connection
            .prepare_cached("SELECT name, source, crc FROM types WHERE hash = ?1")?
            .query_row([hash.0], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((Some(name), Some(source), crc)) = found else {
            return Ok(None);
        };
        if crc != Some(row::type_sum(hash, &name, &source)) {
            return Err(corrupt(format!("the type {hash}"), "its checksum does not match").into());
        }
        Ok(Some(TypeSource { hash, name, source }))
    }

    /// The versions of types that orders live on.
    pub(crate) fn live_types(&self) -> Result<Vec<(TypeHash, u64)>, Failure> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT hash, live FROM types WHERE live > 0 ORDER BY id")?;
        let rows = statement.query_map([], |row| Ok((TypeHash(row.get(0)?), row.get::<_, i64>(1)? as u64)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// What dead letters died of, most frequent first.
    pub(crate) fn causes(&mut self, max: usize) -> Result<Vec<Cause>, Failure> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT id, cause, type, n FROM causes WHERE n > 0 ORDER BY n DESC, id LIMIT ?1")?;
        let mut newest = self
            .connection
            .prepare_cached("SELECT max(seq) FROM by_cause WHERE cause = ?1")?;
        let mut rows = statement.query([bound(max as u64)])?;
        let mut causes = Vec::new();
        while let Some(row) = rows.next()? {
            let seq: Option<i64> = newest.query_row([row.get::<_, i64>(0)?], |row| row.get(0))?;
            causes.push(Cause {
                cause: row.get(1)?,
                order_type: self.dictionary.name(&self.connection, row.get(2)?)?.to_string(),
                count: row.get::<_, i64>(3)?.max(0) as u64,
                example: seq.map(|seq| self.id_of(seq)).transpose()?.flatten(),
            });
        }
        Ok(causes)
    }
}

/// A number that may exceed what SQLite can hold; then nothing lies beyond it.
pub(crate) fn bound(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
