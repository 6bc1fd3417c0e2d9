//! Bits that flip in the index of ids, anywhere in its pages: an order is found, or the damage is said. That it is not
//! there is never said of one that is.
//!
//! `FLIPS` sets how many bits are flipped (60), `FLIP_SEED` repeats another run's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::path::Path;

use comanda_model::OrderId;
use comanda_store::{Store, StoreError};
use comanda_store_sqlite::SqliteStore;
use support::*;
use uuid::Uuid;

/// Where the pages of the index begin in the file, and how long they are.
fn pages(file: &Path) -> Vec<(u64, u64)> {
    let connection = rusqlite::Connection::open(file).unwrap();
    let mut statement = connection
        .prepare("SELECT pgoffset, pgsize FROM dbstat WHERE name = 'ids'")
        .unwrap();
    let rows = statement.query_map([], |row| {
        Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test]
async fn an_order_that_is_there_is_never_said_not_to_be() {
    let seed = number("FLIP_SEED", u64::from(std::process::id()));
    println!("FLIP_SEED={seed}");
    let mut random = seed;
    // splitmix64.
    let mut below = |bound: u64| {
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % bound
    };
    let pristine = tempfile::tempdir().unwrap();
    let store = open(pristine.path());
    let now = store.now();
    let commits: Vec<_> = (0..700).map(|_| accepted(now, now, None)).collect();
    let ids: Vec<OrderId> = commits.iter().map(|one| one.order.id()).collect();
    for ticket in store.commit(commits) {
        ticket.await.unwrap();
    }
    store.close().await.unwrap();
    let file = pristine.path().join("comanda.db");
    let pages = pages(&file);
    assert!(pages.len() >= 4, "leaves and what leads to them");
    let pristine = std::fs::read(&file).unwrap();
    let damaged = tempfile::tempdir().unwrap();
    let absent = [
        OrderId(Uuid::nil()),
        OrderId(Uuid::now_v7()),
        OrderId(Uuid::from_u128(u128::MAX)),
    ];
    let mut said = 0;
    for _ in 0..number("FLIPS", 60) {
        let (offset, size) = pages[below(pages.len() as u64) as usize];
        let (at, bit) = ((offset + below(size)) as usize, below(8));
        let mut bytes = pristine.clone();
        bytes[at] ^= 1 << bit;
        std::fs::write(damaged.path().join("comanda.db"), bytes).unwrap();
        let what = format!(
            "bit {bit} of byte {} of the page at {offset}, FLIP_SEED={seed}",
            at as u64 - offset
        );
        let store = SqliteStore::open_read_only(options(damaged.path())).unwrap();
        let mut is_said = false;
        for id in ids.iter().skip(below(9) as usize).step_by(9) {
            match store.order(*id).await {
                Ok(Some(found)) => assert_eq!(found.order.id(), *id, "{what}"),
                Ok(None) => panic!("{what}: {id} is said not to be there"),
                Err(StoreError::Corrupt { .. }) => is_said = true,
                Err(error) => panic!("{what}: {error}"),
            }
        }
        for id in absent {
            assert!(
                matches!(store.order(id).await, Ok(None) | Err(StoreError::Corrupt { .. })),
                "{what}"
            );
        }
        store.close().await.unwrap();
        if is_said {
            said += 1;
            assert!(!verified(damaged.path()).is_clean(), "{what}");
        }
    }
    println!("{said} were met by readers");
    assert!(said > 0);
}
