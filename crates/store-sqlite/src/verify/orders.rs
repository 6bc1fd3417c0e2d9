//! Order by order: what was accepted, the head, and every row that leads to it.

use comanda_model::{Acceptance, HoldState, Outcome, Phase};
use comanda_store::Numbered;
use rusqlite::{OptionalExtension, ToSql, params};

use super::Verifier;
use super::rest::keys_of;
use crate::column::due_micros;
use crate::failure::Failure;
use crate::row::{self, HeadRow, ORDER_COLUMNS_COUNT};

const ORDERS: &str = concat!(
    "SELECT ",
    row::order_columns!(),
    ", ",
    row::data_columns!(),
    ", ",
    row::head_columns!(),
    ", o.seq, h.seq, i.seq \
     FROM orders o LEFT JOIN heads h ON h.seq = o.seq LEFT JOIN ids i ON i.id = o.id WHERE o.seq > ?1 ORDER BY o.seq LIMIT ?2"
);
const HEAD_AT: usize = ORDER_COLUMNS_COUNT + 2;
const SEQ_AT: usize = HEAD_AT + 13;
/// How many orders are read at a time; each may carry a list of up to `LIMIT` heads in memory.
const CHUNK: i64 = 500;

/// An order whose own rows are whole.
struct Whole {
    seq: i64,
    accepted: Acceptance,
    /// The keys that lead to it, as they are written down: a list of scope and key.
    keys: Option<String>,
    found: HeadRow,
}

