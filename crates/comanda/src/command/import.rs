//! `comanda import`: many orders from NDJSON, in batches. Running it twice submits them once.
//!
//! Two things see to that. Each batch is sent under an idempotency key made from everything in the file up to its end,
//! so that a batch whose answer was lost is answered with the orders that it made. And how far a file was imported is
//! written down beside it, so that a run long after goes on where the last one ended.

#[cfg(test)]
mod fuzz;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cli::Import;
use crate::failure::Failure;
use crate::output::{Output, cell, progress};
use crate::remote::{Problem, Remote, RemoteError};

/// The most bytes of one batch: well below what a server takes.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// The longest line that is read: no order is longer than 128 KiB of data.
const LINE_BYTES_MAX: usize = 1 << 20;
/// How many rejected lines are listed; more are only counted.
const LISTED_MAX: usize = 100;
/// How often a batch is sent whose answers ask to try again, or get lost.
const TRIES: u32 = 10;

pub(super) async fn run(remote: &Remote, args: Import, output: &mut Output) -> Result<(), Failure> {
    let batch_max = usize::try_from(args.batch).unwrap_or(500);
    let mut input = Input::open(&args.file)?;
    let state_path = (args.file != Path::new("-")).then(|| beside(&args.file, "imported"));
    let skipped = match &state_path {
        Some(path) => skip_imported(&mut input, &args.file, path)?,
        None => 0,
    };
    if skipped > 0 {
        eprintln!("{skipped} lines were imported before; going on after them");
    }
    let bar = progress(input.length, "importing");
    bar.set_position(input.bytes);
    let mut tally = Tally {
        bar,
        listed: Vec::new(),
        accepted: 0,
        rejected: 0,
    };
    while let Some(batch) = input.batch(batch_max, &mut tally)? {
        if !batch.lines.is_empty() {
            send(remote, &batch, &input.key(), &mut tally).await?;
        }
        if let Some(path) = &state_path {
            State {
                lines: input.line,
                sha256: input.key(),
            }
            .write(path)?;
        }
        tally.bar.set_position(input.bytes);
    }
    tally.bar.finish_and_clear();
    let Tally {
        listed,
        accepted,
        rejected,
        ..
    } = tally;
    if output.is_json() {
        output.json(&json!({"accepted": accepted, "rejected": rejected, "skipped": skipped, "faults": listed}))?;
    } else {
        output.line(&format!("{accepted} accepted, {rejected} rejected"))?;
        if rejected > listed.len() as u64 {
            eprintln!("… and {} more", rejected - listed.len() as u64);
        }
    }
    if rejected > 0 { Err(Failure::Reported) } else { Ok(()) }
}

/// What came of the lines so far.
struct Tally {
    bar: ProgressBar,
    listed: Vec<Value>,
    accepted: u64,
    rejected: u64,
}

impl Tally {
    fn reject(&mut self, line: u64, reason: &str) {
        self.rejected += 1;
        if self.listed.len() < LISTED_MAX {
            self.bar.suspend(|| eprintln!("line {line}: {reason}"));
            self.listed.push(json!({"line": line, "reason": reason}));
        }
    }
}

/// A file, read line by line, with the hash of all that was read.
struct Input {
    reader: Box<dyn BufRead>,
    path: PathBuf,
    length: u64,
    bytes: u64,
    line: u64,
    hash: Sha256,
    /// A line that was read and belongs to the next batch.
    ahead: Option<Line>,
}

struct Line {
    bytes: Vec<u8>,
}

/// Lines to send together: their numbers, and their text.
struct Batch {
    lines: Vec<(u64, Box<RawValue>)>,
}

impl Input {
    fn open(path: &Path) -> Result<Self, Failure> {
        let (reader, length): (Box<dyn BufRead>, u64) = if path == Path::new("-") {
            (Box::new(BufReader::new(std::io::stdin())), 0)
        } else {
            let failed = |source| Failure::File {
                path: path.to_owned(),
                act: "read",
                source,
            };
            let file = File::open(path).map_err(failed)?;
            let length = file.metadata().map_err(failed)?.len();
            (Box::new(BufReader::with_capacity(1 << 16, file)), length)
        };
        let path = path.to_owned();
        Ok(Self {
            reader,
            path,
            length,
            bytes: 0,
            line: 0,
            hash: Sha256::new(),
            ahead: None,
        })
    }

    fn next_line(&mut self) -> Result<Option<Line>, Failure> {
        if let Some(line) = self.ahead.take() {
            return Ok(Some(line));
        }
        let mut bytes = Vec::new();
        let failed = |path: &Path, source| Failure::File {
            path: path.to_owned(),
            act: "read",
            source,
        };
        let mut limited = std::io::Read::take(&mut self.reader, LINE_BYTES_MAX as u64);
        limited
            .read_until(b'\n', &mut bytes)
            .map_err(|error| failed(&self.path, error))?;
        if bytes.len() == LINE_BYTES_MAX {
            let text = format!("line {} is longer than {LINE_BYTES_MAX} bytes", self.line + 1);
            return Err(failed(
                &self.path,
                std::io::Error::new(std::io::ErrorKind::InvalidData, text),
            ));
        }
        Ok((!bytes.is_empty()).then_some(Line { bytes }))
    }

