//! Lanes: who stands where, who is active, and who comes next.

use std::collections::BTreeMap;

use comanda_model::OrderId;
use jiff::Timestamp;

use super::state::{Row, State};
use crate::Place;

/// The orders that stand in one lane. A lane that nobody stands in is not kept.
pub(super) struct Lane {
    /// The one that may be worked. Usually at the first position, but one that returned may stand before it.
    active: u64,
    /// By position, the active one among them.
    members: BTreeMap<u64, u64>,
}

impl State {
    /// Where an order stands in its lane.
    pub(super) fn place(&self, seq: u64, row: &Row) -> Place {
        let (Some(lane), Some(position)) = (
            row.lane.as_ref().and_then(|name| self.lanes.get(name)),
            row.lane_position,
        ) else {
            return Place::Alone;
        };
        if lane.active == seq {
            return Place::Head;
        }
        let counted = lane
            .members
            .range(..position)
            .filter(|(_, member)| **member != lane.active)
            .take(Place::BEHIND_MAX as usize)
            .count();
        // The active one goes first wherever it stands, so it is always one more.
        let behind = u32::try_from(counted).map_or(Place::BEHIND_MAX, |counted| counted.saturating_add(1));
        Place::Behind(behind.min(Place::BEHIND_MAX))
    }

    /// Whether the order's work may be done: it is in no lane, or the active one of its lane.
    pub(super) fn is_active(&self, seq: u64, row: &Row) -> bool {
        let lane = row.lane.as_ref().and_then(|name| self.lanes.get(name));
        lane.is_none_or(|lane| lane.active == seq)
    }

    /// Puts an order into a lane: at the end, or at the position that it had when it left.
    pub(super) fn enter_lane(&mut self, seq: u64, row: &mut Row, name: &str, resume: bool) {
        let position = match row.lane_position.filter(|_| resume) {
            Some(position) => position,
            None => {
                self.last_lane_position += 1;
                self.last_lane_position
            }
        };
        row.lane_position = Some(position);
        row.lane = Some(name.to_owned());
        let lane = self.lanes.entry(name.to_owned()).or_insert_with(|| Lane {
            active: seq,
            members: BTreeMap::new(),
        });
        lane.members.insert(position, seq);
    }

    /// Takes an order out of the lane that it stands in. If it was the active one, the first of the others becomes
    /// active and is due; answers that one, if its work is due at once.
    pub(super) fn leave_lane(&mut self, seq: u64, row: &mut Row, now: Timestamp) -> Option<OrderId> {
        let name = row.lane.take()?;
        let lane = self.lanes.get_mut(&name)?;
        if let Some(position) = row.lane_position {
            lane.members.remove(&position);
        }
        if lane.active != seq {
            return None;
        }
        let Some(next) = lane.members.values().next().copied() else {
            self.lanes.remove(&name);
            return None;
        };
        lane.active = next;
        let promoted = self.rows.get(&next)?;
        let (id, head) = (promoted.order.id(), &promoted.order.head);
        let due = head.due_at(true).or(head.queued_at(true).map(|(_, at)| at));
        self.set_due(next, true);
        due.filter(|due| *due <= now).map(|_| id)
    }

    /// Makes an order's entries among those that are due and in its queue. `active`: its work may be done now.
    pub(super) fn set_due(&mut self, seq: u64, active: bool) {
        let Some(row) = self.rows.get_mut(&seq) else { return };
        let due = row.order.head.due_at(active);
        let before = std::mem::replace(&mut row.due, due);
        if let Some(before) = before {
            self.due.remove(&(before, seq));
        }
        if let Some(due) = due {
            self.due.insert((due, seq));
        }
        let queued = row.order.head.queued_at(active);
        let queued = queued.map(|(queue, at)| (queue.clone(), at));
        let before = std::mem::replace(&mut row.queued, queued.clone());
        if let Some((queue, at)) = before {
            self.queued.entry(queue).or_default().remove(&(at, seq));
        }
        if let Some((queue, at)) = queued {
            self.queued.entry(queue).or_default().insert((at, seq));
        }
    }
}
