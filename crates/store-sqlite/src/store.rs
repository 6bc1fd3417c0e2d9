//! The store port, over the writer and the readers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_model::{Attempt, Event, LedgerLine, OrderId, Token, TypeHash};
use comanda_store::ledger::check_posting;
use comanda_store::record::check_record;
use comanda_store::{
    Account, Capabilities, Cause, Claims, Commit, CommitError, Counters, DeadItem, DeadItemMove, FeedPage, FeedStart,
    ItemClaims, ItemOutcome, ItemToken, ListQuery, OrderPage, PostError, Posted, Posting, PutError, QueueClaim,
    QueueCount, Record, StatusCount, Store, StoreError, Stored, SubscriptionStore, Ticket, TypeSource, WorkClaims,
};
use jiff::Timestamp;
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot, watch};

use crate::claim;
use crate::dictionary::Dictionary;
use crate::failure::{Context, Failure};
use crate::read::Loaded;
use crate::writer::{Aborted, Shared, Writer};
use crate::{Inner, SqliteStore, backup, retain, row, work};

/// The most rows of history, attempts, feed or causes that one read answers with, whatever was asked for.
pub(crate) const ROWS_MAX: usize = 10_000;

pub(crate) fn closed(what: &'static str) -> StoreError {
    StoreError::failed(what, std::io::Error::other("the store is closed"))
}

pub(crate) fn read_only() -> StoreError {
    StoreError::ReadOnly(Arc::new(std::io::Error::other("the store was opened for reading only")))
}

impl Inner {
    /// Runs something on the writer's thread, between batches.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        what: &'static str,
        run: impl for<'c> FnOnce(&mut Writer<'c>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.read_only {
            return Err(read_only());
        }
        let (answer, answered) = oneshot::channel();
        let staged = self.shared.queue.run(Box::new(move |writer| {
            // A caller that has stopped waiting needs no answer.
            let _ = answer.send(run(writer));
        }));
        if !staged {
            return Err(closed(what));
        }
        answered.await.unwrap_or_else(|_| Err(closed(what)))
    }
}

fn stored(shared: &Shared, loaded: Loaded) -> Stored {
    let claim = shared.claims.on(loaded.order.id(), shared.clock.micros());
    let claim = claim.map(|(token, until)| (token, claim::time(until).unwrap_or(Timestamp::MAX)));
    Stored {
        worker: work::worker_of(&shared.claims, loaded.order.id()),
        order: Arc::new(loaded.order),
        claim,
        place: loaded.place,
    }
}

/// How many orders stand where, by the row of `states`.
pub(crate) fn counts(connection: &Connection) -> Result<HashMap<i64, StatusCount>, StoreError> {
    let read = || -> Result<_, Failure> {
        let mut dictionary = Dictionary::default();
        let mut statement = connection.prepare("SELECT id, n FROM states")?;
        let rows: Vec<(i64, i64)> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<Result<_, _>>()?;
        let mut counts = HashMap::new();
        for (id, n) in rows {
            let state = dictionary.state(connection, id)?;
            let count = StatusCount {
                order_type: state.order_type.to_string(),
                status: state.status.to_string(),
                phase: state.phase,
                count: n.max(0) as u64,
            };
            counts.insert(id, count);
        }
        Ok(counts)
    };
    read().context("read the store's counts")
}

#[async_trait]
impl Store for SqliteStore {
    fn commit(&self, commits: Vec<Commit>) -> Vec<Ticket> {
        if self.inner.read_only {
            return commits.iter().map(|_| Ticket::failed(read_only().into())).collect();
        }
        self.inner.shared.queue.stage(commits)
    }

    async fn claim(&self, max: usize, lease: Duration) -> Result<Claims, StoreError> {
        let shared = self.inner.shared.clone();
        let granted = self
            .inner
            .readers
            .run("claim due orders", move |reader| reader.claim(&shared, max, lease))
            .await?;
        Ok(granted.take())
    }

    async fn renew(&self, token: &Token, lease: Duration) -> Result<Timestamp, CommitError> {
        let shared = &self.inner.shared;
        if shared
            .claims
            .held(token.order)
            .is_some_and(|held| held.worker.is_some())
        {
            return self.inner.renew_work(*token, lease).await;
        }
        claim::renew(shared, token, lease).ok_or(CommitError::TokenStale)
    }

    async fn release(&self, tokens: &[Token]) -> Result<(), StoreError> {
        let claims = &self.inner.shared.claims;
        let (outside, own): (Vec<Token>, Vec<Token>) = tokens
            .iter()
            .partition(|token| claims.held(token.order).is_some_and(|held| held.worker.is_some()));
        claims.release(&own);
        if outside.is_empty() {
            return Ok(());
        }
        self.inner.release_work(outside).await
    }

    async fn claim_work(&self, asked: &QueueClaim) -> Result<WorkClaims, StoreError> {
        self.inner.claim_work(asked).await
    }

    async fn claim_items(&self, asked: &QueueClaim) -> Result<ItemClaims, StoreError> {
        self.inner.claim_items(asked).await
    }

