//! Services that the storefront calls, over real HTTP, of which one call in ten fails: they break, close the connection
//! before or after the effect, hang, or have no room. They keep what receivers are asked to keep: an effect happens once per
//! key, a no is for good, a call whose undo has come is refused, and an undo of nothing is accepted.
//!
//! A *book* (payments, shipments) answers `POST /{book}`, `GET /{book}?key=…`, `POST /{book}/by-key`, which gives up whatever
//! comes under a key, and `POST /{book}/{id}/{act}`, of which `capture` takes and all others give up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::random::Random;

/// How long a call hangs before its connection is closed.
const HANGS: Duration = Duration::from_millis(1500);

/// One entry of a book.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The order that it is for.
    pub order: String,
    /// Whether it stands.
    pub stands: bool,
    /// How often it was taken.
    pub captures: u32,
}

/// What the services have seen.
#[derive(Debug, Default)]
pub struct Books {
    /// By book and id.
    pub entries: BTreeMap<(String, String), Entry>,
    /// What came under which key, by book.
    requests: BTreeMap<(String, String), String>,
    /// Keys that were given up, some before anything came under them.
    given_up: BTreeSet<(String, String)>,
    /// Calls.
    pub calls: u64,
    /// Calls that failed on purpose.
    pub failed: u64,
}

impl Books {
    /// How many entries of a book stand, by order.
    pub fn standing(&self, book: &str) -> BTreeMap<String, u32> {
        let mut standing = BTreeMap::new();
        let all = self
            .entries
            .iter()
            .filter(|((name, _), entry)| name == book && entry.stands);
        for (_, entry) in all {
            *standing.entry(entry.order.clone()).or_default() += 1;
        }
        standing
    }
}

/// Running services.
pub struct Services {
    /// Where they answer.
    pub url: String,
    /// What they have seen.
    pub books: Arc<Mutex<Books>>,
}

impl Services {
    /// Starts services of which one call in ten fails.
    pub async fn start(seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let books: Arc<Mutex<Books>> = Arc::default();
        let random = Arc::new(Mutex::new(Random(seed)));
        let kept = books.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (books, random) = (kept.clone(), random.clone());
                tokio::spawn(async move {
                    // A caller that has gone away is no failure of the service.
                    let _ = answer_all(stream, &books, &random).await;
                });
            }
        });
        Self { url, books }
    }

    /// The part of `comanda.toml` that names them.
    pub fn settings(&self) -> String {
        let url = &self.url;
        format!(
            r#"
[customers]
find = "GET {url}/customers/{{{{ with.customer }}}}"
[payments]
authorize = "POST {url}/payments"
capture = "POST {url}/payments/{{{{ with.payment }}}}/capture"
void = "POST {url}/payments/{{{{ with.payment }}}}/void"
void_by_key = "POST {url}/payments/by-key"
refund = "POST {url}/payments/{{{{ with.payment }}}}/refund"
find = "GET {url}/payments?key={{{{ with.key }}}}"
[shipments]
create = "POST {url}/shipments"
cancel = "POST {url}/shipments/{{{{ with.shipment }}}}/cancel"
cancel_by_key = "POST {url}/shipments/by-key"
find = "GET {url}/shipments?key={{{{ with.key }}}}"
"#
        )
    }
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    HasNoRoom,
    Breaks,
    BreaksAfter,
    Closes,
    ClosesAfter,
    HangsAfter,
}

const FAULTS: [Fault; 6] = [
    Fault::HasNoRoom,
    Fault::Breaks,
    Fault::BreaksAfter,
    Fault::Closes,
    Fault::ClosesAfter,
    Fault::HangsAfter,
];

struct Request {
    method: String,
    path: String,
    body: Value,
}

async fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request {
        method,
        path,
        body: serde_json::from_slice(&body).unwrap_or_default(),
    }))
}

