//! `comanda migrate`: a PostgreSQL database's format.

use comanda_store_postgres::{Options, PostgresStore};
use serde_json::json;

use crate::cli::{Migrate, MigratePlace, Serve};
use crate::config::{Config, DatabaseAddress, StoreKind};
use crate::failure::Failure;
use crate::output::Output;

pub(super) fn run(
    settings: &dyn Fn(Serve) -> Result<Config, Failure>,
    command: Migrate,
    output: &mut Output,
) -> Result<(), Failure> {
    let (Migrate::Status(MigratePlace { store }) | Migrate::Up(MigratePlace { store })) = &command;
    let flags = Serve {
        store: store.clone(),
        ..Serve::default()
    };
    let StoreKind::Postgres(address) = settings(flags)?.store else {
        return Err(Failure::Usage(
            "only a PostgreSQL database is migrated by a command; the embedded store brings itself up to date when it \
             is opened. Name the database: --store postgres://…"
                .to_owned(),
        ));
    };
    let options = options(&address)?;
    let status = super::on_runtime(async {
        Ok(match command {
            Migrate::Status(_) => PostgresStore::migration_status(&options).await?,
            Migrate::Up(_) => PostgresStore::migrate(&options).await?,
        })
    })?;
    if output.is_json() {
        return Ok(
            output.json(&json!({"format": status.found, "newest": status.newest, "usableBy": status.usable_by}))?
        );
    }
    let text = match status.found {
        0 => format!("empty; this program would make format {}", status.newest),
        found if found < status.newest => format!("format {found}; this program knows format {}", status.newest),
        found => format!("format {found}, up to date"),
    };
    Ok(output.line(&text)?)
}

/// How a database is opened by a command.
pub(super) fn options(address: &DatabaseAddress) -> Result<Options, Failure> {
    // The configuration has read it once already.
    Options::new(&address.0).map_err(|error| Failure::process("the database's address cannot be used", error))
}