    async fn settle_item(&self, token: &ItemToken, outcome: &ItemOutcome) -> Result<Option<String>, StoreError> {
        self.inner.settle_item(*token, outcome.clone()).await
    }

    async fn renew_item(&self, token: &ItemToken, lease: Duration) -> Result<Option<Timestamp>, StoreError> {
        self.inner.renew_item(*token, lease).await
    }

    async fn dead_items(&self, queue: &str, after: u64, max: usize) -> Result<Vec<DeadItem>, StoreError> {
        let (queue, max) = (queue.to_owned(), max.min(ROWS_MAX));
        self.inner
            .readers
            .read("read a queue's dead letters", move |reader| {
                reader.dead_items(&queue, after, max)
            })
            .await
    }

    async fn move_dead_items(&self, queue: &str, positions: &[u64], to: DeadItemMove) -> Result<u64, StoreError> {
        self.inner.move_dead_items(queue, positions, to).await
    }

    async fn queues(&self) -> Result<Vec<QueueCount>, StoreError> {
        let shared = self.inner.shared.clone();
        self.inner
            .readers
            .read("read the queues", move |reader| reader.queues(&shared))
            .await
    }

    async fn order(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        let loaded = self
            .inner
            .readers
            .read("read an order", move |reader| reader.order(id))
            .await?;
        Ok(loaded.map(|loaded| stored(&self.inner.shared, loaded)))
    }

    async fn key(&self, scope: &str, key: &str) -> Result<Option<(OrderId, [u8; 32])>, StoreError> {
        let (scope, key) = (scope.to_owned(), key.to_owned());
        let now = self.inner.shared.clock.micros();
        self.inner
            .readers
            .read("read a key", move |reader| reader.key(&scope, &key, now))
            .await
    }

