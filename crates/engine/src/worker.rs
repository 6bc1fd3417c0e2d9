//! The worker: claims what is due, decides what needs nothing from outside, runs the steps that do, and commits what
//! came of it.
//!
//! Work arrives in two ways. A commit may take its own next work (*handing on*): it goes straight to the dispatcher,
//! and no claim is read. All else (retries, timers, lanes that moved, work from before a restart) is claimed from the
//! store by the claim loop, which is woken when something is due and looks by itself now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use comanda_model::decision::{self, Command, Due, Input, Report, StepOutcome};
use comanda_model::ledger::shortages_text;
use comanda_model::order::WorkKind;
use comanda_model::order_type::Action;
use comanda_model::{Attempt, HoldMove, Order, OrderId, Outcome, Shortage, Token};
use comanda_order_type::Definition;
use comanda_store::{CommitError, Expect, Place, StoreError, Ticket};
use jiff::Timestamp;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};
use tracing::Instrument;

use crate::chance::spread;
use crate::commit::{Prepared, Taking, Written};
use crate::service::Core;
use crate::step::{Effect, Postponed, StepCall};

/// The most orders that are claimed, or decided and committed together.
const BATCH_MAX: usize = 256;
/// How much longer than its attempt may take a claim lasts.
const LEASE_MARGIN: Duration = Duration::from_secs(30);
/// How often in a row a built-in step is decided again because the ledger moved under it, before that is an attempt.
const SHORT_TRIES: u32 = 16;
/// The longest wait before a commit that the store did not take is tried again.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// A claimed order on its way to the dispatcher.
pub(crate) struct Ready {
    pub(crate) order: Order,
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
    if let Err(error) = core.store.release(&tokens).await {
        tracing::warn!(%error, "claims could not be released; they end with their lease");
    }
}

/// A decided change whose commit is under way.
struct Staged {
    order: Order,
    written: Written,
    definition: Arc<Definition>,
    token: Token,
    taking: Option<Taking>,
}

impl Core {
    /// Hands a claimed order to the dispatcher. When that has stopped the claim ends with the process.
    pub(crate) fn hand_on(&self, ready: Ready) {
        if let Err(mpsc::error::SendError(ready)) = self.ready.send(ready) {
            // The dispatcher has stopped. The claim goes back, or nobody would find the order before its lease has ended.
            let store = self.store.clone();
            self.tasks.spawn(async move {
                if let Err(error) = store.release(&[ready.token]).await {
                    tracing::warn!(%error, "a claim could not be released; it ends with its lease");
                }
            });
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
                    self.spawn_release(ready);
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
                ..
            } = ready;
            let expect = Expect::At {
                version: order.head.version,
                token: Some(token),
            };
            let Prepared { commit, taking } = self.prepare(change, expect, Vec::new(), true, Some(permit));
            staged.push(Staged {
                order: commit.order.clone(),
                written: Written::of(&commit),
                definition,
                token,
                taking,
            });
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
        let expect = Expect::At {
            version: ready.order.head.version,
            token: Some(ready.token),
        };
        let Prepared { commit, taking } = self.prepare(change, expect, Vec::new(), true, Some(ready.permit));
        let staged = Staged {
            order: commit.order.clone(),
            written: Written::of(&commit),
            definition: ready.definition,
            token: ready.token,
            taking,
        };
        if let Some(ticket) = self.store.commit(vec![commit]).into_iter().next() {
            self.land(ticket, staged).await;
        }
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
            Action::BuiltIn(built_in) if built_in.is_internal() => {
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
            Action::Http(_) | Action::BuiltIn(_) => return None,
        };
        Some(outcome.into())
    }

