//! Moving another store's orders into an empty database: piece by piece, so that a move which was interrupted goes on
//! where it was, and compared piece by piece before any node may serve them.
//!
//! Facts about the move stand in `meta`: `moving_from`, the epoch of the store that is moved; `moving_seq`, the last order
//! that is here; `moving_whole` when everything is; and after the comparison only `moved_from`. While `moving_from` stands
//! there no node opens the database.

use comanda_model::Phase;
use comanda_store::piece::{Counters, Piece, WholeOrder};
use comanda_store::{Numbered, StoreError};
use deadpool_postgres::Object;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::column::{due_time, signed, small};
use crate::columns::columns;
use crate::export::Export;
use crate::failure::{Failure, store_error};
use crate::server::{Parameter, Server};
use crate::text::to_column;
use crate::{Options, migrate};

const WHAT: &str = "move orders into the database";
/// The most orders, and about the most bytes, that one transaction takes.
const ORDERS_MAX: usize = 200;
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// The first format that knows of moves: older nodes are kept out of a database that one has gone to.
const MOVES_SINCE: u32 = 2;

/// A move into a database.
#[derive(Debug)]
pub struct Import {
    server: Server,
    source_epoch: u64,
}

/// How far a move has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// The orders up to this number are there; 0 for none.
    UpTo(u64),
    /// Everything is there, and is yet to be compared.
    Whole,
    /// It was compared and is in use, or may be.
    Done,
}

/// What was moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// How many orders.
    pub orders: u64,
    /// How many of their events.
    pub events: u64,
    /// How many of their attempts.
    pub attempts: u64,
    /// How many other things.
    pub others: u64,
}

columns! { Orders of OrderRow:
    id: Uuid = UUID_ARRAY, seq: i64 = INT8_ARRAY, order_type: String = TEXT_ARRAY, key: Option<String> = TEXT_ARRAY,
    customer: Option<String> = TEXT_ARRAY, group_key: Option<String> = TEXT_ARRAY, status: String = TEXT_ARRAY,
    at: Timestamp = TIMESTAMPTZ_ARRAY, traceparent: Option<String> = TEXT_ARRAY, data: String = TEXT_ARRAY,
}

columns! { Heads of HeadRow:
    id: Uuid = UUID_ARRAY, seq: i64 = INT8_ARRAY, order_type: String = TEXT_ARRAY, status: String = TEXT_ARRAY,
    phase: i16 = INT2_ARRAY, type_hash: Vec<u8> = BYTEA_ARRAY, version: i64 = INT8_ARRAY, commit_id: Uuid = UUID_ARRAY,
    events: i64 = INT8_ARRAY, attempts: i64 = INT8_ARRAY, updated_at: Timestamp = TIMESTAMPTZ_ARRAY,
    due_at: Option<Timestamp> = TIMESTAMPTZ_ARRAY, due_queued_at: Option<Timestamp> = TIMESTAMPTZ_ARRAY,
    queue: Option<String> = TEXT_ARRAY, queued_at: Option<Timestamp> = TIMESTAMPTZ_ARRAY, visit: i32 = INT4_ARRAY,
    attempt: i32 = INT4_ARRAY, cause: Option<String> = TEXT_ARRAY, lane: Option<String> = TEXT_ARRAY,
    lane_position: Option<i64> = INT8_ARRAY, head: String = TEXT_ARRAY,
}

columns! { Events of EventRow:
    position: i64 = INT8_ARRAY, id: Uuid = UUID_ARRAY, number: i64 = INT8_ARRAY, at: Timestamp = TIMESTAMPTZ_ARRAY,
    kind: i16 = INT2_ARRAY, from_status: Option<String> = TEXT_ARRAY, to_status: Option<String> = TEXT_ARRAY,
    by: String = TEXT_ARRAY, reason: Option<String> = TEXT_ARRAY, changed: Option<String> = TEXT_ARRAY,
}

columns! { Attempts of AttemptRow:
    id: Uuid = UUID_ARRAY, number: i64 = INT8_ARRAY, visit: i32 = INT4_ARRAY, attempt: i32 = INT4_ARRAY,
    step: String = TEXT_ARRAY, undo: bool = BOOL_ARRAY, started_at: Timestamp = TIMESTAMPTZ_ARRAY,
    ended_at: Timestamp = TIMESTAMPTZ_ARRAY, outcome: i16 = INT2_ARRAY, reason: Option<String> = TEXT_ARRAY,
    result: Option<String> = TEXT_ARRAY,
}

