//! Payments and customers over HTTP, against receivers that fail in every way: the order and the receiver's book agree.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json as Body, Router};
use comanda_builtin::customers::{Directory, HttpCustomers, Lookup};
use comanda_builtin::inventory::{Inventory, Price};
use comanda_builtin::payments::{HttpPayments, HttpPaymentsOptions, Provider};
use comanda_builtin::shipments::{HttpCarrier, HttpCarrierOptions};
use comanda_builtin::{BuiltIns, Options};
use comanda_engine::{Change, Found, Precondition, Service, StepCall, Submission, WaitFor};
use comanda_model::decision::{self, Input};
use comanda_model::order_type::{BuiltInKind, HttpCall};
use comanda_model::template::{Template, TemplateTree};
use comanda_model::{Json, OrderId, Phase};
use comanda_order_type::{Bundle, Definition, Known, read, shipped};
use comanda_steps::{Caller, Steps};
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify};

/// How the next request to authorise is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Decline,
    /// Answered late, but in time.
    Delay,
    /// Charged, and never answered.
    Silence,
    /// Charged, then 500.
    Fault,
    /// Charged, then a text that is no JSON.
    Garbage,
    /// Charged, then an answer larger than is read.
    Huge,
    /// Not taken at all.
    Unavailable,
    /// Kept on its way until the test lets it go on.
    Late,
}

#[derive(Clone, Default)]
struct Shop {
    moods: Arc<Mutex<Vec<Mood>>>,
    /// How each payment stands, by the key that made it.
    book: Arc<Mutex<BTreeMap<String, &'static str>>>,
    /// Keys that were given up before they came.
    given_up: Arc<Mutex<BTreeSet<String>>>,
    shipments: Arc<Mutex<BTreeSet<String>>>,
    refuses_void: bool,
    seen: Arc<Mutex<Vec<(String, HeaderMap, Value)>>>,
    /// Lets a late request go on.
    go_on: Arc<Notify>,
    /// A late request has gone on and was answered so.
    late: Arc<Mutex<Option<StatusCode>>>,
    arrived: Arc<Notify>,
}

impl Shop {
    async fn answer(self, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = format!("{method} {}", uri.path());
        self.seen.lock().await.push((path.clone(), headers, told.clone()));
        let text = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        match path.as_str() {
            "POST /payments" => {
                let mood = self.moods.lock().await.pop();
                if mood == Some(Mood::Late) {
                    let (shop, key) = (self.clone(), text("key"));
                    // The request outlives the connection of whoever gave it up.
                    tokio::spawn(async move {
                        shop.arrived.notify_one();
                        shop.go_on.notified().await;
                        let status = shop.charge(key).await.status();
                        *shop.late.lock().await = Some(status);
                        shop.arrived.notify_one();
                    });
                    std::future::pending::<()>().await;
                }
                match mood {
                    Some(Mood::Decline) => return (StatusCode::PAYMENT_REQUIRED, "no money").into_response(),
                    Some(Mood::Unavailable) => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
                    _ => {}
                }
                let charged = self.charge(text("key")).await;
                match mood {
                    Some(Mood::Silence) => std::future::pending().await,
                    Some(Mood::Fault) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                    Some(Mood::Garbage) => "<html>thank you</html>".into_response(),
                    Some(Mood::Huge) => "x".repeat(1 << 20).into_response(),
                    Some(Mood::Delay) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        charged
                    }
                    _ => charged,
                }
            }
            "GET /payments" => {
                let key = uri
                    .query()
                    .unwrap_or_default()
                    .trim_start_matches("key=")
                    .replace("%3A", ":");
                match self.book.lock().await.get(&key) {
                    Some(state) => Body(json!({"id": key, "state": state})).into_response(),
                    None => StatusCode::NOT_FOUND.into_response(),
                }
            }
            "POST /captures" | "POST /refunds" => {
                let mut book = self.book.lock().await;
                let Some(state) = book.get_mut(&text("payment")) else {
                    return StatusCode::NOT_FOUND.into_response();
                };
                *state = if path == "POST /captures" {
                    "captured"
                } else {
                    "refunded"
                };
                Body(json!({"id": text("payment"), "state": *state})).into_response()
            }
            "POST /shipments" => {
                let (id, tracking) = (text("key"), "T-1");
                self.shipments.lock().await.insert(id.clone());
                Body(json!({"id": id, "carrier": "Carrier", "trackingNumber": tracking})).into_response()
            }
            "POST /cancellations" => {
                self.shipments.lock().await.remove(&text("undoes"));
                StatusCode::NO_CONTENT.into_response()
            }
            "POST /voids" | "POST /voids-by-key" if self.refuses_void => {
                (StatusCode::CONFLICT, "it stays").into_response()
            }
            "POST /voids" => {
                let mut book = self.book.lock().await;
                let Some(state) = book.get_mut(&text("payment")) else {
                    return StatusCode::NOT_FOUND.into_response();
                };
                if *state != "refunded" {
                    *state = "voided";
                }
                Body(json!({"id": text("payment"), "state": *state})).into_response()
            }
            "POST /voids-by-key" => {
                let key = text("undoes");
                let mut book = self.book.lock().await;
                match book.get_mut(&key) {
                    Some(state) => *state = "voided",
                    None => {
                        self.given_up.lock().await.insert(key);
                    }
                }
                StatusCode::NO_CONTENT.into_response()
            }
            "GET /customers/u-1" => Body(json!({"name": "Ada"})).into_response(),
            "GET /customers/u-bad" => Body(json!({"blocked": true})).into_response(),
            "GET /customers/u-odd" => "[1]".into_response(),
            "GET /customers/u-huge" => Body(json!({"name": "x".repeat(1 << 20)})).into_response(),
            "GET /customers/u-down" => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    async fn charge(&self, key: String) -> Response {
        if self.given_up.lock().await.contains(&key) {
            return (StatusCode::CONFLICT, "given up before").into_response();
        }
        self.book.lock().await.entry(key.clone()).or_insert("authorized");
        Body(json!({"id": key, "state": "authorized"})).into_response()
    }

    async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answer = |State(shop): State<Shop>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            shop.answer(method, uri, headers, body)
        };
        let app = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }
}