    /// Waits for a commit, and goes on with the order's next work if the commit took it.
    async fn land(self: &Arc<Self>, ticket: Ticket, staged: Staged) {
        let Staged {
            order,
            written,
            definition,
            token,
            taking,
        } = staged;
        let taken = taking.as_ref().map(|taking| taking.token);
        match self
            .resolve(self.settling(ticket, taken), &order, &written, taken)
            .await
        {
            Ok(receipt) => {
                self.committed(&order, &receipt);
                if let (true, Some(Taking { token, permit })) = (receipt.claimed, taking) {
                    self.hand_on(Ready {
                        order,
                        token,
                        definition,
                        permit,
                        reclaimed: false,
                    });
                }
            }
            Err(CommitError::TokenStale | CommitError::Closed) => {}
            Err(CommitError::VersionMoved { .. }) => self.give_back(token).await,
            Err(CommitError::Short(short)) => self.refuse(token, taking, definition, &short).await,
            Err(error) => {
                tracing::warn!(order = %order.id(), %error, "a change could not be committed; it is decided again");
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
    ) {
        let permit = match taking {
            Some(taking) => Some(taking.permit),
            None => self.outstanding.clone().acquire_owned().await.ok(),
        };
        let (Ok(Some(stored)), Some(permit)) = (self.reload(token.order).await, permit) else {
            return self.give_back(token).await;
        };
        let now = self.store.now();
        let ready = Ready {
            order: stored.order,
            token,
            definition,
            permit,
            reclaimed: false,
        };
        let report = Report {
            started_at: now,
            ended_at: now,
            outcome: StepOutcome::Refused {
                reason: shortages_text(short),
            },
        };
        // A refusal takes nothing from the ledger, so that it is not short again.
        if self.settle(ready, report, None).await.is_some() {
            self.give_back(token).await;
        }
    }

    /// Gives a claim back, so that the order is read and decided again.
    async fn give_back(&self, token: Token) {
        if let Err(error) = self.store.release(&[token]).await {
            tracing::warn!(order = %token.order, %error, "a claim could not be released; it ends with its lease");
        }
        self.wake.now();
    }

    fn spawn_release(self: &Arc<Self>, ready: Ready) {
        let core = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = core.store.release(&[ready.token]).await {
                tracing::warn!(order = %ready.token.order, %error, "a claim could not be released");
            }
        });
    }

    fn spawn_run(self: &Arc<Self>, ready: Ready) {
        let core = self.clone();
        let span = tracing::info_span!(
            "attempt",
            otel.kind = "client",
            order = %ready.order.id(),
            order_type = %ready.order.accepted.order_type,
            step = tracing::field::Empty,
            parent = ready.order.accepted.traceparent.as_deref(),
            traceparent = tracing::field::Empty,
            error = tracing::field::Empty,
        );
        self.tasks.spawn(async move { core.run(ready).await }.instrument(span));
    }

    /// Runs a step that reaches outside, within its time, and commits its outcome; again while the ledger has moved
    /// under it.
    async fn run(self: &Arc<Self>, mut ready: Ready) {
        for _ in 0..SHORT_TRIES {
            match self.attempt(ready).await {
                Some(again) => ready = again,
                None => return,
            }
        }
        let now = self.store.now();
        let report = Report {
            started_at: now,
            ended_at: now,
            outcome: StepOutcome::Failed {
                reason: format!("others were quicker {SHORT_TRIES} times"),
                retry_after: None,
            },
        };
        self.settle(ready, report, None).await;
    }

