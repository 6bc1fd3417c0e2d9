//! The face of subscriptions: makes, changes, pauses and removes them, and keeps one worker for each at work.

mod running;
mod stored;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use comanda_engine::{Chance, Service, SystemChance};
use comanda_outbound::{Guard, Signer};
use comanda_store::seal::Sealer;
use comanda_store::subscription::{
    Advance, Delivery, EXCEPTIONS_MAX, Exception, Paused, Progress, SigningSecret, Subscription, SubscriptionStore,
};
use comanda_store::{FeedStart, Store, StoreError};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::archive::{Archives, Opened};
use crate::courier::Courier;
use crate::error::DeliverError;
use crate::mail::Mail;
use crate::request::{Configured, Request, Rotated, SecretKind, check, make_secret};
use crate::schedule::SCHEDULE;
use crate::tail::Tail;
use crate::target::Target;
use crate::webhook::{Clients, TIMEOUT};
use crate::worker::later;
use running::{count_paused, end, follow_loop, pause_loop};

/// How long a secret that was replaced goes on signing, unless something else is asked for.
const ROTATION: Duration = Duration::from_secs(24 * 60 * 60);

/// How subscriptions work.
#[derive(Clone)]
pub struct Options {
    /// What it is called towards receivers.
    pub user_agent: String,
    /// Whether subscriptions made through the API may lead to addresses that are not public.
    pub allow_private: bool,
    /// Multiplies the waits between tries; below 1 to try out failure quickly.
    pub wait_scale: f64,
    /// The waits after the first, second, … failed try, each drawn up to a fifth longer. After the last one the subscription
    /// is paused.
    pub schedule: Vec<Duration>,
    /// How long a receiver of webhooks may take to answer.
    pub timeout: Duration,
    /// What secrets are sealed with before the store gets them.
    pub sealer: Arc<Sealer>,
    /// Where failed orders are written.
    pub archives: Archives,
    /// What sends e-mail, where a mail server is set up.
    pub mail: Option<Arc<Mail>>,
    /// What carries webhooks; over HTTP where nothing is given.
    pub courier: Option<Arc<dyn Courier>>,
    /// Spreads the waits between tries.
    pub chance: Arc<dyn Chance>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            user_agent: "comanda".to_owned(),
            allow_private: false,
            wait_scale: 1.0,
            schedule: SCHEDULE.to_vec(),
            timeout: TIMEOUT,
            sealer: Arc::new(Sealer::plain()),
            archives: Archives::default(),
            mail: None,
            courier: None,
            chance: Arc::new(SystemChance),
        }
    }
}

/// Subscriptions at work. Cloning it clones a handle.
#[derive(Clone)]
pub struct Deliveries(pub(crate) Arc<Shared>);

/// What workers share.
pub(crate) struct Shared {
    pub(crate) service: Service,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) options: Options,
    pub(crate) courier: Arc<dyn Courier>,
    pub(crate) archives: Opened,
    pub(crate) tail: Tail,
    pub(crate) pauses: mpsc::UnboundedSender<Pause>,
    /// Whether other processes deliver from the same store.
    is_shared: bool,
    /// Wakes whoever looks which subscriptions are this process's own.
    changed: Notify,
    entries: Mutex<BTreeMap<String, Entry>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A worker's wish that its subscription be paused.
pub(crate) struct Pause {
    pub(crate) id: String,
    pub(crate) reason: String,
}

/// A subscription, with its worker unless it is paused or another process delivers it.
struct Entry {
    subscription: Subscription,
    worker: Option<(CancellationToken, JoinHandle<()>)>,
    /// The hold that the worker was started under.
    hold: Option<u64>,
}

impl Shared {
    pub(crate) fn port(&self) -> Result<&dyn SubscriptionStore, StoreError> {
        self.store.subscriptions().ok_or(StoreError::Unsupported {
            store: self.store.capabilities().name,
            what: "keep subscriptions",
        })
    }
}

