//! Subscriptions: rows that any node changes, each delivered by one node at a time. See `functions/subscription.sql` for
//! what a hold is, and why work that was done under an older one does not count.

use std::collections::BTreeMap;

use async_trait::async_trait;
use comanda_model::OrderId;
use comanda_store::subscription::{
    Advance, DELIVERIES_KEPT, Delivery, Exception, Progress, SUBSCRIPTIONS_MAX, Subscription, SubscriptionStore,
};
use comanda_store::{Cursor, FeedEvent, Notice, StoreError};
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::PostgresStore;
use crate::column::{bounded, signed};
use crate::committer::announce;
use crate::failure::corrupt;
use crate::read;
use crate::server::Parameter;
use crate::text::{from_column, to_column};

const WRITE: &str = "write a subscription";
const READ: &str = "read the subscriptions";

fn text(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::failed("write a subscription as JSON", error))
}

fn parse<T: DeserializeOwned>(what: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| corrupt(what, error.to_string()))
}

/// A notice as the functions take it.
struct Told {
    id: String,
    at: Timestamp,
    notice: String,
}

impl Told {
    fn new(notice: &Notice) -> Result<Self, StoreError> {
        Ok(Self {
            id: to_column(&notice.id).into_owned(),
            at: notice.at,
            notice: text(notice)?,
        })
    }

    fn parameters(&self) -> [Parameter<'_>; 3] {
        [
            (&self.id, Type::TEXT),
            (&self.at, Type::TIMESTAMPTZ),
            (&self.notice, Type::TEXT),
        ]
    }
}

const ONE_TOO_MANY: StoreError = StoreError::Unsupported {
    store: "postgres",
    what: "keep more than 1,000 subscriptions",
};

impl PostgresStore {
    /// Tells those who watch the feed where a notice was put into it; answers whether it was.
    fn announced(&self, rows: &[Row]) -> bool {
        let position: Option<i64> = rows.first().and_then(|row| row.get(0));
        let position = position.and_then(|position| u64::try_from(position).ok());
        if let Some(position) = position {
            announce(&self.position, position);
        }
        position.is_some()
    }
}

