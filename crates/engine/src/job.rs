//! Jobs: changes to many orders that go on in the background, at a bounded rate, and survive a restart.
//!
//! A job is a record of the store. Whoever works on it holds it by writing its own name and a time into that record, and
//! writes its progress the same way; both are conditional on the record's version, so that two nodes never work on the same
//! job for longer than one step. Every single change is an ordinary command of an order and asks the order as it stands
//! whether it is still to be done, so that a job which is taken up again repeats nothing.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use comanda_model::{Json, OrderId};
use comanda_store::{PutError, Record, StoreError};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::dead_letter::DeadLetterFilter;
use crate::error::CommandError;
use crate::service::{Core, Service};

/// The kind of the records of jobs.
const JOB: &str = "job";
/// How often jobs are looked for that nobody announced: those of a process that has died.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a job is held after each sign of progress.
const HELD_SECONDS: i64 = 60;
/// How often progress is written.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// How long to wait before a change is tried again that the store could not take.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// How many orders that were left as they are a job names.
const FAILURES_MAX: usize = 50;
/// How many jobs that have ended are kept.
const ENDED_KEPT_MAX: usize = 200;
/// How many jobs one page or one look reads.
const PAGE: usize = 500;

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Task {
    /// Erase what orders know of a customer.
    #[serde(rename_all = "camelCase")]
    Erase {
        /// The customer.
        customer: String,
        /// Cancel orders that are not final, and erase them when they are.
        cancel_first: bool,
    },
    /// Put dead letters back to work.
    #[serde(rename_all = "camelCase")]
    Redrive {
        /// Which; those that died before the job was made.
        filter: DeadLetterFilter,
        /// From the initial status instead of the step that was exhausted.
        from_start: bool,
        /// On the current version of the type.
        current_version: bool,
        /// A merge patch of the data.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        patch: Option<Json>,
        /// At most so many orders per second.
        rate_per_second: Option<u32>,
    },
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It is being done, or waits for its turn.
    Running,
    /// It is done; `skipped` says whether something was left as it is.
    Done,
    /// Someone stopped it.
    Stopped,
}

/// An order that a job left as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobFailure {
    /// The order.
    pub order_id: OrderId,
    /// Why.
    pub error: String,
}

/// A job.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Its id; ids of later jobs are greater.
    pub id: Uuid,
    /// What is to be done.
    pub task: Task,
    /// Who asked.
    pub by: Arc<str>,
    /// How far it is.
    pub state: JobState,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it last got on.
    pub updated_at: Timestamp,
    /// How many orders there were to be looked at when it began.
    pub matched: u64,
    /// How many were changed.
    pub changed: u64,
    /// How many were left as they are.
    pub skipped: u64,
    /// Some of those, and why.
    pub failures: Vec<JobFailure>,
    /// Who works on it, and until when that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<(Uuid, Timestamp)>,
}

impl Job {
    /// Counts an order that is left as it is.
    pub(crate) fn skip(&mut self, order_id: OrderId, error: String) {
        self.skipped += 1;
        if self.failures.len() < FAILURES_MAX {
            let error = comanda_model::order::bounded(error, 200);
            self.failures.push(JobFailure { order_id, error });
        }
    }
}

/// What the engine keeps about its jobs.
#[derive(Default)]
pub(crate) struct Jobs {
    /// This process, as jobs name it; drawn when it first holds one.
    node: OnceLock<Uuid>,
    /// There may be a job to take up.
    new: Notify,
}

/// A job that this process holds.
pub(crate) struct HeldJob {
    pub(crate) job: Job,
    version: u64,
    saved: tokio::time::Instant,
}

/// Why work on a job ends before the job does.
pub(crate) enum Interrupted {
    /// The engine stops, or someone else has the job now; the record says how far it is.
    Left,
    /// The store fails; it is tried again later.
    Failed(StoreError),
}

impl From<StoreError> for Interrupted {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl Service {
    /// Makes a job, durably, and begins with it.
    pub async fn start_job(&self, task: Task, by: Arc<str>) -> Result<Job, CommandError> {
        let core = &self.0;
        let now = core.store.now();
        let job = Job {
            id: core.options.chance.time_ordered_id(now),
            task,
            by,
            state: JobState::Running,
            created_at: now,
            updated_at: now,
            matched: 0,
            changed: 0,
            skipped: 0,
            failures: Vec::new(),
            held: None,
        };
        core.put_job(&job, 1).await?;
        core.jobs.new.notify_one();
        Ok(job)
    }

    /// A job.
    pub async fn job(&self, id: Uuid) -> Result<Option<Job>, CommandError> {
        let record = self.0.store.record(JOB, &id.to_string()).await?;
        Ok(record.map(|record| read(&record)).transpose()?)
    }

    /// All jobs that are kept, newest first.
    pub async fn jobs(&self) -> Result<Vec<Job>, CommandError> {
        let mut jobs: Vec<Job> = self.0.all_jobs().await?.into_iter().map(|(job, _)| job).collect();
        jobs.reverse();
        Ok(jobs)
    }

