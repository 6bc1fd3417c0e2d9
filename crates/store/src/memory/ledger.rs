//! The ledger and the records.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;

use comanda_model::LedgerLine;
use jiff::Timestamp;

use super::state::State;
use crate::ledger::{NewBalance, check_posting, settle};
use crate::record::check_record;
use crate::{Account, Commit, CommitError, PostError, Posted, Posting, PutError, Record};

/// What makes a line of an order happen once: its `once_id` and its account.
pub(super) type LineName = (Arc<str>, Arc<str>);

#[derive(Default)]
pub(super) struct Ledger {
    balances: BTreeMap<String, BTreeMap<Arc<str>, i64>>,
    postings: HashMap<String, ([u8; 32], Timestamp)>,
    records: BTreeMap<(String, String), Record>,
}

impl Ledger {
    fn balance(&self, account: &str, place: &str) -> i64 {
        let places = self.balances.get(account);
        places.and_then(|places| places.get(place)).copied().unwrap_or(0)
    }

    pub(super) fn write(&mut self, balances: Vec<NewBalance>) {
        for balance in balances {
            let places = self.balances.entry(balance.account.to_string()).or_default();
            places.insert(balance.place, balance.quantity);
        }
    }

    pub(super) fn account(&self, name: &str) -> Account {
        let places = self.balances.get(name).into_iter().flatten();
        Account {
            account: name.to_owned(),
            places: places.map(|(place, quantity)| (place.clone(), *quantity)).collect(),
        }
    }

    pub(super) fn after(&self, prefix: &str, after: Option<&str>, max: usize) -> Vec<Account> {
        let begin = after.map_or(prefix, |after| after.max(prefix)).to_owned();
        let names = self.balances.range(begin..).map(|(name, _)| name);
        names
            .filter(|name| after.is_none_or(|after| name.as_str() > after))
            .take_while(|name| name.starts_with(prefix))
            .take(max)
            .map(|name| self.account(name))
            .collect()
    }

    pub(super) fn record(&self, kind: &str, key: &str) -> Option<Record> {
        self.records.get(&(kind.to_owned(), key.to_owned())).cloned()
    }

    pub(super) fn records_after(&self, kind: &str, after: Option<&str>, max: usize) -> Vec<Record> {
        let begin = (kind.to_owned(), after.unwrap_or_default().to_owned());
        let records = self.records.range(begin..).map(|(_, record)| record);
        records
            .filter(|record| after.is_none_or(|after| record.key.as_str() > after))
            .take_while(|record| record.kind == kind)
            .take(max)
            .cloned()
            .collect()
    }

    pub(super) fn remove_records(&mut self, kind: &str, keys: &[String]) -> usize {
        let there = keys.iter().filter(|key| {
            let name = (kind.to_owned(), (*key).clone());
            self.records.remove(&name).is_some()
        });
        there.count()
    }

    /// Forgets postings from before a moment.
    pub(super) fn retain(&mut self, before: Timestamp) {
        self.postings.retain(|_, (_, at)| *at >= before);
    }
}

impl State {
    /// The balances as a commit's lines leave them.
    pub(super) fn settle(&self, commit: &Commit) -> Result<Vec<NewBalance>, CommitError> {
        if commit.ledger.is_empty() {
            return Ok(Vec::new());
        }
        let done = self.row(commit.order.id()).map(|row| &row.lines);
        let is_new = |line: &&LedgerLine| {
            let name = (line.once_id.clone(), line.account.clone());
            done.is_none_or(|done| !done.contains_key(&name))
        };
        let lines: Vec<LedgerLine> = commit.ledger.iter().filter(is_new).cloned().collect();
        let settled = settle::<Infallible>(&lines, |account, place| Ok(self.ledger.balance(account, place)));
        match settled {
            Ok(balances) => balances.map_err(CommitError::Short),
            Err(impossible) => match impossible {},
        }
    }

    pub(super) fn post(&mut self, posting: &Posting) -> Result<Posted, PostError> {
        if self.closed {
            let cause = std::io::Error::other("the store is closed");
            return Err(crate::StoreError::failed("post", cause).into());
        }
        check_posting(posting)?;
        if let Some((fingerprint, _)) = self.ledger.postings.get(&posting.once_id) {
            return if *fingerprint == posting.fingerprint {
                Ok(Posted::Repeated)
            } else {
                Err(PostError::Reused)
            };
        }
        if let Some((account, place, expected)) = &posting.expect {
            let actual = self.ledger.balance(account, place);
            if actual != *expected {
                return Err(PostError::Moved { actual });
            }
        }
        let settled = settle::<Infallible>(&posting.lines, |account, place| Ok(self.ledger.balance(account, place)));
        let balances = match settled {
            Ok(balances) => balances.map_err(PostError::Short)?,
            Err(impossible) => match impossible {},
        };
        let now = self.now();
        self.ledger.write(balances);
        self.ledger
            .postings
            .insert(posting.once_id.clone(), (posting.fingerprint, now));
        Ok(Posted::Applied)
    }

    pub(super) fn put_record(&mut self, record: &Record) -> Result<(), PutError> {
        if self.closed {
            let cause = std::io::Error::other("the store is closed");
            return Err(crate::StoreError::failed("write a record", cause).into());
        }
        check_record(record)?;
        let name = (record.kind.clone(), record.key.clone());
        let actual = self.ledger.records.get(&name).map_or(0, |record| record.version);
        if record.version != actual + 1 {
            return Err(PutError::VersionMoved { actual });
        }
        self.ledger.records.insert(name, record.clone());
        Ok(())
    }
}