columns! { Keys of KeyRow:
    scope: String = TEXT_ARRAY, key: String = TEXT_ARRAY, id: Uuid = UUID_ARRAY, fingerprint: Vec<u8> = BYTEA_ARRAY,
    expires_at: Option<Timestamp> = TIMESTAMPTZ_ARRAY, commit_id: Uuid = UUID_ARRAY,
}

columns! { Lanes of LaneRow:
    name: String = TEXT_ARRAY, active: Uuid = UUID_ARRAY,
}

columns! { Waiting of WaitingRow:
    lane: String = TEXT_ARRAY, position: i64 = INT8_ARRAY, id: Uuid = UUID_ARRAY,
}

columns! { Lines of LineRow:
    id: Uuid = UUID_ARRAY, once: String = TEXT_ARRAY, account: String = TEXT_ARRAY, source: String = TEXT_ARRAY,
    target: String = TEXT_ARRAY, quantity: i64 = INT8_ARRAY,
}

columns! { Items of ItemRow:
    position: i64 = INT8_ARRAY, queue: String = TEXT_ARRAY, id: Uuid = UUID_ARRAY, status: String = TEXT_ARRAY,
    version: i64 = INT8_ARRAY, at: Timestamp = TIMESTAMPTZ_ARRAY, lane: String = TEXT_ARRAY, parks: bool = BOOL_ARRAY,
    attempts_max: i32 = INT4_ARRAY, attempt: i32 = INT4_ARRAY, due_at: Timestamp = TIMESTAMPTZ_ARRAY,
    secret: Option<Uuid> = UUID_ARRAY, worker: Option<String> = TEXT_ARRAY,
    died_at: Option<Timestamp> = TIMESTAMPTZ_ARRAY, reason: Option<String> = TEXT_ARRAY, holds: bool = BOOL_ARRAY,
    head: bool = BOOL_ARRAY,
}

columns! { Due of DueRow:
    id: Uuid = UUID_ARRAY, seq: i64 = INT8_ARRAY, visit: i32 = INT4_ARRAY, attempt: i32 = INT4_ARRAY,
    held_visit: i32 = INT4_ARRAY, held_attempt: i32 = INT4_ARRAY, secret: Uuid = UUID_ARRAY,
    lease_until: Timestamp = TIMESTAMPTZ_ARRAY, worker: String = TEXT_ARRAY, worker_queue: String = TEXT_ARRAY,
    since: Timestamp = TIMESTAMPTZ_ARRAY,
}

/// Some orders as rows of every table that they stand in.
#[derive(Debug, Default)]
struct Batch {
    orders: Orders,
    heads: Heads,
    events: Events,
    attempts: Attempts,
    keys: Keys,
    lanes: Lanes,
    waiting: Waiting,
    lines: Lines,
    items: Items,
    due: Due,
    last: u64,
    bytes: usize,
}

fn text(text: &str) -> String {
    to_column(text).into_owned()
}

fn maybe(option: Option<&str>) -> Option<String> {
    option.map(text)
}

fn json(value: &impl serde::Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::failed("write an order as JSON", error))
}

impl Batch {
    fn is_full(&self) -> bool {
        self.orders.id.len() >= ORDERS_MAX || self.bytes >= BYTES_MAX
    }

