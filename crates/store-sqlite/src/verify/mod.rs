//! Looking through a whole store for anything that is not as it was written.
//!
//! Everything is read once: each checksum is proved, and each row that was derived from others (indexes, counts,
//! lanes, due work) is compared with what it was derived from. Rows *missing* from an index are found order by order;
//! rows *too many* are found because the index then has more rows than orders that belong into it. Memory stays
//! bounded: rows are streamed, and only counts are kept.

mod ledger;
mod orders;
mod rest;
mod subscriptions;

use std::collections::HashMap;
use std::path::Path;

use comanda_store::StoreError;

use crate::backup::{database_of, reading};
use crate::check_present_format;
use crate::failure::{Context, Failure};
use crate::lock::Lock;
use crate::log_check;
use crate::readers::Reader;
use crate::schema;

/// The most faults that a report lists; further ones are only counted.
pub const FAULTS_MAX: usize = 1000;
/// The reader's page cache, in KiB.
const CACHE_KIB: u32 = 64 * 1024;
/// How many rows are read between two reports of progress.
const ROWS_PER_REPORT: u64 = 1000;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// How many orders were checked.
    pub orders: u64,
    /// How many events.
    pub events: u64,
    /// How many attempts.
    pub attempts: u64,
    /// How many keys.
    pub keys: u64,
    /// What is wrong; at most [`FAULTS_MAX`].
    pub faults: Vec<Fault>,
    /// How much is wrong.
    pub faults_count: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.faults_count == 0
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where, with the order's id where it concerns one.
    pub what: String,
    /// How it shows.
    pub detail: String,
}

/// How many rows a table should have, or how often something should occur.
#[derive(Debug, Default)]
struct Expected {
    orders: u64,
    customers: u64,
    groups: u64,
    due: u64,
    dead: u64,
    finals: u64,
    /// Claims of workers from outside.
    for_workers: u64,
    /// By the name of the queue: orders whose work waits there.
    queued: HashMap<String, i64>,
    members: u64,
    events: u64,
    attempts: u64,
    /// By row of `states`, `types` and `causes`.
    by_state: HashMap<i64, i64>,
    live: HashMap<i64, i64>,
    by_cause: HashMap<i64, i64>,
    /// By account, what orders hold.
    held: HashMap<String, i64>,
}

/// One part of a verification.
type Section = fn(&mut Verifier<'_>) -> Result<(), Failure>;

/// A verification in progress.
struct Verifier<'p> {
    reader: Reader,
    report: Report,
    expected: Expected,
    progress: &'p dyn Fn(u64, u64),
    done: u64,
    all: u64,
}

/// Checks a store that no process has open, or a backup. `path` is the store's directory or the backup's file.
/// `progress` is told rows done and rows there are, about.
///
/// What is damaged is told in the [`Report`], not as an error.
///
/// # Errors
/// [`StoreError::Locked`] if a process has the store open, [`StoreError::Newer`] if a newer version wrote it,
/// [`StoreError::Corrupt`] if it is no store at all, [`StoreError::Failed`] if the disk does not answer.
pub fn verify(path: &Path, progress: &dyn Fn(u64, u64)) -> Result<Report, StoreError> {
    const WHAT: &str = "verify the store";
    let _lock = if path.is_dir() { Some(Lock::take(path)?) } else { None };
    let file = database_of(path);
    let log = log_check::check(&file);
    let reader = Reader::open(&file, reading(&file), CACHE_KIB)?;
    if let Err(error) = check_present_format(&reader.connection) {
        // What stands before the damage may be older than the format.
        return match log {
            Err(StoreError::Corrupt { what, detail }) => Ok(Report {
                faults: vec![Fault { what, detail }],
                faults_count: 1,
                ..Report::default()
            }),
            _ => Err(error),
        };
    }
    let mut verifier = Verifier {
        reader,
        report: Report::default(),
        expected: Expected::default(),
        progress,
        done: 0,
        all: 0,
    };
    match log {
        Ok(()) => {}
        Err(StoreError::Corrupt { what, detail }) => verifier.fault(what, detail),
        Err(error) => return Err(error),
    }
    // One moment for all: should anyone write after all, they do not look like faults.
    verifier.reader.connection.execute_batch("BEGIN").context(WHAT)?;
    let sections: [(&str, Section); 8] = [
        ("the database file", |verifier| verifier.file()),
        ("the orders", |verifier| verifier.orders()),
        ("the events", |verifier| verifier.events()),
        ("the attempts", |verifier| verifier.attempts()),
        ("the keys", |verifier| verifier.keys()),
        ("the ledger", |verifier| verifier.ledger()),
        ("the subscriptions", |verifier| verifier.subscriptions()),
        ("the counts", |verifier| verifier.counts()),
    ];
    for (what, section) in sections {
        if let Err(failure) = section(&mut verifier) {
            // A page that cannot be read ends its section, not the verification.
            match failure.into_store_error(WHAT) {
                StoreError::Corrupt { what: inner, detail } => {
                    verifier.fault(what, format!("could not be read to the end: {inner}: {detail}"));
                }
                error => return Err(error),
            }
        }
    }
    progress(verifier.all, verifier.all);
    Ok(verifier.report)
}

impl Verifier<'_> {
    fn fault(&mut self, what: impl Into<String>, detail: impl Into<String>) {
        self.report.faults_count += 1;
        if self.report.faults.len() < FAULTS_MAX {
            self.report.faults.push(Fault {
                what: what.into(),
                detail: detail.into(),
            });
        }
    }

    /// Notes damage; passes on what is not damage. `None` if there was any.
    fn noted<T>(&mut self, answer: Result<T, Failure>) -> Result<Option<T>, Failure> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(failure) => match failure.into_store_error("verify the store") {
                StoreError::Corrupt { what, detail } => {
                    self.fault(what, detail);
                    Ok(None)
                }
                error => Err(error.into()),
            },
        }
    }

    fn step(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(ROWS_PER_REPORT) {
            (self.progress)(self.done.min(self.all), self.all);
        }
    }

    /// The pages of the file, and its own indexes.
    fn file(&mut self) -> Result<(), Failure> {
        let found: Vec<String> = {
            let mut statement = self.reader.connection.prepare("PRAGMA integrity_check(100)")?;
            let rows = statement.query_map([], |row| row.get(0))?;
            rows.collect::<Result<_, _>>()?
        };
        for line in found.into_iter().filter(|line| line != "ok") {
            self.fault("the database file", line);
        }
        schema::epoch(&self.reader.connection)?;
        let count =
            |sql: &str| -> Result<i64, Failure> { Ok(self.reader.connection.query_row(sql, [], |row| row.get(0))?) };
        self.all = count(
            "SELECT (SELECT count(*) FROM heads) + (SELECT count(*) FROM events) + (SELECT count(*) FROM attempts) \
             + (SELECT count(*) FROM keys)",
        )?
        .max(0) as u64;
        Ok(())
    }
}
