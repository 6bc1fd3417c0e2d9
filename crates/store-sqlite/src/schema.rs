//! The file: its tables, how a connection to it is set up, and how an older format becomes the present one.
//!
//! What an order was accepted with is written once, into `orders`; what changes stands in `heads`, small enough that
//! a commit rewrites few pages. All rows are found by `seq`, the order's number in commit order, so that the pages
//! written are those at the right edge; a UUID leads there through `ids`, and UUIDv7s are inserted in their order.
//!
//! Every row that cannot be made again from others carries a CRC-32 over its content *and* its key, so that neither a
//! flipped bit nor a row in another's place passes for what was written. Interned texts (names, states) are summed as
//! what they mean, not as their numbers: a damaged name is found by the first row that uses it.

use std::path::Path;
use std::time::Duration;

use comanda_store::StoreError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use uuid::Uuid;

use crate::failure::{Context, corrupt};

/// The database's name within the store's directory.
pub(crate) const FILE: &str = "comanda.db";
/// Marks the file as Comanda's (`PRAGMA application_id`): "COMA".
const APPLICATION_ID: i32 = 0x434f_4d41;
/// Bytes per page. A commit rewrites about ten pages, so small ones keep the log small; most orders still fit one.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// What the log file is cut to after it was checkpointed, in bytes.
const LOG_KEPT_BYTES: i64 = 64 * 1024 * 1024;
/// How many prepared statements a connection keeps.
const STATEMENTS_MAX: usize = 128;

/// Each takes the file one format further. The format is the number of those that have run.
const MIGRATIONS: &[&str] = &[FORMAT_1, FORMAT_2, FORMAT_3, FORMAT_4, FORMAT_5, FORMAT_6];

/// The newest format that this program knows.
pub(crate) const FORMAT: u32 = MIGRATIONS.len() as u32;

const FORMAT_1: &str = "
-- Facts about the store as a whole: its epoch.
CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;

-- The counters that commits draw from, written once per batch; `batch` tells whether a batch was applied.
CREATE TABLE state (
    id INTEGER PRIMARY KEY CHECK (id = 0),
    batch INTEGER NOT NULL, seq INTEGER NOT NULL, position INTEGER NOT NULL, lane_position INTEGER NOT NULL,
    clock INTEGER NOT NULL, retained INTEGER NOT NULL
);
INSERT INTO state VALUES (0, 0, 0, 0, 0, 0, 0);

-- Texts that stand in many rows: names of types, statuses, steps, actors and scopes of keys.
CREATE TABLE names (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);

-- Where orders can stand, and how many do.
CREATE TABLE states (
    id INTEGER PRIMARY KEY, type INTEGER NOT NULL, status INTEGER NOT NULL, phase INTEGER NOT NULL,
    n INTEGER NOT NULL, UNIQUE (type, status, phase)
);

-- Sources of types by hash, and how many orders that are not final live on each.
CREATE TABLE types (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, name TEXT, source TEXT, crc INTEGER, live INTEGER NOT NULL
);

