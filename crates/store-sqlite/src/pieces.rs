//! The store in pieces, to be moved into another one. Every row's checksum is proved on the way, and nothing is changed.

use std::path::Path;
use std::sync::Arc;

use comanda_model::{Order, Token};
use comanda_store::piece::{Counters, Piece, WholeItem, WholeOrder};
use comanda_store::{KeyClaim, StoreError, Worker};
use jiff::Timestamp;
use rusqlite::{OptionalExtension, params};

use crate::claim::time;
use crate::failure::{Context, Failure, corrupt};
use crate::ledger::{balance, flow_sum, posting_sum, prove};
use crate::lock::Lock;
use crate::readers::Reader;
use crate::row::{self, ORDER_COLUMNS_COUNT};
use crate::{Options, SqliteStore, items, notice, record, schema, subscription, work};

const ORDERS: &str = concat!(
    "SELECT ",
    row::order_columns!(),
    ", ",
    row::data_columns!(),
    ", ",
    row::head_columns!(),
    ", o.seq FROM orders o LEFT JOIN heads h ON h.seq = o.seq WHERE o.seq > ?1 ORDER BY o.seq LIMIT ?2"
);
const HEAD_AT: usize = ORDER_COLUMNS_COUNT + 2;
const SEQ_AT: usize = HEAD_AT + 13;
/// How many orders are read at a time.
const CHUNK: i64 = 200;
/// The reader's page cache, in KiB.
const CACHE_KIB: u32 = 64 * 1024;

/// A store that is read in pieces. No process can serve it meanwhile.
pub struct Pieces {
    reader: Reader,
    epoch: u64,
    _lock: Lock,
}

/// Whoever takes the pieces; an error ends the reading.
type Each<'e> = dyn FnMut(Piece) -> Result<(), StoreError> + 'e;

