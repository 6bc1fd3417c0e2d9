//! The in-memory store: all rules of the port without a disk, for tests and for trying things out. Its [`Faults`] make it
//! fail on purpose.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use comanda_model::bounds::{DATA_BYTES_MAX, EVENTS_PER_COMMIT_MAX, RESULT_BYTES_MAX};
use comanda_model::{Attempt, Event, Json, Order, OrderId, Outcome, Phase, Token, TypeHash};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use crate::{
    Capabilities, Cause, Claim, ClaimMove, Claims, Commit, CommitError, Counters, Cursor, Expect, FeedEvent, FeedPage,
    FeedStart, KeyClaim, ListQuery, OrderPage, Place, Receipt, StatusCount, Store, StoreError, Stored, Ticket, TypeSource,
};

/// The most rows that one page looks at.
const ROWS_MAX: usize = 10_000;

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
type Staged = (Commit, oneshot::Sender<Result<Receipt, CommitError>>);

/// A store in memory.
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    clock: Clock,
    position: watch::Sender<u64>,
}

struct Row {
    order: Order,
    events: Vec<Event>,
    attempts: Vec<Attempt>,
    keys: Vec<(String, String)>,
    lane_position: u64,
    due: Option<Timestamp>,
}

#[derive(Default)]
struct Lane {
    active: u64,
    members: BTreeMap<u64, u64>,
}

struct KeyRow {
    seq: u64,
    fingerprint: [u8; 32],
    expires_at: Option<Timestamp>,
}

#[derive(Default)]
struct State {
    epoch: u64,
    last_seq: u64,
    last_position: u64,
    last_lane_position: u64,
    last_now: Timestamp,
    closed: bool,
    rows: BTreeMap<u64, Row>,
    ids: HashMap<OrderId, u64>,
    due: BTreeSet<(Timestamp, u64)>,
    feed: BTreeMap<u64, (u64, usize)>,
    lanes: HashMap<String, Lane>,
    keys: HashMap<(String, String), KeyRow>,
    claims: HashMap<OrderId, (Token, Timestamp)>,
    types: HashMap<TypeHash, TypeSource>,
    faults: FaultPlan,
    stalled: VecDeque<Staged>,
}

#[derive(Default)]
struct FaultPlan {
    fail: u32,
    lose: u32,
    busy: u32,
    stalling: bool,
}

/// Makes a store fail on purpose.
#[derive(Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    clock: Clock,
    position: watch::Sender<u64>,
}

impl Faults {
    /// The next `count` commits are not applied and fail.
    pub fn fail_next_commits(&self, count: u32) {
        self.state.lock().faults.fail = count;
    }

    /// The next `count` commits are applied, and their answers lost.
    pub fn lose_next_answers(&self, count: u32) {
        self.state.lock().faults.lose = count;
    }

    /// The next `count` commits are answered with [`CommitError::Busy`].
    pub fn busy_next(&self, count: u32) {
        self.state.lock().faults.busy = count;
    }

    /// Commits are staged and neither visible nor answered, until [`Faults::resume`].
    pub fn stall(&self) {
        self.state.lock().faults.stalling = true;
    }

    /// Applies what was staged, in order, and goes on.
    pub fn resume(&self) {
        let mut state = self.state.lock();
        state.faults.stalling = false;
        let now = state.now(&self.clock);
        while let Some((commit, sender)) = state.stalled.pop_front() {
            let answer = state.commit(commit, now);
            // Nobody waits any more if this fails.
            let _ = sender.send(answer);
        }
        self.position.send_replace(state.last_position);
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::with_clock(Arc::new(Timestamp::now))
    }
}

impl MemoryStore {
    /// A store whose time is handed in.
    pub fn with_clock(clock: Clock) -> Self {
        // 52 bits: a cursor's epoch stays exact in every client.
        let epoch = (Uuid::new_v4().as_u128() as u64 >> 12) | 1;
        let state = State { epoch, last_now: Timestamp::MIN, ..State::default() };
        Self { state: Arc::new(Mutex::new(state)), clock, position: watch::Sender::new(0) }
    }

