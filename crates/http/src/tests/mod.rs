//! The whole API over an engine with an in-memory store: what goes in, what comes out.

mod audit;
mod callbacks;
mod changes;
mod dead_letters;
mod description;
mod erasure;
mod fuzz;
mod guard;
mod inventory;
mod links;
mod mounts;
mod orders;
mod problems;
mod queues;
mod rates;
mod server;
mod streams;
mod subscriptions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use comanda_deliver::Deliveries;
use comanda_deliver::archive::Archives;
use comanda_engine::{Breaks, Service, StepCall, StepRunner};
use comanda_model::decision::StepOutcome;
use comanda_order_type::{Bundle, Definition, Known, read, shipped};
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

use crate::{App, Key, KeyRate, KeyRing, Options, Scope};

/// Longer than anything takes; reached only when something hangs.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A type of which nothing moves by itself, whose origins are named.
const WAITING: &str = r#"
name = "waiting"
initial = "open"
customer = "/who"
cancel = "closed"
[wire]
cors = ["https://shop.example"]
[statuses.open]
to = ["closed"]
[statuses.closed]
final = true
"#;

/// A type whose first step is done by workers of a queue.
const PICKED: &str = r#"
name = "picked"
initial = "open"
refused = "refused"
cancel = "closed"
[statuses.open]
steps = ["pick", "note"]
next = "closed"
to = ["closed"]
[statuses.closed]
final = true
[statuses.refused]
final = true
[steps.pick]
queue = "picking"
retry = { attempts = 3, first = "1s" }
[steps.note]
use = "noop"
"#;

/// A type that asks a person, and then waits for a callback.
const ASKING: &str = r#"
name = "asking"
initial = "open"
refused = "closed"
[statuses.open]
steps = ["look", "book"]
next = "closed"
[statuses.closed]
final = true
[steps.look]
use = "approval"
[steps.book]
http = "POST http://127.0.0.1:1/bookings"
callback = { within = "1h" }
"#;

/// Steps that reach outside: there is only the one that waits for its callback.
struct NoSteps;

#[async_trait]
impl StepRunner for NoSteps {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        if let ("book", Some(token)) = (call.name, call.callback) {
            return StepOutcome::Waiting { secret: token.secret };
        }
        StepOutcome::Failed {
            reason: format!("`{}` is not expected to run", call.name),
            retry_after: None,
        }
    }
}

fn definition(bundle: &Bundle) -> Definition {
    let read = read(bundle, &Known::default());
    let told = || comanda_order_type::render(&read.diagnostics, bundle, false);
    read.definition.unwrap_or_else(|| panic!("{}", told()))
}

/// An API, and what it stands on.
pub(super) struct Api {
    pub(super) app: App,
    pub(super) router: Router,
    pub(super) service: Service,
    /// Holds the keys.
    pub(super) home: TempDir,
}

impl Api {
    /// With the shipped types and without keys, on loopback.
    pub(super) async fn new() -> Self {
        Self::with(|_| {}, &[]).await
    }

    /// With other options, and steps that fail so often.
    pub(super) async fn with(change: impl FnOnce(&mut Options), breaks: &[(&str, u32)]) -> Self {
        let breaks = breaks
            .iter()
            .map(|(step, times)| ((*step).to_owned(), *times))
            .collect();
        let engine = comanda_engine::Options {
            breaks: Breaks(breaks),
            ..quick()
        };
        Self::over(engine, change).await
    }

    /// Over an engine with options of its own.
    pub(super) async fn over(engine: comanda_engine::Options, change: impl FnOnce(&mut Options)) -> Self {
        let mut types: Vec<Definition> = shipped().iter().map(definition).collect();
        for (path, text) in [
            ("waiting.toml", WAITING),
            ("picked.toml", PICKED),
            ("asking.toml", ASKING),
        ] {
            types.push(definition(&Bundle {
                path: path.to_owned(),
                text: text.to_owned(),
                schema: None,
            }));
        }
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let built_in = comanda_builtin::Options {
            env: BTreeMap::new(),
            payments: Arc::new(comanda_builtin::payments::Sandbox::new(store.clone())),
            customers: Arc::new(comanda_builtin::customers::Customers::new(store.clone())),
            carrier: Arc::new(comanda_builtin::shipments::CarrierSandbox::new(store.clone())),
            inventory: None,
        };
        let steps = comanda_builtin::BuiltIns::new(built_in, store.clone(), Arc::new(NoSteps));
        let service = Service::start(engine, store, Arc::new(steps), types).await.unwrap();
        let home = tempfile::tempdir().unwrap();
        let mut options = options(&home);
        let deliver = comanda_deliver::Options {
            allow_private: true,
            wait_scale: 0.001,
            archives: Archives {
                default_directory: home.path().join("archive"),
                ..Archives::default()
            },
            ..comanda_deliver::Options::default()
        };
        options.deliveries = Some(Deliveries::start(deliver, service.clone(), Vec::new()).await.unwrap());
        change(&mut options);
        let loopback = options.listen.ip().is_loopback();
        let app = App::new(options, service.clone(), loopback, None);
        let router = app.clone().router();
        Self {
            app,
            router,
            service,
            home,
        }
    }

