//! Stock, customers and the sandbox's book over HTTP.

use serde_json::json;

use super::*;

#[tokio::test]
async fn stock_comes_in_once_and_is_counted() {
    let api = Api::new().await;
    assert_eq!(api.get("/v1/inventory/A-1").await.code(404), "unknown-sku");
    let body = r#"{"quantity":5,"price":14.90,"currency":"EUR"}"#;
    let key = [("idempotency-key", "r-1")];
    for _ in 0..2 {
        let stock = api.ask("POST", "/v1/inventory/A-1/receive", &key, body).await.json();
        assert_eq!(
            stock,
            json!({"sku": "A-1", "onHand": 5, "held": 0, "shipped": 0, "received": 5, "price": "14.90", "currency": "EUR"})
        );
    }
    let other = api
        .ask("POST", "/v1/inventory/A-1/receive", &key, r#"{"quantity":6}"#)
        .await;
    assert_eq!(other.code(422), "idempotency-key-reused");
    let counted = api.post("/v1/inventory/A-1/count", r#"{"quantity":3}"#).await.json();
    assert_eq!((&counted["onHand"], &counted["received"]), (&json!(3), &json!(3)));
    for bad in [r#"{"quantity":0}"#, r#"{"quantity":1,"price":1}"#, r#"{"quantity":-1}"#] {
        assert_eq!(api.post("/v1/inventory/A-1/receive", bad).await.status, 400, "{bad}");
    }
    let list = api.get("/v1/inventory?limit=1").await.json();
    assert_eq!(
        (&list["items"][0]["sku"], &list["nextCursor"]),
        (&json!("A-1"), &json!("A-1"))
    );
    assert_eq!(api.get("/v1/inventory?cursor=A-1").await.json()["items"], json!([]));
}

#[tokio::test]
async fn customers_are_registered_and_blocked() {
    let api = Api::new().await;
    assert_eq!(api.get("/v1/customers/u-1").await.code(404), "unknown-customer");
    let customer = api.post("/v1/customers", r#"{"id":"u-1","name":"Ada"}"#).await.json();
    assert_eq!(
        customer,
        json!({"id": "u-1", "name": "Ada", "blocked": false, "prepaid": false})
    );
    assert_eq!(api.post("/v1/customers/u-1/block", "").await.json()["blocked"], true);
    let again = api
        .post("/v1/customers", r#"{"id":"u-1","name":"Ada L."}"#)
        .await
        .json();
    assert_eq!((&again["name"], &again["blocked"]), (&json!("Ada L."), &json!(true)));
    assert_eq!(api.post("/v1/customers/u-1/unblock", "").await.json()["blocked"], false);
    assert_eq!(
        api.get("/v1/customers").await.json()["items"].as_array().unwrap().len(),
        1
    );
}
