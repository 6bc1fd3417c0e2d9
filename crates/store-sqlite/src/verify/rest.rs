//! What is not read order by order: events, attempts, keys, types, counts.

use std::collections::{HashMap, HashSet};

use rusqlite::params;

use super::Verifier;
use crate::failure::Failure;
use crate::{row, work};

const EVENTS: &str = concat!("SELECT ", row::event_columns!(), " FROM events e ORDER BY e.position");
const ATTEMPTS: &str = concat!(
    "SELECT ",
    row::attempt_columns!(),
    " FROM attempts a ORDER BY a.seq, a.number"
);
const KEYS: &str = "SELECT k.seq, k.fingerprint, k.expires_at, k.crc, n.text, k.key, o.keys, o.seq, e.expires_at \
    FROM keys k LEFT JOIN names n ON n.id = k.scope LEFT JOIN orders o ON o.seq = k.seq \
    LEFT JOIN keys_expiring e ON e.expires_at = k.expires_at AND e.scope = k.scope AND e.key = k.key";

impl Verifier<'_> {
    pub(super) fn events(&mut self) -> Result<(), Failure> {
        let damaged = {
            let reader = &mut self.reader;
            let mut damaged = Vec::new();
            let mut statement = reader.connection.prepare(EVENTS)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let seq: i64 = row.get(1)?;
                if let Err(failure) = row::event(&reader.connection, &mut reader.dictionary, row, seq) {
                    damaged.push(failure);
                    if damaged.len() > super::FAULTS_MAX {
                        break;
                    }
                }
                self.report.events += 1;
                self.done += 1;
                if self.done.is_multiple_of(super::ROWS_PER_REPORT) {
                    (self.progress)(self.done.min(self.all), self.all);
                }
            }
            damaged
        };
        self.note_all(damaged)?;
        if self.report.events != self.expected.events && self.report.faults_count == 0 {
            let detail = format!(
                "there are {}; the heads count {}",
                self.report.events, self.expected.events
            );
            self.fault("the events", detail);
        }
        Ok(())
    }

    pub(super) fn attempts(&mut self) -> Result<(), Failure> {
        let damaged = {
            let reader = &mut self.reader;
            let mut damaged = Vec::new();
            let mut statement = reader.connection.prepare(ATTEMPTS)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let seq: i64 = row.get(0)?;
                if let Err(failure) = row::attempt(&reader.connection, &mut reader.dictionary, row, seq) {
                    damaged.push(failure);
                    if damaged.len() > super::FAULTS_MAX {
                        break;
                    }
                }
                self.report.attempts += 1;
                self.done += 1;
                if self.done.is_multiple_of(super::ROWS_PER_REPORT) {
                    (self.progress)(self.done.min(self.all), self.all);
                }
            }
            damaged
        };
        self.note_all(damaged)?;
        if self.report.attempts != self.expected.attempts && self.report.faults_count == 0 {
            let detail = format!(
                "there are {}; the heads count {}",
                self.report.attempts, self.expected.attempts
            );
            self.fault("the attempts", detail);
        }
        Ok(())
    }

    fn note_all(&mut self, damaged: Vec<Failure>) -> Result<(), Failure> {
        for failure in damaged {
            self.noted::<()>(Err(failure))?;
        }
        Ok(())
    }

    pub(super) fn keys(&mut self) -> Result<(), Failure> {
        let mut faults = Vec::new();
        let mut expiring = 0;
        {
            let mut statement = self.reader.connection.prepare(KEYS)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                self.report.keys += 1;
                let (scope, key): (Option<String>, String) = (row.get(4)?, row.get(5)?);
                let scope = scope.unwrap_or_default();
                let what = format!("the key `{key}` of `{scope}`");
                let found = match row::key(row, &scope, &key) {
                    Ok(found) => found,
                    Err(failure) => {
                        let error = failure.into_store_error("read a key");
                        faults.push((what, error.to_string()));
                        continue;
                    }
                };
                if row.get::<_, Option<i64>>(7)?.is_none() {
                    faults.push((what.clone(), "it leads to no order".to_owned()));
                } else if !listed(row.get::<_, Option<String>>(6)?.as_deref(), &scope, &key) {
                    faults.push((what.clone(), "its order does not know of it".to_owned()));
                }
                expiring += i64::from(found.expires_at.is_some());
                if found.expires_at.is_some() && row.get::<_, Option<i64>>(8)?.is_none() {
                    faults.push((what, "it would never expire: its entry is missing".to_owned()));
                }
                if faults.len() > super::FAULTS_MAX {
                    break;
                }
            }
        }
        for (what, detail) in faults {
            self.fault(what, detail);
        }
        let there: i64 = self
            .reader
            .connection
            .query_row("SELECT count(*) FROM keys_expiring", [], |row| row.get(0))?;
        if there != expiring {
            self.fault(
                "the table `keys_expiring`",
                format!("it has {there} rows and should have {expiring}"),
            );
        }
        Ok(())
    }

    pub(super) fn counts(&mut self) -> Result<(), Failure> {
        let expected = std::mem::take(&mut self.expected);
        for (what, sql, expected) in [
            ("the count of state", "SELECT id, n FROM states", &expected.by_state),
            (
                "the count of live orders of type",
                "SELECT id, live FROM types",
                &expected.live,
            ),
            ("the count of cause", "SELECT id, n FROM causes", &expected.by_cause),
        ] {
            let rows: Vec<(i64, i64)> = {
                let mut statement = self.reader.connection.prepare(sql)?;
                let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
                rows.collect::<Result<_, _>>()?
            };
            for (id, n) in rows {
                let expected = expected.get(&id).copied().unwrap_or(0);
                if n != expected {
                    self.fault(format!("{what} {id}"), format!("it is {n} and should be {expected}"));
                }
            }
        }
        self.types()?;
        self.queues(&expected.queued)?;
        let behind: Option<(i64, i64, i64, i64, i64)> = {
            let mut statement = self.reader.connection.prepare(
                "SELECT s.seq, s.position, s.lane_position, (SELECT coalesce(max(seq), 0) FROM orders), \
                 (SELECT max(coalesce((SELECT max(position) FROM events), 0), coalesce((SELECT max(position) FROM notices), 0))) FROM state s",
            )?;
            let mut rows = statement.query([])?;
            match rows.next()? {
                Some(row) => Some((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
                None => None,
            }
        };
        match behind {
            None => self.fault("the store's counters", "they are missing"),
            Some((seq, position, lane_position, newest_seq, newest_position)) => {
                let in_lane: i64 = self.reader.connection.query_row(
                    "SELECT coalesce(max(position), 0) FROM lanes",
                    params![],
                    |row| row.get(0),
                )?;
                if seq < newest_seq || position < newest_position || lane_position < in_lane {
                    self.fault("the store's counters", "they are behind what is stored");
                }
            }
        }
        Ok(())
    }

    /// The counts of queues, and the claims of workers from outside.
    fn queues(&mut self, expected: &HashMap<String, i64>) -> Result<(), Failure> {
        let mut damaged = Vec::new();
        let mut items: HashMap<(i64, bool), i64> = HashMap::new();
        self.reader.each_item(|item| match item {
            Ok(item) => *items.entry(item).or_default() += 1,
            Err(failure) => damaged.push(failure),
        })?;
        let rows: Vec<(i64, String, i64, i64)> = {
            let mut statement = self
                .reader
                .connection
                .prepare("SELECT id, name, depth, dead FROM queues")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
            rows.collect::<Result<_, _>>()?
        };
        let named: HashSet<i64> = rows.iter().map(|(id, ..)| *id).collect();
        for (id, _) in items.keys().filter(|(id, _)| !named.contains(id)) {
            self.fault(
                format!("the queue {id}"),
                "it has items, and its name and counts are missing",
            );
        }
        for (id, name, depth, dead) in rows {
            let count = |is_dead| items.get(&(id, is_dead)).copied().unwrap_or(0);
            let alive = count(false) + expected.get(&name).copied().unwrap_or(0);
            for (what, found, expected) in [("depth", depth, alive), ("count of dead letters", dead, count(true))] {
                if found != expected {
                    let detail = format!("it is {found} and should be {expected}");
                    self.fault(format!("the {what} of queue `{name}`"), detail);
                }
            }
        }
        let lanes: i64 = self.reader.connection.query_row(
            "SELECT count(*) FROM (SELECT 1 FROM items WHERE holds = 1 GROUP BY queue, lane \
             HAVING sum(head) <> 1 AND min(CASE WHEN died_at IS NULL THEN 0 ELSE 1 END) = 0 \
             AND NOT EXISTS (SELECT 1 FROM items d WHERE d.queue = items.queue AND d.lane = items.lane AND d.holds = 1 \
                             AND d.died_at IS NOT NULL))",
            [],
            |row| row.get(0),
        )?;
        if lanes > 0 {
            self.fault(
                "the lanes of queues",
                format!("{lanes} have items and none, or several, at their head"),
            );
        }
        work::each_claim(&self.reader.connection, |claim| damaged.extend(claim.err()))?;
        self.note_all(damaged)
    }

    fn types(&mut self) -> Result<(), Failure> {
        let hashes: Vec<[u8; 32]> = {
            let mut statement = self
                .reader
                .connection
                .prepare("SELECT hash FROM types WHERE source IS NOT NULL")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            rows.collect::<Result<_, _>>()?
        };
        for hash in hashes {
            let read = self.reader.type_source(comanda_model::TypeHash(hash));
            self.noted(read)?;
        }
        Ok(())
    }
}

/// An order's list of keys: scope and key of each.
pub(super) fn keys_of(keys: Option<&str>) -> Vec<(String, String)> {
    keys.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// Whether an order's list of keys names this one.
fn listed(keys: Option<&str>, scope: &str, key: &str) -> bool {
    keys_of(keys).iter().any(|(a, b)| a == scope && b == key)
}