    /// The handle that makes it fail.
    pub fn faults(&self) -> Faults {
        Faults { state: self.state.clone(), clock: self.clock.clone(), position: self.position.clone() }
    }
}

impl State {
    fn now(&mut self, clock: &Clock) -> Timestamp {
        let now = Timestamp::from_microsecond(clock().as_microsecond()).unwrap_or(self.last_now);
        self.last_now = self.last_now.max(now);
        self.last_now
    }

    fn row(&self, id: OrderId) -> Option<&Row> {
        self.ids.get(&id).and_then(|seq| self.rows.get(seq))
    }

    fn place(&self, seq: u64, row: &Row) -> Place {
        let Some(lane) = row.order.head.lane.as_ref().filter(|lane| lane.standing) else { return Place::Alone };
        let Some(lane) = self.lanes.get(&lane.name) else { return Place::Alone };
        if lane.active == seq {
            return Place::Head;
        }
        let before = lane.members.range(..row.lane_position).take(Place::BEHIND_MAX as usize).count();
        // The head may stand at a later position than one that has come back.
        Place::Behind((before as u32).max(1))
    }

    fn set_due(&mut self, seq: u64, due: Option<Timestamp>) {
        if let Some(row) = self.rows.get_mut(&seq) {
            let old = std::mem::replace(&mut row.due, due);
            if let Some(old) = old {
                self.due.remove(&(old, seq));
            }
            if let Some(due) = due {
                self.due.insert((due, seq));
            }
        }
    }

    fn commit(&mut self, commit: Commit, now: Timestamp) -> Result<Receipt, CommitError> {
        if self.closed {
            return Err(CommitError::Closed);
        }
        let id = commit.order.id();
        let seq = self.ids.get(&id).copied();
        let head = seq.and_then(|seq| self.rows.get(&seq)).map(|row| &row.order.head);
        if let (Some(head), Some(seq)) = (head, seq)
            && head.commit_id == commit.order.head.commit_id
        {
            let queued = self.rows.get(&seq).is_some_and(|row| matches!(self.place(seq, row), Place::Behind(_)));
            let taken = matches!(commit.claim, ClaimMove::Take { token, .. } if self.claims.get(&id).is_some_and(|held| held.0 == token));
            return Ok(Receipt { claimed: taken, queued, promoted: None, position: self.last_position });
        }
        self.check(&commit, head.map_or(0, |head| head.version), seq.is_some(), now)?;
        Ok(self.apply(commit, seq, now))
    }

    fn check(&self, commit: &Commit, actual: u64, exists: bool, now: Timestamp) -> Result<(), CommitError> {
        for KeyClaim { scope, key, .. } in &commit.keys {
            if let Some(row) = self.keys.get(&(scope.clone(), key.clone()))
                && row.expires_at.is_none_or(|expires_at| expires_at > now)
                && let Some(taken) = self.rows.get(&row.seq)
            {
                return Err(CommitError::KeyTaken {
                    scope: scope.clone(),
                    key: key.clone(),
                    order: taken.order.id(),
                    fingerprint: row.fingerprint,
                });
            }
        }
        match commit.expect {
            Expect::Absent if exists => return Err(CommitError::VersionMoved { actual }),
            Expect::Absent => {}
            Expect::At { version, token } => {
                let held = self.claims.get(&commit.order.id()).map(|held| held.0);
                if token.is_some() && token != held {
                    return Err(CommitError::TokenStale);
                }
                if version != actual {
                    return Err(CommitError::VersionMoved { actual });
                }
            }
        }
        let large = |what, bytes_max| Err(CommitError::TooLarge { what, bytes_max });
        if commit.order.data.as_str().len() > DATA_BYTES_MAX {
            return large("the data", DATA_BYTES_MAX);
        }
        if commit.events.len() > EVENTS_PER_COMMIT_MAX {
            return large("the number of events in a commit", EVENTS_PER_COMMIT_MAX);
        }
        let mut results = commit.attempts.iter().filter_map(|attempt| attempt.result.as_ref());
        if results.any(|result| result.as_str().len() > RESULT_BYTES_MAX) {
            return large("a step's result", RESULT_BYTES_MAX);
        }
        Ok(())
    }