    fn add(&mut self, whole: &WholeOrder) -> Result<(), StoreError> {
        let (order, head, accepted) = (&whole.order, &whole.order.head, &whole.order.accepted);
        let (id, seq) = (order.id().0, signed(whole.seq));
        self.last = whole.seq;
        self.bytes += order.data.as_str().len() + 1000;
        self.orders.push(OrderRow {
            id,
            seq,
            order_type: text(&accepted.order_type),
            key: maybe(accepted.key.as_deref()),
            customer: maybe(accepted.customer.as_deref()),
            group_key: maybe(accepted.group.as_deref()),
            status: text(&accepted.status),
            at: accepted.at,
            traceparent: maybe(accepted.traceparent.as_deref()),
            data: order.data.as_str().to_owned(),
        });
        let queued = head.queued_at(true);
        let work = head.work.as_ref();
        let lane = head.lane.as_ref().filter(|lane| lane.standing);
        let lane = lane.map(|lane| text(&lane.name)).filter(|_| whole.heads_lane.is_some());
        let position = whole.lane_position.map(signed);
        match (&lane, whole.heads_lane) {
            (Some(name), Some(true)) => self.lanes.push(LaneRow {
                name: name.clone(),
                active: id,
            }),
            (Some(name), Some(false)) => self.waiting.push(WaitingRow {
                lane: name.clone(),
                position: position.unwrap_or(0),
                id,
            }),
            _ => {}
        }
        let dead = head.dead.as_ref().filter(|_| head.phase == Phase::Dead);
        self.heads.push(HeadRow {
            id,
            seq,
            order_type: text(&accepted.order_type),
            status: text(&head.status),
            phase: i16::from(head.phase.number()),
            type_hash: head.type_hash.0.to_vec(),
            version: signed(head.version),
            commit_id: head.commit_id.0,
            events: signed(head.events),
            attempts: signed(head.attempts),
            updated_at: head.updated_at,
            due_at: head.due_at(true).map(due_time),
            due_queued_at: head.due_at(false).map(due_time),
            queue: queued.map(|(queue, _)| text(queue)),
            queued_at: queued.map(|(_, at)| due_time(at)),
            visit: work.map_or(0, |work| small(work.visit)),
            attempt: work.map_or(0, |work| small(work.attempt)),
            cause: dead.map(|dead| text(&dead.cause)),
            lane,
            lane_position: position,
            head: json(head)?,
        });
        self.add_records(whole, id)?;
        if let Some((token, queue, worker, lease_until)) = &whole.worker {
            self.due.push(DueRow {
                id,
                seq,
                visit: work.map_or(0, |work| small(work.visit)),
                attempt: work.map_or(0, |work| small(work.attempt)),
                held_visit: small(token.visit),
                held_attempt: small(token.attempt),
                secret: token.secret,
                lease_until: *lease_until,
                worker: text(&worker.name),
                worker_queue: text(queue),
                since: worker.since,
            });
        }
        Ok(())
    }

    fn add_records(&mut self, whole: &WholeOrder, id: Uuid) -> Result<(), StoreError> {
        for (position, event) in &whole.events {
            let changed = (!event.changed.is_empty()).then(|| json(&event.changed));
            self.events.push(EventRow {
                position: signed(*position),
                id,
                number: signed(event.number),
                at: event.at,
                kind: i16::from(event.kind.number()),
                from_status: maybe(event.from.as_deref()),
                to_status: maybe(event.to.as_deref()),
                by: text(&event.by),
                reason: maybe(event.reason.as_deref()),
                changed: changed.transpose()?,
            });
        }
        for attempt in &whole.attempts {
            self.bytes += attempt.result.as_ref().map_or(0, |result| result.as_str().len());
            self.attempts.push(AttemptRow {
                id,
                number: signed(attempt.number),
                visit: small(attempt.visit),
                attempt: small(attempt.attempt),
                step: text(&attempt.step),
                undo: attempt.undo,
                started_at: attempt.started_at,
                ended_at: attempt.ended_at,
                outcome: i16::from(attempt.outcome.number()),
                reason: maybe(attempt.reason.as_deref()),
                result: attempt.result.as_ref().map(|result| result.as_str().to_owned()),
            });
        }
        for key in &whole.keys {
            self.keys.push(KeyRow {
                scope: text(&key.scope),
                key: text(&key.key),
                id,
                fingerprint: key.fingerprint.to_vec(),
                expires_at: key.expires_at,
                // Whose commit it was is only asked within that commit.
                commit_id: Uuid::nil(),
            });
        }
        for line in &whole.lines {
            self.lines.push(LineRow {
                id,
                once: text(&line.once_id),
                account: text(&line.account),
                source: text(&line.from),
                target: text(&line.to),
                quantity: i64::from(line.quantity),
            });
        }
        for item in &whole.items {
            self.items.push(ItemRow {
                position: signed(item.position),
                queue: text(&item.queue),
                id,
                status: text(&item.status),
                version: signed(item.version),
                at: item.at,
                lane: text(&item.lane),
                parks: item.parks,
                attempts_max: small(item.attempts_max),
                attempt: small(item.attempt),
                due_at: item.due_at,
                secret: item.lease.as_ref().map(|(secret, _)| *secret),
                worker: item.lease.as_ref().map(|(_, worker)| text(worker)),
                died_at: item.died.as_ref().map(|(at, _)| *at),
                reason: item.died.as_ref().map(|(_, reason)| text(reason)),
                holds: item.died.is_none() || item.parks,
                head: false,
            });
        }
        Ok(())
    }

