//! The description of the API is what the API does.

use std::fs;
use std::path::Path;

use jsonschema::validator_for;
use serde_json::{Value, json};

use super::Api;
use crate::openapi;

/// Set to write the description anew instead of comparing it.
const UPDATE: &str = "COMANDA_UPDATE_SNAPSHOTS";

#[test]
fn the_description_in_the_docs_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let text = serde_json::to_string_pretty(&openapi()).unwrap() + "\n";
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, &text).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/openapi.json is not what the code says. Write it anew: {UPDATE}=1 cargo test -p comanda-http"
    );
}

#[tokio::test]
async fn every_operation_that_is_described_is_there_and_no_other() {
    let api = Api::new().await;
    let document = openapi();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let asked = path
            .replace("{id}", "0190ffff-0000-7000-8000-000000000000")
            .replace("{name}", "sale")
            .replace("{code}", "busy");
        let described: Vec<String> = operations
            .as_object()
            .unwrap()
            .keys()
            .map(|method| method.to_uppercase())
            .collect();
        for method in ["GET", "POST", "PATCH", "PUT", "DELETE"] {
            let answer = api.ask(method, &asked, &[], "").await;
            let is_there = answer.status != 405 && answer.json_code() != Some("not-found".to_owned());
            assert_eq!(
                is_there,
                described.iter().any(|known| known == method),
                "{method} {path}: {answer:?}"
            );
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = openapi();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(reference)) = members.get("$ref") {
                references.push(reference.clone());
            }
            members.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

/// Answers are validated against the schemas that describe them, with nothing left over.
#[tokio::test]
async fn answers_are_as_described() {
    let api = Api::with(|_| {}, &[("process", 9)]).await;
    let document = closed(openapi());
    let check = |schema: &str, answer: &Value| {
        let schema = json!({"$ref": format!("#/components/schemas/{schema}"), "components": document["components"]});
        let validator = validator_for(&schema).unwrap();
        let faults: Vec<String> = validator
            .iter_errors(answer)
            .map(|error| format!("{} {error}", error.instance_path()))
            .collect();
        assert_eq!(faults, Vec::<String>::new(), "{answer}");
    };
    let sale = api.submitted("sale", r#"{"amount":1,"currency":"EUR"}"#).await;
    let dead = api.submitted("purchase", r#"{"customerId":"c","items":[1]}"#).await;
    let waiting = api.submitted("waiting", "{}").await;
    for id in [&sale, &dead, &waiting] {
        check("Order", &api.at_rest(id).await);
        check("EventPage", &api.get(&format!("/v1/orders/{id}/events")).await.json());
        check(
            "AttemptPage",
            &api.get(&format!("/v1/orders/{id}/attempts")).await.json(),
        );
    }
    check("OrderPage", &api.get("/v1/orders").await.json());
    check("EventPage", &api.get("/v1/events").await.json());
    check("DeadLetterPage", &api.get("/v1/dead-letters").await.json());
    check("DeadLetter", &api.get(&format!("/v1/dead-letters/{dead}")).await.json());
    check("CauseList", &api.get("/v1/dead-letter-causes").await.json());
    check("OrderTypeList", &api.get("/v1/order-types").await.json());
    check("OrderType", &api.get("/v1/order-types/shop-order").await.json());
    let redrive = r#"{"filter":{},"dryRun":true}"#;
    check("SweepView", &api.post("/v1/dead-letters/redrive", redrive).await.json());
    let batch = r#"[{"type":"waiting","data":{}},{}]"#;
    check("BatchAnswer", &api.post("/v1/orders/batch", batch).await.json());
    let broken = api.post("/v1/orders", r#"{"type":"sale","data":{}}"#).await;
    check("Problem", &broken.problem(422));
}

/// The document with every object closed: a member that is not described is then a fault.
fn closed(mut document: Value) -> Value {
    fn close(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.values_mut().for_each(close);
                if members.get("properties").is_some_and(Value::is_object) && members.contains_key("type") {
                    members.insert("additionalProperties".to_owned(), json!(false));
                }
            }
            Value::Array(items) => items.iter_mut().for_each(close),
            _ => {}
        }
    }
    close(&mut document["components"]["schemas"]);
    document
}

#[tokio::test]
async fn the_mounts_are_described_at_run_time() {
    let api = Api::new().await;
    let document = api.get("/openapi.json").await.json();
    assert_eq!(document["info"]["version"], "1.2.3");
    for path in ["/sale", "/sale/{id}", "/orders", "/orders/{id}", "/work-order/{id}"] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let body = &document["paths"]["/sale"]["post"]["requestBody"]["content"]["application/json"];
    assert_eq!(body["example"], json!({"amount": json!(99.99), "currency": "EUR"}));
    assert_eq!(body["schema"], json!({"$ref": "#/components/schemas/sale"}));
    let schema = &document["components"]["schemas"]["shop-order"];
    let reference = schema["properties"]["items"]["items"]["$ref"].as_str().unwrap();
    assert!(
        document.pointer(reference.trim_start_matches('#')).is_some(),
        "{reference}"
    );
    let spanish = &document["paths"]["/work-order"]["post"]["requestBody"]["content"]["application/json"];
    assert!(spanish["example"]["estado"].is_string());
}

#[tokio::test]
async fn pages_need_nothing_from_elsewhere() {
    let api = Api::new().await;
    api.submitted("waiting", "{}").await;
    for path in ["/", "/docs"] {
        let page = api.get(path).await;
        assert_eq!(
            (page.status, page.header("content-type")),
            (200, "text/html; charset=utf-8")
        );
        assert!(page.header("content-security-policy").contains("default-src 'none'"));
        assert!(!page.text.contains("src=") && !page.text.contains("<script"), "{path}");
        assert!(page.text.contains("sale"));
    }
    assert!(api.get("/").await.text.contains("waiting"));
    assert_eq!(api.get("/healthz").await.text, "ok\n");
    assert_eq!(api.get("/readyz").await.text, "ready\n");
    assert_eq!(api.get("/metrics").await.text, "up 1\n");
    let bare = Api::with(|options| options.metrics = None, &[]).await;
    assert_eq!(bare.get("/metrics").await.code(404), "not-found");
}