    /// One attempt. Answers with the order if the ledger had too little for what was decided: nothing has happened then.
    async fn attempt(self: &Arc<Self>, ready: Ready) -> Option<Ready> {
        let input = self.input();
        let order_type = ready.definition.order_type.clone();
        let Due::Run(run) = decision::due(&ready.order, &order_type, &input) else {
            self.give_back(ready.token).await;
            return None;
        };
        // First a place at the target, then one of ours: whoever waits for a slow target holds up no other.
        let admitted = tokio::select! {
            biased;
            () = self.stopping.cancelled() => {
                self.give_back(ready.token).await;
                return None;
            }
            admitted = self.steps.admit(&ready.order, run.step) => admitted,
        };
        let _admission = match admitted {
            Ok(admission) => admission,
            Err(Postponed { reason, after }) => {
                let report = Report {
                    started_at: input.now,
                    ended_at: self.store.now(),
                    outcome: StepOutcome::Postponed {
                        reason,
                        after: spread(after, self.options.chance.fraction()),
                    },
                };
                return self.settle(ready, report, None).await;
            }
        };
        let slot = tokio::select! {
            biased;
            () = self.stopping.cancelled() => None,
            slot = self.concurrency.clone().acquire_owned() => slot.ok(),
        };
        if slot.is_none() {
            self.give_back(ready.token).await;
            return None;
        }
        // The claim must outlast the attempt, or the order would be given to another while this one is running.
        match self.store.renew(&ready.token, run.timeout + LEASE_MARGIN).await {
            Ok(_) => {}
            Err(CommitError::TokenStale) => return None,
            Err(error) => {
                tracing::warn!(%error, "the claim could not be extended; the attempt is not begun");
                self.give_back(ready.token).await;
                return None;
            }
        }
        let forward = format!("{}:{}", ready.order.id(), run.visit);
        let call = StepCall {
            order: &ready.order,
            name: &run.name,
            step: run.step,
            attempt: run.attempt,
            undo: run.undo,
            idempotency_key: if run.undo {
                format!("{forward}:undo")
            } else {
                forward.clone()
            },
            undoes: run.undo.then_some(forward),
            uncertain: run.uncertain || ready.reclaimed,
            callback: Some(ready.token),
            traceparent: self.child_trace(ready.order.accepted.traceparent.as_deref()),
        };
        // The span is the one that the receiver is told as its parent, so that both sides' traces join.
        let span = tracing::Span::current();
        span.record("step", call.name);
        span.record("traceparent", call.traceparent.as_str());
        let started_at = self.store.now();
        let attempt = async {
            match &run.step.action {
                Action::BuiltIn(_) => self.steps.run_built_in(call).await,
                _ => self.steps.run(call).await.into(),
            }
        };
        let attempt = tokio::time::timeout(run.timeout, attempt);
        let Effect { outcome, hold } = tokio::select! {
            biased;
            effect = attempt => effect.unwrap_or_else(|_| {
                let reason = format!("no answer within {:?}", run.timeout);
                Effect::from(StepOutcome::Unknown { reason, retry_after: None })
            }),
            // Whether it happened outside is not known: the next process makes the attempt again, under the same key.
            () = self.aborting.cancelled() => {
                self.give_back(ready.token).await;
                return None;
            }
        };
        if let StepOutcome::Failed { reason, .. }
        | StepOutcome::Refused { reason }
        | StepOutcome::Unknown { reason, .. } = &outcome
        {
            span.record("error", reason.as_str());
        }
        let ended_at = self.store.now();
        let name = run.name.clone();
        let took = Duration::try_from(ended_at.duration_since(started_at)).unwrap_or_default();
        self.meters.took(&order_type.name, &name, took);
        self.meters.attempted(&order_type.name, &name, outcome_name(&outcome));
        tracing::debug!(step = %name, outcome = outcome_name(&outcome), ?took, "a step was attempted");
        self.settle(
            ready,
            Report {
                started_at,
                ended_at,
                outcome,
            },
            hold,
        )
        .await
    }

