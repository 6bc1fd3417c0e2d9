//! Problems: every one has a page, and nothing goes wrong in another form.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use comanda_engine::{CommandError, SubmitError};
use comanda_model::decision::{MissingField, Rejection};
use comanda_model::{OrderId, TypeHash};
use comanda_store::StoreError;
use serde_json::json;

use super::Api;
use crate::{CODES, Problem};

#[test]
fn every_code_in_the_code_has_a_page() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut used = BTreeSet::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for after in text.split("Problem::new(").chain(text.split("Self::new(")).skip(1) {
            if let Some(code) = after.trim_start().strip_prefix('"') {
                used.insert(code.split('"').next().unwrap().to_owned());
            }
        }
    }
    let known: BTreeSet<String> = CODES.iter().map(|advice| advice.code.to_owned()).collect();
    assert_eq!(used.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new());
    assert_eq!(
        known.difference(&used).collect::<Vec<_>>(),
        Vec::<&String>::new(),
        "a page of nothing"
    );
    assert_eq!(known.len(), CODES.len(), "a code stands twice");
}

#[test]
fn the_documentation_names_every_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
    let text = fs::read_to_string(path).unwrap();
    let table = text.split("## Problems").nth(1).unwrap();
    for advice in CODES {
        assert!(table.contains(&format!("`{}`", advice.code)), "{}", advice.code);
    }
}

#[test]
fn errors_become_problems() {
    let name: Arc<str> = "a".into();
    let id = OrderId(uuid::Uuid::nil());
    let seen = |problem: Problem| (problem.status.as_u16(), problem.code);
    let rejected = |rejection| seen(Problem::from(rejection));
    let list = || vec![name.clone()];
    assert_eq!(
        rejected(Rejection::UnknownStatus {
            status: "x".into(),
            known: list()
        }),
        (422, "unknown-status")
    );
    let illegal = Rejection::IllegalTransition {
        from: name.clone(),
        to: name.clone(),
        allowed: list(),
    };
    assert_eq!(rejected(illegal), (409, "illegal-transition"));
    assert_eq!(
        rejected(Rejection::Final { status: name.clone() }),
        (409, "order-final")
    );
    assert_eq!(rejected(Rejection::Undoing), (409, "undoing"));
    assert_eq!(rejected(Rejection::NotDead), (409, "not-a-dead-letter"));
    assert_eq!(rejected(Rejection::OnlyFromStart), (409, "only-from-start"));
    assert_eq!(
        rejected(Rejection::NotInThisVersion {
            what: "step",
            name: name.clone()
        }),
        (409, "not-in-this-version")
    );
    let missing = vec![MissingField {
        field: "/a".into(),
        message: "is required".into(),
    }];
    assert_eq!(
        rejected(Rejection::Requires {
            status: name.clone(),
            missing
        }),
        (422, "requires")
    );
    assert_eq!(
        rejected(Rejection::Fixed {
            what: "the key",
            pointer: "/a".into()
        }),
        (409, "fixed")
    );

    let busy = Problem::from(SubmitError::Busy {
        after: Duration::from_millis(1200),
    });
    assert_eq!((busy.status.as_u16(), busy.retry_after_seconds), (503, Some(2)));
    assert_eq!(
        seen(
            SubmitError::TooLarge {
                what: "the data",
                bytes_max: 1
            }
            .into()
        ),
        (413, "too-large")
    );
    assert_eq!(
        seen(
            SubmitError::KeyTaken {
                key: "k".into(),
                order: id
            }
            .into()
        ),
        (409, "key-taken")
    );
    assert_eq!(seen(CommandError::UnknownOrder(id).into()), (404, "unknown-order"));
    assert_eq!(
        seen(
            CommandError::UnknownVersion {
                name,
                hash: TypeHash([0; 32])
            }
            .into()
        ),
        (500, "internal")
    );
    assert_eq!(
        seen(CommandError::PreconditionFailed { etag_version: 1 }.into()),
        (412, "precondition-failed")
    );
    let full = StoreError::Full(Arc::new(std::io::Error::other("no space")));
    assert_eq!(seen(full.into()), (503, "storage-unavailable"));
    assert_eq!(seen(StoreError::CursorReset.into()), (410, "cursor-reset"));
    let corrupt = StoreError::Corrupt {
        what: "an order".into(),
        detail: "a checksum".into(),
    };
    assert_eq!(seen(corrupt.into()), (500, "data-damaged"));
}