-- What was accepted. Only `data` (on an edit) and `keys` ever change. `keys` leads back to the keys of the order.
CREATE TABLE orders (
    seq INTEGER PRIMARY KEY, id BLOB NOT NULL, type INTEGER NOT NULL, status INTEGER NOT NULL, at NOT NULL,
    key TEXT, customer TEXT, group_key TEXT, traceparent TEXT, keys TEXT,
    crc INTEGER NOT NULL, data_crc INTEGER NOT NULL, data TEXT NOT NULL
);
CREATE TABLE ids (id BLOB PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;

-- What changes: rewritten whole by every commit. `rest` is what most orders do not have; `results` names the
-- attempts whose results stand; `lane_position` is kept when the order leaves its lane, for its return.
CREATE TABLE heads (
    seq INTEGER PRIMARY KEY, state INTEGER NOT NULL, type_hash INTEGER NOT NULL, version INTEGER NOT NULL,
    etag_version INTEGER NOT NULL, commit_id BLOB NOT NULL, updated_at NOT NULL, events INTEGER NOT NULL,
    attempts INTEGER NOT NULL, visits INTEGER NOT NULL, lane_position INTEGER, crc INTEGER NOT NULL,
    results TEXT, rest TEXT
);

-- Ways to find orders. All of them can be made again from `orders` and `heads`.
CREATE TABLE by_state (state INTEGER, seq INTEGER, PRIMARY KEY (state, seq)) WITHOUT ROWID;
CREATE TABLE by_customer (customer TEXT, seq INTEGER, PRIMARY KEY (customer, seq)) WITHOUT ROWID;
CREATE TABLE by_group (group_key TEXT, seq INTEGER, PRIMARY KEY (group_key, seq)) WITHOUT ROWID;
CREATE TABLE by_cause (cause INTEGER, seq INTEGER, PRIMARY KEY (cause, seq)) WITHOUT ROWID;
CREATE TABLE due (at INTEGER, seq INTEGER, PRIMARY KEY (at, seq)) WITHOUT ROWID;
CREATE TABLE final (updated_at INTEGER, seq INTEGER, PRIMARY KEY (updated_at, seq)) WITHOUT ROWID;

-- What dead letters died of, and how many of each.
CREATE TABLE causes (
    id INTEGER PRIMARY KEY, cause TEXT NOT NULL, type INTEGER NOT NULL, n INTEGER NOT NULL, UNIQUE (cause, type)
);
CREATE INDEX causes_by_n ON causes (n);

-- The feed; `events_by_order` is an order's history.
CREATE TABLE events (
    position INTEGER PRIMARY KEY, seq INTEGER NOT NULL, number INTEGER NOT NULL, at NOT NULL, kind INTEGER NOT NULL,
    from_status INTEGER, to_status INTEGER, by INTEGER NOT NULL, crc INTEGER NOT NULL, reason TEXT, changed TEXT
);
CREATE UNIQUE INDEX events_by_order ON events (seq, number);

CREATE TABLE attempts (
    seq INTEGER, number INTEGER, visit INTEGER NOT NULL, attempt INTEGER NOT NULL, step INTEGER NOT NULL,
    undo INTEGER NOT NULL, started_at NOT NULL, ended_at NOT NULL, outcome INTEGER NOT NULL, crc INTEGER NOT NULL,
    reason TEXT, result TEXT, PRIMARY KEY (seq, number)
) WITHOUT ROWID;

CREATE TABLE keys (
    scope INTEGER, key TEXT, seq INTEGER NOT NULL, fingerprint BLOB NOT NULL, expires_at INTEGER,
    crc INTEGER NOT NULL, PRIMARY KEY (scope, key)
) WITHOUT ROWID;
CREATE TABLE keys_expiring (
    expires_at INTEGER, scope INTEGER, key TEXT, PRIMARY KEY (expires_at, scope, key)
) WITHOUT ROWID;

-- A lane's members. The one at its head has `waiting` 0; when it goes, the first of the others takes its place.
CREATE TABLE lanes (
    lane TEXT, waiting INTEGER, position INTEGER, seq INTEGER NOT NULL, PRIMARY KEY (lane, waiting, position)
) WITHOUT ROWID;

-- For people with a SQLite shell.
CREATE VIEW readable AS
    SELECT o.seq, lower(hex(o.id)) AS id, t.text AS type, s.text AS status,
        CASE h.phase WHEN 0 THEN 'scheduled' WHEN 1 THEN 'active' WHEN 2 THEN 'undoing' WHEN 3 THEN 'dead' ELSE 'final' END
            AS phase,
        v.version, o.key, o.customer, o.group_key, o.data, v.rest
    FROM orders o JOIN heads v ON v.seq = o.seq JOIN states h ON h.id = v.state
    JOIN names t ON t.id = o.type JOIN names s ON s.id = h.status;
";

const FORMAT_2: &str = "
-- Queues that programs outside claim from, and how much is in them.
CREATE TABLE queues (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, depth INTEGER NOT NULL, dead INTEGER NOT NULL);

-- Orders whose work waits in a queue: as `due`, but for workers from outside.
CREATE TABLE queued (queue INTEGER, at INTEGER, seq INTEGER, PRIMARY KEY (queue, at, seq)) WITHOUT ROWID;

-- Who has claimed such work. The engine's own claims need no rows: they end with the process.
CREATE TABLE claims (
    seq INTEGER PRIMARY KEY, queue INTEGER NOT NULL, worker TEXT NOT NULL, since INTEGER NOT NULL,
    lease_until INTEGER NOT NULL, visit INTEGER NOT NULL, attempt INTEGER NOT NULL, secret BLOB NOT NULL,
    crc INTEGER NOT NULL
);
";

const FORMAT_3: &str = "
-- Who wants which events, and how far each has come. `delivery` counts what was tried.
CREATE TABLE subscriptions (
    id TEXT PRIMARY KEY, spec TEXT NOT NULL, crc INTEGER NOT NULL, epoch INTEGER, position INTEGER,
    delivery INTEGER NOT NULL
) WITHOUT ROWID;

-- Orders whose events could not be sent to a subscription.
CREATE TABLE subscription_exceptions (
    subscription TEXT, order_id BLOB, exception TEXT NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (subscription, order_id)
) WITHOUT ROWID;

-- The log of what was tried, the newest of each subscription.
CREATE TABLE deliveries (
    subscription TEXT, number INTEGER, delivery TEXT NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (subscription, number)
) WITHOUT ROWID;
";

const FORMAT_4: &str = "
-- The ledger. What stands where; every row can be proved by adding up `entries` and `flows`.
CREATE TABLE balances (
    account TEXT, place TEXT, quantity INTEGER NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (account, place)
) WITHOUT ROWID;
-- What each order has moved; `once` makes it happen once.
CREATE TABLE entries (
    seq INTEGER, once TEXT, account TEXT, source TEXT NOT NULL, target TEXT NOT NULL, quantity INTEGER NOT NULL,
    crc INTEGER NOT NULL, PRIMARY KEY (seq, once, account)
) WITHOUT ROWID;
-- What postings and orders that are gone have moved, summed up.
CREATE TABLE flows (
    account TEXT, source TEXT, target TEXT, quantity INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (account, source, target)
) WITHOUT ROWID;
-- The ids of postings, so that each happens once.
CREATE TABLE postings (
    once TEXT PRIMARY KEY, fingerprint BLOB NOT NULL, at INTEGER NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX postings_by_time ON postings (at);

-- Small documents that belong to no order.
CREATE TABLE records (
    kind TEXT, key TEXT, version INTEGER NOT NULL, value TEXT NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (kind, key)
) WITHOUT ROWID;
";

const FORMAT_5: &str = "
-- Items of statuses' queues, by position. `holds`: it stands in its lane. `head`: it is the one of its lane that can be
-- handed out, once `due_at` has come; while it is leased, that is when the lease ends.
CREATE TABLE items (
    position INTEGER PRIMARY KEY, queue INTEGER NOT NULL, seq INTEGER NOT NULL, status INTEGER NOT NULL,
    version INTEGER NOT NULL, at INTEGER NOT NULL, lane TEXT NOT NULL, parks INTEGER NOT NULL,
    attempts_max INTEGER NOT NULL, attempt INTEGER NOT NULL, due_at INTEGER NOT NULL, secret BLOB, worker TEXT,
    died_at INTEGER, reason TEXT, crc INTEGER NOT NULL, holds INTEGER NOT NULL, head INTEGER NOT NULL
);
CREATE INDEX items_by_order ON items (seq);
CREATE INDEX items_by_lane ON items (queue, lane, position) WHERE holds = 1;
CREATE INDEX items_heads ON items (queue, due_at, position) WHERE head = 1;
CREATE INDEX items_alive ON items (queue, position) WHERE died_at IS NULL;
CREATE INDEX items_dead ON items (queue, position) WHERE died_at IS NOT NULL;
CREATE INDEX items_leased ON items (queue, due_at) WHERE secret IS NOT NULL;
";

const FORMAT_6: &str = "
-- Events of the feed that belong to no order; their positions are the feed's.
CREATE TABLE notices (
    position INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, at INTEGER NOT NULL, notice TEXT NOT NULL, crc INTEGER NOT NULL
);
";

/// How a connection is to be used.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Use {
    /// Commits; makes the file if it is not there.
    Write,
    /// Copies the log into the database, beside the writer. It never asks for the writer's lock, not even while it is
    /// opened: behind a writer that is never idle it would not get it.
    Copy,
    /// Only reads, beside a writer.
    Read,
    /// Only reads, from a file that nobody writes to: also from a place that cannot be written to at all.
    Frozen,
}

/// Opens a connection and sets it up. `cache_kib` bounds its page cache.
pub(crate) fn connect(path: &Path, purpose: Use, cache_kib: u32) -> Result<Connection, StoreError> {
    const WHAT: &str = "open the database";
    let base = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match purpose {
        Use::Write => Connection::open_with_flags(
            path,
            base | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
        ),
        Use::Copy => Connection::open_with_flags(path, base | OpenFlags::SQLITE_OPEN_READ_WRITE),
        Use::Read => Connection::open_with_flags(path, base | OpenFlags::SQLITE_OPEN_READ_ONLY),
        Use::Frozen => Connection::open_with_flags(
            frozen_uri(path),
            base | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI,
        ),
    }
    .context(WHAT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    // Only checkpoints and other readers' recovery make a reader wait, and only briefly.
    connection.busy_timeout(Duration::from_secs(5)).context(WHAT)?;
    if matches!(purpose, Use::Write) {
        // Both must be set before the first page is written; in a file that has pages they change nothing.
        connection
            .pragma_update(None, "page_size", PAGE_BYTES as i64)
            .context(WHAT)?;
        connection
            .pragma_update(None, "auto_vacuum", "INCREMENTAL")
            .context(WHAT)?;
        let mode: String = connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
            .context(WHAT)?;
        if mode != "wal" {
            let cause = std::io::Error::other(format!("the file system allows only journal mode `{mode}`"));
            return Err(StoreError::failed(WHAT, cause));
        }
        connection
            .pragma_update_and_check(None, "journal_size_limit", LOG_KEPT_BYTES, |_| Ok(()))
            .context(WHAT)?;
    }
    if matches!(purpose, Use::Write | Use::Copy) {
        connection.pragma_update(None, "synchronous", "FULL").context(WHAT)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0).context(WHAT)?;
        // What is freed is overwritten, so that what was erased is not found in the file's free room.
        connection
            .pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))
            .context(WHAT)?;
    }
    if matches!(purpose, Use::Copy) {
        // It never is the one to throw the log away: `log` decides when that may be.
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .context(WHAT)?;
    }
    // Without this, SQLite takes a statement's values into account when it plans, and prepares every cached statement
    // that compares with a value anew for each use. It costs more than most of the reads themselves.
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .context(WHAT)?;
    connection.pragma_update(None, "foreign_keys", false).context(WHAT)?;
    connection.pragma_update(None, "temp_store", "MEMORY").context(WHAT)?;
    // A negative size is in KiB.
    connection
        .pragma_update(None, "cache_size", -i64::from(cache_kib))
        .context(WHAT)?;
    Ok(connection)
}