impl Deliveries {
    /// Takes up the subscriptions that the store keeps, and makes those of the configuration be as it says.
    ///
    /// # Errors
    /// [`StoreError::Unsupported`] if the configuration names subscriptions and the store keeps none.
    pub async fn start(options: Options, service: Service, configured: Vec<Configured>) -> Result<Self, DeliverError> {
        let (pauses, asked) = mpsc::unbounded_channel();
        let courier: Arc<dyn Courier> = match &options.courier {
            Some(courier) => courier.clone(),
            None => Arc::new(Clients::new(&options.user_agent, options.timeout)?),
        };
        let shared = Arc::new(Shared {
            courier,
            archives: Opened::new(options.archives.clone()),
            store: service.store().clone(),
            is_shared: service.store().capabilities().many_nodes,
            changed: Notify::new(),
            service,
            options,
            tail: Tail::new(),
            pauses,
            entries: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let deliveries = Self(shared.clone());
        let tail = shared.tail.clone();
        shared.tasks.spawn(tail.run(shared.store.clone(), shared.stop.clone()));
        if shared.store.subscriptions().is_none() && configured.is_empty() {
            if !shared.service.registry().archives().is_empty() {
                let store = shared.store.capabilities().name;
                tracing::warn!(
                    store,
                    "failed orders are not archived: this store keeps no subscriptions"
                );
            }
            deliveries.notices().await?;
            return Ok(deliveries);
        }
        shared.seal_anew().await?;
        deliveries.configure(configured).await?;
        let all = shared.all().await?;
        {
            let mut entries = shared.entries.lock().await;
            for subscription in all {
                let id = subscription.id.clone();
                let worker = deliveries.work(&subscription, None);
                let hold = None;
                entries.insert(
                    id,
                    Entry {
                        subscription,
                        worker,
                        hold,
                    },
                );
            }
            count_paused(&entries);
        }
        deliveries.archive().await?;
        deliveries.notices().await?;
        if shared.is_shared {
            shared.tasks.spawn(follow_loop(deliveries.clone()));
        }
        shared.tasks.spawn(pause_loop(deliveries.clone(), asked));
        Ok(deliveries)
    }

    /// Makes the store's subscriptions those that the configuration names.
    async fn configure(&self, configured: Vec<Configured>) -> Result<(), DeliverError> {
        let port = self.0.port()?;
        let before = self.0.all().await?;
        for old in before.iter().filter(|old| old.configured) {
            let stays = match Target::of(&old.url) {
                Target::Webhook | Target::Mail(_) => configured.iter().any(|new| new.name == old.id),
                Target::Archive(name) => self.0.service.registry().archives().contains(name),
                Target::Customer => self.0.options.mail.is_some() && self.0.notifies(),
            };
            if !stays {
                port.remove_subscription(&old.id).await?;
            } else if matches!(Target::of(&old.url), Target::Archive(_) | Target::Customer) && old.paused.is_some() {
                let paused = None;
                let resumed = Subscription { paused, ..old.clone() };
                self.0.keep(Some(old), &resumed).await?;
            }
        }
        for new in configured {
            let old = before.iter().find(|old| old.id == new.name);
            if old.is_some_and(|old| !old.configured) {
                let taken = format!("a subscription with the id `{}` was made through the API", new.name);
                return Err(DeliverError::Invalid(taken));
            }
            if let Some(secret) = &new.secret {
                Signer::from_secret(secret)?;
            }
            check(&new.request, &self.0.options)?;
            let subscription = Subscription {
                id: new.name,
                configured: true,
                // Who writes the configuration may name any address.
                allow_private: true,
                created_at: old.map_or_else(|| self.0.store.now(), |old| old.created_at),
                // A start is a new try.
                paused: None,
                ..self.subscription(&new.request, new.secret)
            };
            if old != Some(&subscription) {
                self.0.keep(old, &subscription).await?;
            }
            // Also one that an earlier start has made and not begun: it would begin wherever the feed has come to by then.
            if port.progress(&subscription.id).await?.is_none() {
                self.begin(&subscription.id, new.request.from_oldest).await?;
            }
        }
        Ok(())
    }

    /// Makes a subscription that is not asked for by anyone but follows from what is set up, and sets it to work.
    pub(crate) async fn set_up(&self, subscription: Subscription, from_oldest: bool) -> Result<(), DeliverError> {
        let mut entries = self.0.entries.lock().await;
        self.refresh(&mut entries).await?;
        if entries.contains_key(&subscription.id) {
            return Ok(());
        }
        self.0.keep(None, &subscription).await?;
        self.begin(&subscription.id, from_oldest).await?;
        let worker = self.work(&subscription, None);
        let id = subscription.id.clone();
        let hold = None;
        entries.insert(
            id,
            Entry {
                subscription,
                worker,
                hold,
            },
        );
        self.0.changed.notify_one();
        Ok(())
    }

    /// What secrets are sealed with before the store gets them.
    pub fn sealer(&self) -> &Sealer {
        &self.0.options.sealer
    }

    /// Follows the feed's end for whoever asks.
    pub fn tail(&self) -> &Tail {
        &self.0.tail
    }

    /// The engine whose events these are.
    pub(crate) fn engine(&self) -> &Service {
        &self.0.service
    }

    fn subscription(&self, request: &Request, secret: Option<String>) -> Subscription {
        Subscription {
            id: format!("sub_{}", uuid::Uuid::new_v4().simple()),
            name: request.name.clone(),
            url: request.url.clone(),
            filter: request.filter.clone(),
            include_order: request.include_order,
            secrets: secret
                .into_iter()
                .map(|secret| SigningSecret { secret, until: None })
                .collect(),
            allow_private: self.0.options.allow_private,
            concurrency: request.concurrency,
            ordering: request.ordering,
            configured: false,
            created_at: self.0.store.now(),
            paused: None,
        }
    }

    /// Puts a new subscription's cursor where it begins.
    async fn begin(&self, id: &str, from_oldest: bool) -> Result<(), StoreError> {
        let from = if from_oldest {
            FeedStart::Oldest
        } else {
            FeedStart::Newest
        };
        let advance = Advance {
            notice: None,
            hold: None,
            cursor: Some(self.0.store.feed(from, 0).await?.next),
            failed: Vec::new(),
            settled: Vec::new(),
            deliveries: Vec::new(),
        };
        self.0.port()?.advance(id, advance).await?;
        Ok(())
    }

    /// All subscriptions, by id.
    pub async fn list(&self) -> Result<Vec<Subscription>, DeliverError> {
        let mut entries = self.0.entries.lock().await;
        self.refresh(&mut entries).await?;
        Ok(entries.values().map(|entry| entry.subscription.clone()).collect())
    }

    /// One, with how far it has come.
    pub async fn get(&self, id: &str) -> Result<(Subscription, Option<Progress>), DeliverError> {
        let subscription = {
            let mut entries = self.0.entries.lock().await;
            self.refresh(&mut entries).await?;
            let entry = entries.get(id).ok_or_else(|| DeliverError::Unknown(id.to_owned()))?;
            entry.subscription.clone()
        };
        Ok((subscription, self.0.port()?.progress(id).await?))
    }

    /// Makes one. It begins with the next event that is committed, or with the oldest that is kept.
    pub async fn create(&self, request: Request) -> Result<Rotated, DeliverError> {
        let url = check(&request, &self.0.options)?;
        let is_mail = url.scheme() == "mailto";
        if !is_mail && !self.0.options.allow_private {
            Guard::check(&url)?;
        }
        // Nobody verifies an e-mail.
        let (secret, verify_with) = match is_mail {
            true => (None, None),
            false => make_secret(request.secret).map(|(secret, verify_with)| (Some(secret), Some(verify_with)))?,
        };
        let subscription = self.subscription(&request, secret);
        let mut entries = self.0.entries.lock().await;
        self.0.keep(None, &subscription).await?;
        self.begin(&subscription.id, request.from_oldest).await?;
        let worker = self.work(&subscription, None);
        let entry = Entry {
            subscription: subscription.clone(),
            worker,
            hold: None,
        };
        entries.insert(subscription.id.clone(), entry);
        self.0.changed.notify_one();
        Ok(Rotated {
            subscription,
            verify_with,
        })
    }

    /// Removes one, with its progress and its log.
    pub async fn remove(&self, id: &str) -> Result<(), DeliverError> {
        let mut entries = self.0.entries.lock().await;
        self.refresh(&mut entries).await?;
        let entry = entries
            .get_mut(id)
            .ok_or_else(|| DeliverError::Unknown(id.to_owned()))?;
        if entry.subscription.configured {
            return Err(DeliverError::Configured(id.to_owned()));
        }
        end(entry.worker.take()).await;
        self.0.port()?.remove_subscription(id).await?;
        entries.remove(id);
        count_paused(&entries);
        Ok(())
    }

    /// Sends nothing more until it is resumed.
    pub async fn pause(&self, id: &str, reason: String) -> Result<Subscription, DeliverError> {
        let at = self.0.store.now();
        self.change(id, |subscription| {
            subscription.paused.get_or_insert(Paused { at, reason });
        })
        .await
    }

    /// Goes on where it was paused; what failed is tried again at once.
    pub async fn resume(&self, id: &str) -> Result<Subscription, DeliverError> {
        let now = self.0.store.now();
        let failed = match self.0.port()?.progress(id).await? {
            Some(progress) => progress.exceptions,
            None => Vec::new(),
        };
        let anew = |one: Exception| Exception {
            attempts: 0,
            retry_at: now,
            ..one
        };
        self.stopped(id, Some(failed.into_iter().map(anew).collect()), |subscription| {
            subscription.paused = None;
        })
        .await
    }

    /// Makes a new secret of the same kind. The old one signs beside it for a day, or for as long as is asked for.
    pub async fn rotate(&self, id: &str, keep: Option<Duration>) -> Result<Rotated, DeliverError> {
        let (current, _) = self.get(id).await?;
        if current.configured {
            return Err(DeliverError::Configured(id.to_owned()));
        }
        let Some(signing) = current.secrets.first() else {
            return Err(DeliverError::Invalid(format!(
                "`{id}` is sent by e-mail, which has no secret"
            )));
        };
        let is_asymmetric = signing.secret.starts_with("whsk_");
        let kind = if is_asymmetric {
            SecretKind::Asymmetric
        } else {
            SecretKind::Symmetric
        };
        let (secret, verify_with) = make_secret(kind)?;
        let now = self.0.store.now();
        let until = later(now, keep.unwrap_or(ROTATION));
        let subscription = self
            .change(id, |subscription| {
                subscription
                    .secrets
                    .retain(|old| old.until.is_none_or(|until| until > now));
                for old in &mut subscription.secrets {
                    old.until = Some(old.until.map_or(until, |before| before.min(until)));
                }
                subscription.secrets.insert(0, SigningSecret { secret, until: None });
                // Whoever rotates in a hurry leaves no row of old secrets behind.
                subscription.secrets.truncate(3);
            })
            .await?;
        Ok(Rotated {
            subscription,
            verify_with: Some(verify_with),
        })
    }

    /// The log: tries with a number below `before`, newest first.
    pub async fn deliveries(&self, id: &str, before: u64, max: usize) -> Result<Vec<Delivery>, DeliverError> {
        self.get(id).await?;
        Ok(self.0.port()?.deliveries(id, before, max).await?)
    }

    async fn change(&self, id: &str, change: impl FnOnce(&mut Subscription)) -> Result<Subscription, DeliverError> {
        self.stopped(id, None, change).await
    }

    /// Changes a subscription while its worker stands still, and perhaps what it is to try again.
    pub(crate) async fn stopped(
        &self,
        id: &str,
        again: Option<Vec<Exception>>,
        change: impl FnOnce(&mut Subscription),
    ) -> Result<Subscription, DeliverError> {
        let mut entries = self.0.entries.lock().await;
        self.refresh(&mut entries).await?;
        let entry = entries
            .get_mut(id)
            .ok_or_else(|| DeliverError::Unknown(id.to_owned()))?;
        // Where another process delivers it, its work counts no more from this change on.
        end(entry.worker.take()).await;
        let mut changed = entry.subscription.clone();
        change(&mut changed);
        let written = self.write(&entry.subscription, &changed, again).await;
        if written.is_ok() {
            entry.subscription = changed.clone();
        }
        entry.worker = self.work(&entry.subscription, None);
        entry.hold = None;
        self.0.changed.notify_one();
        count_paused(&entries);
        written?;
        Ok(changed)
    }

    async fn write(
        &self,
        before: &Subscription,
        changed: &Subscription,
        again: Option<Vec<Exception>>,
    ) -> Result<(), DeliverError> {
        let port = self.0.port()?;
        if let Some(again) = again {
            let mut failed = Vec::with_capacity(again.len());
            let stands = match port.progress(&changed.id).await? {
                Some(progress) => progress.exceptions,
                None => Vec::new(),
            };
            for one in again {
                let merged = match stands.iter().find(|stands| stands.order == one.order) {
                    Some(stands) => Exception {
                        number: one.number.min(stands.number),
                        until: one.until.max(stands.until),
                        position: one.position.min(stands.position),
                        ..one
                    },
                    None => one,
                };
                failed.push(merged);
            }
            let new = failed
                .iter()
                .filter(|one| !stands.iter().any(|stands| stands.order == one.order));
            if stands.len() + new.count() > EXCEPTIONS_MAX {
                let full = "too much waits to be sent again already; come again when it has been sent";
                return Err(DeliverError::Invalid(full.to_owned()));
            }
            let advance = Advance {
                notice: None,
                hold: None,
                cursor: None,
                failed,
                settled: Vec::new(),
                deliveries: Vec::new(),
            };
            port.advance(&changed.id, advance).await?;
        }
        self.0.keep(Some(before), changed).await
    }

    /// Stops all workers. What was under way is sent again at the next start.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}
