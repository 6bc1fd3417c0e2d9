//! The services of a shop, each a small HTTP server of its own: customers, stock, payments and a carrier. They honour keys,
//! refuse a request after its undo, accept an undo of nothing, and count what they did. A test tells them how to take the next
//! request of an act: each order is a *case*, named by its customer, and every URL carries it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::PATIENCE;

/// What an order asks of the services, in the order in which it does.
pub const FORWARD: [&str; 6] = ["look-up", "reserve", "authorize", "ship", "label", "capture"];
/// What takes it back.
pub const BACKWARD: [&str; 4] = ["refund", "cancel-label", "release", "void"];
/// How many of the one SKU there are.
pub const STOCK: i64 = 1000;

/// How a service takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// It refuses.
    Refuses,
    /// It does nothing and answers 500, until it is healed.
    Fails,
    /// It does what is asked, answers 500, and cannot say what has become of it, until it is healed.
    ActsAndFails,
    /// It does what is asked, and the first answer never comes.
    ActsInSilence,
    /// It does what is asked twice over, and answers twice.
    AnswersTwice,
    /// It ends, and does nothing until it is started again.
    Dies,
    /// It does nothing and does not answer: the test is told.
    HoldsBefore,
    /// It does what is asked and does not answer: the test is told.
    HoldsAfter,
}

/// What the services have done.
#[derive(Default)]
struct Books {
    plans: BTreeMap<(String, String), Moment>,
    /// Holds by their ids: the order, the quantity, and how they stand.
    holds: BTreeMap<String, Entry>,
    payments: BTreeMap<String, Entry>,
    shipments: BTreeMap<String, Entry>,
    /// Keys that were taken back before they came.
    refused: BTreeSet<String>,
    /// Requests that took money: how often for each payment.
    charges: BTreeMap<String, u32>,
}

/// Something that a service has made under a key.
#[derive(Clone, Debug)]
pub struct Entry {
    pub order: String,
    pub state: &'static str,
    key: String,
    quantity: i64,
}

/// All four.
pub struct Shop {
    customers: Service,
    stock: Service,
    payments: Service,
    carrier: Service,
    books: Arc<Mutex<Books>>,
    held: Receiver<String>,
}

impl Shop {
    /// Starts the services.
    pub fn open() -> Self {
        let books: Arc<Mutex<Books>> = Arc::default();
        let (tell, held) = channel();
        let service = |acts: fn(&mut Books, &Asked) -> Reply| {
            let (books, tell) = (books.clone(), tell.clone());
            Service::start(Arc::new(move |asked| take(&books, &tell, &asked, acts)))
        };
        Self {
            customers: service(look_up),
            stock: service(keep_stock),
            payments: service(take_payment),
            carrier: service(carry),
            books,
            held,
        }
    }

    /// The settings that name the services.
    pub fn settings(&self) -> String {
        let [customers, stock, payments, carrier] = [&self.customers, &self.stock, &self.payments, &self.carrier]
            .map(|service| format!("http://127.0.0.1:{}", service.port));
        let case = "case={{ data.userId }}";
        format!(
            r#"
[customers]
find = "GET {customers}/look-up?{case}"
[inventory]
reserve = "POST {stock}/reserve?{case}"
ship = "POST {stock}/ship?{case}&id={{{{ with.hold }}}}"
release = "POST {stock}/release?{case}&id={{{{ with.hold }}}}"
release_by_key = "POST {stock}/release?{case}"
find = "GET {stock}/find?act=reserve&key={{{{ with.key }}}}&{case}"
[payments]
authorize = "POST {payments}/authorize?{case}"
capture = "POST {payments}/capture?{case}&id={{{{ with.payment }}}}"
void = "POST {payments}/void?{case}&id={{{{ with.payment }}}}"
void_by_key = "POST {payments}/void?{case}"
refund = "POST {payments}/refund?{case}&id={{{{ with.payment }}}}"
find = "GET {payments}/find?act=authorize&key={{{{ with.key }}}}&{case}"
[shipments]
create = "POST {carrier}/label?{case}"
cancel = "POST {carrier}/cancel-label?{case}&id={{{{ with.shipment }}}}"
cancel_by_key = "POST {carrier}/cancel-label?{case}"
find = "GET {carrier}/find?act=label&key={{{{ with.key }}}}&{case}"
"#
        )
    }

