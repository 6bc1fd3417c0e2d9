//! The Python worker of `examples/work-order-drain` against the real binary: both are killed while it drains the four
//! queues of `work-order`, and still each queue is seen whole and in order.
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
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use serde_json::Value;
use support::{Home, PATIENCE, Server, lines};

/// The statuses of `work-order`, each with its queue.
const QUEUES: [(&str, &str); 4] = [
    ("recibida", "ordenes-recibidas"),
    ("en proceso", "ordenes-en-proceso"),
    ("completada", "ordenes-completadas"),
    ("cancelada", "ordenes-canceladas"),
];
const ORDERS: usize = 240;
/// Shows the item, unless the worker was killed before it had said which; cannot do one that says so until the file `repaired` is there.
const HANDLER: &str = r#"read -r item || exit 1; printf '%s\n' "$item"
case "$item" in *imposible*) test -e repaired;; esac"#;

/// One place in a queue: the order, and the version of the change that put it in.
type Entry = (String, u64);

/// The worker's process. It ends with the test.
struct Drainer {
    child: Child,
    said: Receiver<String>,
}

impl Drainer {
    fn start(server: &str, home: &Path) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/work-order-drain/drain.py");
        let mut child = Command::new("python3")
            .args([
                script, "--url", server, "--lease", "1", "--retry", "0", "--run", HANDLER,
            ])
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = lines(child.stdout.take().unwrap());
        Self { child, said }
    }

    /// The next items that it shows.
    fn take(&self, count: usize, seen: &mut Seen) {
        for _ in 0..count {
            seen.add(&self.said.recv_timeout(PATIENCE).expect("the worker shows nothing more"));
        }
    }

    /// Ends it at once. What its handler still shows is seen too.
    fn kill(mut self, seen: &mut Seen) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        while let Ok(line) = self.said.recv_timeout(PATIENCE) {
            seen.add(&line);
        }
        seen.kills += 1;
    }
}

impl Drop for Drainer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the handlers were shown, by status, in order.
#[derive(Default)]
struct Seen {
    entries: BTreeMap<String, Vec<(Entry, u64)>>,
    kills: usize,
}

impl Seen {
    fn add(&mut self, line: &str) {
        let item: Value = serde_json::from_str(line).unwrap();
        let order = item["orderId"].as_str().unwrap().to_owned();
        let entry = (
            (order, item["version"].as_u64().unwrap()),
            item["attempt"].as_u64().unwrap(),
        );
        let status = item["status"].as_str().unwrap().to_owned();
        self.entries.entry(status).or_default().push(entry);
    }

    /// How many different items a queue has shown.
    fn different(&self, status: &str) -> usize {
        let mut entries: Vec<&Entry> = self
            .entries
            .get(status)
            .into_iter()
            .flatten()
            .map(|(entry, _)| entry)
            .collect();
        entries.dedup();
        entries.len()
    }

    /// Holds a queue against what was to come: the same items in the same order; one comes again only right away, and as
    /// a later attempt. Answers how many came again.
    fn check(&self, status: &str, expected: &[Entry]) -> usize {
        let shown = &self.entries[status];
        let mut kept: Vec<&Entry> = Vec::new();
        let mut newest = 0;
        for (entry, attempt) in shown {
            if kept.last() == Some(&entry) {
                assert!(
                    *attempt > newest,
                    "{status}: {entry:?} was shown twice in attempt {attempt}"
                );
            } else {
                kept.push(entry);
            }
            newest = *attempt;
        }
        assert_eq!(kept, expected.iter().collect::<Vec<_>>(), "{status}");
        shown.len() - kept.len()
    }
}

fn submit(server: &Server, status: &str, text: &str) -> String {
    let body = format!(
        r#"{{"fecha_entrega":"10/04/2026","descripcion":"{text}","motivo":"no hace falta","estado":"{status}"}}"#
    );
    let (answered, order) = server.post("/work-order", &body);
    assert_eq!(answered, 200, "{order}");
    order["order"]["id"].as_str().unwrap().to_owned()
}

/// What each queue must show: every entry into its status, in commit order, by the feed.
fn entries(server: &Server) -> BTreeMap<String, Vec<Entry>> {
    let mut entries: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    let mut path = "/v1/events?limit=500".to_owned();
    loop {
        let (_, page) = server.get(&path);
        let events = page["items"].as_array().unwrap();
        if events.is_empty() {
            return entries;
        }
        for event in events {
            let order = event["subject"].as_str().unwrap().to_owned();
            let status = event["data"]["to"].as_str().unwrap().to_owned();
            // An order's commits here carry one event each.
            let version = event["sequence"].as_str().unwrap().parse().unwrap();
            entries.entry(status).or_default().push((order, version));
        }
        path = format!("/v1/events?limit=500&cursor={}", page["nextCursor"].as_str().unwrap());
    }
}

