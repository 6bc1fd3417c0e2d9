//! Retention: removes what has been final for long enough, and keys that have expired, a bite at a time.

use comanda_model::OrderId;
use comanda_store::StoreError;
use rusqlite::{OptionalExtension, params};
use uuid::Uuid;

use crate::column::Time;
use crate::failure::{Context, Failure, corrupt};
use crate::row;
use crate::writer::{Aborted, Writer};

/// The most orders, and keys, that one transaction removes, so that commits wait only briefly.
pub(crate) const BITE_MAX: usize = 100;
/// How many pages are given back to the file system after a bite.
const PAGES_PER_BITE: u32 = 256;

/// What a bite removed.
pub(crate) struct Bite {
    /// How many orders.
    pub(crate) orders: usize,
    /// How many expired keys.
    pub(crate) keys: usize,
}

/// What leads to an order: its id, customer, group and list of keys.
type Leads = (Vec<u8>, Option<String>, Option<String>, Option<String>);

impl Writer<'_> {
    /// Removes up to `max` orders that have been final since before `before` (microseconds), at most [`BITE_MAX`], and
    /// as many expired keys.
    pub(crate) fn retain_bite(&mut self, before: i64, max: usize) -> Result<Bite, StoreError> {
        let now = self.shared.clock.micros();
        let removed = self.within_transaction(|writer| {
            let seqs: Vec<i64> = {
                let mut statement = writer
                    .connection
                    .prepare_cached("SELECT seq FROM final WHERE updated_at < ?1 AND NOT EXISTS (SELECT 1 FROM items i WHERE i.seq = final.seq) \
                     ORDER BY updated_at, seq LIMIT ?2")?;
                let rows = statement.query_map(params![before, max.min(BITE_MAX) as i64], |row| row.get(0))?;
                rows.collect::<Result<_, _>>()?
            };
            for seq in &seqs {
                writer.remove(*seq)?;
            }
            let keys = writer.remove_expired_keys(now)?;
            let postings = writer.forget_postings(before)?;
            let notices = writer.retire_notices(before)?;
            Ok((
                Bite {
                    orders: seqs.len(),
                    keys,
                },
                !seqs.is_empty() || keys > 0 || postings > 0 || notices,
            ))
        });
        let bite = removed.map_err(|aborted| match aborted {
            Aborted::Failed(failure) | Aborted::Unknown(failure) => failure.into_store_error("remove old orders"),
        })?;
        if bite.orders > 0 {
            self.give_pages_back().context("give disk space back")?;
        }
        Ok(bite)
    }

    fn give_pages_back(&self) -> Result<(), Failure> {
        let mut statement = self
            .connection
            .prepare(&format!("PRAGMA incremental_vacuum({PAGES_PER_BITE})"))?;
        let mut rows = statement.query([])?;
        // One page is given back per step.
        while rows.next()?.is_some() {}
        Ok(())
    }

    /// Removes one order and everything that belongs to it. Damage does not hinder it: it reads only what leads on.
    fn remove(&mut self, seq: i64) -> Result<(), Failure> {
        self.retire_entries(seq)?;
        let connection = self.connection;
        let order: Option<Leads> = connection
            .prepare_cached("SELECT id, customer, group_key, keys FROM orders WHERE seq = ?1")?
            .query_row([seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
            .optional()?;
        if let Some((id, customer, group, keys)) = order {
            connection
                .prepare_cached("DELETE FROM ids WHERE id = ?1 AND seq = ?2")?
                .execute(params![id, seq])?;
            connection
                .prepare_cached("DELETE FROM by_customer WHERE customer = ?1 AND seq = ?2")?
                .execute(params![customer, seq])?;
            connection
                .prepare_cached("DELETE FROM by_group WHERE group_key = ?1 AND seq = ?2")?
                .execute(params![group, seq])?;
            if let Some(keys) = keys {
                self.remove_keys(seq, &keys)?;
            }
            if let Ok(id) = Uuid::from_slice(&id) {
                self.recent.take(OrderId(id));
                self.moves.insert(OrderId(id), (seq, None));
            }
        }
        let head: Option<(i64, i64)> = connection
            .prepare_cached("SELECT state, updated_at FROM heads WHERE seq = ?1")?
            .query_row([seq], |row| {
                Ok((row.get(0)?, row.get::<_, Time>(1)?.0.as_microsecond()))
            })
            .optional()?;
        if let Some((state, updated_at)) = head {
            self.statements.delete_state.execute((state, seq))?;
            self.statements.delete_final.execute((updated_at, seq))?;
            self.tally.count(state, -1);
        }
        let newest: Option<i64> = connection
            .prepare_cached("SELECT max(position) FROM events WHERE seq = ?1")?
            .query_row([seq], |row| row.get(0))?;
        connection
            .prepare_cached("UPDATE state SET retained = max(retained, ?1)")?
            .execute([newest.unwrap_or(0)])?;
        for sql in [
            "DELETE FROM events WHERE seq = ?1",
            "DELETE FROM attempts WHERE seq = ?1",
            "DELETE FROM heads WHERE seq = ?1",
            "DELETE FROM orders WHERE seq = ?1",
        ] {
            connection.prepare_cached(sql)?.execute([seq])?;
        }
        Ok(())
    }

    fn remove_keys(&mut self, seq: i64, keys: &str) -> Result<(), Failure> {
        let keys: Vec<(String, String)> = serde_json::from_str(keys)
            .map_err(|error| corrupt(row::of_order("the list of keys", seq), error.to_string()))?;
        for (scope, key) in keys {
            let Some(scope) = self.dictionary.name_id(self.connection, &scope)? else {
                continue;
            };
            // A key that had expired may lead to another order by now.
            let expires_at: Option<Option<i64>> = self
                .connection
                .prepare_cached("SELECT expires_at FROM keys WHERE scope = ?1 AND key = ?2 AND seq = ?3")?
                .query_row(params![scope, key, seq], |row| row.get(0))
                .optional()?;
            let Some(expires_at) = expires_at else { continue };
            self.remove_key(scope, &key, expires_at)?;
        }
        Ok(())
    }

    fn remove_key(&mut self, scope: i64, key: &str, expires_at: Option<i64>) -> Result<(), Failure> {
        self.connection
            .prepare_cached("DELETE FROM keys WHERE scope = ?1 AND key = ?2")?
            .execute(params![scope, key])?;
        if let Some(at) = expires_at {
            self.statements.delete_expiring.execute(params![at, scope, key])?;
        }
        Ok(())
    }

    fn remove_expired_keys(&mut self, now: i64) -> Result<usize, Failure> {
        let expired: Vec<(i64, i64, String)> = {
            let mut statement = self.connection.prepare_cached(
                "SELECT expires_at, scope, key FROM keys_expiring WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2",
            )?;
            let rows = statement.query_map(params![now, BITE_MAX as i64], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?))
            })?;
            rows.collect::<Result<_, _>>()?
        };
        for (at, scope, key) in &expired {
            self.remove_key(*scope, key, Some(*at))?;
        }
        Ok(expired.len())
    }
}