    /// Says how the next request of an act is taken, of the order of this case.
    pub fn plan(&self, case: &str, act: &str, moment: Moment) {
        let plans = &mut self.books.lock().unwrap().plans;
        plans.insert((case.to_owned(), act.to_owned()), moment);
    }

    /// Lets all acts of a case go well from now on.
    pub fn heal(&self, case: &str) {
        self.books
            .lock()
            .unwrap()
            .plans
            .retain(|(planned, _), _| planned != case);
    }

    /// Waits until a request of the case is held, or its service has died.
    pub fn wait_until_met(&self, case: &str) {
        while self.held.recv_timeout(PATIENCE).unwrap() != case {}
    }

    /// Starts the service of an act again.
    pub fn revive(&mut self, act: &str) {
        let service = match act {
            "look-up" => &mut self.customers,
            "reserve" | "ship" | "release" => &mut self.stock,
            "label" | "cancel-label" => &mut self.carrier,
            _ => &mut self.payments,
        };
        service.revive();
    }

    /// What stands of an order: the states of its holds, payments and shipments that are not taken back.
    pub fn standing(&self, order: &str) -> [Vec<&'static str>; 3] {
        let books = self.books.lock().unwrap();
        [&books.holds, &books.payments, &books.shipments].map(|book| {
            let of_order = book.values().filter(|entry| entry.order == order);
            let states = of_order.map(|entry| entry.state);
            states.filter(|state| *state != "taken back").collect()
        })
    }

    /// The orders that anything was ever done for.
    pub fn orders(&self) -> BTreeSet<String> {
        let books = self.books.lock().unwrap();
        let entries = [&books.holds, &books.payments, &books.shipments];
        let orders = entries.into_iter().flat_map(|book| book.values());
        orders.map(|entry| entry.order.clone()).collect()
    }

    /// What is on hand, and what has left; no payment was charged twice.
    pub fn stock(&self) -> (i64, i64) {
        let books = self.books.lock().unwrap();
        assert!(books.charges.values().all(|times| *times == 1), "{:?}", books.charges);
        let of = |wanted: &str| {
            let holds = books.holds.values().filter(|hold| hold.state == wanted);
            holds.map(|hold| hold.quantity).sum::<i64>()
        };
        (STOCK - of("held") - of("shipped"), of("shipped"))
    }
}

/// A request, taken apart.
struct Asked {
    act: String,
    query: BTreeMap<String, String>,
    body: Value,
}

