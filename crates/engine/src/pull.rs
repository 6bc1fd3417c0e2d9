//! Workers from outside: programs that claim the work of a step's queue, and answer when they have done it.
//!
//! Their answers are decided and committed like those of the engine's own steps, under the same rules of fencing,
//! retries and exhaustion. Who asks for work waits until a commit brings some; a look at the store now and then covers
//! a wake-up that was lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use comanda_model::bounds::RESULT_BYTES_MAX;
use comanda_model::decision::{self, Command, Report, StepOutcome};
use comanda_model::order_type::Step;
use comanda_model::{Attempt, Order, OrderType, Outcome, Token, WorkKind};
use comanda_order_type::Definition;
use comanda_store::{
    CommitError, DeadItem, DeadItemMove, Expect, ItemClaim, ItemClaims, ItemOutcome, ItemToken, QueueClaim, QueueCount,
    WorkClaim,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::attempt::outcome_name;
use crate::commit::{Prepared, Taking};
use crate::error::CommandError;
use crate::service::{Core, Service};
use crate::worker::Ready;

/// How often an answer is decided again because the order had moved.
const ROUNDS_MAX: u32 = 20;
/// How often who waits looks by itself.
const LOOK: Duration = Duration::from_secs(1);
/// How long an item waits after a failure, where the worker does not say.
const ITEM_DELAY: Duration = Duration::from_secs(1);
/// How many of an order's last attempts are looked at to tell a late answer from a repeated one.
const ATTEMPTS_LOOKED_AT: usize = 16;

/// What a worker from outside asks for.
#[derive(Clone, Debug)]
pub struct Pull {
    /// The queue.
    pub queue: String,
    /// The worker's name, for people.
    pub worker: String,
    /// At most so much.
    pub max: usize,
    /// How long to wait until there is any.
    pub wait: Duration,
    /// For how long it is claimed.
    pub lease: Duration,
}

/// What a worker from outside has claimed.
#[derive(Clone, Debug, Default)]
pub struct Pulls {
    /// Work of steps: the orders wait for the answers.
    pub work: Vec<Pulled>,
    /// Items of statuses: the orders do not wait.
    pub items: Vec<ItemClaim>,
}

/// Work that a worker from outside has claimed.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What the answer must come with.
    pub token: Token,
    /// The order, as it stands.
    pub order: Order,
    /// The step.
    pub step: Arc<str>,
    /// The attempt within the visit, from 1.
    pub attempt: u32,
    /// Whether what the step did is to be taken back.
    pub undo: bool,
    /// The key that is the same on every attempt of a visit, so that its effect can be made to happen once.
    pub idempotency_key: String,
    /// The key of the work that this undo takes back.
    pub undoes: Option<String>,
    /// When the claim ends.
    pub lease_until: Timestamp,
}

/// Whether an answer counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    /// It is durable.
    Done,
    /// The token is not, or no longer, the one that holds the work. Nothing was changed.
    Stale,
}

/// Who waits for work in which queue.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    // Read on every commit: when nobody waits, a commit pays one load.
    waiting: AtomicUsize,
    queues: Mutex<HashMap<Arc<str>, Waiting>>,
}

/// Those who wait for one queue.
#[derive(Debug, Default)]
struct Waiting {
    count: usize,
    notify: Arc<Notify>,
}

impl Waiters {
    fn wait(&self, queue: &Arc<str>) -> Waiter<'_> {
        let mut queues = self.queues.lock();
        let entry = queues.entry(queue.clone()).or_default();
        entry.count += 1;
        self.waiting.fetch_add(1, Ordering::SeqCst);
        Waiter {
            waiters: self,
            queue: queue.clone(),
            notify: entry.notify.clone(),
        }
    }

    /// Whether anyone waits.
    pub(crate) fn any(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Something was put into a queue: one of those who wait looks.
    pub(crate) fn wake(&self, queue: &str) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        if let Some(waiting) = self.queues.lock().get(queue) {
            waiting.notify.notify_one();
        }
    }
}

