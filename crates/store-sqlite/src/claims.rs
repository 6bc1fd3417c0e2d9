//! Who works on what. Claims live in memory: the lock on the store means that a dead process's claims are void.
//!
//! A claim must not appear on an order that a commit is just being made durable for, or two workers would begin the
//! same work. So the writer marks the orders of its batch as *moving* when it checks them, and takes the mark off when
//! the batch's claims have been published; nothing that moves is claimed anew. A claimer, in turn, first *reserves*
//! orders that it saw to be due, and then reads them again: what it saw may have been true only before a commit that
//! has been published since.

use std::sync::Arc;

use comanda_model::{OrderId, Token};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use uuid::Uuid;

/// A worker from outside that holds a claim. Its claim has a row, and so outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outside {
    /// The row of `queues`.
    pub(crate) queue: i64,
    /// The worker's name.
    pub(crate) name: Arc<str>,
    /// When it claimed, in microseconds.
    pub(crate) since: i64,
    /// When the claim ends, in microseconds.
    pub(crate) lease_until: i64,
}

/// A claim that is held.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// What its result must come with.
    pub(crate) token: Token,
    /// When it ends, in microseconds. It goes on counting as held until another takes it.
    pub(crate) lease_until: i64,
    /// Who holds it, where it was claimed from a queue.
    pub(crate) worker: Option<Outside>,
    seq: i64,
    /// Whether its order is still being read: nobody knows the token yet.
    reserved: bool,
}

/// What a batch does to one claim: `None` ends it.
pub(crate) type Moves = FxHashMap<OrderId, (i64, Option<Moved>)>;

/// A claim that a commit takes, or a worker from outside.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    pub(crate) token: Token,
    pub(crate) lease_micros: i64,
    pub(crate) worker: Option<Outside>,
}

#[derive(Debug, Default)]
struct Inner {
    held: FxHashMap<OrderId, Held>,
    by_seq: FxHashMap<i64, OrderId>,
    moving: FxHashSet<i64>,
}

/// All claims of the store.
#[derive(Debug, Default)]
pub(crate) struct Claims(Mutex<Inner>);

/// An order that was reserved, until it has been read again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserved {
    pub(crate) seq: i64,
    pub(crate) order: OrderId,
    secret: Uuid,
}

impl Held {
    /// The number of the order.
    pub(crate) fn seq(&self) -> i64 {
        self.seq
    }
}

impl Inner {
    fn remove(&mut self, order: OrderId) {
        if let Some(held) = self.held.remove(&order) {
            self.by_seq.remove(&held.seq);
        }
    }

    fn is_taken(&self, seq: i64, now: i64) -> bool {
        self.moving.contains(&seq)
            || self
                .by_seq
                .get(&seq)
                .and_then(|order| self.held.get(order))
                .is_some_and(|held| held.reserved || held.lease_until > now)
    }
}

impl Claims {
    /// Marks an order as moving, and answers the token it is held under, as far as the batch has not moved that.
    pub(crate) fn mark_moving(&self, order: OrderId, seq: Option<i64>) -> Option<Token> {
        let mut inner = self.0.lock();
        if let Some(seq) = seq {
            inner.moving.insert(seq);
        }
        inner
            .held
            .get(&order)
            .filter(|held| !held.reserved)
            .map(|held| held.token)
    }

    /// Applies what a durable batch did, and takes its marks off.
    pub(crate) fn publish(&self, moves: &Moves, now: i64) {
        let mut inner = self.0.lock();
        for (order, (seq, moved)) in moves {
            inner.remove(*order);
            if let Some(Moved {
                token,
                lease_micros,
                worker,
            }) = moved
            {
                let until = worker.as_ref().map(|worker| worker.lease_until);
                let lease_until = until.unwrap_or_else(|| now.saturating_add(*lease_micros));
                inner.held.insert(
                    *order,
                    Held {
                        token: *token,
                        lease_until,
                        worker: worker.clone(),
                        seq: *seq,
                        reserved: false,
                    },
                );
                inner.by_seq.insert(*seq, *order);
            }
        }
        inner.moving.clear();
    }

    /// Takes up a claim of a worker from outside that outlived the process before.
    pub(crate) fn restore(&self, seq: i64, token: Token, worker: Outside) {
        let mut inner = self.0.lock();
        inner.by_seq.insert(seq, token.order);
        let held = Held {
            token,
            lease_until: worker.lease_until,
            worker: Some(worker),
            seq,
            reserved: false,
        };
        inner.held.insert(token.order, held);
    }

    /// Marks an order as moving if it can be claimed; otherwise answers until when it is taken, as far as that is
    /// known. For the writer, about orders that its batch has not moved.
    pub(crate) fn move_free(&self, order: OrderId, seq: i64, now: i64) -> Result<Option<Held>, Option<i64>> {
        let mut inner = self.0.lock();
        let held = inner.held.get(&order).cloned();
        if let Some(held) = &held
            && (held.reserved || held.lease_until > now)
        {
            return Err((!held.reserved).then_some(held.lease_until));
        }
        inner.moving.insert(seq);
        Ok(held)
    }

