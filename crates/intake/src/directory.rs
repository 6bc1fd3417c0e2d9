//! A watched directory: files of one message a line (NDJSON), taken in the order of their names.
//!
//! A file is taken once it is there under a name that ends in `.ndjson` or `.jsonl`, so it must be finished by then:
//! written elsewhere on the same file system, or under another name, and renamed. How far it was read is written down
//! after each batch is settled; a process that is killed goes on in the middle of the file. A line's id is the file's
//! content and the line's number, unless the settings name one in the message: the same file twice makes no order twice.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use comanda_store::Store;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader};

use crate::message::{Envelope, Message, hexadecimal, scalar_at};
use crate::progress::Progress;
use crate::source::{BATCH_MAX, Source, SourceError, Taken};

/// The longest line that is read whole, in bytes; of a longer one this is the beginning, and it is rejected.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// The most bytes of lines that are handed out at once.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How often the directory is looked at.
const EVERY: Duration = Duration::from_millis(500);

/// Which directory.
#[derive(Clone, Debug)]
pub struct DirectoryOptions {
    /// The directory. It is made if it is not there, and so are `done` and `rejected` in it.
    pub path: PathBuf,
    /// Where in a message its id is: a JSON pointer. `None` takes the file's content and the line's number.
    pub id: Option<String>,
}

/// A watched directory.
pub(crate) struct Directory {
    options: DirectoryOptions,
    store: Arc<dyn Store>,
    source: String,
    progress: Option<Progress>,
    /// How far the latest file was settled.
    position: Option<Position>,
    current: Option<Open>,
}

/// How far a file was settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Position {
    file: String,
    /// The SHA-256 of its content.
    hash: String,
    /// In bytes.
    offset: u64,
    /// How many lines that is.
    line: u64,
    /// How long the files of rejected lines and of reasons are by then, in bytes.
    rejected: u64,
    reasons: u64,
}

/// The file that is being read.
struct Open {
    reader: BufReader<File>,
    /// As it is when what was handed out is settled.
    then: Position,
    /// The lines that were handed out: their numbers and their text.
    lines: Vec<(u64, Vec<u8>)>,
}

impl Directory {
    pub(crate) fn new(options: DirectoryOptions, store: Arc<dyn Store>, source: &str) -> Self {
        Self {
            options,
            store,
            source: source.to_owned(),
            progress: None,
            position: None,
            current: None,
        }
    }

    /// Makes the directories and reads how far it has come, the first time.
    async fn set_up(&mut self) -> Result<(), SourceError> {
        if self.progress.is_some() {
            return Ok(());
        }
        for path in [self.options.path.join("done"), self.options.path.join("rejected")] {
            fs::create_dir_all(&path)
                .await
                .map_err(|source| file(&path, "made", source))?;
        }
        let (progress, position) = Progress::load(self.store.clone(), &self.source).await?;
        self.progress = Some(progress);
        self.position = position;
        Ok(())
    }

    /// The first file that waits, by its name.
    async fn next(&self) -> Result<Option<String>, SourceError> {
        let directory = &self.options.path;
        let failed = |source| file(directory, "read", source);
        let mut entries = fs::read_dir(directory).await.map_err(failed)?;
        let mut first: Option<String> = None;
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let is_ours = !name.starts_with('.') && (name.ends_with(".ndjson") || name.ends_with(".jsonl"));
            // A link could lead anywhere; what is no file cannot be read.
            let is_file = entry.file_type().await.is_ok_and(|kind| kind.is_file());
            if is_ours && is_file && first.as_ref().is_none_or(|first| name < *first) {
                first = Some(name);
            }
        }
        Ok(first)
    }

    /// Opens a file, at the place where it was left.
    async fn open(&self, name: String) -> Result<Open, SourceError> {
        let path = self.options.path.join(&name);
        let failed = |source| file(&path, "read", source);
        let mut opened = File::open(&path).await.map_err(failed)?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = opened.read(&mut buffer).await.map_err(failed)?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
        }
        let hash = hexadecimal(&digest.finalize());
        let left = self
            .position
            .as_ref()
            .filter(|left| left.file == name && left.hash == hash);
        let then = left.cloned().unwrap_or(Position {
            file: name,
            hash,
            offset: 0,
            line: 0,
            rejected: 0,
            reasons: 0,
        });
        opened.seek(SeekFrom::Start(then.offset)).await.map_err(failed)?;
        Ok(Open {
            reader: BufReader::new(opened),
            then,
            lines: Vec::new(),
        })
    }

    fn message(&self, open: &Open, number: u64, text: &[u8]) -> Message {
        let by_place = || format!("{}:{number}", &open.then.hash[..32]);
        // One without the id that is asked for is rejected for what else is wrong with it, or taken by its place.
        let id = self
            .options
            .id
            .as_ref()
            .and_then(|pointer| scalar_at(text, pointer).ok());
        Message::new(
            &id.unwrap_or_else(by_place),
            Bytes::copy_from_slice(text),
            Envelope::Plain,
        )
    }

    /// Moves a file that was read to its end.
    async fn finish(&self, open: &Open) -> Result<(), SourceError> {
        let name = &open.then.file;
        let path = self.options.path.join(name);
        let mut to = self.options.path.join("done").join(name);
        if fs::try_exists(&to).await.map_err(|source| file(&to, "read", source))? {
            to = self
                .options
                .path
                .join("done")
                .join(format!("{}.{name}", &open.then.hash[..12]));
        }
        fs::rename(&path, &to)
            .await
            .map_err(|source| file(&path, "moved", source))
    }
}

