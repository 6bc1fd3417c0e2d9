//! The database's format: finding out which it is, and bringing it up to date.
//!
//! Formats expand first and contract later: a migration adds what the new version needs and leaves what the version
//! before uses, so that both run side by side while nodes are replaced. `usable_by` in `meta` is the oldest program
//! format that may still use the database.
//!
//! Functions can become better within a format: then their revision rises, and whoever may replaces them. `functions` in `meta` is
//! the revision that the database has. An older node never puts its own back, for all functions of one format do the same
//! to the same tables: one that is called by a new name, or with other parameters, comes with a format.

use comanda_store::StoreError;
use deadpool_postgres::Object;
use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use crate::failure::{Failure, store_error};
use crate::server::Server;

/// The tables of each format. Each takes the database one format further.
const TABLES: &[&str] = &[
    include_str!("formats/1.sql"),
    include_str!("formats/2.sql"),
    include_str!("formats/3.sql"),
    include_str!("formats/4.sql"),
    include_str!("formats/5.sql"),
    include_str!("formats/6.sql"),
];
/// The functions of the newest format. Their bodies are looked at only when they are called, so their order is free.
const FUNCTIONS: &[&str] = &[
    include_str!("functions/commit.sql"),
    include_str!("functions/ledger.sql"),
    include_str!("functions/item.sql"),
    include_str!("functions/lease.sql"),
    include_str!("functions/rate.sql"),
    include_str!("functions/subscription.sql"),
    include_str!("functions/notice.sql"),
    include_str!("functions/retain.sql"),
    include_str!("functions/read.sql"),
];
/// The revision of these functions. It rises with every change of them, and never falls.
const REVISION: u32 = 7;
/// The oldest program that can still use the newest format, where the functions that it calls were made once: `cargo xtask upgrade`
/// with its commit shows it.
const OLDEST: u32 = 3;

/// The newest format that this program knows.
pub(crate) const FORMAT: u32 = TABLES.len() as u32;

/// The oldest program that can use a database that has come from a format (0: an empty one) to the newest.
const fn usable_by(came_from: u32) -> u32 {
    if came_from == 0 { FORMAT } else { OLDEST }
}

/// Whether a program that knows formats up to `known` may use a database.
///
/// # Errors
/// [`StoreError::Newer`] if the database has gone too far for it; another error if it has not come far enough.
pub(crate) fn check(status: MigrationStatus) -> Result<(), StoreError> {
    let MigrationStatus {
        found,
        newest: known,
        usable_by,
        ..
    } = status;
    if found < known {
        let cause = std::io::Error::other(format!(
            "it has format {found}, and this program needs format {known}. Run `comanda migrate up` first"
        ));
        return Err(StoreError::failed("use this database", cause));
    }
    if usable_by > known {
        return Err(StoreError::Newer { found, known });
    }
    Ok(())
}

/// The lock under which only one migrates at a time.
const LOCK: &str = "SELECT pg_advisory_xact_lock(x'636f6d616e6463'::bigint)";

/// Where a database stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigrationStatus {
    /// The format that it has; 0 for an empty one.
    pub found: u32,
    /// The newest format that this program knows.
    pub newest: u32,
    /// The oldest program format that may use it.
    pub usable_by: u32,
    /// The revision of the functions in it; 0 for those that were made before there were revisions.
    pub functions: u32,
    /// The revision of the functions of this program.
    pub functions_newest: u32,
}

impl MigrationStatus {
    /// Whether this program would replace the functions: they are an older revision of its own format's.
    pub const fn has_older_functions(&self) -> bool {
        self.found == self.newest && self.functions < self.functions_newest
    }
}

/// Which format the database has.
pub(crate) async fn status(server: &Server) -> Result<MigrationStatus, StoreError> {
    const WHAT: &str = "read the database's format";
    let mut status = MigrationStatus {
        found: 0,
        newest: FORMAT,
        usable_by: 0,
        functions: 0,
        functions_newest: REVISION,
    };
    let rows = server
        .ask(WHAT, "SELECT to_regclass('comanda.meta') IS NOT NULL", &[])
        .await
        .map_err(Failure::into_error)?;
    if !rows.first().is_some_and(|row| row.get(0)) {
        return Ok(status);
    }
    let statement = "SELECT name, value FROM comanda.meta WHERE name IN ('format', 'usable_by', 'functions')";
    for row in server.ask(WHAT, statement, &[]).await.map_err(Failure::into_error)? {
        let value = u32::try_from(row.get::<_, i64>(1)).unwrap_or(u32::MAX);
        match row.get::<_, &str>(0) {
            "format" => status.found = value,
            "functions" => status.functions = value,
            _ => status.usable_by = value,
        }
    }
    Ok(status)
}

