//! Dead letters: put back to work, or given up, one or many at once.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::decision::{Command, RedriveFrom, Rejection};
use comanda_model::{Json, Order, OrderId, Phase};
use comanda_store::{ListQuery, StoreError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::command::{Change, Precondition, edit};
use crate::error::CommandError;
use crate::job::{HeldJob, Interrupted, Task};
use crate::service::{Core, Service};
use crate::view::Found;

/// The most orders that one call handles.
const SWEEP_MAX: usize = 1000;
/// The most dead letters that one call looks at to find the oldest.
const LOOKED_AT_MAX: usize = 100_000;

/// Which dead letters. All that is set must hold; nothing set means all.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterFilter {
    /// These orders.
    pub order_ids: Option<Vec<OrderId>>,
    /// Of this type.
    pub order_type: Option<String>,
    /// Of this cause.
    pub cause: Option<String>,
}

/// How dead letters are put back to work.
#[derive(Clone, Debug)]
pub struct Redrive {
    /// From where.
    pub from: RedriveFrom,
    /// On the current version of the type instead of the one that the order was accepted under.
    pub current_version: bool,
    /// A merge patch of the data.
    pub patch: Option<Json>,
    /// Only tell what would be done.
    pub dry_run: bool,
}

/// What a call did.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// How many dead letters were asked for and found.
    pub matched: u64,
    /// How many were changed (in a dry run: would be).
    pub changed: u64,
    /// Each one that was handled, oldest first.
    pub items: Vec<SweepItem>,
    /// Whether there are more than one call handles: call again.
    pub more: bool,
}

/// What became of one dead letter.
#[derive(Clone, Debug)]
pub struct SweepItem {
    /// The order.
    pub order: OrderId,
    /// Its type; empty if there is no such order.
    pub order_type: Arc<str>,
    /// Why it was left as it is, if it was.
    pub outcome: Result<(), String>,
}

impl Service {
    /// Puts dead letters back to work, oldest first.
    pub async fn redrive(
        &self,
        filter: DeadLetterFilter,
        redrive: Redrive,
        by: Arc<str>,
    ) -> Result<Sweep, CommandError> {
        let dry_run = redrive.dry_run;
        let decide = |core: &Core, found: &mut Found| redrive.command(core, found);
        self.sweep(filter, by, None, dry_run, &decide).await
    }

    /// Gives dead letters up: what their steps did is taken back, and they end.
    /// A dry run only tells what would be done.
    pub async fn discard(
        &self,
        filter: DeadLetterFilter,
        reason: String,
        dry_run: bool,
        by: Arc<str>,
    ) -> Result<Sweep, CommandError> {
        let decide = |_: &Core, _: &mut Found| Ok(Command::Discard { reason: reason.clone() });
        self.sweep(filter, by, Some(reason.clone()), dry_run, &decide).await
    }

    async fn sweep(
        &self,
        filter: DeadLetterFilter,
        by: Arc<str>,
        reason: Option<String>,
        dry_run: bool,
        decide: &crate::command::Decide<'_>,
    ) -> Result<Sweep, CommandError> {
        let ids = self.0.dead_letters(&filter, Timestamp::MAX).await?;
        let mut sweep = Sweep {
            matched: ids.len() as u64,
            more: ids.len() > SWEEP_MAX,
            ..Sweep::default()
        };
        let change = Change {
            by,
            reason,
            precondition: Precondition::None,
        };
        for (index, (order, order_type)) in ids.into_iter().take(SWEEP_MAX).enumerate() {
            let outcome = if dry_run {
                self.0.rehearse(order, decide).await
            } else {
                self.0.command(order, &change, decide).await.map(|_| ())
            };
            // A store that fails would fail for all that follow; what is the order's own is told beside it.
            if let Err(error @ (CommandError::Store(_) | CommandError::Busy { .. })) = outcome {
                if index == 0 {
                    return Err(error);
                }
                sweep.more = true;
                break;
            }
            let outcome = outcome.map_err(|error| error.to_string());
            sweep.changed += u64::from(outcome.is_ok());
            sweep.items.push(SweepItem {
                order,
                order_type,
                outcome,
            });
        }
        Ok(sweep)
    }
}

impl Redrive {
    /// The command that puts one dead letter back to work.
    fn command(&self, core: &Core, found: &mut Found) -> Result<Command, CommandError> {
        if self.current_version {
            let name = &found.stored.order.accepted.order_type;
            if let Some(current) = core.registry.current(name) {
                found.definition = current;
            }
        }
        let edit = self.patch.as_ref().map(|patch| edit(found, patch)).transpose()?;
        Ok(Command::Redrive { from: self.from, edit })
    }
}

