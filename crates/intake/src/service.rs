//! The face of intake: takes messages from every source, makes orders of them, and keeps what none can be made of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use comanda_engine::{Accepted, Idempotency, Service, Submission, SubmitError};
use comanda_outbound::SecretError;
use comanda_store::StoreError;
use http::HeaderMap;
use parking_lot::Mutex;
use serde::Serialize;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directory::{Directory, DirectoryOptions};
use crate::feed::{Feed, FeedOptions};
use crate::lease::Lease;
use crate::message::Message;
use crate::rejected::{KeepError, Rejected, Rejections};
use crate::source::{Source, SourceError, Taken};
use crate::webhook::{Webhook, WebhookError, WebhookOptions};

/// How long a message's id is remembered where the settings do not say: longer than any sender's retries.
pub const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The waits after a source, or the store, has failed: from the first to the longest.
const WAIT_FIRST: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(60);

/// A source that the configuration names.
#[derive(Clone, Debug)]
pub struct Configured {
    /// Its name.
    pub name: String,
    /// The order type that its messages become.
    pub order_type: String,
    /// Where in a message the order's data is: a JSON pointer (RFC 6901); empty for the whole of it. A CloudEvent's data
    /// is its `data`, whatever this says.
    pub data: String,
    /// How long a message's id is remembered.
    pub kept: Duration,
    /// Where its messages come from.
    pub kind: Kind,
}

/// Where messages come from.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Requests of others, signed.
    Webhook(WebhookOptions),
    /// Answers of a service that is asked again and again.
    Feed(FeedOptions),
    /// Files of a directory.
    Directory(DirectoryOptions),
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// There is no source of this name.
    #[error("there is no source `{0}`")]
    Unknown(String),
    /// The source is none that can be posted to.
    #[error("`{0}` is no webhook")]
    NotWebhook(String),
    /// The request is no message that is believed.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// No more is taken for now.
    #[error("no more orders are taken for now")]
    Busy {
        /// When to come again.
        after: Duration,
    },
    /// Too many rejected messages wait.
    #[error("`{0}` takes nothing more: its rejected messages wait for someone to look. See: comanda intake rejected")]
    Full(String),
    /// A secret could not be read.
    #[error("the secret of `{name}` is not valid")]
    Secret {
        /// The source.
        name: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// The client could not be set up.
    #[error("the HTTP client could not be set up")]
    Client(#[from] reqwest::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A source, as it is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceState {
    /// Its name.
    pub name: String,
    /// `webhook`, `feed` or `directory`.
    pub kind: &'static str,
    /// The order type that its messages become.
    #[serde(rename = "type")]
    pub order_type: String,
    /// How many orders were made of its messages since the start.
    pub accepted: u64,
    /// How many of its messages had come before, since the start.
    pub repeated: u64,
    /// How many rejected messages are kept.
    pub rejected: u64,
    /// Why it does not go on, while it does not.
    pub last_error: Option<String>,
}

/// Which rejected messages.
#[derive(Clone, Debug)]
pub enum Which {
    /// All of a source.
    All,
    /// Those with these ids.
    Ids(Vec<String>),
}

/// What became of rejected messages that were tried again.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Retried {
    /// How many are orders now.
    pub accepted: u64,
    /// Those that were rejected again, or could not be tried: each id with its reason.
    pub rejected: Vec<(String, String)>,
}

/// Intake at work. Cloning it clones a handle.
#[derive(Clone)]
pub struct Intake(Arc<Shared>);

