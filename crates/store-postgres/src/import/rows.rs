//! Whole orders as rows of every table that they stand in.

use comanda_store::StoreError;
use comanda_store::piece::WholeOrder;
use jiff::Timestamp;
use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{BYTES_MAX, ORDERS_MAX, set};
use crate::column::{signed, small};
use crate::columns::columns;
use crate::record::{AttemptColumns, EventColumns, HeadColumns, maybe, text};

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
    target: String = TEXT_ARRAY, quantity: i64 = INT8_ARRAY, counted: bool = BOOL_ARRAY,
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
pub(super) struct Batch {
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
    /// The last order's number; 0 for none.
    pub(super) last: u64,
    bytes: usize,
}

impl Batch {
    /// Whether it is as much as one transaction takes.
    pub(super) fn is_full(&self) -> bool {
        self.orders.id.len() >= ORDERS_MAX || self.bytes >= BYTES_MAX
    }

    /// Adds an order with all that belongs to it.
    pub(super) fn add(&mut self, whole: &WholeOrder) -> Result<(), StoreError> {
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
        let HeadColumns {
            status,
            phase,
            type_hash,
            version,
            events,
            attempts,
            updated_at,
            due_at,
            due_queued_at,
            queue,
            queued_at,
            visit,
            attempt,
            cause,
            head: head_json,
            commit_id,
        } = HeadColumns::of(head)?;
        self.heads.push(HeadRow {
            id,
            seq,
            order_type: text(&accepted.order_type),
            status,
            phase,
            type_hash,
            version,
            commit_id,
            events,
            attempts,
            updated_at,
            due_at,
            due_queued_at,
            queue,
            queued_at,
            visit,
            attempt,
            cause,
            lane,
            lane_position: position,
            head: head_json,
        });
        self.add_records(whole, id)?;
        if let Some((token, queue, worker, lease_until)) = &whole.worker {
            self.due.push(DueRow {
                id,
                seq,
                visit,
                attempt,
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
            let EventColumns {
                number,
                at,
                kind,
                from_status,
                to_status,
                by,
                reason,
                changed,
            } = EventColumns::of(event)?;
            self.events.push(EventRow {
                position: signed(*position),
                id,
                number,
                at,
                kind,
                from_status,
                to_status,
                by,
                reason,
                changed,
            });
        }
        for attempt in &whole.attempts {
            self.bytes += attempt.result.as_ref().map_or(0, |result| result.as_str().len());
            let AttemptColumns {
                number,
                visit,
                attempt,
                step,
                undo,
                started_at,
                ended_at,
                outcome,
                reason,
                result,
            } = AttemptColumns::of(attempt);
            self.attempts.push(AttemptRow {
                id,
                number,
                visit,
                attempt,
                step,
                undo,
                started_at,
                ended_at,
                outcome,
                reason,
                result,
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
                counted: true,
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

    /// Writes them, and how far the move has come.
    pub(super) async fn write(&self, transaction: &Transaction<'_>) -> Result<(), tokio_postgres::Error> {
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
