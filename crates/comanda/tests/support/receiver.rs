//! A receiver of webhooks in the test's own process: what it answers can be changed at any moment, and it can keep its
//! callers waiting until it is told not to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver as Said, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};

use serde_json::{Value, json};

use super::PATIENCE;

/// One request that arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Its headers, by their names in small letters.
    pub headers: BTreeMap<String, String>,
    /// Its body, as it was sent.
    pub body: String,
    /// Whether it was answered with 2xx, where that was known at once.
    pub taken: bool,
}

impl Arrived {
    /// The event's id.
    pub fn id(&self) -> &str {
        &self.headers["webhook-id"]
    }

    /// The event.
    pub fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Whether it verifies with a secret or a public key, as independent programs see it.
    pub fn verifies(&self, with: &str) -> bool {
        let asked = json!({"secret": with, "headers": self.headers, "body": self.body}).to_string();
        let mut command = if with.starts_with("whpk_") {
            let mut command = Command::new("node");
            command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify_ed25519.js"));
            command
        } else {
            let python = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../tools/standardwebhooks/bin/python");
            assert!(
                python.exists(),
                "standardwebhooks is missing; `cargo xtask test` installs it: {}",
                python.display()
            );
            let mut command = Command::new(python);
            command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/verify_hmac.py"));
            command
        };
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{asked}").unwrap();
        let output = child.wait_with_output().unwrap();
        match String::from_utf8(output.stdout).unwrap().trim() {
            "true" => true,
            "false" => false,
            other => panic!("the verifier said {other:?}"),
        }
    }
}

/// What it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This status.
    Status(u16),
    /// Nothing, until it is to answer something else.
    Hang,
    /// 500 to every so many-th request, and 204 to all others.
    FailEvery(usize),
}

/// The receiver. It listens until the test ends.
pub struct Receiver {
    /// Where it listens.
    pub port: u16,
    answer: Arc<(Mutex<Answer>, Condvar)>,
    arrived: Said<Arrived>,
}

impl Receiver {
    /// Starts one that takes everything.
    pub fn start() -> Self {
        Self::start_at(0)
    }

    /// Starts one at this port.
    pub fn start_at(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = Arc::new((Mutex::new(Answer::Status(204)), Condvar::new()));
        let (told, arrived) = channel();
        let shared = answer.clone();
        let asked = Arc::new(Mutex::new(0));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, asked, told) = (shared.clone(), asked.clone(), told.clone());
                std::thread::spawn(move || serve(&stream, &answer, &asked, &told));
            }
        });
        Self { port, answer, arrived }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Answers this from now on, also to those that wait.
    pub fn answer(&self, answer: Answer) {
        *self.answer.0.lock().unwrap() = answer;
        self.answer.1.notify_all();
    }

    /// The next request.
    #[track_caller]
    pub fn next(&self) -> Arrived {
        self.arrived.recv_timeout(PATIENCE).expect("nothing more arrives")
    }

    /// What has arrived and was not asked for yet.
    pub fn waiting(&self) -> Vec<Arrived> {
        self.arrived.try_iter().collect()
    }

    /// Waits until all of these events have arrived, and nothing else. None may come before an earlier one of its order, if
    /// that one is expected too.
    #[track_caller]
    pub fn wait_for(&self, expected: &BTreeSet<String>) {
        let mut arrived = BTreeSet::new();
        while arrived.len() < expected.len() {
            let next = self.next();
            let id = next.id();
            assert!(expected.contains(id), "{id} is not expected");
            let (order, number) = id.split_once(':').unwrap();
            let number: u64 = number.parse().unwrap();
            let before = (1..number).map(|earlier| format!("{order}:{earlier}"));
            for earlier in before.filter(|earlier| expected.contains(earlier)) {
                assert!(arrived.contains(&earlier), "{id} came before {earlier}");
            }
            arrived.insert(id.to_owned());
        }
    }
}

/// Answers the requests of one connection.
fn serve(stream: &TcpStream, answer: &(Mutex<Answer>, Condvar), asked: &Mutex<usize>, told: &Sender<Arrived>) {
    let mut reader = BufReader::new(stream);
    while let Some(mut arrived) = read(&mut reader) {
        let mut now = answer.0.lock().unwrap();
        let fails = match *now {
            Answer::FailEvery(count) => {
                *asked.lock().unwrap() += 1;
                asked.lock().unwrap().is_multiple_of(count)
            }
            Answer::Status(_) | Answer::Hang => false,
        };
        arrived.taken = !fails && !matches!(*now, Answer::Hang | Answer::Status(300..));
        // A test that has seen enough no longer listens.
        let _ = told.send(arrived);
        let status = loop {
            match *now {
                Answer::Status(status) => break status,
                Answer::FailEvery(_) => break if fails { 500 } else { 204 },
                Answer::Hang => now = answer.1.wait(now).unwrap(),
            }
        };
        drop(now);
        let head = format!("HTTP/1.1 {status} Told\r\ncontent-length: 0\r\n\r\n");
        let mut stream = stream;
        if stream
            .write_all(if status == 204 {
                b"HTTP/1.1 204 Told\r\n\r\n"
            } else {
                head.as_bytes()
            })
            .is_err()
        {
            // Whoever asked has given up.
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Arrived> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length")?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Arrived {
        headers,
        body: String::from_utf8(body).ok()?,
        taken: false,
    })
}