#[tokio::test]
async fn every_page_of_advice_is_served() {
    let api = Api::new().await;
    for advice in CODES {
        let page = api.get(&format!("/docs/problems/{}", advice.code)).await;
        assert_eq!(
            (page.status, page.header("content-type")),
            (200, "text/html; charset=utf-8")
        );
        assert!(page.text.contains(advice.code) && !page.text.contains("http-equiv"));
    }
    assert_eq!(api.get("/docs/problems/nothing").await.code(404), "not-found");
}

#[tokio::test]
async fn nothing_is_refused_in_another_form() {
    let api = Api::new().await;
    assert_eq!(api.get("/nothing").await.code(404), "not-found");
    assert_eq!(api.get("/v1/nothing").await.code(404), "not-found");
    assert_eq!(api.get("/v1/orders/not-an-id").await.code(404), "unknown-order");
    assert_eq!(api.get("/v1/orders/%FF").await.code(404), "not-found");
    let answer = api.ask("DELETE", "/v1/orders/x", &[], "").await;
    assert_eq!(answer.code(405), "method-not-allowed");
    let mut allowed: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "PATCH"]);
    let text = [("content-type", "text/plain")];
    assert_eq!(
        api.ask("POST", "/v1/orders", &text, "").await.code(415),
        "unsupported-media-type"
    );
    let long = format!(r#"{{"type":"sale","data":{{"x":"{}"}}}}"#, "x".repeat(70_000));
    assert_eq!(api.post("/v1/orders", &long).await.code(413), "too-large");
    for key in ["", "\"\"", &"k".repeat(256)] {
        let answer = api.ask("POST", "/v1/orders", &[("idempotency-key", key)], "{}").await;
        assert_eq!(answer.code(400), "invalid-request");
    }
}

#[tokio::test]
async fn bodies_that_are_wrong_are_told_where() {
    let api = Api::new().await;
    let problem = api.post("/v1/orders", "{\"type\":\n \"sale\",}").await.problem(400);
    assert_eq!(problem["code"], "malformed-json");
    assert!(
        problem["detail"].as_str().unwrap().contains("line 2 column 9"),
        "{problem}"
    );
    for (body, word) in [
        (r#"{"type":"sale","dta":{}}"#, "`dta`"),
        (r#"{"type":"sale"}"#, "`data`"),
        (r#"{"type":1,"data":{}}"#, "a string"),
        (r#"{"type":"sale","data":{},"dueAt":"soon"}"#, "`dueAt`"),
        ("[]", "SubmitBody"),
    ] {
        let problem = api.post("/v1/orders", body).await.problem(400);
        assert_eq!(problem["code"], "invalid-request");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{problem}");
    }
    let problem = api
        .post("/v1/orders", r#"{"type":"sail","data":{}}"#)
        .await
        .problem(422);
    assert_eq!(problem["code"], "unknown-type");
    assert!(problem["detail"].as_str().unwrap().contains("did you mean `sale`?"));
}

#[tokio::test]
async fn every_fault_of_the_data_is_an_entry() {
    let api = Api::new().await;
    let body = r#"{"type":"shop-order","data":{"items":[{"quantity":0}]}}"#;
    let problem = api.post("/v1/orders", body).await.problem(422);
    let errors = problem["errors"].as_array().unwrap();
    assert!(errors.len() >= 5, "{problem}");
    let quantity = errors
        .iter()
        .find(|error| error["pointer"] == "/items/0/quantity")
        .unwrap();
    assert_eq!(
        *quantity,
        json!({"pointer": "/items/0/quantity", "code": "minimum", "detail": "must be at least 1"})
    );
}