impl Pieces {
    /// Opens the store in a directory; one of an older format is brought up to date first.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if a process has it open.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let store = SqliteStore::open(Options::new(directory))?;
        drop(store);
        let lock = Lock::take(directory)?;
        let reader = Reader::open(&directory.join(schema::FILE), schema::Use::Read, CACHE_KIB)?;
        let epoch = schema::epoch(&reader.connection)?;
        Ok(Self {
            reader,
            epoch,
            _lock: lock,
        })
    }

    /// The store's epoch: tells it from every other.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many orders there are.
    pub fn orders_count(&self) -> Result<u64, StoreError> {
        let count: rusqlite::Result<i64> = self
            .reader
            .connection
            .query_row("SELECT count(*) FROM orders", [], |row| row.get(0));
        Ok(count.context("count the orders")?.max(0) as u64)
    }

    /// Hands over every piece, in the order of [`Piece`]; of the orders those with a number above `after`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names what is damaged: then nothing can be moved until `comanda verify` finds nothing.
    pub fn read(&mut self, after: u64, each: &mut Each<'_>) -> Result<(), StoreError> {
        const WHAT: &str = "read the store";
        let parts = [
            Self::types,
            Self::queues,
            Self::ledger,
            Self::records,
            Self::subscriptions,
            Self::notices,
        ];
        let mut run = || -> Result<(), Failure> {
            let [types, rest @ ..] = parts;
            types(self, each)?;
            self.orders(after, each)?;
            for part in rest {
                part(self, each)?;
            }
            self.counters(each)
        };
        run().map_err(|failure| failure.into_store_error(WHAT))
    }

    fn types(&mut self, each: &mut Each<'_>) -> Result<(), Failure> {
        let hashes: Vec<[u8; 32]> = {
            let sql = "SELECT hash FROM types WHERE source IS NOT NULL ORDER BY hash";
            let mut statement = self.reader.connection.prepare(sql)?;
            let rows = statement.query_map([], |row| row.get(0))?;
            rows.collect::<Result<_, _>>()?
        };
        for hash in hashes {
            if let Some(source) = self.reader.type_source(comanda_model::TypeHash(hash))? {
                each(Piece::Type(source))?;
            }
        }
        Ok(())
    }

    fn orders(&mut self, after: u64, each: &mut Each<'_>) -> Result<(), Failure> {
        let mut after = i64::try_from(after).unwrap_or(i64::MAX);
        loop {
            let mut found = Vec::new();
            {
                let reader = &mut self.reader;
                let mut statement = reader.connection.prepare_cached(ORDERS)?;
                let mut rows = statement.query([after, CHUNK])?;
                while let Some(row) = rows.next()? {
                    let seq: i64 = row.get(SEQ_AT)?;
                    after = seq;
                    let connection = &reader.connection;
                    let (accepted, keys) = row::acceptance(connection, &mut reader.dictionary, row, 0, seq)?;
                    let data = row::data(row, ORDER_COLUMNS_COUNT, seq, accepted.id)?;
                    let head = row::head(connection, &mut reader.dictionary, row, HEAD_AT, seq, accepted.id)?;
                    found.push((seq, accepted, data, head, keys));
                }
            }
            let read = found.len() as i64;
            for (seq, accepted, data, head, keys) in found {
                let id = accepted.id;
                let heads_lane = match head.head.lane.as_ref().filter(|lane| lane.standing) {
                    Some(lane) => Some(self.heads(&lane.name, seq)?),
                    None => None,
                };
                let whole = WholeOrder {
                    seq: seq as u64,
                    events: self.reader.events_of(seq, id)?,
                    attempts: self.reader.attempts(id, 0, usize::MAX)?,
                    keys: self.keys(seq, keys.as_deref())?,
                    lane_position: head.lane_position.map(|position| position as u64),
                    heads_lane,
                    lines: self.reader.ledger_of(id)?,
                    items: self.items(seq)?,
                    worker: self.worker(seq)?,
                    order: Order {
                        accepted: Arc::new(accepted),
                        head: head.head,
                        data,
                        results: Vec::new(),
                    },
                };
                each(Piece::Order(Box::new(whole)))?;
            }
            if read < CHUNK {
                return Ok(());
            }
        }
    }

    fn heads(&self, lane: &str, seq: i64) -> Result<bool, Failure> {
        let head: Option<i64> = self
            .reader
            .connection
            .prepare_cached("SELECT seq FROM lanes WHERE lane = ?1 AND waiting = 0")?
            .query_row([lane], |row| row.get(0))
            .optional()?;
        Ok(head == Some(seq))
    }

    fn keys(&mut self, seq: i64, list: Option<&str>) -> Result<Vec<KeyClaim>, Failure> {
        let list: Vec<(String, String)> = list
            .map_or(Ok(Vec::new()), serde_json::from_str)
            .map_err(|error| corrupt(row::of_order("the list of keys", seq), error.to_string()))?;
        let mut keys = Vec::with_capacity(list.len());
        for (scope, key) in list {
            let Some(scope_id) = self.reader.dictionary.name_id(&self.reader.connection, &scope)? else {
                continue;
            };
            let found = {
                let mut statement = self.reader.connection.prepare_cached(
                    "SELECT seq, fingerprint, expires_at, crc FROM keys WHERE scope = ?1 AND key = ?2",
                )?;
                let mut rows = statement.query(params![scope_id, key])?;
                rows.next()?.map(|row| row::key(row, &scope, &key)).transpose()?
            };
            // One that had expired may lead to another order by now.
            if let Some(found) = found.filter(|found| found.seq == seq) {
                keys.push(KeyClaim {
                    scope,
                    key,
                    fingerprint: found.fingerprint,
                    expires_at: found.expires_at.and_then(time),
                });
            }
        }
        keys.sort_by(|a, b| (&a.scope, &a.key).cmp(&(&b.scope, &b.key)));
        keys.dedup();
        Ok(keys)
    }

    fn items(&mut self, seq: i64) -> Result<Vec<WholeItem>, Failure> {
        let found = items::of_order(&self.reader.connection, seq)?;
        let mut whole = Vec::with_capacity(found.len());
        for item in found {
            let queue: String = self
                .reader
                .connection
                .prepare_cached("SELECT name FROM queues WHERE id = ?1")?
                .query_row([item.queue], |row| row.get(0))?;
            let status = self.reader.dictionary.name(&self.reader.connection, item.status)?;
            whole.push(item.whole(queue.into(), status));
        }
        Ok(whole)
    }

    fn worker(&self, seq: i64) -> Result<Option<(Token, String, Worker, Timestamp)>, Failure> {
        let mut held = None;
        work::claim_of(&self.reader.connection, seq, |claim| {
            held = Some(claim);
        })?;
        let Some(claim) = held else { return Ok(None) };
        let (_, token, outside) = claim?;
        let queue: String = self
            .reader
            .connection
            .prepare_cached("SELECT name FROM queues WHERE id = ?1")?
            .query_row([outside.queue], |row| row.get(0))?;
        let worker = Worker {
            name: outside.name.to_string(),
            since: time(outside.since).unwrap_or_default(),
        };
        Ok(Some((
            token,
            queue,
            worker,
            time(outside.lease_until).unwrap_or_default(),
        )))
    }

    fn queues(&mut self, each: &mut Each<'_>) -> Result<(), Failure> {
        let mut statement = self
            .reader
            .connection
            .prepare("SELECT name FROM queues ORDER BY name")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            each(Piece::Queue(row.get(0)?))?;
        }
        Ok(())
    }

    fn ledger(&mut self, each: &mut Each<'_>) -> Result<(), Failure> {
        let connection = &self.reader.connection;
        let mut statement =
            connection.prepare("SELECT account, place, quantity, crc FROM balances ORDER BY account, place")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (account, place, quantity) = balance(row)?;
            each(Piece::Balance {
                account,
                place,
                quantity,
            })?;
        }
        let mut statement = connection
            .prepare("SELECT account, source, target, quantity, crc FROM flows ORDER BY account, source, target")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (account, from, to): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            let quantity: i64 = row.get(3)?;
            prove(row.get(4)?, flow_sum(&account, &from, &to, quantity), || {
                format!("the sum of what went from `{from}` to `{to}` of `{account}`")
            })?;
            each(Piece::Flow {
                account,
                from,
                to,
                quantity,
            })?;
        }
        let mut statement = connection.prepare("SELECT once, fingerprint, at, crc FROM postings ORDER BY once")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (once_id, fingerprint, at): (String, [u8; 32], i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            prove(row.get(3)?, posting_sum(&once_id, &fingerprint, at), || {
                format!("the posting `{once_id}`")
            })?;
            each(Piece::Posting {
                once_id,
                fingerprint,
                at: time(at).unwrap_or_default(),
            })?;
        }
        Ok(())
    }

    fn records(&mut self, each: &mut Each<'_>) -> Result<(), Failure> {
        let mut statement = self
            .reader
            .connection
            .prepare("SELECT kind, key, version, value, crc FROM records ORDER BY kind, key")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            each(Piece::Record(record::record(row)?))?;
        }
        Ok(())
    }

    fn subscriptions(&mut self, each: &mut Each<'_>) -> Result<(), Failure> {
        for whole in subscription::whole(&self.reader.connection, self.epoch)? {
            each(Piece::Subscription(Box::new(whole)))?;
        }
        subscription::each_delivery(&self.reader.connection, |id, delivery| {
            Ok(each(Piece::Delivery(id, delivery))?)
        })
    }

    fn notices(&mut self, each: &mut Each<'_>) -> Result<(), Failure> {
        let mut after = 0;
        loop {
            let read = notice::after(&self.reader.connection, self.epoch, after, CHUNK)?;
            let Some(last) = read.last() else { return Ok(()) };
            after = i64::try_from(last.cursor.position).unwrap_or(i64::MAX);
            for found in read {
                each(Piece::Notice(found.cursor.position, found.notice))?;
            }
        }
    }

    fn counters(&mut self, each: &mut Each<'_>) -> Result<(), Failure> {
        let sql = "SELECT seq, position, lane_position, retained FROM state WHERE id = 0";
        let counters = self.reader.connection.query_row(sql, [], |row| {
            let number = |index| Ok::<u64, rusqlite::Error>(row.get::<_, i64>(index)?.max(0) as u64);
            Ok(Counters {
                seq: number(0)?,
                position: number(1)?,
                lane_position: number(2)?,
                retained: number(3)?,
            })
        })?;
        Ok(each(Piece::Counters(counters))?)
    }
}