    async fn history(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Event>, StoreError> {
        let max = max.min(ROWS_MAX);
        self.inner
            .readers
            .read("read an order's events", move |reader| reader.history(id, after, max))
            .await
    }

    async fn attempts(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Attempt>, StoreError> {
        let max = max.min(ROWS_MAX);
        self.inner
            .readers
            .read("read an order's attempts", move |reader| {
                reader.attempts(id, after, max)
            })
            .await
    }

    async fn put_type(&self, source: &TypeSource) -> Result<(), StoreError> {
        const WHAT: &str = "keep a type's source";
        let source = source.clone();
        self.inner
            .write(WHAT, move |writer| {
                let kept = writer.within_transaction(|writer| {
                    let id = writer.dictionary.intern_type(writer.connection, source.hash)?;
                    let sum = row::type_sum(source.hash, &source.name, &source.source);
                    let changed = writer
                        .connection
                        .prepare_cached(
                            "UPDATE types SET name = ?2, source = ?3, crc = ?4 WHERE id = ?1 AND source IS NULL",
                        )?
                        .execute(params![id, source.name, source.source, sum])?;
                    Ok(((), changed > 0))
                });
                kept.map_err(|aborted| match aborted {
                    Aborted::Failed(failure) | Aborted::Unknown(failure) => failure.into_store_error(WHAT),
                })
            })
            .await
    }

    async fn type_source(&self, hash: TypeHash) -> Result<Option<TypeSource>, StoreError> {
        self.inner
            .readers
            .read("read a type's source", move |reader| reader.type_source(hash))
            .await
    }

    async fn live_types(&self) -> Result<Vec<(TypeHash, u64)>, StoreError> {
        self.inner
            .readers
            .read("read the types in use", |reader| reader.live_types())
            .await
    }

    async fn feed(&self, from: FeedStart, max: usize) -> Result<FeedPage, StoreError> {
        let (epoch, max) = (self.inner.epoch, max.min(ROWS_MAX));
        self.inner
            .readers
            .read("read the feed", move |reader| reader.feed(epoch, from, max))
            .await
    }

    async fn list(&self, query: &ListQuery) -> Result<OrderPage, StoreError> {
        let query = query.clone();
        let (page, next) = self
            .inner
            .readers
            .read("list orders", move |reader| reader.list(&query))
            .await?;
        let orders = page
            .into_iter()
            .map(|loaded| stored(&self.inner.shared, loaded))
            .collect();
        Ok(OrderPage { orders, next })
    }

    async fn causes(&self, max: usize) -> Result<Vec<Cause>, StoreError> {
        let max = max.min(ROWS_MAX);
        self.inner
            .readers
            .read("read the causes of dead letters", move |reader| reader.causes(max))
            .await
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        let shared = self.inner.shared.clone();
        let what = "read the oldest due work";
        let oldest_due_at = self
            .inner
            .readers
            .run(what, move |reader| claim::oldest_due(reader, &shared))
            .await?;
        let mut counts: Vec<_> = self
            .inner
            .shared
            .counts
            .lock()
            .values()
            .filter(|count| count.count > 0)
            .cloned()
            .collect();
        counts.sort_by(|one, other| {
            (&one.order_type, &one.status, one.phase.name()).cmp(&(
                &other.order_type,
                &other.status,
                other.phase.name(),
            ))
        });
        Ok(Counters {
            as_of: Some(self.now()),
            counts,
            oldest_due_at,
        })
    }

    async fn post(&self, posting: &Posting) -> Result<Posted, PostError> {
        check_posting(posting)?;
        let posting = posting.clone();
        self.inner
            .write("post to the ledger", move |writer| Ok(writer.post(&posting)))
            .await?
    }

    async fn accounts(&self, names: &[String]) -> Result<Vec<Account>, StoreError> {
        let names = names.to_vec();
        self.inner
            .readers
            .read("read accounts", move |reader| {
                names.iter().map(|name| reader.account(name)).collect()
            })
            .await
    }

    async fn accounts_after(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Account>, StoreError> {
        let (prefix, after, max) = (prefix.to_owned(), after.map(str::to_owned), max.min(ROWS_MAX));
        self.inner
            .readers
            .read("list accounts", move |reader| {
                reader.accounts_after(&prefix, after.as_deref(), max)
            })
            .await
    }

    async fn ledger_of(&self, id: OrderId) -> Result<Vec<LedgerLine>, StoreError> {
        self.inner
            .readers
            .read("read what an order has moved", move |reader| reader.ledger_of(id))
            .await
    }

    async fn record(&self, kind: &str, key: &str) -> Result<Option<Record>, StoreError> {
        let (kind, key) = (kind.to_owned(), key.to_owned());
        self.inner
            .readers
            .read("read a record", move |reader| reader.record(&kind, &key))
            .await
    }

    async fn records_after(&self, kind: &str, after: Option<&str>, max: usize) -> Result<Vec<Record>, StoreError> {
        let (kind, after, max) = (kind.to_owned(), after.map(str::to_owned), max.min(ROWS_MAX));
        self.inner
            .readers
            .read("list records", move |reader| {
                reader.records_after(&kind, after.as_deref(), max)
            })
            .await
    }

    async fn put_record(&self, record: &Record) -> Result<(), PutError> {
        check_record(record)?;
        let record = record.clone();
        self.inner
            .write("write a record", move |writer| Ok(writer.put_record(&record)))
            .await?
    }

    async fn remove_records(&self, kind: &str, keys: &[String]) -> Result<usize, StoreError> {
        let (kind, keys) = (kind.to_owned(), keys.to_vec());
        self.inner
            .write("remove records", move |writer| writer.remove_records(&kind, &keys))
            .await
    }

    async fn retain(&self, before: Timestamp, max: usize) -> Result<usize, StoreError> {
        let before = before.as_microsecond();
        let mut removed = 0;
        // Keys go with the orders' bites, and further ones only when nothing else is left to do.
        loop {
            let left = max - removed;
            let bite = self
                .inner
                .write("remove old orders", move |writer| writer.retain_bite(before, left))
                .await?;
            removed += bite.orders;
            let more_orders = removed < max && bite.orders == left.min(retain::BITE_MAX);
            if !more_orders && bite.keys < retain::BITE_MAX {
                return Ok(removed);
            }
        }
    }

    async fn backup(&self, to: &Path, progress: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<(), StoreError> {
        let (from, to) = (self.inner.path.clone(), to.to_owned());
        let read_only = self.inner.read_only;
        let (told, mut tell) = mpsc::channel(16);
        let copied = tokio::task::spawn_blocking(move || {
            let mut report = |done, all| {
                // A report that nobody has time for is no loss; the next one says more.
                let _ = told.try_send((done, all));
            };
            backup::copy(&from, read_only, &to, &mut report)
        });
        let mut last = (0, 0);
        while let Some((done, all)) = tell.recv().await {
            last = (done, all);
            progress(done, all);
        }
        copied
            .await
            .map_err(|error| StoreError::failed("write the backup", error))??;
        if last.0 != last.1 {
            progress(last.1, last.1);
        }
        Ok(())
    }

    fn position(&self) -> watch::Receiver<u64> {
        self.inner.shared.position.subscribe()
    }

    fn now(&self) -> Timestamp {
        self.inner.shared.clock.now()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "sqlite",
            durable: true,
            many_nodes: false,
            backup: true,
            queues: true,
            ledger: true,
            status_queues: true,
            notices: true,
            erasure: true,
        }
    }

    fn subscriptions(&self) -> Option<&dyn SubscriptionStore> {
        Some(self)
    }

    async fn health(&self) -> Result<(), StoreError> {
        if self.inner.read_only {
            return Err(read_only());
        }
        if self.inner.shared.ailment.lock().is_some() {
            // Whoever is refused because of this writes nothing, so nothing else would find out that it is over.
            return self.inner.write("write", |writer| writer.check_health()).await;
        }
        if self.inner.shared.queue.is_open() {
            Ok(())
        } else {
            Err(closed("take commits"))
        }
    }

    async fn close(&self) -> Result<(), StoreError> {
        let inner = self.inner.clone();
        tokio::task::spawn_blocking(move || inner.shut())
            .await
            .map_err(|error| StoreError::failed("close the store", error))?;
        match &*self.inner.shared.ailment.lock() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}
