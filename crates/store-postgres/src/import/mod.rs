//! Moving another store's orders into an empty database: piece by piece, so that a move which was interrupted goes on
//! where it was, and compared piece by piece before any node may serve them.
//!
//! Facts about the move stand in `meta`: `moving_from`, the epoch of the store that is moved; `moving_seq`, the last order
//! that is here; `moving_whole` when everything is; and after the comparison only `moved_from`. While `moving_from` stands
//! there no node opens the database.

mod rest;
mod rows;

use comanda_store::StoreError;
use comanda_store::piece::Piece;
use deadpool_postgres::Object;
use tokio::sync::mpsc;
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use self::rows::Batch;
use crate::column::signed;
use crate::export::Export;
use crate::failure::{Failure, store_error};
use crate::record::text;
use crate::server::{Parameter, Server};
use crate::{Options, migrate, settings};

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
INSERT INTO comanda.ledger_counts (kind, n) SELECT 'e', count(*) FROM comanda.ledger_entries UNION ALL
    SELECT 'p', count(*) FROM comanda.postings;
ANALYZE comanda.orders, comanda.heads, comanda.due, comanda.events, comanda.items;
";

impl Import {
    /// Begins a move, or goes on with it: makes the schema where it is not there.
    ///
    /// # Errors
    /// If the database already holds orders that are not of this store.
    pub async fn begin(options: &Options, source_epoch: u64) -> Result<(Self, Moved), StoreError> {
        let server = Server::new(&options.address, 2, options.answer_time_max.max(crate::VERIFY_TIME_MAX))?;
        settings::check(&server).await?;
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
            rest::write(&transaction, piece, epoch).await?;
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
