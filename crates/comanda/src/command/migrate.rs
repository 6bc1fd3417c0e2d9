//! `comanda migrate`: a PostgreSQL database's format, and moving an embedded store's orders into it.

use std::path::{Path, PathBuf};

use comanda_store::StoreError;
use comanda_store::piece::Piece;
use comanda_store_postgres::{Compared, Import, Moved, Options, PostgresStore};
use comanda_store_sqlite::Pieces;
use serde_json::json;
use tokio::sync::mpsc;

use super::serve::KEY_FILE;
use crate::cli::{Migrate, MigrateFormat, MigratePlace, Serve};
use crate::config::{Config, DatabaseAddress, StoreKind};
use crate::failure::Failure;
use crate::output::{Output, progress, tell};

/// How many pieces are on their way at a time.
const PIECES_MAX: usize = 256;

pub(super) fn run(
    settings: &dyn Fn(Serve) -> Result<Config, Failure>,
    command: Migrate,
    output: &mut Output,
) -> Result<(), Failure> {
    match command {
        Migrate {
            from: Some(from), to, ..
        } => {
            let from = source(&from)?;
            let options = database(settings, to)?;
            super::on_runtime(move_orders(&from, &options, output))
        }
        Migrate {
            format: Some(format), ..
        } => run_format(settings, format, output),
        Migrate { .. } => Err(Failure::Usage(
            "name what is to be migrated: `status`, `up`, or --from sqlite:DIR".to_owned(),
        )),
    }
}

fn run_format(
    settings: &dyn Fn(Serve) -> Result<Config, Failure>,
    command: MigrateFormat,
    output: &mut Output,
) -> Result<(), Failure> {
    let (MigrateFormat::Status(MigratePlace { store }) | MigrateFormat::Up(MigratePlace { store })) = &command;
    let options = database(settings, store.clone())?;
    let status = super::on_runtime(async {
        Ok(match command {
            MigrateFormat::Status(_) => PostgresStore::migration_status(&options).await?,
            MigrateFormat::Up(_) => PostgresStore::migrate(&options).await?,
        })
    })?;
    if output.is_json() {
        return Ok(output.json(&json!({
            "format": status.found,
            "newest": status.newest,
            "usableBy": status.usable_by,
            "functions": status.functions,
            "newestFunctions": status.functions_newest,
        }))?);
    }
    let text = match status.found {
        0 => format!("empty; this program would make format {}", status.newest),
        found if found < status.newest => format!("format {found}; this program knows format {}", status.newest),
        found if status.has_older_functions() => {
            format!("format {found}; its functions are of an older build: `comanda migrate up` replaces them")
        }
        found => format!("format {found}, up to date"),
    };
    Ok(output.line(&text)?)
}

/// The database that is meant: the one that is named, or the configured one.
fn database(settings: &dyn Fn(Serve) -> Result<Config, Failure>, store: Option<String>) -> Result<Options, Failure> {
    let flags = Serve {
        store,
        ..Serve::default()
    };
    match settings(flags)?.store {
        StoreKind::Postgres(address) => options(&address),
        _ => Err(Failure::Usage(
            "only a PostgreSQL database is migrated by a command; the embedded store brings itself up to date when it \
             is opened. Name the database: postgres://…"
                .to_owned(),
        )),
    }
}

/// How a database is opened by a command.
pub(super) fn options(address: &DatabaseAddress) -> Result<Options, Failure> {
    // The configuration has read it once already.
    Options::new(&address.0).map_err(|error| Failure::process("the database's address cannot be used", error))
}

/// The directory of `sqlite:DIR`.
fn source(from: &str) -> Result<PathBuf, Failure> {
    let Some(directory) = from.strip_prefix("sqlite:").map(PathBuf::from) else {
        let text = format!("orders are moved out of an embedded store: --from sqlite:DIR, not `{from}`");
        return Err(Failure::Usage(text));
    };
    if directory.join("comanda.db").is_file() {
        return Ok(directory);
    }
    Err(Failure::File {
        path: directory,
        act: "read",
        source: std::io::Error::new(std::io::ErrorKind::NotFound, "there is no comanda.db in it"),
    })
}

async fn move_orders(from: &Path, options: &Options, output: &mut Output) -> Result<(), Failure> {
    // Nobody serves it from here on.
    let mut pieces = Pieces::open(from)?;
    let count = pieces.orders_count()?;
    let (import, moved) = Import::begin(options, pieces.epoch()).await?;
    if let Moved::UpTo(after) = moved {
        let bar = progress(count, "moving");
        if after > 0 {
            tell(format_args!("Goes on after order {after}"));
        }
        let taking = async |pieces| import.take(pieces, &|| bar.inc(1)).await;
        pieces = read_to(pieces, after, taking).await?.0;
        bar.finish_and_clear();
    }
    if moved == Moved::Done {
        return Ok(output.line("these orders were moved to this database before; nothing is to be done")?);
    }
    let bar = progress(count, "comparing");
    let comparing = async |pieces| import.compare(pieces, &|| bar.inc(1)).await;
    let (_, compared) = read_to(pieces, 0, comparing).await?;
    bar.finish_and_clear();
    import.finish().await?;
    report(&compared, &from.join(KEY_FILE), output)
}

/// Reads the store on a thread of its own, for whoever takes the pieces. The reader's reason goes before the taker's, who
/// only sees that no more come.
async fn read_to<T>(
    mut pieces: Pieces,
    after: u64,
    take: impl AsyncFnOnce(mpsc::Receiver<Piece>) -> Result<T, StoreError>,
) -> Result<(Pieces, T), Failure> {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let reading = tokio::task::spawn_blocking(move || {
        let mut taker_gone = false;
        let read = pieces.read(after, &mut |piece| {
            sender.blocking_send(piece).map_err(|error| {
                taker_gone = true;
                StoreError::failed("hand over what was read", error)
            })
        });
        // Why nobody takes any more is told by whoever took.
        (pieces, if taker_gone { Ok(()) } else { read })
    });
    let taken = take(receiver).await;
    let (pieces, read) = reading
        .await
        .map_err(|error| Failure::process("the reading of the store ended", error))?;
    read?;
    Ok((pieces, taken?))
}

fn report(compared: &Compared, key: &Path, output: &mut Output) -> Result<(), Failure> {
    let Compared {
        orders,
        events,
        attempts,
        others,
    } = compared;
    if key.exists() {
        tell(format_args!(
            "Secrets of subscriptions are sealed with {0}: give every node a copy of it, and set encryption.key_file to that",
            key.display()
        ));
    }
    if output.is_json() {
        return Ok(output.json(
            &json!({"orders": orders, "events": events, "attempts": attempts, "others": others, "same": true}),
        )?);
    }
    output.line(&format!(
        "{orders} orders, {events} events, {attempts} attempts and {others} other things are moved, each the same as before"
    ))?;
    tell("Keep the data directory until the nodes have served. Readers of events begin anew: the feed has a new epoch");
    Ok(())
}