/// Refuses a database that orders are still being moved into.
pub(crate) async fn check_not_moving(server: &Server) -> Result<(), StoreError> {
    let statement = "SELECT 1 FROM comanda.meta WHERE name = 'moving_from'";
    let rows = server
        .ask("read how far a move has come", statement, &[])
        .await
        .map_err(Failure::into_error)?;
    if rows.is_empty() {
        return Ok(());
    }
    let cause = std::io::Error::other(
        "orders are being moved into it. Run `comanda migrate --from …` until it says that they are moved",
    );
    Err(StoreError::failed("use this database", cause))
}

/// Brings the database up to date. Whoever comes second waits, and finds nothing to do.
pub(crate) async fn up(server: &Server) -> Result<MigrationStatus, StoreError> {
    const WHAT: &str = "migrate the database";
    let mut connection = server.connection(WHAT).await.map_err(Failure::into_error)?;
    match migrate(&mut connection).await {
        Ok(()) => {}
        Err(error) => return Err(store_error(WHAT, error)),
    }
    drop(connection);
    status(server).await
}

async fn migrate(connection: &mut Object) -> Result<(), tokio_postgres::Error> {
    let transaction = connection.transaction().await?;
    transaction.batch_execute(LOCK).await?;
    let found = fact(&transaction, "format").await?;
    let functions = fact(&transaction, "functions").await?;
    if found < FORMAT {
        for tables in &TABLES[found as usize..] {
            transaction.batch_execute(tables).await?;
        }
        set(&transaction, "format", FORMAT).await?;
        set(&transaction, "usable_by", usable_by(found)).await?;
    }
    if found < FORMAT || (found == FORMAT && functions < REVISION) {
        // All nodes call the new ones from the commit on; calls that are under way end as they began.
        for functions in FUNCTIONS {
            transaction.batch_execute(functions).await?;
        }
        set(&transaction, "functions", REVISION).await?;
    }
    transaction.commit().await
}

/// A fact in `meta`; 0 where it is not there.
async fn fact(transaction: &Transaction<'_>, name: &str) -> Result<u32, tokio_postgres::Error> {
    let there = transaction
        .query_typed("SELECT to_regclass('comanda.meta') IS NOT NULL", &[])
        .await?;
    if !there.first().is_some_and(|row| row.get(0)) {
        return Ok(0);
    }
    let statement = "SELECT value FROM comanda.meta WHERE name = $1";
    let rows = transaction.query_typed(statement, &[(&name, Type::TEXT)]).await?;
    Ok(rows
        .first()
        .map_or(0, |row| u32::try_from(row.get::<_, i64>(0)).unwrap_or(u32::MAX)))
}

async fn set(transaction: &Transaction<'_>, name: &str, value: u32) -> Result<(), tokio_postgres::Error> {
    let statement = "INSERT INTO comanda.meta VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = EXCLUDED.value";
    let value = i64::from(value);
    transaction
        .query_typed(statement, &[(&name, Type::TEXT), (&value, Type::INT8)])
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(found: u32, newest: u32, usable_by: u32) -> MigrationStatus {
        MigrationStatus {
            found,
            newest,
            usable_by,
            functions: 0,
            functions_newest: 0,
        }
    }

    /// FNV-1a, which is the same everywhere.
    fn fingerprint(texts: &[&str]) -> u64 {
        texts
            .iter()
            .flat_map(|text| text.bytes())
            .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            })
    }

    #[test]
    fn the_functions_have_a_revision_of_their_own() {
        assert_eq!(
            (REVISION, format!("{:016x}", fingerprint(FUNCTIONS))),
            (7, "f9940f8e1c8c14c9".to_owned()),
            "the functions have changed: raise REVISION, or databases keep the older ones; and write both down here"
        );
    }

    #[test]
    fn the_version_before_goes_on_beside_a_wider_format_and_no_further() {
        assert!(check(status(2, 2, 1)).is_ok(), "its own format");
        assert!(check(status(2, 1, 1)).is_ok(), "one that was widened under it");
        assert!(matches!(
            check(status(2, 1, 2)),
            Err(StoreError::Newer { found: 2, known: 1 })
        ));
        assert!(
            matches!(check(status(3, 1, 2)), Err(StoreError::Newer { .. })),
            "two versions apart"
        );
        assert!(
            matches!(check(status(1, 2, 1)), Err(StoreError::Failed { .. })),
            "not yet widened"
        );
    }

    #[test]
    fn a_database_made_new_lacks_what_older_programs_call() {
        assert_eq!(usable_by(0), FORMAT);
        assert_eq!(usable_by(FORMAT - 1), OLDEST);
        const {
            assert!(
                OLDEST < FORMAT,
                "a format is widened first, and narrowed in a later version"
            );
        }
    }
}
