//! Texts and states that rows name by number, kept in memory per connection.
//!
//! A number, once durable, never changes its meaning, so a connection's copy never goes stale; only the writer must
//! forget what it learnt in a transaction that was rolled back.

use rustc_hash::FxHashMap;
use std::sync::Arc;

use comanda_model::{Phase, TypeHash};
use comanda_store::Numbered;
use rusqlite::{Connection, OptionalExtension};

use crate::failure::{Failure, corrupt};

/// Where an order can stand.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// The type's name.
    pub(crate) order_type: Arc<str>,
    /// The status.
    pub(crate) status: Arc<str>,
    /// The engine's view.
    pub(crate) phase: Phase,
}

/// One connection's copy of what numbers mean.
#[derive(Debug, Default)]
pub(crate) struct Dictionary {
    names: FxHashMap<i64, Arc<str>>,
    name_ids: FxHashMap<Arc<str>, i64>,
    states: FxHashMap<i64, State>,
    state_ids: FxHashMap<(i64, i64, Phase), i64>,
    hashes: FxHashMap<i64, TypeHash>,
    hash_ids: FxHashMap<TypeHash, i64>,
}

impl Dictionary {
    /// Forgets everything: a transaction that may have added to it was rolled back.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The text with this number.
    pub(crate) fn name(&mut self, connection: &Connection, id: i64) -> Result<Arc<str>, Failure> {
        if let Some(text) = self.names.get(&id) {
            return Ok(text.clone());
        }
        let text: Option<String> = connection
            .prepare_cached("SELECT text FROM names WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        let text: Arc<str> = text
            .ok_or_else(|| corrupt(format!("name {id}"), "it is missing"))?
            .into();
        self.learn_name(id, text.clone());
        Ok(text)
    }

    /// The number of a text, if it has one.
    pub(crate) fn name_id(&mut self, connection: &Connection, text: &str) -> Result<Option<i64>, Failure> {
        if let Some(id) = self.name_ids.get(text) {
            return Ok(Some(*id));
        }
        let id: Option<i64> = connection
            .prepare_cached("SELECT id FROM names WHERE text = ?1")?
            .query_row([text], |row| row.get(0))
            .optional()?;
        if let Some(id) = id {
            self.learn_name(id, text.into());
        }
        Ok(id)
    }

    /// The number of a text; gives it one if it has none.
    pub(crate) fn intern_name(&mut self, connection: &Connection, text: &str) -> Result<i64, Failure> {
        if let Some(id) = self.name_id(connection, text)? {
            return Ok(id);
        }
        let id = connection
            .prepare_cached("INSERT INTO names (text) VALUES (?1)")?
            .insert([text])?;
        self.learn_name(id, text.into());
        Ok(id)
    }

    fn learn_name(&mut self, id: i64, text: Arc<str>) {
        self.names.insert(id, text.clone());
        self.name_ids.insert(text, id);
    }

    /// The state with this number.
    pub(crate) fn state(&mut self, connection: &Connection, id: i64) -> Result<State, Failure> {
        if let Some(state) = self.states.get(&id) {
            return Ok(state.clone());
        }
        let row: Option<(i64, i64, i64)> = connection
            .prepare_cached("SELECT type, status, phase FROM states WHERE id = ?1")?
            .query_row([id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let (order_type, status, phase) = row.ok_or_else(|| corrupt(format!("state {id}"), "it is missing"))?;
        let phase = Phase::from_number(phase)?;
        let state = State {
            order_type: self.name(connection, order_type)?,
            status: self.name(connection, status)?,
            phase,
        };
        self.states.insert(id, state.clone());
        self.state_ids.insert((order_type, status, phase), id);
        Ok(state)
    }

    /// The number of a state; gives it one if it has none. `order_type` is the number of the type's name.
    pub(crate) fn intern_state(
        &mut self,
        connection: &Connection,
        order_type: i64,
        status: &str,
        phase: Phase,
    ) -> Result<i64, Failure> {
        let status_id = self.intern_name(connection, status)?;
        if let Some(id) = self.state_ids.get(&(order_type, status_id, phase)) {
            return Ok(*id);
        }
        let found: Option<i64> = connection
            .prepare_cached("SELECT id FROM states WHERE type = ?1 AND status = ?2 AND phase = ?3")?
            .query_row((order_type, status_id, i64::from(phase.number())), |row| row.get(0))
            .optional()?;
        let id = match found {
            Some(id) => id,
            None => connection
                .prepare_cached("INSERT INTO states (type, status, phase, n) VALUES (?1, ?2, ?3, 0)")?
                .insert((order_type, status_id, i64::from(phase.number())))?,
        };
        self.state(connection, id)?;
        Ok(id)
    }

    /// The type hash with this number.
    pub(crate) fn type_hash(&mut self, connection: &Connection, id: i64) -> Result<TypeHash, Failure> {
        if let Some(hash) = self.hashes.get(&id) {
            return Ok(*hash);
        }
        let hash: Option<[u8; 32]> = connection
            .prepare_cached("SELECT hash FROM types WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        let hash = TypeHash(hash.ok_or_else(|| corrupt(format!("type {id}"), "it is missing"))?);
        self.hashes.insert(id, hash);
        self.hash_ids.insert(hash, id);
        Ok(hash)
    }

    /// The number of a type hash; gives it one if it has none.
    pub(crate) fn intern_type(&mut self, connection: &Connection, hash: TypeHash) -> Result<i64, Failure> {
        if let Some(id) = self.hash_ids.get(&hash) {
            return Ok(*id);
        }
        let found: Option<i64> = connection
            .prepare_cached("SELECT id FROM types WHERE hash = ?1")?
            .query_row([hash.0], |row| row.get(0))
            .optional()?;
        let id = match found {
            Some(id) => id,
            None => connection
                .prepare_cached("INSERT INTO types (hash, live) VALUES (?1, 0)")?
                .insert([hash.0])?,
        };
        self.hashes.insert(id, hash);
        self.hash_ids.insert(hash, id);
        Ok(id)
    }
}
