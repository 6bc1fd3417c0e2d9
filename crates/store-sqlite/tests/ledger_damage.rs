//! Every row of the ledger's tables is changed in each column, removed, and doubled, one at a time, and `verify` must find
//! each. The rows are those of stock that came in, was counted, and of orders that hold, shipped and gave back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::path::Path;
use std::sync::Arc;

use comanda_model::Order;
use comanda_model::ledger::{HELD, Hold, HoldLine, HoldState, LedgerLine, ON_HAND, OUTSIDE, SHIPPED, stock_account};
use comanda_store::{Posting, Store};
use comanda_store_sqlite::SqliteStore;
use rusqlite::Connection;
use rusqlite::types::Value;
use support::*;

fn line(sku: &str, from: &str, to: &str, quantity: u32, once_id: &str) -> LedgerLine {
    LedgerLine {
        account: stock_account(sku).into(),
        from: from.into(),
        to: to.into(),
        quantity,
        once_id: once_id.into(),
    }
}

async fn post(store: &SqliteStore, id: &str, line: LedgerLine) {
    let posting = Posting {
        once_id: id.to_owned(),
        fingerprint: [7; 32],
        lines: vec![line],
        expect: None,
    };
    store.post(&posting).await.unwrap();
}

/// One commit further, in which the order moves a line and holds this.
async fn moves(store: &SqliteStore, order: &Order, line: LedgerLine, state: Option<HoldState>) -> Order {
    let mut commit = next(order, store.now());
    Arc::make_mut(&mut commit.order).head.holds = state
        .map(|state| Hold {
            visit: 1,
            state,
            until: None,
            lasts_ms: 0,
            shipped_in: (state == HoldState::Shipped).then_some(2),
            moves: 1,
            lines: vec![HoldLine {
                account: line.account.clone(),
                quantity: line.quantity,
                short: 0,
            }],
        })
        .into_iter()
        .collect();
    commit.ledger = vec![line];
    let moved = commit.order.clone();
    support::commit(store, commit).await.unwrap();
    Arc::unwrap_or_clone(moved)
}

/// Stock that came in and was counted; one order that holds, one that has shipped, one that gave back.
async fn shop(directory: &Path) {
    let store = open(directory);
    post(&store, "receive tea", line("tea", OUTSIDE, ON_HAND, 10, "")).await;
    post(&store, "receive cup", line("cup", OUTSIDE, ON_HAND, 4, "")).await;
    post(&store, "count tea", line("tea", ON_HAND, OUTSIDE, 1, "")).await;
    let now = store.now();
    for last in ["hold", "ship", "release"] {
        let new = accepted(now, now, None);
        commit(&store, new.clone()).await.unwrap();
        let held = line("tea", ON_HAND, HELD, 2, "1.1");
        let held = moves(&store, &new.order, held, Some(HoldState::Held)).await;
        match last {
            "ship" => {
                let line = line("tea", HELD, SHIPPED, 2, "1.2");
                moves(&store, &held, line, Some(HoldState::Shipped)).await;
            }
            "release" => {
                moves(&store, &held, line("tea", HELD, ON_HAND, 2, "1.2"), None).await;
            }
            _ => {}
        }
    }
    store.close().await.unwrap();
}

/// A table, its columns, and how many of them are its key.
const TABLES: [(&str, &[&str], usize); 4] = [
    ("balances", &["account", "place", "quantity", "crc"], 2),
    (
        "entries",
        &["seq", "once", "account", "source", "target", "quantity", "crc"],
        3,
    ),
    ("flows", &["account", "source", "target", "quantity", "crc"], 3),
    ("postings", &["once", "fingerprint", "at", "crc"], 1),
];

fn rows(connection: &Connection, table: &str, columns: &[&str]) -> Vec<Vec<Value>> {
    let sql = format!("SELECT {} FROM {table}", columns.join(", "));
    let mut statement = connection.prepare(&sql).unwrap();
    let rows = statement.query_map([], |row| (0..columns.len()).map(|index| row.get(index)).collect());
    rows.unwrap().map(Result::unwrap).collect()
}