    /// The claim that is held on an order, also when its lease has ended.
    pub(crate) fn held(&self, order: OrderId) -> Option<Held> {
        let inner = self.0.lock();
        inner.held.get(&order).filter(|held| !held.reserved).cloned()
    }

    /// How many claims of workers from outside there are whose leases have not ended, by the row of the queue.
    pub(crate) fn leased(&self, now: i64) -> FxHashMap<i64, u64> {
        let inner = self.0.lock();
        let mut leased = FxHashMap::default();
        for held in inner.held.values().filter(|held| held.lease_until > now) {
            if let Some(worker) = &held.worker {
                *leased.entry(worker.queue).or_default() += 1;
            }
        }
        leased
    }

    /// Takes the marks off: the batch was not applied.
    pub(crate) fn stand_still(&self) {
        self.0.lock().moving.clear();
    }

    /// How many entries of the due list may be passed over at most.
    pub(crate) fn count(&self) -> usize {
        let inner = self.0.lock();
        inner.held.len() + inner.moving.len()
    }

    /// Reserves up to `max` of the given due orders, and tells when the first that was passed over or is not yet due
    /// will be (see [`comanda_store::Claims::next_due_at`]). `due` is in order of time.
    pub(crate) fn reserve(
        &self,
        due: &[(i64, i64, OrderId)],
        max: usize,
        now: i64,
        lease_micros: i64,
    ) -> (Vec<Reserved>, Option<i64>) {
        let mut inner = self.0.lock();
        let mut reserved = Vec::new();
        let mut next = None;
        for &(at, seq, order) in due {
            if inner.is_taken(seq, now) {
                continue;
            }
            if at > now || reserved.len() == max {
                next = Some(at);
                break;
            }
            let secret = Uuid::new_v4();
            let token = Token {
                order,
                visit: 0,
                attempt: 0,
                secret,
            };
            inner.remove(order);
            inner.held.insert(
                order,
                Held {
                    token,
                    lease_until: now.saturating_add(lease_micros),
                    worker: None,
                    seq,
                    reserved: true,
                },
            );
            inner.by_seq.insert(seq, order);
            reserved.push(Reserved { seq, order, secret });
        }
        let ends = inner
            .held
            .values()
            .map(|held| held.lease_until)
            .filter(|until| *until > now)
            .min();
        (reserved, next.into_iter().chain(ends).min())
    }

    /// Makes a reservation a claim, unless a commit has ended it meanwhile. Answers its token and end.
    pub(crate) fn confirm(&self, reserved: Reserved, visit: u32, attempt: u32) -> Option<(Token, i64)> {
        let mut inner = self.0.lock();
        let held = inner
            .held
            .get_mut(&reserved.order)
            .filter(|held| held.token.secret == reserved.secret)?;
        held.token.visit = visit;
        held.token.attempt = attempt;
        held.reserved = false;
        Some((held.token, held.lease_until))
    }

    /// Gives a reservation back.
    pub(crate) fn drop_reserved(&self, reserved: Reserved) {
        let mut inner = self.0.lock();
        if inner
            .held
            .get(&reserved.order)
            .is_some_and(|held| held.token.secret == reserved.secret)
        {
            inner.remove(reserved.order);
        }
    }

    /// Keeps a reservation that nobody works on until its lease ends, so that an order that cannot be read does not
    /// stand in the way of all others.
    pub(crate) fn set_aside(&self, reserved: Reserved) {
        // Without the mark the lease counts; the secret was told to nobody.
        self.confirm(reserved, 0, 0);
    }

    /// Extends a claim to `until`; `false` if it is not held under this token.
    pub(crate) fn renew(&self, token: &Token, until: i64) -> bool {
        let mut inner = self.0.lock();
        match inner
            .held
            .get_mut(&token.order)
            .filter(|held| held.token == *token && !held.reserved)
        {
            Some(held) => {
                held.lease_until = until;
                true
            }
            None => false,
        }
    }

    /// Gives claims back. Stale tokens are passed over.
    pub(crate) fn release(&self, tokens: &[Token]) {
        let mut inner = self.0.lock();
        for token in tokens {
            if inner.held.get(&token.order).is_some_and(|held| held.token == *token) {
                inner.remove(token.order);
            }
        }
    }

    /// The claim on an order, if its lease has not ended.
    pub(crate) fn on(&self, order: OrderId, now: i64) -> Option<(Token, i64)> {
        let inner = self.0.lock();
        let held = inner
            .held
            .get(&order)
            .filter(|held| !held.reserved && held.lease_until > now)?;
        Some((held.token, held.lease_until))
    }

    /// The first `max` of the given entries of the due list whose orders are with nobody.
    pub(crate) fn free(&self, due: &[(i64, i64)], max: usize, now: i64) -> Vec<(i64, i64)> {
        let inner = self.0.lock();
        due.iter()
            .filter(|(_, seq)| !inner.is_taken(*seq, now))
            .take(max)
            .copied()
            .collect()
    }
}
