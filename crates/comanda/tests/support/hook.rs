//! An independent receiver of webhooks, which tells what arrives and whether its signature holds.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use serde_json::Value;

use super::{PATIENCE, lines};

/// What is signed with.
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The receiver's process. It ends with the test.
pub struct Hook {
    child: Child,
    /// Where it listens.
    pub port: u16,
    said: Receiver<String>,
}

impl Hook {
    /// Starts it.
    pub fn start() -> Self {
        let mut child = Command::new("python3")
            .args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/receiver.py"), SECRET])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = lines(child.stdout.take().unwrap());
        let port = said.recv_timeout(PATIENCE).unwrap().trim().parse().unwrap();
        Self { child, port, said }
    }

    /// Waits until all these events have arrived. Each is signed, none is another's, and none comes before an earlier one
    /// of its order.
    pub fn wait_for(&self, expected: &BTreeSet<String>) {
        let mut arrived: BTreeSet<String> = BTreeSet::new();
        let mut newest: BTreeMap<String, u64> = BTreeMap::new();
        while arrived.len() < expected.len() {
            let line = self.said.recv_timeout(PATIENCE).unwrap();
            let delivery: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(delivery["verified"], true, "{delivery}");
            let id = delivery["id"].as_str().unwrap();
            assert!(expected.contains(id), "{id} is nowhere in the store");
            let sequence = delivery["sequence"].as_u64().unwrap();
            let newest = newest
                .entry(delivery["order"].as_str().unwrap().to_owned())
                .or_default();
            assert!(sequence <= *newest + 1, "{id} came before an earlier one of its order");
            *newest = sequence.max(*newest);
            arrived.insert(id.to_owned());
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
