//! Callbacks: the result of an attempt that was answered with 202, sent later by whoever took it on.
//!
//! The attempt's token is the right to answer: it names the order, the visit and the attempt, and has a secret that
//! only the receiver of the call was told. A callback is one commit, on the same terms as any other outcome.

use std::sync::Arc;

use comanda_model::decision::{self, Command, Input, Report, StepOutcome};
use comanda_model::{OrderId, Token};
use comanda_store::{CommitError, Expect, Stored};

use crate::attempt::is_about;
use crate::command::{Change, Precondition};
use crate::commit::Taking;
use crate::error::CommandError;
use crate::service::{Core, Service};
use crate::view::Found;
use crate::worker::Ready;

/// How often a callback is decided again because its order had moved.
const ROUNDS_MAX: u32 = 20;

/// What a callback says of its attempt.
#[derive(Clone, Debug)]
pub struct Callback {
    /// The attempt's token, as the call carried it.
    pub token: Token,
    /// What the attempt came to: done, failed or refused.
    pub outcome: StepOutcome,
}

/// Why a callback changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    /// No attempt has this token.
    #[error("no attempt waits for this callback, and none did")]
    Unknown,
    /// The attempt is over: answered before, out of time, or taken back.
    #[error("the attempt is over: order {order} does not wait for this callback any more")]
    Over {
        /// The order.
        order: OrderId,
    },
    /// The order could not be changed.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// How a callback stands to its order.
enum Standing {
    /// The order waits for it.
    Awaited,
    /// The call that it answers is still under way here.
    InFlight,
    /// The attempt that it answers is the order's next or present one, and nobody's claim can be seen: a lease that is over
    /// does not end a claim, so that only the store can tell whether the token still counts.
    Present,
    /// It is late or repeated. Whether that is to be written down.
    Over(bool),
    /// Nobody was ever told this token.
    Unknown,
}

/// What became of one try to commit a callback.
enum Tried {
    /// It counts.
    Counted(Box<Found>),
    /// The order had moved.
    Moved,
    /// Its token does not hold the order.
    Stale,
}

fn standing(stored: &Stored, token: &Token) -> Standing {
    let head = &stored.order.head;
    if let Some(work) = &head.work {
        if work.awaiting.is_some_and(|awaiting| awaiting.secret == token.secret) {
            return Standing::Awaited;
        }
        if stored.claim.is_some_and(|(held, _)| held == *token) {
            return Standing::InFlight;
        }
    }
    match head.past_callbacks.iter().find(|past| past.secret == token.secret) {
        Some(past) => Standing::Over(!past.recorded),
        None if is_about(&stored.order, token) => Standing::Present,
        None => Standing::Unknown,
    }
}

impl Service {
    /// Takes a callback: the attempt ends with it. One that comes too late, or again, changes nothing; the first such
    /// of an attempt is written down, and all are counted.
    pub async fn callback(&self, callback: Callback) -> Result<Found, CallbackError> {
        let core = &self.0;
        let token = callback.token;
        let mut is_stale = false;
        for _ in 0..ROUNDS_MAX {
            let stored = core.reload(token.order).await.map_err(CommandError::from)?;
            let stored = stored.ok_or(CallbackError::Unknown)?;
            let expect = |token| Expect::At {
                version: stored.order.head.version,
                token,
            };
            let expect = match standing(&stored, &token) {
                Standing::Awaited => expect(None),
                Standing::InFlight => expect(Some(token)),
                Standing::Present if !is_stale => expect(Some(token)),
                Standing::Over(record) => {
                    core.late(&stored, token, record).await?;
                    return Err(CallbackError::Over { order: token.order });
                }
                Standing::Present | Standing::Unknown => return Err(CallbackError::Unknown),
            };
            match core.answer_callback(stored, expect, &callback).await? {
                Tried::Counted(found) => return Ok(*found),
                Tried::Moved => {}
                Tried::Stale => is_stale = true,
            }
        }
        Err(CommandError::Busy {
            after: std::time::Duration::from_secs(1),
        }
        .into())
    }
}

impl Core {
    /// Commits what a callback makes of its order.
    async fn answer_callback(
        &self,
        stored: Stored,
        expect: Expect,
        callback: &Callback,
    ) -> Result<Tried, CommandError> {
        let definition = self.definition(&stored.order).await?;
        let input = Input {
            now: self.store.now(),
            jitter: self.options.chance.fraction(),
            wait_scale: self.options.wait_scale,
            by: "callback".into(),
        };
        let work = stored.order.head.work.as_ref();
        let report = Report {
            started_at: work
                .and_then(|work| work.awaiting)
                .map_or(stored.order.head.updated_at, |awaiting| awaiting.since),
            ended_at: input.now,
            outcome: callback.outcome.clone(),
        };
        let step = work.and_then(|work| work.kind.step().cloned());
        let secret = callback.token.secret;
        let change = decision::callback(&stored.order, &definition.order_type, secret, report, &input);
        let mut prepared = self.prepare(change, expect, Vec::new(), stored.claim.is_some(), None);
        if matches!(expect, Expect::At { token: Some(_), .. }) {
            // A token is no sign of its sender here: a callback can be sent twice in the same moment, or be made up.
            Arc::make_mut(&mut prepared.commit.order).head.remember_command();
        }
        match self.commit_one(prepared.commit).await {
            Ok((receipt, order)) => {
                self.committed(&order, &receipt);
                if let Some(step) = step {
                    self.meters.attempted(
                        &order.accepted.order_type,
                        &step,
                        crate::attempt::outcome_name(&callback.outcome),
                    );
                }
                let mut claim = None;
                if let (true, Some(Taking { token, permit })) = (receipt.claimed, prepared.taking) {
                    claim = Some((token, order.head.updated_at));
                    self.hand_on(Ready {
                        order: order.clone(),
                        token,
                        definition: definition.clone(),
                        permit,
                        reclaimed: false,
                    });
                }
                let place = stored.place;
                let stored = Stored {
                    order,
                    claim,
                    place,
                    worker: None,
                };
                Ok(Tried::Counted(Box::new(Found { stored, definition })))
            }
            Err(CommitError::VersionMoved { .. }) => Ok(Tried::Moved),
            Err(CommitError::TokenStale) => Ok(Tried::Stale),
            Err(CommitError::Busy { after }) => Err(CommandError::Busy { after }),
            Err(CommitError::Store(error)) => Err(error.into()),
            Err(CommitError::TooLarge { what, bytes_max }) => Err(CommandError::TooLarge { what, bytes_max }),
            Err(CommitError::KeyTaken { .. } | CommitError::Short(_) | CommitError::Unknown | CommitError::Closed) => {
                Err(CommandError::Busy {
                    after: std::time::Duration::from_secs(1),
                })
            }
        }
    }

    async fn late(&self, stored: &Stored, token: Token, record: bool) -> Result<(), CommandError> {
        self.meters.stale(&stored.order.accepted.order_type);
        if !record {
            return Ok(());
        }
        let change = Change {
            by: "callback".into(),
            reason: None,
            precondition: Precondition::None,
        };
        self.command(token.order, &change, &|_, _| {
            Ok(Command::RecordLateCallback(token.secret))
        })
        .await
        .map(drop)
    }
}
