//! Which order a key leads to.
//!
//! A key's entry is proved by its checksum. That a key leads nowhere is proved to whoever reads, by the entries beside its
//! place: a search that a damaged one leads astray ends there. The writer does not prove it: nearly every key that it
//! looks for is new, and two more lookups would cost it at least half of what an order does.

use comanda_model::OrderId;
use comanda_store::StoreError;
use rusqlite::{Row, params};

use crate::failure::{Failure, corrupt};
use crate::readers::Reader;
use crate::row;

const KEY: &str = "SELECT seq, fingerprint, expires_at, crc FROM keys WHERE scope = ?1 AND key = ?2";
const BEFORE: &str = "SELECT seq, fingerprint, expires_at, crc, scope, key FROM keys WHERE (scope, key) < (?1, ?2) \
    ORDER BY scope DESC, key DESC LIMIT 1";
const AFTER: &str = "SELECT seq, fingerprint, expires_at, crc, scope, key FROM keys WHERE (scope, key) > (?1, ?2) \
    ORDER BY scope, key LIMIT 1";

impl Reader {
    /// The order that a key belongs to, unless the key has expired.
    pub(crate) fn key(&mut self, scope: &str, key: &str, now: i64) -> Result<Option<(OrderId, [u8; 32])>, Failure> {
        let Some(scope_id) = self.dictionary.name_id(&self.connection, scope)? else {
            return Ok(None);
        };
        let found = {
            let mut statement = self.connection.prepare_cached(KEY)?;
            let mut rows = statement.query(params![scope_id, key])?;
            rows.next()?.map(|row| row::key(row, scope, key)).transpose()?
        };
        let Some(found) = found else {
            for (sql, is_before) in [(BEFORE, true), (AFTER, false)] {
                self.prove_neighbour(sql, scope_id, key, is_before).map_err(|failure| {
                    match failure.into_store_error("read a key") {
                        error @ StoreError::Corrupt { .. } => {
                            let detail = format!("an entry beside its place is damaged ({error})");
                            corrupt(format!("the key `{key}` of `{scope}`"), detail)
                        }
                        // What the disk or another's lock refused says nothing of the entry.
                        error => error,
                    }
                })?;
            }
            return Ok(None);
        };
        if found.is_expired(now) {
            return Ok(None);
        }
        let order = self.id_of(found.seq)?.ok_or_else(|| {
            corrupt(
                format!("the key `{key}` of `{scope}`"),
                "the order that it leads to is missing",
            )
        })?;
        Ok(Some((order, found.fingerprint)))
    }

    /// Proves the entry beside the place of a key that was not found, if there is one.
    fn prove_neighbour(&mut self, sql: &str, scope_id: i64, key: &str, is_before: bool) -> Result<(), Failure> {
        let mut statement = self.connection.prepare_cached(sql)?;
        let mut rows = statement.query(params![scope_id, key])?;
        let Some(row) = rows.next()? else { return Ok(()) };
        let read = |row: &Row<'_>| -> rusqlite::Result<(i64, String)> { Ok((row.get(4)?, row.get(5)?)) };
        let (entry_scope, entry_key) = read(row)?;
        let scope = self.dictionary.name(&self.connection, entry_scope)?;
        row::key(row, &scope, &entry_key)?;
        if ((entry_scope, entry_key.as_str()) < (scope_id, key)) != is_before {
            return Err(corrupt(
                format!("the key `{entry_key}` of `{scope}`"),
                "it stands out of its order",
            )
            .into());
        }
        Ok(())
    }
}