/// One who waits.
struct Waiter<'w> {
    waiters: &'w Waiters,
    queue: Arc<str>,
    notify: Arc<Notify>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut queues = self.waiters.queues.lock();
        if let Some(entry) = queues.get_mut(&self.queue) {
            entry.count -= 1;
            if entry.count == 0 {
                queues.remove(&self.queue);
            }
        }
        self.waiters.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service {
    /// Claims work from a step's queue, and items of a status's, for a worker from outside. Waits for the first of it;
    /// answers with nothing when the time is over.
    pub async fn pull(&self, asked: Pull) -> Result<Pulls, CommandError> {
        let core = &self.0;
        let queue = core.registry.queue(&asked.queue)?;
        let deadline = tokio::time::Instant::now() + asked.wait;
        let waiter = core.waiters.wait(&queue);
        let claim = QueueClaim {
            queue: asked.queue,
            worker: asked.worker,
            max: asked.max,
            lease: asked.lease,
        };
        loop {
            // Interest is registered before the store is looked at, so that no commit falls in between.
            let mut filled = std::pin::pin!(waiter.notify.notified());
            filled.as_mut().enable();
            let claims = core.store.claim_work(&claim).await?;
            let more = claims.claims.len() == claim.max;
            let any = !claims.claims.is_empty();
            let mut pulled = Vec::with_capacity(claims.claims.len());
            for one in claims.claims {
                pulled.extend(core.pulled(one, claim.lease).await);
            }
            let rest = QueueClaim {
                max: claim.max - pulled.len().min(claim.max),
                ..claim.clone()
            };
            let items = if core.store.capabilities().status_queues {
                core.store.claim_items(&rest).await?
            } else {
                ItemClaims::default()
            };
            if more || (rest.max > 0 && items.claims.len() == rest.max) {
                // What there is beyond is for the next who waits.
                core.waiters.wake(&queue);
            }
            let over = tokio::time::Instant::now() >= deadline || core.stopping.is_cancelled();
            if !pulled.is_empty() || !items.claims.is_empty() || over {
                return Ok(Pulls {
                    work: pulled,
                    items: items.claims,
                });
            }
            if any {
                continue;
            }
            let next_due_at = claims.next_due_at.into_iter().chain(items.next_due_at).min();
            let until_due = next_due_at.map(|due_at| due_at.duration_since(core.store.now()));
            let until_due = until_due.map(|wait| Duration::try_from(wait).unwrap_or(Duration::ZERO));
            let look = until_due.unwrap_or(LOOK).clamp(Duration::from_millis(1), LOOK);
            tokio::select! {
                biased;
                () = filled => {}
                () = tokio::time::sleep(look) => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = core.stopping.cancelled() => {}
            }
        }
    }

    /// What a worker from outside answers to work that it has claimed.
    pub async fn answer(&self, token: Token, outcome: StepOutcome) -> Result<Answered, CommandError> {
        if let StepOutcome::Done { result: Some(result) } = &outcome
            && result.as_str().len() > RESULT_BYTES_MAX
        {
            return Err(CommandError::TooLarge {
                what: "a step's result",
                bytes_max: RESULT_BYTES_MAX,
            });
        }
        self.0.answer(token, outcome).await
    }

    /// Extends a claim of a worker from outside, though not beyond its step's `timeout`. Answers when it now ends; none
    /// if the token is stale.
    pub async fn heartbeat(&self, token: Token, lease: Duration) -> Result<Option<Timestamp>, CommandError> {
        let core = &self.0;
        let Some(stored) = core.reload(token.order).await? else {
            return Ok(None);
        };
        let Some(worker) = &stored.worker else { return Ok(None) };
        let definition = core.definition(&stored.order).await?;
        let Some(step) = step_at(&stored.order, &definition.order_type) else {
            return Ok(None);
        };
        let held = Duration::try_from(core.store.now().duration_since(worker.since)).unwrap_or_default();
        let left = step.timeout.saturating_sub(held);
        if left.is_zero() {
            return Ok(None);
        }
        match core.store.renew(&token, lease.min(left)).await {
            Ok(until) => Ok(Some(until)),
            Err(CommitError::TokenStale) => Ok(None),
            Err(error) => Err(not_committed(error)),
        }
    }

    /// What a worker from outside answers to an item of a status's queue.
    pub async fn answer_item(&self, token: ItemToken, outcome: StepOutcome) -> Result<Answered, CommandError> {
        let core = &self.0;
        let outcome = match outcome {
            StepOutcome::Done { .. } => ItemOutcome::Done,
            StepOutcome::Refused { reason } => ItemOutcome::Refuse { reason },
            StepOutcome::Failed { reason, retry_after } => ItemOutcome::Retry {
                reason,
                delay: retry_after.unwrap_or_else(|| ITEM_DELAY.mul_f64(core.options.wait_scale)),
            },
            // No worker can say anything else; the claim then stays as it is.
            _ => return Ok(Answered::Stale),
        };
        match core.store.settle_item(&token, &outcome).await? {
            Some(queue) => {
                // The next of the lane can be claimed now, or this one will be later.
                core.waiters.wake(&queue);
                Ok(Answered::Done)
            }
            None => {
                metrics::counter!("comanda_stale_items_total").increment(1);
                Ok(Answered::Stale)
            }
        }
    }

    /// Extends the claim of an item. Answers when it now ends; none if the token is stale.
    pub async fn heartbeat_item(&self, token: ItemToken, lease: Duration) -> Result<Option<Timestamp>, CommandError> {
        Ok(self.0.store.renew_item(&token, lease).await?)
    }

    /// A page of a queue's own dead letters, oldest first.
    pub async fn dead_items(&self, queue: &str, after: u64, max: usize) -> Result<Vec<DeadItem>, CommandError> {
        let queue = self.0.registry.queue(queue)?;
        Ok(self.0.store.dead_items(&queue, after, max).await?)
    }

    /// Hands dead letters of a queue out again, or takes them away. Answers how many there were at these positions.
    pub async fn move_dead_items(&self, queue: &str, positions: &[u64], to: DeadItemMove) -> Result<u64, CommandError> {
        let queue = self.0.registry.queue(queue)?;
        let moved = self.0.store.move_dead_items(&queue, positions, to).await?;
        (0..moved).for_each(|_| self.0.waiters.wake(&queue));
        Ok(moved)
    }

    /// How much stands in each queue that the types name, by name.
    pub async fn queues(&self) -> Result<Vec<QueueCount>, CommandError> {
        let mut queues = if self.0.store.capabilities().queues {
            self.0.store.queues().await?
        } else {
            Vec::new()
        };
        for name in self.0.registry.queues() {
            if !queues.iter().any(|queue| *queue.queue == *name) {
                queues.push(QueueCount {
                    queue: name.to_string(),
                    depth: 0,
                    leased: 0,
                    dead: 0,
                    oldest_at: None,
                });
            }
        }
        queues.sort_by(|one, other| one.queue.cmp(&other.queue));
        Ok(queues)
    }

    /// How much stands in one queue.
    pub async fn queue(&self, name: &str) -> Result<QueueCount, CommandError> {
        let name = self.0.registry.queue(name)?;
        let found = self.queues().await?.into_iter().find(|queue| *queue.queue == *name);
        found.ok_or_else(|| CommandError::UnknownQueue {
            name: name.to_string(),
            nearest: None,
        })
    }
}