#[async_trait]
impl SubscriptionStore for PostgresStore {
    async fn put_subscription(&self, subscription: &Subscription) -> Result<(), StoreError> {
        let (id, spec) = (to_column(&subscription.id), text(subscription)?);
        let max = i32::try_from(SUBSCRIPTIONS_MAX).unwrap_or(i32::MAX);
        let parameters: [Parameter<'_>; 3] = [(&id, Type::TEXT), (&spec, Type::TEXT), (&max, Type::INT4)];
        let statement = "SELECT comanda.put_subscription($1, $2, $3)";
        let rows = self.ask_again(WRITE, statement, &parameters).await?;
        match rows.first().is_some_and(|row| row.get(0)) {
            true => Ok(()),
            false => Err(ONE_TOO_MANY),
        }
    }

    async fn put_announced(&self, subscription: &Subscription, notice: &Notice) -> Result<(), StoreError> {
        let (id, spec) = (to_column(&subscription.id), text(subscription)?);
        let max = i32::try_from(SUBSCRIPTIONS_MAX).unwrap_or(i32::MAX);
        let told = Told::new(notice)?;
        let own: [Parameter<'_>; 3] = [(&id, Type::TEXT), (&spec, Type::TEXT), (&max, Type::INT4)];
        let parameters: Vec<Parameter<'_>> = own.into_iter().chain(told.parameters()).collect();
        let statement = "SELECT comanda.put_announced($1, $2, $3, $4, $5, $6)";
        let rows = self.ask_again(WRITE, statement, &parameters).await?;
        match self.announced(&rows) {
            true => Ok(()),
            false => Err(ONE_TOO_MANY),
        }
    }

    async fn all_subscriptions(&self) -> Result<Vec<Subscription>, StoreError> {
        let rows = self
            .ask(READ, "SELECT spec FROM comanda.subscriptions ORDER BY id", &[])
            .await?;
        rows.iter().map(|row| parse("a subscription", row.get(0))).collect()
    }

    async fn remove_subscription(&self, id: &str) -> Result<bool, StoreError> {
        let id = to_column(id);
        let statement = "SELECT comanda.remove_subscription($1)";
        let rows = self.ask_again(WRITE, statement, &[(&id, Type::TEXT)]).await?;
        Ok(rows.first().is_some_and(|row| row.get(0)))
    }

    async fn progress(&self, id: &str) -> Result<Option<Progress>, StoreError> {
        let id = to_column(id);
        // One statement, so that the cursor and the exceptions are of one moment.
        let statement = "SELECT s.epoch, s.position, ARRAY(SELECT x.exception FROM comanda.subscription_exceptions x \
             WHERE x.subscription = s.id ORDER BY x.order_id) FROM comanda.subscriptions s \
             WHERE s.id = $1 AND s.epoch IS NOT NULL AND s.position IS NOT NULL";
        let rows = self.ask(READ, statement, &[(&id, Type::TEXT)]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let number = |index: usize| u64::try_from(row.get::<_, i64>(index)).unwrap_or(0);
        let exceptions: Vec<String> = row.get(2);
        let exceptions: Result<Vec<Exception>, StoreError> = exceptions
            .iter()
            .map(|exception| parse("an exception of a subscription", exception))
            .collect();
        Ok(Some(Progress {
            cursor: Cursor {
                epoch: number(0),
                position: number(1),
            },
            exceptions: exceptions?,
        }))
    }

    async fn hold(&self) -> Result<Option<BTreeMap<String, u64>>, StoreError> {
        let statement = "SELECT id, hold FROM comanda.hold_subscriptions($1)";
        let rows = self
            .ask_again("take subscriptions", statement, &[(&self.node, Type::UUID)])
            .await?;
        let hold = |row: &Row| u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
        Ok(Some(
            rows.iter().map(|row| (from_column(row.get(0)), hold(row))).collect(),
        ))
    }

    async fn advance(&self, id: &str, advance: Advance) -> Result<bool, StoreError> {
        let id = to_column(id);
        let hold = advance.hold.map(signed);
        let (epoch, position) = (
            advance.cursor.map(|cursor| signed(cursor.epoch)),
            advance.cursor.map(|cursor| signed(cursor.position)),
        );
        let settled: Vec<Uuid> = advance.settled.iter().map(|OrderId(order)| *order).collect();
        let orders: Vec<Uuid> = advance.failed.iter().map(|exception| exception.order.0).collect();
        let failed: Result<Vec<String>, StoreError> = advance.failed.iter().map(text).collect();
        let failed = failed?;
        let deliveries: Result<Vec<String>, StoreError> = advance.deliveries.iter().map(text).collect();
        let deliveries = deliveries?;
        let kept = i64::try_from(DELIVERIES_KEPT).unwrap_or(i64::MAX);
        let told = advance.notice.as_ref().map(Told::new).transpose()?;
        let own: [Parameter<'_>; 10] = [
            (&id, Type::TEXT),
            (&self.node, Type::UUID),
            (&hold, Type::INT8),
            (&epoch, Type::INT8),
            (&position, Type::INT8),
            (&settled, Type::UUID_ARRAY),
            (&orders, Type::UUID_ARRAY),
            (&failed, Type::TEXT_ARRAY),
            (&deliveries, Type::TEXT_ARRAY),
            (&kept, Type::INT8),
        ];
        let statement = match told {
            Some(_) => "SELECT comanda.advance_announced($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            None => "SELECT comanda.advance($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        };
        let told = told.as_ref().map(Told::parameters);
        let announces = told.is_some();
        let parameters: Vec<Parameter<'_>> = own.into_iter().chain(told.into_iter().flatten()).collect();
        let rows = self.ask_again(WRITE, statement, &parameters).await?;
        Ok(match announces {
            true => self.announced(&rows),
            false => rows.first().is_some_and(|row| row.get(0)),
        })
    }

    async fn events_of(&self, order: OrderId, after: u64, max: usize) -> Result<Vec<FeedEvent>, StoreError> {
        let (after, max) = (signed(after), bounded(max));
        let parameters: [Parameter<'_>; 3] = [(&order.0, Type::UUID), (&after, Type::INT8), (&max, Type::INT8)];
        let rows = self.ask("read an order's events", read::EVENTS_OF, &parameters).await?;
        // Positions are of the epoch that is; who compares them with older ones meets the reset when it reads the feed.
        rows.iter()
            .map(|row| read::feed_event(row, 0, row.get("position")))
            .collect()
    }

    async fn deliveries(&self, id: &str, before: u64, max: usize) -> Result<Vec<Delivery>, StoreError> {
        let (id, before, max) = (to_column(id), signed(before), bounded(max));
        let parameters: [Parameter<'_>; 3] = [(&id, Type::TEXT), (&before, Type::INT8), (&max, Type::INT8)];
        let statement = "SELECT number, delivery FROM comanda.deliveries WHERE subscription = $1 AND number < $2 \
             ORDER BY number DESC LIMIT $3";
        let rows = self.ask(READ, statement, &parameters).await?;
        rows.iter()
            .map(|row| {
                let delivery: Delivery = parse("a delivery of a subscription", row.get(1))?;
                Ok(Delivery {
                    number: u64::try_from(row.get::<_, i64>(0)).unwrap_or(0),
                    ..delivery
                })
            })
            .collect()
    }
}