/// A call as the settings make one.
fn call(text: &str) -> HttpCall {
    let (method, url) = text.split_once(' ').unwrap();
    HttpCall {
        method: method.to_owned(),
        url: Template::compile(url).unwrap(),
        headers: vec![(
            "authorization".to_owned(),
            Template::compile("Bearer {{ secret.shop }}").unwrap(),
        )],
        body: (method == "POST").then(|| TemplateTree::Text(Template::compile("{{ with }}").unwrap())),
        sign: Some(Template::compile("{{ secret.signing }}").unwrap()),
        auth: None,
        callback: None,
    }
}

fn caller(url: &str, circuit_failures: u32) -> Arc<Caller> {
    let options = comanda_steps::Options {
        env: BTreeMap::from([("SHOP".to_owned(), url.to_owned())]),
        secrets: BTreeMap::from([
            ("shop".to_owned(), "s3cret".to_owned()),
            (
                "signing".to_owned(),
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned(),
            ),
        ]),
        circuit_failures,
        circuit_open: Duration::from_millis(20),
        ..comanda_steps::Options::default()
    };
    Arc::new(Caller::new(options).unwrap())
}

fn payments(caller: &Arc<Caller>) -> HttpPayments {
    let options = HttpPaymentsOptions {
        authorize: call("POST {{ env.SHOP }}/payments"),
        capture: call("POST {{ env.SHOP }}/captures"),
        void: call("POST {{ env.SHOP }}/voids"),
        void_by_key: call("POST {{ env.SHOP }}/voids-by-key"),
        refund: call("POST {{ env.SHOP }}/refunds"),
        find: call("GET {{ env.SHOP }}/payments?key={{ with.key }}"),
    };
    HttpPayments::new(caller.clone(), options)
}

fn carrier(caller: &Arc<Caller>) -> HttpCarrier {
    let options = HttpCarrierOptions {
        create: call("POST {{ env.SHOP }}/shipments"),
        cancel: call("POST {{ env.SHOP }}/cancellations"),
        cancel_by_key: call("POST {{ env.SHOP }}/cancellations"),
        find: call("GET {{ env.SHOP }}/shipments?key={{ with.key }}"),
    };
    HttpCarrier::new(caller.clone(), options)
}

fn customers(caller: &Arc<Caller>) -> HttpCustomers {
    HttpCustomers::new(caller.clone(), call("GET {{ env.SHOP }}/customers/{{ with.customer }}"))
}

/// The shipped type, with a shorter patience.
fn storefront() -> Definition {
    let bundles = shipped();
    let bundle = bundles
        .iter()
        .find(|bundle| bundle.path.contains("storefront-order"))
        .unwrap();
    let bundle = Bundle {
        text: bundle.text.replace("timeout = \"10s\"", "timeout = \"200ms\""),
        ..bundle.clone()
    };
    read(&bundle, &Known::default()).definition.unwrap()
}

struct Running {
    service: Service,
    store: Arc<dyn Store>,
}

