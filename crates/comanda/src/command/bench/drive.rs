//! The load: connections that are kept open, each with one request in flight.
//!
//! Without a rate each connection waits for its answer and sends on (a closed loop). With one, requests have times at
//! which they are due, and what an answer takes is measured from then on, so that a server that stalls cannot hide it
//! by holding up the sender.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{bodies, follow};
use crate::cli::Bench;
use crate::failure::{Failure, chain};
use crate::output::clean;
use crate::remote::Remote;

/// More ids than this are not kept (16 bytes each); the run ends early.
const IDS_MAX: u64 = 50_000_000;
/// Results are gathered in so many places, so that connections hardly wait for each other.
const SHARDS: usize = 16;
/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How often a connection is opened anew before its task gives up.
const RECONNECTS_MAX: u32 = 100;

/// What is sent, and to where.
pub(super) struct Target {
    address: String,
    path: Uri,
    host: HeaderValue,
    key: Option<HeaderValue>,
    /// Sent in turn.
    bodies: Vec<Bytes>,
    sent: AtomicUsize,
    idempotency_keys: bool,
    batch: bool,
    order_type: String,
}

impl Target {
    pub(super) fn new(url: &str, key: Option<&str>, args: &Bench, order: &serde_json::Value) -> Result<Self, Failure> {
        let wrong = |what: String| Failure::Usage(format!("{what} cannot be measured"));
        let parsed: Uri = url.parse().map_err(|_| wrong(url.to_owned()))?;
        let authority = parsed.authority().filter(|_| parsed.scheme_str() == Some("http"));
        let authority = authority.ok_or_else(|| wrong(format!("{url}: only plain http")))?;
        let prefix = parsed.path().trim_end_matches('/');
        let path = match args.batch {
            Some(_) => format!("{prefix}/v1/orders/batch"),
            None => format!("{prefix}/{}", args.order_type),
        };
        let key = key
            .filter(|key| !key.is_empty())
            .map(|key| HeaderValue::try_from(format!("Bearer {key}")));
        Ok(Self {
            address: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)),
            path: path.parse().map_err(|_| wrong(path))?,
            host: HeaderValue::from_str(authority.as_str()).map_err(|_| wrong(url.to_owned()))?,
            key: key
                .transpose()
                .map_err(|_| wrong("an API key with such characters".to_owned()))?,
            bodies: bodies(args, order)?.into_iter().map(Bytes::from).collect(),
            sent: AtomicUsize::new(0),
            idempotency_keys: args.idempotency_keys,
            batch: args.batch.is_some(),
            order_type: args.order_type.clone(),
        })
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::post(self.path.clone())
            .header(HOST, self.host.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key.clone());
        }
        if self.batch {
            // As one who sends many does: what the orders say, the client knows.
            request = request.header("prefer", HeaderValue::from_static("return=minimal"));
        }
        if self.idempotency_keys {
            request = request.header("idempotency-key", format!("\"{}\"", Uuid::now_v7()));
        }
        let body = match &self.bodies[..] {
            [only] => only,
            bodies => &bodies[self.sent.fetch_add(1, Ordering::Relaxed) % bodies.len()],
        };
        request.body(Full::new(body.clone()))
    }
}

/// What came of it.
pub(super) struct Driven {
    /// How long requests were sent, to the last answer.
    pub(super) took: Duration,
    /// The ids of the orders that were accepted, sorted.
    pub(super) ids: Vec<[u8; 16]>,
    /// How long submissions took, in microseconds.
    pub(super) submit: Histogram<u64>,
    /// How long followed orders took to their rest, in microseconds, from the sending on.
    pub(super) followed: Histogram<u64>,
    /// Requests (or items of a batch) that the server turned away because it was full.
    pub(super) turned_away: u64,
    /// Requests that failed in any other way.
    pub(super) failed: u64,
    /// One of those failures.
    pub(super) failure: Option<String>,
}

impl Driven {
    pub(super) fn accepted(&self) -> u64 {
        self.ids.len() as u64
    }
}