impl Asked {
    fn of(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    fn told(&self, name: &str) -> &str {
        self.body[name].as_str().unwrap_or_default()
    }
}

enum Reply {
    Json(u16, Value),
    Twice(u16, Value),
    /// Nothing, until whoever asked gives up.
    Silence,
    /// The service ends.
    Death,
}

fn take(
    books: &Mutex<Books>,
    tell: &Sender<String>,
    asked: &Asked,
    acts: impl Fn(&mut Books, &Asked) -> Reply,
) -> Reply {
    let mut books = books.lock().unwrap();
    let case = asked.of("case").to_owned();
    let act = if asked.act == "find" {
        asked.of("act")
    } else {
        &asked.act
    };
    let plan = (case.clone(), act.to_owned());
    let moment = books.plans.get(&plan).copied();
    if asked.act == "find" {
        return match moment {
            Some(Moment::ActsAndFails) => Reply::Json(500, Value::Null),
            _ => find(&books, act, asked.of("key")),
        };
    }
    if !matches!(moment, Some(Moment::Refuses | Moment::Fails | Moment::ActsAndFails)) {
        books.plans.remove(&plan);
    }
    // Nobody may be waiting for it.
    let met = || drop(tell.send(case.clone()));
    match moment {
        None => acts(&mut books, asked),
        Some(Moment::Refuses) => Reply::Json(422, json!({"reason": "no"})),
        Some(Moment::Fails) => Reply::Json(500, Value::Null),
        Some(Moment::ActsAndFails) => {
            acts(&mut books, asked);
            Reply::Json(500, Value::Null)
        }
        Some(Moment::ActsInSilence) => {
            acts(&mut books, asked);
            Reply::Silence
        }
        Some(Moment::AnswersTwice) => {
            acts(&mut books, asked);
            match acts(&mut books, asked) {
                Reply::Json(status, body) => Reply::Twice(status, body),
                other => other,
            }
        }
        Some(Moment::Dies) => {
            met();
            Reply::Death
        }
        Some(Moment::HoldsBefore) => {
            met();
            Reply::Silence
        }
        Some(Moment::HoldsAfter) => {
            acts(&mut books, asked);
            met();
            Reply::Silence
        }
    }
}

fn find(books: &Books, act: &str, key: &str) -> Reply {
    let book = match act {
        "reserve" => &books.holds,
        "authorize" => &books.payments,
        _ => &books.shipments,
    };
    match book.iter().find(|(_, entry)| entry.key == key) {
        Some((_, entry)) if entry.state == "taken back" => Reply::Json(409, json!({"reason": "taken back before"})),
        Some((id, _)) => Reply::Json(200, described(id)),
        None => Reply::Json(404, Value::Null),
    }
}

/// What every service says of what it has made; each reads its own part.
fn described(id: &str) -> Value {
    json!({"id": id, "total": "14.90", "currency": "EUR", "carrier": "Carrier", "trackingNumber": format!("T-{id}")})
}

/// Makes something once under its key, unless the key was taken back.
fn make(refused: &BTreeSet<String>, book: &mut BTreeMap<String, Entry>, asked: &Asked, state: &'static str) -> Reply {
    let key = asked.told("key");
    if refused.contains(key) {
        return Reply::Json(409, json!({"reason": "taken back before"}));
    }
    if let Some((id, entry)) = book.iter().find(|(_, entry)| entry.key == key) {
        return match entry.state {
            "taken back" => Reply::Json(409, json!({"reason": "taken back before"})),
            _ => Reply::Json(200, described(id)),
        };
    }
    let id = format!("{}-{}", asked.act, book.len() + 1);
    let quantity = asked.body["lines"][0]["quantity"].as_i64().unwrap_or_default();
    let entry = Entry {
        order: asked.told("order").to_owned(),
        state,
        key: key.to_owned(),
        quantity,
    };
    book.insert(id.clone(), entry);
    Reply::Json(200, described(&id))
}

/// Takes back what stands under an id, or under the key that is undone; accepts an undo of nothing, and remembers its key.
fn take_back(refused: &mut BTreeSet<String>, book: &mut BTreeMap<String, Entry>, asked: &Asked) -> Reply {
    let undoes = asked.told("undoes");
    if !undoes.is_empty() {
        refused.insert(undoes.to_owned());
    }
    let found = book
        .iter_mut()
        .find(|(id, entry)| *id == asked.of("id") || entry.key == undoes);
    if let Some((_, entry)) = found {
        entry.state = "taken back";
    }
    Reply::Json(200, json!({"state": "taken back"}))
}

/// Takes something from one state to the next.
fn advance(
    refused: &BTreeSet<String>,
    book: &mut BTreeMap<String, Entry>,
    asked: &Asked,
    from: &str,
    to: &'static str,
) -> (Reply, bool) {
    let no = |reason: &str| (Reply::Json(409, json!({"reason": reason})), false);
    if refused.contains(asked.told("key")) {
        return no("taken back before");
    }
    match book.get_mut(asked.of("id")) {
        Some(entry) if entry.state == to => (Reply::Json(200, described(asked.of("id"))), false),
        Some(entry) if entry.state == from => {
            entry.state = to;
            (Reply::Json(200, described(asked.of("id"))), true)
        }
        _ => no("it does not stand"),
    }
}

fn look_up(_: &mut Books, asked: &Asked) -> Reply {
    Reply::Json(200, json!({"id": asked.of("case"), "name": "Ada"}))
}

fn keep_stock(books: &mut Books, asked: &Asked) -> Reply {
    match asked.act.as_str() {
        "reserve" => make(&books.refused, &mut books.holds, asked, "held"),
        "ship" => advance(&books.refused, &mut books.holds, asked, "held", "shipped").0,
        _ => take_back(&mut books.refused, &mut books.holds, asked),
    }
}

fn take_payment(books: &mut Books, asked: &Asked) -> Reply {
    match asked.act.as_str() {
        "authorize" => make(&books.refused, &mut books.payments, asked, "authorized"),
        "capture" => {
            let (reply, charged) = advance(&books.refused, &mut books.payments, asked, "authorized", "captured");
            if charged {
                *books.charges.entry(asked.of("id").to_owned()).or_default() += 1;
            }
            reply
        }
        _ => take_back(&mut books.refused, &mut books.payments, asked),
    }
}

fn carry(books: &mut Books, asked: &Asked) -> Reply {
    match asked.act.as_str() {
        "label" => make(&books.refused, &mut books.shipments, asked, "made"),
        _ => take_back(&mut books.refused, &mut books.shipments, asked),
    }
}

type Handler = Arc<dyn Fn(Asked) -> Reply + Send + Sync>;

/// One server, which can end and be started again at the same address.
struct Service {
    port: u16,
    handler: Handler,
}

impl Service {
    fn start(handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listen(listener, handler.clone());
        Self { port, handler }
    }

