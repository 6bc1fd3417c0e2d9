//! Rows that wait for the others of their batch, so that one statement writes several of them: SQLite takes longer to begin
//! and to end a statement than to write a small row.
//!
//! Until they are written, the tables do not have them. Whoever is about to read an order from the tables has its rows
//! written first ([`Writer::write_pending`], [`Writer::write_pending_of`]), and so do all before COMMIT. No more than
//! [`ORDERS_MAX`] orders wait, so that to look whether one of them does costs nothing.

use std::sync::Arc;

use comanda_model::{Acceptance, Json, OrderId};
use rusqlite::types::{Null, ToSql};
use rusqlite::{Connection, Statement};

use crate::column::Time;
use crate::failure::Failure;
use crate::statements::prepare_kept;
use crate::writer::Writer;

/// The most orders whose rows wait. More at once gain next to nothing.
const ORDERS_MAX: usize = 8;
/// How many rows the statements of one table write.
const SIZES: [usize; 4] = [8, 4, 2, 1];

/// A row of one table.
pub(crate) trait Row {
    /// The statement, up to its values. `OR FAIL` where it helps: a row that cannot be written ends the whole transaction, so
    /// that SQLite need not copy the pages of each statement in case it has to undo just that (for tables with a rowid it
    /// does so in any case).
    const INSERT: &'static str;
    /// How many values a row has.
    const COLUMNS: usize;

    /// Gives all values, in the order of the columns.
    fn values(&self, columns: &mut Columns<'_, '_>) -> rusqlite::Result<()>;
}

/// The values of a row, on their way into a statement.
pub(crate) struct Columns<'a, 'c> {
    statement: &'a mut Statement<'c>,
    is_set: &'a mut [bool],
    at: usize,
}

impl Columns<'_, '_> {
    fn value(&mut self, value: impl ToSql) -> rusqlite::Result<()> {
        self.is_set[self.at] = true;
        self.at += 1;
        self.statement.raw_bind_parameter(self.at, value)
    }

    /// A value that most rows do not have. A parameter that nothing was bound to is NULL already.
    fn maybe(&mut self, value: Option<impl ToSql>) -> rusqlite::Result<()> {
        match value {
            Some(value) => self.value(value),
            None if std::mem::take(&mut self.is_set[self.at]) => {
                self.at += 1;
                self.statement.raw_bind_parameter(self.at, Null)
            }
            None => {
                self.at += 1;
                Ok(())
            }
        }
    }
}

/// Writes a fixed number of rows.
struct Insert<'c> {
    statement: Statement<'c>,
    /// Which parameters something is bound to; a statement keeps its values from one use to the next.
    is_set: Vec<bool>,
}

impl<'c> Insert<'c> {
    fn prepare<R: Row>(connection: &'c Connection, rows: usize) -> rusqlite::Result<Self> {
        let one = format!("({})", vec!["?"; R::COLUMNS].join(", "));
        let values = vec![one; rows].join(", ");
        Ok(Self {
            statement: prepare_kept(connection, &format!("{} VALUES {values}", R::INSERT))?,
            is_set: vec![false; rows * R::COLUMNS],
        })
    }

    fn execute<R: Row>(&mut self, rows: &[R]) -> rusqlite::Result<()> {
        let mut columns = Columns {
            statement: &mut self.statement,
            is_set: &mut self.is_set,
            at: 0,
        };
        for row in rows {
            row.values(&mut columns)?;
        }
        self.statement.raw_execute()?;
        Ok(())
    }
}

/// The rows of one table that wait, and the statements that write them.
pub(crate) struct Rows<'c, R> {
    connection: &'c Connection,
    /// One for each of [`SIZES`], prepared when it is first needed.
    inserts: [Option<Insert<'c>>; SIZES.len()],
    waiting: Vec<R>,
}

impl<'c, R: Row> Rows<'c, R> {
    fn new(connection: &'c Connection) -> Self {
        Self {
            connection,
            inserts: [const { None }; SIZES.len()],
            waiting: Vec::new(),
        }
    }

    /// Has a row wait.
    pub(crate) fn push(&mut self, row: R) {
        self.waiting.push(row);
    }