    fn consume(&mut self, line: &Line) {
        self.line += 1;
        self.bytes += line.bytes.len() as u64;
        self.hash.update(&line.bytes);
        if line.bytes.last() != Some(&b'\n') {
            // A last line without its end is the same line once something is appended after it.
            self.hash.update(b"\n");
        }
    }

    /// The hash of everything up to here.
    fn key(&self) -> String {
        self.hash
            .clone()
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// The next lines; `None` at the end. Lines that are no JSON objects are rejected here, because one of them would
    /// spoil the whole batch.
    fn batch(&mut self, max: usize, tally: &mut Tally) -> Result<Option<Batch>, Failure> {
        let (mut lines, mut size, mut any) = (Vec::new(), 0, false);
        while lines.len() < max {
            let Some(line) = self.next_line()? else { break };
            if size + line.bytes.len() > BATCH_BYTES_MAX {
                self.ahead = Some(line);
                break;
            }
            any = true;
            size += line.bytes.len();
            self.consume(&line);
            if line.bytes.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice::<Box<RawValue>>(&line.bytes) {
                Ok(raw) if raw.get().starts_with('{') => lines.push((self.line, raw)),
                Ok(_) => tally.reject(self.line, "not a JSON object"),
                Err(error) => tally.reject(self.line, &format!("not JSON: {error}")),
            }
        }
        Ok(any.then_some(Batch { lines }))
    }
}

/// How far a file was imported.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    lines: u64,
    sha256: String,
}

impl State {
    fn read(path: &Path) -> Result<Option<Self>, Failure> {
        match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|source| Failure::Json {
                path: path.display().to_string(),
                source,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Failure::File {
                path: path.to_owned(),
                act: "read",
                source,
            }),
        }
    }

    /// Replaces the file in one go, so that a crash leaves the old one or the new one.
    fn write(&self, path: &Path) -> Result<(), Failure> {
        let text = json!({"lines": self.lines, "sha256": self.sha256}).to_string();
        let new = beside(path, "new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, path))
            .map_err(|source| Failure::File {
                path: path.to_owned(),
                act: "written",
                source,
            })
    }
}

/// Passes over what was imported before. A file that differs in those lines is refused: sending it would submit most of
/// its orders a second time.
fn skip_imported(input: &mut Input, file: &Path, state_path: &Path) -> Result<u64, Failure> {
    let Some(state) = State::read(state_path)? else {
        return Ok(0);
    };
    while input.line < state.lines {
        let Some(line) = input.next_line()? else { break };
        input.consume(&line);
    }
    if input.line == state.lines && input.key() == state.sha256 {
        return Ok(state.lines);
    }
    Err(Failure::Usage(format!(
        "the first {} lines of {} were imported before, and have changed since. Put what is new or mended into a file \
         of its own; or, to submit everything again, remove {}",
        state.lines,
        file.display(),
        state_path.display()
    )))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

/// Sends a batch until each of its orders is accepted or rejected. What was accepted already is answered again under
/// the same key, so the whole batch can be repeated.
async fn send(remote: &Remote, batch: &Batch, key: &str, tally: &mut Tally) -> Result<(), Failure> {
    let texts: Vec<&str> = batch.lines.iter().map(|(_, raw)| raw.get()).collect();
    let body = format!("[{}]", texts.join(","));
    let headers = [(HeaderName::from_static("idempotency-key"), format!("\"import-{key}\""))];
    let mut tries = 0;
    loop {
        tries += 1;
        let answer = match remote.post_patiently("/v1/orders/batch", body.clone(), &headers).await {
            Err(RemoteError::Lost { .. }) if tries < TRIES => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            answer => answer?,
        };
        let items = answer.body["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let passing = |item: &Value| matches!(item["status"].as_u64(), Some(429 | 503));
        if items.iter().any(passing) && tries < TRIES {
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        for (position, (line, _)) in batch.lines.iter().enumerate() {
            let item = items
                .iter()
                .find(|item| item["index"].as_u64() == Some(position as u64));
            match item {
                None => tally.reject(*line, "the server said nothing about it"),
                Some(item) if matches!(item["status"].as_u64(), Some(200..300)) => tally.accepted += 1,
                Some(item) => {
                    let status = item["status"].as_u64().and_then(|status| u16::try_from(status).ok());
                    let status = status
                        .and_then(|status| http::StatusCode::from_u16(status).ok())
                        .unwrap_or_default();
                    let problem = Problem::read(status, None, &item["problem"]);
                    tally.reject(*line, &format!("{} {problem}", cell(&item["status"])));
                }
            }
        }
        return Ok(());
    }
}
