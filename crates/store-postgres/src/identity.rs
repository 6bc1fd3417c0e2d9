//! Which database this is. A dump that is restored elsewhere is another one: its feed goes on from an older state, so that
//! positions that were given since would name other events. It gets another epoch then, and whoever follows the feed is told.
//!
//! A server that takes over from the one that it followed is the same database; of that tells the server's timeline.

use comanda_store::StoreError;
use tokio_postgres::types::Type;

use crate::failure::Failure;
use crate::server::Server;

/// Some managed servers do not tell theirs.
const TELLS: &str = "SELECT has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')";
const WITH_SERVER: &str = "SELECT hashtextextended(system_identifier::text || ' ' || d.oid::text, 0) \
     FROM pg_control_system(), pg_database d WHERE d.datname = current_database()";
const WITHOUT_SERVER: &str =
    "SELECT hashtextextended(d.oid::text, 0) FROM pg_database d WHERE d.datname = current_database()";

/// One node of several that start at once finds the change; whoever finds none before it writes it down.
const RECOGNISE: &str = "WITH changed AS (UPDATE comanda.meta SET value = $1 WHERE name = 'identity' AND value <> $1 RETURNING 1), \
     first AS (INSERT INTO comanda.meta SELECT 'identity', $1 WHERE NOT EXISTS \
         (SELECT 1 FROM comanda.meta WHERE name = 'identity') ON CONFLICT (name) DO NOTHING) \
     UPDATE comanda.meta SET value = 1 + floor(random() * 4294967295)::bigint WHERE name = 'epoch' AND EXISTS (SELECT 1 FROM changed) \
     RETURNING value";

/// Begins another epoch of the feed if this is another database than the one that a node last worked on.
pub(crate) async fn recognise(server: &Server) -> Result<(), StoreError> {
    const WHAT: &str = "find out which database this is";
    let told = server.ask(WHAT, TELLS, &[]).await.map_err(Failure::into_error)?;
    let tells = told.first().is_some_and(|row| row.get(0));
    let statement = if tells { WITH_SERVER } else { WITHOUT_SERVER };
    let rows = server.ask(WHAT, statement, &[]).await.map_err(Failure::into_error)?;
    let Some(identity) = rows.first().map(|row| row.get::<_, i64>(0)) else {
        return Ok(());
    };
    let begun = server
        .ask(WHAT, RECOGNISE, &[(&identity, Type::INT8)])
        .await
        .map_err(Failure::into_error)?;
    if !begun.is_empty() {
        tracing::warn!(
            "this database is a copy of the one that nodes last worked on: its feed has a new epoch, and whoever follows it begins anew"
        );
    }
    Ok(())
}