    fn apply(&mut self, commit: Commit, seq: Option<u64>, now: Timestamp) -> Receipt {
        let id = commit.order.id();
        let seq = seq.unwrap_or_else(|| {
            self.last_seq += 1;
            self.ids.insert(id, self.last_seq);
            self.last_seq
        });
        let mut row = self.rows.remove(&seq).unwrap_or_else(|| Row {
            order: commit.order.clone(),
            events: Vec::new(),
            attempts: Vec::new(),
            keys: Vec::new(),
            lane_position: 0,
            due: None,
        });
        for event in commit.events {
            self.last_position += 1;
            self.feed.insert(self.last_position, (seq, row.events.len()));
            row.events.push(event);
        }
        row.attempts.extend(commit.attempts);
        for key in commit.keys {
            let name = (key.scope, key.key);
            row.keys.push(name.clone());
            self.keys.insert(name, KeyRow { seq, fingerprint: key.fingerprint, expires_at: key.expires_at });
        }
        let results = results(&row.attempts);
        row.order = Order { results, ..commit.order };
        let mut promoted = None;
        if let Some(name) = &commit.lane.leave {
            promoted = self.leave(name, seq, row.lane_position, now);
        }
        if let Some(entry) = &commit.lane.enter {
            if !entry.resume || row.lane_position == 0 {
                self.last_lane_position += 1;
                row.lane_position = self.last_lane_position;
            }
            let lane = self.lanes.entry(entry.name.clone()).or_insert_with(|| Lane { active: seq, ..Lane::default() });
            lane.members.insert(row.lane_position, seq);
        }
        let queued = matches!(self.place(seq, &row), Place::Behind(_));
        let due = row.order.head.due_at(!queued);
        self.rows.insert(seq, row);
        self.set_due(seq, due);
        let claimed = match commit.claim {
            ClaimMove::Keep => false,
            ClaimMove::End => {
                self.claims.remove(&id);
                false
            }
            ClaimMove::Take { token, lease } => {
                self.claims.remove(&id);
                let granted = !queued && due.is_some_and(|due| due <= now);
                if granted {
                    self.claims.insert(id, (token, later(now, lease)));
                }
                granted
            }
        };
        Receipt { claimed, queued, promoted, position: self.last_position }
    }

    fn leave(&mut self, name: &str, seq: u64, position: u64, now: Timestamp) -> Option<OrderId> {
        let lane = self.lanes.get_mut(name)?;
        lane.members.remove(&position);
        if lane.active != seq {
            return None;
        }
        let Some(next) = lane.members.values().next().copied() else {
            self.lanes.remove(name);
            return None;
        };
        lane.active = next;
        let (id, due) = self.rows.get(&next).map(|row| (row.order.id(), row.order.head.due_at(true)))?;
        self.set_due(next, due);
        due.filter(|due| *due <= now).map(|_| id)
    }

    fn stored(&self, seq: u64, row: &Row) -> Stored {
        let claim = self.claims.get(&row.order.id()).copied();
        Stored { order: row.order.clone(), claim, place: self.place(seq, row) }
    }
}

fn later(now: Timestamp, span: Duration) -> Timestamp {
    SignedDuration::try_from(span).ok().and_then(|span| now.checked_add(span).ok()).unwrap_or(Timestamp::MAX)
}

