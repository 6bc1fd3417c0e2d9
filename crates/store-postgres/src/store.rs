//! The store port, over the server and the committer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_model::{Attempt, Event, LedgerLine, OrderId, Phase, Token, TypeHash};
use comanda_store::{
    Account, Capabilities, Cause, Claims, Commit, CommitError, Counters, DeadItem, DeadItemMove, FeedPage, FeedStart,
    ItemClaims, ItemOutcome, ItemToken, ListQuery, Numbered, OrderPage, PostError, Posted, Posting, PutError,
    QueueClaim, QueueCount, RateStore, Record, StatusCount, Store, StoreError, Stored, SubscriptionStore, Ticket,
    TypeSource, WorkClaim, WorkClaims, Worker,
};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::PostgresStore;
use crate::claiming::{self, Looked, What};
use crate::column::{bounded, micros, signed, small};
use crate::failure::{Failure, corrupt};
use crate::follow;
use crate::read::{self, LIST_ROWS_MAX, ListStatements};
use crate::server::Parameter;
use crate::settings;
use crate::text::{from_column, to_column};

/// The most claims of one call.
pub(crate) const CLAIMS_MAX: usize = 1000;
/// The most orders on one page, whatever was asked for.
const LIMIT_MAX: usize = 1000;
/// The most orders, and keys, that one transaction removes, so that nobody waits for it.
const BITE_MAX: usize = 200;

fn closed(what: &'static str) -> StoreError {
    StoreError::failed(what, std::io::Error::other("the store is closed"))
}

/// Whether a claim got as many as it asked for, so that there may be more.
pub(crate) fn is_full(count: usize, max: i32) -> bool {
    i32::try_from(count).is_ok_and(|count| count >= max)
}

/// The token of a row that claims an order.
pub(crate) fn claimed(row: &Row, order: Uuid) -> Token {
    let count = |name| u32::try_from(row.get::<_, i32>(name)).unwrap_or(0);
    Token {
        order: OrderId(order),
        visit: count("visit"),
        attempt: count("attempt"),
        secret: row.get("secret"),
    }
}

impl PostgresStore {
    /// What the last row of a claim tells of where it looked.
    pub(crate) fn looked(&self, row: &Row, from: Option<Timestamp>, cut_at: Option<Timestamp>) -> Looked {
        Looked {
            whole: from.is_none(),
            passed: u64::try_from(row.get::<_, i64>("passed")).unwrap_or(0),
            at: row.get("clock"),
            cut_at,
        }
    }

    pub(crate) async fn ask(
        &self,
        what: &'static str,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        self.server
            .ask(what, statement, parameters)
            .await
            .map_err(Failure::into_error)
    }

    /// As [`Self::ask`], and again where it met another transaction, after which nothing of it was applied.
    pub(crate) async fn ask_again(
        &self,
        what: &'static str,
        statement: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let asked = self.server.ask_again(what, statement, parameters).await;
        asked.map_err(Failure::into_error)
    }

    /// Orders by their ids, in that order; those that are not there are left out.
    pub(crate) async fn read(&self, what: &'static str, ids: &[Uuid]) -> Result<Vec<Stored>, StoreError> {
        let rows = self
            .ask(what, "SELECT * FROM comanda.read($1)", &[(&ids, Type::UUID_ARRAY)])
            .await?;
        let mut orders = Vec::with_capacity(rows.len());
        for row in rows {
            let clock: Timestamp = row.get("clock");
            self.clock.learn(clock);
            let mut stored = read::stored(&row)?;
            stored.claim = stored.claim.filter(|(_, until)| *until > clock);
            orders.push(stored);
        }
        Ok(orders)
    }
}

#[async_trait]
impl Store for PostgresStore {
    fn commit(&self, commits: Vec<Commit>) -> Vec<Ticket> {
        self.queue.stage(commits)
    }

    async fn claim(&self, max: usize, lease: Duration) -> Result<Claims, StoreError> {
        self.claim_due(max, lease).await
    }