    async fn write(&self, transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
        self.orders.insert(transaction, "orders").await?;
        self.heads.insert(transaction, "heads").await?;
        self.events.insert(transaction, "events").await?;
        self.attempts.insert(transaction, "attempts").await?;
        self.keys.insert(transaction, "keys").await?;
        self.lanes.insert(transaction, "lanes").await?;
        self.waiting.insert(transaction, "lane_waiting").await?;
        self.lines.insert(transaction, "ledger_entries").await?;
        self.items.insert(transaction, "items").await?;
        self.due.insert(transaction, "due").await?;
        set(transaction, "moving_seq", signed(self.last)).await
    }
}

async fn set(transaction: &Transaction<'_>, name: &str, value: i64) -> Result<(), tokio_postgres::Error> {
    let statement = "INSERT INTO comanda.meta VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value";
    transaction
        .query_typed(statement, &[(&name, Type::TEXT), (&value, Type::INT8)])
        .await?;
    Ok(())
}

/// What follows from the pieces: due work, heads of queues' lanes, counts, the ledger's locks.
const DERIVE: &str = "
INSERT INTO comanda.due AS d (id, seq, due_at, queue, queued_at, visit, attempt)
    SELECT h.id, h.seq, CASE WHEN a.active THEN h.due_at ELSE h.due_queued_at END, CASE WHEN a.active THEN h.queue END,
        CASE WHEN a.active THEN h.queued_at END, h.visit, h.attempt
    FROM comanda.heads h, LATERAL (SELECT h.lane IS NULL
        OR EXISTS (SELECT 1 FROM comanda.lanes l WHERE l.name = h.lane AND l.active = h.id) AS active) AS a
    WHERE CASE WHEN a.active THEN coalesce(h.due_at, h.queued_at) ELSE h.due_queued_at END IS NOT NULL
    ON CONFLICT (id) DO UPDATE SET due_at = EXCLUDED.due_at, queue = EXCLUDED.queue, queued_at = EXCLUDED.queued_at;
UPDATE comanda.items SET head = true WHERE holds AND secret IS NOT NULL;
UPDATE comanda.items i SET head = true FROM (
        SELECT DISTINCT ON (queue, lane) position, died_at,
            bool_or(secret IS NOT NULL) OVER (PARTITION BY queue, lane) AS leased
        FROM comanda.items WHERE holds ORDER BY queue, lane, position) AS f
    WHERE f.position = i.position AND f.died_at IS NULL AND NOT f.leased;
INSERT INTO comanda.tally AS t (kind, a, b, c, n)
    SELECT kind, a, b, c, sum(n) FROM (
        SELECT 's'::\"char\" AS kind, order_type AS a, status AS b, phase::text AS c, 1 AS n FROM comanda.heads
        UNION ALL SELECT 'l', encode(type_hash, 'hex'), '', '', 1 FROM comanda.heads WHERE phase <> 4
        UNION ALL SELECT 'c', order_type, cause, '', 1 FROM comanda.heads WHERE cause IS NOT NULL
        UNION ALL SELECT 'q', queue, '', '', 1 FROM comanda.due WHERE queue IS NOT NULL
        UNION ALL SELECT CASE WHEN died_at IS NULL THEN 'q' ELSE 'd' END::\"char\", queue, '', '', 1 FROM comanda.items
    ) AS c GROUP BY kind, a, b, c
    ON CONFLICT (kind, a, b, c) DO UPDATE SET n = t.n + EXCLUDED.n;
