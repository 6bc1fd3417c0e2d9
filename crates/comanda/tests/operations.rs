//! Retention, backup, export and restore while orders come in, and `kill -9` in the middle of each. Afterwards the
//! restored store, what was exported and `comanda verify` must agree with what the clients had been told.
//!
//! `OPERATION_ROUNDS` sets the number of rounds (4), one kill in each; `OPERATION_SEED` repeats another run's moments.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::clients::{Ledger, add_type};
use support::random::Random;
use support::{Home, Ran, Server, command, run};

const CLIENTS: usize = 8;
/// What is final is old at once, so that retention takes all that it can.
const RETENTION: (&str, &str) = ("COMANDA_RETENTION__FINAL_KEPT", "1ms");
/// A type whose orders stand until someone moves them: no retention may touch one.
const STANDING: &str = r#"
name = "standing"
initial = "open"
key = "/ref"
[schema]
type = "object"
required = ["ref"]
[statuses.open]
to = ["closed"]
[statuses.closed]
final = true
"#;

/// What is broken off in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Killed {
    Server,
    Backup,
    Export,
    Restore,
}

fn start(directory: &Path) -> Server {
    Server::start_with(Home::Lent(directory.to_owned()), &[], &[RETENTION])
}

fn spawn(directory: &Path, args: &[&str]) -> Child {
    let mut program = command(directory);
    program
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    program.spawn().unwrap()
}

