//! A polled feed: messages are read over HTTP, page by page, from a service that the operator names.
//!
//! Where there is a next page (`Link: <…>; rel="next"`, RFC 8288, or a cursor in the answer) it is read at once; else the
//! same page is asked for again after the interval, with its `ETag`, so that one that has not changed costs nothing. The
//! place is written down only after every message before it is settled; what comes again meanwhile has the same ids.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use comanda_store::Store;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LINK};
use http::{HeaderMap, StatusCode};
use reqwest::{Client, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use url::Url;

use crate::message::{Envelope, Message, at, hash, scalar_at};
use crate::progress::Progress;
use crate::source::{BATCH_MAX, Source, SourceError, Taken};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest page, in bytes.
const PAGE_BYTES_MAX: usize = 16 << 20;
/// The most messages of one page.
const PAGE_ITEMS_MAX: usize = 10_000;
/// The longest address and the longest `ETag` that are kept, in bytes.
const URL_BYTES_MAX: usize = 4000;
const ETAG_BYTES_MAX: usize = 1000;

/// Which feed.
#[derive(Clone)]
pub struct FeedOptions {
    /// Where it begins. Any address: only the operator writes it. Redirects are not followed.
    pub url: Url,
    /// Where in a message its id is: a JSON pointer (RFC 6901).
    pub id: String,
    /// Where in an answer the messages are, as a JSON pointer; empty for the whole of it. NDJSON is one message a line.
    pub items: String,
    /// Where in an answer the cursor of the next page is, which is sent as the query parameter `cursor`.
    pub cursor: Option<String>,
    /// How often a feed that has come to its end is asked again.
    pub interval: Duration,
    /// The `Authorization` header, whole.
    pub authorization: Option<String>,
}

impl std::fmt::Debug for FeedOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("FeedOptions");
        shown.field("url", &place(&self.url)).finish_non_exhaustive()
    }
}

/// A polled feed.
pub(crate) struct Feed {
    options: FeedOptions,
    client: Client,
    store: Arc<dyn Store>,
    source: String,
    progress: Option<Progress>,
    position: Position,
    /// Messages of the latest page that are not handed out yet.
    pending: VecDeque<Message>,
    /// Where the feed stands when all of them are settled.
    then: Option<Position>,
    /// Whether there is nothing to be read at once.
    at_end: bool,
}

/// What is asked for next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    /// The feed's beginning when this was written; another one begins anew.
    start: String,
    url: String,
    etag: Option<String>,
}

/// One page.
struct Page {
    messages: VecDeque<Message>,
    then: Position,
}