    fn revive(&mut self) {
        // What died may take a moment to give its address up.
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", self.port)) {
                Ok(listener) => break listener,
                Err(_) => std::thread::yield_now(),
            }
        };
        listen(listener, self.handler.clone());
    }
}

fn listen(listener: TcpListener, handler: Handler) {
    let ended = Arc::new(AtomicBool::new(false));
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if ended.load(Ordering::SeqCst) {
                return;
            }
            let (Ok(stream), handler, ended) = (stream, handler.clone(), ended.clone()) else {
                continue;
            };
            std::thread::spawn(move || {
                if answer(stream, &handler) {
                    ended.store(true, Ordering::SeqCst);
                    // Wakes the listener, so that it ends.
                    let _ = TcpStream::connect(("127.0.0.1", port));
                }
            });
        }
    });
}

/// Answers one request. Whether the service is to end.
fn answer(stream: TcpStream, handler: &Handler) -> bool {
    let mut reader = BufReader::new(&stream);
    let Some(asked) = read(&mut reader) else { return false };
    let (status, body, times) = match handler(asked) {
        Reply::Json(status, body) => (status, body, 1),
        Reply::Twice(status, body) => (status, body, 2),
        Reply::Silence => {
            // Ends when the other side closes.
            let _ = reader.read(&mut [0; 1]);
            return false;
        }
        Reply::Death => return true,
    };
    let body = body.to_string();
    let text = format!(
        "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    // Whoever asked may have been killed.
    let _ = (&stream).write_all(text.repeat(times).as_bytes());
    false
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let target = line.split(' ').nth(1)?.to_owned();
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let url = reqwest::Url::parse(&format!("http://shop{target}")).ok()?;
    Some(Asked {
        act: url.path().trim_start_matches('/').to_owned(),
        query: url.query_pairs().into_owned().collect(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    })
}
