//! Live events: a server-sent event stream that is taken up again where it broke off.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderName};
use reqwest::{Method, Response};
use serde_json::Value;

use super::{Remote, RemoteError};

/// The longest event that is taken, in bytes: far above any that a server sends.
const EVENT_BYTES_MAX: usize = 4 << 20;
/// The stream says something every 15 s; silence three times as long means that the connection is dead.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// How often in a row a stream is opened anew without anything coming of it.
const TRIES_MAX: u32 = 10;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveEvent {
    /// Where to go on after it.
    pub id: Option<String>,
    /// Its kind, if it has one: `reset` says that the cursor was of another time of the store.
    pub name: Option<String>,
    /// What it says.
    pub data: Value,
}

/// A stream of events.
pub struct LiveEvents {
    remote: Remote,
    path: String,
    query: Vec<(&'static str, String)>,
    cursor: Option<String>,
    response: Option<Response>,
    parser: Parser,
    ready: VecDeque<LiveEvent>,
    ended: bool,
    was_open: bool,
    tries: u32,
}

impl LiveEvents {
    /// Opens the stream at a path with a query, after a cursor if one is given.
    pub fn new(remote: Remote, path: String, query: Vec<(&'static str, String)>, cursor: Option<String>) -> Self {
        Self {
            remote,
            path,
            query,
            cursor,
            response: None,
            parser: Parser::default(),
            ready: VecDeque::new(),
            ended: false,
            was_open: false,
            tries: 0,
        }
    }

    /// After the server has ended the stream: lets [`Self::next`] open it again after the last event.
    pub fn reopen(&mut self) {
        self.response = None;
        self.parser = Parser::default();
        self.ended = false;
    }

    /// The next event. `None` when the server ended the stream for good, as it does after an order's last event.
    ///
    /// A broken connection is opened again after the last event. Only when that fails often in a row is it an error, or
    /// when there never was a server.
    pub async fn next(&mut self) -> Result<Option<LiveEvent>, RemoteError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.tries = 0;
                if let Some(id) = &event.id {
                    self.cursor = Some(id.clone());
                }
                return Ok(Some(event));
            }
            if self.ended {
                return Ok(None);
            }
            if let Err(error) = self.read_on().await {
                let passing = match &error {
                    RemoteError::Problem(problem) => problem.is_passing(),
                    RemoteError::NoServer { .. } => self.was_open,
                    other => matches!(other, RemoteError::Lost { .. }),
                };
                self.response = None;
                self.parser = Parser::default();
                self.tries += 1;
                if !passing || self.tries > TRIES_MAX {
                    return Err(error);
                }
                tokio::time::sleep(Duration::from_millis(250) * self.tries).await;
            }
        }
    }

    async fn read_on(&mut self) -> Result<(), RemoteError> {
        let response = match self.response.as_mut() {
            Some(response) => response,
            None => {
                let opened = self.open().await?;
                self.was_open = true;
                self.response.insert(opened)
            }
        };
        let chunk = match tokio::time::timeout(SILENCE_MAX, response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| self.remote.lost(error))?,
            Err(_) => {
                // A dead connection; the next turn opens another.
                self.response = None;
                return Ok(());
            }
        };
        match chunk {
            Some(chunk) => self.parser.feed(&chunk, &mut self.ready),
            None => self.ended = true,
        }
        Ok(())
    }

    async fn open(&self) -> Result<Response, RemoteError> {
        let query: Vec<_> = self
            .query
            .iter()
            .map(|(name, value)| (*name, Some(value.clone())))
            .collect();
        let mut request = self
            .remote
            .request(Method::GET, &self.path, &query)?
            .header(ACCEPT, "text/event-stream");
        if let Some(cursor) = &self.cursor {
            request = request.header(HeaderName::from_static("last-event-id"), cursor);
        }
        let response = request.send().await.map_err(|error| self.remote.lost(error))?;
        self.remote.accepted(response).await
    }
}

/// Cuts a stream into events, as the HTML standard describes it.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    after_return: bool,
    id: Option<String>,
    name: Option<String>,
    data: String,
}

impl Parser {
    fn feed(&mut self, bytes: &[u8], events: &mut VecDeque<LiveEvent>) {
        for byte in bytes {
            let after_return = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                // The second half of a line end whose first half ended the line.
                b'\n' if after_return => {}
                b'\n' | b'\r' => self.end_line(events),
                _ if self.line.len() < EVENT_BYTES_MAX => self.line.push(*byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self, events: &mut VecDeque<LiveEvent>) {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let (id, name) = (self.id.take(), self.name.take());
            if data.is_empty() && name.is_none() {
                return;
            }
            let data = serde_json::from_str(&data).unwrap_or(Value::String(data));
            events.push_back(LiveEvent { id, name, data });
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" if self.data.len() + value.len() < EVENT_BYTES_MAX => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "id" => self.id = Some(value.to_owned()),
            "event" => self.name = Some(value.to_owned()),
            // Comments keep the connection alive; other fields mean nothing to us.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_however_the_bytes_are_cut() {
        let text =
            ": hello\r\n\r\nid: 1-a\r\ndata: {\"n\":\r\ndata: 1}\r\n\r\nevent: reset\ndata: {}\n\nid: 2\rdata: x\r\r";
        for cut in 1..text.len() {
            let mut parser = Parser::default();
            let mut events = VecDeque::new();
            for chunk in text.as_bytes().chunks(cut) {
                parser.feed(chunk, &mut events);
            }
            let read: Vec<_> = events
                .iter()
                .map(|event| (event.id.as_deref(), event.name.as_deref()))
                .collect();
            assert_eq!(
                read,
                [(Some("1-a"), None), (None, Some("reset")), (Some("2"), None)],
                "cut {cut}"
            );
            assert_eq!(events[0].data, serde_json::json!({"n": 1}));
            assert_eq!(events[2].data, Value::from("x"));
        }
    }
}