impl Verifier<'_> {
    pub(super) fn orders(&mut self) -> Result<(), Failure> {
        let mut after = i64::MIN;
        loop {
            let (read, whole) = self.read_orders(&mut after)?;
            for one in whole {
                self.order(&one)?;
                self.step();
            }
            if read < CHUNK {
                break;
            }
        }
        self.totals()
    }

    /// Reads the next orders and proves their sums. Answers how many rows there were, and those that are whole.
    fn read_orders(&mut self, after: &mut i64) -> Result<(i64, Vec<Whole>), Failure> {
        let mut read = 0;
        let mut whole = Vec::new();
        let mut damaged = Vec::new();
        {
            let reader = &mut self.reader;
            let mut statement = reader.connection.prepare_cached(ORDERS)?;
            let mut rows = statement.query([*after, CHUNK])?;
            while let Some(row) = rows.next()? {
                read += 1;
                let seq: i64 = row.get(SEQ_AT)?;
                *after = seq;
                self.report.orders += 1;
                self.expected.orders += 1;
                let accepted = row::acceptance(&reader.connection, &mut reader.dictionary, row, 0, seq);
                let (accepted, keys) = match accepted {
                    Ok(accepted) => accepted,
                    Err(failure) => {
                        damaged.push(failure);
                        continue;
                    }
                };
                if let Err(failure) = row::data(row, ORDER_COLUMNS_COUNT, seq, accepted.id) {
                    damaged.push(failure);
                }
                if row.get::<_, Option<i64>>(SEQ_AT + 2)? != Some(seq) {
                    let what = row::of_order("the id", accepted.id);
                    damaged.push(crate::failure::corrupt(what, "it does not lead to the order").into());
                }
                if row.get::<_, Option<i64>>(SEQ_AT + 1)?.is_none() {
                    let what = row::of_order("the head", accepted.id);
                    damaged.push(crate::failure::corrupt(what, "it is missing").into());
                    continue;
                }
                let connection = &reader.connection;
                match row::head(connection, &mut reader.dictionary, row, HEAD_AT, seq, accepted.id) {
                    Ok(found) => whole.push(Whole {
                        seq,
                        accepted,
                        keys,
                        found,
                    }),
                    Err(failure) => damaged.push(failure),
                }
            }
        }
        for failure in damaged {
            self.noted::<()>(Err(failure))?;
        }
        Ok((read, whole))
    }

    fn exists(&self, sql: &str, parameters: &[&dyn ToSql]) -> Result<bool, Failure> {
        Ok(self.reader.connection.prepare_cached(sql)?.exists(parameters)?)
    }

    fn expect_row(&mut self, there: bool, index: &str, order: &Whole) {
        if !there {
            self.fault(row::of_order(index, order.accepted.id), "the entry is missing");
        }
    }

    fn order(&mut self, order: &Whole) -> Result<(), Failure> {
        let Whole {
            seq, accepted, found, ..
        } = order;
        let head = &found.head;
        if found.order_type != accepted.order_type {
            let detail = format!("its state is one of the type `{}`", found.order_type);
            self.fault(row::of_order("the head", accepted.id), detail);
        }
        for hold in head.holds.iter().filter(|hold| hold.state == HoldState::Held) {
            for line in &hold.lines {
                *self.expected.held.entry(line.account.to_string()).or_default() += i64::from(line.quantity);
            }
        }
        let by_state = self.exists(
            "SELECT 1 FROM by_state WHERE state = ?1 AND seq = ?2",
            params![found.state, seq],
        )?;
        self.expect_row(by_state, "the entry by state", order);
        *self.expected.by_state.entry(found.state).or_default() += 1;
        if let Some(customer) = &accepted.customer {
            self.expected.customers += 1;
            let there = self.exists(
                "SELECT 1 FROM by_customer WHERE customer = ?1 AND seq = ?2",
                params![customer, seq],
            )?;
            self.expect_row(there, "the entry by customer", order);
        }
        if let Some(group) = &accepted.group {
            self.expected.groups += 1;
            let there = self.exists(
                "SELECT 1 FROM by_group WHERE group_key = ?1 AND seq = ?2",
                params![group, seq],
            )?;
            self.expect_row(there, "the entry by group", order);
        }
        if head.phase == Phase::Final {
            self.expected.finals += 1;
            let at = head.updated_at.as_microsecond();
            let there = self.exists(
                "SELECT 1 FROM final WHERE updated_at = ?1 AND seq = ?2",
                params![at, seq],
            )?;
            self.expect_row(there, "the entry among the final ones", order);
        } else {
            *self.expected.live.entry(found.type_row).or_default() += 1;
        }
        self.own_key(order)?;
        self.status(order)?;
        self.dead(order)?;
        let active = self.lane(order)?;
        let due = head.due_at(active).map(due_micros);
        if let Some(at) = due {
            self.expected.due += 1;
            let there = self.exists("SELECT 1 FROM due WHERE at = ?1 AND seq = ?2", params![at, seq])?;
            self.expect_row(there, "the due entry", order);
        }
        let queued = head.queued_at(active);
        if let Some((queue, at)) = queued {
            *self.expected.queued.entry(queue.to_string()).or_default() += 1;
            let there = self.exists(
                "SELECT 1 FROM queued e JOIN queues q ON q.id = e.queue WHERE q.name = ?1 AND e.at = ?2 AND e.seq = ?3",
                params![&**queue, due_micros(at), seq],
            )?;
            self.expect_row(there, "the entry in its queue", order);
        }
        if head.work.as_ref().is_some_and(|work| work.queue.is_some()) {
            self.expected.for_workers += u64::from(self.exists("SELECT 1 FROM claims WHERE seq = ?1", params![seq])?);
        }
        // An order that is not final is due, or queued, or a dead letter, or has nothing to do but to wait for someone
        // outside. Work without a time is none of these: nobody would ever look at it.
        let waits = head.work.is_none() && head.phase == Phase::Active;
        if due.is_none() && queued.is_none() && active && !waits && !matches!(head.phase, Phase::Dead | Phase::Final) {
            self.fault(
                row::of_order("the work", accepted.id),
                "it is never due, and the order waits for nobody",
            );
        }
        self.numbered(order)
    }

    /// The client's own id leads to the order for as long as it is there: it never expires.
    fn own_key(&mut self, order: &Whole) -> Result<(), Failure> {
        let Some(own) = &order.accepted.key else { return Ok(()) };
        let mut scopes: Vec<String> = keys_of(order.keys.as_deref())
            .into_iter()
            .filter_map(|(scope, key)| (key == *own).then_some(scope))
            .collect();
        if scopes.is_empty() {
            return Ok(());
        }
        // An idempotency key of the same text may be among them, and may have expired.
        let mut there = false;
        while let Some(scope) = scopes.pop().filter(|_| !there) {
            there = self.exists(
                "SELECT 1 FROM keys k JOIN names n ON n.id = k.scope WHERE n.text = ?1 AND k.key = ?2 AND k.seq = ?3",
                params![scope, own, order.seq],
            )?;
        }
        self.expect_row(there, "the client's own id", order);
        Ok(())
    }

    /// The status is the one that the last change of status led to.
    fn status(&mut self, order: &Whole) -> Result<(), Failure> {
        let last: Option<String> = self
            .reader
            .connection
            .prepare_cached(
                "SELECT n.text FROM events e JOIN names n ON n.id = e.to_status WHERE e.seq = ?1 ORDER BY e.number DESC LIMIT 1",
            )?
            .query_row([order.seq], |row| row.get(0))
            .optional()?;
        let status = &order.found.head.status;
        if last.as_deref() != Some(&**status) {
            let last = last.unwrap_or_else(|| "nowhere".to_owned());
            let detail = format!("it is `{status}`, and its last event leads to `{last}`");
            self.fault(row::of_order("the status", order.accepted.id), detail);
        }
        Ok(())
    }

    fn dead(&mut self, order: &Whole) -> Result<(), Failure> {
        let Whole {
            seq, accepted, found, ..
        } = order;
        if found.head.phase != Phase::Dead {
            return Ok(());
        }
        let Some(dead) = &found.head.dead else {
            self.fault(row::of_order("the dead letter", accepted.id), "it has no reason");
            return Ok(());
        };
        self.expected.dead += 1;
        let cause: Option<i64> = self
            .reader
            .connection
            .prepare_cached(
                "SELECT c.id FROM causes c JOIN names n ON n.id = c.type JOIN by_cause b ON b.cause = c.id \
                 WHERE c.cause = ?1 AND n.text = ?2 AND b.seq = ?3",
            )?
            .query_row(params![dead.cause, accepted.order_type, seq], |row| row.get(0))
            .optional()?;
        match cause {
            Some(cause) => *self.expected.by_cause.entry(cause).or_default() += 1,
            None => self.expect_row(false, "the entry by cause", order),
        }
        Ok(())
    }

    /// Checks the order's place in its lane. Answers whether its work may be done now.
    fn lane(&mut self, order: &Whole) -> Result<bool, Failure> {
        let Whole {
            seq, accepted, found, ..
        } = order;
        let Some(lane) = found.head.lane.as_ref().filter(|lane| lane.standing) else {
            return Ok(true);
        };
        self.expected.members += 1;
        let member = |waiting: bool| {
            self.exists(
                "SELECT 1 FROM lanes WHERE lane = ?1 AND waiting = ?2 AND position = ?3 AND seq = ?4",
                params![lane.name, waiting, found.lane_position, seq],
            )
        };
        let (at_head, waiting) = (member(false)?, member(true)?);
        if !at_head && !waiting {
            self.fault(
                row::of_order("the place in the lane", accepted.id),
                "the entry is missing",
            );
        }
        Ok(at_head)
    }

    /// Checks that events and attempts are there without gaps, as many as the head says.
    fn numbered(&mut self, order: &Whole) -> Result<(), Failure> {
        let Whole {
            seq, accepted, found, ..
        } = order;
        self.expected.events += found.head.events;
        self.expected.attempts += found.head.attempts;
        for (what, sql, count) in [
            (
                "the events",
                "SELECT count(*), coalesce(min(number), 1), coalesce(max(number), 0) FROM events WHERE seq = ?1",
                found.head.events,
            ),
            (
                "the attempts",
                "SELECT count(*), coalesce(min(number), 1), coalesce(max(number), 0) FROM attempts WHERE seq = ?1",
                found.head.attempts,
            ),
        ] {
            let (there, first, last): (i64, i64, i64) = self
                .reader
                .connection
                .prepare_cached(sql)?
                .query_row([seq], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            // Numbers are unique within an order, so that these three leave no room for a gap.
            if (there, first, last) != (count as i64, 1, count as i64) {
                let detail = format!("there are {there}, numbered {first} to {last}; the head counts {count}");
                self.fault(row::of_order(what, accepted.id), detail);
            }
        }
        for (step, number) in &found.results {
            let there = self.exists(
                "SELECT 1 FROM attempts WHERE seq = ?1 AND number = ?2 AND outcome = ?3 AND result IS NOT NULL",
                params![seq, *number as i64, i64::from(Outcome::Done.number())],
            )?;
            if !there {
                let what = row::of_order(&format!("the result of step `{step}`"), accepted.id);
                self.fault(what, format!("attempt {number} has none"));
            }
        }
        Ok(())
    }

    /// Rows of indexes that belong to no order show as totals that are too high.
    fn totals(&mut self) -> Result<(), Failure> {
        let expected = &self.expected;
        let tables = [
            ("ids", expected.orders),
            ("heads", expected.orders),
            ("by_state", expected.orders),
            ("by_customer", expected.customers),
            ("by_group", expected.groups),
            ("by_cause", expected.dead),
            ("due", expected.due),
            ("queued", expected.queued.values().sum::<i64>() as u64),
            ("claims", expected.for_workers),
            ("final", expected.finals),
            ("lanes", expected.members),
        ];
        for (table, expected) in tables {
            let there: i64 = self
                .reader
                .connection
                .query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0))?;
            if there != expected as i64 {
                self.fault(
                    format!("the table `{table}`"),
                    format!("it has {there} rows and should have {expected}"),
                );
            }
        }
        let lanes: Vec<(String, i64)> = {
            let mut statement = self.reader.connection.prepare(
                "SELECT lane, sum(waiting = 0) FROM lanes GROUP BY lane HAVING sum(waiting = 0) <> 1 LIMIT 1000",
            )?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<Result<_, _>>()?
        };
        for (lane, heads) in lanes {
            self.fault(format!("the lane `{lane}`"), format!("{heads} orders are at its head"));
        }
        Ok(())
    }
}