    /// With a key for each of these scopes.
    pub(super) async fn keyed(scopes: &[Scope]) -> (Self, Vec<(Key, String)>) {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("keys.json");
        let keys = scopes
            .iter()
            .map(|scope| KeyRing::create(&file, scope.name(), &[*scope], None).unwrap())
            .collect();
        let api = Self::with(|options| options.keys = Arc::new(KeyRing::open(&file).unwrap()), &[]).await;
        (api, keys)
    }

    /// With one key of all scopes that may ask at this rate.
    pub(super) async fn limited(rate: KeyRate) -> (Self, String) {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("keys.json");
        let scopes = [Scope::Submit, Scope::Read];
        let (_, secret) = KeyRing::create(&file, "limited", &scopes, Some(rate)).unwrap();
        let api = Self::with(|options| options.keys = Arc::new(KeyRing::open(&file).unwrap()), &[]).await;
        (api, secret)
    }

    /// Asks for something.
    pub(super) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        Answer::of(self.router.clone().oneshot(request).await.unwrap()).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub(super) async fn post(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, &[], body).await
    }

    pub(super) async fn patch(&self, path: &str, body: &str) -> Answer {
        self.ask("PATCH", path, &[], body).await
    }

    /// Submits on `/v1` and answers with the order's id.
    pub(super) async fn submitted(&self, order_type: &str, data: &str) -> String {
        let answer = self
            .post("/v1/orders", &format!(r#"{{"type":"{order_type}","data":{data}}}"#))
            .await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// The order when nothing more happens to it by itself.
    pub(super) async fn at_rest(&self, id: &str) -> Value {
        self.get(&format!("/v1/orders/{id}?wait=30")).await.json()
    }
}

/// An engine that does not keep a test waiting.
pub(super) fn quick() -> comanda_engine::Options {
    comanda_engine::Options {
        wait_scale: 0.001,
        sweep: Duration::from_millis(20),
        ..comanda_engine::Options::default()
    }
}

fn options(home: &TempDir) -> Options {
    Options {
        listen: ([127, 0, 0, 1], 0).into(),
        body_bytes_max: 64 * 1024,
        header_bytes_max: 16 * 1024,
        connections_max: 100,
        header_read_timeout: PATIENCE,
        request_timeout: PATIENCE,
        streams_max: 2,
        mounts: vec![("/orders".to_owned(), "sale".to_owned())],
        insecure: false,
        keys: Arc::new(KeyRing::open(&home.path().join("keys.json")).unwrap()),
        deliveries: None,
        intake: None,
        metrics: Some(Arc::new(|| "up 1\n".to_owned())),
        public_url: "https://orders.example".to_owned(),
        version: "1.2.3".to_owned(),
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    async fn of(response: Response) -> Self {
        let (parts, body) = response.into_parts();
        let bytes = tokio::time::timeout(PATIENCE, body.collect())
            .await
            .unwrap()
            .unwrap()
            .to_bytes();
        assert_ne!(parts.status, StatusCode::INTERNAL_SERVER_ERROR, "{bytes:?}");
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    pub(super) fn header(&self, name: &str) -> &str {
        let value = self
            .headers
            .get(name)
            .unwrap_or_else(|| panic!("no `{name}`: {self:?}"));
        value.to_str().unwrap()
    }

    /// The code of a problem; its page exists, and its members are all there.
    #[track_caller]
    pub(super) fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        let code = problem["code"].as_str().unwrap();
        assert!(crate::CODES.iter().any(|advice| advice.code == code), "{code}");
        assert_eq!(problem["type"], format!("/docs/problems/{code}"));
        assert_eq!(problem["status"], status);
        assert_eq!(problem["requestId"], self.header("x-request-id"));
        assert!(problem["title"].is_string() && problem["detail"].is_string());
        problem
    }

    /// The code of a problem, if it is one.
    pub(super) fn json_code(&self) -> Option<String> {
        let value: Value = serde_json::from_str(&self.text).ok()?;
        value["code"].as_str().map(str::to_owned)
    }

    /// The code of a problem.
    #[track_caller]
    pub(super) fn code(&self, status: u16) -> String {
        self.problem(status)["code"].as_str().unwrap().to_owned()
    }
}
