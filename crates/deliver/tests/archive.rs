//! Archives over the engine and the in-memory store: a place that is down is tried by the schedule, an order that dies
//! again is written again, and steps that ask for no archive leave none.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test's panic is its failure")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_deliver::archive::{Archive, ArchivePlace, Archives};
use comanda_deliver::{Deliveries, Options};
use comanda_engine::{DeadLetterFilter, Redrive, Service, StepCall, StepRunner, Submission};
use comanda_model::decision::{RedriveFrom, StepOutcome};
use comanda_model::{Json, OrderId};
use comanda_order_type::{Bundle, Known, read};
use comanda_store::memory::MemoryStore;
use serde_json::Value;

const TYPES: [&str; 2] = [
    r#"
name = "kept"
initial = "A"
schema = { type = "object" }
[statuses.A]
steps = ["plain", "wanted"]
next = "B"
[statuses.B]
final = true
[steps.plain]
when = "data.plain == true"
use = "fail"
retry = { attempts = 1 }
[steps.wanted]
use = "fail"
retry = { attempts = 2, first = "1ms" }
exhausted = { archive = "failures" }
"#,
    r#"
name = "other"
initial = "A"
schema = { type = "object" }
[statuses.A]
steps = ["fails"]
next = "B"
[statuses.B]
final = true
[steps.fails]
use = "fail"
retry = { attempts = 1 }
"#,
];

struct NoSteps;

#[async_trait]
impl StepRunner for NoSteps {
    async fn run(&self, _: StepCall<'_>) -> StepOutcome {
        StepOutcome::Refused {
            reason: "nothing here reaches outside".to_owned(),
        }
    }
}

async fn engine() -> Service {
    let types = TYPES.map(|text| {
        let bundle = Bundle {
            path: "test.toml".to_owned(),
            text: text.to_owned(),
            schema: None,
        };
        read(&bundle, &Known::default()).definition.unwrap()
    });
    let store = Arc::new(MemoryStore::default());
    let options = comanda_engine::Options::default();
    Service::start(options, store, Arc::new(NoSteps), types.into())
        .await
        .unwrap()
}

async fn deliveries(service: &Service, home: &Path) -> Deliveries {
    let options = Options {
        wait_scale: 1e-4,
        archives: Archives {
            default_directory: home.to_owned(),
            ..Archives::default()
        },
        ..Options::default()
    };
    Deliveries::start(options, service.clone(), Vec::new()).await.unwrap()
}

/// Submits an order and waits until it is a dead letter.
async fn dead(service: &Service, order_type: &str, data: &str) -> OrderId {
    let submission = Submission {
        order_type: order_type.to_owned(),
        key: None,
        data: Json::from_valid(data),
        value: None,
        status: None,
        due_at: None,
        idempotency: None,
        by: "test".into(),
        traceparent: None,
    };
    let accepted = service.submit(submission).await.unwrap();
    let id = accepted.found.stored.order.id();
    rested(service, id).await;
    id
}

async fn rested(service: &Service, id: OrderId) {
    let wait = service.wait(id, comanda_engine::WaitFor::Rest, Duration::from_secs(30));
    assert!(wait.await.unwrap().unwrap().stored.order.head.dead.is_some());
}

/// Waits until the archive holds so many, and answers them, newest first.
async fn archived(home: &Path, count: usize) -> Vec<Value> {
    let archive = Archive::open(&ArchivePlace::Directory(home.join("failures"))).unwrap();
    let begun = std::time::Instant::now();
    loop {
        let entries = archive.newest(None, 100).await.unwrap();
        assert!(entries.len() <= count, "{entries:?}");
        if entries.len() == count {
            let mut all = Vec::new();
            for entry in entries {
                all.push(serde_json::from_slice(&archive.read(&entry.key).await.unwrap()).unwrap());
            }
            return all;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{entries:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_down_is_tried_by_the_schedule_and_only_what_is_asked_for_is_written() {
    let home = tempfile::tempdir().unwrap();
    let service = engine().await;
    // Before anyone listens: what died before is caught up with.
    let first = dead(&service, "kept", "{}").await;
    let blocked = home.path().join("blocked");
    std::fs::write(&blocked, "a file where a directory should be").unwrap();
    let deliveries = deliveries(&service, &blocked).await;
    dead(&service, "other", "{}").await;
    dead(&service, "kept", r#"{"plain":true}"#).await;
    let second = dead(&service, "kept", r#"{"amount":1.10}"#).await;
    let reason = loop {
        let log = deliveries.deliveries("archive:failures", u64::MAX, 10).await.unwrap();
        if let Some(tried) = log.first() {
            break tried.reason.clone().unwrap();
        }
        tokio::task::yield_now().await;
    };
    assert!(reason.contains("could not be made"), "{reason}");
    std::fs::remove_file(&blocked).unwrap();
    let all = archived(&blocked, 2).await;
    let ids: Vec<&str> = all.iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [second.to_string(), first.to_string()]);
    assert_eq!(all[0]["data"].to_string(), r#"{"amount":1.10}"#, "digits are kept");
    let reasons: Vec<&Value> = all[0]["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["reason"])
        .collect();
    assert_eq!(reasons, ["told to fail", "told to fail"]);

    // It dies again: another event, another object.
    let filter = DeadLetterFilter {
        order_ids: Some(vec![first]),
        ..DeadLetterFilter::default()
    };
    let redrive = Redrive {
        from: RedriveFrom::FailedStep,
        current_version: false,
        patch: None,
        dry_run: false,
    };
    assert_eq!(
        service.redrive(filter, redrive, "test".into()).await.unwrap().changed,
        1
    );
    rested(&service, first).await;
    let all = archived(&blocked, 3).await;
    let again: Vec<_> = all
        .iter()
        .filter(|one| one["id"] == first.to_string().as_str())
        .collect();
    let attempts: Vec<usize> = again
        .iter()
        .map(|one| one["attempts"].as_array().unwrap().len())
        .collect();
    assert_eq!(attempts, [4, 2]);
    deliveries.stop().await;
    service.stop(Duration::from_secs(5)).await;
}
