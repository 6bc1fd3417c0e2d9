//! The server on a real socket: where it listens, what it bounds, how it stops.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Api, PATIENCE};
use crate::{BindError, KeyRing, Options, Scope, Server};

struct Running {
    api: Api,
    address: std::net::SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(change: impl FnOnce(&mut Options)) -> Self {
        let api = Api::with(change, &[]).await;
        let server = Server::bind(api.app.options.clone(), api.service.clone())
            .await
            .unwrap();
        let address = server.local_addr();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(server.run(shutdown.clone()));
        Self {
            api,
            address,
            shutdown,
            task,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

/// Everything up to the end of the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes))
        .await
        .expect("an end in time");
    // A connection that is cut ends like one that is closed, as far as this is concerned.
    let _ = read;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One answer without a body, or the head of one.
async fn head(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(
            tokio::time::timeout(PATIENCE, stream.read_u8())
                .await
                .expect("a head in time")
                .unwrap(),
        );
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn an_address_is_refused_with_a_reason() {
    let first = Running::start(|_| {}).await;
    let options = Options {
        listen: first.address,
        ..first.api.app.options.clone()
    };
    let error = Server::bind(options.clone(), first.api.service.clone())
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, BindError::PortInUse { addr } if addr == first.address),
        "{error:?}"
    );
    let listen = ([0, 0, 0, 0], 0).into();
    let open = Options { listen, ..options };
    let error = Server::bind(open.clone(), first.api.service.clone())
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, BindError::KeysNeeded { addr } if addr == listen),
        "{error:?}"
    );
    let said = Options {
        insecure: true,
        ..open.clone()
    };
    assert!(Server::bind(said, first.api.service.clone()).await.is_ok());
    let file = first.api.home.path().join("other.json");
    KeyRing::create(&file, "k", &[Scope::Read], None).unwrap();
    let keyed = Options {
        keys: std::sync::Arc::new(KeyRing::open(&file).unwrap()),
        ..open
    };
    assert!(Server::bind(keyed, first.api.service.clone()).await.is_ok());
}

#[tokio::test]
async fn a_connection_is_kept_and_errors_have_the_right_length() {
    let server = Running::start(|_| {}).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let text = rest(&mut stream).await;
    assert!(
        text.starts_with("HTTP/1.1 404") && text.contains("\"code\":\"not-found\""),
        "{text}"
    );
    assert!(
        text.contains("}HTTP/1.1 200 OK") && text.ends_with("\r\n\r\nok\n"),
        "{text}"
    );
    assert!(text.contains("\r\ndate: "), "{text}");
}

#[tokio::test]
async fn a_head_is_bounded_in_size_and_time() {
    let server = Running::start(|options| options.header_read_timeout = Duration::from_millis(100)).await;
    let mut large = server.connect().await;
    let line = format!(
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "x".repeat(64 * 1024)
    );
    // The server may cut it off while it is still being sent.
    let _ = large.write_all(line.as_bytes()).await;
    let text = rest(&mut large).await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 431"), "{text}");
    let mut slow = server.connect().await;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: lo").await.unwrap();
    let text = rest(&mut slow).await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
}

#[tokio::test]
async fn a_body_is_bounded_in_size_and_time() {
    let server = Running::start(|options| options.request_timeout = Duration::from_millis(100)).await;
    let mut large = server.connect().await;
    large
        .write_all(b"POST /v1/orders HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut large).await.starts_with("HTTP/1.1 413"));
    let mut slow = server.connect().await;
    slow.write_all(b"POST /v1/orders HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n{")
        .await
        .unwrap();
    let answered = head(&mut slow).await;
    assert!(
        answered.starts_with("HTTP/1.1 503") && answered.contains("retry-after: 1"),
        "{answered}"
    );
}

#[tokio::test]
async fn further_connections_wait_for_their_turn() {
    let server = Running::start(|options| options.connections_max = 1).await;
    let ask = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut first = server.connect().await;
    first.write_all(ask).await.unwrap();
    head(&mut first).await;
    let mut second = server.connect().await;
    second.write_all(ask).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), second.read_u8()).await;
    assert!(early.is_err(), "it is not its turn");
    drop(first);
    assert!(head(&mut second).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_stop_lets_what_is_under_way_end() {
    let server = Running::start(|_| {}).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    head(&mut idle).await;
    let mut stream = server.connect().await;
    let ask = b"GET /v1/events?from=newest HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    head(&mut stream).await;
    let mut busy = server.connect().await;
    let body = r#"{"amount":1,"currency":"EUR"}"#;
    let (begun, left) = body.split_at(5);
    let ask = format!(
        "POST /sale HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{begun}",
        body.len()
    );
    busy.write_all(ask.as_bytes()).await.unwrap();
    // Asked and answered over the same accept loop: the request before it has been taken up by then.
    let mut other = server.connect().await;
    other
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    head(&mut other).await;
    server.shutdown.cancel();
    rest(&mut idle).await;
    rest(&mut stream).await;
    busy.write_all(left.as_bytes()).await.unwrap();
    assert!(head(&mut busy).await.starts_with("HTTP/1.1 202"));
    tokio::time::timeout(PATIENCE, server.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
