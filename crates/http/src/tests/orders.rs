//! `/v1/orders`: submitting, reading, listing.

use std::time::Duration;

use serde_json::json;

use super::Api;

const SALE: &str = r#"{"type":"sale","data":{"amount":99.90,"currency":"EUR"}}"#;

#[tokio::test]
async fn an_order_is_accepted_and_read() {
    let api = Api::new().await;
    let answer = api.post("/v1/orders", SALE).await;
    assert_eq!(answer.status, 202);
    let order = answer.json();
    let id = order["id"].as_str().unwrap();
    assert_eq!(answer.header("location"), format!("/v1/orders/{id}"));
    assert!(answer.header("etag").starts_with('"'));
    assert!(answer.text.contains("99.90"), "digits are kept: {answer:?}");
    assert_eq!(
        (&order["type"], &order["status"], &order["final"]),
        (&json!("sale"), &json!("ACCEPTED"), &json!(false))
    );
    let order = api.at_rest(id).await;
    assert_eq!(
        (&order["status"], &order["final"], &order["work"]),
        (&json!("COMPLETED"), &json!(true), &json!(null))
    );
    let read = api.get(&format!("/v1/orders/{id}")).await;
    let again = api
        .ask(
            "GET",
            &format!("/v1/orders/{id}"),
            &[("if-none-match", read.header("etag"))],
            "",
        )
        .await;
    assert_eq!((again.status, again.text.as_str()), (304, ""));
    assert_eq!(again.header("etag"), read.header("etag"));
    let head = api.ask("HEAD", &format!("/v1/orders/{id}"), &[], "").await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
}

#[tokio::test]
async fn nobody_waits_for_a_change_of_a_final_order() {
    let api = Api::new().await;
    let answer = api
        .ask("POST", "/v1/orders", &[("prefer", "wait=30")], SALE)
        .await
        .json();
    let (id, key, version) = (&answer["id"], &answer["key"], &answer["version"]);
    for path in [
        format!("/v1/orders/{}", id.as_str().unwrap()),
        format!("/sale/{}", key.as_str().or(id.as_str()).unwrap()),
    ] {
        let asked = format!("{path}?wait=60&version={version}");
        let answer = tokio::time::timeout(Duration::from_secs(30), api.get(&asked)).await;
        assert_eq!(answer.expect("it answers before the wait is over").status, 200);
    }
}

#[tokio::test]
async fn a_client_that_waits_gets_the_final_order() {
    let api = Api::new().await;
    let answer = api
        .ask("POST", "/v1/orders", &[("prefer", "respond-async, wait=30")], SALE)
        .await;
    assert_eq!(
        (answer.status, answer.json()["status"].as_str()),
        (200, Some("COMPLETED"))
    );
    assert_eq!(answer.header("preference-applied"), "wait=30");
    // An order that waits for someone is not final by then.
    let waiting = r#"{"type":"waiting","data":{}}"#;
    let answer = api.ask("POST", "/v1/orders", &[("prefer", "wait=30")], waiting).await;
    assert_eq!(
        (answer.status, answer.json()["work"]["state"].as_str()),
        (202, Some("waiting"))
    );
}

