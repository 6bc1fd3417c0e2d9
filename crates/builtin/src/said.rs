//! What a service over HTTP is told with every request, and how its answers read.

use comanda_engine::StepCall;
use comanda_model::json::scalar_text;
use comanda_steps::Answer;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use crate::Unanswered;

/// What a service said.
pub(crate) enum Said {
    /// It was done; the answer's object, empty if it is none.
    Yes {
        body: Value,
        /// What was asked and how it was answered.
        described: String,
    },
    /// It was refused for good, and why.
    No(String),
}

impl Said {
    /// Reads an answer: 2xx is a yes, 409, 422 and `also_refusal` are a no, and all else is no answer.
    pub(crate) fn by(answer: Answer, also_refusal: Option<StatusCode>) -> Result<Self, Unanswered> {
        match answer.status {
            StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => Ok(Self::No(answer.described)),
            status if Some(status) == also_refusal => Ok(Self::No(answer.described)),
            status if status.is_success() => {
                let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                Ok(Self::Yes {
                    body: if body.is_object() { body } else { json!({}) },
                    described: answer.described,
                })
            }
            _ => Err(Unanswered::by(answer)),
        }
    }

    /// Refuses a yes that does not name what it has made, as `name` or `id`: it may have made one, and nobody could take it
    /// back.
    pub(crate) fn naming(self, name: &str) -> Result<Self, Unanswered> {
        match &self {
            Self::Yes { body, described } if member(body, &[name, "id"]).is_none() => Err(Unanswered::perhaps_done(
                format!("{described}: the answer names no {name} (`id`)"),
            )),
            _ => Ok(self),
        }
    }
}

/// Whether the answer to a question is that the service knows nothing of what was asked for.
pub(crate) fn is_unknown(answer: &Answer) -> bool {
    matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::GONE)
}

/// The first of these members that is there, as text.
pub(crate) fn member(body: &Value, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| scalar_text(&body[*name]))
}

/// What every request tells: the order, and the visit's key.
pub(crate) fn about(call: &StepCall<'_>) -> Map<String, Value> {
    let order = ("order".to_owned(), json!(call.order.id()));
    let key = ("key".to_owned(), json!(call.idempotency_key));
    [order, key].into_iter().collect()
}
