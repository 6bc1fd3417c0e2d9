//! Erasing an order: what the commit's event [`Erased`](comanda_model::EventKind::Erased) empties besides the head and the
//! data. The writer's connection overwrites what it frees (`secure_delete`, see `schema`), so nothing stays in the file.

use comanda_model::{Acceptance, Attempt, Event};
use rusqlite::params;

use crate::current::Current;
use crate::failure::Failure;
use crate::row;
use crate::writer::Writer;

impl Writer<'_> {
    /// Empties what stands of an order in the acceptance, its events, its attempts and its dead letters in queues.
    pub(crate) fn empty(&mut self, accepted: &Acceptance, current: &mut Current) -> Result<(), Failure> {
        let seq = current.seq;
        current.results.clear();
        let (before, keys) = self.acceptance(seq)?;
        if let Some(customer) = before.customer.filter(|_| accepted.customer.is_none()) {
            self.connection
                .prepare_cached("DELETE FROM by_customer WHERE customer = ?1 AND seq = ?2")?
                .execute(params![customer, seq])?;
        }
        if let Some(group) = before.group.filter(|_| accepted.group.is_none()) {
            self.connection
                .prepare_cached("DELETE FROM by_group WHERE group_key = ?1 AND seq = ?2")?
                .execute(params![group, seq])?;
        }
        self.connection
            .prepare_cached(
                "UPDATE orders SET customer = ?2, group_key = ?3, traceparent = ?4, crc = ?5 WHERE seq = ?1",
            )?
            .execute(params![
                seq,
                accepted.customer,
                accepted.group,
                accepted.traceparent,
                row::acceptance_sum(seq, accepted, keys.as_deref())
            ])?;
        for (position, mut event) in self.events_with_texts(seq)? {
            event.reason = None;
            for changed in &mut event.changed {
                changed.values = None;
            }
            let changed = row::changed_text(&event)?;
            let sum = row::event_sum(position, seq, &event, changed.as_deref());
            self.connection
                .prepare_cached("UPDATE events SET reason = NULL, changed = ?2, crc = ?3 WHERE position = ?1")?
                .execute(params![position, changed, sum])?;
        }
        for mut attempt in self.attempts_with_texts(seq)? {
            attempt.reason = None;
            attempt.result = None;
            self.connection
                .prepare_cached(
                    "UPDATE attempts SET reason = NULL, result = NULL, crc = ?3 WHERE seq = ?1 AND number = ?2",
                )?
                .execute(params![seq, attempt.number as i64, row::attempt_sum(seq, &attempt)])?;
        }
        self.empty_items(seq)
    }

    fn events_with_texts(&mut self, seq: i64) -> Result<Vec<(i64, Event)>, Failure> {
        const SQL: &str = concat!(
            "SELECT ",
            row::event_columns!(),
            " FROM events e WHERE e.seq = ?1 AND (e.reason IS NOT NULL OR e.changed IS NOT NULL)"
        );
        let mut statement = self.connection.prepare_cached(SQL)?;
        let mut rows = statement.query([seq])?;
        let mut events = Vec::new();
        while let Some(row) = rows.next()? {
            let (position, _, event) = row::event(self.connection, &mut self.dictionary, row, seq)?;
            events.push((position, event));
        }
        Ok(events)
    }

    fn attempts_with_texts(&mut self, seq: i64) -> Result<Vec<Attempt>, Failure> {
        const SQL: &str = concat!(
            "SELECT ",
            row::attempt_columns!(),
            " FROM attempts a WHERE a.seq = ?1 AND (a.reason IS NOT NULL OR a.result IS NOT NULL)"
        );
        let mut statement = self.connection.prepare_cached(SQL)?;
        let mut rows = statement.query([seq])?;
        let mut attempts = Vec::new();
        while let Some(row) = rows.next()? {
            attempts.push(row::attempt(self.connection, &mut self.dictionary, row, seq)?.1);
        }
        Ok(attempts)
    }
}