#[tokio::test]
async fn the_same_key_gets_the_same_answer() {
    let api = Api::new().await;
    let key = [("idempotency-key", "\"k-1\"")];
    let first = api.ask("POST", "/v1/orders", &key, SALE).await;
    api.at_rest(first.json()["id"].as_str().unwrap()).await;
    // Members in another order and other white space are the same submission; quotes belong to the header.
    let again = r#"{ "data": {"currency": "EUR", "amount": 99.90}, "type": "sale" }"#;
    let second = api
        .ask("POST", "/v1/orders", &[("idempotency-key", "k-1")], again)
        .await;
    assert_eq!((first.status, &first.text), (second.status, &second.text));
    assert_eq!(second.header("idempotency-replayed"), "true");
    assert!(!first.headers.contains_key("idempotency-replayed"));
    let other = SALE.replace("99.90", "99.91");
    assert_eq!(
        api.ask("POST", "/v1/orders", &key, &other).await.code(422),
        "idempotency-key-reused"
    );
    // A mount is another way to the same keys.
    let mount = api
        .ask("POST", "/sale", &key, r#"{"amount":99.90,"currency":"EUR"}"#)
        .await;
    assert_eq!(mount.json()["orderId"], first.json()["id"]);
    assert_eq!(api.get("/v1/orders").await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_client_may_hear_no_more_than_where_its_orders_are() {
    let api = Api::new().await;
    let minimal = [("prefer", "wait=30, return=minimal")];
    let answer = api.ask("POST", "/v1/orders", &minimal, SALE).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    let order = api.get(answer.header("location")).await;
    assert_eq!(order.json()["status"], "COMPLETED");
    assert_eq!(answer.header("etag"), order.header("etag"));
    let applied: Vec<_> = answer.headers.get_all("preference-applied").iter().collect();
    assert_eq!(applied, ["wait=30", "return=minimal"]);

    let bad = r#"{"type":"sale","data":{"amount":-1,"currency":"EUR"}}"#;
    let body = format!("[{SALE},{bad}]");
    let answer = api.ask("POST", "/v1/orders/batch", &minimal, &body).await;
    assert_eq!(answer.header("preference-applied"), "return=minimal");
    let items = &answer.json()["items"];
    assert_eq!(items[0]["order"].as_object().unwrap().len(), 2, "{answer:?}");
    assert!(items[0]["order"]["status"].is_string());
    let id = items[0]["order"]["id"].as_str().unwrap();
    assert_eq!(api.get(&format!("/v1/orders/{id}")).await.status, 200);
    assert_eq!(items[1]["problem"]["errors"][0]["pointer"], "/amount");
}

#[tokio::test]
async fn a_batch_answers_for_each_item() {
    let api = Api::new().await;
    let bad = r#"{"type":"sale","data":{"amount":-1,"currency":"EUR"}}"#;
    let unknown = r#"{"type":"sail","data":{}}"#;
    let misspelt = r#"{"type":"sale","dta":{}}"#;
    let body = format!("[{SALE},{bad},{unknown},{misspelt},{SALE}]");
    let key = [("idempotency-key", "b-1")];
    let answer = api.ask("POST", "/v1/orders/batch", &key, &body).await;
    assert_eq!(answer.status, 200);
    let items = answer.json()["items"].as_array().unwrap().clone();
    let seen: Vec<_> = items
        .iter()
        .map(|item| (item["index"].clone(), item["status"].clone()))
        .collect();
    let expected: Vec<_> = [202, 422, 422, 400, 202]
        .iter()
        .enumerate()
        .map(|(index, status)| (json!(index), json!(status)))
        .collect();
    assert_eq!(seen, expected, "{answer:?}");
    assert_eq!(items[1]["problem"]["errors"][0]["pointer"], "/amount");
    assert!(
        items[2]["problem"]["detail"]
            .as_str()
            .unwrap()
            .contains("did you mean `sale`?")
    );
    assert!(items[3]["problem"]["detail"].as_str().unwrap().contains("dta"));
    assert!(answer.text.contains("99.90"));
    assert_ne!(items[0]["order"]["id"], items[4]["order"]["id"]);
    // As lines, and again: the same orders.
    let lines = format!("{SALE}\n{bad}\n{unknown}\r\n{misspelt}\n\n{SALE}\n");
    let headers = [("idempotency-key", "b-1"), ("content-type", "application/x-ndjson")];
    let request = axum::http::Request::post("/v1/orders/batch");
    let request = headers
        .iter()
        .fold(request, |request, (name, value)| request.header(*name, *value));
    let request = request.body(axum::body::Body::from(lines)).unwrap();
    let response = tower::ServiceExt::oneshot(api.router.clone(), request).await.unwrap();
    let again = super::Answer::of(response).await.json();
    for index in [0, 4] {
        assert_eq!(again["items"][index]["order"]["id"], items[index]["order"]["id"]);
    }
}

#[tokio::test]
async fn a_batch_is_bounded_and_whole() {
    let api = Api::new().await;
    let items = vec!["{}"; 1001].join(",");
    assert_eq!(
        api.post("/v1/orders/batch", &format!("[{items}]")).await.code(413),
        "too-large"
    );
    assert_eq!(api.post("/v1/orders/batch", "[{]").await.code(400), "malformed-json");
    assert_eq!(api.post("/v1/orders/batch", "[]").await.json(), json!({"items": []}));
    assert_eq!(
        api.post("/v1/orders/batch", &"x".repeat(600_000)).await.code(413),
        "too-large"
    );
}

#[tokio::test]
async fn orders_are_listed_page_by_page() {
    let api = Api::new().await;
    for number in 0..5 {
        let who = if number % 2 == 0 { "a" } else { "b" };
        api.submitted("waiting", &json!({"who": who, "n": number}).to_string())
            .await;
    }
    let mut path = "/v1/orders?type=waiting&customer=a&limit=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = api.get(&path).await;
        seen.extend(
            page.json()["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|order| order["data"]["n"].to_string()),
        );
        let Some(link) = page.headers.get("link") else {
            assert_eq!(page.json()["nextCursor"], json!(null));
            break;
        };
        let link = link.to_str().unwrap();
        path = link.split(['<', '>']).nth(1).unwrap().to_owned();
        assert!(link.ends_with("; rel=\"next\""));
    }
    assert_eq!(seen, ["4", "2", "0"]);
    let count = async |query: &str| {
        let answer = api.get(&format!("/v1/orders?{query}")).await;
        answer.json()["items"].as_array().unwrap().len()
    };
    assert_eq!(count("status=open").await, 5);
    assert_eq!(count("status=closed").await, 0);
    assert_eq!(count("acceptedAfter=2100-01-01T00:00:00Z").await, 0);
    assert_eq!(count("acceptedBefore=2100-01-01T00:00:00Z").await, 5);
    for bad in [
        "limit=0",
        "limit=501",
        "limit=x",
        "cursor=5",
        "acceptedAfter=today",
        "colour=red",
    ] {
        let answer = api.get(&format!("/v1/orders?{bad}")).await;
        let problem = answer.problem(400);
        let name = bad.split('=').next().unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(name), "{problem}");
    }
}

#[tokio::test]
async fn an_order_is_polled_until_it_changes() {
    let api = Api::new().await;
    let id = api.submitted("waiting", "{}").await;
    let path = format!("/v1/orders/{id}");
    let version = api.get(&path).await.json()["version"].as_u64().unwrap();
    let long = format!("{path}?wait=30&version={version}");
    let poll = api.get(&long);
    let close = async {
        let body = r#"{"to":"closed"}"#;
        api.post(&format!("{path}/transition"), body).await
    };
    let (polled, closed) = tokio::join!(poll, close);
    assert_eq!(closed.status, 200);
    assert_eq!(polled.json()["status"], "closed");
    // What holds already is answered at once.
    assert_eq!(
        api.get(&format!("{path}?wait=30&version=0")).await.json()["status"],
        "closed"
    );
}

#[tokio::test]
async fn the_history_and_the_attempts_are_told() {
    let api = Api::with(|_| {}, &[("record", 1)]).await;
    let id = api.submitted("sale", r#"{"amount":1,"currency":"EUR"}"#).await;
    api.at_rest(&id).await;
    let answer = api.get(&format!("/v1/orders/{id}/events?limit=1")).await;
    let page = answer.json();
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    let event = &page["items"][0];
    assert_eq!(event["id"], format!("{id}:1"));
    assert_eq!(
        (&event["specversion"], &event["source"]),
        (&json!("1.0"), &json!("/orders"))
    );
    assert_eq!(
        (&event["type"], &event["subject"]),
        (&json!("comanda.order.accepted"), &json!(id))
    );
    assert_eq!(
        (&event["sequence"], &event["data"]["orderType"]),
        (&json!("1"), &json!("sale"))
    );
    assert_eq!(event["data"]["by"], "local");
    let cursor = page["nextCursor"].as_str().unwrap();
    let next = api.get(&format!("/v1/orders/{id}/events?cursor={cursor}")).await.json();
    assert_eq!(next["items"][0]["data"]["to"], "COMPLETED");
    assert_eq!(next["nextCursor"], json!(null));

    let attempts = api.get(&format!("/v1/orders/{id}/attempts")).await.json();
    let seen: Vec<_> = attempts["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| (attempt["attempt"].clone(), attempt["outcome"].clone()))
        .collect();
    assert_eq!(seen, [(json!(1), json!("failed")), (json!(2), json!("done"))]);
    assert!(attempts["items"][0]["reason"].is_string() && attempts["items"][0]["durationMs"].is_number());
    let first = api.get(&format!("/v1/orders/{id}/attempts?limit=1")).await.json();
    assert_eq!(first["nextCursor"], "1");
}

#[tokio::test]
async fn a_submission_carries_its_trace() {
    let api = Api::with(|_| {}, &[("record", 9)]).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let answer = api
        .ask(
            "POST",
            "/v1/orders",
            &[("traceparent", trace), ("x-request-id", "mine")],
            SALE,
        )
        .await;
    assert_eq!(answer.header("x-request-id"), "mine");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    api.at_rest(&id).await;
    let dead = api.get(&format!("/v1/dead-letters/{id}")).await.json();
    // The order goes on in the client's trace, under the span of the request that brought it.
    let kept = dead["traceparent"].as_str().unwrap();
    assert!(kept[..36] == trace[..36] && kept != trace, "{kept}");
}

#[tokio::test]
async fn the_types_are_described() {
    let api = Api::new().await;
    let list = api.get("/v1/order-types").await.json();
    let names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "asking",
            "picked",
            "purchase",
            "sale",
            "shop-order",
            "storefront-order",
            "waiting",
            "work-order"
        ]
    );
    let sale = api.get("/v1/order-types/sale").await.json();
    assert_eq!(sale["schema"]["required"], json!(["amount", "currency"]));
    assert!(sale["hash"].as_str().unwrap().starts_with("sha256:"));
    assert!(sale["map"].as_str().unwrap().starts_with("stateDiagram-v2"));
    assert_eq!(sale["statuses"][0]["name"], "ACCEPTED");
    assert_eq!(sale["steps"][0]["name"], "record");
    let problem = api.get("/v1/order-types/sail").await.problem(404);
    assert!(problem["detail"].as_str().unwrap().contains("did you mean `sale`?"));
}
