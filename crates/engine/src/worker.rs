//! The worker: claims what is due, decides what needs nothing from outside, runs the steps that do, and commits what
//! came of it.
//!
//! Work arrives in two ways. A commit may take its own next work (*handing on*): it goes straight to the dispatcher,
//! and no claim is read. All else (retries, timers, lanes that moved, work from before a restart) is claimed from the
//! store by the claim loop, which is woken when something is due and looks by itself now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use comanda_model::decision::{self, Change, Due, Input, Report, StepOutcome};
use comanda_model::ledger::shortages_text;
use comanda_model::order::WorkKind;
use comanda_model::order_type::Action;
use comanda_model::{Order, Shortage, Token};
use comanda_order_type::Definition;
use comanda_store::{Commit, CommitError, Expect, Place, StoreError, Ticket};
use jiff::Timestamp;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

use crate::attempt::{is_about, outcome_name};
use crate::chance::spread;
use crate::commit::{Kept, Prepared, Taking};
use crate::service::Core;
use crate::step::Effect;

/// The most orders that are claimed, or decided and committed together.
const BATCH_MAX: usize = 256;
/// The longest wait before a commit that the store did not take is tried again.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A claimed order on its way to the dispatcher.
pub(crate) struct Ready {
    pub(crate) order: Arc<Order>,
    pub(crate) token: Token,
    pub(crate) definition: Arc<Definition>,
    pub(crate) permit: OwnedSemaphorePermit,
    /// Whether a worker that was lost may have begun the attempt before: it was claimed, and not handed on.
    pub(crate) reclaimed: bool,
}

/// Wakes the claim loop when something becomes due before it would look by itself.
#[derive(Default)]
pub(crate) struct Wake {
    notify: Notify,
    /// When the claim loop looks next, in microseconds; the minimum while it is looking.
    planned: AtomicI64,
}

impl Wake {
    /// Something is due now.
    pub(crate) fn now(&self) {
        self.notify.notify_one();
    }

    /// Something will be due then.
    pub(crate) fn at(&self, due_at: Timestamp) {
        if due_at.as_microsecond() < self.planned.load(Ordering::SeqCst) {
            self.notify.notify_one();
        }
    }
}

/// Claims what is due and hands it to the dispatcher.
pub(crate) async fn claim_loop(core: Arc<Core>) {
    let mut failures: u32 = 0;
    while !core.stopping.is_cancelled() {
        // While this looks, whatever becomes due must wake it: it may have looked past that already.
        core.wake.planned.store(i64::MAX, Ordering::SeqCst);
        core.releases.release_owed().await;
        let wait = match core.claim_due().await {
            Ok(next_due_at) => {
                failures = 0;
                let until_due = next_due_at.map(|due_at| due_at.duration_since(core.store.now()));
                let until_due = until_due.map(|wait| Duration::try_from(wait).unwrap_or(Duration::ZERO));
                until_due
                    .unwrap_or(core.options.sweep)
                    .clamp(Duration::from_millis(1), core.options.sweep)
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                tracing::error!(%error, "due work could not be claimed; it is tried again");
                core.backoff(failures)
            }
        };
        let planned = core
            .store
            .now()
            .as_microsecond()
            .saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
        core.wake.planned.store(planned, Ordering::SeqCst);
        tokio::select! {
            biased;
            () = core.wake.notify.notified() => {}
            () = tokio::time::sleep(wait) => {}
            () = core.stopping.cancelled() => {}
        }
    }
}

/// Takes claimed orders and works them, many at a time.
pub(crate) async fn dispatch_loop(core: Arc<Core>, mut receiver: mpsc::UnboundedReceiver<Ready>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        tokio::select! {
            biased;
            received = receiver.recv_many(&mut batch, BATCH_MAX) => {
                if received == 0 {
                    return;
                }
                core.work_through(batch.drain(..));
            }
            () = core.stopping.cancelled() => break,
        }
    }
    // What is claimed and not begun goes back, so that the next process finds it at once.
    receiver.close();
    let mut tokens = Vec::new();
    while let Ok(ready) = receiver.try_recv() {
        tokens.push(ready.token);
    }
    core.releases.release(&tokens).await;
}

