//! Pages of orders, newest first.
//!
//! The most telling filter that has an index gives the candidates; the others are looked up per candidate. A page
//! looks at no more than [`ROWS_PER_PAGE_MAX`] candidates and then names a cursor, so that no filter, however rare
//! what it matches, holds up a reader.

use std::collections::HashSet;

use comanda_store::{ListQuery, Numbered};
use jiff::Timestamp;
use rusqlite::params;

use crate::column::Time;
use crate::failure::{Failure, corrupt};
use crate::read::{Loaded, bound};
use crate::readers::Reader;
use crate::row;

/// The most candidates that a page looks at.
const ROWS_PER_PAGE_MAX: usize = 10_000;
/// How many candidates are fetched at a time.
const CHUNK: usize = 256;
/// The most orders on one page, whatever was asked for.
const LIMIT_MAX: usize = 1000;

/// Where candidates come from. Each gives numbers of orders below a bound, highest first.
enum Source {
    All,
    Customer(String),
    Group(String),
    /// Rows of `by_state`, for each of these states.
    States(Vec<i64>),
    /// Rows of `by_cause`, for each of these causes.
    Causes(Vec<i64>),
}

/// What the source does not say about a candidate.
struct Filter<'q> {
    states: Option<HashSet<i64>>,
    customer: Option<&'q str>,
    group: Option<&'q str>,
    after: Option<Timestamp>,
    before: Option<Timestamp>,
}

impl Filter<'_> {
    fn is_empty(&self) -> bool {
        self.states.is_none()
            && self.customer.is_none()
            && self.group.is_none()
            && self.after.is_none()
            && self.before.is_none()
    }
}

impl Reader {
    /// A page, and where the next one begins.
    pub(crate) fn list(&mut self, query: &ListQuery) -> Result<(Vec<Loaded>, Option<u64>), Failure> {
        let (source, filter) = self.plan(query)?;
        let limit = query.limit.clamp(1, LIMIT_MAX);
        let mut below = query.cursor.map_or(i64::MAX, bound);
        let mut page = Vec::new();
        let mut looked_at = 0;
        loop {
            let chunk = self.candidates(&source, below, CHUNK)?;
            let ended = chunk.len() < CHUNK;
            let count = chunk.len();
            for (index, seq) in chunk.into_iter().enumerate() {
                below = seq;
                looked_at += 1;
                if self.matches(seq, &filter)? {
                    let loaded = self
                        .order_by_seq(seq)?
                        .ok_or_else(|| corrupt(row::of_order("the acceptance", seq), "it is missing"))?;
                    page.push(loaded);
                }
                let more = !(ended && index + 1 == count);
                if page.len() == limit || looked_at == ROWS_PER_PAGE_MAX {
                    return Ok((page, more.then_some(below as u64)));
                }
            }
            if ended {
                return Ok((page, None));
            }
        }
    }

    fn plan<'q>(&mut self, query: &'q ListQuery) -> Result<(Source, Filter<'q>), Failure> {
        let states = if query.order_type.is_some() || query.status.is_some() || query.phase.is_some() {
            Some(self.states_of(query)?)
        } else {
            None
        };
        let mut filter = Filter {
            states,
            customer: query.customer.as_deref(),
            group: query.group.as_deref(),
            after: query.accepted_after,
            before: query.accepted_before,
        };
        let source = if let Some(cause) = &query.cause {
            Source::Causes(self.causes_of(cause, query.order_type.as_deref())?)
        } else if let Some(group) = filter.group.take() {
            Source::Group(group.to_owned())
        } else if let Some(customer) = filter.customer.take() {
            Source::Customer(customer.to_owned())
        } else if let Some(states) = filter.states.take() {
            Source::States(states.into_iter().collect())
        } else {
            Source::All
        };
        Ok((source, filter))
    }

    /// The states that a query's type, status and phase allow. There are few: types times statuses times phases.
    fn states_of(&self, query: &ListQuery) -> Result<HashSet<i64>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT s.id FROM states s JOIN names t ON t.id = s.type JOIN names n ON n.id = s.status \
             WHERE s.n > 0 AND (?1 IS NULL OR t.text = ?1) AND (?2 IS NULL OR n.text = ?2) \
             AND (?3 IS NULL OR s.phase = ?3)",
        )?;
        let phase = query.phase.map(|phase| i64::from(phase.number()));
        let rows = statement.query_map(params![query.order_type, query.status, phase], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn causes_of(&self, cause: &str, order_type: Option<&str>) -> Result<Vec<i64>, Failure> {
        let mut statement = self.connection.prepare_cached(
            "SELECT c.id FROM causes c JOIN names t ON t.id = c.type WHERE c.cause = ?1 AND (?2 IS NULL OR t.text = ?2)",
        )?;
        let rows = statement.query_map(params![cause, order_type], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn candidates(&self, source: &Source, below: i64, max: usize) -> Result<Vec<i64>, Failure> {
        let max = bound(max as u64);
        let read = |sql: &str, parameters: &[&dyn rusqlite::ToSql]| -> Result<Vec<i64>, Failure> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let rows = statement.query_map(parameters, |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        let merged = |sql: &str, of: &[i64]| -> Result<Vec<i64>, Failure> {
            let mut all = Vec::new();
            for one in of {
                all.extend(read(sql, params![one, below, max])?);
            }
            all.sort_unstable_by(|one, other| other.cmp(one));
            all.truncate(max as usize);
            Ok(all)
        };
        match source {
            Source::All => read(
                "SELECT seq FROM orders WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
                params![below, max],
            ),
            Source::Customer(customer) => read(
                "SELECT seq FROM by_customer WHERE customer = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
                params![customer, below, max],
            ),
            Source::Group(group) => read(
                "SELECT seq FROM by_group WHERE group_key = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
                params![group, below, max],
            ),
            Source::States(states) => merged(
                "SELECT seq FROM by_state WHERE state = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
                states,
            ),
            Source::Causes(causes) => merged(
                "SELECT seq FROM by_cause WHERE cause = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
                causes,
            ),
        }
    }

    fn matches(&self, seq: i64, filter: &Filter<'_>) -> Result<bool, Failure> {
        if filter.is_empty() {
            return Ok(true);
        }
        let mut statement = self.connection.prepare_cached(
            "SELECT h.state, o.customer, o.group_key, o.at FROM orders o JOIN heads h ON h.seq = o.seq WHERE o.seq = ?1",
        )?;
        let mut rows = statement.query([seq])?;
        let row = rows
            .next()?
            .ok_or_else(|| corrupt(row::of_order("the acceptance or head", seq), "it is missing"))?;
        if let Some(states) = &filter.states
            && !states.contains(&row.get(0)?)
        {
            return Ok(false);
        }
        for (at, wanted) in [(1, filter.customer), (2, filter.group)] {
            if wanted.is_some() && row.get_ref(at)?.as_str_or_null().map_err(rusqlite::Error::from)? != wanted {
                return Ok(false);
            }
        }
        let at = row.get::<_, Time>(3)?.0;
        Ok(filter.after.is_none_or(|after| at >= after) && filter.before.is_none_or(|before| at < before))
    }
}
