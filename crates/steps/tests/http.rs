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
use comanda_model::{Json, Order, OrderId, Token};
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
    step: &'static str,
    uncertain: bool,
    url: String,
}

const TYPE: &str = r#"
name = "calling"
initial = "received"
schema = { type = "object" }
[statuses.received]
steps = ["charge", "book", "sign", "bear", "hasten", "ask_elsewhere", "tell"]
next = "done"
[statuses.done]
final = true
[steps.charge]
http = "POST {{ env.PAY_URL }}/customers/{{ data.user }}/charges?ref={{ id }}"
headers = { Authorization = "Bearer {{ secret.pay }}" }
body = { amount = "{{ data.amount }}", lines = "{{ data.lines }}", note = "for {{ data.user }}" }
[steps.book]
http = "POST {{ env.PAY_URL }}/bookings"
body = { answer_to = "{{ callback.url }}" }
callback = { within = "2h" }
unknown = { http = "GET {{ env.PAY_URL }}/bookings/{{ id }}" }
[steps.sign]
http = "POST {{ env.PAY_URL }}/signed"
body = { a = 1 }
sign = "{{ secret.hook }}"
[steps.bear]
http = "POST {{ env.PAY_URL }}/borne"
[steps.bear.auth]
token_url = "{{ env.PAY_URL }}/token"
client_id = "shop"
client_secret = "{{ secret.pay }}"
scope = "charges"
[steps.hasten]
http = "POST {{ env.PAY_URL }}/hastened"
auth = { token_url = "{{ env.ISSUER }}/token", client_id = "shop", client_secret = "{{ secret.pay }}" }
timeout = "100ms"
[steps.ask_elsewhere]
http = "POST {{ env.PAY_URL }}/tried"
unknown = { http = "GET {{ env.ISSUER }}/done/{{ id }}" }
[steps.tell]
http = "POST {{ data.tell }}"
body = { a = 1 }
sign = "{{ secret.hook }}"
"#;

const TOKEN: Token = Token {
    order: OrderId(Uuid::nil()),
    visit: 1,
    attempt: 2,
    secret: Uuid::from_u128(0x5ec2e7),
};

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
            env: BTreeMap::from([("PAY_URL".to_owned(), url.clone())]),
            secrets: BTreeMap::from([
                ("pay".to_owned(), "s3cret".to_owned()),
                ("hook".to_owned(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
            ]),
            user_agent: "comanda/test".to_owned(),
            public_url: "https://orders.test/".to_owned(),
            ..Options::default()
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
            step: "charge",
            uncertain: false,
            url,
        }
    }

    /// Makes the attempt of another step.
    async fn of_step(answers: Vec<Response>, step: &'static str) -> Self {
        Self {
            step,
            ..Self::new(answers).await
        }
    }

    fn paths(&self) -> Vec<String> {
        let seen = self.receiver.seen.lock().unwrap();
        seen.iter()
            .map(|(method, uri, ..)| format!("{method} {}", uri.path()))
            .collect()
    }

    async fn run(&self) -> StepOutcome {
        let call = StepCall {
            order: &self.order,
            name: self.step,
            step: &self.definition.order_type.steps[self.step],
            attempt: 2,
            undo: false,
            idempotency_key: "order:1".to_owned(),
            undoes: None,
            uncertain: self.uncertain,
            callback: Some(TOKEN),
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
        StatusCode::SERVICE_UNAVAILABLE,
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

#[tokio::test]
async fn what_may_have_happened_is_unknown() {
    for status in [
        StatusCode::INTERNAL_SERVER_ERROR,
        StatusCode::BAD_GATEWAY,
        StatusCode::GATEWAY_TIMEOUT,
    ] {
        let bench = Bench::new(vec![(status, "s3cret").into_response()]).await;
        let StepOutcome::Unknown { reason, .. } = bench.run().await else {
            panic!("{status} leaves it open")
        };
        assert!(reason.ends_with("***"), "{reason}");
    }
    // A connection that is cut after the call was sent.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 64]).await;
    });
    let bench = Bench::calling(Receiver::default(), url);
    assert!(matches!(bench.run().await, StepOutcome::Unknown { .. }));
}

