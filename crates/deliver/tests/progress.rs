//! How far a subscription has come, when the store's answer to that is lost: nothing is left out, whatever the worker had
//! in mind. What the simulation has found, as scenes of their own.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test's panic is its failure")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_deliver::{Configured, Courier, Deliveries, Options, Outcome, Request, SecretKind, Tried};
use comanda_engine::{Change, Precondition, Service, StepCall, StepRunner, Submission};
use comanda_model::decision::StepOutcome;
use comanda_model::{Json, OrderId};
use comanda_order_type::{Bundle, Known, read};
use comanda_store::memory::MemoryStore;
use comanda_store::subscription::{EventFilter, Ordering, Subscription, SubscriptionStore};
use comanda_store::{Store, StoreError};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

const TYPE: &str = r#"
name = "two"
initial = "A"
schema = { type = "object" }
[statuses.A]
to = ["B"]
[statuses.B]
final = true
"#;

struct NoSteps;

#[async_trait]
impl StepRunner for NoSteps {
    async fn run(&self, _: StepCall<'_>) -> StepOutcome {
        StepOutcome::Refused {
            reason: "nothing here reaches outside".to_owned(),
        }
    }
}

/// An event on its way, and how its receiver is to answer.
type Sent = (String, oneshot::Sender<Outcome>);

/// Brings each event to the test.
struct Brings(mpsc::UnboundedSender<Sent>);

#[async_trait]
impl Courier for Brings {
    async fn carry(&self, _: &Subscription, id: &str, _: String, _: Timestamp) -> Tried {
        let (answer, answered) = oneshot::channel();
        self.0.send((id.to_owned(), answer)).unwrap();
        Tried {
            // Whoever is never answered waits.
            outcome: match answered.await {
                Ok(outcome) => outcome,
                Err(_) => std::future::pending().await,
            },
            status: None,
            took: Duration::ZERO,
        }
    }
}

/// A store whose clock is that of the test.
fn store() -> Arc<MemoryStore> {
    let began = Instant::now();
    Arc::new(MemoryStore::with_clock(Arc::new(move || {
        let begin = Timestamp::from_second(1_800_000_000).unwrap();
        begin
            .checked_add(SignedDuration::try_from(began.elapsed()).unwrap())
            .unwrap()
    })))
}

async fn engine(store: &Arc<MemoryStore>) -> Service {
    let bundle = Bundle {
        path: "test.toml".to_owned(),
        text: TYPE.to_owned(),
        schema: None,
    };
    let definition = read(&bundle, &Known::default()).definition.unwrap();
    let options = comanda_engine::Options::default();
    Service::start(options, store.clone(), Arc::new(NoSteps), vec![definition])
        .await
        .unwrap()
}

async fn deliveries(service: &Service) -> (Deliveries, mpsc::UnboundedReceiver<Sent>) {
    let (sender, sent) = mpsc::unbounded_channel();
    let options = Options {
        courier: Some(Arc::new(Brings(sender))),
        ..Options::default()
    };
    let configured = Configured {
        name: "hook".to_owned(),
        request: Request {
            name: "hook".to_owned(),
            url: "https://hook.example/".to_owned(),
            filter: EventFilter::default(),
            include_order: false,
            concurrency: 1,
            ordering: Ordering::Order,
            from_oldest: true,
            secret: SecretKind::Symmetric,
        },
        secret: None,
    };
    let started = Deliveries::start(options, service.clone(), vec![configured]);
    (started.await.unwrap(), sent)
}

async fn submit(service: &Service) -> OrderId {
    let submission = Submission {
        order_type: "two".to_owned(),
        key: None,
        data: Json::from_valid("{}"),
        value: None,
        status: None,
        due_at: None,
        idempotency: None,
        by: "test".into(),
        traceparent: None,
    };
    service.submit(submission).await.unwrap().found.stored.order.id()
}

async fn move_on(service: &Service, id: OrderId) {
    let change = Change {
        by: "test".into(),
        reason: None,
        precondition: Precondition::None,
    };
    service.transition(id, "B", None, change).await.unwrap();
}