    /// Stops a job where it is. Answers with it, or nothing if there is no such job; one that has ended stays as it is.
    pub async fn stop_job(&self, id: Uuid) -> Result<Option<Job>, CommandError> {
        loop {
            let Some(record) = self.0.store.record(JOB, &id.to_string()).await? else {
                return Ok(None);
            };
            let mut job = read(&record)?;
            if job.state != JobState::Running {
                return Ok(Some(job));
            }
            job.state = JobState::Stopped;
            job.held = None;
            job.updated_at = self.0.store.now();
            match self.0.put_job(&job, record.version + 1).await {
                Ok(()) => return Ok(Some(job)),
                Err(PutError::VersionMoved { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn read(record: &Record) -> Result<Job, StoreError> {
    serde_json::from_str(record.value.as_str()).map_err(|error| StoreError::failed("read a job", error))
}

impl Core {
    fn node(&self) -> Uuid {
        *self.jobs.node.get_or_init(|| self.options.chance.random_id())
    }

    async fn put_job(&self, job: &Job, version: u64) -> Result<(), PutError> {
        let text = serde_json::to_string(job).map_err(|error| StoreError::failed("write a job", error))?;
        let record = Record {
            kind: JOB.to_owned(),
            key: job.id.to_string(),
            version,
            value: Json::from_valid(text),
        };
        self.store.put_record(&record).await
    }

    /// All jobs, oldest first, with their records' versions.
    async fn all_jobs(&self) -> Result<Vec<(Job, u64)>, StoreError> {
        let mut jobs = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.store.records_after(JOB, after.as_deref(), PAGE).await?;
            for record in &page {
                jobs.push((read(record)?, record.version));
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.key.clone()),
                _ => return Ok(jobs),
            }
        }
    }

    /// Takes up the jobs that nobody works on, and forgets the oldest of those that have ended.
    async fn take_up_jobs(self: &Arc<Self>) -> Result<(), StoreError> {
        let jobs = self.all_jobs().await?;
        let now = self.store.now();
        let ended: Vec<String> = jobs
            .iter()
            .filter(|(job, _)| job.state != JobState::Running)
            .map(|(job, _)| job.id.to_string())
            .collect();
        if let Some(too_many) = ended.len().checked_sub(ENDED_KEPT_MAX).filter(|count| *count > 0) {
            self.store.remove_records(JOB, &ended[..too_many]).await?;
        }
        for (mut job, version) in jobs {
            let is_free = job.held.is_none_or(|(_, until)| until <= now);
            if job.state != JobState::Running || !is_free {
                continue;
            }
            job.held = Some((self.node(), held_until(now)));
            match self.put_job(&job, version + 1).await {
                Ok(()) => {
                    let held = HeldJob {
                        job,
                        version: version + 1,
                        saved: tokio::time::Instant::now(),
                    };
                    self.tasks.spawn(self.clone().work_on(held));
                }
                // Another node was quicker.
                Err(PutError::VersionMoved { .. }) => {}
                Err(PutError::TooLarge { .. }) => {}
                Err(PutError::Store(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn work_on(self: Arc<Self>, mut held: HeldJob) {
        // What was left as it is before a restart is looked at again.
        held.job.skipped = 0;
        held.job.failures.clear();
        let done = match held.job.task.clone() {
            Task::Erase { customer, cancel_first } => self.erase_customer(&mut held, &customer, cancel_first).await,
            Task::Redrive { .. } => self.redrive_in_background(&mut held).await,
        };
        let ended = match done {
            Ok(()) => {
                held.job.state = JobState::Done;
                self.save_job(&mut held, true).await
            }
            Err(Interrupted::Left) => {
                // Given back, so that whoever comes next need not wait until the hold is over. If this fails, they wait.
                self.save_job(&mut held, true).await
            }
            Err(error) => Err(error),
        };
        if let Err(Interrupted::Failed(error)) = ended {
            tracing::warn!(job = %held.job.id, %error, "a job could not go on; it is taken up again");
        }
    }

    /// Says how far a job is, once in a while. Fails when the job is not ours any more, or the engine stops.
    pub(crate) async fn progress(&self, held: &mut HeldJob) -> Result<(), Interrupted> {
        if self.stopping.is_cancelled() {
            return Err(Interrupted::Left);
        }
        if held.saved.elapsed() < SAVE_EVERY {
            return Ok(());
        }
        self.save_job(held, false).await
    }

    async fn save_job(&self, held: &mut HeldJob, give_back: bool) -> Result<(), Interrupted> {
        let now = self.store.now();
        held.job.updated_at = now;
        held.job.held = (!give_back).then(|| (self.node(), held_until(now)));
        match self.put_job(&held.job, held.version + 1).await {
            Ok(()) => {
                held.version += 1;
                held.saved = tokio::time::Instant::now();
                Ok(())
            }
            Err(PutError::VersionMoved { .. }) => Err(Interrupted::Left),
            Err(PutError::Store(error)) => Err(error.into()),
            Err(error @ PutError::TooLarge { .. }) => Err(StoreError::failed("write a job", error).into()),
        }
    }

    /// Waits, but not longer than the engine works.
    pub(crate) async fn pause_job(&self, held: &mut HeldJob, time: Duration) -> Result<(), Interrupted> {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => return Err(Interrupted::Left),
            () = tokio::time::sleep(time) => {}
        }
        self.progress(held).await
    }

    /// Does one change of a job until the store has taken it or the order has refused it.
    pub(crate) async fn insist<T, F>(
        &self,
        held: &mut HeldJob,
        mut change: impl FnMut() -> F,
    ) -> Result<Result<T, CommandError>, Interrupted>
    where
        F: Future<Output = Result<T, CommandError>>,
    {
        loop {
            match change().await {
                Err(CommandError::Busy { .. }) => self.pause_job(held, BUSY_WAIT).await?,
                Err(CommandError::Store(error)) => return Err(error.into()),
                answer => return Ok(answer),
            }
        }
    }
}

fn held_until(now: Timestamp) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(HELD_SECONDS)).unwrap_or(now)
}

/// Looks for jobs to be taken up, until the engine stops.
pub(crate) async fn job_loop(core: Arc<Core>) {
    loop {
        if let Err(error) = core.take_up_jobs().await {
            tracing::warn!(%error, "jobs could not be looked for; they are looked for again");
        }
        tokio::select! {
            biased;
            () = core.stopping.cancelled() => return,
            () = core.jobs.new.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}
