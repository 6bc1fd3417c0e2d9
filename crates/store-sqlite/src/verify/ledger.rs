//! The ledger and the records: every checksum, every balance added up again from what moved, and what orders hold.

use std::collections::BTreeMap;

use comanda_model::LedgerLine;
use comanda_model::ledger::{HELD, OUTSIDE};
use rusqlite::OptionalExtension;

use super::Verifier;
use crate::failure::Failure;
use crate::ledger::{Counted, balance, entry, flow_sum, posting_sum, prove};
use crate::record;

/// Account and place.
type Name = (String, String);

#[derive(Default)]
struct Added(BTreeMap<Name, i64>);

impl Added {
    fn add(&mut self, account: &str, from: &str, to: &str, quantity: i64) {
        *self.0.entry((account.to_owned(), from.to_owned())).or_default() -= quantity;
        *self.0.entry((account.to_owned(), to.to_owned())).or_default() += quantity;
    }
}

impl Verifier<'_> {
    /// Balances are what moved, none but those outside is below zero, and what is held is held by orders.
    pub(super) fn ledger(&mut self) -> Result<(), Failure> {
        let mut added = Added::default();
        self.add_flows(&mut added)?;
        self.add_entries(&mut added)?;
        let mut faults = Vec::new();
        let mut held_by_orders = std::mem::take(&mut self.expected.held);
        {
            let mut statement = self
                .reader
                .connection
                .prepare("SELECT account, place, quantity, crc FROM balances")?;
            let mut rows = statement.query([])?;
            let mut damaged = Vec::new();
            while let Some(row) = rows.next()? {
                let (account, place, quantity) = match balance(row) {
                    Ok(found) => found,
                    Err(failure) => {
                        damaged.push(failure);
                        continue;
                    }
                };
                let what = format!("the balance of `{account}` at `{place}`");
                if quantity < 0 && place != OUTSIDE {
                    faults.push((what.clone(), format!("it is below zero: {quantity}")));
                }
                if place == HELD {
                    let expected = held_by_orders.remove(&account).unwrap_or(0);
                    if quantity != expected {
                        faults.push((what.clone(), format!("it is {quantity}, and orders hold {expected}")));
                    }
                }
                let expected = added.0.remove(&(account, place)).unwrap_or(0);
                if quantity != expected {
                    faults.push((what, format!("it is {quantity}, and what moved adds up to {expected}")));
                }
            }
            drop(rows);
            drop(statement);
            for failure in damaged {
                self.noted::<()>(Err(failure))?;
            }
        }
        for ((account, place), expected) in added.0.into_iter().filter(|(_, expected)| *expected != 0) {
            let what = format!("the balance of `{account}` at `{place}`");
            faults.push((what, format!("it is missing, and what moved adds up to {expected}")));
        }
        for (account, expected) in held_by_orders.into_iter().filter(|(_, expected)| *expected != 0) {
            let what = format!("the balance of `{account}` at `{HELD}`");
            faults.push((what, format!("it is missing, and orders hold {expected}")));
        }
        for (what, detail) in faults {
            self.fault(what, detail);
        }
        self.postings()?;
        self.records()
    }

    /// The ids by which each posting happens once, and how many there are.
    fn postings(&mut self) -> Result<(), Failure> {
        let mut damaged = Vec::new();
        let mut found = 0_i64;
        {
            let mut statement = self
                .reader
                .connection
                .prepare("SELECT once, fingerprint, at, crc FROM postings")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                found += 1;
                let (once, fingerprint, at): (String, [u8; 32], i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let proved = prove(row.get(3)?, posting_sum(&once, &fingerprint, at), || {
                    format!("the posting `{once}`")
                });
                damaged.extend(proved.err());
            }
        }
        for failure in damaged {
            self.noted::<()>(Err(failure))?;
        }
        self.are_all("the postings", Counted::Postings, found)
    }

    /// None is missing, and none was added.
    fn are_all(&mut self, what: &str, counted: Counted, found: i64) -> Result<(), Failure> {
        let counted: Option<i64> = self
            .reader
            .connection
            .query_row("SELECT value FROM meta WHERE name = ?1", [counted.name()], |row| {
                row.get(0)
            })
            .optional()?;
        if let Some(counted) = counted.filter(|counted| *counted != found) {
            self.fault(
                what.to_owned(),
                format!("there are {found}, and {counted} were counted"),
            );
        }
        Ok(())
    }

    fn add_flows(&mut self, added: &mut Added) -> Result<(), Failure> {
        let mut damaged = Vec::new();
        {
            let mut statement = self
                .reader
                .connection
                .prepare("SELECT account, source, target, quantity, crc FROM flows")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let (account, source, target): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let quantity: i64 = row.get(3)?;
                let proved = prove(row.get(4)?, flow_sum(&account, &source, &target, quantity), || {
                    format!("the sum of what went from `{source}` to `{target}` of `{account}`")
                });
                match proved {
                    Ok(()) => added.add(&account, &source, &target, quantity),
                    Err(failure) => damaged.push(failure),
                }
            }
        }
        for failure in damaged {
            self.noted::<()>(Err(failure))?;
        }
        Ok(())
    }

    fn add_entries(&mut self, added: &mut Added) -> Result<(), Failure> {
        let mut damaged = Vec::new();
        let mut orphans = Vec::new();
        let mut found = 0_i64;
        {
            let mut statement = self.reader.connection.prepare(
                "SELECT e.once, e.account, e.source, e.target, e.quantity, e.crc, e.seq, o.seq \
                 FROM entries e LEFT JOIN orders o ON o.seq = e.seq",
            )?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                found += 1;
                let seq: i64 = row.get(6)?;
                match entry(row, seq) {
                    Ok(LedgerLine {
                        account,
                        from,
                        to,
                        quantity,
                        ..
                    }) => added.add(&account, &from, &to, i64::from(quantity)),
                    Err(failure) => damaged.push(failure),
                }
                if row.get::<_, Option<i64>>(7)?.is_none() {
                    orphans.push(seq);
                }
            }
        }
        for failure in damaged {
            self.noted::<()>(Err(failure))?;
        }
        for seq in orphans {
            self.fault(format!("a movement of order {seq}"), "there is no such order");
        }
        self.are_all("what orders have moved", Counted::Entries, found)
    }

    fn records(&mut self) -> Result<(), Failure> {
        let mut damaged = Vec::new();
        {
            let mut statement = self
                .reader
                .connection
                .prepare("SELECT kind, key, version, value, crc FROM records")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                if let Err(failure) = record::record(row) {
                    damaged.push(failure);
                }
            }
        }
        for failure in damaged {
            self.noted::<()>(Err(failure))?;
        }
        Ok(())
    }
}
