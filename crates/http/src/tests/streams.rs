//! Live streams: they resume where they broke off, and end when they should.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::{Api, PATIENCE};

/// An open stream.
struct Stream {
    body: Body,
    text: String,
}

/// One event, as it was sent.
#[derive(Debug)]
struct Sent {
    id: String,
    name: String,
    data: Value,
}

impl Stream {
    async fn open(api: &Api, path: &str, last: Option<&str>) -> Self {
        let mut request = Request::get(path).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = api
            .router
            .clone()
            .oneshot(request.body(Body::empty()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.into_body(),
            text: String::new(),
        }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    line.unwrap_or_default().to_owned()
                };
                let sent = Sent {
                    id: field("id"),
                    name: field("event"),
                    data: serde_json::from_str(&field("data")).unwrap_or_default(),
                };
                self.text = rest.to_owned();
                return Some(sent);
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .expect("an event in time")?;
            self.text += std::str::from_utf8(frame.unwrap().data_ref().unwrap()).unwrap();
        }
    }
}

#[tokio::test]
async fn an_order_is_followed_to_its_end() {
    let api = Api::new().await;
    let id = api.submitted("waiting", "{}").await;
    let path = format!("/v1/orders/{id}/events");
    let mut stream = Stream::open(&api, &path, None).await;
    let first = stream.next().await.unwrap();
    assert_eq!(
        (first.id.as_str(), &first.data["type"]),
        ("1", &json!("comanda.order.accepted"))
    );
    api.post(&format!("/v1/orders/{id}/transition"), r#"{"to":"closed"}"#)
        .await;
    let second = stream.next().await.unwrap();
    assert_eq!(
        (second.id.as_str(), &second.data["data"]["to"]),
        ("2", &json!("closed"))
    );
    assert!(stream.next().await.is_none(), "a final order has no more events");
    // Taken up again, after the first and at the end.
    let mut again = Stream::open(&api, &path, Some("1")).await;
    assert_eq!(again.next().await.unwrap().id, "2");
    assert!(again.next().await.is_none());
    let mut ended = Stream::open(&api, &format!("{path}?cursor=2"), None).await;
    assert!(ended.next().await.is_none());
    let bad = api.ask("GET", &path, &[("last-event-id", "x")], "").await;
    assert_eq!(bad.code(400), "invalid-request");
}

#[tokio::test]
async fn the_feed_is_followed_and_taken_up_again() {
    let api = Api::new().await;
    let mut stream = Stream::open(&api, "/v1/events", None).await;
    let first = api.submitted("waiting", "{}").await;
    let sent = stream.next().await.unwrap();
    assert_eq!(sent.data["subject"], first.as_str());
    drop(stream);
    let second = api.submitted("waiting", "{}").await;
    let mut stream = Stream::open(&api, "/v1/events", Some(&sent.id)).await;
    assert_eq!(stream.next().await.unwrap().data["subject"], second.as_str());
    // The same place as a page has it.
    let page = api.get(&format!("/v1/events?cursor={}", sent.id)).await.json();
    assert_eq!(page["items"][0]["subject"], second.as_str());
    let end = page["nextCursor"].as_str().unwrap();
    let empty = api.get(&format!("/v1/events?cursor={end}")).await.json();
    assert_eq!((&empty["items"], empty["nextCursor"].as_str()), (&json!([]), Some(end)));
}

#[tokio::test]
async fn a_stream_from_now_says_where_now_is() {
    let api = Api::new().await;
    api.submitted("waiting", "{}").await;
    let mut stream = Stream::open(&api, "/v1/events?from=newest&type=waiting", None).await;
    let now = stream.next().await.unwrap();
    assert!(!now.id.is_empty() && now.data.is_null());
    api.submitted("sale", r#"{"amount":1,"currency":"EUR"}"#).await;
    let id = api.submitted("waiting", "{}").await;
    assert_eq!(stream.next().await.unwrap().data["subject"], id.as_str());
    assert_eq!(api.get("/v1/events?from=then").await.code(400), "invalid-request");
}

#[tokio::test]
async fn a_cursor_of_another_time_is_reset() {
    let api = Api::new().await;
    let id = api.submitted("waiting", "{}").await;
    let mut stream = Stream::open(&api, "/v1/events", Some("ffff-1")).await;
    assert_eq!(stream.next().await.unwrap().name, "reset");
    assert_eq!(stream.next().await.unwrap().data["subject"], id.as_str());
    assert_eq!(api.get("/v1/events?cursor=ffff-1").await.code(410), "cursor-reset");
    assert_eq!(api.get("/v1/events?cursor=nonsense").await.code(400), "invalid-request");
}

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_server() {
    let api = Api::new().await;
    let id = api.submitted("waiting", "{}").await;
    let mut feed = Stream::open(&api, "/v1/events?from=newest", None).await;
    let mut order = Stream::open(&api, &format!("/v1/orders/{id}/events?cursor=1"), None).await;
    feed.next().await.unwrap();
    let third = api
        .ask("GET", "/v1/events", &[("accept", "text/event-stream")], "")
        .await;
    assert_eq!(third.code(429), "too-many-streams");
    assert_eq!(third.header("retry-after"), "5");
    assert_eq!(api.get("/v1/events").await.status, 200, "pages are not streams");
    api.app.stopping.cancel();
    assert!(feed.next().await.is_none());
    assert!(order.next().await.is_none());
    drop((feed, order));
    assert_eq!(api.get("/readyz").await.status, 503);
    api.service.stop(PATIENCE).await;
    let mut late = Stream::open(&api, &format!("/v1/orders/{id}/events?cursor=1"), None).await;
    assert!(late.next().await.is_none());
}