/// The step, or its undo, that an order's work is about.
fn step_at<'t>(order: &Order, order_type: &'t OrderType) -> Option<&'t Step> {
    match &order.head.work.as_ref()?.kind {
        WorkKind::Step(at) => order_type.steps.get(&at.name),
        WorkKind::Undo(at) => order_type.steps.get(&at.name)?.undo.as_deref(),
        WorkKind::Begin | WorkKind::Advance | WorkKind::Wait(_) | WorkKind::Approval(_) => None,
    }
}

fn not_committed(error: CommitError) -> CommandError {
    match error {
        CommitError::TooLarge { what, bytes_max } => CommandError::TooLarge { what, bytes_max },
        CommitError::Store(error) => error.into(),
        CommitError::Busy { after } => CommandError::Busy { after },
        CommitError::TokenStale
        | CommitError::VersionMoved { .. }
        | CommitError::KeyTaken { .. }
        | CommitError::Short(_)
        | CommitError::Unknown
        | CommitError::Closed => CommandError::Busy {
            after: Duration::from_secs(1),
        },
    }
}

impl Core {
    /// What a worker is given of a claim. None if there is nothing to hand out: the worker before was lost, and that is
    /// written down first, so that work which kills its workers is exhausted like any other.
    async fn pulled(&self, claim: WorkClaim, lease: Duration) -> Option<Pulled> {
        let token = claim.token;
        if let Some(lost) = &claim.lost {
            let reason = format!("the worker `{}` gave no answer before its lease ended", lost.name);
            if let Err(error) = self.answer(token, StepOutcome::Lost { reason }).await {
                // The claim stays until its lease ends; then it is tried again.
                tracing::warn!(order = %token.order, %error, "that a worker was lost could not be written down");
            }
            return None;
        }
        let definition = match self.definition(&claim.order).await {
            Ok(definition) => definition,
            Err(error) => {
                tracing::error!(order = %token.order, %error, "an order that waits in a queue cannot be run here");
                return None;
            }
        };
        let work = claim.order.head.work.as_ref()?;
        let (at, undo) = match &work.kind {
            WorkKind::Step(at) => (at, false),
            WorkKind::Undo(at) => (at, true),
            WorkKind::Begin | WorkKind::Advance | WorkKind::Wait(_) | WorkKind::Approval(_) => return None,
        };
        let forward = format!("{}:{}", token.order, if undo { at.index } else { work.visit });
        let mut lease_until = claim.lease_until;
        let timeout = step_at(&claim.order, &definition.order_type).map(|step| step.timeout);
        if let Some(timeout) = timeout.filter(|timeout| *timeout < lease) {
            lease_until = self.store.renew(&token, timeout).await.ok()?;
        }
        Some(Pulled {
            token,
            step: at.name.clone(),
            attempt: work.attempt,
            undo,
            idempotency_key: if undo {
                format!("{forward}:undo")
            } else {
                forward.clone()
            },
            undoes: undo.then_some(forward),
            lease_until,
            order: claim.order,
        })
    }

