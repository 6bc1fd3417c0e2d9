//! The ledger: balances by account and place, the movements of each order, and what came and went outside of orders.
//!
//! Everything that ever moved stands in `entries` (orders that are there) or is summed up in `flows` (postings, and orders
//! that retention has removed), so that every balance can be proved by adding up.

use std::sync::Arc;

use comanda_model::{LedgerLine, OrderId};
use comanda_store::ledger::{NewBalance, settle};
use comanda_store::{Account, Commit, CommitError, PostError, Posted, Posting};
use rusqlite::{OptionalExtension, Row, params};

use crate::column::Sum;
use crate::failure::{Failure, corrupt};
use crate::ids;
use crate::readers::Reader;
use crate::writer::{Aborted, Writer};

/// The most postings that one bite of retention forgets.
const POSTINGS_PER_BITE: i64 = 1000;

pub(crate) fn balance_sum(account: &str, place: &str, quantity: i64) -> i64 {
    Sum::new(b'b', 0).text(account).text(place).int(quantity).finish()
}

pub(crate) fn entry_sum(seq: i64, line: &LedgerLine) -> i64 {
    Sum::new(b'm', seq)
        .text(&line.once_id)
        .text(&line.account)
        .text(&line.from)
        .text(&line.to)
        .int(i64::from(line.quantity))
        .finish()
}

pub(crate) fn flow_sum(account: &str, source: &str, target: &str, quantity: i64) -> i64 {
    Sum::new(b'f', 0)
        .text(account)
        .text(source)
        .text(target)
        .int(quantity)
        .finish()
}

pub(crate) fn posting_sum(once_id: &str, fingerprint: &[u8; 32], at: i64) -> i64 {
    Sum::new(b'p', 0).text(once_id).bytes(fingerprint).int(at).finish()
}

/// Says that a row is not what was written, if it is not.
pub(crate) fn prove(found: i64, sum: i64, what: impl FnOnce() -> String) -> Result<(), Failure> {
    if found == sum {
        return Ok(());
    }
    Err(corrupt(what(), "its checksum does not match").into())
}

/// A balance from the columns `account, place, quantity, crc`.
pub(crate) fn balance(row: &Row<'_>) -> Result<(String, String, i64), Failure> {
    let (account, place, quantity): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
    prove(row.get(3)?, balance_sum(&account, &place, quantity), || {
        format!("the balance of `{account}` at `{place}`")
    })?;
    Ok((account, place, quantity))
}

/// A movement of an order from the columns `once, account, source, target, quantity, crc`.
pub(crate) fn entry(row: &Row<'_>, seq: i64) -> Result<LedgerLine, Failure> {
    let text = |at: usize| -> Result<Arc<str>, Failure> { Ok(row.get::<_, String>(at)?.into()) };
    let quantity: i64 = row.get(4)?;
    let line = LedgerLine {
        once_id: text(0)?,
        account: text(1)?,
        from: text(2)?,
        to: text(3)?,
        quantity: u32::try_from(quantity).map_err(|_| corrupt("a movement", format!("{quantity} is out of range")))?,
    };
    prove(row.get(5)?, entry_sum(seq, &line), || {
        format!("a movement of `{}` by order {seq}", line.account)
    })?;
    Ok(line)
}