#[tokio::test]
async fn a_question_comes_before_another_try() {
    let asked = async |answer: Response| {
        let mut bench = Bench::of_step(vec![answer], "book").await;
        bench.uncertain = true;
        let outcome = bench.run().await;
        let seen = bench.receiver.seen.lock().unwrap();
        assert!(
            seen.iter()
                .all(|(_, _, headers, _)| headers["idempotency-key"] == "order:1")
        );
        drop(seen);
        (outcome, bench.paths())
    };
    let question = format!("GET /base/bookings/{}", Uuid::nil());
    let (outcome, paths) = asked((StatusCode::OK, r#"{"id":"b_1"}"#).into_response()).await;
    assert!(matches!(outcome, StepOutcome::Done { result: Some(result) } if result.as_str() == r#"{"id":"b_1"}"#));
    assert_eq!(paths.join(" "), question);
    let (outcome, paths) = asked(StatusCode::NOT_FOUND.into_response()).await;
    assert!(matches!(outcome, StepOutcome::Done { .. }));
    assert_eq!(paths, [question.clone(), "POST /base/bookings".to_owned()]);
    let (outcome, paths) = asked(StatusCode::CONFLICT.into_response()).await;
    assert!(matches!(outcome, StepOutcome::Refused { .. }));
    assert_eq!(paths.join(" "), question);
    let (outcome, paths) = asked(StatusCode::SERVICE_UNAVAILABLE.into_response()).await;
    assert!(matches!(outcome, StepOutcome::Unknown { .. }));
    assert_eq!(paths, [question]);
}

#[tokio::test]
async fn a_202_waits_for_its_callback_where_the_step_takes_one() {
    let bench = Bench::of_step(vec![StatusCode::ACCEPTED.into_response()], "book").await;
    assert!(matches!(bench.run().await, StepOutcome::Waiting { secret } if secret == TOKEN.secret));
    let (_, _, headers, body) = bench.receiver.seen.lock().unwrap().pop().unwrap();
    let url = format!("https://orders.test/v1/callbacks/{}", TOKEN.expose());
    assert_eq!(headers["comanda-callback"], url);
    assert_eq!(body, format!(r#"{{"answer_to":"{url}"}}"#));
    assert_eq!(TOKEN.expose().parse::<Token>().unwrap(), TOKEN);
    // Without one a 202 is an answer like any other.
    let bench = Bench::new(vec![StatusCode::ACCEPTED.into_response()]).await;
    assert!(matches!(bench.run().await, StepOutcome::Done { .. }));
    assert!(
        !bench.receiver.seen.lock().unwrap()[0]
            .2
            .contains_key("comanda-callback")
    );
    // What the receiver quotes of the token does not reach a history.
    let echo = (StatusCode::BAD_REQUEST, format!("no: {url}")).into_response();
    let bench = Bench::of_step(vec![echo], "book").await;
    let StepOutcome::Failed { reason, .. } = bench.run().await else {
        panic!("it fails")
    };
    assert!(!reason.contains(&TOKEN.secret.simple().to_string()), "{reason}");
}

#[tokio::test]
async fn a_call_is_signed_where_the_type_says_so() {
    let bench = Bench::of_step(vec![], "sign").await;
    assert!(matches!(bench.run().await, StepOutcome::Done { .. }));
    let (_, _, headers, _) = bench.receiver.seen.lock().unwrap().pop().unwrap();
    assert_eq!(headers["webhook-id"], "order:1");
    assert!(headers["webhook-signature"].to_str().unwrap().starts_with("v1,"));
    assert!(headers.contains_key("webhook-timestamp"));
}

fn granted(token: &str) -> Response {
    let body = format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":3600}}"#);
    (StatusCode::OK, body).into_response()
}

#[tokio::test]
async fn a_token_is_fetched_once_and_again_when_it_is_not_taken() {
    let not_taken = |token: &str| (StatusCode::UNAUTHORIZED, format!("{token} is over")).into_response();
    let answers = vec![
        granted("t0ken"),
        StatusCode::NO_CONTENT.into_response(),
        // It ends while it is in use: the call is made again with another, in the same attempt.
        not_taken("t0ken"),
        granted("an0ther"),
        StatusCode::NO_CONTENT.into_response(),
        // A new one that is not taken either is told.
        not_taken("an0ther"),
        granted("th1rd"),
        not_taken("th1rd"),
        granted("f0urth"),
        StatusCode::NO_CONTENT.into_response(),
    ];
    let bench = Bench::of_step(answers, "bear").await;
    assert!(matches!(bench.run().await, StepOutcome::Done { .. }));
    assert!(matches!(bench.run().await, StepOutcome::Done { .. }));
    let StepOutcome::Failed { reason, .. } = bench.run().await else {
        panic!("401 to a new token is tried again later")
    };
    assert!(!reason.contains("th1rd") && reason.contains("*** is over"), "{reason}");
    assert!(matches!(bench.run().await, StepOutcome::Done { .. }));
    let (token, borne) = ("POST /base/token", "POST /base/borne");
    assert_eq!(
        bench.paths(),
        [token, borne, borne, token, borne, borne, token, borne, token, borne]
    );
    let seen = bench.receiver.seen.lock().unwrap();
    assert_eq!(seen[0].2["authorization"], "Basic c2hvcDpzM2NyZXQ=");
    assert_eq!(seen[0].3, "grant_type=client_credentials&scope=charges");
    assert_eq!(seen[1].2["authorization"], "Bearer t0ken");
    assert_eq!(seen[4].2["authorization"], "Bearer an0ther");
    assert_eq!(seen[2].2["idempotency-key"], seen[4].2["idempotency-key"]);
}

#[tokio::test]
async fn no_token_is_a_failure_that_says_so_and_spoils_no_other_text() {
    for (status, body) in [
        (StatusCode::FORBIDDEN, r#"{"error":"invalid_client","was":"s3cret"}"#),
        (StatusCode::OK, "<html>log in</html>"),
        (StatusCode::OK, r#"{"access_token":""}"#),
        (StatusCode::OK, r#"{"access_token":"a\nb"}"#),
        (StatusCode::OK, r#"{"access_token":"abc","token_type":"mac"}"#),
    ] {
        let answers = vec![
            (status, body).into_response(),
            granted("t0ken"),
            (StatusCode::BAD_REQUEST, "not so").into_response(),
        ];
        let bench = Bench::of_step(answers, "bear").await;
        let StepOutcome::Failed { reason, .. } = bench.run().await else {
            panic!("{body} is no token")
        };
        assert!(
            reason.starts_with("no token for the call: the token endpoint") && !reason.contains("s3cret"),
            "{reason}"
        );
        // It is not kept: the next attempt fetches another.
        let StepOutcome::Failed { reason, .. } = bench.run().await else {
            panic!("400 is tried again")
        };
        assert!(reason.ends_with("/base/borne: 400 Bad Request: not so"), "{reason}");
    }
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_is_told_and_then_held_back() {
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut bench = Bench::of_step(vec![], "hasten").await;
    bench.steps = Steps::new(Options {
        env: BTreeMap::from([
            ("PAY_URL".to_owned(), bench.url.clone()),
            ("ISSUER".to_owned(), format!("http://{}", silent.local_addr().unwrap())),
        ]),
        secrets: BTreeMap::from([("pay".to_owned(), "s3cret".to_owned())]),
        circuit_failures: 2,
        ..Options::default()
    })
    .unwrap();
    let (one, two) = tokio::join!(bench.run(), bench.run());
    for outcome in [one, two] {
        // The call itself was never made, so this is not unknown.
        let StepOutcome::Failed { reason, .. } = outcome else {
            panic!("{outcome:?}")
        };
        assert!(
            reason.contains("the token endpoint did not answer within 50ms"),
            "{reason}"
        );
    }
    let StepOutcome::Postponed { reason, after } = bench.run().await else {
        panic!("it was tried again")
    };
    assert!(reason.contains("failed 2 times in a row"), "{reason}");
    assert!(after <= Duration::from_secs(10));
    assert!(bench.paths().is_empty());
}

#[tokio::test]
async fn what_a_service_quotes_of_its_call_is_neither_kept_nor_told() {
    let secret = "long/secret \"with\" all+";
    let echo = |status: StatusCode| {
        let body = serde_json::json!({"id": "ch_1", "seen": {"authorization": format!("Bearer {secret}")}, "n": 1});
        (status, body.to_string()).into_response()
    };
    let redirect = [(
        "Location",
        "/log-in?was=long%2Fsecret%20%22with%22%20all%2B#long%2Fsecret",
    )];
    let mut bench = Bench::new(vec![
        echo(StatusCode::OK),
        echo(StatusCode::CONFLICT),
        echo(StatusCode::INTERNAL_SERVER_ERROR),
        (StatusCode::FOUND, redirect).into_response(),
    ])
    .await;
    bench.steps = Steps::new(Options {
        env: BTreeMap::from([("PAY_URL".to_owned(), bench.url.clone())]),
        secrets: BTreeMap::from([("pay".to_owned(), secret.to_owned())]),
        ..Options::default()
    })
    .unwrap();
    let StepOutcome::Done { result: Some(result) } = bench.run().await else {
        panic!("done with a result")
    };
    assert_eq!(result.as_str(), r#"{"id":"ch_1","seen":{"authorization":"***"},"n":1}"#);
    for outcome in [bench.run().await, bench.run().await] {
        let (StepOutcome::Refused { reason } | StepOutcome::Unknown { reason, .. }) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(reason.contains("***") && !reason.contains("all+"), "{reason}");
    }
    let StepOutcome::Failed { reason, .. } = bench.run().await else {
        panic!("a redirect is not followed")
    };
    assert!(
        reason.contains("/log-in (redirects are not followed)") && !reason.contains("long"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_question_to_a_service_that_is_held_back_waits_and_uses_up_no_attempt() {
    let mut bench = Bench::of_step(vec![], "ask_elsewhere").await;
    bench.steps = Steps::new(Options {
        env: BTreeMap::from([
            ("PAY_URL".to_owned(), bench.url.clone()),
            ("ISSUER".to_owned(), "http://127.0.0.1:1".to_owned()),
        ]),
        circuit_failures: 1,
        ..Options::default()
    })
    .unwrap();
    bench.uncertain = true;
    assert!(matches!(bench.run().await, StepOutcome::Unknown { .. }));
    let StepOutcome::Postponed { reason, .. } = bench.run().await else {
        panic!("it was asked again")
    };
    assert!(reason.contains("http://127.0.0.1:1 are held back"), "{reason}");
    assert!(bench.paths().is_empty(), "it is not tried again while nobody knows");
}

#[tokio::test]
async fn many_calls_at_once_fetch_one_token() {
    let granted = (StatusCode::OK, r#"{"access_token":"t"}"#).into_response();
    let bench = Bench::of_step(vec![granted], "bear").await;
    let (one, two, three) = tokio::join!(bench.run(), bench.run(), bench.run());
    for outcome in [one, two, three] {
        assert!(matches!(outcome, StepOutcome::Done { .. }), "{outcome:?}");
    }
    let tokens = bench.paths().iter().filter(|path| path.ends_with("/token")).count();
    assert_eq!(tokens, 1);
}

#[tokio::test]
async fn an_order_points_no_call_inside_unless_the_operator_allows_it() {
    let redirect = || (StatusCode::FOUND, [("location", "http://127.0.0.1:1/")]).into_response();
    let mut bench = Bench::of_step(vec![StatusCode::OK.into_response(), redirect()], "tell").await;
    let port = reqwest::Url::parse(&bench.url).unwrap().port().unwrap();
    let tell = |to: &str| Json::parse(&format!(r#"{{"tell":"{}"}}"#, to.replace("PORT", &port.to_string()))).unwrap();
    for to in [
        "http://127.0.0.1:PORT/",
        "http://2130706433:PORT/",
        "http://0x7f.1:PORT/",
        "http://0.0.0.0:PORT/",
        "http://localhost:PORT/",
        "http://[::1]:PORT/",
        "http://[::ffff:127.0.0.1]:PORT/",
        "http://[64:ff9b::7f00:1]:PORT/",
        "http://169.254.169.254/latest/meta-data/",
        "http://user:word@shop.example/",
        "file:///etc/passwd",
        "/etc/passwd",
    ] {
        bench.order.data = tell(to);
        let StepOutcome::Failed { reason, .. } = bench.run().await else {
            panic!("{to} was called")
        };
        assert!(!reason.contains("s3cret"), "{reason}");
    }
    assert!(bench.paths().is_empty(), "{:?}", bench.paths());
    bench.steps = Steps::new(Options {
        secrets: BTreeMap::from([("hook".to_owned(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned())]),
        allow_private: true,
        ..Options::default()
    })
    .unwrap();
    bench.order.data = tell("http://localhost:PORT/here?a=b");
    assert!(matches!(bench.run().await, StepOutcome::Done { .. }));
    let StepOutcome::Failed { reason, .. } = bench.run().await else {
        panic!("a redirect is no answer")
    };
    assert!(reason.contains("redirects are not followed"), "{reason}");
    assert_eq!(bench.paths(), ["POST /here", "POST /here"]);
}
