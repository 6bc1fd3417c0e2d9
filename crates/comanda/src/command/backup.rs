//! `comanda backup`, `restore` and `verify`: the data directory as a whole.

use std::path::{Path, PathBuf};

use comanda_store_postgres::PostgresStore;
use comanda_store_sqlite::{Fault, Report};
use serde_json::json;

use crate::cli::{Backup, Restore, Verify};
use crate::config::{Config, DatabaseAddress, StoreKind};
use crate::failure::Failure;
use crate::output::{Output, progress};

pub(super) fn backup(config: &Config, args: Backup, output: &mut Output) -> Result<(), Failure> {
    let data = directory(args.data, config)?;
    let bar = progress(1, "backing up");
    // SQLite's backup takes a moment's view of the store, so it works beside a server that has it open.
    comanda_store_sqlite::backup(&data, &args.file, &mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    output.line(&args.file.display().to_string())?;
    eprintln!(
        "A backup counts once it is known to be good: comanda restore {} --data DIR, then comanda verify",
        args.file.display()
    );
    Ok(())
}

pub(super) fn restore(config: &Config, args: Restore, output: &mut Output) -> Result<(), Failure> {
    let data = args.data.unwrap_or_else(|| config.data.clone());
    comanda_store_sqlite::restore(&args.file, &data)?;
    output.line(&data.display().to_string())?;
    eprintln!("Readers of events begin anew: a restored store answers cursors from before with a reset");
    Ok(())
}

pub(super) fn verify(config: &Config, args: Verify, output: &mut Output) -> Result<(), Failure> {
    let report = match (&args.data, &config.store) {
        (None, StoreKind::Postgres(address)) => in_database(address)?,
        _ => in_directory(&directory(args.data, config)?)?,
    };
    let faults = &report.faults;
    if output.is_json() {
        let listed: Vec<_> = faults
            .iter()
            .map(|fault| json!({"what": fault.what, "detail": fault.detail}))
            .collect();
        output.json(
            &json!({"orders": report.orders, "events": report.events, "attempts": report.attempts,
            "keys": report.keys, "faults": listed, "faultsCount": report.faults_count}),
        )?;
    } else {
        for fault in faults {
            output.line(&format!("{}: {}", fault.what, fault.detail))?;
        }
        output.line(&format!(
            "{} orders, {} events, {} attempts: {}",
            report.orders,
            report.events,
            report.attempts,
            if report.is_clean() {
                "sound".to_owned()
            } else {
                format!("{} faults", report.faults_count)
            }
        ))?;
    }
    if report.is_clean() {
        Ok(())
    } else {
        Err(Failure::Reported)
    }
}

fn in_directory(data: &Path) -> Result<Report, Failure> {
    let bar = progress(1, "verifying");
    let report = comanda_store_sqlite::verify(data, &|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(report)
}

/// A database's report in the form of a data directory's.
fn in_database(address: &DatabaseAddress) -> Result<Report, Failure> {
    let options = super::migrate::options(address)?;
    let report = super::on_runtime(async { Ok(PostgresStore::verify(&options).await?) })?;
    let faults = report.faults.into_iter().map(|fault| Fault {
        what: fault.what,
        detail: fault.detail,
    });
    let faults: Vec<Fault> = faults.collect();
    Ok(Report {
        orders: report.orders,
        events: report.events,
        attempts: report.attempts,
        keys: report.keys,
        faults_count: faults.len() as u64,
        faults,
    })
}

/// The data directory, which must hold a store: looking into one that does not would make an empty one.
fn directory(given: Option<PathBuf>, config: &Config) -> Result<PathBuf, Failure> {
    if let (None, StoreKind::Postgres(_)) = (&given, &config.store) {
        return Err(Failure::Usage(
            "the orders are in PostgreSQL, which is backed up by its own tools; see docs/postgresql.md. For a data \
             directory name it: --data DIR"
                .to_owned(),
        ));
    }
    let data = given.unwrap_or_else(|| config.data.clone());
    if holds_store(&data) {
        return Ok(data);
    }
    let source = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no comanda.db in it");
    Err(Failure::File {
        path: data,
        act: "read",
        source,
    })
}

fn holds_store(data: &Path) -> bool {
    data.join("comanda.db").is_file()
}
