//! Queues: what waits in them, items of statuses' queues, and their dead letters.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::OrderId;
use comanda_store::{
    DeadItem, DeadItemMove, ItemClaim, ItemClaims, ItemOutcome, ItemToken, QueueClaim, QueueCount, StoreError,
};
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::PostgresStore;
use crate::claiming::{self, What};
use crate::column::{bounded, micros, signed};
use crate::server::Parameter;
use crate::store::{CLAIMS_MAX, is_full};
use crate::text::{from_column, to_column};

fn count(row: &Row, index: usize) -> u64 {
    u64::try_from(row.get::<_, i64>(index)).unwrap_or(0)
}

fn number(row: &Row, name: &str) -> u64 {
    u64::try_from(row.get::<_, i64>(name)).unwrap_or(0)
}

impl PostgresStore {
    /// See [`comanda_store::Store::claim_items`].
    pub(crate) async fn claim_queued(&self, asked: &QueueClaim) -> Result<ItemClaims, StoreError> {
        const WHAT: &str = "claim items of a queue";
        let (queue, worker) = (to_column(&asked.queue), to_column(&asked.worker));
        let max = i32::try_from(asked.max.min(CLAIMS_MAX)).unwrap_or(i32::MAX);
        let lease = micros(asked.lease);
        let what = What::Items(asked.queue.clone());
        let from = self.claiming.from(&what);
        let from_text = claiming::from_column(from);
        let parameters: [Parameter<'_>; 5] = [
            (&queue, Type::TEXT),
            (&worker, Type::TEXT),
            (&max, Type::INT4),
            (&lease, Type::INT8),
            (&from_text, Type::TEXT),
        ];
        let statement = "SELECT * FROM comanda.claim_items($1, $2, $3, $4, $5::text::timestamptz)";
        let rows = self.ask_again(WHAT, statement, &parameters).await?;
        let mut claims = ItemClaims::default();
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
        if held.is_empty() {
            return Ok(claims);
        }
        let ids: Vec<Uuid> = held.iter().map(|(id, _)| *id).collect();
        // An order can stand in a queue more than once; it is answered for each place.
        let mut orders = self.read(WHAT, &ids).await?.into_iter().peekable();
        for (id, row) in held {
            if let Some(stored) = orders.next_if(|stored| stored.order.id().0 == id) {
                claims.claims.push(ItemClaim {
                    token: ItemToken {
                        position: number(row, "position"),
                        secret: row.get("secret"),
                    },
                    order: Arc::unwrap_or_clone(stored.order),
                    status: from_column(row.get("status")).into(),
                    version: number(row, "version"),
                    attempt: u32::try_from(row.get::<_, i32>("attempt")).unwrap_or(0),
                    lease_until: row.get("lease_until"),
                });
            }
        }
        Ok(claims)
    }

    /// See [`comanda_store::Store::settle_item`].
    pub(crate) async fn settle_queued(
        &self,
        token: &ItemToken,
        outcome: &ItemOutcome,
    ) -> Result<Option<String>, StoreError> {
        let (kind, reason, delay): (i16, &str, Duration) = match outcome {
            ItemOutcome::Done => (0, "", Duration::ZERO),
            ItemOutcome::Retry { reason, delay } => (1, reason, *delay),
            ItemOutcome::Refuse { reason } => (2, reason, Duration::ZERO),
        };
        let reason = comanda_model::order::bounded(reason.to_owned(), comanda_model::bounds::TEXT_BYTES_MAX);
        let (position, reason, delay) = (signed(token.position), to_column(&reason), micros(delay));
        let parameters: [Parameter<'_>; 5] = [
            (&position, Type::INT8),
            (&token.secret, Type::UUID),
            (&kind, Type::INT2),
            (&reason, Type::TEXT),
            (&delay, Type::INT8),
        ];
        let statement = "SELECT comanda.settle_item($1, $2, $3, $4, $5)";
        let rows = self
            .ask_again("answer for an item of a queue", statement, &parameters)
            .await?;
        Ok(rows
            .first()
            .and_then(|row| row.get::<_, Option<String>>(0))
            .map(from_column))
    }

