//! The audit log: who changed what, and how it stood before and after.

use serde_json::{Value, json};

use super::{Api, PATIENCE};
use crate::Scope;

async fn log(api: &Api, query: &str) -> Vec<Value> {
    let page = api.get(&format!("/v1/audit?{query}")).await.json();
    page["items"].as_array().unwrap().clone()
}

/// Members of entries, in one text each.
fn told(entries: &[Value], members: &[&str]) -> Vec<String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let row = |entry: &Value| {
        members
            .iter()
            .map(|member| text(&entry[*member]))
            .collect::<Vec<_>>()
            .join(" ")
    };
    entries.iter().map(row).collect()
}

#[tokio::test]
async fn what_is_not_an_order_leaves_an_entry_with_before_and_after() {
    let api = Api::new().await;
    let body = json!({"url": "http://127.0.0.1:9/hook?token=hidden", "name": "shop"}).to_string();
    let made = api.post("/v1/subscriptions", &body).await.json();
    let (id, secret) = (made["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    api.post(&format!("/v1/subscriptions/{id}/pause"), "").await;
    api.post(&format!("/v1/subscriptions/{id}/resume"), "").await;
    api.post(&format!("/v1/subscriptions/{id}/rotate-secret"), "").await;
    api.ask("DELETE", &format!("/v1/subscriptions/{id}"), &[], "").await;
    api.post("/v1/customers", r#"{"id":"ann","name":"Ann Example"}"#).await;
    api.post("/v1/customers/ann/block", "").await;
    api.post("/v1/inventory/A-1/receive", r#"{"quantity":5}"#).await;
    api.post("/v1/inventory/A-1/count", r#"{"quantity":3}"#).await;
    api.post("/v1/links/rotate-key", "").await;
    api.post("/v1/dead-letters/discard", r#"{"filter":{},"reason":"old"}"#)
        .await;
    api.post(
        "/v1/dead-letters/discard",
        r#"{"filter":{},"reason":"old","dryRun":true}"#,
    )
    .await;
    api.post("/v1/customers/nobody/block", "").await;

    let all = log(&api, "").await;
    let subject = format!("subscription:{id}");
    assert_eq!(
        told(&all, &["by", "action", "subject", "outcome"]),
        [
            "local customer.blocked customer:nobody failed".to_owned(),
            "local dead-letters.discarded dead-letters done".to_owned(),
            "local links.voided links done".to_owned(),
            "local inventory.counted sku:A-1 done".to_owned(),
            "local inventory.received sku:A-1 done".to_owned(),
            "local customer.blocked customer:ann done".to_owned(),
            "local customer.registered customer:ann done".to_owned(),
            format!("local subscription.deleted {subject} done"),
            format!("local subscription.secret-rotated {subject} done"),
            format!("local subscription.resumed {subject} done"),
            format!("local subscription.paused {subject} done"),
            format!("local subscription.created {subject} done"),
        ]
    );
    assert_eq!(all[0]["error"], "unknown-customer");
    assert_eq!(
        (&all[3]["before"]["onHand"], &all[3]["after"]["onHand"]),
        (&json!(5), &json!(3))
    );
    assert_eq!(
        (&all[4]["before"], &all[4]["after"]["onHand"]),
        (&Value::Null, &json!(5))
    );
    assert_eq!(
        (&all[5]["before"]["blocked"], &all[5]["after"]["blocked"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(
        (&all[10]["before"]["state"], &all[10]["after"]["state"]),
        (&json!("active"), &json!("paused"))
    );
    assert_eq!(all[11]["after"]["url"], "http://127.0.0.1:9/hook");
    let text = json!(all).to_string();
    for hidden in [secret, "whsec_", "hidden"] {
        assert!(!text.contains(hidden), "{hidden} is in {text}");
    }

    let since = all[6]["at"].as_str().unwrap();
    assert_eq!(log(&api, &format!("since={since}&until={since}")).await.len(), 0);
    assert_eq!(log(&api, &format!("since={since}")).await.len(), 7);
    assert_eq!(log(&api, &format!("until={since}")).await.len(), 5);
    assert_eq!(log(&api, "action=customer").await.len(), 3);
    assert_eq!(log(&api, "action=customer.blocked&subject=customer:ann").await.len(), 1);
    assert_eq!(log(&api, "action=custom").await.len(), 0);
    assert_eq!(log(&api, "by=key:x").await.len(), 0);
    let first = api.get("/v1/audit?limit=5").await.json();
    let next = format!("/v1/audit?limit=500&cursor={}", first["nextCursor"].as_str().unwrap());
    let second = api.get(&next).await.json();
    assert_eq!(
        [first["items"].as_array().unwrap(), second["items"].as_array().unwrap()].map(Vec::len),
        [5, 7]
    );
    assert_eq!(second["nextCursor"], Value::Null);
    assert_eq!(api.get("/v1/audit?cursor=x-y").await.code(400), "invalid-request");
}

#[tokio::test]
async fn an_orders_changes_show_values_until_it_is_erased() {
    let api = Api::new().await;
    let id = api
        .submitted("waiting", r#"{"who":"ann","note":"ring twice","price":1.10}"#)
        .await;
    let edit = r#"{"note":"call 555","price":1.1,"floor":null,"gate":null}"#;
    let edited = api
        .ask("PATCH", &format!("/v1/orders/{id}"), &[("if-match", "*")], edit)
        .await;
    assert_eq!(edited.status, 200, "{edited:?}");
    let large = json!({"to": "closed", "reason": "done", "data": {"note": "x".repeat(3000)}}).to_string();
    assert_eq!(
        api.post(&format!("/v1/orders/{id}/transition"), &large).await.status,
        200
    );

    let subject = format!("subject=order:{id}");
    let answer = api.get(&format!("/v1/audit?{subject}")).await;
    assert!(
        answer.text.contains(r#""/price":1.10"#) && answer.text.contains(r#""/price":1.1}"#),
        "{answer:?}"
    );
    let entries = log(&api, &subject).await;
    assert_eq!(
        told(&entries, &["by", "action", "reason", "before", "after", "omitted"]),
        [
            r#"local order.status-changed done {"status":"open"} {"status":"closed"} null"#,
            r#"local order.edited null null null ["/note"]"#,
            r#"local order.edited null {"/note":"ring twice","/price":1.10} {"/note":"call 555","/price":1.1} null"#,
            r#"local order.accepted null null {"status":"open"} null"#,
        ]
    );
    let first = api.get(&format!("/v1/audit?{subject}&limit=3")).await.json();
    let next = format!(
        "/v1/audit?{subject}&limit=3&cursor={}",
        first["nextCursor"].as_str().unwrap()
    );
    assert_eq!(
        told(api.get(&next).await.json()["items"].as_array().unwrap(), &["action"]),
        ["order.accepted"]
    );
    assert_eq!(log(&api, &format!("{subject}&action=order.edited")).await.len(), 2);
    // What leaves the house names what was changed, and no value.
    for path in [format!("/v1/orders/{id}/events"), "/v1/events".to_owned()] {
        let events = api.get(&path).await;
        assert!(
            events.text.contains("/note") && !events.text.contains("555"),
            "{events:?}"
        );
    }

    assert_eq!(api.post(&format!("/v1/orders/{id}/erase"), "").await.status, 200);
    let erased = api.get(&format!("/v1/audit?{subject}")).await;
    for gone in ["ring", "555", "1.10", "ann"] {
        assert!(!erased.text.contains(gone), "{gone} is in {erased:?}");
    }
    let entries = erased.json();
    assert_eq!(
        told(entries["items"].as_array().unwrap(), &["action", "omitted"])[..3],
        [
            "order.erased null",
            "order.status-changed null",
            r#"order.edited ["/note"]"#
        ]
    );
    assert_eq!(api.get("/v1/audit?subject=order:x").await.status, 404);
}

#[tokio::test]
async fn what_the_log_says_of_a_customer_goes_with_the_customer() {
    let api = Api::new().await;
    api.post("/v1/customers", r#"{"id":"ann","name":"Ann Example"}"#).await;
    let id = api.submitted("waiting", r#"{"who":"ann"}"#).await;
    api.post(&format!("/v1/orders/{id}/cancel"), "").await;
    assert!(api.get("/v1/audit").await.text.contains("Ann Example"));
    let started = api.post("/v1/customers/ann/erase", "").await;
    let location = started.header("location").to_owned();
    let ended = async {
        while api.get(&location).await.json()["state"] == "running" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
    let entries = log(&api, "").await;
    assert_eq!(
        told(&entries, &["action", "subject", "outcome", "before", "after"])[1],
        "customer.registered customer:ann done null null"
    );
    assert_eq!(entries[0]["action"], "customer.erased");
    assert!(!json!(entries).to_string().contains("Ann Example"));
}

#[tokio::test]
async fn the_log_needs_a_key_and_names_it() {
    let (api, keys) = Api::keyed(&[Scope::Operate, Scope::Read]).await;
    let bearer = |index: usize| format!("Bearer {}", keys[index].1);
    let (operate, read) = (bearer(0), bearer(1));
    let asked = api.ask("GET", "/v1/audit", &[("authorization", &read)], "").await;
    assert_eq!(asked.status, 403);
    let headers = [("authorization", operate.as_str())];
    api.ask("POST", "/v1/customers", &headers, r#"{"id":"ann"}"#).await;
    let page = api.ask("GET", "/v1/audit", &headers, "").await.json();
    assert_eq!(page["items"][0]["by"], format!("key:{}", keys[0].0.id));
}
