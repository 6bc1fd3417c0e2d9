//! What a step can be that reaches outside: HTTP calls.

mod http;

use std::collections::BTreeMap;

use async_trait::async_trait;
use comanda_engine::{StepCall, StepRunner};
use comanda_model::decision::StepOutcome;
use comanda_model::order_type::Action;

/// What steps may use besides the order.
#[derive(Clone, Default)]
pub struct Options {
    /// Environment variables, readable in templates as `env.NAME`.
    pub env: BTreeMap<String, String>,
    /// Secrets, readable in templates as `secret.name`. They are taken out of every reason and log.
    pub secrets: BTreeMap<String, String>,
    /// The `User-Agent` of outbound calls.
    pub user_agent: String,
}

/// Why the steps could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client could not be set up")]
pub struct SetUpError(#[from] reqwest::Error);

/// Runs the steps that reach outside.
pub struct Steps {
    http: http::HttpSteps,
}

impl Steps {
    /// Sets up the clients that the steps share.
    pub fn new(options: Options) -> Result<Self, SetUpError> {
        Ok(Self {
            http: http::HttpSteps::new(options)?,
        })
    }
}

#[async_trait]
impl StepRunner for Steps {
    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        match &call.step.action {
            Action::Http(http) => self.http.call(&call, http).await,
            // The engine decides these itself, since they have no effect outside.
            Action::Noop | Action::Wait(_) => StepOutcome::Done { result: None },
            Action::Queue(name) => StepOutcome::Failed {
                reason: format!("the work waits for a worker of the queue `{name}`"),
                retry_after: None,
            },
            Action::Fail { reason, refuse: true } => StepOutcome::Refused { reason: reason.clone() },
            Action::Fail { reason, refuse: false } => StepOutcome::Failed {
                reason: reason.clone(),
                retry_after: None,
            },
        }
    }
}
