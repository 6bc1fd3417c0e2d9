//! What it means for a built-in step that a service gave no answer that it can use.

use std::time::Duration;

use comanda_model::decision::StepOutcome;
use comanda_steps::{Answer, CallError};

/// A service gave no usable answer. Another try, under the same key, may mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unanswered {
    /// Why, for people and histories.
    pub reason: String,
    /// When to come again, if the service said so.
    pub retry_after: Option<Duration>,
    /// Whether it may have done what it was asked all the same.
    pub may_have_happened: bool,
}

impl Unanswered {
    /// Nothing has happened.
    pub fn not_done(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            retry_after: None,
            may_have_happened: false,
        }
    }

    /// Nobody knows whether it has happened.
    pub fn perhaps_done(reason: impl Into<String>) -> Self {
        Self {
            may_have_happened: true,
            ..Self::not_done(reason)
        }
    }

    /// An answer that says neither yes nor no.
    pub(crate) fn by(answer: Answer) -> Self {
        Self {
            // A "yes" that cannot be read was a yes all the same.
            may_have_happened: answer.status.is_success() || answer.may_have_happened(),
            reason: answer.described,
            retry_after: answer.retry_after,
        }
    }

    /// How an attempt ends whose request has an effect.
    pub(crate) fn outcome(self) -> StepOutcome {
        if self.may_have_happened {
            self.unknown()
        } else {
            self.failed()
        }
    }

    /// How an attempt ends that only asked, or that has surely done nothing.
    pub(crate) fn failed(self) -> StepOutcome {
        StepOutcome::Failed {
            reason: self.reason,
            retry_after: self.retry_after,
        }
    }

    /// How an attempt ends while an earlier one may have happened.
    pub(crate) fn unknown(self) -> StepOutcome {
        StepOutcome::Unknown {
            reason: self.reason,
            retry_after: self.retry_after,
        }
    }
}

impl From<CallError> for Unanswered {
    fn from(error: CallError) -> Self {
        Self {
            reason: error.reason,
            retry_after: error.retry_after,
            may_have_happened: error.sent,
        }
    }
}
