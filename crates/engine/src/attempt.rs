//! One attempt of a step that reaches outside: a place for it, the call within its time, and the commit of what came of
//! it, which is decided again on the order as it stands and dropped only when its token no longer counts.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::decision::{self, Command, Due, Report, StepOutcome};
use comanda_model::order_type::Action;
use comanda_model::{Attempt, HoldMove, Order, OrderId, Outcome, Token};
use comanda_store::{CommitError, Expect, StoreError};
use tracing::Instrument;

use crate::chance::spread;
use crate::commit::{Prepared, Taking};
use crate::service::Core;
use crate::step::{Effect, Postponed, StepCall};
use crate::worker::Ready;

/// How much longer than its attempt may take a claim lasts.
const LEASE_MARGIN: Duration = Duration::from_secs(30);
/// How often in a row a built-in step is decided again because the ledger moved under it, before that is an attempt.
const SHORT_TRIES: u32 = 16;
/// The most attempts of an order that are read at once.
const PAGE_MAX: usize = 256;

impl Core {
    /// Begins to run the step that a claimed order is due for.
    pub(crate) fn spawn_run(self: &Arc<Self>, ready: Ready) {
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
                let ready = Ready {
                    reclaimed: false,
                    ..ready
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
        let Effect { mut outcome, hold } = tokio::select! {
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
        if let StepOutcome::Postponed { after, .. } = &mut outcome {
            *after = spread(*after, self.options.chance.fraction());
        }
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
        // Its answer is this attempt's own.
        let ready = Ready {
            reclaimed: false,
            ..ready
        };
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
    pub(crate) async fn settle(
        self: &Arc<Self>,
        ready: Ready,
        report: Report,
        hold: Option<HoldMove>,
    ) -> Option<Ready> {
        let Ready {
            mut order,
            token,
            mut definition,
            permit,
            reclaimed,
        } = ready;
        let mut permit = Some(permit);
        let mut failures = 0;
        let mut attempts = None;
        loop {
            let input = self.input();
            if reclaimed && let Some(work) = Arc::make_mut(&mut order).head.work.as_mut() {
                // What is settled is not the attempt's own answer: what a lost worker may have done is not forgotten with it.
                work.uncertain = true;
            }
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
                    Box::pin(self.record_stale(token.order, std::mem::take(attempts))).await;
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
                    Box::pin(self.record_stale(token.order, std::mem::take(attempts))).await;
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
        let recorded = self.store.attempts(id, attempt.number - 1, PAGE_MAX).await?;
        Ok(recorded.iter().any(same))
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

/// Whether the work that an order has is that which the token was given for.
pub(crate) fn is_about(order: &Order, token: &Token) -> bool {
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
