//! Attempts that go out together, against a real receiver: what is sent, and that each is answered on its own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use comanda_engine::{StepCall, StepRunner};
use comanda_model::decision::{Input, StepOutcome, Submission, accept};
use comanda_model::{Json, Order, OrderId, Token};
use comanda_order_type::{Bundle, Definition, Known, read};
use comanda_steps::{Options, Steps};
use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

const TYPE: &str = r#"
name = "gathering"
initial = "received"
schema = { type = "object" }
[statuses.received]
steps = ["tell"]
next = "done"
[statuses.done]
final = true
[steps.tell]
http = "POST {{ env.URL }}/shelves/{{ data.shelf }}"
headers = { Authorization = "Bearer {{ secret.key }}" }
body = { amount = "{{ data.amount }}", says = "{{ data.says }}" }
sign = "{{ secret.hook }}"
callback = { within = "1h" }
timeout = "20s"
batch = 5
"#;

/// One call that arrived.
#[derive(Clone, Debug)]
struct Arrived {
    path: String,
    headers: HeaderMap,
    body: Value,
}

impl Arrived {
    fn items(&self) -> &Vec<Value> {
        self.body["items"].as_array().unwrap()
    }
}

/// What the receiver got, and the status that it answers the whole with; items are answered as their bodies say.
#[derive(Clone, Default)]
struct Receiver {
    arrived: Arc<Mutex<Vec<Arrived>>>,
    whole: Arc<Mutex<Option<(StatusCode, &'static str)>>>,
}

async fn receive(State(receiver): State<Receiver>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    receiver.arrived.lock().unwrap().push(Arrived {
        path: uri.path().to_owned(),
        headers,
        body: body.clone(),
    });
    if let Some(whole) = *receiver.whole.lock().unwrap() {
        return whole.into_response();
    }
    let answer = |item: &Value| {
        let key = &item["idempotencyKey"];
        match item["body"]["says"].as_str().unwrap() {
            "missing" => None,
            "unreadable" => Some(json!({"idempotencyKey": key, "status": "good"})),
            "later" => Some(json!({"idempotencyKey": key, "status": 503, "retryAfter": 7})),
            "no" => Some(json!({"idempotencyKey": key, "status": 409, "body": "sold out, s3cret-s3cret"})),
            "perhaps" => Some(json!({"idempotencyKey": key, "status": 500})),
            "taken on" => Some(json!({"idempotencyKey": key, "status": 202})),
            _ => Some(
                json!({"idempotencyKey": key, "status": 201, "body": {"amount": item["body"]["amount"], "quotes": "s3cret-s3cret"}}),
            ),
        }
    };
    // In another order than they came: an answer belongs to its key, not to its place.
    let items: Vec<Value> = body["items"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .filter_map(answer)
        .collect();
    json!({"items": items}).to_string().into_response()
}

struct Bench {
    receiver: Receiver,
    steps: Steps,
    definition: Definition,
}

impl Bench {
    async fn new() -> Self {
        let receiver = Receiver::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new().fallback(receive).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let steps = Steps::new(Options {
            env: BTreeMap::from([("URL".to_owned(), url)]),
            secrets: BTreeMap::from([
                ("key".to_owned(), "s3cret-s3cret".to_owned()),
                ("hook".to_owned(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
            ]),
            ..Options::default()
        })
        .unwrap();
        let bundle = Bundle {
            path: "gathering.toml".to_owned(),
            text: TYPE.to_owned(),
            schema: None,
        };
        let definition = read(&bundle, &Known::default()).definition.unwrap();
        Self {
            receiver,
            steps,
            definition,
        }
    }

    fn order(&self, number: u128, shelf: &str, says: &str) -> Order {
        let data = format!(r#"{{"shelf":"{shelf}","amount":1.10,"says":"{says}"}}"#);
        let value = serde_json::from_str(&data).unwrap();
        let submission = Submission {
            id: OrderId(Uuid::from_u128(number)),
            key: None,
            data: Json::parse(&data).unwrap(),
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
        accept(&self.definition.order_type, submission, &input).unwrap().order
    }

    async fn attempt(&self, order: &Order, attempt: u32) -> StepOutcome {
        let call = StepCall {
            order,
            name: "tell",
            step: &self.definition.order_type.steps["tell"],
            attempt,
            undo: false,
            idempotency_key: format!("{}:1", order.id()),
            undoes: None,
            uncertain: false,
            callback: Some(token(order)),
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        };
        tokio::time::timeout(Duration::from_secs(20), self.steps.run(call))
            .await
            .unwrap()
    }

    /// First attempts of orders that want this to be said of them, all at once.
    async fn all(&self, says: &[&str]) -> Vec<StepOutcome> {
        let orders: Vec<Order> = (1..)
            .zip(says)
            .map(|(number, says)| self.order(number, "a", says))
            .collect();
        join_all(orders.iter().map(|order| self.attempt(order, 1))).await
    }

    fn arrived(&self) -> Vec<Arrived> {
        std::mem::take(&mut *self.receiver.arrived.lock().unwrap())
    }
}

fn token(order: &Order) -> Token {
    Token {
        order: order.id(),
        visit: 1,
        attempt: 1,
        secret: order.id().0,
    }
}

#[tokio::test]
async fn attempts_that_are_ready_together_go_in_one_call_each_with_what_is_its_own() {
    let bench = Bench::new().await;
    let outcomes = bench.all(&["yes"; 12]).await;
    for outcome in outcomes {
        let StepOutcome::Done { result: Some(result) } = outcome else {
            panic!("{outcome:?}")
        };
        // Its own, digit for digit, and without what was quoted.
        assert_eq!(result.as_str(), r#"{"amount":1.10,"quotes":"***"}"#);
    }
    let arrived = bench.arrived();
    let mut sizes: Vec<usize> = arrived.iter().map(|call| call.items().len()).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [2, 5, 5]);
    let mut keys: Vec<&str> = arrived
        .iter()
        .flat_map(|call| call.items())
        .map(|item| item["idempotencyKey"].as_str().unwrap())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 12);
    let call = &arrived[0];
    assert_eq!(call.path, "/shelves/a");
    assert_eq!(call.headers["authorization"], "Bearer s3cret-s3cret");
    assert!(call.headers["webhook-id"].to_str().unwrap().starts_with("batch-"));
    for name in ["idempotency-key", "comanda-attempt", "comanda-callback", "traceparent"] {
        assert!(!call.headers.contains_key(name), "{name} is one attempt's own");
    }
    let item = &call.items()[0];
    assert_eq!(
        item["body"],
        json!({"amount": serde_json::from_str::<Value>("1.10").unwrap(), "says": "yes"})
    );
    assert_eq!(
        (&item["attempt"], item["orderId"].as_str().map(str::len)),
        (&json!(1), Some(36))
    );
    assert!(item["callback"].as_str().unwrap().contains("/v1/callbacks/"));
    assert!(item["traceparent"].as_str().unwrap().starts_with("00-0af7651916cd43dd"));
    // Each call is a message of its own.
    assert_ne!(arrived[0].headers["webhook-id"], arrived[1].headers["webhook-id"]);
}

#[tokio::test]
async fn each_attempt_is_answered_on_its_own() {
    let bench = Bench::new().await;
    let outcomes = bench.all(&["missing", "later", "no", "perhaps", "taken on"]).await;
    let [missing, later, no, perhaps, taken_on] = outcomes.try_into().unwrap();
    let StepOutcome::Unknown { reason, .. } = missing else {
        panic!("{missing:?}")
    };
    assert!(
        reason.contains("nothing that can be read about this attempt"),
        "{reason}"
    );
    let StepOutcome::Failed { retry_after, .. } = later else {
        panic!("{later:?}")
    };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));
    let StepOutcome::Refused { reason } = no else {
        panic!("{no:?}")
    };
    assert!(
        reason.contains("5 together: 409 Conflict: \"sold out, ***\""),
        "{reason}"
    );
    assert!(matches!(perhaps, StepOutcome::Unknown { .. }), "{perhaps:?}");
    let fifth = token(&bench.order(5, "a", "taken on")).secret;
    assert!(
        matches!(taken_on, StepOutcome::Waiting { secret } if secret == fifth),
        "{taken_on:?}"
    );
    assert_eq!(bench.arrived().len(), 1);
    let outcomes = bench.all(&["unreadable", "yes"]).await;
    assert!(matches!(outcomes[0], StepOutcome::Unknown { .. }), "{outcomes:?}");
    assert!(matches!(outcomes[1], StepOutcome::Done { .. }), "{outcomes:?}");
}

#[tokio::test]
async fn what_fails_as_a_whole_fails_each_and_refuses_only_one_that_is_alone() {
    let bench = Bench::new().await;
    let whole = |status, body| *bench.receiver.whole.lock().unwrap() = Some((status, body));
    whole(StatusCode::UNPROCESSABLE_ENTITY, "item 1 is nonsense");
    for outcome in bench.all(&["yes", "yes"]).await {
        // It may be due to the other.
        let StepOutcome::Failed { reason, .. } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(reason.contains("item 1 is nonsense"), "{reason}");
    }
    assert_eq!(bench.arrived().len(), 1);
    // The next attempts go alone, each in a list of one, and then the no is meant for it.
    let orders = [bench.order(1, "a", "yes"), bench.order(2, "a", "yes")];
    for outcome in join_all(orders.iter().map(|order| bench.attempt(order, 2))).await {
        assert!(matches!(outcome, StepOutcome::Refused { .. }), "{outcome:?}");
    }
    let arrived = bench.arrived();
    assert_eq!(arrived.len(), 2);
    assert!(arrived.iter().all(|call| call.items().len() == 1));
    assert_eq!(arrived[0].items()[0]["attempt"], 2);
    for (status, body) in [(StatusCode::INTERNAL_SERVER_ERROR, ""), (StatusCode::OK, "thanks")] {
        whole(status, body);
        for outcome in bench.all(&["yes", "yes"]).await {
            assert!(matches!(outcome, StepOutcome::Unknown { .. }), "{status}: {outcome:?}");
        }
    }
    whole(StatusCode::SERVICE_UNAVAILABLE, "");
    for outcome in bench.all(&["yes", "yes"]).await {
        assert!(matches!(outcome, StepOutcome::Failed { .. }), "{outcome:?}");
    }
}

#[tokio::test]
async fn only_calls_that_are_the_same_go_together_and_who_gave_up_is_not_asked_for() {
    let bench = Bench::new().await;
    let orders = [
        bench.order(1, "a", "yes"),
        bench.order(2, "b", "yes"),
        bench.order(3, "a", "yes"),
    ];
    join_all(orders.iter().map(|order| bench.attempt(order, 1))).await;
    let mut shelves: Vec<(String, usize)> = bench
        .arrived()
        .iter()
        .map(|call| (call.path.clone(), call.items().len()))
        .collect();
    shelves.sort();
    assert_eq!(shelves, [("/shelves/a".to_owned(), 2), ("/shelves/b".to_owned(), 1)]);
    let given_up = bench.order(4, "a", "yes");
    let mut attempt = Box::pin(bench.attempt(&given_up, 1));
    // It has joined, and is given up before its batch leaves.
    assert!(futures_util::poll!(&mut attempt).is_pending());
    drop(attempt);
    assert!(matches!(bench.attempt(&orders[0], 1).await, StepOutcome::Done { .. }));
    let arrived = bench.arrived();
    let keys: Vec<&Value> = arrived
        .iter()
        .flat_map(|call| call.items())
        .map(|item| &item["orderId"])
        .collect();
    assert_eq!(keys, [&json!(orders[0].id().to_string())]);
}
