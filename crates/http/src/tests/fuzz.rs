//! Requests that nobody would make: every route with paths, queries, headers and bodies made of what the parsers look for
//! and of what they do not expect. No answer is a server error, each refusal is a problem with a code and sound pointers,
//! and what was accepted is read back as it was sent.
//!
//! `PROPTEST_CASES` sets how many are tried; `cargo xtask fuzz --minutes N` tries fresh ones for so long.

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::{HeaderValue, Request};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::{Answer, Api};

/// One API for all cases, and an order of which nothing moves by itself.
struct Ground {
    runtime: Runtime,
    api: Api,
    order: String,
}

fn ground() -> &'static Ground {
    static GROUND: OnceLock<Ground> = OnceLock::new();
    GROUND.get_or_init(|| {
        let runtime = Runtime::new().unwrap();
        let (api, order) = runtime.block_on(async {
            let api = Api::new().await;
            let order = api.submitted("waiting", r#"{"who":"c"}"#).await;
            (api, order)
        });
        Ground { runtime, api, order }
    })
}

/// `ID` stands for the order's id.
const PATHS: &[&str] = &[
    "/v1/orders",
    "/v1/orders/batch",
    "/v1/orders/ID",
    "/v1/orders/x",
    "/v1/orders/ID/transition",
    "/v1/orders/ID/events",
    "/v1/events",
    "/v1/orders/ID/attempts",
    "/v1/orders/ID/holds",
    "/v1/orders/ID/approve",
    "/v1/orders/ID/reject",
    "/v1/callbacks/TOKEN",
    "/v1/callbacks/%00",
    "/v1/inventory/a%2Fb",
    "/v1/inventory/%F0%9F%92%A9/receive",
    "/v1/inventory/A/count",
    "/v1/customers",
    "/v1/customers/%20/block",
    "/v1/dead-letters",
    "/v1/dead-letters/ID",
    "/v1/dead-letters/redrive",
    "/v1/dead-letters/discard",
    "/v1/queues",
    "/v1/queues/picking",
    "/v1/queues/picking/claims",
    "/v1/queues/picking/dead-letters",
    "/v1/claims/complete",
    "/v1/claims/fail",
    "/v1/claims/heartbeat",
    "/v1/subscriptions",
    "/v1/subscriptions/x",
    "/v1/subscriptions/x/resend",
    "/v1/order-types",
    "/v1/order-types/sale",
    "/docs/problems/busy",
    "/sale",
    "/sale/ID",
    "/work-order",
    "/work-order/ID",
    "/waiting/ID",
    "/storefront-order",
    "/shop-order",
    "/purchase",
    "/orders",
    "//v1//orders",
    "/%2e%2e/v1/orders",
    "/v1/orders/%ff",
];

const NAMES: &[&str] = &[
    "limit",
    "cursor",
    "type",
    "status",
    "customer",
    "group",
    "acceptedAfter",
    "acceptedBefore",
    "from",
    "event",
    "cause",
    "before",
    "by",
    "action",
    "subject",
    "since",
    "until",
    "x",
];

/// None of them makes a request wait: that is tried elsewhere.
const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "500",
    "501",
    "-1",
    "99999999999999999999",
    "1e3",
    "sale",
    "waiting",
    "open",
    "%00",
    "%ff",
    "%F0%9F%92%A9",
    "a%26b",
    "oldest",
    "newest",
    "2026-04-10T10:00:00Z",
    "2026-13-40T99:99:99Z",
    "9999-12-31T23:59:59.999999999Z",
    "-009999-01-01T00:00:00Z",
    "2026-04-10",
    "null",
    "e30",
    "MA",
    "MS0x",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAA",
    "1.1",
    "0-0",
    "18446744073709551615",
    "comanda.order.accepted",
];

const HEADERS: &[(&str, &str)] = &[
    ("if-match", "*"),
    ("if-match", "\"1\""),
    ("if-match", "W/\"1\""),
    ("if-match", "\"18446744073709551616\""),
    ("if-match", ",,\"\","),
    ("if-none-match", "*"),
    ("if-none-match", "W/W/\"1\""),
    ("prefer", "wait=0"),
    ("prefer", "wait=\"0\"; x, ,="),
    ("prefer", "=,;wait"),
    ("prefer", "wait=-5"),
    ("idempotency-key", "\"a\""),
    ("idempotency-key", "\""),
    ("idempotency-key", "\"\""),
    ("idempotency-key", "a b"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("traceparent", "00-----"),
    ("traceparent", "zz-é-x-01"),
    ("last-event-id", "0:1"),
    ("last-event-id", "x"),
    ("last-event-id", "99999999999999999999:1"),
    ("accept", "application/json"),
    ("accept", "*/*;q=x"),
    ("content-type", "application/json"),
    ("content-type", "application/x-ndjson"),
    ("content-type", "text/plain"),
    ("content-type", "application/merge-patch+json; charset=é"),
    ("host", "localhost"),
    ("host", "localhost:99999"),
    ("authorization", "Bearer x"),
    ("authorization", "Bearer"),
    ("x-request-id", "a"),
    ("x-forwarded-for", ","),
    ("origin", "null"),
];

const MEMBERS: &[&str] = &[
    "type",
    "key",
    "data",
    "status",
    "dueAt",
    "to",
    "reason",
    "items",
    "token",
    "result",
    "kind",
    "delaySeconds",
    "max",
    "leaseSeconds",
    "worker",
    "filter",
    "orderIds",
    "cause",
    "from",
    "typeVersion",
    "ratePerSecond",
    "dryRun",
    "id",
    "name",
    "url",
    "quantity",
    "price",
    "currency",
    "amount",
    "who",
    "orderId",
    "estado",
    "fecha_entrega",
    "sku",
    "",
    "\u{0}",
];

const TEXTS: &[&str] = &[
    "sale",
    "waiting",
    "work-order",
    "open",
    "closed",
    "ID",
    "TOKEN",
    "failedStep",
    "start",
    "accepted",
    "current",
    "retry",
    "refuse",
    "EUR",
    "12.50",
    "-1",
    "1e400",
    "2026-04-10T10:00:00Z",
    "10/04/2026",
    "31/02/2026",
    "http://127.0.0.1:9",
    "http://[::1",
    "ftp://x",
    "",
    "\u{0}",
    "é",
    "𝄞",
    "\u{202e}",
    "a\nb",
];

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        "-?[0-9]{1,25}\\.[0-9]{1,25}",
        "[1-9][eE][+-]?[0-9]{1,4}",
        Just("0".to_owned()),
        Just("1".to_owned()),
    ]
    .prop_filter_map("a number", |text| serde_json::from_str(&text).ok())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number(),
        prop::sample::select(TEXTS).prop_map(Value::from),
        "\\PC{0,10}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 30, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(MEMBERS), inner), 0..7).prop_map(|members| members
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect()),
        ]
    })
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => value().prop_map(|value| value.to_string().into_bytes()),
        1 => prop::collection::vec(value(), 0..5).prop_map(|lines| lines.iter().map(|line| format!("{line}\r\n")).collect::<String>().into_bytes()),
        1 => (value(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(value, at, byte)| {
            let mut bytes = value.to_string().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            bytes
        }),
        1 => prop::collection::vec(any::<u8>(), 0..40),
    ]
}