impl Feed {
    pub(crate) fn new(options: FeedOptions, store: Arc<dyn Store>, source: &str) -> Result<Self, reqwest::Error> {
        let client = Client::builder()
            .user_agent(concat!("comanda/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .timeout(TIMEOUT)
            .build()?;
        Ok(Self {
            position: Position::start(&options.url),
            options,
            client,
            store,
            source: source.to_owned(),
            progress: None,
            pending: VecDeque::new(),
            then: None,
            at_end: false,
        })
    }

    /// Asks for the page at the position; nothing if it has not changed.
    async fn ask(&self) -> Result<Option<Page>, SourceError> {
        let url = Url::parse(&self.position.url).map_err(|error| self.odd(error.to_string()))?;
        let mut request = self.client.get(url.clone());
        request = request.header(ACCEPT, "application/json, application/x-ndjson");
        if let Some(authorization) = &self.options.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if let Some(etag) = &self.position.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let failed = |error: reqwest::Error| SourceError::Request {
            url: place(&url),
            source: error.without_url(),
        };
        let response = request.send().await.map_err(failed)?;
        match response.status() {
            StatusCode::NOT_MODIFIED => return Ok(None),
            StatusCode::OK => {}
            status => return Err(self.odd(status.to_string())),
        }
        let headers = response.headers().clone();
        let body = self.body(response).await?.map_err(failed)?;
        let messages = self.messages(&headers, &body)?;
        let next = self.next(&url, &headers, &body)?;
        // A page that names itself as the next one is the last.
        let then = match next.filter(|next| *next != url) {
            Some(next) => Position {
                url: next.into(),
                etag: None,
                ..self.position.clone()
            },
            None => Position {
                etag: header(&headers, ETAG.as_str())
                    .filter(|etag| etag.len() <= ETAG_BYTES_MAX)
                    .map(str::to_owned),
                ..self.position.clone()
            },
        };
        Ok(Some(Page { messages, then }))
    }

    /// A page's body, held to its bound while it is read.
    async fn body(&self, mut response: Response) -> Result<Result<Bytes, reqwest::Error>, SourceError> {
        let mut body = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= PAGE_BYTES_MAX => body.extend_from_slice(&chunk),
                Ok(Some(_)) => return Err(self.odd(format!("a page larger than {PAGE_BYTES_MAX} bytes"))),
                Ok(None) => return Ok(Ok(body.freeze())),
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    fn messages(&self, headers: &HeaderMap, body: &Bytes) -> Result<VecDeque<Message>, SourceError> {
        let kind = header(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let by_line = matches!(
            kind.as_str(),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl"
        );
        let texts: Vec<&[u8]> = if by_line {
            let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
            lines.filter(|line| !line.is_empty()).collect()
        } else {
            let items = at(body, &self.options.items).map_err(|reason| self.odd(reason))?;
            let items: Vec<&RawValue> = serde_json::from_str(items.get())
                .map_err(|_| self.odd(format!("no list of messages at \"{}\"", self.options.items)))?;
            items.into_iter().map(|item| item.get().as_bytes()).collect()
        };
        if texts.len() > PAGE_ITEMS_MAX {
            return Err(self.odd(format!("more than {PAGE_ITEMS_MAX} messages in a page")));
        }
        let message = |text: &[u8]| {
            // One without an id is known by its content.
            let id = scalar_at(text, &self.options.id).unwrap_or_else(|_| hash(text));
            Message::new(&id, Bytes::copy_from_slice(text), Envelope::Plain)
        };
        Ok(texts.into_iter().map(message).collect())
    }

    /// The address of the next page. It is one of the same server: an answer must not lead the credentials elsewhere.
    fn next(&self, url: &Url, headers: &HeaderMap, body: &[u8]) -> Result<Option<Url>, SourceError> {
        let linked = headers
            .get_all(LINK)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .find_map(next_link);
        let next = match (linked, &self.options.cursor) {
            (Some(target), _) => url.join(&target).map_err(|error| self.odd(error.to_string()))?,
            (None, Some(pointer)) => {
                let Ok(cursor) = scalar_at(body, pointer) else {
                    return Ok(None);
                };
                let mut next = url.clone();
                let others: Vec<(String, String)> = url
                    .query_pairs()
                    .filter(|(name, _)| name != "cursor")
                    .map(|(name, value)| (name.into(), value.into()))
                    .collect();
                next.query_pairs_mut()
                    .clear()
                    .extend_pairs(others)
                    .append_pair("cursor", &cursor);
                next
            }
            (None, None) => return Ok(None),
        };
        if next.origin() != self.options.url.origin() {
            return Err(self.odd(format!("a next page on another server, {}", place(&next))));
        }
        if next.as_str().len() > URL_BYTES_MAX {
            return Err(self.odd("the address of a next page that is too long".to_owned()));
        }
        Ok(Some(next))
    }

    fn odd(&self, detail: String) -> SourceError {
        SourceError::Answer {
            url: place(&self.options.url),
            detail,
        }
    }

    async fn save(&mut self, then: Position) -> Result<(), SourceError> {
        if then != self.position
            && let Some(progress) = &mut self.progress
        {
            progress.save(&then).await?;
            self.position = then;
        }
        Ok(())
    }
}

impl Position {
    fn start(url: &Url) -> Self {
        Self {
            start: url.to_string(),
            url: url.to_string(),
            etag: None,
        }
    }
}

#[async_trait]
impl Source for Feed {
    async fn receive(&mut self) -> Result<Vec<Message>, SourceError> {
        if self.progress.is_none() {
            let (progress, position) = Progress::load::<Position>(self.store.clone(), &self.source).await?;
            let ours = position.filter(|position| position.start == self.options.url.as_str());
            self.position = ours.unwrap_or_else(|| Position::start(&self.options.url));
            self.progress = Some(progress);
        }
        while self.pending.is_empty() {
            if std::mem::take(&mut self.at_end) {
                tokio::time::sleep(self.options.interval).await;
            }
            let Some(Page { messages, then }) = self.ask().await? else {
                self.at_end = true;
                continue;
            };
            // The last page, or an empty one: whoever has nothing more now is not asked again at once.
            self.at_end = then.url == self.position.url || messages.is_empty();
            if messages.is_empty() {
                self.save(then).await?;
            } else {
                self.pending = messages;
                self.then = Some(then);
            }
        }
        // They stay until they are settled: dropping what was handed out loses nothing.
        Ok(self.pending.iter().take(BATCH_MAX).cloned().collect())
    }

    async fn settle(&mut self, taken: &[Taken]) -> Result<(), SourceError> {
        if taken.len() >= self.pending.len()
            && let Some(then) = self.then.clone()
        {
            self.save(then).await?;
            self.then = None;
        }
        self.pending.drain(..taken.len().min(self.pending.len()));
        Ok(())
    }
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// An address without what may be secret in it.
pub(crate) fn place(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.set_fragment(None);
    shown.to_string()
}

/// The target of the link whose relation is `next` (RFC 8288).
pub(crate) fn next_link(value: &str) -> Option<String> {
    let mut rest = value;
    loop {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let end = after.find('<').unwrap_or(after.len());
        let is_next = after[..end].split(';').skip(1).any(|parameter| {
            let Some((name, value)) = parameter.split_once('=') else {
                return false;
            };
            let value = value.trim().trim_end_matches(',').trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel")
                && value.split_whitespace().any(|one| one.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target.to_owned());
        }
        rest = &after[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_link_is_found_among_others() {
        for (value, target) in [
            (r#"</b?x=1,2>; rel="next""#, Some("/b?x=1,2")),
            (r#"<a>; rel=prev, <b>; title="x"; rel="last next""#, Some("b")),
            (r#"<a>; rel=next,<b>; rel=last"#, Some("a")),
            (r#"<a>; rel="nextish""#, None),
            ("a; rel=next", None),
            ("<a", None),
        ] {
            assert_eq!(next_link(value).as_deref(), target, "{value}");
        }
    }
}