/// The file's name as a URI that tells SQLite that nobody will change it.
fn frozen_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for character in path.to_string_lossy().chars() {
        match character {
            '%' => uri.push_str("%25"),
            '?' => uri.push_str("%3f"),
            '#' => uri.push_str("%23"),
            other => uri.push(other),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

/// Checks whose file it is, and takes it to the present format.
pub(crate) fn migrate(connection: &Connection) -> Result<(), StoreError> {
    const WHAT: &str = "prepare the database";
    let found = format(connection)?;
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(found as usize) {
        connection.execute_batch("BEGIN IMMEDIATE").context(WHAT)?;
        let applied = connection.execute_batch(migration).and_then(|()| {
            connection.pragma_update(None, "application_id", APPLICATION_ID)?;
            connection.pragma_update(None, "user_version", index as i64 + 1)?;
            if index == 0 {
                set_epoch(connection)?;
            }
            connection.execute_batch("COMMIT")
        });
        if let Err(error) = applied {
            // The transaction may have been rolled back already; the first error is the one to tell.
            let _ = connection.execute_batch("ROLLBACK");
            return Err(error).context(WHAT);
        }
    }
    Ok(())
}

/// The file's format; 0 for a new file. Refuses files of others, and formats from the future.
pub(crate) fn format(connection: &Connection) -> Result<u32, StoreError> {
    const WHAT: &str = "read the database's format";
    let application: i32 = connection
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .context(WHAT)?;
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .context(WHAT)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .context(WHAT)?;
    if tables == 0 && found == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID {
        return Err(corrupt("the database file", "it is not one of Comanda's"));
    }
    if found > FORMAT {
        return Err(StoreError::Newer { found, known: FORMAT });
    }
    Ok(found)
}

/// Gives the store a new epoch, so that cursors from before are recognised.
pub(crate) fn set_epoch(connection: &Connection) -> rusqlite::Result<()> {
    // The low bits of a random UUID are all random; 53 of them survive a reader that takes numbers for doubles.
    let epoch = (Uuid::new_v4().as_u128() as u64 & ((1 << 53) - 1)).max(1);
    connection.execute(
        "INSERT OR REPLACE INTO meta (name, value) VALUES ('epoch', ?1)",
        [epoch as i64],
    )?;
    Ok(())
}

/// The store's epoch.
pub(crate) fn epoch(connection: &Connection) -> Result<u64, StoreError> {
    let epoch: i64 = connection
        .query_row("SELECT value FROM meta WHERE name = 'epoch'", [], |row| row.get(0))
        .context("read the store's epoch")?;
    Ok(epoch as u64)
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::{Use, connect};

    #[test]
    fn a_cached_statement_is_planned_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let connection = connect(&directory.path().join("test.db"), Use::Write, 1024).expect("a connection");
        connection
            .execute_batch("CREATE TABLE rows (id INTEGER PRIMARY KEY, name BLOB); CREATE INDEX names ON rows (name);")
            .expect("a table");
        for (id, name) in [(0, b"a"), (1, b"b"), (2, b"c")] {
            for sql in [
                "SELECT a.id FROM rows a LEFT JOIN rows b ON b.id = a.id WHERE a.name = ?2 AND b.id >= ?1 LIMIT 1",
                "UPDATE rows SET name = ?2 WHERE id = ?1",
            ] {
                let mut statement = connection.prepare_cached(sql).expect("a statement");
                let mut rows = statement.query((id, name)).expect("rows");
                while rows.next().expect("a row").is_some() {}
                drop(rows);
                assert_eq!(statement.get_status(StatementStatus::RePrepare), 0, "{sql}");
            }
        }
    }
}
