//! The other side of `benches/deliveries/run.sh`: a receiver that does almost nothing, the HTTP client alone, and live streams
//! by the thousand.
//!
//! ```text
//! delivery_load receive PORT COUNT                 takes COUNT webhooks, then tells how fast they came and how late
//! delivery_load post URL CONNECTIONS COUNT BYTES   what the client of the deliveries does without Comanda around it
//! delivery_load streams ADDRESS PATH COUNT EVENTS  holds COUNT streams open ({n} in PATH counts them) until EVENTS have come
//! ```

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use comanda_outbound::{Signer, signature};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// How long each of several streams may be opening at once.
const OPENING_MAX: usize = 64;

/// What came, and how late.
#[derive(Default)]
struct Tally {
    first: Mutex<Option<Instant>>,
    lags_us: Mutex<Vec<u64>>,
    done: Notify,
}

impl Tally {
    /// Counts an event by the time that it carries.
    fn count(&self, event: &[u8], expected: usize) {
        self.first.lock().get_or_insert_with(Instant::now);
        let mut lags = self.lags_us.lock();
        lags.push(lag_us(event).unwrap_or(0));
        if lags.len() == expected {
            self.done.notify_one();
        }
    }

    fn report(&self) -> Value {
        let seconds = self.first.lock().map_or(0.0, |first| first.elapsed().as_secs_f64());
        let mut lags = self.lags_us.lock().clone();
        lags.sort_unstable();
        let at = |share: f64| {
            let index = ((lags.len() as f64 * share) as usize).min(lags.len().saturating_sub(1));
            lags.get(index).map_or(0.0, |lag| *lag as f64 / 1000.0)
        };
        json!({"events": lags.len(), "seconds": seconds, "perSecond": lags.len() as f64 / seconds.max(1e-9),
            "lagP50Ms": at(0.5), "lagP99Ms": at(0.99)})
    }
}

/// How long ago the event was decided.
fn lag_us(event: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(event).ok()?;
    let (_, rest) = text.split_once("\"time\":\"")?;
    let at: Timestamp = rest.split_once('"')?.0.parse().ok()?;
    u64::try_from(Timestamp::now().duration_since(at).as_micros()).ok()
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["receive", port, count] => receive(port.parse()?, count.parse()?).await,
        ["post", url, connections, count, bytes] => {
            post(url, connections.parse()?, count.parse()?, bytes.parse()?).await
        }
        ["streams", address, path, count, events] => streams(address, path, count.parse()?, events.parse()?).await,
        _ => Err("usage: delivery_load receive|post|streams …; see the file's head".into()),
    }
}

fn say(text: &str) {
    println!("{text}");
    // The script waits for the line.
    let _ = std::io::stdout().flush();
}

async fn receive(port: u16, count: usize) -> Result<(), Failed> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    say("ready");
    let tally = Arc::new(Tally::default());
    let accepting = tally.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let tally = accepting.clone();
            tokio::spawn(async move { take(stream, &tally, count).await });
        }
    });
    tally.done.notified().await;
    say(&tally.report().to_string());
    Ok(())
}

/// Takes the requests of one connection.
async fn take(mut stream: TcpStream, tally: &Tally, count: usize) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.split();
    let mut reader = BufReader::new(read);
    let mut line = String::new();
    let mut body = Vec::new();
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if line == "\r\n" {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body).await?;
        write.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
        tally.count(&body, count);
    }
}

async fn post(url: &str, connections: usize, count: usize, bytes: usize) -> Result<(), Failed> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let signer = Arc::new(Signer::from_secret(&Signer::symmetric_secret()?)?);
    let body = format!("{{\"data\":\"{}\"}}", "x".repeat(bytes.saturating_sub(11)));
    let sent = Arc::new(AtomicUsize::new(0));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (client, signer, body, sent, url) = (
            client.clone(),
            signer.clone(),
            body.clone(),
            sent.clone(),
            url.to_owned(),
        );
        tasks.spawn(async move {
            loop {
                let number = sent.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<(), reqwest::Error>(());
                }
                let mut request = client.post(&url).header("content-type", "application/cloudevents+json");
                let now = Timestamp::now().as_second();
                let signers = std::slice::from_ref(&*signer);
                for (name, value) in signature::headers(signers, &number.to_string(), now, body.as_bytes()) {
                    request = request.header(name, value);
                }
                request.body(body.clone()).send().await?.error_for_status()?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    say(&json!({"requests": count, "seconds": seconds, "perSecond": count as f64 / seconds}).to_string());
    Ok(())
}

async fn streams(address: &str, path: &str, count: usize, events: usize) -> Result<(), Failed> {
    let tally = Arc::new(Tally::default());
    let opening = Arc::new(Semaphore::new(OPENING_MAX));
    let open = Arc::new(AtomicUsize::new(0));
    let failed = Arc::new(Mutex::new(None::<String>));
    for n in 0..count {
        let permit = opening.clone().acquire_owned().await?;
        if let Some(error) = failed.lock().take() {
            return Err(format!("stream {n} could not be held: {error}").into());
        }
        let (tally, open, failed) = (tally.clone(), open.clone(), failed.clone());
        let (address, path) = (address.to_owned(), path.replace("{n}", &n.to_string()));
        tokio::spawn(async move {
            if let Err(error) = follow(&address, &path, &tally, events, || {
                open.fetch_add(1, Ordering::Relaxed);
                drop(permit);
            })
            .await
            {
                failed.lock().get_or_insert(error.to_string());
            }
        });
    }
    while open.load(Ordering::Relaxed) < count {
        if let Some(error) = failed.lock().take() {
            return Err(error.into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    say("open");
    if events > 0 {
        tally.done.notified().await;
        say(&tally.report().to_string());
    } else {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Follows one stream to its end.
async fn follow(address: &str, path: &str, tally: &Tally, events: usize, opened: impl FnOnce()) -> Result<(), Failed> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut reader = BufReader::with_capacity(2048, stream);
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).await?;
    if !line.starts_with(b"HTTP/1.1 200") {
        return Err(String::from_utf8_lossy(&line).trim().into());
    }
    opened();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if line.starts_with(b"data:") {
            tally.count(&line, events);
        }
    }
}
