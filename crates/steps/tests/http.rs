//! HTTP steps against a real receiver: what is sent, and what each answer means.
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
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use comanda_engine::{StepCall, StepRunner};
use comanda_model::decision::{Input, StepOutcome, Submission, accept};
use comanda_model::{Json, Order, OrderId};
use comanda_order_type::{Bundle, Definition, Known, read};
use comanda_steps::{Options, Steps};
use jiff::Timestamp;
use uuid::Uuid;

type Seen = (Method, Uri, HeaderMap, String);

/// What the receiver got, and what it answers.
#[derive(Clone, Default)]
struct Receiver {
    seen: Arc<Mutex<Vec<Seen>>>,
    answers: Arc<Mutex<Vec<Response>>>,
}

async fn receive(
    State(receiver): State<Receiver>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    receiver
        .seen
        .lock()
        .unwrap()
        .push((method, uri, headers, String::from_utf8_lossy(&body).into_owned()));
    receiver
        .answers
        .lock()
        .unwrap()
        .pop()
        .unwrap_or_else(|| StatusCode::NO_CONTENT.into_response())
}

struct Bench {
    receiver: Receiver,
    steps: Steps,
    definition: Definition,
    order: Order,
}

const TYPE: &str = r#"
name = "calling"
initial = "received"
schema = { type = "object" }
[statuses.received]
steps = ["charge"]
next = "done"
[statuses.done]
final = true
[steps.charge]
http = "POST {{ env.PAY_URL }}/customers/{{ data.user }}/charges?ref={{ id }}"
headers = { Authorization = "Bearer {{ secret.pay }}" }
body = { amount = "{{ data.amount }}", lines = "{{ data.lines }}", note = "for {{ data.user }}" }
"#;

impl Bench {
    async fn new(answers: Vec<Response>) -> Self {
        let receiver = Receiver::default();
        receiver.answers.lock().unwrap().extend(answers.into_iter().rev());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/base", listener.local_addr().unwrap());
        let app = Router::new().fallback(receive).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self::calling(receiver, url)
    }

    fn calling(receiver: Receiver, url: String) -> Self {
        let steps = Steps::new(Options {
            env: BTreeMap::from([("PAY_URL".to_owned(), url)]),
            secrets: BTreeMap::from([("pay".to_owned(), "s3cret".to_owned())]),
            user_agent: "comanda/test".to_owned(),
        })
        .unwrap();
        let bundle = Bundle {
            path: "calling.toml".to_owned(),
            text: TYPE.to_owned(),
            schema: None,
        };
        let definition = read(&bundle, &Known::default()).definition.unwrap();
        let data = r#"{"user":"a/../b c","amount":14.90,"lines":[{"q":1.0}]}"#;
        let value = serde_json::from_str(data).unwrap();
        let submission = Submission {
            id: OrderId(Uuid::nil()),
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
        let order = accept(&definition.order_type, submission, &input).unwrap().order;
        Self {
            receiver,
            steps,
            definition,
            order,
        }
    }

    async fn run(&self) -> StepOutcome {
        let call = StepCall {
            order: &self.order,
            name: "charge",
            step: &self.definition.order_type.steps["charge"],
            attempt: 2,
            undo: false,
            idempotency_key: "order:1".to_owned(),
            undoes: None,
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned(),
        };
        tokio::time::timeout(Duration::from_secs(20), self.steps.run(call))
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn a_call_carries_what_the_type_says_and_the_visits_key() {
    let bench = Bench::new(vec![
        (StatusCode::CREATED, r#"{"id":"ch_1","amount":14.90}"#).into_response(),
    ])
    .await;
    let StepOutcome::Done { result: Some(result) } = bench.run().await else {
        panic!("done with a result")
    };
    assert_eq!(result.as_str(), r#"{"id":"ch_1","amount":14.90}"#);
    let (method, uri, headers, body) = bench.receiver.seen.lock().unwrap().pop().unwrap();
    assert_eq!(method, Method::POST);
    let id = Uuid::nil();
    assert_eq!(
        uri.to_string(),
        format!("/base/customers/a%2F..%2Fb%20c/charges?ref={id}")
    );
    assert_eq!(headers["idempotency-key"], "order:1");
    assert_eq!(headers["authorization"], "Bearer s3cret");
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["comanda-attempt"], "2");
    assert_eq!(
        headers["traceparent"],
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    );
    assert_eq!(body, r#"{"amount":14.90,"lines":[{"q":1.0}],"note":"for a/../b c"}"#);
}

#[tokio::test]
async fn each_answer_means_what_it_says() {
    for status in [StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY] {
        let bench = Bench::new(vec![(status, "card declined").into_response()]).await;
        let StepOutcome::Refused { reason } = bench.run().await else {
            panic!("{status} refuses")
        };
        assert!(
            reason.contains("card declined") && reason.contains(status.as_str()),
            "{reason}"
        );
    }
    for status in [
        StatusCode::BAD_REQUEST,
        StatusCode::NOT_FOUND,
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::BAD_GATEWAY,
    ] {
        let answer = (status, [("Retry-After", "7")], "key s3cret is wrong").into_response();
        let bench = Bench::new(vec![answer]).await;
        let StepOutcome::Failed { reason, retry_after } = bench.run().await else {
            panic!("{status} is tried again")
        };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
        assert!(reason.contains("key *** is wrong"), "a secret stands in: {reason}");
    }
    let moved = (StatusCode::FOUND, [("Location", "http://169.254.169.254/")]).into_response();
    let bench = Bench::new(vec![moved]).await;
    let StepOutcome::Failed { reason, .. } = bench.run().await else {
        panic!("a redirect is not followed")
    };
    assert!(reason.contains("redirects are not followed"), "{reason}");
    assert_eq!(bench.receiver.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_without_json_leaves_nothing_and_one_too_large_is_told() {
    let bench = Bench::new(vec![(StatusCode::OK, "thanks").into_response()]).await;
    assert!(matches!(bench.run().await, StepOutcome::Done { result: None }));
    let large = format!("[{}1]", "1,".repeat(20_000));
    let bench = Bench::new(vec![(StatusCode::OK, large).into_response()]).await;
    let StepOutcome::Done { result: Some(result) } = bench.run().await else {
        panic!("it happened")
    };
    assert!(result.as_str().len() > comanda_model::bounds::RESULT_BYTES_MAX);
}

#[tokio::test]
async fn a_service_that_is_not_there_says_so() {
    let bench = Bench::calling(Receiver::default(), "http://127.0.0.1:1".to_owned());
    let StepOutcome::Failed { reason, .. } = bench.run().await else {
        panic!("it fails")
    };
    assert!(
        reason.contains("POST http://127.0.0.1:1/customers/") && reason.contains("refused"),
        "{reason}"
    );
}