    async fn claim_work(&self, asked: &QueueClaim) -> Result<WorkClaims, StoreError> {
        const WHAT: &str = "claim work from a queue";
        let (queue, worker) = (to_column(&asked.queue), to_column(&asked.worker));
        let max = i32::try_from(asked.max.min(CLAIMS_MAX)).unwrap_or(i32::MAX);
        let lease = micros(asked.lease);
        let what = What::Work(asked.queue.clone());
        let from = self.claiming.from(&what);
        let from_text = claiming::from_column(from);
        let rows = self
            .ask_again(
                WHAT,
                "SELECT * FROM comanda.claim_work($1, $2, $3, $4, $5::text::timestamptz)",
                &[
                    (&queue, Type::TEXT),
                    (&worker, Type::TEXT),
                    (&max, Type::INT4),
                    (&lease, Type::INT8),
                    (&from_text, Type::TEXT),
                ],
            )
            .await?;
        let mut claims = WorkClaims::default();
        let mut held = Vec::new();
        for row in &rows {
            self.clock.learn(row.get("clock"));
            if let Some(id) = row.get::<_, Option<Uuid>>("id") {
                held.push((id, row));
                continue;
            }
            claims.next_due_at = row.get("next_at");
            let last = held.last().filter(|_| is_full(held.len(), max));
            let looked = self.looked(row, from, last.and_then(|(_, row)| row.get("next_at")));
            self.claiming.learn(what.clone(), looked);
        }
        let ids: Vec<Uuid> = held.iter().map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return Ok(claims);
        }
        let mut orders = self.read(WHAT, &ids).await?.into_iter().peekable();
        for (id, row) in held {
            let lost: Option<String> = row.get("lost_worker");
            if let Some(stored) = orders.next_if(|stored| stored.order.id().0 == id) {
                claims.claims.push(WorkClaim {
                    order: Arc::unwrap_or_clone(stored.order),
                    token: claimed(row, id),
                    lease_until: row.get("lease_until"),
                    lost: lost
                        .map(from_column)
                        .zip(row.get("lost_since"))
                        .map(|(name, since)| Worker { name, since }),
                });
            }
        }
        Ok(claims)
    }

    async fn queues(&self) -> Result<Vec<QueueCount>, StoreError> {
        self.count_queues().await
    }

    async fn claim_items(&self, asked: &QueueClaim) -> Result<ItemClaims, StoreError> {
        self.claim_queued(asked).await
    }

    async fn settle_item(&self, token: &ItemToken, outcome: &ItemOutcome) -> Result<Option<String>, StoreError> {
        self.settle_queued(token, outcome).await
    }

    async fn renew_item(&self, token: &ItemToken, lease: Duration) -> Result<Option<Timestamp>, StoreError> {
        self.renew_queued(token, lease).await
    }

    async fn dead_items(&self, queue: &str, after: u64, max: usize) -> Result<Vec<DeadItem>, StoreError> {
        self.dead_queued(queue, after, max).await
    }

    async fn move_dead_items(&self, queue: &str, positions: &[u64], to: DeadItemMove) -> Result<u64, StoreError> {
        self.move_dead_queued(queue, positions, to).await
    }

    async fn post(&self, posting: &Posting) -> Result<Posted, PostError> {
        self.apply_posting(posting).await
    }

    async fn accounts(&self, names: &[String]) -> Result<Vec<Account>, StoreError> {
        self.accounts_named(names).await
    }

    async fn accounts_after(&self, prefix: &str, after: Option<&str>, max: usize) -> Result<Vec<Account>, StoreError> {
        self.accounts_from(prefix, after, max).await
    }

    async fn ledger_of(&self, id: OrderId) -> Result<Vec<LedgerLine>, StoreError> {
        self.moved_by(id).await
    }

    async fn record(&self, kind: &str, key: &str) -> Result<Option<Record>, StoreError> {
        self.record_of(kind, key).await
    }

    async fn records_after(&self, kind: &str, after: Option<&str>, max: usize) -> Result<Vec<Record>, StoreError> {
        self.records_from(kind, after, max).await
    }

    async fn put_record(&self, record: &Record) -> Result<(), PutError> {
        self.write_record(record).await
    }

    async fn remove_records(&self, kind: &str, keys: &[String]) -> Result<usize, StoreError> {
        self.delete_records(kind, keys).await
    }

    fn subscriptions(&self) -> Option<&dyn SubscriptionStore> {
        Some(self)
    }

    fn rates(&self) -> Option<&dyn RateStore> {
        Some(self)
    }

    async fn renew(&self, token: &Token, lease: Duration) -> Result<Timestamp, CommitError> {
        let (visit, attempt, lease) = (small(token.visit), small(token.attempt), micros(lease));
        let rows = self
            .ask_again(
                "renew a claim",
                "SELECT * FROM comanda.renew($1, $2, $3, $4, $5)",
                &[
                    (&token.order.0, Type::UUID),
                    (&visit, Type::INT4),
                    (&attempt, Type::INT4),
                    (&token.secret, Type::UUID),
                    (&lease, Type::INT8),
                ],
            )
            .await?;
        let row = rows.first().ok_or(CommitError::TokenStale)?;
        self.clock.learn(row.get("clock"));
        Ok(row.get("lease_until"))
    }

    async fn release(&self, tokens: &[Token]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = tokens.iter().map(|token| token.order.0).collect();
        let visits: Vec<i32> = tokens.iter().map(|token| small(token.visit)).collect();
        let attempts: Vec<i32> = tokens.iter().map(|token| small(token.attempt)).collect();
        let secrets: Vec<Uuid> = tokens.iter().map(|token| token.secret).collect();
        self.ask_again(
            "give claims back",
            "SELECT comanda.release($1, $2, $3, $4)",
            &[
                (&ids, Type::UUID_ARRAY),
                (&visits, Type::INT4_ARRAY),
                (&attempts, Type::INT4_ARRAY),
                (&secrets, Type::UUID_ARRAY),
            ],
        )
        .await?;
        Ok(())
    }

    async fn order(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        Ok(self.read("read an order", &[id.0]).await?.pop())
    }

    async fn key(&self, scope: &str, key: &str) -> Result<Option<(OrderId, [u8; 32])>, StoreError> {
        let (scope, key) = (to_column(scope), to_column(key));
        let rows = self
            .ask(
                "read a key",
                "SELECT id, fingerprint FROM comanda.keys WHERE scope = $1 AND key = $2 \
                 AND (expires_at IS NULL OR expires_at > clock_timestamp())",
                &[(&scope, Type::TEXT), (&key, Type::TEXT)],
            )
            .await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let fingerprint: Vec<u8> = row.get(1);
        let fingerprint = fingerprint
            .try_into()
            .map_err(|_| corrupt(format!("the key `{key}` of `{scope}`"), "its fingerprint is no SHA-256"))?;
        Ok(Some((OrderId(row.get(0)), fingerprint)))
    }

    async fn history(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Event>, StoreError> {
        let (after, max) = (signed(after), bounded(max));
        let parameters: [Parameter<'_>; 3] = [(&id.0, Type::UUID), (&after, Type::INT8), (&max, Type::INT8)];
        let rows = self.ask("read an order's events", read::HISTORY, &parameters).await?;
        rows.iter().map(read::event).collect()
    }

    async fn attempts(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Attempt>, StoreError> {
        let (after, max) = (signed(after), bounded(max));
        let parameters: [Parameter<'_>; 3] = [(&id.0, Type::UUID), (&after, Type::INT8), (&max, Type::INT8)];
        let rows = self
            .ask("read an order's attempts", read::ATTEMPTS, &parameters)
            .await?;
        rows.iter().map(read::attempt).collect()
    }

    async fn put_type(&self, source: &TypeSource) -> Result<(), StoreError> {
        let (hash, name) = (source.hash.0.to_vec(), to_column(&source.name));
        let text = to_column(&source.source);
        self.ask(
            "keep a type's source",
            "INSERT INTO comanda.types (hash, name, source) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            &[(&hash, Type::BYTEA), (&name, Type::TEXT), (&text, Type::TEXT)],
        )
        .await?;
        Ok(())
    }

    async fn type_source(&self, hash: TypeHash) -> Result<Option<TypeSource>, StoreError> {
        let bytes = hash.0.to_vec();
        let rows = self
            .ask(
                "read a type's source",
                "SELECT name, source FROM comanda.types WHERE hash = $1",
                &[(&bytes, Type::BYTEA)],
            )
            .await?;
        Ok(rows.first().map(|row| TypeSource {
            hash,
            name: from_column(row.get(0)),
            source: from_column(row.get(1)),
        }))
    }

    async fn live_types(&self) -> Result<Vec<(TypeHash, u64)>, StoreError> {
        let rows = self
            .ask(
                "read the types in use",
                "SELECT a, sum(n)::bigint FROM (SELECT kind, a, n FROM comanda.tally UNION ALL \
                 SELECT kind, a, n FROM comanda.tally_changes) AS t WHERE kind = 'l' GROUP BY a HAVING sum(n) > 0",
                &[],
            )
            .await?;
        rows.iter()
            .map(|row| {
                let hash = format!("sha256:{}", row.get::<_, &str>(0));
                let hash = hash
                    .parse()
                    .map_err(|_| corrupt("a count of live orders", "its type's hash is none"))?;
                Ok((hash, u64::try_from(row.get::<_, i64>(1)).unwrap_or(0)))
            })
            .collect()
    }

    async fn feed(&self, from: FeedStart, max: usize) -> Result<FeedPage, StoreError> {
        let (start, after) = read::feed_start(from);
        let rows_max = i32::try_from(bounded(max)).unwrap_or(i32::MAX);
        let parameters: [Parameter<'_>; 3] = [(&start, Type::INT2), (&after, Type::INT8), (&rows_max, Type::INT4)];
        let rows = self.ask("read the feed", read::FEED, &parameters).await?;
        read::feed_page(&rows, from, max)
    }

    async fn list(&self, query: &ListQuery) -> Result<OrderPage, StoreError> {
        const WHAT: &str = "list orders";
        let limit = query.limit.clamp(1, LIMIT_MAX);
        let statements = ListStatements::new(query, limit);
        let found = self.ask(WHAT, &statements.page, &statements.parameters()).await?;
        let seq = |row: &Row, index: usize| row.get::<_, Option<i64>>(index).and_then(|seq| u64::try_from(seq).ok());
        let next = if found.len() > limit {
            found.get(limit - 1).and_then(|row| seq(row, 1))
        } else {
            let looked = self
                .ask(WHAT, &statements.looked, &statements.looked_parameters())
                .await?;
            let looked = looked.first().filter(|row| row.get::<_, i64>(0) >= LIST_ROWS_MAX);
            looked.and_then(|row| seq(row, 1))
        };
        let ids: Vec<Uuid> = found.iter().take(limit).map(|row| row.get(0)).collect();
        let orders = if ids.is_empty() {
            Vec::new()
        } else {
            self.read(WHAT, &ids).await?
        };
        Ok(OrderPage { orders, next })
    }

    async fn causes(&self, max: usize) -> Result<Vec<Cause>, StoreError> {
        let max = bounded(max);
        let rows = self
            .ask(
                "read the causes of dead letters",
                "SELECT t.a, t.b, t.n, (SELECT h.id FROM comanda.heads h WHERE h.phase = 3 AND h.cause = t.b \
                     AND h.order_type = t.a ORDER BY h.seq DESC LIMIT 1) \
                 FROM (SELECT a, b, sum(n)::bigint AS n FROM (SELECT kind, a, b, n FROM comanda.tally UNION ALL \
                     SELECT kind, a, b, n FROM comanda.tally_changes) AS c WHERE kind = 'c' GROUP BY a, b \
                     HAVING sum(n) > 0 ORDER BY 3 DESC, 1, 2 LIMIT $1) AS t ORDER BY 3 DESC, 1, 2",
                &[(&max, Type::INT8)],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| Cause {
                order_type: from_column(row.get(0)),
                cause: from_column(row.get(1)),
                count: u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
                example: row.get::<_, Option<Uuid>>(3).map(OrderId),
            })
            .collect())
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        const WHAT: &str = "read the counts";
        let rows = self
            .ask(
                WHAT,
                "SELECT a, b, c, sum(n)::bigint, clock_timestamp() FROM (SELECT kind, a, b, c, n FROM comanda.tally \
                 UNION ALL SELECT kind, a, b, c, n FROM comanda.tally_changes) AS t WHERE kind = 's' \
                 GROUP BY a, b, c HAVING sum(n) > 0 ORDER BY a, b, c",
                &[],
            )
            .await?;
        let mut counts = Vec::with_capacity(rows.len());
        for row in &rows {
            counts.push(StatusCount {
                order_type: from_column(row.get(0)),
                status: from_column(row.get(1)),
                phase: Phase::from_number(row.get::<_, &str>(2).parse().unwrap_or(-1))?,
                count: u64::try_from(row.get::<_, i64>(3)).unwrap_or(0),
            });
        }
        let oldest = self
            .ask(
                WHAT,
                "SELECT clock_timestamp(), (SELECT due_at FROM comanda.due WHERE wake_at IS NOT NULL \
                 AND wake_at <= (SELECT clock_timestamp()) ORDER BY wake_at LIMIT 1)",
                &[],
            )
            .await?;
        let oldest = oldest.first();
        if let Some(row) = oldest {
            self.clock.learn(row.get(0));
        }
        Ok(Counters {
            as_of: rows
                .first()
                .or(oldest)
                .map(|row| row.get(if rows.is_empty() { 0 } else { 4 })),
            counts,
            oldest_due_at: oldest.and_then(|row| row.get(1)),
        })
    }

    async fn retain(&self, before: Timestamp, max: usize) -> Result<usize, StoreError> {
        let mut removed = 0;
        // Keys go with the orders' bites, and further ones only when nothing else is left to do.
        loop {
            let bite = i32::try_from((max - removed).min(BITE_MAX)).unwrap_or(i32::MAX);
            let keys_max = i32::try_from(BITE_MAX).unwrap_or(i32::MAX);
            let rows = self
                .ask_again(
                    "remove old orders",
                    "SELECT * FROM comanda.retain($1, $2, $3)",
                    &[
                        (&before, Type::TIMESTAMPTZ),
                        (&bite, Type::INT4),
                        (&keys_max, Type::INT4),
                    ],
                )
                .await?;
            let gone = |index: usize| rows.first().map_or(0, |row| row.get::<_, i32>(index));
            let (orders, keys) = (gone(0), gone(1));
            removed += usize::try_from(orders).unwrap_or(0);
            let more_orders = removed < max && orders == bite;
            if !more_orders && keys < keys_max {
                return Ok(removed);
            }
        }
    }

    async fn backup(&self, _: &Path, _: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<(), StoreError> {
        Err(StoreError::Unsupported {
            store: "postgres",
            what: "copy itself: use pg_dump, or your server's continuous archiving",
        })
    }

    fn position(&self) -> watch::Receiver<u64> {
        self.position.subscribe()
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "postgres",
            durable: true,
            many_nodes: true,
            backup: false,
            queues: true,
            ledger: true,
            status_queues: true,
            notices: true,
            erasure: true,
        }
    }

    async fn health(&self) -> Result<(), StoreError> {
        const WHAT: &str = "take commits";
        if !self.queue.is_open() {
            return Err(closed(WHAT));
        }
        if let Some(error) = self.queue.unwritable() {
            return Err(error);
        }
        let rows = self.ask(WHAT, settings::STATEMENT, &[]).await?;
        rows.first().map_or(Ok(()), settings::check_row)
    }

    async fn close(&self) -> Result<(), StoreError> {
        const WHAT: &str = "close the store";
        self.queue.close();
        self.stop.cancel();
        let tasks = [self.committer.lock().take(), self.follower.lock().take()];
        for task in tasks.into_iter().flatten() {
            task.await.map_err(|error| StoreError::failed(WHAT, error))?;
        }
        // What this node still holds need not wait for its leases. Without an answer the node is found gone later.
        if let Err(failure) = follow::beat(&self.server, self.node, Duration::ZERO).await {
            tracing::debug!(error = %failure.into_error(), "the database was not told that this node ends");
        }
        self.server.close();
        self.commits.close();
        Ok(())
    }
}
