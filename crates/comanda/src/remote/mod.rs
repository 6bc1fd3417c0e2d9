//! Talks to a running server: one client for all commands that ask or tell one.

mod live;
mod problem;

use std::time::Duration;

use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde_json::Value;

use crate::cli::Global;
use crate::failure::Failure;
use crate::output::Output;

pub use live::LiveEvents;
pub use problem::Problem;

/// What is not encoded in a path: the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// Longer than any answer takes, waits of a minute included.
const ANSWER_WITHIN: Duration = Duration::from_secs(100);
/// How often a request is sent again to a server that is full.
const BUSY_TRIES: u32 = 20;

/// A server somewhere.
#[derive(Clone, Debug)]
pub struct Remote {
    client: Client,
    base: Url,
}

/// What a server answered to a request that it accepted.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body; null if there was none.
    pub body: Value,
}

/// Why a server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The address makes no sense.
    #[error("`{url}` is no address of a server; write one such as http://127.0.0.1:8080")]
    Url {
        /// As it was given.
        url: String,
    },
    /// The API key cannot be sent.
    #[error("the API key has characters that no header can carry")]
    Key,
    /// The client could not be set up.
    #[error("the HTTP client could not be set up")]
    SetUp(#[source] reqwest::Error),
    /// Nobody answers.
    #[error("no server answers at {url}")]
    NoServer {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The connection broke, or the answer took too long: it is not known whether the request was carried out.
    #[error("the answer from {url} was lost")]
    Lost {
        /// Where.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The answer is not what a Comanda server says.
    #[error("{url} answered with {status} and nothing that this program understands: {detail}")]
    Foreign {
        /// Where.
        url: String,
        /// The status.
        status: StatusCode,
        /// What is odd.
        detail: String,
    },
    /// The server said no, and why.
    #[error("{0}")]
    Problem(Box<Problem>),
}

impl RemoteError {
    /// What to do about it.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::NoServer { url, .. } => match Url::parse(url).ok().and_then(|url| url.port_or_known_default()) {
                Some(8080) | None => Some("Start one: comanda serve".to_owned()),
                Some(port) => Some(format!("Start one: comanda serve --listen 127.0.0.1:{port}")),
            },
            Self::Lost { .. } => Some("It may have been carried out: look before you repeat it".to_owned()),
            Self::Foreign { .. } => Some("Is it a Comanda server? See --url".to_owned()),
            Self::Problem(problem) => problem.advice(),
            Self::Url { .. } | Self::Key | Self::SetUp(_) => None,
        }
    }
}

