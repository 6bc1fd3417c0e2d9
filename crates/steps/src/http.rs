//! HTTP calls as steps: what each answer means.
//!
//! A 2xx answer means done, and a JSON body is kept as the step's result; a 202 of a step that takes a callback means
//! that the result comes later. 409 and 422 are a refusal: the service understood and will not, however often it is
//! asked. Everything else, and every failure on the way, is tried again; `Retry-After` (RFC 9110, 10.2.3) is honoured.
//! Where the service may have done it all the same (the connection broke after the call was sent, 500, 502, 504), the
//! outcome is unknown, and the step's question is asked before anything is tried again.

use std::sync::Arc;

use comanda_engine::{Postponed, StepCall};
use comanda_model::Json;
use comanda_model::decision::StepOutcome;
use comanda_model::order_type::HttpCall;
use reqwest::StatusCode;

use crate::batch::Batches;
use crate::caller::{Answer, CallError, Caller};

pub(crate) struct HttpSteps {
    pub(crate) caller: Arc<Caller>,
    batches: Batches,
}

/// What the question about an attempt came to.
enum Asked {
    /// This is what became of the attempt.
    Known(StepOutcome),
    /// It did not happen: it may be tried again.
    NotDone,
}

impl HttpSteps {
    pub(crate) fn new(caller: Arc<Caller>) -> Self {
        Self {
            batches: Batches::new(caller.clone()),
            caller,
        }
    }

    /// Makes one attempt: asks first what became of an earlier one, if that is not known.
    pub(crate) async fn call(&self, call: &StepCall<'_>, http: &HttpCall) -> StepOutcome {
        let question = call.step.unknown.as_deref().filter(|_| call.uncertain && !call.undo);
        if let Some(question) = question
            && let Asked::Known(outcome) = self.ask(call, http, question).await
        {
            return outcome;
        }
        if call.step.batch > 1 {
            return self.batches.call(call, http).await;
        }
        let answer = self.caller.send(call, http, None).await;
        let status = match &answer {
            Ok(answer) => Some(answer.status),
            Err(error) => error.status,
        };
        if status == Some(StatusCode::ACCEPTED)
            && http.callback.is_some()
            && let Some(token) = call.callback
        {
            return StepOutcome::Waiting { secret: token.secret };
        }
        match answer {
            Ok(answer) => outcome(answer),
            Err(error) => no_answer(error),
        }
    }

    /// Asks, under the visit's key, what became of it.
    async fn ask(&self, call: &StepCall<'_>, http: &HttpCall, question: &HttpCall) -> Asked {
        let _place = match self.caller.admit_question(http, question).await {
            Ok(place) => place,
            Err(Postponed { reason, after }) => return Asked::Known(StepOutcome::Postponed { reason, after }),
        };
        match self.caller.send(call, question, None).await {
            Ok(answer) if answer.status == StatusCode::NOT_FOUND => Asked::NotDone,
            Ok(answer) => match outcome(answer) {
                StepOutcome::Failed { reason, retry_after } => {
                    Asked::Known(StepOutcome::Unknown { reason, retry_after })
                }
                known => Asked::Known(known),
            },
            Err(error) => Asked::Known(match error.postponed {
                Some(after) => StepOutcome::Postponed {
                    reason: error.reason,
                    after,
                },
                None => StepOutcome::Unknown {
                    reason: format!("asked: {error}"),
                    retry_after: error.retry_after,
                },
            }),
        }
    }
}

pub(crate) fn outcome(answer: Answer) -> StepOutcome {
    let (reason, retry_after) = (answer.described.clone(), answer.retry_after);
    match answer.status {
        status if status.is_success() => StepOutcome::Done {
            result: result(&answer),
        },
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => StepOutcome::Refused { reason },
        _ if answer.may_have_happened() => StepOutcome::Unknown { reason, retry_after },
        _ => StepOutcome::Failed { reason, retry_after },
    }
}

/// What the step leaves. An answer that is no JSON leaves nothing for later steps.
fn result(answer: &Answer) -> Option<Json> {
    match Json::parse(&String::from_utf8_lossy(&answer.body)) {
        Ok(json) => Some(json),
        // It is not whole, and too large in any case: the engine tells by the size.
        Err(_) if answer.is_too_large() => Some(Json::from_valid(format!("\"{}\"", "x".repeat(answer.body.len())))),
        Err(_) => None,
    }
}

pub(crate) fn no_answer(error: CallError) -> StepOutcome {
    let CallError {
        reason,
        sent,
        retry_after,
        postponed,
        ..
    } = error;
    if let Some(after) = postponed {
        StepOutcome::Postponed { reason, after }
    } else if sent {
        // The service may have done what it was asked: only another attempt, under the same key, tells.
        StepOutcome::Unknown { reason, retry_after }
    } else {
        StepOutcome::Failed { reason, retry_after }
    }
}