/// The same kind of value, with another content.
fn other(value: &Value) -> Value {
    match value {
        Value::Integer(number) => Value::Integer(number ^ 64),
        Value::Text(text) => Value::Text(format!("{text}x")),
        Value::Blob(bytes) => Value::Blob(bytes.iter().map(|byte| byte ^ 1).collect()),
        value => value.clone(),
    }
}

/// Does one thing to a copy of the store, and expects that `verify` finds it.
fn is_found(pristine: &Path, told: &str, damage: impl FnOnce(&Connection)) {
    let damaged = tempfile::tempdir().unwrap();
    let file = damaged.path().join("comanda.db");
    std::fs::copy(pristine.join("comanda.db"), &file).unwrap();
    let connection = Connection::open(&file).unwrap();
    damage(&connection);
    connection.close().unwrap();
    assert!(!verified(damaged.path()).is_clean(), "not found: {told}");
}

#[tokio::test]
async fn each_row_of_the_ledger_is_missed_when_it_is_changed_removed_or_doubled() {
    let pristine = tempfile::tempdir().unwrap();
    shop(pristine.path()).await;
    assert_clean(pristine.path());
    let original = Connection::open(pristine.path().join("comanda.db")).unwrap();
    let mut tried = 0;
    for (table, columns, keys) in TABLES {
        let places: Vec<String> = columns.iter().map(|column| format!("{column} = ?")).collect();
        let whole = places.join(" AND ");
        let marks = vec!["?"; columns.len()].join(", ");
        for row in rows(&original, table, columns) {
            let told = |what: &str| format!("{table}: {what} of {row:?}");
            for (index, column) in columns.iter().enumerate() {
                let changed = other(&row[index]);
                is_found(pristine.path(), &told(&format!("another {column}")), |connection| {
                    let sql = format!("UPDATE {table} SET {column} = ? WHERE {whole}");
                    let values = std::iter::once(&changed).chain(&row);
                    let changed = connection.execute(&sql, rusqlite::params_from_iter(values)).unwrap();
                    assert_eq!(changed, 1);
                });
                tried += 1;
            }
            // A balance of nothing says what none says.
            if table != "balances" || row[2] != Value::Integer(0) {
                is_found(pristine.path(), &told("the loss"), |connection| {
                    let sql = format!("DELETE FROM {table} WHERE {whole}");
                    assert_eq!(connection.execute(&sql, rusqlite::params_from_iter(&row)).unwrap(), 1);
                });
                tried += 1;
            }
            for key in 0..keys {
                let mut doubled = row.clone();
                doubled[key] = other(&row[key]);
                is_found(
                    pristine.path(),
                    &told(&format!("a double under another {}", columns[key])),
                    |connection| {
                        let sql = format!("REPLACE INTO {table} ({}) VALUES ({marks})", columns.join(", "));
                        assert_eq!(
                            connection.execute(&sql, rusqlite::params_from_iter(&doubled)).unwrap(),
                            1
                        );
                    },
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried} kinds of damage prove little");
}

/// A posting whose id is forgotten in due time is not missed.
#[tokio::test]
async fn what_retention_forgets_is_not_missed() {
    let directory = tempfile::tempdir().unwrap();
    shop(directory.path()).await;
    let store = open(directory.path());
    while store.retain(store.now(), 100).await.unwrap() > 0 {}
    post(&store, "receive more", line("tea", OUTSIDE, ON_HAND, 1, "")).await;
    store.close().await.unwrap();
    assert_clean(directory.path());
    let connection = Connection::open(directory.path().join("comanda.db")).unwrap();
    let left: i64 = connection
        .query_row("SELECT count(*) FROM postings", [], |row| row.get(0))
        .unwrap();
    assert_eq!(left, 1, "only the newest is left");
}

#[tokio::test]
async fn lines_that_cancel_out_are_missed_when_they_vanish_together() {
    let pristine = tempfile::tempdir().unwrap();
    shop(pristine.path()).await;
    is_found(pristine.path(), "a released hold, whole", |connection| {
        let removed = connection.execute(
            "DELETE FROM entries WHERE seq IN (SELECT seq FROM entries WHERE source = 'held' AND target = 'on-hand')",
            [],
        );
        assert_eq!(removed.unwrap(), 2);
    });
}