impl Remote {
    /// A client for the server and the key that the command line names.
    pub fn new(global: &Global) -> Result<Self, RemoteError> {
        let url = global.url.trim_end_matches('/');
        let base = Url::parse(url)
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| RemoteError::Url {
                url: global.url.clone(),
            })?;
        let mut headers = HeaderMap::new();
        if let Some(key) = global.api_key.as_deref().filter(|key| !key.is_empty()) {
            let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| RemoteError::Key)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = Client::builder()
            .user_agent(concat!("comanda/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .build()
            .map_err(RemoteError::SetUp)?;
        Ok(Self { client, base })
    }

    /// Where the server is.
    pub fn url(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Asks for something. Parameters that are not there are left out.
    pub async fn get(&self, path: &str, query: &[(&str, Option<String>)]) -> Result<Answer, RemoteError> {
        let request = self.request(Method::GET, path, query)?.timeout(ANSWER_WITHIN);
        self.answer(request).await
    }

    /// Copies a text of any length to the output as it comes.
    pub async fn copy(&self, path: &str, output: &mut Output) -> Result<(), Failure> {
        let request = self.request(Method::GET, path, &[])?;
        let response = request.send().await.map_err(|error| self.lost(error))?;
        let mut response = self.accepted(response).await?;
        while let Some(chunk) = response.chunk().await.map_err(|error| self.lost(error))? {
            output.bytes(&chunk)?;
        }
        Ok(output.flush()?)
    }

    /// Removes something.
    pub async fn delete(&self, path: &str) -> Result<Answer, RemoteError> {
        let request = self.request(Method::DELETE, path, &[])?.timeout(ANSWER_WITHIN);
        self.answer(request).await
    }

    /// Tells something, with headers.
    pub async fn post(
        &self,
        path: &str,
        body: &Value,
        headers: &[(HeaderName, String)],
    ) -> Result<Answer, RemoteError> {
        self.post_text(path, body.to_string(), headers).await
    }

    /// Tells something that may take as long as it likes, as many orders at a bounded pace do.
    pub async fn post_slowly(&self, path: &str, body: &Value) -> Result<Answer, RemoteError> {
        let request = self
            .request(Method::POST, path, &[])?
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body.to_string());
        self.answer(request).await
    }

    /// Tells something that is JSON text already.
    pub async fn post_text(
        &self,
        path: &str,
        body: String,
        headers: &[(HeaderName, String)],
    ) -> Result<Answer, RemoteError> {
        let mut request = self
            .request(Method::POST, path, &[])?
            .timeout(ANSWER_WITHIN)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        self.answer(request).await
    }

    /// As [`Self::post_text`], but when the server is full, waits as long as it asks for and tries again. Only for what
    /// may be sent twice.
    pub async fn post_patiently(
        &self,
        path: &str,
        body: String,
        headers: &[(HeaderName, String)],
    ) -> Result<Answer, RemoteError> {
        let mut tries = 0;
        loop {
            match self.post_text(path, body.clone(), headers).await {
                Err(RemoteError::Problem(problem)) if problem.is_passing() && tries < BUSY_TRIES => {
                    tries += 1;
                    tokio::time::sleep(problem.retry_after.unwrap_or(Duration::from_secs(1))).await;
                }
                answer => return answer,
            }
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, Option<String>)],
    ) -> Result<RequestBuilder, RemoteError> {
        let text = format!("{}{path}", self.url());
        let mut url = Url::parse(&text).map_err(|_| RemoteError::Url { url: text })?;
        let present: Vec<_> = query
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_deref()?)))
            .collect();
        if !present.is_empty() {
            url.query_pairs_mut().extend_pairs(present);
        }
        Ok(self.client.request(method, url))
    }

    async fn answer(&self, request: RequestBuilder) -> Result<Answer, RemoteError> {
        let response = request.send().await.map_err(|error| self.lost(error))?;
        let response = self.accepted(response).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.map_err(|error| self.lost(error))?;
        let body = if body.is_empty() {
            Ok(Value::Null)
        } else {
            serde_json::from_slice(&body)
        };
        let body = body.map_err(|error| self.foreign(status, error.to_string()))?;
        Ok(Answer { status, headers, body })
    }

    /// Passes on an answer that says yes, and makes an error of one that says no.
    async fn accepted(&self, response: Response) -> Result<Response, RemoteError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = retry_after(response.headers());
        let body = response.bytes().await.map_err(|error| self.lost(error))?;
        let value: Value = serde_json::from_slice(&body).map_err(|_| {
            let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
            self.foreign(status, text)
        })?;
        Err(RemoteError::Problem(Box::new(Problem::read(
            status,
            retry_after,
            &value,
        ))))
    }

    fn lost(&self, source: reqwest::Error) -> RemoteError {
        let source = source.without_url();
        let url = self.url().to_owned();
        if source.is_connect() {
            RemoteError::NoServer { url, source }
        } else {
            RemoteError::Lost { url, source }
        }
    }

    fn foreign(&self, status: StatusCode, detail: String) -> RemoteError {
        RemoteError::Foreign {
            url: self.url().to_owned(),
            status,
            detail: crate::output::clean(&detail),
        }
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(300)))
}

/// One segment of a path, encoded, so that an id cannot make another path of it.
pub fn segment(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}