async fn answer_all(stream: TcpStream, books: &Mutex<Books>, random: &Mutex<Random>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await? {
        let fault = {
            let mut random = random.lock().unwrap();
            let strikes = random.below(10) == 0;
            strikes.then(|| FAULTS[usize::try_from(random.below(FAULTS.len() as u64)).unwrap()])
        };
        {
            let mut books = books.lock().unwrap();
            books.calls += 1;
            books.failed += u64::from(fault.is_some());
        }
        match fault {
            Some(Fault::Closes) => return Ok(()),
            Some(Fault::HasNoRoom) => write(&mut stream, 503, &json!({})).await?,
            Some(Fault::Breaks) => write(&mut stream, 500, &json!({})).await?,
            _ => {
                let (status, body) = happens(&mut books.lock().unwrap(), &request);
                match fault {
                    Some(Fault::ClosesAfter) => return Ok(()),
                    Some(Fault::HangsAfter) => {
                        tokio::time::sleep(HANGS).await;
                        return Ok(());
                    }
                    Some(_) => write(&mut stream, 500, &json!({})).await?,
                    None => write(&mut stream, status, &body).await?,
                }
            }
        }
    }
    Ok(())
}

/// What a request does, and how it is answered.
fn happens(books: &mut Books, request: &Request) -> (u16, Value) {
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let text = |name: &str| request.body[name].as_str().unwrap_or_default().to_owned();
    match (request.method.as_str(), parts.as_slice()) {
        ("GET", ["customers", id]) => (200, json!({"id": id, "name": "Ada"})),
        ("GET", [book]) => {
            let key = query.strip_prefix("key=").unwrap_or_default().replace("%3A", ":");
            match books.requests.get(&((*book).to_owned(), key)) {
                Some(id) => (200, entry_as_json(id)),
                None => (404, json!({})),
            }
        }
        ("POST", [book]) => {
            let key = ((*book).to_owned(), text("key"));
            if books.given_up.contains(&key) {
                return (409, json!({"detail": "it was given up"}));
            }
            if request.body["source"] == "decline" {
                return (402, json!({"detail": "declined"}));
            }
            let next = format!("{book}-{}", books.requests.len() + 1);
            let id = books.requests.entry(key).or_insert(next).clone();
            let entry = Entry {
                order: text("order"),
                stands: true,
                captures: 0,
            };
            books.entries.entry(((*book).to_owned(), id.clone())).or_insert(entry);
            (200, entry_as_json(&id))
        }
        ("POST", [book, "by-key"]) => {
            let key = ((*book).to_owned(), text("undoes"));
            if let Some(id) = books.requests.get(&key).cloned() {
                give_up(books, book, &id);
            }
            books.given_up.insert(key);
            (200, json!({}))
        }
        ("POST", [book, id, act]) => {
            let key = ((*book).to_owned(), text("key"));
            if *act == "capture" {
                if books.given_up.contains(&key) {
                    return (409, json!({"detail": "it was given up"}));
                }
                let is_new = !books.requests.contains_key(&key);
                let Some(entry) = books.entries.get_mut(&((*book).to_owned(), (*id).to_owned())) else {
                    return (409, json!({"detail": "there is none"}));
                };
                if !entry.stands {
                    return (409, json!({"detail": "it was given up"}));
                }
                entry.captures += u32::from(is_new);
                books.requests.insert(key, (*id).to_owned());
            } else {
                books.given_up.insert(((*book).to_owned(), text("undoes")));
                give_up(books, book, id);
            }
            (200, entry_as_json(id))
        }
        _ => (404, json!({})),
    }
}

fn entry_as_json(id: &str) -> Value {
    json!({"id": id, "carrier": "Pigeon", "trackingNumber": format!("T-{id}")})
}

fn give_up(books: &mut Books, book: &str, id: &str) {
    if let Some(entry) = books.entries.get_mut(&(book.to_owned(), id.to_owned())) {
        entry.stands = false;
    }
}

async fn write(stream: &mut BufReader<TcpStream>, status: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let answer = format!(
        "HTTP/1.1 {status} .\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.get_mut().write_all(answer.as_bytes()).await
}
