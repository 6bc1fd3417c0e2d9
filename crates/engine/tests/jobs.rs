//! Jobs: many dead letters go back to work in the order of their lanes, and a job goes on after a restart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use comanda_engine::{DeadLetterFilter, Job, JobState, Service, StepCall, StepRunner, Task};
use comanda_model::decision::StepOutcome;
use comanda_model::{OrderId, Phase};
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use parking_lot::Mutex;
use support::{definition, done, failed, options, submission};

const LANED: &str = r#"
name = "laned"
initial = "open"
customer = "/customer"
fifo = { key = "/lane", dead_letter = "leave" }
[schema]
type = "object"
properties.lane = { type = "string" }
properties.customer = { type = "string" }
properties.amount = { type = "number", format = "money" }
[statuses.open]
steps = ["call"]
next = "done"
[statuses.done]
final = true
[steps.call]
http = "POST http://127.0.0.1:1/"
retry = { attempts = 1 }
"#;

/// A service outside that is down until it is mended, and remembers in which order it was called.
#[derive(Default)]
struct Outside {
    mended: AtomicBool,
    called: Mutex<Vec<OrderId>>,
}

#[async_trait]
impl StepRunner for Outside {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        if !self.mended.load(Ordering::SeqCst) {
            return failed();
        }
        self.called.lock().push(call.order.id());
        done()
    }
}

async fn start(store: &Arc<MemoryStore>, outside: &Arc<Outside>) -> Service {
    Service::start(
        options(),
        store.clone() as Arc<dyn Store>,
        outside.clone(),
        vec![definition(LANED)],
    )
    .await
    .unwrap()
}

/// Waits until so many orders are in a phase; the store says when to look.
async fn until(store: &MemoryStore, phase: Phase, count: u64) {
    let mut position = store.position();
    let counted = async {
        loop {
            let counters = store.counters().await.unwrap();
            let there: u64 = counters
                .counts
                .iter()
                .filter(|one| one.phase == phase)
                .map(|one| one.count)
                .sum();
            if there == count {
                return;
            }
            position.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(60), counted).await.unwrap();
}

async fn ended(service: &Service, job: &Job) -> Job {
    let asked = async {
        loop {
            let job = service.job(job.id).await.unwrap().unwrap();
            if job.state != JobState::Running {
                return job;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asked).await.unwrap()
}

fn redrive(rate_per_second: Option<u32>) -> Task {
    Task::Redrive {
        filter: DeadLetterFilter::default(),
        from_start: false,
        current_version: false,
        patch: None,
        rate_per_second,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_dead_letters_keep_the_order_of_their_lanes() {
    const ORDERS: usize = 10_000;
    const LANES: usize = 100;
    let (store, outside) = (Arc::new(MemoryStore::default()), Arc::new(Outside::default()));
    let service = start(&store, &outside).await;
    let mut lanes: BTreeMap<usize, Vec<OrderId>> = BTreeMap::new();
    for number in 0..ORDERS {
        let lane = number % LANES;
        let accepted = service
            .submit(submission("laned", &format!(r#"{{"lane":"{lane}"}}"#)))
            .await
            .unwrap();
        lanes.entry(lane).or_default().push(accepted.found.stored.order.id());
    }
    until(&store, Phase::Dead, ORDERS as u64).await;
    outside.mended.store(true, Ordering::SeqCst);
    let job = service.start_job(redrive(None), "key:op".into()).await.unwrap();
    let job = ended(&service, &job).await;
    assert_eq!(
        (job.state, job.changed, job.skipped),
        (JobState::Done, ORDERS as u64, 0)
    );
    until(&store, Phase::Final, ORDERS as u64).await;
    let called = outside.called.lock().clone();
    let place: BTreeMap<OrderId, usize> = called.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    assert_eq!(place.len(), ORDERS);
    for (lane, ids) in lanes {
        assert!(
            ids.is_sorted_by_key(|id| place[id]),
            "lane {lane} was worked in another order"
        );
    }
    service.stop(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_job_goes_on_after_a_restart_and_can_be_stopped() {
    let (store, outside) = (Arc::new(MemoryStore::default()), Arc::new(Outside::default()));
    let service = start(&store, &outside).await;
    for number in 0..3 {
        service
            .submit(submission("laned", &format!(r#"{{"lane":"{number}"}}"#)))
            .await
            .unwrap();
    }
    until(&store, Phase::Dead, 3).await;
    outside.mended.store(true, Ordering::SeqCst);
    // Slow enough that only the first is done before the engine stops.
    let job = service.start_job(redrive(Some(1)), "key:op".into()).await.unwrap();
    until(&store, Phase::Final, 1).await;
    service.stop(Duration::from_secs(5)).await;
    let kept = service.job(job.id).await.unwrap().unwrap();
    assert_eq!((kept.state, kept.changed), (JobState::Running, 1));

    let service = start(&store, &outside).await;
    until(&store, Phase::Final, 2).await;
    let stopped = service.stop_job(job.id).await.unwrap().unwrap();
    assert_eq!(stopped.state, JobState::Stopped);
    let again = service.stop_job(job.id).await.unwrap().unwrap();
    assert_eq!(again.updated_at, stopped.updated_at, "what has ended stays as it is");
    service.stop(Duration::from_secs(5)).await;
    let stood: u64 = store
        .counters()
        .await
        .unwrap()
        .counts
        .iter()
        .filter(|one| one.phase == Phase::Dead)
        .map(|one| one.count)
        .sum();
    assert_eq!(stood, 1, "what it had not come to stays a dead letter");
}

#[tokio::test]
async fn an_erasure_ends_what_is_at_work_and_keeps_the_amounts() {
    let (store, outside) = (Arc::new(MemoryStore::default()), Arc::new(Outside::default()));
    outside.mended.store(true, Ordering::SeqCst);
    let service = start(&store, &outside).await;
    let data = r#"{"customer":"ann","lane":"ann","amount":10.50}"#;
    let id = service
        .submit(submission("laned", data))
        .await
        .unwrap()
        .found
        .stored
        .order
        .id();
    until(&store, Phase::Final, 1).await;
    // A dead letter can only be given up.
    outside.mended.store(false, Ordering::SeqCst);
    service.submit(submission("laned", data)).await.unwrap();
    until(&store, Phase::Dead, 1).await;
    let erasable = service.erasable("ann").await.unwrap();
    assert_eq!((erasable.orders, erasable.not_final), (2, 1));
    let task = |cancel_first| Task::Erase {
        customer: "ann".to_owned(),
        cancel_first,
    };
    let job = service.start_job(task(false), "key:op".into()).await.unwrap();
    let job = ended(&service, &job).await;
    assert_eq!((job.changed, job.skipped), (1, 1), "{job:?}");
    assert!(job.failures[0].error.contains("not final"), "{job:?}");
    let job = service.start_job(task(true), "key:op".into()).await.unwrap();
    let job = ended(&service, &job).await;
    assert_eq!((job.changed, job.skipped), (1, 0), "{job:?}");
    assert_eq!(service.erasable("ann").await.unwrap().orders, 0);
    let order = store.order(id).await.unwrap().unwrap().order;
    assert_eq!(order.data.as_str(), r#"{"amount":10.50}"#);
    let events = store.history(id, 0, 10).await.unwrap();
    assert_eq!(&*events.last().unwrap().by, "key:op");
    service.stop(Duration::from_secs(5)).await;
}