INSERT INTO comanda.accounts SELECT DISTINCT account FROM comanda.balances ON CONFLICT DO NOTHING;
ANALYZE comanda.orders, comanda.heads, comanda.due, comanda.events, comanda.items;
";

impl Import {
    /// Begins a move, or goes on with it: makes the schema where it is not there.
    ///
    /// # Errors
    /// If the database already holds orders that are not of this store.
    pub async fn begin(options: &Options, source_epoch: u64) -> Result<(Self, Moved), StoreError> {
        let server = Server::new(&options.address, 2, options.answer_time_max.max(crate::VERIFY_TIME_MAX))?;
        migrate::check_settings(&server).await?;
        migrate::up(&server).await?;
        let import = Self { server, source_epoch };
        let moved = import.state().await?;
        if moved == Moved::UpTo(0) {
            let mut connection = import.connection().await?;
            import
                .mark(&mut connection)
                .await
                .map_err(|error| store_error(WHAT, error))?;
        }
        Ok((import, moved))
    }

    async fn connection(&self) -> Result<Object, StoreError> {
        self.server.connection(WHAT).await.map_err(Failure::into_error)
    }

    async fn state(&self) -> Result<Moved, StoreError> {
        let statement = "SELECT name, value FROM comanda.meta WHERE name LIKE 'mov%' UNION ALL \
             SELECT 'orders', count(*) FROM (SELECT 1 FROM comanda.orders LIMIT 1) AS o";
        let rows = self
            .server
            .ask(WHAT, statement, &[])
            .await
            .map_err(Failure::into_error)?;
        let value = |name: &str| {
            let row = rows.iter().find(|row| row.get::<_, &str>(0) == name);
            row.map(|row| row.get::<_, i64>(1))
        };
        let epoch = Some(signed(self.source_epoch));
        if value("moved_from") == epoch {
            return Ok(Moved::Done);
        }
        if value("moving_from") == epoch {
            return Ok(match value("moving_whole") {
                Some(_) => Moved::Whole,
                None => Moved::UpTo(value("moving_seq").and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0)),
            });
        }
        if value("moving_from").is_some() || value("orders") != Some(0) {
            let cause = std::io::Error::other(
                "it holds other orders. Orders are only moved into an empty database: name another one",
            );
            return Err(StoreError::failed(WHAT, cause));
        }
        Ok(Moved::UpTo(0))
    }

    async fn mark(&self, connection: &mut Object) -> Result<(), tokio_postgres::Error> {
        let transaction = connection.transaction().await?;
        set(&transaction, "moving_from", signed(self.source_epoch)).await?;
        set(&transaction, "usable_by", i64::from(MOVES_SINCE)).await?;
        transaction.commit().await
    }

    /// Takes the pieces, those of orders above what is already there. `progress` is told each order.
    pub async fn take(
        &self,
        mut pieces: mpsc::Receiver<Piece>,
        progress: &(dyn Fn() + Send + Sync),
    ) -> Result<(), StoreError> {
        let failed = |error| store_error(WHAT, error);
        let mut connection = self.connection().await?;
        let mut batch = Batch::default();
        let mut next = None;
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Type(source) => {
                    let transaction = connection.transaction().await.map_err(failed)?;
                    let (hash, name, source) = (source.hash.0.to_vec(), text(&source.name), text(&source.source));
                    let statement = "INSERT INTO comanda.types VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
                    let parameters: [Parameter<'_>; 3] =
                        [(&hash, Type::BYTEA), (&name, Type::TEXT), (&source, Type::TEXT)];
                    transaction.query_typed(statement, &parameters).await.map_err(failed)?;
                    transaction.commit().await.map_err(failed)?;
                }
                Piece::Order(whole) => {
                    batch.add(&whole)?;
                    progress();
                    if batch.is_full() {
                        write(&mut connection, &batch).await.map_err(failed)?;
                        batch = Batch::default();
                    }
                }
                other => {
                    next = Some(other);
                    break;
                }
            }
        }
        if batch.last > 0 {
            write(&mut connection, &batch).await.map_err(failed)?;
        }
        // All the rest is one transaction, which ends with the last piece.
        let epoch = signed(Export::new(self.server.clone()).epoch().await?);
        let transaction = connection.transaction().await.map_err(failed)?;
        while let Some(piece) = next {
            let last = matches!(piece, Piece::Counters(_));
            rest(&transaction, piece, epoch).await?;
            if last {
                transaction.batch_execute(DERIVE).await.map_err(failed)?;
                set(&transaction, "moving_whole", 1).await.map_err(failed)?;
                return transaction.commit().await.map_err(failed);
            }
            next = pieces.recv().await;
        }
        // The reading has failed, and tells why.
        Ok(())
    }

    /// Compares everything that is here with the other store's pieces, one by one.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the first piece that is not the same.
    pub async fn compare(
        &self,
        mut pieces: mpsc::Receiver<Piece>,
        progress: &(dyn Fn() + Send + Sync),
    ) -> Result<Compared, StoreError> {
        let export = Export::new(self.server.clone());
        let (sender, mut here) = mpsc::channel(ORDERS_MAX);
        let reading = tokio::spawn(async move { export.read(&sender).await });
        let mut compared = Compared::default();
        loop {
            let (expected, found) = tokio::join!(pieces.recv(), here.recv());
            let (expected, found) = match (expected, found) {
                (Some(expected), Some(found)) => (expected, found),
                (None, None) => break,
                (Some(expected), None) => {
                    // Whatever ended the reading here goes before what is missing.
                    reading.await.map_err(stopped)??;
                    return Err(differs(expected.what()));
                }
                (None, Some(found)) => {
                    reading.abort();
                    return Err(differs(found.what()));
                }
            };
            if expected != found {
                reading.abort();
                return Err(differs(expected.what()));
            }
            match &found {
                Piece::Order(whole) => {
                    compared.orders += 1;
                    compared.events += whole.events.len() as u64;
                    compared.attempts += whole.attempts.len() as u64;
                    progress();
                }
                _ => compared.others += 1,
            }
        }
        reading.await.map_err(stopped)??;
        Ok(compared)
    }

    /// Lets nodes serve what was moved.
    pub async fn finish(&self) -> Result<(), StoreError> {
        let statement = "WITH moving AS (DELETE FROM comanda.meta WHERE name LIKE 'moving%' RETURNING name, value) \
             INSERT INTO comanda.meta SELECT 'moved_from', value FROM moving WHERE name = 'moving_from' \
             ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value";
        self.server
            .ask(WHAT, statement, &[])
            .await
            .map_err(Failure::into_error)?;
        Ok(())
    }
}

