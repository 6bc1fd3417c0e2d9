//! The engine inside a program: what it refuses to start with, who may use its API, how it ends, and what is there after.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use comanda_embed::{
    Access, BindError, Change, Comanda, FeedStart, Json, Outcome, ServerError, StartError, Submission, WaitFor, builder,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower::ServiceExt;

const PATIENCE: Duration = Duration::from_secs(30);

const NOTE: &str = r#"
name = "note"
initial = "open"
cancel = "closed"
[schema]
type = "object"
required = ["text"]
[statuses.open]
steps = ["write"]
next = "kept"
[statuses.kept]
to = ["closed"]
[statuses.closed]
final = true
undo = true
[steps.write]
use = "desk.write"
undo = { use = "desk.tear" }
"#;

fn desk() -> comanda_embed::Builder {
    builder()
        .order_type(NOTE)
        .step("desk.write", |_| async { Outcome::done() })
        .step("desk.tear", |_| async { Outcome::done() })
}

fn note() -> Submission {
    Submission {
        key: Some("n-1".to_owned()),
        ..Submission::new("note", Json::parse(r#"{"text":"milk"}"#).unwrap())
    }
}

/// Asks the router, as a client of this machine does.
async fn ask(router: &Router, path: &str) -> StatusCode {
    let request = Request::get(path)
        .header("host", "127.0.0.1")
        .body(Body::empty())
        .unwrap();
    router.clone().oneshot(request).await.unwrap().status()
}

#[tokio::test]
async fn orders_live_on_from_one_start_to_the_next() {
    let home = tempfile::tempdir().unwrap();
    let comanda = desk().sqlite(home.path()).start().await.unwrap();
    let accepted = comanda.submit(note()).await.unwrap();
    let order = comanda
        .wait(accepted.id(), WaitFor::VersionAfter(1), PATIENCE)
        .await
        .unwrap();
    assert_eq!(&*order.unwrap().status, "kept");
    comanda.stop().await.unwrap();
    comanda.stop().await.unwrap();
    assert!(comanda.submit(note()).await.is_err(), "it has stopped");

    let comanda = desk().sqlite(home.path()).start().await.unwrap();
    assert!(comanda.submit(note()).await.unwrap().repeated);
    let order = comanda.order_by_key("note", "n-1").await.unwrap().unwrap();
    assert_eq!((order.id, &*order.status), (accepted.id(), "kept"));
    comanda.cancel(order.id, Change::by("test")).await.unwrap();
    let order = comanda.wait(order.id, WaitFor::Rest, PATIENCE).await.unwrap().unwrap();
    assert_eq!((&*order.status, order.is_final), ("closed", true));
    let history = comanda.history(order.id, 0, 100).await.unwrap();
    let page = comanda.events(FeedStart::Oldest, 100).await.unwrap();
    assert_eq!(
        page.events.iter().map(|event| &event.event).collect::<Vec<_>>(),
        history.iter().collect::<Vec<_>>()
    );
    comanda.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_waits_for_events_hears_of_each_and_of_the_end() {
    let comanda = desk().start().await.unwrap();
    let waiting = tokio::spawn({
        let comanda = comanda.clone();
        async move {
            let (mut heard, mut from) = (Vec::new(), FeedStart::Oldest);
            loop {
                let page = comanda.next_events(from, 1).await.unwrap();
                if page.events.is_empty() {
                    return heard;
                }
                from = FeedStart::After(page.next);
                heard.extend(page.events);
            }
        }
    });
    let accepted = comanda.submit(note()).await.unwrap();
    let order = comanda
        .wait(accepted.id(), WaitFor::VersionAfter(1), PATIENCE)
        .await
        .unwrap();
    assert_eq!(&*order.unwrap().status, "kept");
    let all = comanda.events(FeedStart::Oldest, 100).await.unwrap().events;
    comanda.stop().await.unwrap();
    let heard = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(!heard.is_empty() && all.starts_with(&heard), "{heard:?}");
}

#[tokio::test]
async fn a_start_says_what_is_wrong() {
    let broken = NOTE.replace("next = \"kept\"", "next = \"kpet\"");
    let error = builder().order_type(NOTE).order_type(broken).start().await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("order type 2") && said.contains("did you mean \"kept\"?"),
        "{said}"
    );

    let error = builder().order_type(NOTE).start().await.unwrap_err();
    assert!(
        matches!(error, StartError::Engine(_)) && error.to_string().contains("desk."),
        "{error}"
    );

    let other = NOTE.replace("cancel = \"closed\"", "cancel = \"closed\" # as it should be");
    let error = desk().order_type(other).start().await.unwrap_err();
    assert!(
        matches!(&error, StartError::Doubled { name } if name == "note"),
        "{error}"
    );

    let error = desk().order_types("not-there").start().await.unwrap_err();
    assert!(matches!(error, StartError::NoDirectory { .. }), "{error}");

    let secret = NOTE.replace(
        "use = \"desk.write\"",
        "http = \"POST https://desk.example\"\nheaders = { A = \"{{ secret.desk }}\" }",
    );
    let error = desk().order_type(secret.clone()).start().await.unwrap_err();
    assert!(error.to_string().contains("desk"), "{error}");
    let comanda = builder()
        .order_type(secret)
        .secret("desk", "1234")
        .step("desk.tear", |_| async { Outcome::done() })
        .start()
        .await
        .unwrap();
    comanda.stop().await.unwrap();
}

#[tokio::test]
async fn a_start_that_fails_lets_go_of_the_store() {
    let home = tempfile::tempdir().unwrap();
    builder()
        .order_type(NOTE)
        .sqlite(home.path())
        .start()
        .await
        .unwrap_err();
    let comanda = desk().sqlite(home.path()).start().await.unwrap();
    let error = desk().sqlite(home.path()).start().await.unwrap_err();
    assert!(matches!(error, StartError::Store(_)), "{error}");
    comanda.stop().await.unwrap();
}

#[tokio::test]
async fn the_router_stands_behind_routes_of_ones_own() {
    let home = tempfile::tempdir().unwrap();
    let comanda = desk().start().await.unwrap();
    let behind = |access| {
        Router::new()
            .route("/hello", get(|| async { "hello" }))
            .fallback_service(comanda.router(access).unwrap())
    };
    let local = behind(Access::Local);
    for path in [
        "/hello",
        "/v1/orders",
        "/docs",
        "/openapi.json",
        "/healthz",
        "/readyz",
        "/v1/subscriptions",
    ] {
        assert_eq!(ask(&local, path).await, StatusCode::OK, "{path}");
    }
    assert_eq!(ask(&local, "/v1/nothing").await, StatusCode::NOT_FOUND);
    let foreign = Request::get("/v1/orders")
        .header("host", "shop.example")
        .body(Body::empty())
        .unwrap();
    assert!(local.oneshot(foreign).await.unwrap().status().is_client_error());
    let keyless = behind(Access::Keys(home.path().join("keys.json")));
    assert_eq!(
        ask(&keyless, "/v1/orders").await,
        StatusCode::UNAUTHORIZED,
        "without any key it is closed"
    );
    assert_eq!(ask(&keyless, "/healthz").await, StatusCode::OK);
    assert_eq!(ask(&behind(Access::Open), "/v1/orders").await, StatusCode::OK);
    comanda.stop().await.unwrap();
}

async fn bind(comanda: &Comanda, listen: [u8; 4], access: Access) -> Result<comanda_embed::Server, ServerError> {
    comanda.bind(SocketAddr::from((listen, 0)), access).await
}

#[tokio::test]
async fn the_server_ends_with_the_engine_also_under_a_stream() {
    let comanda = desk().start().await.unwrap();
    let refused = bind(&comanda, [0, 0, 0, 0], Access::Local).await.unwrap_err();
    assert!(
        matches!(refused, ServerError::Bind(BindError::KeysNeeded { .. })),
        "{refused}"
    );
    // One that is bound and never run does not hold up the stop.
    let _idle = bind(&comanda, [127, 0, 0, 1], Access::Local).await.unwrap();
    let server = bind(&comanda, [127, 0, 0, 1], Access::Local).await.unwrap();
    let address = server.local_addr();
    let running = tokio::spawn(server.run());
    comanda.submit(note()).await.unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /v1/events HTTP/1.1\r\nhost: {address}\r\naccept: text/event-stream\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    tokio::time::timeout(PATIENCE, comanda.stop()).await.unwrap().unwrap();
    tokio::time::timeout(PATIENCE, running).await.unwrap().unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}
