//! What a step can be that reaches outside: HTTP calls, with their signatures, tokens, bounds and circuits; and Rust.

mod batch;
mod bearer;
mod caller;
mod http;
mod rust;
mod signature;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_engine::{Admission, Postponed, StepCall, StepRunner};
use comanda_model::Order;
use comanda_model::decision::StepOutcome;
use comanda_model::order_type::{Action, Step};
use comanda_outbound::{Lookup, SystemLookup};

pub use caller::{Answer, CallError, Caller};
pub use rust::{Finding, Outcome, RustSteps, StepContext};

/// What steps may use besides the order.
#[derive(Clone)]
pub struct Options {
    /// Environment variables, readable in templates as `env.NAME`.
    pub env: BTreeMap<String, String>,
    /// Secrets, readable in templates as `secret.name`. They are taken out of every reason, result and log.
    pub secrets: BTreeMap<String, String>,
    /// The `User-Agent` of outbound calls.
    pub user_agent: String,
    /// Where this server can be reached by those who send callbacks, such as `https://orders.example`.
    pub public_url: String,
    /// Whether calls whose host comes from an order may lead to private, loopback and link-local addresses.
    pub allow_private: bool,
    /// How the hosts of such calls become addresses.
    pub lookup: Arc<dyn Lookup>,
    /// The most calls to one target (scheme, host and port) at the same time. Default 64.
    pub calls_per_target_max: usize,
    /// After how many failures in a row calls to a target are held back. Default 20.
    pub circuit_failures: u32,
    /// For how long they are held back before one tries again. Default 10 s.
    pub circuit_open: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            user_agent: String::new(),
            public_url: String::new(),
            allow_private: false,
            lookup: Arc::new(SystemLookup),
            calls_per_target_max: 64,
            circuit_failures: 20,
            circuit_open: Duration::from_secs(10),
        }
    }
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
    /// Sets up the caller that the steps share.
    ///
    /// # Errors
    /// If the system's certificates or resolver cannot be used.
    pub fn new(options: Options) -> Result<Self, SetUpError> {
        Ok(Self::over(Arc::new(Caller::new(options)?)))
    }

    /// Steps that call through a caller that others use too.
    pub fn over(caller: Arc<Caller>) -> Self {
        Self {
            http: http::HttpSteps::new(caller),
        }
    }
}

#[async_trait]
impl StepRunner for Steps {
    async fn admit(&self, order: &Order, step: &Step) -> Result<Admission, Postponed> {
        match &step.action {
            // It goes out with others, in a call that takes one place for them all.
            Action::Http(http) if step.batch > 1 => {
                let looked = self.http.caller.look_for(http, order);
                looked.map(|()| Admission::default())
            }
            Action::Http(http) => self.http.caller.admit_for(http, order).await,
            _ => Ok(Admission::default()),
        }
    }

    async fn run(&self, call: StepCall<'_>) -> StepOutcome {
        match &call.step.action {
            Action::Http(http) => self.http.call(&call, http).await,
            Action::Rust(rust) => StepOutcome::Failed {
                reason: format!("this program was not compiled with the step `{}`", rust.name),
                retry_after: None,
            },
            Action::BuiltIn(_) => StepOutcome::Failed {
                reason: "a built-in step is not run here".to_owned(),
                retry_after: None,
            },
            // The engine decides these itself, since they have no effect outside.
            Action::Noop | Action::Wait(_) | Action::Approval { .. } => StepOutcome::Done { result: None },
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