/// The results that stand: of each step the latest, unless it was taken back since.
fn results(attempts: &[Attempt]) -> Vec<(Arc<str>, Json)> {
    let mut results: Vec<(Arc<str>, Json)> = Vec::new();
    for attempt in attempts.iter().filter(|attempt| attempt.outcome == Outcome::Done) {
        if attempt.undo || attempt.result.is_some() {
            results.retain(|(step, _)| *step != attempt.step);
        }
        if let (false, Some(result)) = (attempt.undo, &attempt.result) {
            results.push((attempt.step.clone(), result.clone()));
        }
    }
    results
}

#[async_trait]
impl Store for MemoryStore {
    fn commit(&self, commits: Vec<Commit>) -> Vec<Ticket> {
        let mut state = self.state.lock();
        let now = state.now(&self.clock);
        let mut tickets = Vec::with_capacity(commits.len());
        for commit in commits {
            let (sender, ticket) = Ticket::new();
            tickets.push(ticket);
            let answer = if state.faults.busy > 0 {
                state.faults.busy -= 1;
                Err(CommitError::Busy { after: Duration::from_millis(10) })
            } else if state.faults.fail > 0 {
                state.faults.fail -= 1;
                Err(StoreError::failed("commit", std::io::Error::other("failed on purpose")).into())
            } else if state.faults.stalling {
                state.stalled.push_back((commit, sender));
                continue;
            } else if state.faults.lose > 0 {
                state.faults.lose -= 1;
                let answer = state.commit(commit, now);
                answer.and(Err(CommitError::Unknown))
            } else {
                state.commit(commit, now)
            };
            // Nobody waits any more if this fails.
            let _ = sender.send(answer);
        }
        self.position.send_replace(state.last_position);
        tickets
    }

    async fn claim(&self, max: usize, lease: Duration) -> Result<Claims, StoreError> {
        let mut state = self.state.lock();
        let now = state.now(&self.clock);
        let mut claims = Claims::default();
        let mut next: Option<Timestamp> = None;
        let entries: Vec<(Timestamp, u64)> = state.due.iter().copied().collect();
        for (due, seq) in entries {
            let Some(row) = state.rows.get(&seq) else { continue };
            let id = row.order.id();
            let free_at = state.claims.get(&id).map_or(due, |(_, until)| (*until).max(due));
            if free_at > now || claims.claims.len() >= max {
                next = Some(next.map_or(free_at, |next| next.min(free_at)));
                continue;
            }
            let work = row.order.head.work.as_ref();
            let token = Token {
                order: id,
                visit: work.map_or(0, |work| work.visit),
                attempt: work.map_or(0, |work| work.attempt),
                secret: Uuid::new_v4(),
            };
            let lease_until = later(now, lease);
            claims.claims.push(Claim { order: row.order.clone(), token, lease_until });
            state.claims.insert(id, (token, lease_until));
        }
        claims.next_due_at = next;
        Ok(claims)
    }

    async fn renew(&self, token: &Token, lease: Duration) -> Result<Timestamp, CommitError> {
        let mut state = self.state.lock();
        let until = later(state.now(&self.clock), lease);
        match state.claims.get_mut(&token.order) {
            Some(held) if held.0 == *token => {
                held.1 = until;
                Ok(until)
            }
            _ => Err(CommitError::TokenStale),
        }
    }

