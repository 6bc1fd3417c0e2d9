//! The statements of the commit path, prepared once and kept for the writer's life. Those that write several rows at once
//! are in `pending`.

use rusqlite::{Connection, PrepFlags, Statement};

/// Prepares a statement that is kept for the writer's life: it leaves the connection's small, quick memory to those that
/// come and go, and to the values that are bound.
pub(crate) fn prepare_kept<'c>(connection: &'c Connection, sql: &str) -> rusqlite::Result<Statement<'c>> {
    connection.prepare_with_flags(sql, PrepFlags::SQLITE_PREPARE_PERSISTENT)
}

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident: $sql:expr;)*) => {
        /// The writer's statements.
        pub(crate) struct Statements<'c> {
            $($(#[$doc])* pub(crate) $name: Statement<'c>,)*
        }

        impl<'c> Statements<'c> {
            /// Prepares all of them.
            pub(crate) fn prepare(connection: &'c Connection) -> rusqlite::Result<Self> {
                Ok(Self { $($name: prepare_kept(connection, $sql)?,)* })
            }
        }
    };
}

statements! {
    begin: "BEGIN IMMEDIATE";
    commit: "COMMIT";
    update_data: "UPDATE orders SET data_crc = ?2, data = ?3 WHERE seq = ?1";
    insert_customer: "INSERT INTO by_customer (customer, seq) VALUES (?1, ?2)";
    insert_group: "INSERT INTO by_group (group_key, seq) VALUES (?1, ?2)";
    delete_state: "DELETE FROM by_state WHERE state = ?1 AND seq = ?2";
    insert_due: "INSERT INTO due (at, seq) VALUES (?1, ?2)";
    delete_due: "DELETE FROM due WHERE at = ?1 AND seq = ?2";
    insert_queued: "INSERT INTO queued (queue, at, seq) VALUES (?1, ?2, ?3)";
    delete_queued: "DELETE FROM queued WHERE queue = ?1 AND at = ?2 AND seq = ?3";
    write_claim: "REPLACE INTO claims (seq, queue, worker, since, lease_until, visit, attempt, secret, crc) \
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    delete_claim: "DELETE FROM claims WHERE seq = ?1";
    write_queue: "UPDATE queues SET depth = ?2, dead = ?3 WHERE id = ?1";
    insert_final: "INSERT INTO final (updated_at, seq) VALUES (?1, ?2)";
    delete_final: "DELETE FROM final WHERE updated_at = ?1 AND seq = ?2";
    insert_attempt: "INSERT INTO attempts (seq, number, visit, attempt, step, undo, started_at, ended_at, outcome, \
        crc, reason, result) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    key: "SELECT seq, fingerprint, expires_at, crc FROM keys WHERE scope = ?1 AND key = ?2";
    write_key: "REPLACE INTO keys (scope, key, seq, fingerprint, expires_at, crc) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    insert_expiring: "INSERT INTO keys_expiring (expires_at, scope, key) VALUES (?1, ?2, ?3)";
    delete_expiring: "DELETE FROM keys_expiring WHERE expires_at = ?1 AND scope = ?2 AND key = ?3";
    lane_head: "SELECT seq FROM lanes WHERE lane = ?1 AND waiting = 0";
    lane_next: "SELECT position, seq FROM lanes WHERE lane = ?1 AND waiting = 1 ORDER BY position LIMIT 1";
    lane_enter: "INSERT INTO lanes (lane, waiting, position, seq) VALUES (?1, ?2, ?3, ?4)";
    lane_leave: "DELETE FROM lanes WHERE lane = ?1 AND waiting = ?2 AND position = ?3";
    write_counters: "UPDATE state SET batch = ?1, seq = ?2, position = ?3, lane_position = ?4, clock = ?5";
    write_count: "UPDATE states SET n = ?2 WHERE id = ?1";
    write_live: "UPDATE types SET live = ?2 WHERE id = ?1";
}
