//! How many orders stand where, kept while commits are applied and written once per batch.

use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::Arc;

use rusqlite::Connection;

use crate::failure::Failure;
use crate::statements::Statements;

/// What stands in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueTally {
    /// The row of `queues`.
    pub(crate) id: i64,
    /// How much waits, is leased, or is tried again later.
    pub(crate) depth: i64,
    /// How much is in its dead letters.
    pub(crate) dead: i64,
}

/// The writer's counts, by the rows of `states` and `types`, and of queues by name.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    queues: FxHashMap<Arc<str>, QueueTally>,
    changed_queues: FxHashSet<Arc<str>>,
    states: FxHashMap<i64, i64>,
    types: FxHashMap<i64, i64>,
    changed_states: FxHashSet<i64>,
    changed_types: FxHashSet<i64>,
}

impl Tally {
    /// Reads the durable counts.
    pub(crate) fn load(connection: &Connection) -> Result<Self, Failure> {
        let read = |sql| -> Result<FxHashMap<i64, i64>, Failure> {
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        let queues = {
            let mut statement = connection.prepare_cached("SELECT name, id, depth, dead FROM queues")?;
            let rows = statement.query_map([], |row| {
                let tally = QueueTally {
                    id: row.get(1)?,
                    depth: row.get(2)?,
                    dead: row.get(3)?,
                };
                Ok((row.get(0)?, tally))
            })?;
            rows.collect::<Result<_, _>>()?
        };
        Ok(Self {
            queues,
            states: read("SELECT id, n FROM states")?,
            types: read("SELECT id, live FROM types")?,
            ..Self::default()
        })
    }

    /// Counts orders in or out of a state.
    pub(crate) fn count(&mut self, state: i64, change: i64) {
        *self.states.entry(state).or_default() += change;
        self.changed_states.insert(state);
    }

    /// Counts orders that are not final in or out of a type's version.
    pub(crate) fn live(&mut self, type_row: i64, change: i64) {
        *self.types.entry(type_row).or_default() += change;
        self.changed_types.insert(type_row);
    }

    /// The row of a queue, if it has ever held anything.
    pub(crate) fn queue(&self, name: &str) -> Option<i64> {
        self.queues.get(name).map(|queue| queue.id)
    }

    /// The name of a queue, by its row. There are few, so that they are looked through.
    pub(crate) fn queue_name(&self, id: i64) -> Option<Arc<str>> {
        let found = self.queues.iter().find(|(_, queue)| queue.id == id);
        found.map(|(name, _)| name.clone())
    }

    /// The row of a queue, made if there is none.
    pub(crate) fn intern_queue(&mut self, connection: &Connection, name: &Arc<str>) -> Result<i64, Failure> {
        if let Some(id) = self.queue(name) {
            return Ok(id);
        }
        let id = connection
            .prepare_cached("INSERT INTO queues (name, depth, dead) VALUES (?1, 0, 0)")?
            .insert([name])?;
        self.queues.insert(
            name.clone(),
            QueueTally {
                id,
                ..QueueTally::default()
            },
        );
        Ok(id)
    }

    /// Counts into or out of a queue, and its dead letters.
    pub(crate) fn count_queue(&mut self, name: &Arc<str>, depth: i64, dead: i64) {
        let queue = self.queues.entry(name.clone()).or_default();
        queue.depth += depth;
        queue.dead += dead;
        self.changed_queues.insert(name.clone());
    }

    /// Writes what has changed since the last time, within the batch's transaction.
    pub(crate) fn write(&mut self, statements: &mut Statements<'_>) -> Result<(), Failure> {
        for state in &self.changed_states {
            let n = self.states.get(state).copied().unwrap_or(0);
            statements.write_count.execute((state, n))?;
        }
        for name in self.changed_queues.drain() {
            if let Some(queue) = self.queues.get(&name) {
                statements.write_queue.execute((queue.id, queue.depth, queue.dead))?;
            }
        }
        for type_row in self.changed_types.drain() {
            let n = self.types.get(&type_row).copied().unwrap_or(0);
            statements.write_live.execute((type_row, n))?;
        }
        Ok(())
    }

    /// The states whose counts have changed since the last time, with the counts; called once they are durable.
    pub(crate) fn take_changed(&mut self) -> Vec<(i64, i64)> {
        self.changed_states
            .drain()
            .map(|state| (state, self.states.get(&state).copied().unwrap_or(0)))
            .collect()
    }

    /// All states with their counts.
    pub(crate) fn all(&self) -> impl Iterator<Item = (i64, i64)> {
        self.states.iter().map(|(state, n)| (*state, *n))
    }
}
