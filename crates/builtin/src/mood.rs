//! How a sandbox misbehaves when an order tells it to, so that failure can be tried out without a service that fails.

use std::time::Duration;

use comanda_engine::StepCall;

use crate::{SandboxError, Unanswered};

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

    /// Takes a request in this mood. `carry_out` has one effect however often it is called.
    pub async fn take<A, F>(self, call: &StepCall<'_>, carry_out: impl Fn() -> F + Send + Sync) -> Result<A, Unanswered>
    where
        A: Send,
        F: Future<Output = Result<A, SandboxError>> + Send,
    {
        match self {
            Self::Down if call.attempt <= DOWN_ATTEMPTS => {
                return Err(Unanswered::not_done("the sandbox is down, as it was told to be"));
            }
            Self::Delay => tokio::time::sleep(DELAY).await,
            _ => {}
        }
        let answer = carry_out().await.map_err(SandboxError::unwritten)?;
        match self {
            // It has happened, and nobody is told; the step's timeout ends this.
            Self::Timeout => std::future::pending().await,
            Self::Twice => carry_out().await.map_err(SandboxError::unwritten),
            _ => Ok(answer),
        }
    }
}
