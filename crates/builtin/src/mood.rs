//! How a sandbox misbehaves when an order tells it to, so that failure can be tried out without a service that fails.

use std::time::Duration;

use comanda_engine::StepCall;

use crate::Unanswered;

/// How long the answer to a `delay` takes.
const DELAY: Duration = Duration::from_secs(2);
/// The attempts of a `down` that are not taken.
const DOWN_ATTEMPTS: u32 = 2;

/// How a request is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should be.
    Well,
    /// It is refused.
    Refuse,
    /// It is answered late.
    Delay,
    /// It is carried out, and the first answer never comes.
    Timeout,
    /// It arrives twice.
    Twice,
    /// The first attempts are not taken at all.
    Down,
}

impl Mood {
    /// The mood of this name.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "decline" | "refuse" => Self::Refuse,
            "delay" => Self::Delay,
            "timeout" => Self::Timeout,
            "twice" => Self::Twice,
            "down" => Self::Down,
            _ => return None,
        })
    }

    /// What happens before the request is looked at.
    pub async fn before(self, call: &StepCall<'_>) -> Result<(), Unanswered> {
        match self {
            Self::Down if call.attempt <= DOWN_ATTEMPTS => {
                Err(Unanswered::not_done("the sandbox is down, as it was told to be"))
            }
            Self::Delay => {
                tokio::time::sleep(DELAY).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
