//! An engine over the in-memory store, order types written down in the test, and steps that do as they are told.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_engine::{
    Accepted, Change, Found, Options, Precondition, Service, StepCall, StepRunner, Submission, WaitFor,
};
use comanda_model::decision::StepOutcome;
use comanda_model::{Json, OrderId, Token};
use comanda_order_type::{Bundle, Definition, Known, read};
use comanda_store::Store;
use comanda_store::memory::MemoryStore;
use tokio::sync::{Mutex, mpsc, oneshot};

/// One attempt that has reached the outside.
pub struct Call {
    pub attempt: u32,
    pub undo: bool,
    pub key: String,
    pub order: OrderId,
    pub uncertain: bool,
    pub token: Token,
    pub answer: oneshot::Sender<StepOutcome>,
}

/// Steps whose every attempt is handed to the test, which answers it.
pub struct Manual(pub mpsc::UnboundedSender<Call>);

#[async_trait]
impl StepRunner for Manual {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        let (answer, answered) = oneshot::channel();
        let handed = self.0.send(Call {
            attempt: call.attempt,
            undo: call.undo,
            key: call.idempotency_key.clone(),
            order: call.order.id(),
            uncertain: call.uncertain,
            token: call.callback.expect("every call has a token"),
            answer,
        });
        let lost = || StepOutcome::Failed {
            reason: "the test is over".to_owned(),
            retry_after: None,
        };
        if handed.is_err() {
            return lost();
        }
        answered.await.unwrap_or_else(|_| lost())
    }
}

/// A decision taken at once for each attempt: (step, attempt, undo) to an outcome.
pub struct Scripted<F>(pub F);

#[async_trait]
impl<F: Fn(&str, u32, bool) -> StepOutcome + Send + Sync + 'static> StepRunner for Scripted<F> {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        (self.0)(call.name, call.attempt, call.undo)
    }
}

pub fn definition(toml: &str) -> Definition {
    let bundle = Bundle {
        path: "test.toml".to_owned(),
        text: toml.to_owned(),
        schema: None,
    };
    let read = read(&bundle, &Known::default());
    match read.definition {
        Some(definition) => definition,
        None => panic!("{}", comanda_order_type::render(&read.diagnostics, &bundle, false)),
    }
}

pub fn options() -> Options {
    Options {
        wait_scale: 0.001,
        sweep: Duration::from_millis(50),
        ..Options::default()
    }
}

pub struct Bench {
    pub service: Service,
    pub store: Arc<MemoryStore>,
    pub calls: Mutex<mpsc::UnboundedReceiver<Call>>,
}

impl Bench {
    /// An engine whose steps the test answers itself.
    pub async fn manual(types: &[&str]) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        Self::over(Arc::new(MemoryStore::default()), Arc::new(Manual(sender)), types, calls).await
    }

    /// An engine whose steps answer by a rule.
    pub async fn scripted<F>(types: &[&str], rule: F) -> Self
    where
        F: Fn(&str, u32, bool) -> StepOutcome + Send + Sync + 'static,
    {
        let (_, calls) = mpsc::unbounded_channel();
        Self::over(Arc::new(MemoryStore::default()), Arc::new(Scripted(rule)), types, calls).await
    }

    pub async fn over(
        store: Arc<MemoryStore>,
        steps: Arc<dyn StepRunner>,
        types: &[&str],
        calls: mpsc::UnboundedReceiver<Call>,
    ) -> Self {
        Self::with(options(), store, steps, types, calls).await
    }

    pub async fn with(
        options: Options,
        store: Arc<MemoryStore>,
        steps: Arc<dyn StepRunner>,
        types: &[&str],
        calls: mpsc::UnboundedReceiver<Call>,
    ) -> Self {
        let types = types.iter().map(|toml| definition(toml)).collect();
        let service = Service::start(options, store.clone() as Arc<dyn Store>, steps, types)
            .await
            .unwrap();
        Self {
            service,
            store,
            calls: Mutex::new(calls),
        }
    }

    pub async fn submit(&self, order_type: &str, data: &str) -> Accepted {
        self.service.submit(submission(order_type, data)).await.unwrap()
    }

    pub async fn call(&self) -> Call {
        let call = tokio::time::timeout(Duration::from_secs(20), self.calls.lock().await.recv()).await;
        call.expect("a step is called in time").expect("the engine runs")
    }

    /// The order when it is final or a dead letter.
    pub async fn rest(&self, id: OrderId) -> Found {
        let found = self
            .service
            .wait(id, WaitFor::Rest, Duration::from_secs(20))
            .await
            .unwrap()
            .unwrap();
        assert!(
            found.stored.order.head.due_at(true).is_none(),
            "not at rest: {:?}",
            found.stored.order.head
        );
        found
    }

    /// The statuses that the order has been in.
    pub async fn path(&self, id: OrderId) -> Vec<String> {
        let events = self.service.store().history(id, 0, 100).await.unwrap();
        events
            .iter()
            .filter_map(|event| event.to.as_ref().map(ToString::to_string))
            .collect()
    }
}

pub fn submission(order_type: &str, data: &str) -> Submission {
    Submission {
        order_type: order_type.to_owned(),
        key: None,
        data: Json::parse(data).unwrap(),
        value: None,
        status: None,
        due_at: None,
        idempotency: None,
        by: "local".into(),
        traceparent: None,
    }
}

pub fn change() -> Change {
    Change {
        by: "local".into(),
        reason: None,
        precondition: Precondition::None,
    }
}

pub fn done() -> StepOutcome {
    StepOutcome::Done { result: None }
}

pub fn failed() -> StepOutcome {
    StepOutcome::Failed {
        reason: "connection refused".to_owned(),
        retry_after: None,
    }
}

/// How often each text is there.
pub fn tally(texts: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for text in texts {
        *tally.entry(text).or_default() += 1;
    }
    tally
}