impl Core {
    /// The dead letters that a filter names and that died before a moment, oldest first.
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        before: Timestamp,
    ) -> Result<Vec<(OrderId, Arc<str>)>, StoreError> {
        let store = &self.store;
        if let Some(ids) = &filter.order_ids {
            let mut found = Vec::with_capacity(ids.len().min(LOOKED_AT_MAX));
            for id in ids.iter().take(LOOKED_AT_MAX) {
                let order_type = match store.order(*id).await? {
                    Some(stored) if !matches(filter, &stored.order) => continue,
                    Some(stored) => stored.order.accepted.order_type.clone(),
                    None => "".into(),
                };
                found.push((*id, order_type));
            }
            return Ok(found);
        }
        let mut query = ListQuery {
            order_type: filter.order_type.clone(),
            cause: filter.cause.clone(),
            phase: Some(Phase::Dead),
            limit: 500,
            ..ListQuery::default()
        };
        let mut ids = Vec::new();
        loop {
            let page = store.list(&query).await?;
            ids.extend(
                page.orders
                    .iter()
                    .filter(|stored| died_before(&stored.order, before))
                    .map(|stored| (stored.order.id(), stored.order.accepted.order_type.clone())),
            );
            match page.next {
                Some(next) if ids.len() < LOOKED_AT_MAX => query.cursor = Some(next),
                _ => break,
            }
        }
        ids.reverse();
        Ok(ids)
    }
}

fn died_before(order: &Order, moment: Timestamp) -> bool {
    order.head.dead.as_ref().is_some_and(|dead| dead.at <= moment)
}

fn matches(filter: &DeadLetterFilter, order: &Order) -> bool {
    let type_fits = filter
        .order_type
        .as_deref()
        .is_none_or(|name| name == &*order.accepted.order_type);
    let cause = order.head.dead.as_ref().map(|dead| dead.cause.as_str());
    type_fits && filter.cause.as_deref().is_none_or(|wanted| cause == Some(wanted))
}

impl Core {
    /// Redrives what died before the job was made, oldest first, at the rate that was asked for. What has been seen to
    /// since is passed over: the order says so itself.
    pub(crate) async fn redrive_in_background(&self, held: &mut HeldJob) -> Result<(), Interrupted> {
        let Task::Redrive {
            filter,
            from_start,
            current_version,
            patch,
            rate_per_second,
        } = held.job.task.clone()
        else {
            return Ok(());
        };
        let redrive = Redrive {
            from: if from_start {
                RedriveFrom::Start
            } else {
                RedriveFrom::FailedStep
            },
            current_version,
            patch,
            dry_run: false,
        };
        let (asked_at, by) = (held.job.created_at, held.job.by.clone());
        let pace = rate_per_second.map(|rate| Duration::from_secs(1) / rate.max(1));
        let decide = |core: &Self, found: &mut Found| {
            if !died_before(&found.stored.order, asked_at) {
                return Err(Rejection::NotDead.into());
            }
            redrive.command(core, found)
        };
        let change = Change {
            by,
            reason: None,
            precondition: Precondition::None,
        };
        let ids = self.dead_letters(&filter, asked_at).await?;
        held.job.matched = held.job.matched.max(held.job.changed + ids.len() as u64);
        for (order, _) in ids {
            match self.insist(held, || self.command(order, &change, &decide)).await? {
                Ok(_) => held.job.changed += 1,
                Err(error) => held.job.skip(order, error.to_string()),
            }
            match pace {
                Some(pace) => self.pause_job(held, pace).await?,
                None => self.progress(held).await?,
            }
        }
        Ok(())
    }

    /// Decides a command and throws the decision away: whether it would be taken.
    async fn rehearse(&self, id: OrderId, decide: &crate::command::Decide<'_>) -> Result<(), CommandError> {
        let Some(stored) = self.store.order(id).await? else {
            return Err(CommandError::UnknownOrder(id));
        };
        let definition = self.definition(&stored.order).await?;
        let mut found = Found { stored, definition };
        let command = decide(self, &mut found)?;
        let input = comanda_model::decision::Input {
            now: self.store.now(),
            jitter: 0.0,
            wait_scale: 1.0,
            by: "local".into(),
        };
        comanda_model::decision::decide(&found.stored.order, &found.definition.order_type, command, &input)?;
        Ok(())
    }
}