/// A port that was free a moment ago: the server comes back to it each time.
fn address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_worker_drains_the_four_queues_in_order_through_kills_of_both() {
    let home = tempfile::tempdir().unwrap();
    let address = address();
    let start = || Server::start_with(Home::Lent(home.path().to_owned()), &["--listen", &address], &[]);
    let mut server = start();
    let mut drainer = Drainer::start(&server.url, home.path());
    let mut seen = Seen::default();
    for number in 0..ORDERS {
        let (status, _) = QUEUES[number % QUEUES.len()];
        let id = submit(&server, status, &format!("orden {number}"));
        // Some go on at once, so that their queues are filled by transitions too.
        if number % QUEUES.len() == 0 {
            let (answered, _, body) = server.http(
                "PATCH",
                &format!("/work-order/{id}"),
                &[("content-type", "application/json")],
                r#"{"estado":"completada"}"#,
            );
            assert_eq!(answered, 200, "{body}");
        }
        if number % 60 == 30 {
            drainer.take(10, &mut seen);
            drainer.kill(&mut seen);
            drainer = Drainer::start(&server.url, home.path());
        }
        if number % 80 == 70 {
            server.kill();
            seen.kills += 1;
            server = start();
        }
    }
    let expected = entries(&server);
    assert_eq!(expected.values().map(Vec::len).sum::<usize>(), ORDERS + ORDERS / 4);
    while QUEUES
        .iter()
        .any(|(status, _)| seen.different(status) < expected[*status].len())
    {
        drainer.take(1, &mut seen);
    }
    let again: usize = QUEUES
        .iter()
        .map(|(status, _)| seen.check(status, &expected[*status]))
        .sum();
    // A kill can leave what each queue's worker held, and no more than that.
    assert!(
        again <= seen.kills * QUEUES.len(),
        "{again} came again after {} kills",
        seen.kills
    );

    // One that cannot be done: after the queue's attempts it is a dead letter, and holds its lane.
    let bad = submit(&server, "cancelada", "imposible");
    let after = submit(&server, "cancelada", "la siguiente");
    drainer.take(5, &mut seen);
    let list = [
        "queues",
        "dead-letters",
        "list",
        "ordenes-canceladas",
        "--output",
        "json",
    ];
    let dead = loop {
        // The fifth attempt was shown; its answer is on the way.
        let listed = server.run(&list, "").ok().json();
        if let Some(dead) = listed["items"].as_array().unwrap().first() {
            break dead.clone();
        }
    };
    assert_eq!(
        (&dead["orderId"], &dead["attempts"]),
        (&bad.clone().into(), &5.into()),
        "{dead}"
    );
    let shown = &seen.entries["cancelada"];
    let tries: Vec<u64> = shown
        .iter()
        .filter(|((order, _), _)| *order == bad)
        .map(|(_, attempt)| *attempt)
        .collect();
    assert_eq!(tries, [1, 2, 3, 4, 5]);
    assert!(
        !shown.iter().any(|((order, _), _)| *order == after),
        "it passed a dead letter of its lane"
    );
    // Mended and put back, it goes first, and the next follows.
    std::fs::write(home.path().join("repaired"), "").unwrap();
    let id = dead["id"].to_string();
    let redriven = server
        .run(&["queues", "dead-letters", "redrive", "ordenes-canceladas", &id], "")
        .ok();
    assert_eq!(redriven.out.trim(), "1 redriven");
    drainer.take(2, &mut seen);
    let last: Vec<&str> = seen.entries["cancelada"]
        .iter()
        .rev()
        .take(2)
        .map(|((order, _), _)| order.as_str())
        .collect();
    assert_eq!(last, [&after, &bad]);
}

#[test]
fn a_worker_can_be_played_by_hand() {
    let server = Server::start(&[]);
    let id = submit(&server, "recibida", "una");
    let ran = |args: &[&str]| server.run(args, "");
    let claimed = ran(&["queues", "claim", "ordenes-recibidas", "--output", "json"])
        .ok()
        .json();
    let item = &claimed["items"][0];
    assert_eq!(item["orderId"], id.as_str());
    let token = item["token"].as_str().unwrap();
    ran(&["queues", "fail", token, "--reason", "no hay correa", "--refuse"]).ok();
    let stale = ran(&["queues", "complete", token]);
    assert_eq!((stale.code, stale.out.trim()), (1, "stale"));
    let listed = ran(&["queues", "dead-letters", "list", "ordenes-recibidas"]).ok();
    assert!(listed.out.contains("no hay correa"), "{}", listed.out);
    let queues = ran(&["queues", "list"]).ok();
    assert!(queues.out.contains("ordenes-recibidas"), "{}", queues.out);
    assert_eq!(
        ran(&["queues", "dead-letters", "redrive", "ordenes-recibidas", "--all"])
            .ok()
            .out
            .trim(),
        "1 redriven"
    );
    assert_eq!(
        ran(&["queues", "dead-letters", "discard", "ordenes-recibidas", "99"]).code,
        1
    );
    let again = ran(&["queues", "claim", "ordenes-recibidas", "--output", "json"])
        .ok()
        .json();
    let token = again["items"][0]["token"].as_str().unwrap();
    assert_eq!(ran(&["queues", "complete", token]).ok().out.trim(), "done");
}
