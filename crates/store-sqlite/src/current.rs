//! What the writer must know of an order to judge a commit and to change the rows that lead to it.
//!
//! Most orders are committed to several times within a short while, so the writer keeps what it knew last. The copy is
//! exact because nobody else writes, and is thrown away whenever a transaction was rolled back.

use std::sync::Arc;

use comanda_model::{CommitId, Head, OrderId, Phase};
use rustc_hash::FxHashMap;

use crate::column::due_micros;
use crate::row::Results;

/// An order as the writer knows it.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    pub(crate) seq: i64,
    pub(crate) version: u64,
    pub(crate) commit_id: CommitId,
    pub(crate) events: u64,
    pub(crate) attempts: u64,
    pub(crate) phase: Phase,
    /// The rows of `states` and `types`, and, for a dead letter, of `causes`.
    pub(crate) state: i64,
    pub(crate) type_row: i64,
    pub(crate) cause: Option<i64>,
    /// In whole microseconds, as it stands in `final`.
    pub(crate) updated_at: i64,
    /// When it is due at the head of its lane, and when behind others.
    pub(crate) due_at_head: Option<i64>,
    pub(crate) due_waiting: Option<i64>,
    /// The queue in which its work waits for a worker from outside when it is at the head of its lane, and since when.
    pub(crate) queued_at_head: Option<(Arc<str>, i64)>,
    /// Whether a worker from outside may have a claim on it that has a row.
    pub(crate) for_worker: bool,
    /// The visit and the attempt that its work is at.
    pub(crate) try_at: (u32, u32),
    pub(crate) member: Option<Member>,
    /// Where it stood in its lane last.
    pub(crate) lane_position: Option<i64>,
    pub(crate) results: Results,
}

/// A place in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) lane: String,
    pub(crate) position: i64,
    pub(crate) at_head: bool,
}

impl Current {
    /// Whether its work may be done now: it is in no lane, or at the head of one.
    pub(crate) fn is_active(&self) -> bool {
        self.member.as_ref().is_none_or(|member| member.at_head)
    }

    /// The entry that it has in the due list.
    pub(crate) fn due(&self) -> Option<i64> {
        if self.is_active() {
            self.due_at_head
        } else {
            self.due_waiting
        }
    }

    /// The entry that it has in a queue.
    pub(crate) fn queued(&self) -> Option<(Arc<str>, i64)> {
        self.queued_at_head.clone().filter(|_| self.is_active())
    }

    /// Its entry in `final`.
    pub(crate) fn final_at(&self) -> Option<i64> {
        (self.phase == Phase::Final).then_some(self.updated_at)
    }

    /// Takes over what a head says.
    pub(crate) fn follow(&mut self, head: &Head) {
        self.version = head.version;
        self.commit_id = head.commit_id;
        self.events = head.events;
        self.attempts = head.attempts;
        self.phase = head.phase;
        self.updated_at = head.updated_at.as_microsecond();
        self.due_at_head = head.due_at(true).map(due_micros);
        self.due_waiting = head.due_at(false).map(due_micros);
        let queued = head.queued_at(true);
        self.queued_at_head = queued.map(|(queue, at)| (queue.clone(), due_micros(at)));
        let work = head.work.as_ref();
        self.for_worker = work.is_some_and(|work| work.queue.is_some());
        self.try_at = work.map_or((0, 0), |work| (work.visit, work.attempt));
    }
}

/// The orders committed to most recently: two generations, so that forgetting costs nothing. Ids are made by us, so
/// nobody can choose them to collide, and a quick hash will do.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    young: FxHashMap<OrderId, Current>,
    old: FxHashMap<OrderId, Current>,
}

/// How many orders one generation holds; at about 300 bytes each, both take at most 20 MiB.
const GENERATION_MAX: usize = 32 * 1024;

impl Recent {
    /// Whether an order is there.
    pub(crate) fn contains(&self, id: OrderId) -> bool {
        self.young.contains_key(&id) || self.old.contains_key(&id)
    }

    /// Takes an order out; whoever takes it puts it back.
    pub(crate) fn take(&mut self, id: OrderId) -> Option<Current> {
        self.young.remove(&id).or_else(|| self.old.remove(&id))
    }

    /// Puts an order in.
    pub(crate) fn put(&mut self, id: OrderId, current: Current) {
        if self.young.len() >= GENERATION_MAX {
            // The map that is emptied keeps its memory: to grow a new one each time was a twelfth of the writer's work.
            std::mem::swap(&mut self.old, &mut self.young);
            self.young.clear();
        }
        self.young.insert(id, current);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}
