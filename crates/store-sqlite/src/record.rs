//! Records: small documents that belong to no order.

use comanda_model::Json;
use comanda_store::{PutError, Record, StoreError};
use rusqlite::{OptionalExtension, Row, params};

use crate::column::Sum;
use crate::failure::{Failure, corrupt};
use crate::ledger::prove;
use crate::readers::Reader;
use crate::writer::{Aborted, Writer};

fn sum(kind: &str, key: &str, version: i64, value: &str) -> i64 {
    Sum::new(b'r', version).text(kind).text(key).text(value).finish()
}

/// A record from the columns `kind, key, version, value, crc`.
pub(crate) fn record(row: &Row<'_>) -> Result<Record, Failure> {
    let (kind, key, version): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let value: String = row.get(3)?;
    prove(row.get(4)?, sum(&kind, &key, version, &value), || {
        format!("the record `{key}` of kind `{kind}`")
    })?;
    Ok(Record {
        version: u64::try_from(version).map_err(|_| corrupt("a record", "its version is below zero"))?,
        kind,
        key,
        value: Json::from_valid(value),
    })
}

impl Reader {
    /// A record.
    pub(crate) fn record(&self, kind: &str, key: &str) -> Result<Option<Record>, Failure> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT kind, key, version, value, crc FROM records WHERE kind = ?1 AND key = ?2")?;
        let mut rows = statement.query((kind, key))?;
        rows.next()?.map(record).transpose()
    }

    /// Records of a kind whose keys stand after `after`.
    pub(crate) fn records_after(&self, kind: &str, after: Option<&str>, max: usize) -> Result<Vec<Record>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT kind, key, version, value, crc FROM records WHERE kind = ?1 AND (?2 IS NULL OR key > ?2) \
             ORDER BY key LIMIT ?3",
        )?;
        let mut rows = statement.query(params![kind, after, i64::try_from(max).unwrap_or(i64::MAX)])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.push(record(row)?);
        }
        Ok(records)
    }
}

impl Writer<'_> {
    /// Removes records of a kind, in a transaction of its own.
    pub(crate) fn remove_records(&mut self, kind: &str, keys: &[String]) -> Result<usize, StoreError> {
        let removed = self.within_transaction(|writer| {
            let mut removed = 0;
            for key in keys {
                removed += writer
                    .connection
                    .prepare_cached("DELETE FROM records WHERE kind = ?1 AND key = ?2")?
                    .execute((kind, key))?;
            }
            Ok((removed, removed > 0))
        });
        removed.map_err(|aborted| match aborted {
            Aborted::Failed(failure) | Aborted::Unknown(failure) => failure.into_store_error("remove records"),
        })
    }

    /// Writes a record, in a transaction of its own.
    pub(crate) fn put_record(&mut self, record: &Record) -> Result<(), PutError> {
        let put = self.within_transaction(|writer| {
            let found: Option<i64> = writer
                .connection
                .prepare_cached("SELECT version FROM records WHERE kind = ?1 AND key = ?2")?
                .query_row((&record.kind, &record.key), |row| row.get(0))
                .optional()?;
            let actual = found.and_then(|version| u64::try_from(version).ok()).unwrap_or(0);
            if record.version != actual + 1 {
                return Ok((Err(PutError::VersionMoved { actual }), false));
            }
            let (version, value) = (record.version as i64, record.value.as_str());
            writer
                .connection
                .prepare_cached("REPLACE INTO records (kind, key, version, value, crc) VALUES (?1, ?2, ?3, ?4, ?5)")?
                .execute(params![
                    record.kind,
                    record.key,
                    version,
                    value,
                    sum(&record.kind, &record.key, version, value)
                ])?;
            Ok((Ok(()), true))
        });
        match put {
            Ok(answer) => answer,
            Err(Aborted::Failed(failure) | Aborted::Unknown(failure)) => {
                Err(failure.into_store_error("write a record").into())
            }
        }
    }
}