    fn write(&mut self) -> rusqlite::Result<()> {
        let mut rows = self.waiting.as_slice();
        for (size, insert) in SIZES.into_iter().zip(&mut self.inserts) {
            while let Some((now, later)) = rows.split_at_checked(size) {
                let insert = match insert {
                    Some(insert) => insert,
                    None => insert.insert(Insert::prepare::<R>(self.connection, size)?),
                };
                insert.execute(now)?;
                rows = later;
            }
        }
        self.waiting.clear();
        Ok(())
    }
}

/// An order as it was accepted.
pub(crate) struct OrderRow {
    pub(crate) seq: i64,
    pub(crate) order_type: i64,
    pub(crate) status: i64,
    pub(crate) accepted: Arc<Acceptance>,
    pub(crate) keys: Option<String>,
    pub(crate) sum: i64,
    pub(crate) data_sum: i64,
    pub(crate) data: Json,
}

impl Row for OrderRow {
    const INSERT: &'static str = "INSERT INTO orders (seq, id, type, status, at, key, customer, group_key, traceparent, \
        keys, crc, data_crc, data)";
    const COLUMNS: usize = 13;

    fn values(&self, columns: &mut Columns<'_, '_>) -> rusqlite::Result<()> {
        let accepted = &self.accepted;
        columns.value(self.seq)?;
        columns.value(accepted.id.0.as_bytes())?;
        columns.value(self.order_type)?;
        columns.value(self.status)?;
        columns.value(Time(accepted.at))?;
        columns.maybe(accepted.key.as_deref())?;
        columns.maybe(accepted.customer.as_deref())?;
        columns.maybe(accepted.group.as_deref())?;
        columns.maybe(accepted.traceparent.as_deref())?;
        columns.maybe(self.keys.as_deref())?;
        columns.value(self.sum)?;
        columns.value(self.data_sum)?;
        columns.value(self.data.as_str())
    }
}

/// An order's head.
pub(crate) struct HeadRow {
    pub(crate) id: OrderId,
    pub(crate) seq: i64,
    pub(crate) state: i64,
    pub(crate) type_row: i64,
    pub(crate) version: i64,
    pub(crate) etag_version: i64,
    pub(crate) commit_id: [u8; 16],
    pub(crate) updated_at: Time,
    pub(crate) events: i64,
    pub(crate) attempts: i64,
    pub(crate) visits: u32,
    pub(crate) lane_position: Option<i64>,
    pub(crate) sum: i64,
    pub(crate) results: Option<String>,
    pub(crate) rest: Option<String>,
}

impl Row for HeadRow {
    const INSERT: &'static str = "REPLACE INTO heads (seq, state, type_hash, version, etag_version, commit_id, updated_at, \
        events, attempts, visits, lane_position, crc, results, rest)";
    const COLUMNS: usize = 14;

    fn values(&self, columns: &mut Columns<'_, '_>) -> rusqlite::Result<()> {
        columns.value(self.seq)?;
        columns.value(self.state)?;
        columns.value(self.type_row)?;
        columns.value(self.version)?;
        columns.value(self.etag_version)?;
        columns.value(self.commit_id)?;
        columns.value(self.updated_at)?;
        columns.value(self.events)?;
        columns.value(self.attempts)?;
        columns.value(self.visits)?;
        columns.maybe(self.lane_position)?;
        columns.value(self.sum)?;
        columns.maybe(self.results.as_deref())?;
        columns.maybe(self.rest.as_deref())
    }
}

/// An event of an order.
pub(crate) struct EventRow {
    pub(crate) position: i64,
    pub(crate) seq: i64,
    pub(crate) number: i64,
    pub(crate) at: Time,
    pub(crate) kind: u8,
    pub(crate) from: Option<i64>,
    pub(crate) to: Option<i64>,
    pub(crate) by: i64,
    pub(crate) sum: i64,
    pub(crate) reason: Option<String>,
    pub(crate) changed: Option<String>,
}

impl Row for EventRow {
    const INSERT: &'static str =
        "INSERT INTO events (position, seq, number, at, kind, from_status, to_status, by, crc, reason, changed)";
    const COLUMNS: usize = 11;

