//! The ledger and the records: lines as columns, postings, accounts.
//!
//! A batch names each place that its lines touch once, so that the database locks, reads and writes each once, however
//! many commits move it.

use std::collections::BTreeMap;
use std::sync::Arc;

use comanda_model::{Json, LedgerLine, OrderId, Shortage};
use comanda_store::ledger::check_posting;
use comanda_store::record::check_record;
use comanda_store::{Account, PostError, Posted, Posting, PutError, Record, StoreError};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::PostgresStore;
use crate::column::{bounded, place, signed};
use crate::failure::corrupt;
use crate::server::Parameter;
use crate::text::{from_column, to_column};

/// Lines of the ledger, and the places that they touch: each once, in order, named by its number from 1.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    numbers: BTreeMap<(Arc<str>, Arc<str>), i32>,
    accounts: Vec<String>,
    places: Vec<String>,
    from: Vec<i32>,
    to: Vec<i32>,
    quantity: Vec<i64>,
    once: Vec<String>,
}

impl Lines {
    /// None yet, over the places of all these, which are pushed later.
    pub(crate) fn over<'a>(lines: impl Iterator<Item = &'a LedgerLine>) -> Self {
        let places = lines.flat_map(|line| [(&line.account, &line.from), (&line.account, &line.to)]);
        Self::over_places(places.map(|(account, place)| (account.clone(), place.clone())))
    }

    fn over_places(places: impl Iterator<Item = (Arc<str>, Arc<str>)>) -> Self {
        let mut lines = Self {
            numbers: places.map(|name| (name, 0)).collect(),
            ..Self::default()
        };
        for (number, ((account, name), at)) in lines.numbers.iter_mut().enumerate() {
            *at = place(number + 1);
            lines.accounts.push(to_column(account).into_owned());
            lines.places.push(to_column(name).into_owned());
        }
        lines
    }

    fn number(&self, account: &Arc<str>, name: &Arc<str>) -> i32 {
        let number = self.numbers.get(&(account.clone(), name.clone()));
        number.copied().unwrap_or_default()
    }

    pub(crate) fn push(&mut self, line: &LedgerLine) {
        self.from.push(self.number(&line.account, &line.from));
        self.to.push(self.number(&line.account, &line.to));
        self.quantity.push(i64::from(line.quantity));
        self.once.push(to_column(&line.once_id).into_owned());
    }

    /// How many lines there are.
    pub(crate) fn len(&self) -> usize {
        self.quantity.len()
    }

    /// `b_account`, `b_place`, `l_from`, `l_to`, `l_quantity`, `l_once`.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = Parameter<'_>> {
        let parameters: [(&(dyn ToSql + Sync), Type); 6] = [
            (&self.accounts, Type::TEXT_ARRAY),
            (&self.places, Type::TEXT_ARRAY),
            (&self.from, Type::INT4_ARRAY),
            (&self.to, Type::INT4_ARRAY),
            (&self.quantity, Type::INT8_ARRAY),
            (&self.once, Type::TEXT_ARRAY),
        ];
        parameters.into_iter()
    }

    /// What the database says of places that have too little.
    pub(crate) fn shortages(&self, told: Option<String>) -> Result<Vec<Shortage>, StoreError> {
        let unreadable = |detail: String| corrupt("an answer about the ledger", detail);
        let told: Vec<(usize, u64, u64)> = serde_json::from_str(told.as_deref().unwrap_or("[]"))
            .map_err(|error: serde_json::Error| unreadable(error.to_string()))?;
        let names: Vec<_> = self.numbers.keys().collect();
        told.into_iter()
            .map(|(number, wanted, there)| {
                let name = number.checked_sub(1).and_then(|number| names.get(number));
                let (account, place) = name.ok_or_else(|| unreadable(format!("there is no place {number}")))?;
                Ok(Shortage {
                    account: account.clone(),
                    place: place.clone(),
                    wanted,
                    there,
                })
            })
            .collect()
    }
}

const READ: &str = "read the ledger";

