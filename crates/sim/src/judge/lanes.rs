//! Lanes: who stands where, in the order in which they came, and who may be worked.

use std::collections::BTreeMap;

use comanda_model::OrderId;
use comanda_model::decision::LaneMove;

/// All lanes.
#[derive(Default)]
pub struct Lanes {
    lanes: BTreeMap<String, Lane>,
    standing: BTreeMap<OrderId, String>,
    positions: BTreeMap<OrderId, u64>,
    last: u64,
}

struct Lane {
    /// By position.
    members: Vec<(u64, OrderId)>,
    active: OrderId,
}

impl Lanes {
    /// Moves an order. Answers who became active by it.
    pub fn apply(&mut self, id: OrderId, moves: &LaneMove) -> Option<OrderId> {
        let mut promoted = None;
        let elsewhere = |entry: &comanda_model::decision::LaneEntry| self.standing.get(&id) != Some(&entry.name);
        let leaves = moves.leave.is_some() && moves.leave.as_ref() == self.standing.get(&id);
        if leaves || (self.standing.contains_key(&id) && moves.enter.as_ref().is_some_and(elsewhere)) {
            promoted = self.leave(id);
        }
        if let (Some(entry), false) = (&moves.enter, self.standing.contains_key(&id)) {
            let position = match self.positions.get(&id).filter(|_| entry.resume) {
                Some(position) => *position,
                None => {
                    self.last += 1;
                    self.last
                }
            };
            self.positions.insert(id, position);
            self.standing.insert(id, entry.name.clone());
            let lane = self.lanes.entry(entry.name.clone()).or_insert_with(|| Lane {
                members: Vec::new(),
                active: id,
            });
            lane.members.push((position, id));
            lane.members.sort_unstable();
        }
        promoted
    }

    fn leave(&mut self, id: OrderId) -> Option<OrderId> {
        let name = self.standing.remove(&id)?;
        let lane = self.lanes.get_mut(&name)?;
        lane.members.retain(|(_, member)| *member != id);
        if lane.active != id {
            return None;
        }
        match lane.members.first() {
            Some((_, next)) => {
                lane.active = *next;
                Some(*next)
            }
            None => {
                self.lanes.remove(&name);
                None
            }
        }
    }

    /// Whether an order may be worked: it stands in no lane, or is the active one of its lane.
    pub fn is_active(&self, id: OrderId) -> bool {
        self.standing
            .get(&id)
            .and_then(|name| self.lanes.get(name))
            .is_none_or(|lane| lane.active == id)
    }

    /// The active one of the lane that an order stands in.
    pub fn active_before(&self, id: OrderId) -> Option<OrderId> {
        let lane = self.lanes.get(self.standing.get(&id)?)?;
        (lane.active != id).then_some(lane.active)
    }

    /// The lane that an order stands in.
    pub fn of(&self, id: OrderId) -> Option<&str> {
        self.standing.get(&id).map(String::as_str)
    }

    /// How many stand before an order, the active one counted first.
    pub fn behind(&self, id: OrderId) -> usize {
        let Some(lane) = self.standing.get(&id).and_then(|name| self.lanes.get(name)) else {
            return 0;
        };
        let position = self.positions.get(&id).copied().unwrap_or(0);
        let before = lane
            .members
            .iter()
            .filter(|(at, member)| *at < position && *member != lane.active);
        before.count() + usize::from(lane.active != id)
    }
}