fn stopped(error: tokio::task::JoinError) -> StoreError {
    StoreError::failed("read what was moved", error)
}

fn differs(what: String) -> StoreError {
    StoreError::Corrupt {
        what,
        detail: "it is not the same in the database as in the store that it was moved from".to_owned(),
    }
}

async fn write(connection: &mut Object, batch: &Batch) -> Result<(), tokio_postgres::Error> {
    let transaction = connection.transaction().await?;
    batch.write(&transaction).await?;
    transaction.commit().await
}

/// Writes a piece that is no order and no type.
async fn rest(transaction: &Transaction<'_>, piece: Piece, epoch: i64) -> Result<(), StoreError> {
    let ask = async |statement: &str, parameters: &[Parameter<'_>]| {
        let asked = transaction.query_typed(statement, parameters).await;
        asked.map(|_| ()).map_err(|error| store_error(WHAT, error))
    };
    match piece {
        Piece::Type(_) | Piece::Order(_) => Ok(()),
        Piece::Queue(name) => {
            let statement = "INSERT INTO comanda.tally VALUES ('q', $1, '', '', 0) ON CONFLICT DO NOTHING";
            ask(statement, &[(&text(&name), Type::TEXT)]).await
        }
        Piece::Balance {
            account,
            place,
            quantity,
        } => {
            let (account, place) = (text(&account), text(&place));
            let parameters: [Parameter<'_>; 3] =
                [(&account, Type::TEXT), (&place, Type::TEXT), (&quantity, Type::INT8)];
            ask("INSERT INTO comanda.balances VALUES ($1, $2, $3)", &parameters).await
        }
        Piece::Flow {
            account,
            from,
            to,
            quantity,
        } => {
            let (account, from, to) = (text(&account), text(&from), text(&to));
            let parameters: [Parameter<'_>; 4] = [
                (&account, Type::TEXT),
                (&from, Type::TEXT),
                (&to, Type::TEXT),
                (&quantity, Type::INT8),
            ];
            ask("INSERT INTO comanda.ledger_flows VALUES ($1, $2, $3, $4)", &parameters).await
        }
        Piece::Posting {
            once_id,
            fingerprint,
            at,
        } => {
            let (once, fingerprint) = (text(&once_id), fingerprint.to_vec());
            let parameters: [Parameter<'_>; 3] = [
                (&once, Type::TEXT),
                (&fingerprint, Type::BYTEA),
                (&at, Type::TIMESTAMPTZ),
            ];
            ask("INSERT INTO comanda.postings VALUES ($1, $2, $3)", &parameters).await
        }
        Piece::Record(record) => {
            let (kind, key, version) = (text(&record.kind), text(&record.key), signed(record.version));
            let value = record.value.as_str();
            let parameters: [Parameter<'_>; 4] = [
                (&kind, Type::TEXT),
                (&key, Type::TEXT),
                (&version, Type::INT8),
                (&value, Type::TEXT),
            ];
            ask("INSERT INTO comanda.records VALUES ($1, $2, $3, $4)", &parameters).await
        }
        Piece::Subscription(whole) => {
            let (id, spec) = (text(&whole.subscription.id), json(&whole.subscription)?);
            let count = signed(whole.deliveries_count);
            // A cursor in a feed that is no more stays one: whoever follows it is told of the gap.
            let cursor = whole.position.map(|position| match position {
                Some(position) => (epoch, signed(position)),
                None => (0, 0),
            });
            let (at, position) = (cursor.map(|(epoch, _)| epoch), cursor.map(|(_, position)| position));
            let parameters: [Parameter<'_>; 5] = [
                (&id, Type::TEXT),
                (&spec, Type::TEXT),
                (&at, Type::INT8),
                (&position, Type::INT8),
                (&count, Type::INT8),
            ];
            let statement = "INSERT INTO comanda.subscriptions (id, spec, epoch, position, delivery) \
                 VALUES ($1, $2, $3, $4, $5)";
            ask(statement, &parameters).await?;
            for exception in &whole.exceptions {
                let exception_text = json(exception)?;
                let parameters: [Parameter<'_>; 3] = [
                    (&id, Type::TEXT),
                    (&exception.order.0, Type::UUID),
                    (&exception_text, Type::TEXT),
                ];
                let statement = "INSERT INTO comanda.subscription_exceptions VALUES ($1, $2, $3)";
                ask(statement, &parameters).await?;
            }
            Ok(())
        }
        Piece::Delivery(id, delivery) => {
            let (id, number, delivery) = (text(&id), signed(delivery.number), json(&delivery)?);
            let parameters: [Parameter<'_>; 3] = [(&id, Type::TEXT), (&number, Type::INT8), (&delivery, Type::TEXT)];
            ask("INSERT INTO comanda.deliveries VALUES ($1, $2, $3)", &parameters).await
        }
        Piece::Counters(counters) => {
            let Counters {
                seq,
                position,
                lane_position,
                retained,
            } = counters;
            let (seq, position, lane) = (signed(seq), signed(position), signed(lane_position));
            let retained = signed(retained);
            let parameters: [Parameter<'_>; 4] = [
                (&seq, Type::INT8),
                (&position, Type::INT8),
                (&lane, Type::INT8),
                (&retained, Type::INT8),
            ];
            // A sequence that has given nothing yet is at 1, and gives that first.
            let statement = "WITH r AS (UPDATE comanda.meta SET value = $4 WHERE name = 'retained'), \
                 m AS (INSERT INTO comanda.meta VALUES ('moved_to', $2) ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value) \
                 SELECT setval('comanda.order_seq', greatest($1, 1), $1 > 0), \
                 setval('comanda.feed_position', greatest($2, 1), $2 > 0), \
                 setval('comanda.lane_position', greatest($3, 1), $3 > 0), \
                 setval('comanda.item_position', greatest($3, 1), $3 > 0)";
            ask(statement, &parameters).await
        }
    }
}