impl Running {
    async fn start(url: &str) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let caller = caller(url, 3);
        let options = Options {
            env: BTreeMap::new(),
            payments: Arc::new(payments(&caller)),
            customers: Arc::new(customers(&caller)),
            carrier: Arc::new(carrier(&caller)),
            inventory: None,
        };
        let steps = BuiltIns::new(options, store.clone(), Arc::new(Steps::over(caller)));
        let options = comanda_engine::Options {
            wait_scale: 0.001,
            sweep: Duration::from_millis(20),
            ..comanda_engine::Options::default()
        };
        let service = Service::start(options, store.clone(), Arc::new(steps), vec![storefront()]);
        let inventory = Inventory::new(&*store);
        let price = Price {
            amount: "14.90".parse().unwrap(),
            currency: "EUR".to_owned(),
        };
        inventory.set_price("A-1", &price).await.unwrap();
        inventory.receive("A-1", 5, None).await.unwrap();
        Self {
            service: service.await.unwrap(),
            store,
        }
    }

    async fn submit(&self, user: &str) -> OrderId {
        let data = format!(r#"{{"userId":"{user}","products":[{{"sku":"A-1","quantity":2}}]}}"#);
        let submission = Submission {
            order_type: "storefront-order".to_owned(),
            key: None,
            data: Json::parse(&data).unwrap(),
            value: None,
            status: None,
            due_at: None,
            idempotency: None,
            by: "local".into(),
            traceparent: None,
        };
        self.service.submit(submission).await.unwrap().found.stored.order.id()
    }

    async fn rest(&self, id: OrderId) -> Found {
        let found = self.service.wait(id, WaitFor::Rest, Duration::from_secs(30)).await;
        let found = found.unwrap().unwrap();
        assert!(found.stored.order.head.goes_on_at(true).is_none(), "it never rests");
        found
    }

    async fn on_hand(&self) -> i64 {
        let stock = Inventory::new(&*self.store).stock("A-1").await.unwrap();
        assert_eq!(stock.received, stock.on_hand + stock.held + stock.shipped, "{stock:?}");
        stock.on_hand
    }
}

fn change() -> Change {
    Change {
        by: "local".into(),
        reason: None,
        precondition: Precondition::None,
    }
}

#[tokio::test]
async fn however_the_provider_answers_the_book_and_the_order_agree() {
    for moods in [
        vec![],
        vec![Mood::Delay],
        vec![Mood::Silence],
        vec![Mood::Fault],
        vec![Mood::Garbage],
        vec![Mood::Huge],
        vec![Mood::Unavailable, Mood::Unavailable, Mood::Silence],
        // The circuit opens, and no order dies of it.
        vec![Mood::Unavailable; 4],
    ] {
        let shop = Shop {
            moods: Arc::new(Mutex::new(moods.iter().rev().copied().collect())),
            ..Shop::default()
        };
        let running = Running::start(&shop.serve().await).await;
        let id = running.submit("u-1").await;
        let found = running.rest(id).await;
        let head = &found.stored.order.head;
        assert_eq!(
            (&*head.status, running.on_hand().await),
            ("processing", 3),
            "{moods:?}: {:?}",
            head.dead
        );
        let book = shop.book.lock().await;
        assert_eq!(book.values().collect::<Vec<_>>(), [&"captured"], "{moods:?}");
        let seen = shop.seen.lock().await;
        let made = seen.iter().filter(|(path, ..)| path == "POST /payments").count();
        let taken = moods.iter().filter(|mood| **mood == Mood::Unavailable).count() + 1;
        assert_eq!(made, taken, "{moods:?}: what was charged is found, never charged again");
        for (path, headers, _) in seen.iter() {
            for name in ["idempotency-key", "traceparent", "webhook-signature", "comanda-attempt"] {
                assert!(headers.contains_key(name), "{path} lacks {name}");
            }
        }
    }
}

#[tokio::test]
async fn a_provider_that_declines_is_believed() {
    let shop = Shop {
        moods: Arc::new(Mutex::new(vec![Mood::Decline])),
        ..Shop::default()
    };
    let running = Running::start(&shop.serve().await).await;
    let id = running.submit("u-1").await;
    assert_eq!(&*running.rest(id).await.stored.order.head.status, "canceled");
    assert_eq!(running.on_hand().await, 5);
    assert!(shop.book.lock().await.is_empty());
    let seen = shop.seen.lock().await;
    assert!(
        !seen.iter().any(|(path, ..)| path.starts_with("POST /voids")),
        "there is nothing to take back"
    );
}

#[tokio::test]
async fn a_request_that_comes_after_its_undo_is_refused() {
    let shop = Shop {
        moods: Arc::new(Mutex::new(vec![Mood::Late])),
        ..Shop::default()
    };
    let running = Running::start(&shop.serve().await).await;
    let id = running.submit("u-1").await;
    shop.arrived.notified().await;
    running.service.cancel(id, change()).await.unwrap();
    assert_eq!(&*running.rest(id).await.stored.order.head.status, "canceled");
    let undone = {
        let seen = shop.seen.lock().await;
        let (_, headers, told) = seen.iter().find(|(path, ..)| path == "POST /voids-by-key").unwrap();
        assert_eq!(headers["comanda-undoes"].to_str().unwrap(), told["undoes"]);
        assert_ne!(headers["idempotency-key"].to_str().unwrap(), told["undoes"]);
        told["undoes"].as_str().unwrap().to_owned()
    };
    assert_eq!(*shop.given_up.lock().await, BTreeSet::from([undone]));
    // Only now does the request reach the provider.
    shop.go_on.notify_one();
    shop.arrived.notified().await;
    assert_eq!(*shop.late.lock().await, Some(StatusCode::CONFLICT));
    assert!(shop.book.lock().await.is_empty(), "nothing is charged");
    assert_eq!(running.on_hand().await, 5);
}

