//! What a server, and the role that we are on it, must be so that nothing promised is broken. It is looked at when a store is
//! opened, and again whenever somebody asks whether the node is ready, for settings change under running nodes.

use std::sync::Arc;

use comanda_store::StoreError;
use tokio_postgres::Row;

use crate::failure::Failure;
use crate::refusal::ServerError;
use crate::server::Server;

/// The settings as they hold for our connections: of the server, the database and the role together.
pub(crate) const STATEMENT: &str = "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding'), \
     current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'), \
     current_setting('default_transaction_isolation'), pg_is_in_recovery(), current_setting('transaction_read_only'), \
     current_setting('data_checksums')";

/// PostgreSQL 15: `MERGE` aside, older ones lack what the functions use.
const VERSION_MIN: i32 = 150_000;

/// Refuses a server, or a role on it, that would break a promise.
pub(crate) async fn check(server: &Server) -> Result<(), StoreError> {
    const WHAT: &str = "use this server";
    let rows = server.ask(WHAT, STATEMENT, &[]).await.map_err(Failure::into_error)?;
    let Some(row) = rows.first() else { return Ok(()) };
    check_row(row)?;
    if is_off(row, 8) {
        tracing::warn!(
            "the database's cluster was made without checksums: damage of its files can go unseen. Stop the server and run \
             `pg_checksums --enable`"
        );
    }
    Ok(())
}

/// As [`check`], of what [`STATEMENT`] has answered.
pub(crate) fn check_row(row: &Row) -> Result<(), StoreError> {
    const WHAT: &str = "use this server";
    let refused = |what: String, advice| Err(StoreError::failed(WHAT, ServerError::of_server(what, advice)));
    if row.get::<_, i32>(0) < VERSION_MIN {
        let what = format!("it is PostgreSQL {}", row.get::<_, i32>(0) / 10_000);
        return refused(what, "Use PostgreSQL 15 or newer");
    }
    let encoding: &str = row.get(1);
    if encoding != "UTF8" {
        let what = format!("the database's encoding is {encoding}");
        return refused(
            what,
            "Make a database of UTF8: createdb --template=template0 --encoding=UTF8 NAME",
        );
    }
    const PROMISES: [(usize, &str, &str); 3] = [
        (2, "fsync", "an accepted order would not survive a power cut"),
        (3, "full_page_writes", "a crash could leave half-written pages"),
        (
            4,
            "synchronous_commit",
            "an answer would be sent before the order is on disk",
        ),
    ];
    for (column, name, broken) in PROMISES {
        if is_off(row, column) {
            return refused(
                format!("it runs with {name} = off: {broken}"),
                "Set it to on: of the server, of the database, and of the role (ALTER ROLE … RESET ALL)",
            );
        }
    }
    let isolation: &str = row.get(5);
    if isolation != "read committed" {
        return refused(
            format!(
                "default_transaction_isolation is {isolation}: commits wait for one another and must then see what the others did"
            ),
            "Set it to 'read committed' for the role: ALTER ROLE … SET default_transaction_isolation = 'read committed'",
        );
    }
    if row.get(6) {
        return read_only(
            "it is a standby, which takes no writes",
            "Write the address of the server that it follows, or promote it",
        );
    }
    if !is_off(row, 7) {
        return read_only(
            "transactions are read-only here (default_transaction_read_only)",
            "Set it to off: of the server, of the database, and of the role",
        );
    }
    Ok(())
}

fn is_off(row: &Row, column: usize) -> bool {
    row.get::<_, &str>(column) == "off"
}

fn read_only(what: &str, advice: &'static str) -> Result<(), StoreError> {
    Err(StoreError::ReadOnly(Arc::new(ServerError::of_server(what, advice))))
}