#[derive(Clone, Debug)]
struct Made {
    method: &'static str,
    path: &'static str,
    query: Vec<(&'static str, &'static str)>,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Vec<u8>,
}

fn request() -> impl Strategy<Value = Made> {
    let method = prop::sample::select(
        &[
            "GET", "POST", "POST", "POST", "PATCH", "DELETE", "OPTIONS", "HEAD", "BREW",
        ][..],
    );
    let header = prop_oneof![
        8 => prop::sample::select(HEADERS).prop_map(|(name, value)| (name, value.as_bytes().to_vec())),
        1 => (prop::sample::select(HEADERS), prop::collection::vec(0x20u8..=0xff, 0..40)).prop_map(|((name, _), value)| (name, value)),
    ];
    let parameter = (prop::sample::select(NAMES), prop::sample::select(VALUES));
    (
        method,
        prop::sample::select(PATHS),
        prop::collection::vec(parameter, 0..3),
        prop::collection::vec(header, 0..4),
        body(),
    )
        .prop_map(|(method, path, query, headers, body)| Made {
            method,
            path,
            query,
            headers,
            body,
        })
}

impl Made {
    fn send(&self, ground: &Ground) -> Answer {
        let token = format!("{}.1.1.{}", ground.order.replace('-', ""), "0".repeat(32));
        let known = |text: &str| text.replace("TOKEN", &token).replace("ID", &ground.order);
        let query: Vec<String> = self
            .query
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut path = known(self.path);
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let mut request = Request::builder().method(self.method).uri(path);
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                request = request.header(*name, value);
            }
        }
        let body = match std::str::from_utf8(&self.body) {
            Ok(text) => known(text).into_bytes(),
            Err(_) => self.body.clone(),
        };
        let request = request.body(Body::from(body)).unwrap();
        let router = ground.api.router.clone();
        ground
            .runtime
            .block_on(async { Answer::of(router.oneshot(request).await.unwrap()).await })
    }
}

proptest! {
    // A failure is reproduced by the case that it prints; no file is left behind.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_request_breaks_the_server(made in request()) {
        let answer = made.send(ground());
        prop_assert!(answer.status < 500 || answer.status == 501, "{:?}", answer);
        let kind = answer.headers.get("content-type").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
        if answer.status >= 400 && made.method != "HEAD" && kind == "application/problem+json" {
            let problem = answer.problem(answer.status);
            for fault in problem["errors"].as_array().into_iter().flatten() {
                let pointer = fault["pointer"].as_str().unwrap();
                prop_assert!(pointer.is_empty() || pointer.starts_with('/'), "{}", problem);
                prop_assert!(!fault["code"].as_str().unwrap().is_empty(), "{}", problem);
            }
        }
        // A mount answers in its type's own form.
        if answer.status >= 400 && made.path.starts_with("/v1/") && made.method != "HEAD" {
            prop_assert_eq!(kind, "application/problem+json");
        }
    }

    /// Every value is shown to the letter as it was sent: digits, order, escapes.
    #[test]
    fn what_is_accepted_reads_back(data in prop::collection::vec(("[a-z~/ ]{1,4}", value()), 0..6)) {
        let ground = ground();
        let members: Vec<String> = data.iter().filter(|(name, _)| name != "who").map(|(name, value)| format!("{}:{value}", json!(name))).collect();
        let text = format!("{{{}}}", members.join(","));
        let answer = ground.runtime.block_on(ground.api.post("/v1/orders", &format!(r#"{{"type":"waiting","data":{text}}}"#)));
        prop_assert!(answer.status == 202 || answer.status == 422, "{:?}", answer);
        if answer.status == 202 {
            let id = answer.json()["id"].as_str().unwrap().to_owned();
            let shown = ground.runtime.block_on(ground.api.get(&format!("/v1/orders/{id}")));
            prop_assert!(shown.text.contains(&format!("\"data\":{text}")), "{} is not in {}", text, shown.text);
        }
    }
}