fn accounts(rows: &[Row]) -> Vec<Account> {
    let mut accounts: Vec<Account> = Vec::new();
    for row in rows {
        let name = from_column(row.get(0));
        if accounts.last().is_none_or(|last| last.account != name) {
            accounts.push(Account {
                account: name,
                places: Vec::new(),
            });
        }
        // An account that nothing was ever moved in has a row without a place.
        let place = row.get::<_, Option<String>>(1).map(from_column);
        if let (Some(account), Some(place)) = (accounts.last_mut(), place) {
            account.places.push((place.into(), row.get(2)));
        }
    }
    accounts
}

fn record(row: &Row) -> Record {
    Record {
        kind: from_column(row.get(0)),
        key: from_column(row.get(1)),
        version: u64::try_from(row.get::<_, i64>(2)).unwrap_or(0),
        value: Json::from_valid(row.get::<_, String>(3)),
    }
}

impl PostgresStore {
    /// See [`comanda_store::Store::post`].
    pub(crate) async fn apply_posting(&self, posting: &Posting) -> Result<Posted, PostError> {
        const WHAT: &str = "post to the ledger";
        check_posting(posting)?;
        let expected = posting.expect.as_ref();
        let expected = expected
            .map(|(account, place, quantity)| ((Arc::from(account.as_str()), Arc::from(place.as_str())), *quantity));
        let named = posting.lines.iter().flat_map(|line| {
            let account = &line.account;
            [(account.clone(), line.from.clone()), (account.clone(), line.to.clone())]
        });
        let mut lines = Lines::over_places(named.chain(expected.clone().map(|(name, _)| name)));
        for line in &posting.lines {
            lines.push(line);
        }
        let expect = expected
            .as_ref()
            .map(|((account, name), _)| lines.number(account, name));
        let quantity = expected.as_ref().map_or(0, |(_, quantity)| *quantity);
        let (once, fingerprint) = (to_column(&posting.once_id), posting.fingerprint.to_vec());
        let mut parameters: Vec<Parameter<'_>> = vec![
            (&once, Type::TEXT),
            (&fingerprint, Type::BYTEA),
            (&expect, Type::INT4),
            (&quantity, Type::INT8),
        ];
        // Lines of a posting happen once by the posting's own id.
        parameters.extend(lines.parameters().take(5));
        let statement = "SELECT * FROM comanda.post($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        let rows = self.ask_again(WHAT, statement, &parameters).await?;
        let row = rows
            .first()
            .ok_or_else(|| corrupt("an answer about the ledger", "it is empty"))?;
        match row.get::<_, i16>(0) {
            0 => Ok(Posted::Applied),
            1 => Ok(Posted::Repeated),
            2 => Err(PostError::Reused),
            3 => Err(PostError::Moved { actual: row.get(1) }),
            _ => Err(PostError::Short(lines.shortages(row.get(2))?)),
        }
    }

    pub(crate) async fn accounts_named(&self, names: &[String]) -> Result<Vec<Account>, StoreError> {
        let names: Vec<String> = names.iter().map(|name| to_column(name).into_owned()).collect();
        let statement = "SELECT n.name, b.place, b.quantity FROM unnest($1) WITH ORDINALITY AS n(name, number) \
             LEFT JOIN comanda.balances b ON b.account = n.name ORDER BY n.number, b.place";
        Ok(accounts(
            &self.ask(READ, statement, &[(&names, Type::TEXT_ARRAY)]).await?,
        ))
    }

    pub(crate) async fn accounts_from(
        &self,
        prefix: &str,
        after: Option<&str>,
        max: usize,
    ) -> Result<Vec<Account>, StoreError> {
        let (prefix, after, max) = (to_column(prefix), after.map(to_column), bounded(max));
        // By steps from one name to the next, so that the places of accounts are not all looked at.
        let statement = "WITH RECURSIVE n(name, number) AS (\
                 (SELECT account, 1 FROM comanda.balances WHERE account >= $1 AND ($2::text IS NULL OR account > $2) \
                     ORDER BY account LIMIT 1) \
                 UNION ALL SELECT (SELECT b.account FROM comanda.balances b WHERE b.account > n.name \
                     ORDER BY b.account LIMIT 1), n.number + 1 FROM n \
                 WHERE n.name IS NOT NULL AND n.number < $3 AND starts_with(n.name, $1)) \
             SELECT b.account, b.place, b.quantity FROM n JOIN comanda.balances b ON b.account = n.name \
             WHERE starts_with(n.name, $1) ORDER BY b.account, b.place";
        let parameters: [Parameter<'_>; 3] = [(&prefix, Type::TEXT), (&after, Type::TEXT), (&max, Type::INT8)];
        Ok(accounts(&self.ask(READ, statement, &parameters).await?))
    }

    pub(crate) async fn moved_by(&self, id: OrderId) -> Result<Vec<LedgerLine>, StoreError> {
        let statement = "SELECT once, account, source, target, quantity FROM comanda.ledger_entries WHERE id = $1 \
             ORDER BY once, account";
        let rows = self.ask(READ, statement, &[(&id.0, Type::UUID)]).await?;
        rows.iter()
            .map(|row| {
                let text = |index: usize| Arc::from(from_column(row.get(index)));
                let quantity: i64 = row.get(4);
                Ok(LedgerLine {
                    once_id: text(0),
                    account: text(1),
                    from: text(2),
                    to: text(3),
                    quantity: u32::try_from(quantity)
                        .map_err(|_| corrupt("a movement", format!("{quantity} is out of range")))?,
                })
            })
            .collect()
    }

    pub(crate) async fn record_of(&self, kind: &str, key: &str) -> Result<Option<Record>, StoreError> {
        let (kind, key) = (to_column(kind), to_column(key));
        let statement = "SELECT kind, key, version, value FROM comanda.records WHERE kind = $1 AND key = $2";
        let parameters: [Parameter<'_>; 2] = [(&kind, Type::TEXT), (&key, Type::TEXT)];
        let rows = self.ask("read a record", statement, &parameters).await?;
        Ok(rows.first().map(record))
    }

    pub(crate) async fn records_from(
        &self,
        kind: &str,
        after: Option<&str>,
        max: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let (kind, after, max) = (to_column(kind), after.map(to_column), bounded(max));
        let statement = "SELECT kind, key, version, value FROM comanda.records WHERE kind = $1 \
             AND ($2::text IS NULL OR key > $2) ORDER BY key LIMIT $3";
        let parameters: [Parameter<'_>; 3] = [(&kind, Type::TEXT), (&after, Type::TEXT), (&max, Type::INT8)];
        Ok(self
            .ask("read records", statement, &parameters)
            .await?
            .iter()
            .map(record)
            .collect())
    }

    pub(crate) async fn write_record(&self, record: &Record) -> Result<(), PutError> {
        check_record(record)?;
        let (kind, key, version) = (to_column(&record.kind), to_column(&record.key), signed(record.version));
        let value = record.value.as_str();
        let parameters: [Parameter<'_>; 4] = [
            (&kind, Type::TEXT),
            (&key, Type::TEXT),
            (&version, Type::INT8),
            (&value, Type::TEXT),
        ];
        let statement = "SELECT comanda.put_record($1, $2, $3, $4)";
        let rows = self.ask_again("write a record", statement, &parameters).await?;
        let actual = rows.first().map_or(0, |row| row.get::<_, i64>(0));
        let actual = u64::try_from(actual).unwrap_or(0);
        if actual + 1 == record.version {
            Ok(())
        } else {
            Err(PutError::VersionMoved { actual })
        }
    }
    /// Removes records of a kind.
    pub(crate) async fn delete_records(&self, kind: &str, keys: &[String]) -> Result<usize, StoreError> {
        let kind = to_column(kind);
        let keys: Vec<String> = keys.iter().map(|key| to_column(key).into_owned()).collect();
        let parameters: [Parameter<'_>; 2] = [(&kind, Type::TEXT), (&keys, Type::TEXT_ARRAY)];
        let statement = "DELETE FROM comanda.records WHERE kind = $1 AND key = ANY ($2) RETURNING 1";
        Ok(self.ask_again("remove records", statement, &parameters).await?.len())
    }
}