struct Shared {
    service: Service,
    sources: BTreeMap<String, Entry>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct Entry {
    configured: Configured,
    webhook: Option<Webhook>,
    rejections: Rejections,
    accepted: AtomicU64,
    repeated: AtomicU64,
    /// Why it does not go on, while it does not.
    last_error: Mutex<Option<String>>,
}

/// Why a message is not settled yet.
enum Unsettled {
    /// Wait, and try again.
    Busy(Duration),
    Full,
    Store(StoreError),
}

impl From<KeepError> for Unsettled {
    fn from(error: KeepError) -> Self {
        match error {
            KeepError::Full => Self::Full,
            KeepError::Store(error) => Self::Store(error),
        }
    }
}

impl Intake {
    /// Sets the sources of the configuration to work.
    ///
    /// # Errors
    /// [`IntakeError::Store`] with [`StoreError::Unsupported`] if there are sources and the store keeps no records.
    pub async fn start(service: Service, configured: Vec<Configured>) -> Result<Self, IntakeError> {
        let mut sources = BTreeMap::new();
        let mut pulled: Vec<String> = Vec::new();
        for one in configured {
            let name = one.name.clone();
            let webhook = match &one.kind {
                Kind::Webhook(options) => Some(Webhook::new(options).map_err(|source| IntakeError::Secret {
                    name: name.clone(),
                    source,
                })?),
                Kind::Feed(_) | Kind::Directory(_) => {
                    pulled.push(name.clone());
                    None
                }
            };
            let rejections = Rejections::load(service.store().clone(), &name).await?;
            let entry = Entry {
                configured: one,
                webhook,
                rejections,
                accepted: AtomicU64::new(0),
                repeated: AtomicU64::new(0),
                last_error: Mutex::default(),
            };
            entry.count().await;
            sources.insert(name, entry);
        }
        let shared = Arc::new(Shared {
            service,
            sources,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        for name in pulled {
            // Made here for the first time, so that one that cannot be set up is told at the start.
            let source = shared.source(&name)?;
            let (shared, stop) = (shared.clone(), shared.stop.clone());
            let tasks = shared.tasks.clone();
            tasks.spawn(async move {
                let lease = Lease::new(shared.service.store(), &name);
                // What is under way when it is stopped is given up, and comes again under the same ids.
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = shared.pull(&name, source, lease.as_ref()) => {}
                }
                if let Some(lease) = lease {
                    lease.release().await;
                }
            });
        }
        Ok(Self(shared))
    }

    /// Stops all sources.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// All sources, by name.
    pub async fn sources(&self) -> Vec<SourceState> {
        let mut states = Vec::with_capacity(self.0.sources.len());
        for (name, entry) in &self.0.sources {
            states.push(SourceState {
                name: name.clone(),
                kind: match entry.configured.kind {
                    Kind::Webhook(_) => "webhook",
                    Kind::Feed(_) => "feed",
                    Kind::Directory(_) => "directory",
                },
                order_type: entry.configured.order_type.clone(),
                accepted: entry.accepted.load(Ordering::Relaxed),
                repeated: entry.repeated.load(Ordering::Relaxed),
                rejected: entry.rejections.count().await as u64,
                last_error: entry.last_error.lock().clone(),
            });
        }
        states
    }

    /// Takes what was posted to a webhook. When this answers, the message is durable as an order, or kept as rejected.
    pub async fn receive(&self, name: &str, headers: &HeaderMap, body: Bytes) -> Result<Taken, IntakeError> {
        let entry = self.0.entry(name)?;
        let webhook = entry.webhook.as_ref();
        let webhook = webhook.ok_or_else(|| IntakeError::NotWebhook(name.to_owned()))?;
        let message = webhook.message(headers, body, self.0.service.now())?;
        let taken = self.0.take(entry, &[&message]).await;
        match taken.into_iter().next() {
            Some(Ok(taken)) => Ok(taken),
            Some(Err(Unsettled::Busy(after))) => Err(IntakeError::Busy { after }),
            Some(Err(Unsettled::Full)) => Err(IntakeError::Full(name.to_owned())),
            Some(Err(Unsettled::Store(error))) => Err(error.into()),
            None => Err(IntakeError::Busy { after: WAIT_FIRST }),
        }
    }

    /// The rejected messages of a source, longest tried first.
    pub async fn rejected(&self, name: &str) -> Result<Vec<Rejected>, IntakeError> {
        Ok(self.0.entry(name)?.rejections.all().await?)
    }

    /// Makes orders of rejected messages, with the settings and the types as they are now. Those that become one are
    /// kept no longer.
    pub async fn retry(&self, name: &str, which: Which) -> Result<Retried, IntakeError> {
        let entry = self.0.entry(name)?;
        let mut retried = Retried::default();
        for id in entry.chosen(which).await? {
            let Some(message) = entry.rejections.message(&id).await? else {
                let reason = "there is no such message, or it was too large to be kept whole".to_owned();
                retried.rejected.push((id, reason));
                continue;
            };
            match self.0.take(entry, &[&message]).await.into_iter().next() {
                Some(Ok(Taken::Accepted(_) | Taken::Repeated(_))) => {
                    entry.rejections.release(&id).await?;
                    retried.accepted += 1;
                }
                Some(Ok(Taken::Rejected(reason))) => retried.rejected.push((id, reason)),
                Some(Err(Unsettled::Busy(after))) => return Err(IntakeError::Busy { after }),
                Some(Err(Unsettled::Store(error))) => return Err(error.into()),
                Some(Err(Unsettled::Full)) | None => return Err(IntakeError::Full(name.to_owned())),
            }
        }
        entry.count().await;
        Ok(retried)
    }

    /// Keeps rejected messages no longer. Answers how many there were.
    pub async fn discard(&self, name: &str, which: Which) -> Result<u64, IntakeError> {
        let entry = self.0.entry(name)?;
        let mut discarded = 0;
        for id in entry.chosen(which).await? {
            discarded += u64::from(entry.rejections.release(&id).await?);
        }
        entry.count().await;
        Ok(discarded)
    }
}

impl Entry {
    async fn chosen(&self, which: Which) -> Result<Vec<String>, StoreError> {
        match which {
            Which::Ids(ids) => Ok(ids),
            Which::All => Ok(self.rejections.all().await?.into_iter().map(|one| one.id).collect()),
        }
    }

