//! Sources over the engine and the in-memory store: what is believed, what is taken once, what is kept with its reason,
//! and a directory that is left in the middle.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use comanda_engine::{Options, Service, StepCall, StepRunner};
use comanda_intake::{
    Configured, DirectoryOptions, FeedOptions, Intake, IntakeError, KEPT, Kind, Taken, WebhookError, WebhookOptions,
    Which,
};
use comanda_model::OrderId;
use comanda_model::decision::StepOutcome;
use comanda_order_type::{Bundle, Known, read};
use comanda_outbound::{Signer, Unverified, signature};
use comanda_store::ListQuery;
use comanda_store::memory::MemoryStore;
use http::HeaderMap;

const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const PUBLIC: &str = "whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=";
const SEED: &str = "whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

const STRICT: &str = r#"
name = "parcel"
initial = "A"
schema = { type = "object", required = ["n"], properties = { n = { type = "number" } } }
[statuses.A]
to = ["B"]
[statuses.B]
final = true
"#;

struct NoSteps;

#[async_trait]
impl StepRunner for NoSteps {
    async fn run(&self, _: StepCall<'_>) -> StepOutcome {
        StepOutcome::Done { result: None }
    }
}

async fn engine(text: &str) -> Service {
    let store = Arc::new(MemoryStore::default());
    let options = Options::default();
    let service = Service::start(options, store, Arc::new(NoSteps), Vec::new())
        .await
        .unwrap();
    types(&service, text).await;
    service
}

async fn types(service: &Service, text: &str) {
    let bundle = Bundle {
        path: "test.toml".to_owned(),
        text: text.to_owned(),
        schema: None,
    };
    let definition = read(&bundle, &Known::default()).definition.unwrap();
    service.registry().replace(vec![definition]).await.unwrap();
}

fn configured(data: &str, kind: Kind) -> Configured {
    Configured {
        name: "shop".to_owned(),
        order_type: "parcel".to_owned(),
        data: data.to_owned(),
        kept: KEPT,
        kind,
    }
}

async fn webhook(service: &Service, secrets: &[&str]) -> Intake {
    let secrets = secrets.iter().map(|secret| (*secret).to_owned()).collect();
    let kind = Kind::Webhook(WebhookOptions { secrets });
    Intake::start(service.clone(), vec![configured("/data", kind)])
        .await
        .unwrap()
}

/// Signed headers of a message that was sent so many seconds ago.
fn signed(service: &Service, secret: &str, id: &str, body: &str, ago: i64) -> HeaderMap {
    let signer = Signer::from_secret(secret).unwrap();
    let at = service.now().as_second() - ago;
    let mut headers = HeaderMap::new();
    for (name, value) in signature::headers([&signer], id, at, body.as_bytes()) {
        headers.insert(name, value.parse().unwrap());
    }
    headers
}

async fn send(intake: &Intake, headers: &HeaderMap, body: &str) -> Result<Taken, IntakeError> {
    intake
        .receive("shop", headers, Bytes::copy_from_slice(body.as_bytes()))
        .await
}

async fn data(service: &Service, taken: Taken) -> String {
    let Taken::Accepted(id) = taken else {
        panic!("{taken:?}")
    };
    let found = service.find(id).await.unwrap().unwrap();
    found.stored.order.data.as_str().to_owned()
}

async fn orders(service: &Service) -> Vec<(OrderId, String)> {
    let query = ListQuery {
        limit: 500,
        ..ListQuery::default()
    };
    let page = service.store().list(&query).await.unwrap();
    let each = page
        .orders
        .into_iter()
        .map(|stored| (stored.order.id(), stored.order.data.as_str().to_owned()));
    each.collect()
}

