//! Items of statuses' queues: who is next in each lane, who has it, and what is dead.

use std::collections::{HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use comanda_model::decision::Enqueue;
use jiff::Timestamp;
use uuid::Uuid;

use super::later;
use super::state::State;
use crate::{DeadItem, DeadItemMove, ItemClaim, ItemClaims, ItemOutcome, ItemToken, QueueClaim};

/// An item, by its position.
pub(super) struct Item {
    pub(super) seq: u64,
    pub(super) entry: Enqueue,
    status: Arc<str>,
    version: u64,
    pub(super) at: Timestamp,
    attempt: u32,
    /// When it can be handed out; while it is leased, when that ends.
    pub(super) due_at: Timestamp,
    pub(super) lease: Option<(Uuid, String)>,
    pub(super) died: Option<(Timestamp, String)>,
}

impl Item {
    fn die(&mut self, now: Timestamp, reason: String) {
        self.lease = None;
        self.died = Some((now, reason));
    }
}

impl State {
    pub(super) fn put_item(&mut self, seq: u64, entry: Enqueue, status: Arc<str>, version: u64, now: Timestamp) {
        self.last_lane_position += 1;
        // A queue that has held something is known from then on.
        self.queued.entry(entry.queue.clone()).or_default();
        let item = Item {
            seq,
            entry,
            status,
            version,
            at: now,
            attempt: 0,
            due_at: now,
            lease: None,
            died: None,
        };
        self.items.insert(self.last_lane_position, item);
    }

    /// Takes the reasons out of an erased order's dead letters.
    pub(super) fn empty_items(&mut self, seq: u64) {
        let dead = self.items.values_mut().filter(|item| item.seq == seq);
        for (_, reason) in dead.filter_map(|item| item.died.as_mut()) {
            reason.clear();
        }
    }

    pub(super) fn has_items(&self, seq: u64) -> bool {
        self.items.values().any(|item| item.seq == seq)
    }

    pub(super) fn claim_items(&mut self, asked: &QueueClaim) -> ItemClaims {
        let now = self.now();
        let lease_until = later(now, asked.lease);
        let mut found = ItemClaims::default();
        let mut passed: HashSet<String> = HashSet::new();
        let mut next: Option<Timestamp> = None;
        // One that was handed out goes before those that have come back in front of it.
        let leased = self.items.iter().filter(|(_, item)| item.lease.is_some());
        let leased = leased.map(|(position, item)| ((item.entry.queue.clone(), item.entry.lane.clone()), *position));
        let leased: HashMap<(Arc<str>, String), u64> = leased.collect();
        let here = self
            .items
            .iter_mut()
            .filter(|(_, item)| *item.entry.queue == *asked.queue);
        for (position, item) in here {
            if passed.contains(&item.entry.lane) {
                continue;
            }
            let lane = (item.entry.queue.clone(), item.entry.lane.clone());
            if leased.get(&lane).is_some_and(|first| first != position) {
                continue;
            }
            if item.died.is_some() {
                if item.entry.parks {
                    passed.insert(item.entry.lane.clone());
                }
                continue;
            }
            let lost = item.lease.as_ref().filter(|_| item.due_at <= now);
            if let (Some((_, worker)), true) = (lost, item.attempt >= item.entry.attempts_max) {
                let reason = format!("the worker `{worker}` gave no answer before its lease ended");
                item.die(now, reason);
                if item.entry.parks {
                    passed.insert(item.entry.lane.clone());
                }
                continue;
            }
            passed.insert(item.entry.lane.clone());
            if item.due_at > now || found.claims.len() >= asked.max {
                next = Some(next.map_or(item.due_at, |next| next.min(item.due_at)));
                continue;
            }
            let Some(row) = self.rows.get(&item.seq) else { continue };
            let secret = Uuid::new_v4();
            item.attempt += 1;
            item.due_at = lease_until;
            item.lease = Some((secret, asked.worker.clone()));
            next = Some(next.map_or(lease_until, |next| next.min(lease_until)));
            found.claims.push(ItemClaim {
                token: ItemToken {
                    position: *position,
                    secret,
                },
                order: row.order.clone(),
                status: item.status.clone(),
                version: item.version,
                attempt: item.attempt,
                lease_until,
            });
        }
        found.next_due_at = next;
        found
    }

    fn held_item(&mut self, token: &ItemToken) -> Option<&mut Item> {
        let held = |item: &&mut Item| item.lease.as_ref().is_some_and(|(secret, _)| *secret == token.secret);
        self.items.get_mut(&token.position).filter(held)
    }

    pub(super) fn settle_item(&mut self, token: &ItemToken, outcome: &ItemOutcome) -> Option<String> {
        let now = self.now();
        let item = self.held_item(token)?;
        let queue = item.entry.queue.to_string();
        match outcome {
            ItemOutcome::Done => {
                self.items.remove(&token.position);
            }
            ItemOutcome::Retry { delay, .. } if item.attempt < item.entry.attempts_max => {
                item.lease = None;
                item.due_at = later(now, *delay);
            }
            ItemOutcome::Retry { reason, .. } | ItemOutcome::Refuse { reason } => item.die(now, reason.clone()),
        }
        Some(queue)
    }

    pub(super) fn renew_item(&mut self, token: &ItemToken, lease: Duration) -> Option<Timestamp> {
        let until = later(self.now(), lease);
        self.held_item(token)?.due_at = until;
        Some(until)
    }

    pub(super) fn dead_items(&self, queue: &str, after: u64, max: usize) -> Vec<DeadItem> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        let dead = self.items.range(behind).filter_map(|(position, item)| {
            let (died_at, reason) = item.died.clone().filter(|_| *item.entry.queue == *queue)?;
            Some(DeadItem {
                position: *position,
                order: self.rows.get(&item.seq)?.order.id(),
                status: item.status.clone(),
                version: item.version,
                attempt: item.attempt,
                died_at,
                reason,
            })
        });
        dead.take(max).collect()
    }

    pub(super) fn move_dead_items(&mut self, queue: &str, positions: &[u64], to: DeadItemMove) -> u64 {
        let now = self.now();
        let mut moved = 0;
        for position in positions {
            let dead = |item: &&mut Item| item.died.is_some() && *item.entry.queue == *queue;
            let Some(item) = self.items.get_mut(position).filter(dead) else {
                continue;
            };
            moved += 1;
            match to {
                DeadItemMove::Redrive => {
                    item.died = None;
                    item.attempt = 0;
                    item.due_at = now;
                }
                DeadItemMove::Discard => {
                    self.items.remove(position);
                }
            }
        }
        moved
    }
}
