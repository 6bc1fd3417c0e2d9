//! Counts that are kept with each commit, so that no page ever counts rows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use comanda_model::{Order, OrderId, Phase, TypeHash};

use crate::StatusCount;

/// A type, a status, and the name of a phase.
type StateName = (Arc<str>, Arc<str>, &'static str);

/// A dead letter's type and cause.
type CauseName = (Arc<str>, String);

/// How many orders stand where, live on what, and are dead of what.
#[derive(Default)]
pub(super) struct Tally {
    counts: BTreeMap<StateName, (Phase, u64)>,
    live: BTreeMap<TypeHash, u64>,
    causes: BTreeMap<CauseName, BTreeSet<OrderId>>,
}

fn cause(order: &Order) -> Option<CauseName> {
    let dead = order.head.dead.as_ref().filter(|_| order.head.phase == Phase::Dead)?;
    Some((order.accepted.order_type.clone(), dead.cause.clone()))
}

impl Tally {
    /// Counts an order as it now stands.
    pub(super) fn add(&mut self, order: &Order) {
        let head = &order.head;
        let name = (
            order.accepted.order_type.clone(),
            head.status.clone(),
            head.phase.name(),
        );
        self.counts.entry(name).or_insert((head.phase, 0)).1 += 1;
        if head.phase != Phase::Final {
            *self.live.entry(head.type_hash).or_default() += 1;
        }
        if let Some(cause) = cause(order) {
            self.causes.entry(cause).or_default().insert(order.id());
        }
    }

    /// Takes back what [`Tally::add`] counted of the same order.
    pub(super) fn remove(&mut self, order: &Order) {
        let head = &order.head;
        let name = (
            order.accepted.order_type.clone(),
            head.status.clone(),
            head.phase.name(),
        );
        if let Some((_, count)) = self.counts.get_mut(&name) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&name);
            }
        }
        if head.phase != Phase::Final
            && let Some(count) = self.live.get_mut(&head.type_hash)
        {
            *count -= 1;
            if *count == 0 {
                self.live.remove(&head.type_hash);
            }
        }
        if let Some(cause) = cause(order)
            && let Some(dead) = self.causes.get_mut(&cause)
        {
            dead.remove(&order.id());
            if dead.is_empty() {
                self.causes.remove(&cause);
            }
        }
    }

    pub(super) fn counts(&self) -> Vec<StatusCount> {
        let counts = self.counts.iter();
        counts
            .map(|((order_type, status, _), (phase, count))| StatusCount {
                order_type: order_type.to_string(),
                status: status.to_string(),
                phase: *phase,
                count: *count,
            })
            .collect()
    }

    pub(super) fn live(&self) -> Vec<(TypeHash, u64)> {
        self.live.iter().map(|(hash, count)| (*hash, *count)).collect()
    }

    /// Causes, most frequent first, at most `max`.
    pub(super) fn causes(&self, max: usize) -> Vec<crate::Cause> {
        let causes = self.causes.iter();
        let mut causes: Vec<crate::Cause> = causes
            .map(|((order_type, cause), dead)| crate::Cause {
                cause: cause.clone(),
                order_type: order_type.to_string(),
                count: dead.len() as u64,
                example: dead.last().copied(),
            })
            .collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.count));
        causes.truncate(max);
        causes
    }
}