    /// Commits the outcome of an attempt. An order that an edit or a cancel has moved meanwhile is read and decided
    /// again; the outcome is dropped only when its token is no longer valid, and then that is written down. Answers with
    /// the order if the ledger has too little for `hold`.
    async fn settle(self: &Arc<Self>, ready: Ready, report: Report, hold: Option<HoldMove>) -> Option<Ready> {
        let Ready {
            mut order,
            token,
            mut definition,
            permit,
            ..
        } = ready;
        let mut permit = Some(permit);
        let mut failures = 0;
        let mut attempts = None;
        loop {
            let input = self.input();
            let change =
                decision::report_with_hold(&order, &definition.order_type, report.clone(), hold.clone(), &input);
            let attempts = attempts.get_or_insert_with(|| change.attempts.clone());
            let expect = Expect::At {
                version: order.head.version,
                token: Some(token),
            };
            let Prepared { commit, taking } = self.prepare(change, expect, Vec::new(), true, permit.take());
            match self.commit_one(commit).await {
                Ok((receipt, after)) => {
                    self.committed(&after, &receipt);
                    if let (true, Some(Taking { token, permit })) = (receipt.claimed, taking) {
                        self.hand_on(Ready {
                            order: after,
                            token,
                            definition,
                            permit,
                            reclaimed: false,
                        });
                    }
                    return None;
                }
                Err(CommitError::TokenStale) => {
                    self.record_stale(token.order, std::mem::take(attempts)).await;
                    return None;
                }
                Err(CommitError::Closed) => return None,
                Err(CommitError::Short(_)) => {
                    let permit = match taking {
                        Some(taking) => taking.permit,
                        None => self.outstanding.clone().acquire_owned().await.ok()?,
                    };
                    return Some(Ready {
                        order,
                        token,
                        definition,
                        permit,
                        reclaimed: false,
                    });
                }
                Err(CommitError::VersionMoved { .. }) => {}
                Err(error) => {
                    failures += 1;
                    tracing::warn!(order = %order.id(), %error, "a step's outcome could not be committed; it is tried again");
                    if self.aborting.is_cancelled() {
                        return None;
                    }
                    self.pause(self.backoff(failures)).await;
                }
            }
            permit = taking.map(|taking| taking.permit);
            match self.reload(token.order).await {
                // Whether the token still counts is for the store to say: a lease that is over does not end it.
                Ok(Some(stored)) if is_about(&stored.order, &token) => {
                    order = stored.order;
                    if let Ok(current) = self.definition(&order).await {
                        definition = current;
                    }
                }
                Ok(Some(_)) => {
                    self.record_stale(token.order, std::mem::take(attempts)).await;
                    return None;
                }
                Ok(None) => return None,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(order = %token.order, %error, "an order could not be read; it is tried again");
                    if self.aborting.is_cancelled() {
                        return None;
                    }
                    self.pause(self.backoff(failures)).await;
                }
            }
        }
    }

    /// Writes down an outcome that came too late to count.
    async fn record_stale(&self, id: OrderId, attempts: Vec<Attempt>) {
        // Nothing was to be written down of an attempt that only waits: its callback was quicker than its answer.
        let Some(mut attempt) = attempts.into_iter().next() else {
            return;
        };
        let mut failures = 0;
        loop {
            match self.is_recorded(id, &attempt).await {
                // A commit of ours whose answer was lost was applied after all.
                Ok(true) => return,
                Ok(false) => break,
                Err(error) => {
                    failures += 1;
                    tracing::warn!(order = %id, %error, "an order's attempts could not be read; it is tried again");
                    if self.aborting.is_cancelled() {
                        return;
                    }
                    self.pause(self.backoff(failures)).await;
                }
            }
        }
        attempt.outcome = Outcome::Stale;
        attempt.result = None;
        attempt.reason = Some("the attempt was no longer valid when its result came".to_owned());
        let change = crate::command::Change {
            by: "engine".into(),
            reason: None,
            precondition: crate::command::Precondition::None,
        };
        let recorded = self
            .command(id, &change, &|_, _| Ok(Command::RecordStale(Box::new(attempt.clone()))))
            .await;
        match recorded {
            Ok(found) => self.meters.stale(&found.stored.order.accepted.order_type),
            Err(error) => tracing::warn!(order = %id, %error, "a stale result could not be written down"),
        }
    }

    /// Whether an attempt stands in its order's history as what it was. Its number may have changed, if the order moved
    /// before it was written down.
    async fn is_recorded(&self, id: OrderId, attempt: &Attempt) -> Result<bool, StoreError> {
        let same = |other: &Attempt| {
            Attempt {
                number: attempt.number,
                ..other.clone()
            } == *attempt
        };
        let recorded = self.store.attempts(id, attempt.number - 1, BATCH_MAX).await?;
        Ok(recorded.iter().any(same))
    }

    fn backoff(&self, failures: u32) -> Duration {
        let grown = Duration::from_millis(100).saturating_mul(1 << failures.min(8));
        spread(grown.min(BACKOFF_MAX), self.options.chance.fraction())
    }

    async fn pause(&self, wait: Duration) {
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => {}
            () = self.aborting.cancelled() => {}
        }
    }

    /// A span of its own in the order's trace (W3C trace context, version 00).
    fn child_trace(&self, parent: Option<&str>) -> String {
        let span = (self.options.chance.bits() >> 64) as u64 | 1;
        let trace = parent.and_then(|parent| parent.get(3..35)).map(str::to_owned);
        let flags = parent.and_then(|parent| parent.get(53..55)).unwrap_or("01");
        let trace = trace.unwrap_or_else(|| format!("{:032x}", self.options.chance.bits() | 1));
        format!("00-{trace}-{span:016x}-{flags}")
    }
}

/// Whether an order is due for its deadline and may stand behind others, which the order itself does not tell.
fn may_queue(order: &Order, now: Timestamp) -> bool {
    let head = &order.head;
    let first_try = matches!(&head.work, Some(work) if work.attempt == 1 && matches!(work.kind, WorkKind::Step(_)));
    let standing = head.lane.as_ref().is_some_and(|lane| lane.standing);
    standing && first_try && head.status_until.is_some_and(|until| until <= now)
}

/// Whether the work that an order has is that which the token was given for.
fn is_about(order: &Order, token: &Token) -> bool {
    let work = order.head.work.as_ref();
    work.is_some_and(|work| (work.visit, work.attempt) == (token.visit, token.attempt))
}

pub(crate) fn outcome_name(outcome: &StepOutcome) -> &'static str {
    match outcome {
        StepOutcome::Done { .. } => Outcome::Done.name(),
        StepOutcome::Failed { .. } => Outcome::Failed.name(),
        StepOutcome::Refused { .. } => Outcome::Refused.name(),
        StepOutcome::Lost { .. } => Outcome::Lost.name(),
        StepOutcome::Unknown { .. } => Outcome::Unknown.name(),
        StepOutcome::Waiting { .. } => "waiting",
        StepOutcome::Postponed { .. } => "postponed",
    }
}