    async fn count(&self) {
        let kept = u32::try_from(self.rejections.count().await).unwrap_or(u32::MAX);
        metrics::gauge!("comanda_intake_rejected", "source" => self.configured.name.clone()).set(f64::from(kept));
    }

    /// Counts what became of a message.
    fn counted(&self, taken: &Taken) {
        let outcome = match taken {
            Taken::Accepted(_) => {
                self.accepted.fetch_add(1, Ordering::Relaxed);
                "accepted"
            }
            Taken::Repeated(_) => {
                self.repeated.fetch_add(1, Ordering::Relaxed);
                "repeated"
            }
            Taken::Rejected(_) => "rejected",
        };
        let source = self.configured.name.clone();
        metrics::counter!("comanda_intake_messages_total", "source" => source, "outcome" => outcome).increment(1);
    }

    fn submission(&self, message: &Message) -> Result<Submission, String> {
        Ok(Submission {
            order_type: self.configured.order_type.clone(),
            key: None,
            data: message.data(&self.configured.data)?,
            value: None,
            status: None,
            due_at: None,
            idempotency: Some(Idempotency {
                scope: format!("intake:{}", self.configured.name),
                key: message.id.clone(),
                kept: Some(self.configured.kept),
            }),
            by: format!("intake:{}", self.configured.name).into(),
            traceparent: None,
        })
    }
}

impl Shared {
    fn entry(&self, name: &str) -> Result<&Entry, IntakeError> {
        self.sources
            .get(name)
            .ok_or_else(|| IntakeError::Unknown(name.to_owned()))
    }

    /// Makes orders of messages, all at once: what became of each, or why it is not settled yet.
    async fn take(&self, entry: &Entry, messages: &[&Message]) -> Vec<Result<Taken, Unsettled>> {
        let mut submissions = Vec::with_capacity(messages.len());
        let unreadable: Vec<Option<String>> = messages
            .iter()
            .map(|message| match entry.submission(message) {
                Ok(submission) => {
                    submissions.push(submission);
                    None
                }
                Err(reason) => Some(reason),
            })
            .collect();
        let mut answers = self.service.submit_batch(submissions).await.into_iter();
        let mut all = Vec::with_capacity(messages.len());
        for (message, unreadable) in messages.iter().zip(unreadable) {
            let rejected = match unreadable {
                Some(reason) => reason,
                None => match answers.next() {
                    Some(Ok(accepted)) => {
                        let taken = of(&accepted);
                        entry.counted(&taken);
                        all.push(Ok(taken));
                        continue;
                    }
                    Some(Err(SubmitError::Busy { after })) => {
                        all.push(Err(Unsettled::Busy(after)));
                        continue;
                    }
                    Some(Err(SubmitError::Store(error))) => {
                        all.push(Err(Unsettled::Store(error)));
                        continue;
                    }
                    Some(Err(error)) => error.to_string(),
                    None => {
                        all.push(Err(Unsettled::Busy(WAIT_FIRST)));
                        continue;
                    }
                },
            };
            let kept = entry.rejections.keep(message, &rejected, self.service.now()).await;
            all.push(match kept {
                Ok(()) => {
                    tracing::warn!(
                        source = entry.configured.name,
                        message = message.id,
                        reason = rejected,
                        "a message was rejected"
                    );
                    let taken = Taken::Rejected(rejected);
                    entry.counted(&taken);
                    Ok(taken)
                }
                Err(error) => Err(error.into()),
            });
        }
        if all.iter().any(|one| matches!(one, Ok(Taken::Rejected(_)))) {
            entry.count().await;
        }
        all
    }

