//! Rates that nodes hold together: a row for each, taken from by the database's clock.

use std::time::Duration;

use async_trait::async_trait;
use comanda_store::StoreError;
use comanda_store::rate::{RateAsk, RateLease, RateStore};
use tokio_postgres::types::Type;

use crate::PostgresStore;
use crate::column::micros;
use crate::failure::corrupt;
use crate::server::Parameter;
use crate::text::to_column;

#[async_trait]
impl RateStore for PostgresStore {
    async fn lease_rate(&self, ask: &RateAsk) -> Result<RateLease, StoreError> {
        let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
        let (name, interval) = (to_column(&ask.name), micros(ask.interval).max(1));
        let (burst, least, most) = (number(ask.burst), number(ask.least), number(ask.most));
        let parameters: [Parameter<'_>; 5] = [
            (&name, Type::TEXT),
            (&interval, Type::INT8),
            (&burst, Type::INT4),
            (&least, Type::INT4),
            (&most, Type::INT4),
        ];
        let statement = "SELECT granted, room, retry_us FROM comanda.lease_rate($1, $2, $3, $4, $5)";
        let rows = self.ask_again("take a share of a rate", statement, &parameters).await?;
        let row = rows.first().ok_or_else(|| corrupt("a rate", "it has no row"))?;
        let count = |index: usize| u32::try_from(row.get::<_, i32>(index)).unwrap_or(0);
        let retry: Option<i64> = row.get(2);
        Ok(RateLease {
            granted: count(0),
            left: count(1),
            retry_after: retry.map(|micros| Duration::from_micros(u64::try_from(micros).unwrap_or(0))),
        })
    }
}