impl Open {
    /// Reads the next lines.
    async fn read(&mut self, path: &Path) -> Result<(), SourceError> {
        let failed = |source| file(path, "read", source);
        let mut bytes = 0;
        while self.lines.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            let mut text = Vec::new();
            let mut limited = (&mut self.reader).take(LINE_BYTES_MAX + 1);
            let read = limited.read_until(b'\n', &mut text).await.map_err(failed)?;
            if read == 0 {
                break;
            }
            self.then.offset += read as u64;
            self.then.line += 1;
            if read as u64 > LINE_BYTES_MAX && !text.ends_with(b"\n") {
                self.then.offset += self.skip_line().await.map_err(failed)?;
            }
            let line = text.trim_ascii();
            if !line.is_empty() {
                bytes += line.len();
                self.lines.push((self.then.line, line.to_vec()));
            }
        }
        Ok(())
    }

    /// Passes over the rest of a line. Answers how long it was.
    async fn skip_line(&mut self) -> std::io::Result<u64> {
        let mut skipped = 0;
        loop {
            let buffer = self.reader.fill_buf().await?;
            if buffer.is_empty() {
                return Ok(skipped);
            }
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(buffer.len(), |end| end + 1);
            self.reader.consume(length);
            skipped += length as u64;
            if end.is_some() {
                return Ok(skipped);
            }
        }
    }
}

#[async_trait]
impl Source for Directory {
    async fn receive(&mut self) -> Result<Vec<Message>, SourceError> {
        self.set_up().await?;
        loop {
            if self.current.is_none() {
                match self.next().await? {
                    Some(name) => self.current = Some(self.open(name).await?),
                    None => {
                        tokio::time::sleep(EVERY).await;
                        continue;
                    }
                }
            }
            let Some(mut open) = self.current.take() else { continue };
            let path = self.options.path.join(&open.then.file);
            // What fails is opened anew, at the place that was settled last.
            open.read(&path).await?;
            if open.lines.is_empty() {
                self.finish(&open).await?;
                continue;
            }
            let messages = open
                .lines
                .iter()
                .map(|(number, text)| self.message(&open, *number, text));
            let messages = messages.collect();
            self.current = Some(open);
            return Ok(messages);
        }
    }

    async fn settle(&mut self, taken: &[Taken]) -> Result<(), SourceError> {
        let (Some(open), Some(progress)) = (&mut self.current, &mut self.progress) else {
            return Ok(());
        };
        // From where it was settled last: what an interrupted try has written is written over.
        let before = self
            .position
            .as_ref()
            .filter(|left| left.file == open.then.file && left.hash == open.then.hash);
        let (mut rejected, mut reasons) = (Vec::new(), Vec::new());
        for ((number, text), taken) in open.lines.iter().zip(taken) {
            if let Taken::Rejected(reason) = taken {
                rejected.extend_from_slice(text);
                rejected.push(b'\n');
                reasons.extend_from_slice(json!({"line": number, "reason": reason}).to_string().as_bytes());
                reasons.push(b'\n');
            }
        }
        let directory = self.options.path.join("rejected");
        let (at, at_reasons) = before.map_or((0, 0), |before| (before.rejected, before.reasons));
        let name = &open.then.file;
        let mut then = open.then.clone();
        then.rejected = append(&directory.join(name), at, &rejected).await?;
        then.reasons = append(&directory.join(format!("{name}.reasons")), at_reasons, &reasons).await?;
        progress.save(&then).await?;
        open.lines.clear();
        open.then = then.clone();
        self.position = Some(then);
        Ok(())
    }
}

/// Appends to a file that is to be so long before. Answers how long it is then. Durable when it answers.
async fn append(path: &Path, length: u64, bytes: &[u8]) -> Result<u64, SourceError> {
    if bytes.is_empty() {
        return Ok(length);
    }
    let failed = |source| file(path, "written", source);
    let mut options = OpenOptions::new();
    let mut opened = options
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .await
        .map_err(failed)?;
    opened.set_len(length).await.map_err(failed)?;
    opened.seek(SeekFrom::Start(length)).await.map_err(failed)?;
    opened.write_all(bytes).await.map_err(failed)?;
    opened.sync_all().await.map_err(failed)?;
    Ok(length + bytes.len() as u64)
}

fn file(path: &Path, act: &'static str, source: std::io::Error) -> SourceError {
    SourceError::File {
        path: path.display().to_string(),
        act,
        source,
    }
}
