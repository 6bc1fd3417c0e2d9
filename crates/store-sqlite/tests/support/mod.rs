//! Orders and commits for the tests of this store: small, and made by hand, so that a test says what it stores.

#![allow(dead_code, reason = "not every test binary uses everything")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use comanda_model::decision::{LaneEntry, LaneMove};
use comanda_model::order::{DeadLetter, Lane, StepAt};
use comanda_model::{
    Acceptance, Attempt, CommitId, Event, EventKind, Head, Json, Order, OrderId, Outcome, Phase, Token, TypeHash, Work,
    WorkKind,
};
use comanda_store::{ClaimMove, Commit, CommitError, Expect, KeyClaim, Receipt, Store, TypeSource};
use comanda_store_sqlite::{Options, Report, SqliteStore, verify};
use jiff::Timestamp;
use uuid::Uuid;

/// The type that the test orders live on.
pub fn type_hash() -> TypeHash {
    TypeHash::of(b"the test type")
}

/// Opens a store with few readers: tests run side by side.
pub fn open(directory: &Path) -> SqliteStore {
    SqliteStore::open(options(directory)).unwrap()
}

pub fn options(directory: &Path) -> Options {
    Options {
        readers: 2,
        cache_kib: 4096,
        ..Options::new(directory)
    }
}

/// Commits one and waits until it is durable.
pub async fn commit(store: &SqliteStore, commit: Commit) -> Result<Receipt, CommitError> {
    store.commit(vec![commit]).remove(0).await
}

/// Checks a store that is closed, and shows what is wrong.
pub fn verified(path: &Path) -> Report {
    verify(path, &|_, _| {}).unwrap()
}

pub fn assert_clean(path: &Path) {
    let report = verified(path);
    assert!(report.is_clean(), "{:#?}", report.faults);
}

fn event(number: u64, at: Timestamp, kind: EventKind, from: Option<&str>, to: Option<&str>) -> Event {
    Event {
        number,
        at,
        kind,
        from: from.map(Into::into),
        to: to.map(Into::into),
        by: "local".into(),
        reason: None,
        changed: Vec::new(),
    }
}

fn step_work(due_at: Timestamp) -> Work {
    Work {
        kind: WorkKind::Step(StepAt {
            index: 0,
            name: "record".into(),
        }),
        visit: 1,
        attempt: 1,
        round_start: 1,
        due_at: Some(due_at),
        last_error: None,
        queue: None,
        uncertain: false,
        began_at: None,
        awaiting: None,
        held_back_since: None,
    }
}