struct Shard {
    submit: Histogram<u64>,
    ids: Vec<[u8; 16]>,
}

struct Run {
    target: Arc<Target>,
    shards: Vec<Mutex<Shard>>,
    accepted: AtomicU64,
    turned_away: AtomicU64,
    failed: AtomicU64,
    failure: Mutex<Option<String>>,
    full: AtomicBool,
    began: Instant,
    end: Instant,
    /// The time between two requests of an open loop, over all connections.
    interval: Option<Duration>,
    ticket: AtomicU64,
    sample_every: u64,
    follow: mpsc::Sender<(Uuid, Instant)>,
}

pub(super) async fn run(
    target: Arc<Target>,
    args: &Bench,
    remote: &Remote,
    bar: &ProgressBar,
) -> Result<Driven, Failure> {
    let (follow, follow_me) = mpsc::channel(1024);
    let followers = tokio::spawn(follow::followers(remote.clone(), follow_me, args.settle));
    let per_request = f64::from(args.batch.unwrap_or(1));
    let began = Instant::now();
    let shard = || {
        Ok(Mutex::new(Shard {
            submit: histogram()?,
            ids: Vec::new(),
        }))
    };
    let run = Arc::new(Run {
        target,
        shards: (0..SHARDS).map(|_| shard()).collect::<Result<_, Failure>>()?,
        accepted: AtomicU64::new(0),
        turned_away: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        failure: Mutex::new(None),
        full: AtomicBool::new(false),
        began,
        end: began + args.duration,
        interval: args
            .rate
            .map(|rate| Duration::from_secs_f64(per_request / f64::from(rate))),
        ticket: AtomicU64::new(0),
        sample_every: u64::from(args.sample_every),
        follow,
    });
    let mut connections = JoinSet::new();
    for index in 0..args.connections as usize {
        connections.spawn(connection(run.clone(), index % SHARDS));
    }
    while connections.join_next().await.is_some() {
        bar.set_position(run.accepted.load(Ordering::Relaxed));
    }
    let took = began.elapsed();
    let Some(run) = Arc::into_inner(run) else {
        return Err(Failure::process(
            "the results are still in use",
            "a connection outlived its task",
        ));
    };
    drop(run.follow);
    let (mut submit, mut ids) = (histogram()?, Vec::new());
    for shard in run.shards {
        let shard = shard.into_inner().unwrap_or_else(PoisonError::into_inner);
        submit
            .add(&shard.submit)
            .map_err(|error| Failure::process("the results could not be added up", error))?;
        ids.extend(shard.ids);
    }
    ids.sort_unstable();
    let followed = followers
        .await
        .map_err(|error| Failure::process("following orders failed", error))??;
    Ok(Driven {
        took,
        ids,
        submit,
        followed,
        turned_away: run.turned_away.into_inner(),
        failed: run.failed.into_inner(),
        failure: run.failure.into_inner().unwrap_or_else(PoisonError::into_inner),
    })
}