impl Writer<'_> {
    fn balance(&self, account: &str, place: &str) -> Result<i64, Failure> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT account, place, quantity, crc FROM balances WHERE account = ?1 AND place = ?2")?;
        let mut rows = statement.query((account, place))?;
        let found = rows.next()?.map(balance).transpose()?;
        Ok(found.map_or(0, |(_, _, quantity)| quantity))
    }

    fn is_moved(&self, seq: Option<i64>, line: &LedgerLine) -> Result<bool, Failure> {
        let Some(seq) = seq else { return Ok(false) };
        Ok(self
            .connection
            .prepare_cached("SELECT 1 FROM entries WHERE seq = ?1 AND once = ?2 AND account = ?3")?
            .exists(params![seq, line.once_id, line.account])?)
    }

    /// The balances as a commit's lines leave them, or what there is too little of.
    pub(crate) fn settle(
        &self,
        commit: &Commit,
        seq: Option<i64>,
    ) -> Result<Result<Vec<NewBalance>, CommitError>, Failure> {
        let mut lines = Vec::with_capacity(commit.ledger.len());
        for line in &commit.ledger {
            if !self.is_moved(seq, line)? {
                lines.push(line.clone());
            }
        }
        let settled = settle(&lines, |account, place| self.balance(account, place))?;
        Ok(settled.map_err(CommitError::Short))
    }

    /// Writes what [`Writer::settle`] worked out, and the lines themselves.
    pub(crate) fn write_ledger(&self, seq: i64, lines: &[LedgerLine], balances: &[NewBalance]) -> Result<(), Failure> {
        self.write_balances(balances)?;
        let mut insert = self.connection.prepare_cached(
            "INSERT OR IGNORE INTO entries (seq, once, account, source, target, quantity, crc) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?;
        let mut written = 0;
        for line in lines {
            written += insert.execute(params![
                seq,
                line.once_id,
                line.account,
                line.from,
                line.to,
                line.quantity,
                entry_sum(seq, line)
            ])?;
        }
        if written > 0 {
            self.keep_count(Counted::Entries, i64::try_from(written).unwrap_or(i64::MAX))?;
        }
        Ok(())
    }

    fn write_balances(&self, balances: &[NewBalance]) -> Result<(), Failure> {
        let mut write = self
            .connection
            .prepare_cached("REPLACE INTO balances (account, place, quantity, crc) VALUES (?1, ?2, ?3, ?4)")?;
        for balance in balances {
            let sum = balance_sum(&balance.account, &balance.place, balance.quantity);
            write.execute(params![balance.account, balance.place, balance.quantity, sum])?;
        }
        Ok(())
    }

    fn add_flow(&self, line: &LedgerLine) -> Result<(), Failure> {
        let found: Option<(i64, i64)> = self
            .connection
            .prepare_cached("SELECT quantity, crc FROM flows WHERE account = ?1 AND source = ?2 AND target = ?3")?
            .query_row(params![line.account, line.from, line.to], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        let before = match found {
            Some((quantity, sum)) => {
                prove(sum, flow_sum(&line.account, &line.from, &line.to, quantity), || {
                    format!(
                        "the sum of what went from `{}` to `{}` of `{}`",
                        line.from, line.to, line.account
                    )
                })?;
                quantity
            }
            None => 0,
        };
        let quantity = before.saturating_add(i64::from(line.quantity));
        let sum = flow_sum(&line.account, &line.from, &line.to, quantity);
        self.connection
            .prepare_cached("REPLACE INTO flows (account, source, target, quantity, crc) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![line.account, line.from, line.to, quantity, sum])?;
        Ok(())
    }

    /// Applies a posting, in a transaction of its own.
    pub(crate) fn post(&mut self, posting: &Posting) -> Result<Posted, PostError> {
        let posted = self.within_transaction(|writer| {
            let found: Option<([u8; 32], i64, i64)> = writer
                .connection
                .prepare_cached("SELECT fingerprint, at, crc FROM postings WHERE once = ?1")?
                .query_row([&posting.once_id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .optional()?;
            if let Some((fingerprint, at, sum)) = found {
                prove(sum, posting_sum(&posting.once_id, &fingerprint, at), || {
                    format!("the posting `{}`", posting.once_id)
                })?;
                let same = fingerprint == posting.fingerprint;
                return Ok((
                    if same {
                        Ok(Posted::Repeated)
                    } else {
                        Err(PostError::Reused)
                    },
                    false,
                ));
            }
            if let Some((account, place, expected)) = &posting.expect {
                let actual = writer.balance(account, place)?;
                if actual != *expected {
                    return Ok((Err(PostError::Moved { actual }), false));
                }
            }
            let balances = match settle(&posting.lines, |account, place| writer.balance(account, place))? {
                Ok(balances) => balances,
                Err(short) => return Ok((Err(PostError::Short(short)), false)),
            };
            writer.write_balances(&balances)?;
            for line in &posting.lines {
                writer.add_flow(line)?;
            }
            let at = writer.shared.clock.micros();
            let sum = posting_sum(&posting.once_id, &posting.fingerprint, at);
            writer
                .connection
                .prepare_cached("INSERT INTO postings (once, fingerprint, at, crc) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![posting.once_id, posting.fingerprint, at, sum])?;
            writer.keep_count(Counted::Postings, 1)?;
            Ok((Ok(Posted::Applied), true))
        });
        match posted {
            Ok(answer) => answer,
            Err(Aborted::Failed(failure) | Aborted::Unknown(failure)) => {
                Err(failure.into_store_error("post to the ledger").into())
            }
        }
    }

    /// Sums up what an order that goes has moved.
    pub(crate) fn retire_entries(&self, seq: i64) -> Result<(), Failure> {
        let lines: Vec<LedgerLine> = {
            let mut statement = self.connection.prepare_cached(ENTRIES_OF)?;
            let mut rows = statement.query([seq])?;
            let mut lines = Vec::new();
            while let Some(row) = rows.next()? {
                lines.push(entry(row, seq)?);
            }
            lines
        };
        if lines.is_empty() {
            return Ok(());
        }
        for line in &lines {
            self.add_flow(line)?;
        }
        let retired = self
            .connection
            .prepare_cached("DELETE FROM entries WHERE seq = ?1")?
            .execute([seq])?;
        self.keep_count(Counted::Entries, -i64::try_from(retired).unwrap_or(i64::MAX))
    }

    /// Forgets postings from before a moment: their ids may be used again. What they moved stays.
    pub(crate) fn forget_postings(&self, before: i64) -> Result<usize, Failure> {
        let forgotten = self
            .connection
            .prepare_cached(
                "DELETE FROM postings WHERE once IN (SELECT once FROM postings WHERE at < ?1 ORDER BY at LIMIT ?2)",
            )?
            .execute((before, POSTINGS_PER_BITE))?;
        if forgotten > 0 {
            self.keep_count(Counted::Postings, -i64::try_from(forgotten).unwrap_or(i64::MAX))?;
        }
        Ok(forgotten)
    }

    /// Keeps how many rows there are, when so many have come or gone. A store from before they were counted begins with
    /// what it has.
    fn keep_count(&self, counted: Counted, change: i64) -> Result<(), Failure> {
        let known = self
            .connection
            .prepare_cached("UPDATE meta SET value = value + ?2 WHERE name = ?1")?
            .execute(params![counted.name(), change])?;
        if known == 0 {
            self.connection
                .prepare_cached(counted.begin())?
                .execute([counted.name()])?;
        }
        Ok(())
    }
}

/// Rows that are counted, so that one which is lost is missed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Counted {
    /// The ids of postings: one that is lost would count as new, and what it moved would move again.
    Postings,
    /// What orders have moved: lines that cancel out are missed by no sum.
    Entries,
}

impl Counted {
    /// Under which name the count is kept.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postings => "postings",
            Self::Entries => "entries",
        }
    }

    fn begin(self) -> &'static str {
        match self {
            Self::Postings => "INSERT INTO meta (name, value) VALUES (?1, (SELECT count(*) FROM postings))",
            Self::Entries => "INSERT INTO meta (name, value) VALUES (?1, (SELECT count(*) FROM entries))",
        }
    }
}

const ENTRIES_OF: &str =
    "SELECT once, account, source, target, quantity, crc FROM entries WHERE seq = ?1 ORDER BY once, account";

impl Reader {
    /// An account by its name.
    pub(crate) fn account(&self, name: &str) -> Result<Account, Failure> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT account, place, quantity, crc FROM balances WHERE account = ?1 ORDER BY place")?;
        let mut rows = statement.query([name])?;
        let mut places = Vec::new();
        while let Some(row) = rows.next()? {
            let (_, place, quantity) = balance(row)?;
            places.push((place.into(), quantity));
        }
        Ok(Account {
            account: name.to_owned(),
            places,
        })
    }

    /// Accounts that begin with `prefix` and stand after `after`.
    pub(crate) fn accounts_after(
        &self,
        prefix: &str,
        after: Option<&str>,
        max: usize,
    ) -> Result<Vec<Account>, Failure> {
        let mut accounts = Vec::new();
        let mut last = after.filter(|after| *after >= prefix).map(str::to_owned);
        while accounts.len() < max {
            let next: Option<String> = match &last {
                Some(last) => self
                    .connection
                    .prepare_cached("SELECT account FROM balances WHERE account > ?1 ORDER BY account LIMIT 1")?
                    .query_row([last], |row| row.get(0))
                    .optional()?,
                None => self
                    .connection
                    .prepare_cached("SELECT account FROM balances WHERE account >= ?1 ORDER BY account LIMIT 1")?
                    .query_row([prefix], |row| row.get(0))
                    .optional()?,
            };
            let Some(name) = next.filter(|name| name.starts_with(prefix)) else {
                break;
            };
            accounts.push(self.account(&name)?);
            last = Some(name);
        }
        Ok(accounts)
    }

    /// What an order has moved.
    pub(crate) fn ledger_of(&self, id: OrderId) -> Result<Vec<LedgerLine>, Failure> {
        let Some(seq) = ids::seq_of(&self.connection, id)? else {
            return Ok(Vec::new());
        };
        let mut statement = self.connection.prepare_cached(ENTRIES_OF)?;
        let mut rows = statement.query([seq])?;
        let mut lines = Vec::new();
        while let Some(row) = rows.next()? {
            lines.push(entry(row, seq)?);
        }
        Ok(lines)
    }
}