    /// See [`comanda_store::Store::renew_item`].
    pub(crate) async fn renew_queued(
        &self,
        token: &ItemToken,
        lease: Duration,
    ) -> Result<Option<Timestamp>, StoreError> {
        let (position, lease) = (signed(token.position), micros(lease));
        let parameters: [Parameter<'_>; 3] = [
            (&position, Type::INT8),
            (&token.secret, Type::UUID),
            (&lease, Type::INT8),
        ];
        let statement = "SELECT * FROM comanda.renew_item($1, $2, $3)";
        let rows = self
            .ask_again("extend the claim of an item", statement, &parameters)
            .await?;
        Ok(rows.first().map(|row| {
            self.clock.learn(row.get("clock"));
            row.get("lease_until")
        }))
    }

    /// See [`comanda_store::Store::dead_items`].
    pub(crate) async fn dead_queued(&self, queue: &str, after: u64, max: usize) -> Result<Vec<DeadItem>, StoreError> {
        let (queue, after, max) = (to_column(queue), signed(after), bounded(max));
        let parameters: [Parameter<'_>; 3] = [(&queue, Type::TEXT), (&after, Type::INT8), (&max, Type::INT8)];
        let statement = "SELECT position, id, status, version, attempt, died_at, coalesce(reason, '') AS reason \
             FROM comanda.items WHERE queue = $1 AND died_at IS NOT NULL AND position > $2 ORDER BY position LIMIT $3";
        let rows = self.ask("read dead letters of a queue", statement, &parameters).await?;
        Ok(rows
            .iter()
            .map(|row| DeadItem {
                position: number(row, "position"),
                order: OrderId(row.get("id")),
                status: from_column(row.get("status")).into(),
                version: number(row, "version"),
                attempt: u32::try_from(row.get::<_, i32>("attempt")).unwrap_or(0),
                died_at: row.get("died_at"),
                reason: from_column(row.get("reason")),
            })
            .collect())
    }

    /// See [`comanda_store::Store::move_dead_items`].
    pub(crate) async fn move_dead_queued(
        &self,
        queue: &str,
        positions: &[u64],
        to: DeadItemMove,
    ) -> Result<u64, StoreError> {
        let queue = to_column(queue);
        let positions: Vec<i64> = positions.iter().map(|position| signed(*position)).collect();
        let redrive = to == DeadItemMove::Redrive;
        let parameters: [Parameter<'_>; 3] = [
            (&queue, Type::TEXT),
            (&positions, Type::INT8_ARRAY),
            (&redrive, Type::BOOL),
        ];
        let statement = "SELECT comanda.move_dead_items($1, $2, $3)";
        let rows = self
            .ask_again("move dead letters of a queue", statement, &parameters)
            .await?;
        Ok(rows.first().map_or(0, |row| count(row, 0)))
    }

    /// See [`comanda_store::Store::queues`].
    pub(crate) async fn count_queues(&self) -> Result<Vec<QueueCount>, StoreError> {
        // What is leased is counted by small indexes that hold nothing else; how much is in a queue is kept.
        let statement = "SELECT q.a, q.depth, \
             (SELECT count(*) FROM comanda.due d WHERE d.worker_queue = q.a AND d.lease_until > clock_timestamp()) + \
             (SELECT count(*) FROM comanda.items i WHERE i.queue = q.a AND i.secret IS NOT NULL \
                 AND i.due_at > clock_timestamp()), q.dead, least(\
             (SELECT d.queued_at FROM comanda.due d WHERE d.queue = q.a AND d.pull_at <= clock_timestamp() \
                 ORDER BY d.pull_at LIMIT 1), \
             (SELECT i.at FROM comanda.items i WHERE i.queue = q.a AND i.died_at IS NULL ORDER BY i.position LIMIT 1)), \
             clock_timestamp() \
             FROM (SELECT a, sum(n) FILTER (WHERE kind = 'q')::bigint AS depth, \
                 coalesce(sum(n) FILTER (WHERE kind = 'd'), 0)::bigint AS dead FROM (\
                 SELECT kind, a, n FROM comanda.tally UNION ALL SELECT kind, a, n FROM comanda.tally_changes) AS t \
                 WHERE kind IN ('q', 'd') GROUP BY a) AS q ORDER BY q.a";
        let rows = self.ask("read the queues", statement, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| {
                self.clock.learn(row.get(5));
                QueueCount {
                    queue: from_column(row.get(0)),
                    depth: count(row, 1),
                    leased: count(row, 2),
                    dead: count(row, 3),
                    oldest_at: row.get(4),
                }
            })
            .collect())
    }
}