/// From a microsecond to ten minutes, to three digits.
pub(super) fn histogram() -> Result<Histogram<u64>, Failure> {
    Histogram::new_with_bounds(1, 600_000_000, 3)
        .map_err(|error| Failure::process("a histogram could not be made", error))
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("the connection failed")]
    Connect(#[from] std::io::Error),
    #[error("the request failed")]
    Http(#[from] hyper::Error),
    #[error("the request could not be made")]
    Request(#[from] http::Error),
    #[error("no answer within {} s", ANSWER_WITHIN.as_secs())]
    Slow,
}

async fn connection(run: Arc<Run>, shard: usize) {
    let mut reconnects = 0;
    while let Err(error) = requests(&run, shard).await {
        run.fail(chain(&error));
        reconnects += 1;
        if reconnects > RECONNECTS_MAX || run.is_over(Instant::now()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sends over one connection until the run is over, or the connection breaks.
async fn requests(run: &Run, shard: usize) -> Result<(), SendError> {
    let stream = TcpStream::connect(&run.target.address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    while let Some(due) = run.next_due().await {
        sender.ready().await?;
        let exchange = async {
            let response = sender.send_request(run.target.request()?).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, SendError>((status, body))
        };
        let (status, body) = tokio::time::timeout(ANSWER_WITHIN, exchange)
            .await
            .map_err(|_| SendError::Slow)??;
        run.note(shard, due, status, &body);
    }
    drop(sender);
    // The server may keep the connection open as long as it likes; we are done with it.
    driver.abort();
    Ok(())
}

impl Run {
    fn is_over(&self, now: Instant) -> bool {
        now >= self.end || self.full.load(Ordering::Relaxed)
    }

    /// When the next request is due: at once in a closed loop, at its own time in an open one. `None` when it is over.
    async fn next_due(&self) -> Option<Instant> {
        let due = match self.interval {
            None => Instant::now(),
            Some(interval) => {
                let ticket = self.ticket.fetch_add(1, Ordering::Relaxed);
                self.began + interval.mul_f64(ticket as f64)
            }
        };
        if self.is_over(due) {
            return None;
        }
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        Some(due)
    }

    fn note(&self, shard: usize, due: Instant, status: StatusCode, body: &[u8]) {
        let took = due.elapsed();
        let mut refused = 0;
        let accepted: Vec<Uuid> = if !status.is_success() {
            self.count_refusal(status, body);
            return;
        } else if self.target.batch {
            let Ok(answer) = serde_json::from_slice::<BatchAnswer>(body) else {
                self.fail(format!("an answer that is no batch's: {}", excerpt(body)));
                return;
            };
            refused = answer.items.iter().filter(|item| item.order.is_none()).count() as u64;
            answer
                .items
                .iter()
                .filter_map(|item| item.order.as_ref().map(|order| order.id))
                .collect()
        } else if let Some(id) = first_uuid(body) {
            vec![id]
        } else {
            self.fail(format!("an answer without an id: {}", excerpt(body)));
            return;
        };
        if refused > 0 {
            self.turned_away.fetch_add(refused, Ordering::Relaxed);
        }
        let before = self.accepted.fetch_add(accepted.len() as u64, Ordering::Relaxed);
        if before > IDS_MAX {
            self.full.store(true, Ordering::Relaxed);
        }
        for (offset, id) in accepted.iter().enumerate() {
            if (before + offset as u64).is_multiple_of(self.sample_every) {
                // Followers that cannot keep up miss an order; the check looks at all of them.
                let _ = self.follow.try_send((*id, due));
            }
        }
        let mut shard = self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner);
        shard.submit.saturating_record(micros(took));
        shard.ids.extend(accepted.iter().map(|id| *id.as_bytes()));
    }

    fn count_refusal(&self, status: StatusCode, body: &[u8]) {
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
        } else {
            self.fail(format!(
                "POST /{} answered {status}: {}",
                self.target.order_type,
                excerpt(body)
            ));
        }
    }

    fn fail(&self, what: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(what);
    }
}

#[derive(Deserialize)]
struct BatchAnswer {
    items: Vec<BatchItem>,
}

#[derive(Deserialize)]
struct BatchItem {
    order: Option<BatchOrder>,
}

#[derive(Deserialize)]
struct BatchOrder {
    id: Uuid,
}

fn excerpt(body: &[u8]) -> String {
    clean(&String::from_utf8_lossy(&body[..body.len().min(200)]))
}

/// The first string of a JSON body that is a UUID: a type's own wire form may name the id as it likes.
fn first_uuid(body: &[u8]) -> Option<Uuid> {
    body.split(|byte| *byte == b'"')
        .filter(|part| part.len() == 36)
        .find_map(|part| Uuid::try_parse_ascii(part).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_in_any_wire_form() {
        let id = Uuid::now_v7();
        for body in [
            format!(r#"{{"orderId":"{id}"}}"#),
            format!(r#"{{"message":"ok","order":{{"x":1,"id":"{id}"}}}}"#),
        ] {
            assert_eq!(first_uuid(body.as_bytes()), Some(id));
        }
        assert_eq!(first_uuid(br#"{"id":"x"}"#), None);
    }
}
