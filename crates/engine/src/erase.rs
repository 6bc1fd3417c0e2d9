//! Erasing what orders know of a customer, one commit per order. [`comanda_model::decision`] says what stays.

use std::collections::HashSet;
use std::sync::Arc;

use comanda_model::decision::Command;
use comanda_model::{OrderId, Phase};
use comanda_store::ListQuery;

use crate::command::{Change, Precondition};
use crate::error::CommandError;
use crate::job::{HeldJob, Interrupted};
use crate::service::{Core, Service};
use crate::view::Found;

/// The kind of the records in which Comanda keeps customers itself, by the customer's id.
pub const CUSTOMER_RECORDS: &str = "customer";
/// How many orders a page of a customer's has.
const PAGE: usize = 100;
/// How many orders that are not final are named.
const NAMED_MAX: usize = 100;
/// How long orders that were cancelled are left to end before they are looked at again.
const ENDING_WAIT: std::time::Duration = std::time::Duration::from_millis(500);

/// What there is to erase of a customer.
#[derive(Clone, Debug, Default)]
pub struct Erasable {
    /// How many orders.
    pub orders: u64,
    /// How many of them are not final.
    pub not_final: u64,
    /// Some of those, each with its status.
    pub named: Vec<(OrderId, Arc<str>)>,
}

impl Service {
    /// What there is to erase of a customer: orders that are erased already do not name it any more.
    pub async fn erasable(&self, customer: &str) -> Result<Erasable, CommandError> {
        let mut erasable = Erasable::default();
        let mut query = orders_of(customer);
        loop {
            let page = self.0.store.list(&query).await?;
            for stored in page.orders {
                erasable.orders += 1;
                let head = &stored.order.head;
                if head.phase == Phase::Final {
                    continue;
                }
                erasable.not_final += 1;
                if erasable.named.len() < NAMED_MAX {
                    erasable.named.push((stored.order.id(), head.status.clone()));
                }
            }
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => return Ok(erasable),
            }
        }
    }

    /// Erases what an order knows of its customer. One that is erased already stays as it is.
    pub async fn erase(&self, id: OrderId, by: Arc<str>) -> Result<Found, CommandError> {
        self.0.erase(id, &by).await
    }
}

fn orders_of(customer: &str) -> ListQuery {
    ListQuery {
        customer: Some(customer.to_owned()),
        limit: PAGE,
        ..ListQuery::default()
    }
}

fn change(by: &Arc<str>, reason: Option<&str>) -> Change {
    Change {
        by: by.clone(),
        reason: reason.map(str::to_owned),
        precondition: Precondition::None,
    }
}

impl Core {
    async fn erase(&self, id: OrderId, by: &Arc<str>) -> Result<Found, CommandError> {
        if !self.store.capabilities().erasure {
            return Err(self.store.lacks("erase orders").into());
        }
        let Some(stored) = self.store.order(id).await? else {
            return Err(CommandError::UnknownOrder(id));
        };
        if stored.order.head.erased_at.is_some() {
            let definition = self.definition(&stored.order).await?;
            return Ok(Found { stored, definition });
        }
        self.command(id, &change(by, None), &|_, _| Ok(Command::Erase)).await
    }

    /// Erases all orders of a customer, page by page; what is erased leaves the list, so that work which is taken up again
    /// goes on where it was.
    pub(crate) async fn erase_customer(
        &self,
        held: &mut HeldJob,
        customer: &str,
        cancel_first: bool,
    ) -> Result<(), Interrupted> {
        // Each order is asked to end once: one whose undo fails would else be asked for ever.
        let mut asked = HashSet::new();
        loop {
            let (mut ending, mut left) = (0_u64, HashSet::new());
            let mut query = orders_of(customer);
            loop {
                let page = self.store.list(&query).await?;
                for stored in page.orders {
                    let id = stored.order.id();
                    let mut phase = stored.order.head.phase;
                    if phase != Phase::Final && cancel_first && asked.insert(id) {
                        phase = match self.end(held, id, phase).await? {
                            Ok(phase) => phase,
                            Err(error) => {
                                held.job.skip(id, error.to_string());
                                left.insert(id);
                                continue;
                            }
                        };
                    }
                    match phase {
                        Phase::Final => {
                            let by = held.job.by.clone();
                            match self.insist(held, || self.erase(id, &by)).await? {
                                Ok(_) => held.job.changed += 1,
                                Err(error) => held.job.skip(id, error.to_string()),
                            }
                        }
                        Phase::Active | Phase::Undoing | Phase::Scheduled if asked.contains(&id) => ending += 1,
                        _ => held.job.skip(
                            id,
                            format!("it is not final: it stands in `{}`", stored.order.head.status),
                        ),
                    }
                    self.progress(held).await?;
                }
                match page.next {
                    Some(next) => query.cursor = Some(next),
                    None => break,
                }
            }
            if ending == 0 {
                break;
            }
            held.job.skipped = 0;
            held.job.failures.clear();
            self.pause_job(held, ENDING_WAIT).await?;
        }
        let kept = self.store.capabilities().ledger;
        if kept && held.job.skipped == 0 {
            self.store
                .remove_records(CUSTOMER_RECORDS, &[customer.to_owned()])
                .await?;
            self.erase_audit_of(customer).await?;
        }
        Ok(())
    }

    /// Asks an order to end: it is cancelled, or given up if it is a dead letter. Answers how it stands then.
    async fn end(
        &self,
        held: &mut HeldJob,
        id: OrderId,
        phase: Phase,
    ) -> Result<Result<Phase, CommandError>, Interrupted> {
        const REASON: &str = "the customer's data is erased";
        let change = change(&held.job.by, Some(REASON));
        let ended = if phase == Phase::Dead {
            let discard = |_: &Self, _: &mut Found| {
                Ok(Command::Discard {
                    reason: REASON.to_owned(),
                })
            };
            self.insist(held, || self.command(id, &change, &discard)).await?
        } else {
            self.insist(held, || self.cancel(id, &change)).await?
        };
        Ok(ended.map(|found| found.stored.order.head.phase))
    }
}
