//! `/v1/jobs`: changes to many orders that go on in the background.

use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::Response;
use comanda_engine::{Job, JobFailure, JobState, Task};
use comanda_model::OrderId;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use crate::App;
use crate::access::Caller;
use crate::dead_letters::FilterBody;
use crate::keys::Scope;
use crate::problem::Problem;
use crate::respond::{insert, json_response};

/// A change to many orders that goes on in the background and survives a restart.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobView {
    #[schema(value_type = String)]
    id: Uuid,
    /// `erase` or `redrive`.
    kind: &'static str,
    /// `running`, `done` or `stopped`.
    state: &'static str,
    /// Who asked for it.
    by: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it last got on.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// How many orders there were when it began.
    matched: u64,
    /// How many were changed. After a restart in the middle it can be one lower than the truth.
    changed: u64,
    /// How many were left as they are.
    skipped: u64,
    /// Some of those, and why; at most 50.
    failures: Vec<JobFailureView>,
    /// Whose orders are erased.
    #[serde(skip_serializing_if = "Option::is_none")]
    customer: Option<String>,
    /// Which dead letters are redriven.
    #[serde(skip_serializing_if = "Option::is_none")]
    filter: Option<FilterBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_second: Option<u32>,
}

/// Jobs.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct JobList {
    /// Newest first.
    items: Vec<JobView>,
}

/// An order that a job left as it is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct JobFailureView {
    #[schema(value_type = String)]
    order_id: OrderId,
    error: String,
}

impl From<Job> for JobView {
    fn from(job: Job) -> Self {
        let (kind, customer, filter, rate_per_second) = match job.task {
            Task::Erase { customer, .. } => ("erase", Some(customer), None, None),
            Task::Redrive {
                filter,
                rate_per_second,
                ..
            } => ("redrive", None, Some(filter), rate_per_second),
        };
        let failure = |failure: JobFailure| JobFailureView {
            order_id: failure.order_id,
            error: failure.error,
        };
        Self {
            id: job.id,
            kind,
            state: match job.state {
                JobState::Running => "running",
                JobState::Done => "done",
                JobState::Stopped => "stopped",
            },
            by: job.by.to_string(),
            created_at: job.created_at,
            updated_at: job.updated_at,
            matched: job.matched,
            changed: job.changed,
            skipped: job.skipped,
            failures: job.failures.into_iter().map(failure).collect(),
            customer,
            filter: filter.map(FilterBody::from),
            rate_per_second,
        }
    }
}

impl App {
    /// Makes a job and answers with it, 202, and where it can be followed.
    pub(crate) async fn start_job(&self, task: Task, caller: &Caller) -> Result<Response, Problem> {
        let (action, subject) = match &task {
            Task::Erase { customer, .. } => ("customer.erased", format!("customer:{customer}")),
            Task::Redrive { .. } => ("dead-letters.redriven", "dead-letters".to_owned()),
        };
        let change = async { Ok(self.service.start_job(task, caller.by.clone()).await?) };
        // What it was asked and what came of it stands in the job.
        let after = |job: &Job| Some(serde_json::json!({"job": job.id}));
        let job = self.audited(caller, action, subject, None, change, after).await?;
        let location = format!("/v1/jobs/{}", job.id);
        let mut response = json_response(StatusCode::ACCEPTED, &JobView::from(job));
        insert(response.headers_mut(), LOCATION, &location);
        Ok(response)
    }
}

fn unknown(id: &str) -> Problem {
    Problem::new("unknown-job", format!("there is no job `{id}`"))
}

fn job_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(text).map_err(|_| unknown(text))
}

pub(crate) async fn list(State(app): State<App>, Extension(caller): Extension<Caller>) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let items: Vec<JobView> = app.service.jobs().await?.into_iter().map(JobView::from).collect();
    Ok(json_response(StatusCode::OK, &JobList { items }))
}

pub(crate) async fn one(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let job = app.service.job(job_id(&id)?).await?.ok_or_else(|| unknown(&id))?;
    Ok(json_response(StatusCode::OK, &JobView::from(job)))
}

pub(crate) async fn stop(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    caller.needs(Scope::Operate)?;
    let job = app.service.job(job_id(&id)?).await?.ok_or_else(|| unknown(&id))?;
    let stood = |job: Job| {
        let view = JobView::from(job);
        serde_json::json!({"state": view.state, "matched": view.matched, "changed": view.changed})
    };
    let change = async { app.service.stop_job(job_id(&id)?).await?.ok_or_else(|| unknown(&id)) };
    let after = |job: &Job| Some(stood(job.clone()));
    let subject = format!("job:{id}");
    let job = app
        .audited(&caller, "job.stopped", subject, Some(stood(job)), change, after)
        .await?;
    Ok(json_response(StatusCode::OK, &JobView::from(job)))
}