/// The next event, within an hour of the test's time.
async fn next(sent: &mut mpsc::UnboundedReceiver<Sent>) -> Sent {
    let hour = Duration::from_secs(3600);
    let sent = tokio::time::timeout(hour, sent.recv()).await;
    assert!(sent.is_ok(), "nothing is sent");
    sent.unwrap().unwrap()
}

fn failed() -> Outcome {
    Outcome::Failed {
        reason: "out of order".to_owned(),
        retry_after: None,
        alone: false,
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_waits_behind_another_is_sent_though_the_answer_to_its_waiting_was_lost() {
    let store = store();
    let service = engine(&store).await;
    let (first, mut sent) = deliveries(&service).await;
    let id = submit(&service).await;
    let (event, answer) = next(&mut sent).await;
    assert_eq!(event, format!("{id}:1"));
    answer.send(failed()).unwrap();
    // It is to be tried again in five seconds; until then the second event waits behind it. That is written down, and the
    // worker is not told so.
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.faults().lose_next_progress(1);
    move_on(&service, id).await;
    let (event, answer) = next(&mut sent).await;
    assert_eq!(event, format!("{id}:1"));
    let stands = store.progress("hook").await.unwrap().unwrap();
    assert!(stands.exceptions.iter().any(|one| one.until == 2), "{stands:?}");
    answer.send(Outcome::Delivered).unwrap();
    // The process ends with the second event under way.
    let (event, _unanswered) = next(&mut sent).await;
    assert_eq!(event, format!("{id}:2"));
    first.stop().await;
    let (_second, mut sent) = deliveries(&service).await;
    loop {
        let (event, answer) = next(&mut sent).await;
        answer.send(Outcome::Delivered).unwrap();
        if event == format!("{id}:2") {
            break;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_down_is_tried_again_though_no_try_was_ever_written_down() {
    let store = store();
    let service = engine(&store).await;
    let (deliveries, mut sent) = deliveries(&service).await;
    // Six orders at once: within one round the receiver counts as down, and the last is not tried at all.
    let ids = futures_util::future::join_all((0..6).map(|_| submit(&service))).await;
    for _ in 0..5 {
        let (_, answer) = next(&mut sent).await;
        answer.send(failed()).unwrap();
    }
    while store.progress("hook").await.unwrap().unwrap().exceptions.len() < ids.len() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Whoever lets a subscription go on begins to count anew; and what the next round comes to is not written down.
    deliveries.pause("hook", "looked at".to_owned()).await.unwrap();
    deliveries.resume("hook").await.unwrap();
    store.faults().fail_next_progress(1);
    for _ in 0..5 {
        let (_, answer) = next(&mut sent).await;
        answer.send(failed()).unwrap();
    }
    let mut taken = std::collections::BTreeSet::new();
    while taken.len() < ids.len() {
        let (event, answer) = next(&mut sent).await;
        answer.send(Outcome::Delivered).unwrap();
        taken.insert(event);
    }
}

#[tokio::test(start_paused = true)]
async fn a_configured_subscription_that_an_interrupted_start_has_left_begins_where_it_should() -> Result<(), StoreError>
{
    let store = store();
    let service = engine(&store).await;
    // What a start leaves that was killed between the two writes by which it makes one.
    store
        .put_subscription(&Subscription {
            id: "hook".to_owned(),
            name: "hook".to_owned(),
            url: "https://hook.example/".to_owned(),
            filter: EventFilter::default(),
            include_order: false,
            secrets: Vec::new(),
            allow_private: true,
            concurrency: 1,
            ordering: Ordering::Order,
            configured: true,
            created_at: store.now(),
            paused: None,
        })
        .await?;
    let id = submit(&service).await;
    let (_deliveries, mut sent) = deliveries(&service).await;
    assert_eq!(next(&mut sent).await.0, format!("{id}:1"));
    Ok(())
}
