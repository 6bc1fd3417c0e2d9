//! Notices in the file: rows of the feed beside those of events, with positions drawn from the same counter.

use comanda_store::{Cursor, FeedNotice, Notice, StoreError};
use rusqlite::{Connection, OptionalExtension, params};

use crate::failure::Failure;
use crate::subscription::{parse, sum};
use crate::writer::Writer;

impl Writer<'_> {
    /// Puts a notice at the feed's end, unless it is in the feed.
    pub(crate) fn announce(&mut self, notice: &Notice) -> Result<(), Failure> {
        let found = self
            .connection
            .prepare_cached("SELECT 1 FROM notices WHERE id = ?1")?
            .query_row([&notice.id], |_| Ok(()))
            .optional()?;
        if found.is_some() {
            return Ok(());
        }
        let text =
            serde_json::to_string(notice).map_err(|error| StoreError::failed("write a notice as JSON", error))?;
        let position = self.counters.position + 1;
        self.counters.position = position;
        self.connection
            .prepare_cached("INSERT INTO notices (position, id, at, notice, crc) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![
                position,
                notice.id,
                notice.at.as_microsecond(),
                text,
                sum(b'N', &notice.id, position, &text)
            ])?;
        Ok(())
    }

    /// Removes notices from before a moment; the feed begins behind them then. Answers whether there were any.
    pub(crate) fn retire_notices(&mut self, before: i64) -> Result<bool, Failure> {
        let newest: Option<i64> = self
            .connection
            .prepare_cached("SELECT max(position) FROM notices WHERE at < ?1")?
            .query_row([before], |row| row.get(0))?;
        let Some(newest) = newest else { return Ok(false) };
        self.connection
            .prepare_cached("UPDATE state SET retained = max(retained, ?1)")?
            .execute([newest])?;
        self.connection
            .prepare_cached("DELETE FROM notices WHERE at < ?1")?
            .execute([before])?;
        Ok(true)
    }
}

/// The first notices after a position.
pub(crate) fn after(connection: &Connection, epoch: u64, after: i64, max: i64) -> Result<Vec<FeedNotice>, Failure> {
    let mut statement = connection.prepare_cached(
        "SELECT position, id, notice, crc FROM notices WHERE position > ?1 ORDER BY position LIMIT ?2",
    )?;
    let mut rows = statement.query([after, max])?;
    let mut notices = Vec::new();
    while let Some(row) = rows.next()? {
        let (position, id, text): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let notice = parse(
            &format!("the notice {id}"),
            &text,
            row.get(3)?,
            sum(b'N', &id, position, &text),
        )?;
        notices.push(FeedNotice {
            notice,
            cursor: Cursor {
                epoch,
                position: position as u64,
            },
        });
    }
    Ok(notices)
}
