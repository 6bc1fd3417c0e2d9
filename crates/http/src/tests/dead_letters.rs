//! Dead letters over HTTP.

use serde_json::json;

use super::Api;

const SALE: &str = r#"{"amount":1.10,"currency":"EUR"}"#;

async fn with_dead_sales(count: usize) -> (Api, Vec<String>) {
    let api = Api::with(|_| {}, &[("record", 5)]).await;
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = api.submitted("sale", SALE).await;
        assert_eq!(api.at_rest(&id).await["work"]["state"], "parked");
        ids.push(id);
    }
    (api, ids)
}

#[tokio::test]
async fn a_dead_letter_says_why_and_is_redriven() {
    let (api, ids) = with_dead_sales(1).await;
    let id = &ids[0];
    let list = api.get("/v1/dead-letters?type=sale").await.json();
    assert_eq!(list["items"][0]["id"], id.as_str());
    assert_eq!(list["items"][0]["deadLetter"]["step"], "record");
    assert!(list["items"][0]["deadLetter"]["reason"].is_string());
    let one = api.get(&format!("/v1/dead-letters/{id}")).await;
    assert_eq!(one.json()["attempts"].as_array().unwrap().len(), 5);
    assert!(one.text.contains("1.10"), "digits are kept");
    let causes = api.get("/v1/dead-letter-causes").await.json();
    let cause = causes["items"][0]["cause"].as_str().unwrap();
    assert_eq!(
        (&causes["items"][0]["type"], &causes["items"][0]["count"]),
        (&json!("sale"), &json!(1))
    );

    let body = json!({"filter": {"cause": cause}, "dryRun": true});
    let answer = api.post("/v1/dead-letters/redrive", &body.to_string()).await.json();
    assert_eq!(
        (&answer["matched"], &answer["changed"], &answer["dryRun"]),
        (&json!(1), &json!(1), &json!(true))
    );
    assert_eq!(
        api.at_rest(id).await["work"]["state"],
        "parked",
        "a dry run changes nothing"
    );
    let body = json!({"filter": {"orderIds": [id]}, "from": "failedStep", "typeVersion": "accepted"});
    let answer = api.post("/v1/dead-letters/redrive", &body.to_string()).await.json();
    assert_eq!(
        answer["items"],
        json!([{"orderId": id, "type": "sale", "changed": true, "error": null}])
    );
    assert_eq!(answer["more"], json!(false));
    assert_eq!(api.at_rest(id).await["status"], "COMPLETED");
    assert_eq!(
        api.get(&format!("/v1/dead-letters/{id}")).await.code(409),
        "not-a-dead-letter"
    );
    // What is no dead letter is told, and changes nothing.
    let answer = api.post("/v1/dead-letters/redrive", &body.to_string()).await.json();
    assert_eq!(answer["changed"], 0);
    assert!(
        answer["items"][0]["error"]
            .as_str()
            .unwrap()
            .contains("not a dead letter")
    );
}

#[tokio::test]
async fn dead_letters_are_given_up_only_when_it_is_said_which() {
    let (api, ids) = with_dead_sales(2).await;
    for body in [
        r#"{"reason":"x"}"#,
        r#"{"filter":{}}"#,
        r#"{"filter":{"kind":"sale"},"reason":"x"}"#,
    ] {
        assert_eq!(
            api.post("/v1/dead-letters/discard", body).await.code(400),
            "invalid-request"
        );
    }
    assert_eq!(
        api.post("/v1/dead-letters/redrive", "{}").await.code(400),
        "invalid-request"
    );
    let zero = r#"{"filter":{},"ratePerSecond":0}"#;
    assert_eq!(
        api.post("/v1/dead-letters/redrive", zero).await.code(400),
        "invalid-request"
    );
    let one = json!({"filter": {"orderIds": [ids[0]]}, "reason": "a test"}).to_string();
    assert_eq!(api.post("/v1/dead-letters/discard", &one).await.json()["changed"], 1);
    let rest = r#"{"filter":{},"reason":"a test"}"#;
    assert_eq!(api.post("/v1/dead-letters/discard", rest).await.json()["changed"], 1);
    assert_eq!(api.get("/v1/dead-letters").await.json()["items"], json!([]));
}