/// A decided change whose commit is under way.
struct Staged {
    kept: Kept,
    definition: Arc<Definition>,
    token: Token,
    taking: Option<Taking>,
    /// As of a [`Ready`], if the change leaves the attempt as it was.
    reclaimed: bool,
}

impl Core {
    /// Hands a claimed order to the dispatcher. When that has stopped the claim goes back, or nobody would find the order
    /// before its lease has ended.
    pub(crate) fn hand_on(&self, ready: Ready) {
        if let Err(mpsc::error::SendError(ready)) = self.ready.send(ready) {
            self.spawn_release(ready.token);
        }
    }

    /// Claims everything that is due, as room allows. Answers when the next order is due.
    async fn claim_due(&self) -> Result<Option<Timestamp>, StoreError> {
        loop {
            let first = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Ok(None),
                permit = self.outstanding.clone().acquire_owned() => permit,
            };
            let Ok(first) = first else { return Ok(None) };
            let mut permits = vec![first];
            while permits.len() < BATCH_MAX
                && let Ok(permit) = self.outstanding.clone().try_acquire_owned()
            {
                permits.push(permit);
            }
            let claims = self.store.claim(permits.len(), self.options.lease).await?;
            let full = claims.claims.len() == permits.len();
            let mut unknown = Vec::new();
            for (claim, permit) in claims.claims.into_iter().zip(permits) {
                match self.definition(&claim.order).await {
                    Ok(definition) => self.hand_on(Ready {
                        order: claim.order,
                        token: claim.token,
                        definition,
                        permit,
                        reclaimed: true,
                    }),
                    Err(error) => {
                        tracing::error!(order = %claim.order.id(), %error, "an order that is due cannot be run here");
                        unknown.push(claim.token);
                    }
                }
            }
            // Such an order stays claimed, and so out of the way, until its lease ends; then it is tried again.
            metrics::gauge!("comanda_unknown_type_orders").set(unknown.len() as f64);
            if !full {
                return Ok(claims.next_due_at);
            }
        }
    }

    pub(crate) fn input(&self) -> Input {
        Input {
            now: self.store.now(),
            jitter: self.options.chance.fraction(),
            wait_scale: self.options.wait_scale,
            by: "engine".into(),
        }
    }

    /// Decides a batch of claimed orders. Those that need nothing from outside are committed together; the others'
    /// steps begin to run.
    fn work_through(self: &Arc<Self>, batch: impl Iterator<Item = Ready>) {
        let mut commits = Vec::new();
        let mut staged = Vec::new();
        for ready in batch {
            let input = self.input();
            if may_queue(&ready.order, input.now) {
                let core = self.clone();
                self.tasks.spawn(async move { core.expire(ready).await });
                continue;
            }
            let change = match decision::due(&ready.order, &ready.definition.order_type, &input) {
                Due::Nothing => {
                    self.spawn_release(ready.token);
                    continue;
                }
                Due::Change(change) => *change,
                Due::Run(run) => {
                    match self.internal_outcome(&run, ready.order.head.work.as_ref().map_or(1, |work| work.attempt)) {
                        Some(Effect { outcome, hold }) => {
                            self.meters
                                .attempted(&ready.order.accepted.order_type, &run.name, outcome_name(&outcome));
                            let report = Report {
                                started_at: input.now,
                                ended_at: input.now,
                                outcome,
                            };
                            let order_type = &ready.definition.order_type;
                            decision::report_with_hold(&ready.order, order_type, report, hold, &input)
                        }
                        None => {
                            self.spawn_run(ready);
                            continue;
                        }
                    }
                }
            };
            let Ready {
                order,
                token,
                definition,
                permit,
                reclaimed,
            } = ready;
            let ready = Ready {
                reclaimed: reclaimed && same_attempt(&order, &change.order),
                order,
                token,
                definition,
                permit,
            };
            let (commit, one) = self.stage(change, ready);
            staged.push(one);
            commits.push(commit);
        }
        if commits.is_empty() {
            return;
        }
        let tickets = self.store.commit(commits);
        let core = self.clone();
        self.tasks.spawn(async move {
            for (ticket, staged) in tickets.into_iter().zip(staged) {
                core.land(ticket, staged).await;
            }
        });
    }

    /// Makes a commit of what was decided of a claimed order, which asks for its next work.
    fn stage(&self, change: Change, ready: Ready) -> (Commit, Staged) {
        let expect = Expect::At {
            version: ready.order.head.version,
            token: Some(ready.token),
        };
        let Prepared { commit, taking } = self.prepare(change, expect, Vec::new(), true, Some(ready.permit));
        let staged = Staged {
            kept: Kept::of(&commit),
            definition: ready.definition,
            token: ready.token,
            taking,
            reclaimed: ready.reclaimed,
        };
        (commit, staged)
    }

    /// Commits what was decided of one claimed order, and goes on with its next work.
    async fn commit_staged(self: &Arc<Self>, change: Change, ready: Ready) {
        let (commit, staged) = self.stage(change, ready);
        if let Some(ticket) = self.store.commit(vec![commit]).into_iter().next() {
            self.land(ticket, staged).await;
        }
    }

    /// The deadline of an order has passed that may queue behind others of its lane. If it does, its step cannot have
    /// begun, and nothing of it is to be taken back.
    async fn expire(self: Arc<Self>, ready: Ready) {
        let place = match self.reload(ready.token.order).await {
            Ok(Some(stored)) => stored.place,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(order = %ready.token.order, %error, "an order could not be read; it is tried again");
                self.pause(self.backoff(1)).await;
                return self.give_back(ready.token).await;
            }
        };
        let input = self.input();
        let order_type = &ready.definition.order_type;
        let change = match place {
            Place::Behind(_) => decision::due_queued(&ready.order, order_type, &input),
            Place::Alone | Place::Head => match decision::due(&ready.order, order_type, &input) {
                Due::Change(change) => Some(*change),
                Due::Nothing | Due::Run(_) => None,
            },
        };
        let Some(change) = change else {
            return self.give_back(ready.token).await;
        };
        let ready = Ready {
            reclaimed: ready.reclaimed && same_attempt(&ready.order, &change.order),
            ..ready
        };
        self.commit_staged(change, ready).await;
    }

    /// The outcome of a step that needs nothing from outside, or that is to fail on purpose.
    fn internal_outcome(&self, run: &decision::Run<'_>, attempt: u32) -> Option<Effect> {
        if let Some(until) = self.options.breaks.breaks(&run.name, attempt) {
            let reason = format!("broken on purpose (--break {}={until})", run.name);
            let outcome = StepOutcome::Failed {
                reason,
                retry_after: None,
            };
            return Some(outcome.into());
        }
        let outcome = match &run.step.action {
            Action::Noop | Action::Wait(_) | Action::Approval { .. } => StepOutcome::Done { result: None },
            Action::Fail { reason, refuse: true } => StepOutcome::Refused { reason: reason.clone() },
            Action::Fail { reason, refuse: false } => StepOutcome::Failed {
                reason: reason.clone(),
                retry_after: None,
            },
            Action::BuiltIn(built_in) if built_in.is_internal() && !self.steps.keeps_stock_elsewhere() => {
                return Some(Effect {
                    outcome: StepOutcome::Done { result: None },
                    hold: built_in.hold_move(run.undo.then_some(run.visit)),
                });
            }
            // Decided before it comes to this: such work is never the engine's.
            Action::Queue(name) => StepOutcome::Failed {
                reason: format!("the work waits for a worker of the queue `{name}`"),
                retry_after: None,
            },
            Action::Http(_) | Action::BuiltIn(_) | Action::Rust(_) => return None,
        };
        Some(outcome.into())
    }

    /// Waits for a commit, and goes on with the order's next work if the commit took it.
    async fn land(self: &Arc<Self>, ticket: Ticket, staged: Staged) {
        let Staged {
            kept,
            definition,
            token,
            taking,
            reclaimed,
        } = staged;
        match self.committing(ticket, kept).await {
            Ok((receipt, order)) => {
                self.committed(&order, &receipt);
                if let (true, Some(Taking { token, permit })) = (receipt.claimed, taking) {
                    self.hand_on(Ready {
                        order,
                        token,
                        definition,
                        permit,
                        reclaimed,
                    });
                }
            }
            Err(CommitError::TokenStale | CommitError::Closed) => {}
            Err(CommitError::VersionMoved { .. }) => self.give_back(token).await,
            // Rare and large: beside the path of every other order, not in it.
            Err(CommitError::Short(short)) => {
                Box::pin(self.refuse(token, taking, definition, &short, reclaimed)).await;
            }
            Err(error) => {
                tracing::warn!(order = %token.order, %error, "a change could not be committed; it is decided again");
                let core = self.clone();
                // The order is looked at again later; meanwhile the claim keeps it out of the claim loop's way.
                self.tasks.spawn(async move {
                    core.pause(core.backoff(1)).await;
                    core.give_back(token).await;
                });
            }
        }
    }

    /// The ledger has too little for what the order was to take: its step is refused.
    async fn refuse(
        self: &Arc<Self>,
        token: Token,
        taking: Option<Taking>,
        definition: Arc<Definition>,
        short: &[Shortage],
        reclaimed: bool,
    ) {
        let permit = match taking {
            Some(taking) => Some(taking.permit),
            None => self.outstanding.clone().acquire_owned().await.ok(),
        };
        let (Ok(Some(stored)), Some(permit)) = (self.reload(token.order).await, permit) else {
            return self.give_back(token).await;
        };
        let mut order = stored.order;
        if !is_about(&order, &token) {
            // A cancel was quicker, say: what was to be taken is no longer wanted.
            return self.give_back(token).await;
        }
        if reclaimed && let Some(work) = Arc::make_mut(&mut order).head.work.as_mut() {
            // The refusal is not the attempt's own answer: what a lost worker may have done is not forgotten with it.
            work.uncertain = true;
        }
        let input = self.input();
        let report = Report {
            started_at: input.now,
            ended_at: input.now,
            outcome: StepOutcome::Refused {
                reason: shortages_text(short),
            },
        };
        let change = decision::report_with_hold(&order, &definition.order_type, report, None, &input);
        let ready = Ready {
            order,
            token,
            definition,
            permit,
            reclaimed: false,
        };
        // A refusal takes nothing from the ledger, so that it is not short again. Should the order have moved on meanwhile, there is
        // nothing to be written down: no call was made.
        self.commit_staged(change, ready).await;
    }

    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        let grown = Duration::from_millis(100).saturating_mul(1 << failures.min(8));
        spread(grown.min(BACKOFF_MAX), self.options.chance.fraction())
    }

    pub(crate) async fn pause(&self, wait: Duration) {
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            () = self.aborting.cancelled() => {}
        }
    }
}

/// Whether a change has left the attempt that is due as it was: the hold has lapsed, or was taken again.
fn same_attempt(before: &Order, after: &Order) -> bool {
    let attempt = |order: &Order| {
        let work = order.head.work.as_ref()?;
        matches!(work.kind, WorkKind::Step(_)).then_some((work.visit, work.attempt))
    };
    attempt(before).is_some_and(|attempt_before| attempt(after) == Some(attempt_before))
}

/// Whether an order is due for its deadline and may stand behind others, which the order itself does not tell.
fn may_queue(order: &Order, now: Timestamp) -> bool {
    let head = &order.head;
    let first_try = matches!(&head.work, Some(work) if work.attempt == 1 && matches!(work.kind, WorkKind::Step(_)));
    let standing = head.lane.as_ref().is_some_and(|lane| lane.standing);
    standing && first_try && head.status_until.is_some_and(|until| until <= now)
}