    fn values(&self, columns: &mut Columns<'_, '_>) -> rusqlite::Result<()> {
        columns.value(self.position)?;
        columns.value(self.seq)?;
        columns.value(self.number)?;
        columns.value(self.at)?;
        columns.value(self.kind)?;
        columns.maybe(self.from)?;
        columns.maybe(self.to)?;
        columns.value(self.by)?;
        columns.value(self.sum)?;
        columns.maybe(self.reason.as_deref())?;
        columns.maybe(self.changed.as_deref())
    }
}

/// That an id leads to an order.
pub(crate) struct IdRow {
    pub(crate) id: OrderId,
    pub(crate) seq: i64,
}

impl Row for IdRow {
    const INSERT: &'static str = "INSERT OR FAIL INTO ids (id, seq)";
    const COLUMNS: usize = 2;

    fn values(&self, columns: &mut Columns<'_, '_>) -> rusqlite::Result<()> {
        columns.value(self.id.0.as_bytes())?;
        columns.value(self.seq)
    }
}

/// That an order stands in a state.
pub(crate) struct StateRow {
    pub(crate) state: i64,
    pub(crate) seq: i64,
}

impl Row for StateRow {
    const INSERT: &'static str = "INSERT OR FAIL INTO by_state (state, seq)";
    const COLUMNS: usize = 2;

    fn values(&self, columns: &mut Columns<'_, '_>) -> rusqlite::Result<()> {
        columns.value(self.state)?;
        columns.value(self.seq)
    }
}

/// All rows that wait. Each order that has any has its head here.
pub(crate) struct Pending<'c> {
    pub(crate) ids: Rows<'c, IdRow>,
    pub(crate) orders: Rows<'c, OrderRow>,
    pub(crate) heads: Rows<'c, HeadRow>,
    pub(crate) events: Rows<'c, EventRow>,
    pub(crate) states: Rows<'c, StateRow>,
    /// Rows of this transaction could not be written, so that it must not be committed.
    is_broken: bool,
}

impl<'c> Pending<'c> {
    /// Nothing waits.
    pub(crate) fn new(connection: &'c Connection) -> Self {
        Self {
            ids: Rows::new(connection),
            orders: Rows::new(connection),
            heads: Rows::new(connection),
            events: Rows::new(connection),
            states: Rows::new(connection),
            is_broken: false,
        }
    }

    /// Forgets what belonged to a transaction that is over.
    pub(crate) fn clear(&mut self) {
        self.ids.waiting.clear();
        self.orders.waiting.clear();
        self.heads.waiting.clear();
        self.events.waiting.clear();
        self.states.waiting.clear();
        self.is_broken = false;
    }

    fn write(&mut self) -> rusqlite::Result<()> {
        self.ids.write()?;
        self.orders.write()?;
        self.heads.write()?;
        self.states.write()?;
        self.events.write()
    }
}

impl Writer<'_> {
    /// Writes all rows that wait. Once that has failed, it fails for the rest of the transaction: a caller may have taken
    /// the failure for that of the order which it was about to read.
    pub(crate) fn write_pending(&mut self) -> Result<(), Failure> {
        if self.pending.is_broken {
            let cause = std::io::Error::other("rows of this batch could not be written");
            return Err(comanda_store::StoreError::failed("write a commit", cause).into());
        }
        let written = self.pending.write();
        self.pending.is_broken = written.is_err();
        Ok(written?)
    }

    /// Writes the rows that wait, if there are as many as one statement writes.
    pub(crate) fn write_pending_if_full(&mut self) -> Result<(), Failure> {
        if self.pending.heads.waiting.len() < ORDERS_MAX {
            return Ok(());
        }
        self.write_pending()
    }

    /// Writes the rows that wait, if any is this order's.
    pub(crate) fn write_pending_of(&mut self, id: OrderId) -> Result<(), Failure> {
        if self.pending.heads.waiting.iter().any(|head| head.id == id) {
            self.write_pending()?;
        }
        Ok(())
    }

    /// Writes the rows that wait, if any is of the order with this number.
    pub(crate) fn write_pending_of_seq(&mut self, seq: i64) -> Result<(), Failure> {
        if self.pending.heads.waiting.iter().any(|head| head.seq == seq) {
            self.write_pending()?;
        }
        Ok(())
    }
}