/// A new order whose one step is due at `due_at`. In a lane if it has a group.
pub fn accepted(now: Timestamp, due_at: Timestamp, group: Option<&str>) -> Commit {
    let id = OrderId(Uuid::now_v7());
    let lane = group.map(|group| format!("sale:{group}"));
    let order = Order {
        accepted: Arc::new(Acceptance {
            id,
            order_type: "sale".into(),
            key: Some(id.to_string()),
            customer: Some("customer-1".to_owned()),
            group: group.map(Into::into),
            status: "ACCEPTED".into(),
            at: now,
            traceparent: None,
        }),
        head: Head {
            type_hash: type_hash(),
            status: "ACCEPTED".into(),
            phase: Phase::Active,
            version: 1,
            etag_version: 1,
            commit_id: CommitId(Uuid::new_v4()),
            updated_at: now,
            events: 1,
            attempts: 0,
            visits: 1,
            work: Some(step_work(due_at)),
            status_until: None,
            lane: lane.clone().map(|name| Lane { name, standing: true }),
            done: Vec::new(),
            holds: Vec::new(),
            intent: None,
            after_undo: None,
            dead: None,
            past_callbacks: Vec::new(),
            past_commands: Vec::new(),
            erased_at: None,
        },
        data: Json::from_valid(r#"{"amount":12.50,"currency":"EUR","lines":[{"sku":"A-1","quantity":2}]}"#),
        results: Vec::new(),
    };
    Commit {
        expect: Expect::Absent,
        order: Arc::new(order),
        data_changed: true,
        events: vec![event(1, now, EventKind::Accepted, None, Some("ACCEPTED"))],
        attempts: Vec::new(),
        lane: LaneMove {
            leave: None,
            enter: lane.map(|name| LaneEntry { name, resume: false }),
        },
        enqueue: None,
        keys: Vec::new(),
        ledger: Vec::new(),
        claim: ClaimMove::Keep,
    }
}

/// The same order one commit further, with nothing else changed.
pub fn next(order: &Order, now: Timestamp) -> Commit {
    let mut order = order.clone();
    let expect = Expect::At {
        version: order.head.version,
        token: None,
    };
    order.head.version += 1;
    order.head.commit_id = CommitId(Uuid::new_v4());
    order.head.updated_at = now;
    Commit {
        expect,
        order: Arc::new(order),
        data_changed: false,
        events: Vec::new(),
        attempts: Vec::new(),
        lane: LaneMove::default(),
        enqueue: None,
        keys: Vec::new(),
        ledger: Vec::new(),
        claim: ClaimMove::End,
    }
}

pub fn with_token(mut commit: Commit, token: Token) -> Commit {
    if let Expect::At { version, .. } = commit.expect {
        commit.expect = Expect::At {
            version,
            token: Some(token),
        };
    }
    commit
}

pub fn with_key(mut commit: Commit, scope: &str, key: &str, expires_at: Option<Timestamp>) -> Commit {
    commit.keys.push(KeyClaim {
        scope: scope.into(),
        key: key.into(),
        fingerprint: [7; 32],
        expires_at,
    });
    commit
}

/// The order takes its own next work.
pub fn taking(mut commit: Commit) -> (Commit, Token) {
    let order = commit.order.id();
    let token = Token {
        order,
        visit: 1,
        attempt: 1,
        secret: Uuid::new_v4(),
    };
    commit.claim = ClaimMove::Take {
        token,
        lease: Duration::from_secs(60),
    };
    (commit, token)
}

/// The step's attempt ends so; the step is recorded with a result when it is done.
pub fn attempted(order: &Order, now: Timestamp, outcome: Outcome) -> Commit {
    let mut commit = next(order, now);
    Arc::make_mut(&mut commit.order).head.attempts += 1;
    commit.attempts.push(Attempt {
        number: commit.order.head.attempts,
        visit: 1,
        attempt: 1,
        step: "record".into(),
        undo: false,
        started_at: now,
        ended_at: now,
        outcome,
        reason: (outcome != Outcome::Done).then(|| "the receiver said no".to_owned()),
        result: (outcome == Outcome::Done).then(|| Json::from_valid(r#"{"total":"14.90"}"#)),
    });
    if let Some(work) = &mut Arc::make_mut(&mut commit.order).head.work {
        work.kind = WorkKind::Advance;
    }
    commit
}

/// The order is final.
pub fn finished(order: &Order, now: Timestamp) -> Commit {
    let mut commit = next(order, now);
    let head = &mut Arc::make_mut(&mut commit.order).head;
    let from = head.status.clone();
    head.events += 1;
    commit.events.push(event(
        head.events,
        now,
        EventKind::StatusChanged,
        Some(&from),
        Some("COMPLETED"),
    ));
    head.status = "COMPLETED".into();
    head.phase = Phase::Final;
    head.etag_version = head.version;
    head.work = None;
    head.dead = None;
    leave(&mut commit);
    commit
}

/// The order leaves its lane.
pub fn leave(commit: &mut Commit) {
    if let Some(lane) = &mut Arc::make_mut(&mut commit.order).head.lane
        && lane.standing
    {
        lane.standing = false;
        commit.lane.leave = Some(lane.name.clone());
    }
}

/// The order returns to its old place in its lane.
pub fn resume(commit: &mut Commit) {
    if let Some(lane) = &mut Arc::make_mut(&mut commit.order).head.lane {
        lane.standing = true;
        commit.lane.enter = Some(LaneEntry {
            name: lane.name.clone(),
            resume: true,
        });
    }
}

/// The order is a dead letter.
pub fn died(order: &Order, now: Timestamp, cause: &str) -> Commit {
    let mut commit = attempted(order, now, Outcome::Failed);
    let head = &mut Arc::make_mut(&mut commit.order).head;
    head.events += 1;
    commit
        .events
        .push(event(head.events, now, EventKind::DeadLettered, None, None));
    head.phase = Phase::Dead;
    if let Some(work) = &mut head.work {
        work.due_at = None;
    }
    head.dead = Some(DeadLetter {
        at: now,
        step: "record".into(),
        cause: cause.to_owned(),
        reason: cause.to_owned(),
        edited: false,
        undo_failed: false,
    });
    commit
}

/// The dead letter is put back to work.
pub fn redriven(order: &Order, now: Timestamp) -> Commit {
    let mut commit = next(order, now);
    let head = &mut Arc::make_mut(&mut commit.order).head;
    head.events += 1;
    commit
        .events
        .push(event(head.events, now, EventKind::Redriven, None, None));
    head.phase = Phase::Active;
    head.dead = None;
    head.work = Some(step_work(now));
    commit
}

/// The files of a store as they are on the disk, copied elsewhere: what a killed process would leave.
pub fn copy_as_killed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["comanda.db", "comanda.db-wal"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// Changes a closed store behind its back.
pub fn tamper(directory: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(directory.join("comanda.db")).unwrap();
    connection.execute_batch(sql).unwrap();
}

/// A closed store with one order of each kind. Answers their numbers' ids in order: alone, in a lane at its head,
/// behind it, dead, final with a result.
pub async fn sample(directory: &Path) -> Vec<OrderId> {
    let store = open(directory);
    let now = store.now();
    let source = TypeSource {
        hash: type_hash(),
        name: "sale".into(),
        source: "the test type".into(),
    };
    store.put_type(&source).await.unwrap();
    let key = |one, key: &str| with_key(one, "type:sale", key, Some(now + jiff::SignedDuration::from_hours(1)));
    let orders = [
        key(accepted(now, now, None), "a"),
        accepted(now, now, Some("g")),
        accepted(now, now, Some("g")),
        accepted(now, now, None),
        accepted(now, now, None),
    ];
    for one in &orders {
        commit(&store, one.clone()).await.unwrap();
    }
    commit(&store, died(&orders[3].order, now, "record: no")).await.unwrap();
    let done = attempted(&orders[4].order, now, Outcome::Done);
    commit(&store, done.clone()).await.unwrap();
    commit(&store, finished(&done.order, now)).await.unwrap();
    store.close().await.unwrap();
    orders.iter().map(|one| one.order.id()).collect()
}