#[tokio::test]
async fn what_is_paid_is_voided_and_a_refused_void_is_a_dead_letter() {
    for refuses_void in [false, true] {
        let shop = Shop {
            refuses_void,
            ..Shop::default()
        };
        let running = Running::start(&shop.serve().await).await;
        let id = running.submit("u-1").await;
        running.rest(id).await;
        running.service.cancel(id, change()).await.unwrap();
        let found = running.rest(id).await;
        let head = &found.stored.order.head;
        if refuses_void {
            assert_eq!(head.phase, Phase::Dead);
            let reason = &head.dead.as_ref().unwrap().reason;
            assert!(reason.contains("it stays") && !reason.contains("s3cret"), "{reason}");
        } else {
            assert_eq!((&*head.status, running.on_hand().await), ("canceled", 5));
            assert_eq!(shop.book.lock().await.values().collect::<Vec<_>>(), [&"refunded"]);
            assert!(shop.shipments.lock().await.is_empty(), "the shipment is canceled");
        }
    }
}

/// Some order, to ask for.
fn order(definition: &Definition) -> comanda_model::Order {
    let data = r#"{"userId":"u-1","products":[{"sku":"A-1","quantity":2}]}"#;
    let value = serde_json::from_str(data).unwrap();
    let submission = decision::Submission {
        id: OrderId(uuid::Uuid::nil()),
        key: None,
        data: Json::parse(data).unwrap(),
        value: &value,
        status: None,
        due_at: None,
        traceparent: None,
    };
    let input = Input {
        now: Timestamp::UNIX_EPOCH,
        jitter: 0.0,
        wait_scale: 1.0,
        by: "local".into(),
    };
    decision::accept(&definition.order_type, submission, &input)
        .unwrap()
        .order
}

fn step_call<'a>(order: &'a comanda_model::Order, definition: &'a Definition) -> StepCall<'a> {
    StepCall {
        order,
        name: "customer",
        step: &definition.order_type.steps["customer"],
        attempt: 1,
        undo: false,
        idempotency_key: "order:1".to_owned(),
        undoes: None,
        uncertain: false,
        callback: None,
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
    }
}

#[tokio::test]
async fn a_customer_is_what_the_service_says() {
    let shop = Shop::default();
    let caller = caller(&shop.serve().await, 1);
    let directory = customers(&caller);
    let definition = storefront();
    let order = order(&definition);
    let call = step_call(&order, &definition);
    let known = directory.look_up(&call, "u-1").await.unwrap();
    assert!(matches!(known, Lookup::Known(customer) if customer["name"] == "Ada"));
    let blocked = directory.look_up(&call, "u-bad").await.unwrap();
    assert!(matches!(blocked, Lookup::Known(customer) if customer["blocked"] == true));
    assert!(matches!(directory.look_up(&call, "nobody").await, Ok(Lookup::Unknown)));
    for (who, said) in [("u-odd", "[1]"), ("u-huge", "200 OK")] {
        let unanswered = directory.look_up(&call, who).await.err().unwrap();
        assert!(
            unanswered.reason.contains(said) && unanswered.reason.len() < 1000,
            "{unanswered}"
        );
    }
    // Payments at the same place are held back with them: it is one service, whoever asks.
    let provider = payments(&caller);
    assert!(provider.admit(BuiltInKind::PaymentsAuthorize).await.is_ok());
    assert!(directory.look_up(&call, "u-down").await.is_err());
    assert!(directory.admit().await.is_err());
    let postponed = provider.admit(BuiltInKind::PaymentsAuthorize).await.err().unwrap();
    assert!(postponed.reason.contains("held back"), "{}", postponed.reason);
}

#[tokio::test]
async fn an_answer_that_comes_twice_is_one_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"name\":\"Ada\"}";
            let _ = stream.write_all(format!("{answer}{answer}").as_bytes()).await;
        }
    });
    let caller = caller(&url, 5);
    let definition = storefront();
    let order = order(&definition);
    for _ in 0..3 {
        let known = customers(&caller).look_up(&step_call(&order, &definition), "u-1").await;
        assert!(matches!(known, Ok(Lookup::Known(_))), "{:?}", known.err());
    }
}