    /// Commits what a worker from outside answered. An order that an edit or a cancel has moved meanwhile is read and
    /// decided again; only the token says whether the answer counts.
    async fn answer(&self, token: Token, outcome: StepOutcome) -> Result<Answered, CommandError> {
        for _ in 0..ROUNDS_MAX {
            let Some(stored) = self.reload(token.order).await? else {
                return Ok(Answered::Stale);
            };
            let order = stored.order;
            let definition = self.definition(&order).await?;
            let now = self.store.now();
            let step = order.head.work.as_ref().and_then(|work| work.kind.step().cloned());
            let since = stored.worker.as_ref().map(|worker| worker.since);
            let (Some(started_at), Some(step)) = (since, step) else {
                self.came_late(&order, token, &outcome).await;
                return Ok(Answered::Stale);
            };
            let report = Report {
                started_at,
                ended_at: now,
                outcome: self.broken(&step, token.attempt, &outcome),
            };
            let result = outcome_name(&report.outcome);
            let change = decision::report(&order, &definition.order_type, report, &self.input());
            let expect = Expect::At {
                version: order.head.version,
                token: Some(token),
            };
            let Prepared { commit, taking } = self.prepare(change, expect, Vec::new(), true, None);
            match self.commit_one(commit).await {
                Ok((receipt, after)) => {
                    let took = Duration::try_from(now.duration_since(started_at)).unwrap_or_default();
                    let name = &order.accepted.order_type;
                    self.meters.took(name, &step, took);
                    self.meters.attempted(name, &step, result);
                    self.committed(&after, &receipt);
                    self.take_over(after, taking.filter(|_| receipt.claimed), definition);
                    return Ok(Answered::Done);
                }
                Err(CommitError::TokenStale) => {
                    self.came_late(&order, token, &outcome).await;
                    return Ok(Answered::Stale);
                }
                Err(CommitError::VersionMoved { .. }) => {}
                Err(error) => return Err(not_committed(error)),
            }
        }
        Err(CommandError::Busy {
            after: Duration::from_secs(1),
        })
    }