fn end(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn verify(directory: &Path, data: &Path) {
    run(directory, &["verify", "--data", data.to_str().unwrap()], "").ok();
}

/// Submits so many standing orders at once; their ids.
fn stand(server: &Server, from: usize, count: usize) -> Vec<String> {
    let orders: Vec<Value> = (from..from + count)
        .map(|number| json!({"type": "standing", "data": {"ref": format!("s-{number}")}}))
        .collect();
    let (status, answer) = server.post("/v1/orders/batch", &json!(orders).to_string());
    assert_eq!(status, 200, "{answer}");
    let items = answer["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["order"]["id"].as_str().unwrap().to_owned())
        .collect()
}

/// Each line of an export is a whole order that agrees with itself, and no order stands in it twice.
fn check_export(text: &str, standing: &BTreeSet<String>) {
    let mut ids = BTreeSet::new();
    for line in text.lines() {
        let order: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let status = order["status"].as_str().unwrap();
        let is_final = ["COMPLETED", "done", "closed"].contains(&status);
        assert_eq!(order["final"], is_final, "{order}");
        assert_eq!(order["work"].is_null(), is_final, "{order}");
        assert!(
            order["version"].as_u64().unwrap() >= 1 && order["data"].is_object(),
            "{order}"
        );
        assert!(ids.insert(order["id"].as_str().unwrap().to_owned()), "twice: {order}");
    }
    let missing: Vec<_> = standing.difference(&ids).collect();
    assert!(missing.is_empty(), "not exported: {missing:?}");
}

/// Makes a store of a backup, and holds it against what had been acknowledged before the backup began.
fn check_backup(directory: &Path, file: &Path, standing: &BTreeSet<String>, cursor: &str, kill: Option<&mut Random>) {
    let restored = tempfile::tempdir().unwrap();
    let data = restored.path().join("comanda-data");
    let args = ["restore", file.to_str().unwrap(), "--data", data.to_str().unwrap()];
    if let Some(random) = kill {
        let mut broken_off = spawn(directory, &args);
        // The moment is the point: there is no signal to wait for.
        std::thread::sleep(Duration::from_millis(random.below(300)));
        broken_off.kill().unwrap();
        broken_off.wait().unwrap();
    }
    // A store that was not made whole is not there, and can be made again.
    if !data.join("comanda.db").exists() {
        run(directory, &args, "").ok();
    }
    verify(directory, &data);
    std::fs::create_dir(restored.path().join("order-types")).unwrap();
    for name in ["laned.toml", "standing.toml"] {
        let path = Path::new("order-types").join(name);
        std::fs::copy(directory.join(&path), restored.path().join(&path)).unwrap();
    }
    let server = Server::start_in(restored.path(), &[]);
    for id in standing {
        let (status, order) = server.get(&format!("/v1/orders/{id}"));
        assert_eq!((status, &order["status"]), (200, &json!("open")), "{order}");
    }
    // The client's own id still leads to the order, and makes no second one.
    let (status, again) = server.post("/v1/orders", r#"{"type":"standing","data":{"ref":"s-0"}}"#);
    assert!(
        status == 409 || standing.contains(again["id"].as_str().unwrap()),
        "{again}"
    );
    let (status, answer) = server.get(&format!("/v1/events?cursor={cursor}"));
    assert_eq!((status, &answer["code"]), (410, &json!("cursor-reset")), "{answer}");
    server.stop();
    verify(directory, &data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_backup_export_and_restore_under_load_and_kills() {
    let number = |name: &str, default: u64| {
        let set = std::env::var(name).ok();
        set.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let rounds = number("OPERATION_ROUNDS", 4);
    let seed = number("OPERATION_SEED", u64::from(std::process::id()));
    println!("OPERATION_SEED={seed}");
    let mut random = Random(seed);
    let directory = tempfile::tempdir().unwrap();
    let home = directory.path();
    add_type(home);
    std::fs::write(home.join("order-types/standing.toml"), STANDING).unwrap();
    let ledger = Ledger::new();
    let mut standing: BTreeSet<String> = BTreeSet::new();
    let mut removed = false;
    for round in 0..rounds {
        let killed = [Killed::Server, Killed::Backup, Killed::Export, Killed::Restore][round as usize % 4];
        println!("round {round}: {killed:?} is killed");
        // Retention begins with the start, on all that the rounds before have left.
        let mut server = start(home);
        ledger.set_urls(vec![server.url.clone()]);
        let clients = ledger.start(CLIENTS);
        ledger.acknowledged_more(150).await;
        if round > 0 {
            removed |= server.wait_for_line("removed orders").contains("removed=");
        }
        standing.extend(stand(&server, standing.len(), 100));
        let (_, page) = server.get("/v1/events?limit=1");
        let cursor = page["nextCursor"].as_str().unwrap().to_owned();

        let file = home.join(format!("backup-{round}.db"));
        let backup_args = ["backup", file.to_str().unwrap(), "--data", "comanda-data"];
        let mut backup = spawn(home, &backup_args);
        let mut export = spawn(home, &["export", "--url", &server.url]);
        let exported = export.stdout.take().unwrap();
        // Read while it is written, so that it is not held up.
        let exported = std::thread::spawn(move || std::io::read_to_string(exported).unwrap());
        let mut server = Some(server);
        if killed != Killed::Restore {
            // The moment is the point of the test: there is no signal to wait for.
            std::thread::sleep(Duration::from_millis(random.below(250)));
        }
        match killed {
            Killed::Server => drop(server.take().map(Server::kill)),
            Killed::Backup => backup.kill().unwrap(),
            Killed::Export => export.kill().unwrap(),
            // Later: what is restored from must be there.
            Killed::Restore => {}
        }
        let backup = end(backup);
        let export = export.wait().unwrap();
        let exported = exported.join().unwrap();
        if matches!(killed, Killed::Backup | Killed::Restore) {
            assert!(export.success(), "the export did not come to its end");
        }
        if export.success() {
            check_export(&exported, &standing);
        }
        ledger.stop(clients).await;
        drop(server.map(Server::stop));
        // A backup reads the files itself: it needs no server, and one that was broken off is not there at all.
        if killed != Killed::Backup {
            assert!(file.exists(), "{backup:?}");
        } else if !file.exists() {
            run(home, &backup_args, "").ok();
        }
        let kill = (killed == Killed::Restore).then_some(&mut random);
        check_backup(home, &file, &standing, &cursor, kill);
        verify(home, &home.join("comanda-data"));
    }
    assert!(removed || rounds < 2, "retention removed nothing");
    let server = Server::start_in(home, &[]);
    for id in &standing {
        let (status, order) = server.get(&format!("/v1/orders/{id}"));
        assert_eq!(status, 200, "{order}");
    }
}