    /// What hands out the messages of a source that does so by itself, as far as it had come by what is durable.
    fn source(&self, name: &str) -> Result<Box<dyn Source>, IntakeError> {
        let store = self.service.store().clone();
        match &self.entry(name)?.configured.kind {
            Kind::Webhook(_) => Err(IntakeError::Unknown(name.to_owned())),
            Kind::Feed(options) => Ok(Box::new(Feed::new(options.clone(), store, name)?)),
            Kind::Directory(options) => Ok(Box::new(Directory::new(options.clone(), store, name))),
        }
    }

    /// Takes messages from a source for ever; where several processes could, while it is this one's.
    async fn pull(&self, name: &str, source: Box<dyn Source>, lease: Option<&Lease>) {
        let Ok(entry) = self.entry(name) else { return };
        let Some(lease) = lease else {
            return self.work(entry, source).await;
        };
        let mut next = Some(source);
        loop {
            lease
                .take(|error| {
                    let other = || "another process takes from it".to_owned();
                    let why = error.map_or_else(other, |error| chain(error));
                    entry.last_error.lock().replace(why);
                })
                .await;
            entry.last_error.lock().take();
            // One that another has gone on with is read anew.
            let source = match next.take().map_or_else(|| self.source(name), Ok) {
                Ok(source) => source,
                Err(error) => {
                    entry.last_error.lock().replace(chain(&error));
                    tokio::time::sleep(WAIT_MAX).await;
                    continue;
                }
            };
            tokio::select! {
                () = self.work(entry, source) => {}
                () = lease.keep() => {}
            }
        }
    }

    /// Takes messages from a source until another process is seen to do so too.
    async fn work(&self, entry: &Entry, mut source: Box<dyn Source>) {
        let is_shared = self.service.store().capabilities().many_nodes;
        let mut wait = WAIT_FIRST;
        loop {
            let messages = match source.receive().await {
                Ok(messages) => messages,
                Err(error) => {
                    self.failed(entry, &error, &mut wait).await;
                    continue;
                }
            };
            let taken = self.settled(entry, &messages).await;
            while let Err(error) = source.settle(&taken).await {
                self.failed(entry, &error, &mut wait).await;
                if is_shared && matches!(error, SourceError::Shared) {
                    // Its place counts, not ours.
                    return;
                }
            }
            wait = WAIT_FIRST;
            entry.last_error.lock().take();
        }
    }

    /// Goes on until each message is an order or kept: while the engine is full, the source waits.
    async fn settled(&self, entry: &Entry, messages: &[Message]) -> Vec<Taken> {
        let mut taken: Vec<Option<Taken>> = vec![None; messages.len()];
        loop {
            let open: Vec<usize> = (0..messages.len()).filter(|index| taken[*index].is_none()).collect();
            if open.is_empty() {
                return taken.into_iter().flatten().collect();
            }
            let asked: Vec<&Message> = open.iter().map(|index| &messages[*index]).collect();
            let mut pause = Duration::ZERO;
            for (index, answer) in open.into_iter().zip(self.take(entry, &asked).await) {
                let (longer, why) = match answer {
                    Ok(done) => {
                        taken[index] = Some(done);
                        continue;
                    }
                    Err(Unsettled::Busy(after)) => (after, "no more orders are taken for now".to_owned()),
                    Err(Unsettled::Full) => (WAIT_MAX, KeepError::Full.to_string()),
                    Err(Unsettled::Store(error)) => (WAIT_FIRST, error.to_string()),
                };
                pause = pause.max(longer);
                entry.last_error.lock().replace(why);
            }
            if !pause.is_zero() {
                // Room that someone makes is looked for sooner than a minute.
                tokio::time::sleep(pause.min(Duration::from_secs(5))).await;
            }
        }
    }

    async fn failed(&self, entry: &Entry, error: &SourceError, wait: &mut Duration) {
        let source = &entry.configured.name;
        let why = chain(error);
        tracing::warn!(source, error = why, "a source waits");
        entry.last_error.lock().replace(why);
        tokio::time::sleep(*wait).await;
        *wait = (*wait * 2).min(WAIT_MAX);
    }
}

fn of(accepted: &Accepted) -> Taken {
    let id = accepted.found.stored.order.id();
    if accepted.repeated {
        Taken::Repeated(id)
    } else {
        Taken::Accepted(id)
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