    /// Goes on with the next work that a commit has taken.
    fn take_over(&self, order: Arc<Order>, taking: Option<Taking>, definition: Arc<Definition>) {
        if let Some(Taking { token, permit }) = taking {
            self.hand_on(Ready {
                order,
                token,
                definition,
                permit,
                reclaimed: false,
            });
        }
    }

    /// The outcome, or a failure for a step that is to fail on purpose.
    fn broken(&self, step: &str, attempt: u32, outcome: &StepOutcome) -> StepOutcome {
        match (outcome, self.options.breaks.breaks(step, attempt)) {
            (StepOutcome::Done { .. }, Some(until)) => StepOutcome::Failed {
                reason: format!("broken on purpose (--break {step}={until})"),
                retry_after: None,
            },
            _ => outcome.clone(),
        }
    }

    /// Counts an answer that came too late, and writes it down unless its attempt has one already: a worker that
    /// repeats an answer must not fill the history.
    async fn came_late(&self, order: &Order, token: Token, outcome: &StepOutcome) {
        // That a worker was lost is told by who claims next. Two may tell it, and neither is the worker's answer.
        if matches!(outcome, StepOutcome::Lost { .. }) {
            return;
        }
        self.meters.stale(&order.accepted.order_type);
        let after = order.head.attempts.saturating_sub(ATTEMPTS_LOOKED_AT as u64);
        let attempts = match self.store.attempts(order.id(), after, ATTEMPTS_LOOKED_AT).await {
            Ok(attempts) => attempts,
            Err(error) => return tracing::warn!(order = %order.id(), %error, "attempts could not be read"),
        };
        // An undo's attempts are written down under the visit that it takes back, its token under the undo's own.
        let (visit, undo) = match &order.head.work {
            Some(work) if work.visit == token.visit => match &work.kind {
                WorkKind::Undo(at) => (at.index, true),
                _ => (token.visit, false),
            },
            _ => (token.visit, false),
        };
        let of_token = (visit, token.attempt, undo);
        let same = |attempt: &&Attempt| (attempt.visit, attempt.attempt, attempt.undo) == of_token;
        let known: Vec<&Attempt> = attempts.iter().filter(same).collect();
        // Only what was lost was ever in flight without an answer.
        let Some(lost) = known.iter().find(|attempt| attempt.outcome == Outcome::Lost) else {
            return;
        };
        if known.len() > 1 {
            return;
        }
        let attempt = Attempt {
            ended_at: self.store.now(),
            outcome: Outcome::Stale,
            result: None,
            reason: Some("the attempt was no longer valid when its answer came".to_owned()),
            ..(*lost).clone()
        };
        let change = crate::command::Change {
            by: "engine".into(),
            reason: None,
            precondition: crate::command::Precondition::None,
        };
        let recorded = self
            .command(order.id(), &change, &|_, _| {
                Ok(Command::RecordStale(Box::new(attempt.clone())))
            })
            .await;
        if let Err(error) = recorded {
            tracing::warn!(order = %order.id(), %error, "a stale answer could not be written down");
        }
    }
}
