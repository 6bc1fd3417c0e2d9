//! Keys that may ask so much and no more.

use std::num::NonZeroU32;

use super::{Answer, Api};
use crate::KeyRate;

const SALE: &str = r#"{"amount":1,"currency":"EUR"}"#;

/// So slow that nothing comes back while a test runs.
async fn limited(burst: u32) -> (Api, String) {
    let rate = "1/h".parse().unwrap();
    let burst = NonZeroU32::new(burst).unwrap();
    Api::limited(KeyRate { rate, burst }).await
}

fn left(answer: &Answer) -> &str {
    answer.header("ratelimit")
}

#[tokio::test]
async fn a_key_asks_as_much_as_its_rate_gives_and_is_told_when_it_can_again() {
    let (api, key) = limited(3).await;
    let with_key = [("x-api-key", key.as_str())];
    let first = api.ask("POST", "/sale", &with_key, SALE).await;
    assert_eq!((first.status, left(&first)), (202, "\"key\";r=2;t=3600"));
    assert_eq!(first.header("ratelimit-policy"), "\"key\";q=3;w=10800");
    // What is refused for another reason counts as well, and so does reading.
    let second = api.ask("POST", "/sale", &with_key, "{").await;
    assert_eq!((second.status, left(&second)), (400, "\"key\";r=1;t=7200"));
    assert_eq!(api.ask("GET", "/v1/orders", &with_key, "").await.status, 200);
    let over = api.ask("GET", "/v1/orders", &with_key, "").await;
    assert_eq!(over.code(429), "rate-limited");
    let after: u64 = over.header("retry-after").parse().unwrap();
    assert!((3500..=3600).contains(&after), "{after}");
    // A mount says it in its type's own form, and says when as well.
    let mounted = api.ask("POST", "/sale", &with_key, SALE).await;
    assert_eq!(
        (mounted.status, mounted.json()["error"].as_str()),
        (429, Some("rate-limited"))
    );
    assert!(mounted.headers.contains_key("retry-after"));
    // What needs no key needs no rate.
    assert_eq!(api.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn each_order_of_a_batch_counts() {
    let (api, key) = limited(5).await;
    let with_key = [("x-api-key", key.as_str())];
    let batch = |orders: usize| {
        let item = r#"{"type":"sale","data":{"amount":1,"currency":"EUR"}}"#;
        format!("[{}]", vec![item; orders].join(","))
    };
    let three = api.ask("POST", "/v1/orders/batch", &with_key, &batch(3)).await;
    assert_eq!((three.status, left(&three)), (200, "\"key\";r=2;t=10800"));
    // One for the request is counted, and the other two are not there: nothing of it is stored.
    let more = api.ask("POST", "/v1/orders/batch", &with_key, &batch(3)).await;
    assert_eq!(more.code(429), "rate-limited");
    let list = api.ask("GET", "/v1/orders", &with_key, "").await;
    assert_eq!(list.json()["items"].as_array().unwrap().len(), 3);

    let (api, key) = limited(5).await;
    // An order alone is the request that was counted already.
    let one = api
        .ask("POST", "/v1/orders/batch", &[("x-api-key", key.as_str())], &batch(1))
        .await;
    assert_eq!((one.status, left(&one)), (200, "\"key\";r=4;t=3600"));
    let never = api
        .ask("POST", "/v1/orders/batch", &[("x-api-key", key.as_str())], &batch(7))
        .await;
    assert_eq!(never.code(413), "too-large");
}

#[tokio::test]
async fn a_key_without_a_rate_is_told_of_none() {
    let (api, keys) = Api::keyed(&[crate::Scope::Read]).await;
    let answer = api.ask("GET", "/v1/orders", &[("x-api-key", &keys[0].1)], "").await;
    assert_eq!(answer.status, 200);
    assert!(!answer.headers.contains_key("ratelimit"));
}
