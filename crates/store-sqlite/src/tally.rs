//! How many orders stand where, kept while commits are applied and written once per batch.

use std::collections::{HashMap, HashSet};

use rusqlite::Connection;

use crate::failure::Failure;
use crate::statements::Statements;

/// The writer's counts, by the rows of `states` and `types`.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    states: HashMap<i64, i64>,
    types: HashMap<i64, i64>,
    changed_states: HashSet<i64>,
    changed_types: HashSet<i64>,
}

impl Tally {
    /// Reads the durable counts.
    pub(crate) fn load(connection: &Connection) -> Result<Self, Failure> {
        let read = |sql| -> Result<HashMap<i64, i64>, Failure> {
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        Ok(Self {
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

    /// Writes what has changed since the last time, within the batch's transaction.
    pub(crate) fn write(&mut self, statements: &mut Statements<'_>) -> Result<(), Failure> {
        for state in &self.changed_states {
            let n = self.states.get(state).copied().unwrap_or(0);
            statements.write_count.execute((state, n))?;
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