#[tokio::test]
async fn only_what_is_signed_right_and_in_time_is_believed() {
    let service = engine(STRICT).await;
    let intake = webhook(&service, &[NEW, OLD, PUBLIC]).await;
    let body = r#"{"type":"x","data":{"n":1.10}}"#;
    for (n, secret) in [OLD, NEW, SEED].into_iter().enumerate() {
        let headers = signed(&service, secret, &format!("m{n}"), body, 200);
        let taken = send(&intake, &headers, body).await.unwrap();
        assert_eq!(data(&service, taken).await, r#"{"n":1.10}"#, "digits are kept");
    }
    let unverified = |result: Result<Taken, IntakeError>| match result {
        Err(IntakeError::Webhook(WebhookError::Unverified(why))) => why,
        other => panic!("{other:?}"),
    };
    let right = signed(&service, OLD, "m9", body, 0);
    assert_eq!(
        unverified(send(&intake, &right, r#"{"data":{"n":2}}"#).await),
        Unverified::Signature
    );
    for ago in [400, -400] {
        let late = signed(&service, OLD, "m9", body, ago);
        assert_eq!(unverified(send(&intake, &late, body).await), Unverified::Expired);
    }
    let mut without = right.clone();
    without.remove("webhook-signature");
    let missing = send(&intake, &without, body).await.unwrap_err();
    assert!(matches!(
        missing,
        IntakeError::Webhook(WebhookError::Header("webhook-signature"))
    ));
    // The old secret is given up.
    let intake = webhook(&service, &[NEW]).await;
    assert_eq!(unverified(send(&intake, &right, body).await), Unverified::Signature);
    let unknown = intake.receive("none", &right, Bytes::new()).await.unwrap_err();
    assert!(matches!(unknown, IntakeError::Unknown(_)));
    assert_eq!(
        orders(&service).await.len(),
        3,
        "nothing that is not believed leaves a trace"
    );
    assert_eq!(intake.rejected("shop").await.unwrap(), []);
}

#[tokio::test]
async fn a_message_twice_is_one_order_in_whatever_order_they_come() {
    let service = engine(STRICT).await;
    let intake = webhook(&service, &[OLD]).await;
    let message = |n: usize| format!(r#"{{"data":{{"n":{n}}}}}"#);
    let mut taken = Vec::new();
    for n in [3, 1, 2, 1, 3] {
        let body = message(n);
        taken.push(
            send(&intake, &signed(&service, OLD, &format!("m{n}"), &body, 0), &body)
                .await
                .unwrap(),
        );
    }
    let id = |taken: &Taken| match taken {
        Taken::Accepted(id) | Taken::Repeated(id) => *id,
        Taken::Rejected(reason) => panic!("{reason}"),
    };
    assert!(matches!(taken[3], Taken::Repeated(_)) && id(&taken[3]) == id(&taken[1]));
    assert_eq!(id(&taken[4]), id(&taken[0]));
    assert_eq!(orders(&service).await.len(), 3);
    // Another content under the same id is no repetition.
    let body = message(7);
    let other = send(&intake, &signed(&service, OLD, "m1", &body, 0), &body)
        .await
        .unwrap();
    assert!(matches!(other, Taken::Rejected(_)), "{other:?}");
}

#[tokio::test]
async fn cloud_events_are_understood_in_both_modes() {
    let service = engine(STRICT).await;
    let intake = webhook(&service, &[OLD]).await;
    let structured = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"n":4.0}}"#;
    let mut headers = signed(&service, OLD, "e1", structured, 0);
    headers.insert(
        "content-type",
        "application/cloudevents+json; charset=utf-8".parse().unwrap(),
    );
    let taken = send(&intake, &headers, structured).await.unwrap();
    assert_eq!(data(&service, taken).await, r#"{"n":4.0}"#);
    let binary = r#"{"n":5.0}"#;
    let mut headers = signed(&service, OLD, "e2", binary, 0);
    for (name, value) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "2"),
        ("content-type", "application/json"),
    ] {
        headers.insert(name, value.parse().unwrap());
    }
    let taken = send(&intake, &headers, binary).await.unwrap();
    assert_eq!(data(&service, taken).await, binary);
}

#[tokio::test]
async fn what_no_order_can_be_made_of_is_kept_and_can_be_tried_again_or_given_up() {
    let service = engine(STRICT).await;
    let intake = webhook(&service, &[OLD]).await;
    let large = format!(r#"{{"data":{{"m":1,"pad":"{}"}}}}"#, "x".repeat(30_000));
    for (id, body) in [
        ("no-json", "{"),
        ("no-data", "{}"),
        ("wrong", r#"{"data":{"m":1}}"#),
        ("large", &large),
    ] {
        for _ in 0..2 {
            let taken = send(&intake, &signed(&service, OLD, id, body, 0), body).await.unwrap();
            assert!(matches!(taken, Taken::Rejected(_)), "{id}: {taken:?}");
        }
    }
    // A restart knows them.
    let intake = webhook(&service, &[OLD]).await;
    let kept = intake.rejected("shop").await.unwrap();
    let mut ids: Vec<&str> = kept.iter().map(|one| one.id.as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["large", "no-data", "no-json", "wrong"], "each once");
    let wrong = kept.iter().find(|one| one.id == "wrong").unwrap();
    assert!(wrong.reason.contains('n') && !wrong.truncated, "{wrong:?}");
    let again = intake.retry("shop", Which::All).await.unwrap();
    assert_eq!((again.accepted, again.rejected.len()), (0, 4));
    // The type was the mistake.
    types(&service, &STRICT.replace("\"n\"", "\"m\"").replace("{ n =", "{ m =")).await;
    let again = intake.retry("shop", Which::All).await.unwrap();
    assert_eq!((again.accepted, again.rejected.len()), (2, 2));
    let all = orders(&service).await;
    assert!(
        all.iter().any(|(_, data)| data.len() > 30_000),
        "the large one is whole"
    );
    // Sent once more, they are the same orders.
    let body = r#"{"data":{"m":1}}"#;
    let repeated = send(&intake, &signed(&service, OLD, "wrong", body, 0), body)
        .await
        .unwrap();
    assert!(matches!(repeated, Taken::Repeated(_)));
    assert_eq!(
        intake
            .discard("shop", Which::Ids(vec!["no-json".to_owned()]))
            .await
            .unwrap(),
        1
    );
    assert_eq!(intake.rejected("shop").await.unwrap().len(), 1);
    assert_eq!(intake.sources().await[0].rejected, 1);
}

#[tokio::test]
async fn a_source_that_sends_only_nonsense_is_told_to_wait() {
    let service = engine(STRICT).await;
    let intake = webhook(&service, &[OLD]).await;
    for n in 0..comanda_intake::REJECTED_MAX {
        send(&intake, &signed(&service, OLD, &format!("m{n}"), "{}", 0), "{}")
            .await
            .unwrap();
    }
    let full = send(&intake, &signed(&service, OLD, "one-more", "{}", 0), "{}")
        .await
        .unwrap_err();
    assert!(matches!(full, IntakeError::Full(_)), "{full:?}");
    let body = r#"{"data":{"n":1}}"#;
    send(&intake, &signed(&service, OLD, "good", body, 0), body)
        .await
        .unwrap();
    assert_eq!(intake.discard("shop", Which::All).await.unwrap(), 1000);
    send(&intake, &signed(&service, OLD, "one-more", "{}", 0), "{}")
        .await
        .unwrap();
}

async fn directory(service: &Service, path: &Path, id: Option<&str>) -> Intake {
    let kind = Kind::Directory(DirectoryOptions {
        path: path.to_owned(),
        id: id.map(str::to_owned),
    });
    Intake::start(service.clone(), vec![configured("", kind)])
        .await
        .unwrap()
}

fn put(path: &Path, name: &str, text: &str) {
    std::fs::write(path.join(".writing"), text).unwrap();
    std::fs::rename(path.join(".writing"), path.join(name)).unwrap();
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "never: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_taken_line_by_line_and_what_is_bad_stands_beside_its_reason() {
    let service = engine(STRICT).await;
    let home = tempfile::tempdir().unwrap();
    let path = home.path();
    let intake = directory(&service, path, Some("/id")).await;
    until("the directories are made", || path.join("rejected").is_dir()).await;
    let long = "x".repeat((1 << 20) + 10);
    put(
        path,
        "b.ndjson",
        &format!("{{\"id\":\"m1\",\"n\":1.10}}\n\nnot json\r\n{{\"pad\":\"{long}\"}}\n{{\"id\":2,\"n\":2}}"),
    );
    until("it is done", || path.join("done/b.ndjson").exists()).await;
    // The same messages in another file, one of them new; and a file that is not finished.
    put(
        path,
        "c.jsonl",
        "{\"id\":\"m1\",\"n\":1.10}\n{\"id\":2,\"n\":2}\n{\"id\":3,\"n\":3}\n",
    );
    std::fs::write(path.join(".later.ndjson"), "{\"id\":4,\"n\":4}\n").unwrap();
    until("it is done", || path.join("done/c.jsonl").exists()).await;
    let mut all: Vec<String> = orders(&service).await.into_iter().map(|(_, data)| data).collect();
    all.sort_unstable();
    assert_eq!(
        all,
        ["{\"id\":\"m1\",\"n\":1.10}", "{\"id\":2,\"n\":2}", "{\"id\":3,\"n\":3}"]
    );
    let rejected = std::fs::read_to_string(path.join("rejected/b.ndjson")).unwrap();
    assert!(rejected.starts_with("not json\n{\"pad\":\"xxx") && rejected.lines().count() == 2);
    let reasons = std::fs::read_to_string(path.join("rejected/b.ndjson.reasons")).unwrap();
    let lines: Vec<&str> = reasons.lines().collect();
    assert!(
        lines[0].starts_with("{\"line\":3,") && lines[1].starts_with("{\"line\":4,"),
        "{reasons}"
    );
    assert_eq!(intake.rejected("shop").await.unwrap().len(), 2);
    // The same file once more, under the same name: it is known, and it does not replace the first.
    put(
        path,
        "c.jsonl",
        "{\"id\":\"m1\",\"n\":1.10}\n{\"id\":2,\"n\":2}\n{\"id\":3,\"n\":3}\n",
    );
    until("it is done again", || {
        std::fs::read_dir(path.join("done")).unwrap().count() == 3
    })
    .await;
    assert_eq!(orders(&service).await.len(), 3);
    intake.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn left_in_the_middle_a_file_is_taken_up_where_it_was_and_nothing_twice() {
    let service = engine(STRICT).await;
    let home = tempfile::tempdir().unwrap();
    let lines: String = (0..450)
        .map(|n| {
            if n % 10 == 0 {
                format!("bad {n}\n")
            } else {
                format!("{{\"n\":{n}}}\n")
            }
        })
        .collect();
    put(home.path(), "a.ndjson", &lines);
    let done = home.path().join("done/a.ndjson");
    let mut rounds = 0;
    while !done.exists() {
        // Stopped wherever it stands: at an await of its own, as a kill would at any.
        let intake = directory(&service, home.path(), None).await;
        let before = orders(&service).await.len();
        let begun = Instant::now();
        while !done.exists() && orders(&service).await.len() == before && begun.elapsed() < Duration::from_secs(20) {
            tokio::task::yield_now().await;
        }
        intake.stop().await;
        rounds += 1;
        assert!(rounds < 50, "it never ends");
    }
    assert!(rounds > 1, "it was never stopped in the middle");
    let mut all: Vec<String> = orders(&service).await.into_iter().map(|(_, data)| data).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!((all.len(), orders(&service).await.len()), (405, 405));
    let rejected = std::fs::read_to_string(home.path().join("rejected/a.ndjson")).unwrap();
    let expected: String = (0..45).map(|n| format!("bad {}\n", n * 10)).collect();
    assert_eq!(rejected, expected, "each once, in order");
    let intake = directory(&service, home.path(), None).await;
    assert_eq!(intake.rejected("shop").await.unwrap().len(), 45);
    intake.stop().await;
}

/// A feed of pages: those there are by now, and what was asked for.
#[derive(Default)]
struct Pages {
    pages: Vec<String>,
    asked: Vec<String>,
    unchanged: usize,
    elsewhere: Option<String>,
}

/// Serves `/pages?cursor=N`: a page that is not the last links to the next one. Answers where.
async fn feed_server(pages: Arc<Mutex<Pages>>, ndjson: bool) -> String {
    let answer = move |request: axum::extract::Request| {
        let pages = pages.clone();
        async move {
            let mut pages = pages.lock().unwrap();
            let query = request.uri().query().unwrap_or_default().to_owned();
            pages.asked.push(query.clone());
            let number: usize = query
                .strip_prefix("cursor=")
                .map_or(0, |number| number.parse().unwrap());
            let text = pages.pages[number].clone();
            let etag = format!("\"{number}-{}\"", text.len());
            let known = request
                .headers()
                .get("if-none-match")
                .is_some_and(|known| *known == *etag);
            let answer = http::Response::builder();
            if known {
                pages.unchanged += 1;
                return answer.status(304).body(axum::body::Body::empty()).unwrap();
            }
            let kind = if ndjson {
                "application/x-ndjson"
            } else {
                "application/json"
            };
            let mut answer = answer.header("content-type", kind).header("etag", etag);
            if number + 1 < pages.pages.len() {
                let next = pages
                    .elsewhere
                    .clone()
                    .unwrap_or_else(|| format!("/pages?cursor={}", number + 1));
                answer = answer.header("link", format!("</first>; rel=first, <{next}>; rel=\"next\""));
            }
            answer.body(axum::body::Body::from(text)).unwrap()
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/pages", listener.local_addr().unwrap());
    let router = axum::Router::new().route("/pages", axum::routing::get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn feed(service: &Service, url: &str, items: &str) -> Intake {
    let kind = Kind::Feed(FeedOptions {
        url: url.parse().unwrap(),
        id: "/id".to_owned(),
        items: items.to_owned(),
        cursor: None,
        interval: Duration::from_millis(5),
        authorization: None,
    });
    Intake::start(service.clone(), vec![configured("", kind)])
        .await
        .unwrap()
}

async fn orders_are(service: &Service, count: usize) {
    let begun = Instant::now();
    loop {
        let there = orders(service).await.len();
        assert!(
            there <= count && begun.elapsed() < Duration::from_secs(60),
            "{there} of {count}"
        );
        if there == count {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_read_page_by_page_and_its_place_is_kept() {
    let service = engine(STRICT).await;
    let pages = Arc::new(Mutex::new(Pages::default()));
    let page = |from: usize, to: usize| {
        let items: Vec<String> = (from..to).map(|n| format!("{{\"id\":{n},\"n\":{n}.0}}")).collect();
        format!("{{\"items\":[{}]}}", items.join(","))
    };
    pages.lock().unwrap().pages = vec![page(0, 150), page(140, 300), page(300, 310)];
    let url = feed_server(pages.clone(), false).await;
    let intake = feed(&service, &url, "/items").await;
    orders_are(&service, 310).await;
    until("the last page is asked for again", || {
        pages.lock().unwrap().unchanged > 1
    })
    .await;
    assert_eq!(intake.sources().await[0].repeated, 10, "those that stood on two pages");
    intake.stop().await;

    // It grows while nobody reads; a restart goes on where it was, and asks for no page before.
    {
        let mut pages = pages.lock().unwrap();
        pages.asked.clear();
        pages.pages[2] = page(300, 320);
        pages
            .pages
            .push("{\"items\":[{\"n\":1000},{\"id\":\"bad\"}]}".to_owned());
    }
    let intake = feed(&service, &url, "/items").await;
    orders_are(&service, 321).await;
    until("it is at its end", || pages.lock().unwrap().asked.len() > 3).await;
    assert_eq!(pages.lock().unwrap().asked[0], "cursor=2");
    let rejected = intake.rejected("shop").await.unwrap();
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].id, "bad");
    intake.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_stopped_in_the_middle_and_led_nowhere_else() {
    let service = engine(STRICT).await;
    let pages = Arc::new(Mutex::new(Pages::default()));
    let page = |page: usize| -> String {
        (0..250)
            .map(|n| format!("{{\"id\":\"{page}-{n}\",\"n\":{n}}}\n"))
            .collect()
    };
    pages.lock().unwrap().pages = vec![page(0), page(1)];
    let url = feed_server(pages.clone(), true).await;
    let mut stops = 0;
    while orders(&service).await.len() < 500 {
        let intake = feed(&service, &url, "").await;
        let before = orders(&service).await.len();
        let begun = Instant::now();
        // What was under way at the last stop may have ended since.
        while before < 500 && orders(&service).await.len() == before && begun.elapsed() < Duration::from_secs(20) {
            tokio::task::yield_now().await;
        }
        intake.stop().await;
        stops += 1;
        assert!(stops < 100, "it never ends");
    }
    let intake = feed(&service, &url, "").await;
    until("it is at its end", || pages.lock().unwrap().unchanged > 0).await;
    assert_eq!(orders(&service).await.len(), 500);
    intake.stop().await;

    let pages = Arc::new(Mutex::new(Pages::default()));
    {
        let mut pages = pages.lock().unwrap();
        pages.pages = vec!["[]".to_owned(), "[]".to_owned()];
        pages.elsewhere = Some("http://169.254.169.254/latest".to_owned());
    }
    let url = feed_server(pages, false).await;
    let intake = feed(&service, &url, "").await;
    let begun = Instant::now();
    let why = loop {
        if let Some(why) = intake.sources().await[0].last_error.clone() {
            break why;
        }
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::task::yield_now().await;
    };
    assert!(why.contains("another server") && !why.contains("cursor="), "{why}");
    intake.stop().await;
}