    async fn release(&self, tokens: &[Token]) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        for token in tokens {
            if state.claims.get(&token.order).is_some_and(|held| held.0 == *token) {
                state.claims.remove(&token.order);
            }
        }
        Ok(())
    }

    async fn order(&self, id: OrderId) -> Result<Option<Stored>, StoreError> {
        let state = self.state.lock();
        let seq = state.ids.get(&id).copied();
        Ok(seq.and_then(|seq| state.rows.get(&seq).map(|row| state.stored(seq, row))))
    }

    async fn key(&self, scope: &str, key: &str) -> Result<Option<(OrderId, [u8; 32])>, StoreError> {
        let mut state = self.state.lock();
        let now = state.now(&self.clock);
        let row = state.keys.get(&(scope.to_owned(), key.to_owned()));
        let row = row.filter(|row| row.expires_at.is_none_or(|expires_at| expires_at > now));
        Ok(row.and_then(|key| state.rows.get(&key.seq).map(|row| (row.order.id(), key.fingerprint))))
    }

    async fn history(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Event>, StoreError> {
        let state = self.state.lock();
        let events = state.row(id).map(|row| row.events.as_slice()).unwrap_or_default();
        Ok(events.iter().filter(|event| event.number > after).take(max).cloned().collect())
    }

    async fn attempts(&self, id: OrderId, after: u64, max: usize) -> Result<Vec<Attempt>, StoreError> {
        let state = self.state.lock();
        let attempts = state.row(id).map(|row| row.attempts.as_slice()).unwrap_or_default();
        Ok(attempts.iter().filter(|attempt| attempt.number > after).take(max).cloned().collect())
    }

    async fn put_type(&self, source: &TypeSource) -> Result<(), StoreError> {
        self.state.lock().types.entry(source.hash).or_insert_with(|| source.clone());
        Ok(())
    }

    async fn type_source(&self, hash: TypeHash) -> Result<Option<TypeSource>, StoreError> {
        Ok(self.state.lock().types.get(&hash).cloned())
    }

    async fn live_types(&self) -> Result<Vec<(TypeHash, u64)>, StoreError> {
        let state = self.state.lock();
        let mut live: BTreeMap<TypeHash, u64> = BTreeMap::new();
        for row in state.rows.values().filter(|row| row.order.head.phase != Phase::Final) {
            *live.entry(row.order.head.type_hash).or_default() += 1;
        }
        Ok(live.into_iter().collect())
    }

    async fn feed(&self, from: FeedStart, max: usize) -> Result<FeedPage, StoreError> {
        let state = self.state.lock();
        let cursor = |position| Cursor { epoch: state.epoch, position };
        let oldest = state.feed.keys().next().map_or(state.last_position, |first| first - 1);
        let after = match from {
            FeedStart::Oldest => oldest,
            FeedStart::Newest => state.last_position,
            FeedStart::After(at) if at.epoch != state.epoch || at.position > state.last_position => {
                return Err(StoreError::CursorReset);
            }
            FeedStart::After(at) if at.position < oldest => return Err(StoreError::CursorReset),
            FeedStart::After(at) => at.position,
        };
        let mut events = Vec::new();
        for (position, (seq, index)) in state.feed.range(after + 1..).take(max) {
            let Some(row) = state.rows.get(seq) else { continue };
            let accepted = &row.order.accepted;
            events.push(FeedEvent {
                order: accepted.id,
                order_type: accepted.order_type.clone(),
                customer: accepted.customer.clone(),
                event: row.events[*index].clone(),
                cursor: cursor(*position),
            });
        }
        let next = events.last().map_or(cursor(after), |event| event.cursor);
        Ok(FeedPage { events, next })
    }

    async fn list(&self, query: &ListQuery) -> Result<OrderPage, StoreError> {
        let state = self.state.lock();
        let before = query.cursor.unwrap_or(u64::MAX);
        let mut page = OrderPage { orders: Vec::new(), next: None };
        for (looked_at, (seq, row)) in state.rows.range(..before).rev().enumerate() {
            if page.orders.len() >= query.limit || looked_at >= ROWS_MAX {
                page.next = Some(seq + 1);
                break;
            }
            if fits(query, &row.order) {
                page.orders.push(state.stored(*seq, row));
            }
        }
        Ok(page)
    }

    async fn causes(&self, max: usize) -> Result<Vec<Cause>, StoreError> {
        let state = self.state.lock();
        let mut causes: BTreeMap<(String, String), (u64, OrderId)> = BTreeMap::new();
        for row in state.rows.values() {
            if let Some(dead) = &row.order.head.dead {
                let name = (dead.cause.clone(), row.order.accepted.order_type.to_string());
                causes.entry(name).or_insert((0, row.order.id())).0 += 1;
            }
        }
        let mut causes: Vec<Cause> = causes
            .into_iter()
            .map(|((cause, order_type), (count, example))| Cause { cause, order_type, count, example: Some(example) })
            .collect();
        causes.sort_by_key(|cause| std::cmp::Reverse(cause.count));
        causes.truncate(max);
        Ok(causes)
    }

    async fn counters(&self) -> Result<Counters, StoreError> {
        let mut state = self.state.lock();
        let now = state.now(&self.clock);
        let mut counts: BTreeMap<(String, String, &'static str), (Phase, u64)> = BTreeMap::new();
        for row in state.rows.values() {
            let head = &row.order.head;
            let name = (row.order.accepted.order_type.to_string(), head.status.to_string(), head.phase.name());
            counts.entry(name).or_insert((head.phase, 0)).1 += 1;
        }
        let counts = counts
            .into_iter()
            .map(|((order_type, status, _), (phase, count))| StatusCount { order_type, status, phase, count })
            .collect();
        let oldest_due_at = state.due.first().map(|(due, _)| *due).filter(|due| *due <= now);
        Ok(Counters { as_of: Some(now), counts, oldest_due_at })
    }

    async fn retain(&self, before: Timestamp, max: usize) -> Result<usize, StoreError> {
        let mut state = self.state.lock();
        let now = state.now(&self.clock);
        let old = |row: &Row| row.order.head.phase == Phase::Final && row.order.head.updated_at < before;
        let gone: Vec<u64> = state.rows.iter().filter(|(_, row)| old(row)).map(|(seq, _)| *seq).take(max).collect();
        for seq in &gone {
            if let Some(row) = state.rows.remove(seq) {
                state.ids.remove(&row.order.id());
                state.claims.remove(&row.order.id());
                for key in &row.keys {
                    if state.keys.get(key).is_some_and(|key| key.seq == *seq) {
                        state.keys.remove(key);
                    }
                }
            }
        }
        let kept = gone.iter().copied().collect::<BTreeSet<u64>>();
        state.feed.retain(|_, (seq, _)| !kept.contains(seq));
        state.keys.retain(|_, key| key.expires_at.is_none_or(|expires_at| expires_at > now));
        Ok(gone.len())
    }

    async fn backup(&self, _: &Path, _: &(dyn Fn(u64, u64) + Send + Sync)) -> Result<(), StoreError> {
        Err(StoreError::Unsupported { store: "memory", what: "be backed up" })
    }

    fn position(&self) -> watch::Receiver<u64> {
        self.position.subscribe()
    }

    fn now(&self) -> Timestamp {
        self.state.lock().now(&self.clock)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { name: "memory", durable: false, many_nodes: false, backup: false }
    }

    async fn health(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.state.lock().closed = true;
        Ok(())
    }
}

fn fits(query: &ListQuery, order: &Order) -> bool {
    let accepted = &order.accepted;
    let head = &order.head;
    let is = |wanted: &Option<String>, actual: Option<&str>| wanted.as_deref().is_none_or(|wanted| actual == Some(wanted));
    is(&query.order_type, Some(&accepted.order_type))
        && is(&query.status, Some(&head.status))
        && is(&query.customer, accepted.customer.as_deref())
        && is(&query.group, accepted.group.as_deref())
        && is(&query.cause, head.dead.as_ref().map(|dead| dead.cause.as_str()))
        && query.phase.is_none_or(|phase| phase == head.phase)
        && query.accepted_after.is_none_or(|after| accepted.at >= after)
        && query.accepted_before.is_none_or(|before| accepted.at < before)
}
