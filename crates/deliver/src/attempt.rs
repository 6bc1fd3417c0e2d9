//! Tries of a step in the form in which the API and archives show them.

use std::sync::Arc;

use comanda_model::Attempt;
use jiff::Timestamp;
use serde::Serialize;

/// One try of a step.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptView {
    number: u64,
    visit: u32,
    attempt: u32,
    #[schema(value_type = String)]
    step: Arc<str>,
    undo: bool,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    ended_at: Timestamp,
    duration_ms: u64,
    outcome: &'static str,
    reason: Option<String>,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        let took = attempt.ended_at.duration_since(attempt.started_at).as_millis();
        Self {
            number: attempt.number,
            visit: attempt.visit,
            attempt: attempt.attempt,
            step: attempt.step,
            undo: attempt.undo,
            started_at: attempt.started_at,
            ended_at: attempt.ended_at,
            duration_ms: u64::try_from(took).unwrap_or(0),
            outcome: attempt.outcome.name(),
            reason: attempt.reason,
        }
    }
}
