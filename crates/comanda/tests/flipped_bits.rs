//! Bits that flip in the files of the real server's store. What is damaged is never served: it is an error with a code of
//! its own, in the answer and in the log, while all other orders go on being served; `comanda verify` finds it.
//!
//! `FLIPS` sets how many bits are flipped in each table (2), and four times as many in the log; `FLIP_SEED` repeats another run's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};
use support::random::Random;
use support::{Server, run};

/// What the API says of one order.
type Told = BTreeMap<String, (u16, Value)>;

/// Orders of several kinds, all at rest. Answers their ids.
fn fill(server: &Server) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..60 {
        let body = match number % 3 {
            0 => {
                json!({"type": "sale", "key": format!("a-{number}"), "data": {"amount": 12.5, "currency": "EUR", "note": "x".repeat(200)}})
            }
            1 => {
                json!({"type": "work-order", "status": "recibida", "data": {"descripcion": format!("Cambiar {number}"), "fecha_entrega": "10/04/2026"}})
            }
            _ => json!({"type": "purchase", "data": {"customerId": "c-1", "items": [{"sku": "tea"}]}}),
        };
        let (status, order) = server.post("/v1/orders", &body.to_string());
        assert_eq!(status, 202, "{order}");
        ids.push(order["id"].as_str().unwrap().to_owned());
    }
    for id in &ids {
        server.get(&format!("/v1/orders/{id}?wait=30"));
    }
    ids
}

fn paths(id: &str) -> [String; 3] {
    [
        format!("/v1/orders/{id}"),
        format!("/v1/orders/{id}/events"),
        format!("/v1/orders/{id}/attempts"),
    ]
}

fn told(server: &Server, ids: &[String]) -> Told {
    let mut told = Told::new();
    // Each third is a sale, which has an id of its client's too.
    let by_key = (0..ids.len()).step_by(3).map(|number| format!("/sale/a-{number}"));
    for path in ids.iter().flat_map(|id| paths(id)).chain(by_key) {
        let answer = server.get(&path);
        told.insert(path, answer);
    }
    told
}

/// The code of a refusal, which a mount says in the type's own form.
fn code<'a>(path: &str, answer: &'a Value) -> &'a Value {
    if path.starts_with("/v1") {
        &answer["code"]
    } else {
        &answer["error"]
    }
}

/// The places of a table's pages in the file.
fn pages(file: &Path, table: &str) -> Vec<(u64, u64)> {
    let connection = Connection::open(file).unwrap();
    let mut statement = connection
        .prepare("SELECT pgoffset, pgsize FROM dbstat WHERE name = ?1 AND ncell > 0 AND pagetype = 'leaf'")
        .unwrap();
    let rows = statement
        .query_map([table], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
        })
        .unwrap();
    rows.map(Result::unwrap).collect()
}

fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_flipped_bit_is_said_and_never_served() {
    let seed = number("FLIP_SEED", u64::from(std::process::id()));
    println!("FLIP_SEED={seed}");
    let mut random = Random(seed);
    let pristine = tempfile::tempdir().unwrap();
    let server = Server::start_in(pristine.path(), &[]);
    let ids = fill(&server);
    let before = told(&server, &ids);
    assert!(before.values().all(|(status, _)| *status == 200));
    server.stop();
    let file = pristine.path().join("comanda-data/comanda.db");
    let (mut said, mut found, mut flips) = (0, 0, 0);
    for table in [
        "orders", "heads", "events", "attempts", "items", "keys", "ids", "by_state", "names", "states",
    ] {
        let pages = pages(&file, table);
        assert!(!pages.is_empty(), "{table} has no page");
        for _ in 0..number("FLIPS", 2) {
            let (offset, size) = pages[random.below(pages.len() as u64) as usize];
            let damaged = tempfile::tempdir().unwrap();
            let data = damaged.path().join("comanda-data");
            std::fs::create_dir(&data).unwrap();
            let mut bytes = std::fs::read(&file).unwrap();
            // Cells stand at the end of a page; what is before them may be room that nothing uses.
            let at = (offset + size - 1 - random.below(size / 4)) as usize;
            let bit = random.below(8);
            bytes[at] ^= 1 << bit;
            std::fs::write(data.join("comanda.db"), bytes).unwrap();
            flips += 1;
            let what = format!("bit {bit} of byte {at}, in `{table}`, FLIP_SEED={seed}");

            let report = run(damaged.path(), &["verify", "--data", "comanda-data"], "");
            assert!(!report.err.contains("panicked"), "{what}: {report:?}");
            found += u64::from(report.code != 0);
            let mut server = match Server::try_start_in(damaged.path()) {
                Ok(server) => server,
                Err(refused) => {
                    assert!(refused.join("\n").contains("error"), "{what}: {refused:?}");
                    assert_ne!(report.code, 0, "{what}: refused, and verify finds nothing");
                    said += 1;
                    continue;
                }
            };
            let after = told(&server, &ids);
            let mut wrong = 0;
            for (path, (status, answer)) in &after {
                if (*status, answer) == (200, &before[path].1) {
                    continue;
                }
                wrong += 1;
                assert_eq!(
                    (*status, code(path, answer)),
                    (500, &json!("data-damaged")),
                    "{what}: {path}: {answer}"
                );
            }
            if wrong > 0 {
                assert_ne!(
                    report.code, 0,
                    "{what}: {wrong} answers differ, and verify finds nothing"
                );
                server.wait_for_line("the store failed");
                said += 1;
            }
            let unreadable = after.values().any(|(_, answer)| {
                let detail = answer["detail"].as_str().unwrap_or_default();
                detail.starts_with("the database file is damaged")
            });
            let wrong_max = match table {
                // A table of one row per name or state is in every order.
                "names" | "states" => after.len(),
                // All ids stand in one page, and a search begins in its middle. If the entry there cannot be read at all,
                // which SQLite says, none is found.
                "ids" if unreadable => after.len(),
                // If it can, and leads astray, all on one side of it are missed, and it as well.
                "ids" => {
                    let missed = ids.len() / 2 + 1;
                    paths("").len() * missed + missed.div_ceil(3)
                }
                // All others are in some.
                _ => after.len() / 2 - 1,
            };
            assert!(wrong <= wrong_max, "{what}: {wrong} of {} answers", after.len());
            let (status, order) = server.post("/v1/orders", r#"{"type":"sale","data":{"amount":1,"currency":"EUR"}}"#);
            assert!(status == 202 || order["code"] == "data-damaged", "{what}: {order}");
        }
    }
    println!("{flips} bits flipped: verify found {found}, {said} were met by readers or at the start");
    // Some bits stand where nothing is; most do not.
    assert!(found * 2 > flips, "verify found {found} of {flips}");
}

#[test]
fn a_flipped_bit_in_the_log_is_said_and_never_served() {
    let seed = number("FLIP_SEED", u64::from(std::process::id()));
    println!("FLIP_SEED={seed}");
    let mut random = Random(seed);
    let pristine = tempfile::tempdir().unwrap();
    let server = Server::start_in(pristine.path(), &[]);
    let ids = fill(&server);
    let before = told(&server, &ids);
    // So much stands behind that a flip in the first part of the log is never in its last two transactions.
    for _ in 0..4 {
        server.post("/v1/orders", r#"{"type":"sale","data":{"amount":1,"currency":"EUR"}}"#);
    }
    server.kill();
    let data = pristine.path().join("comanda-data");
    let log = std::fs::read(data.join("comanda.db-wal")).unwrap();
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let frame_bytes = 24 + word(8) as usize;
    // Frames of this round of the log; behind them may be those of the round before.
    let frames = (32..)
        .step_by(frame_bytes)
        .take_while(|at| at + frame_bytes <= log.len() && word(at + 8) == word(16))
        .count();
    assert!(frames > 40, "{frames} frames stand in the log");
    let (mut refused, flips) = (0, 4 * number("FLIPS", 2));
    for _ in 0..flips {
        let damaged = tempfile::tempdir().unwrap();
        let copy = damaged.path().join("comanda-data");
        std::fs::create_dir(&copy).unwrap();
        std::fs::copy(data.join("comanda.db"), copy.join("comanda.db")).unwrap();
        let mut bytes = log.clone();
        let at = random.below((32 + (frames - 24) * frame_bytes) as u64) as usize;
        let bit = random.below(8);
        bytes[at] ^= 1 << bit;
        std::fs::write(copy.join("comanda.db-wal"), bytes).unwrap();
        let what = format!("bit {bit} of byte {at} of the log, FLIP_SEED={seed}");
        match Server::try_start_in(damaged.path()) {
            Err(said) => {
                let said = said.join("\n");
                assert!(
                    said.contains("comanda.db-wal") && said.contains("backup"),
                    "{what}: {said}"
                );
                refused += 1;
            }
            Ok(server) => assert_eq!(told(&server, &ids), before, "{what}"),
        }
        let report = run(damaged.path(), &["verify", "--data", "comanda-data"], "");
        assert_ne!(report.code, 0, "{what}: {report:?}");
        assert!(
            report.out.contains("comanda.db-wal") || report.err.contains("comanda.db-wal"),
            "{what}: {report:?}"
        );
    }
    assert_eq!(
        refused, flips,
        "each flip is in what was synced, and a start on it is refused"
    );
}

#[test]
fn a_bit_that_flips_in_the_log_of_a_running_server_is_said_and_never_served() {
    let seed = number("FLIP_SEED", u64::from(std::process::id()));
    println!("FLIP_SEED={seed}");
    let mut random = Random(seed);
    let home = tempfile::tempdir().unwrap();
    let server = Server::start_in(home.path(), &[]);
    let ids = fill(&server);
    let before = told(&server, &ids);
    let log = home.path().join("comanda-data/comanda.db-wal");
    for _ in 0..4 * number("FLIPS", 2) {
        let mut bytes = std::fs::read(&log).unwrap();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << random.below(8);
        // In place, one byte, as a disk would.
        let file = std::fs::File::options().write(true).open(&log).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &bytes[at..=at], at as u64).unwrap();
        for (path, (status, answer)) in told(&server, &ids) {
            let same = (status, &answer) == (200, &before[&path].1);
            let is_said = (status, code(&path, &answer)) == (500, &json!("data-damaged"));
            assert!(
                same || is_said,
                "byte {at} of the log, FLIP_SEED={seed}: {path}: {status} {answer}"
            );
        }
    }
}
