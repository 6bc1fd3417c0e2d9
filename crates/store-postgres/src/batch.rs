//! A batch of commits as the columns that the function `comanda.commit` takes, and its answers as receipts.

use comanda_model::bounds::{DATA_BYTES_MAX, EVENTS_PER_COMMIT_MAX, RESULT_BYTES_MAX};
use comanda_model::{Json, OrderId};
use comanda_store::ledger::check_lines;
use comanda_store::{ClaimMove, Commit, CommitError, Expect, Receipt, StoreError};
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::column::{due_time, micros, place, signed, small};
use crate::columns::columns;
use crate::ledger::Lines;
use crate::record::{AttemptColumns, EventColumns, HeadColumns, maybe, text};
use crate::server::Parameter;

columns! { Heads of HeadRow:
    id: Uuid = UUID_ARRAY,
    commit_id: Uuid = UUID_ARRAY,
    expected: i64 = INT8_ARRAY,
    expect_queued: bool = BOOL_ARRAY,
    token_visit: Option<i32> = INT4_ARRAY,
    token_attempt: Option<i32> = INT4_ARRAY,
    token_secret: Option<Uuid> = UUID_ARRAY,
    refuse: i16 = INT2_ARRAY,
    status: String = TEXT_ARRAY,
    phase: i16 = INT2_ARRAY,
    type_hash: Vec<u8> = BYTEA_ARRAY,
    version: i64 = INT8_ARRAY,
    events_before: i64 = INT8_ARRAY,
    attempts_before: i64 = INT8_ARRAY,
    events: i64 = INT8_ARRAY,
    attempts: i64 = INT8_ARRAY,
    updated_at: Timestamp = TIMESTAMPTZ_ARRAY,
    due_at: Option<Timestamp> = TIMESTAMPTZ_ARRAY,
    due_queued_at: Option<Timestamp> = TIMESTAMPTZ_ARRAY,
    queue: Option<String> = TEXT_ARRAY,
    queued_at: Option<Timestamp> = TIMESTAMPTZ_ARRAY,
    visit: i32 = INT4_ARRAY,
    attempt: i32 = INT4_ARRAY,
    cause: Option<String> = TEXT_ARRAY,
    head: String = TEXT_ARRAY,
    data: Option<String> = TEXT_ARRAY,
    order_type: String = TEXT_ARRAY,
    key: Option<String> = TEXT_ARRAY,
    customer: Option<String> = TEXT_ARRAY,
    group: Option<String> = TEXT_ARRAY,
    accepted_status: Option<String> = TEXT_ARRAY,
    at: Option<Timestamp> = TIMESTAMPTZ_ARRAY,
    traceparent: Option<String> = TEXT_ARRAY,
    leave: Option<String> = TEXT_ARRAY,
    enter: Option<String> = TEXT_ARRAY,
    resume: bool = BOOL_ARRAY,
    claim: i16 = INT2_ARRAY,
    take_visit: Option<i32> = INT4_ARRAY,
    take_attempt: Option<i32> = INT4_ARRAY,
    take_secret: Option<Uuid> = UUID_ARRAY,
    lease: Option<i64> = INT8_ARRAY,
    keys_from: i32 = INT4_ARRAY,
    keys_to: i32 = INT4_ARRAY,
    lines_from: i32 = INT4_ARRAY,
    lines_to: i32 = INT4_ARRAY,
    item_queue: Option<String> = TEXT_ARRAY,
    item_lane: Option<String> = TEXT_ARRAY,
    item_parks: Option<bool> = BOOL_ARRAY,
    item_attempts: Option<i32> = INT4_ARRAY,
}

columns! { Lanes of LaneRow:
    name: String = TEXT_ARRAY,
}

columns! { Keys of KeyRow:
    commit: i32 = INT4_ARRAY,
    scope: String = TEXT_ARRAY,
    name: String = TEXT_ARRAY,
    fingerprint: Vec<u8> = BYTEA_ARRAY,
    expires_at: Option<Timestamp> = TIMESTAMPTZ_ARRAY,
}

columns! { Attempts of AttemptRow:
    commit: i32 = INT4_ARRAY,
    number: i64 = INT8_ARRAY,
    visit: i32 = INT4_ARRAY,
    attempt: i32 = INT4_ARRAY,
    step: String = TEXT_ARRAY,
    undo: bool = BOOL_ARRAY,
    started_at: Timestamp = TIMESTAMPTZ_ARRAY,
    ended_at: Timestamp = TIMESTAMPTZ_ARRAY,
    outcome: i16 = INT2_ARRAY,
    reason: Option<String> = TEXT_ARRAY,
    result: Option<String> = TEXT_ARRAY,
}

columns! { Events of EventRow:
    commit: i32 = INT4_ARRAY,
    number: i64 = INT8_ARRAY,
    at: Timestamp = TIMESTAMPTZ_ARRAY,
    kind: i16 = INT2_ARRAY,
    from_status: Option<String> = TEXT_ARRAY,
    to_status: Option<String> = TEXT_ARRAY,
    by: String = TEXT_ARRAY,
    reason: Option<String> = TEXT_ARRAY,
    changed: Option<String> = TEXT_ARRAY,
}

/// Some commits as columns, each group in the order in which `comanda.commit` takes them.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    heads: Heads,
    lanes: Lanes,
    keys: Keys,
    attempts: Attempts,
    events: Events,
    ledger: Lines,
}

/// Why a commit cannot be applied whatever stands in the store. It is told only after the database has checked what the
/// commit expects.
fn refusal(commit: &Commit) -> Option<CommitError> {
    let head = &commit.order.head;
    let results = commit.attempts.iter().filter_map(|attempt| attempt.result.as_ref());
    let results_fit = results.map(Json::as_str).all(|result| result.len() <= RESULT_BYTES_MAX);
    let too_large = |what, bytes_max| Some(CommitError::TooLarge { what, bytes_max });
    let follow = |after: u64, numbers: &mut dyn Iterator<Item = u64>, count: usize| {
        let before = after.checked_sub(count as u64);
        before.is_some_and(|before| numbers.zip(before + 1..).all(|(number, expected)| number == expected))
    };
    let (events, attempts) = (&commit.events, &commit.attempts);
    if commit.order.data.as_str().len() > DATA_BYTES_MAX {
        too_large("the data", DATA_BYTES_MAX)
    } else if events.len() > EVENTS_PER_COMMIT_MAX {
        too_large("the commit's list of events", EVENTS_PER_COMMIT_MAX)
    } else if !results_fit {
        too_large("a step's result", RESULT_BYTES_MAX)
    } else if let Err(error) = check_lines(&commit.ledger) {
        Some(error)
    } else if !follow(head.events, &mut events.iter().map(|event| event.number), events.len())
        || !follow(
            head.attempts,
            &mut attempts.iter().map(|attempt| attempt.number),
            attempts.len(),
        )
    {
        Some(misnumbered())
    } else {
        None
    }
}

impl Batch {
    /// The columns of some commits.
    pub(crate) fn of<'a>(commits: impl Iterator<Item = &'a Commit>) -> Result<Self, StoreError> {
        let commits: Vec<&Commit> = commits.collect();
        let mut batch = Self {
            ledger: Lines::over(commits.iter().flat_map(|commit| &commit.ledger)),
            ..Self::default()
        };
        for commit in commits {
            batch.add(commit)?;
        }
        Ok(batch)
    }

    /// The parameters, each with its type.
    pub(crate) fn parameters(&self) -> Vec<Parameter<'_>> {
        let parameters = self.heads.parameters().chain(self.lanes.parameters());
        let parameters = parameters.chain(self.keys.parameters());
        let parameters = parameters.chain(self.attempts.parameters());
        let parameters = parameters.chain(self.events.parameters());
        parameters.chain(self.ledger.parameters()).collect()
    }

    /// The statement that takes the parameters, and after them the node's id.
    pub(crate) fn statement() -> String {
        let count = Self::default().parameters().len() + 1;
        let places: Vec<String> = (1..=count).map(|place| format!("${place}")).collect();
        format!("SELECT * FROM comanda.commit({})", places.join(", "))
    }

    fn add(&mut self, commit: &Commit) -> Result<(), StoreError> {
        let (order, head, accepted) = (&commit.order, &commit.order.head, &commit.order.accepted);
        let number = place(self.heads.id.len() + 1);
        let fits = refusal(commit).is_none();
        let (expected, token, is_new) = match commit.expect {
            Expect::Absent => (0, None, true),
            // Version 0 is that of no order; nothing is ever at it.
            Expect::At { version, token } => (if version == 0 { -1 } else { signed(version) }, token, false),
            Expect::Queued { version } => (if version == 0 { -1 } else { signed(version) }, None, false),
        };
        // Of one that is erased, what is left of the acceptance is written again.
        let new = (is_new || commit.erases()).then_some(accepted);
        let (leave, enter) = (commit.lane.leave.as_deref(), commit.lane.enter.as_ref());
        // Every lane that the order stands in or moves to is locked, in which the head decides whose turn it is. Each is named
        // once, so that the function sees which lanes several commits move in.
        let standing = head.lane.as_ref().map(|lane| lane.name.as_str());
        let entered = enter
            .map(|entry| entry.name.as_str())
            .filter(|name| leave != Some(name));
        let standing = standing.filter(|name| leave != Some(name) && entered != Some(name));
        let lanes = [leave, entered, standing];
        for name in lanes.into_iter().flatten().map(text) {
            self.lanes.push(LaneRow { name });
        }
        let (claim, take) = match commit.claim {
            ClaimMove::Keep => (0, None),
            ClaimMove::End => (1, None),
            ClaimMove::Take { token, lease } => (2, Some((token, micros(lease)))),
        };
        let keys_from = place(self.keys.name.len() + 1);
        for key in &commit.keys {
            self.keys.push(KeyRow {
                commit: number,
                scope: text(&key.scope),
                name: text(&key.key),
                fingerprint: key.fingerprint.to_vec(),
                expires_at: key.expires_at.map(due_time),
            });
        }
        let lines_from = place(self.ledger.len() + 1);
        if fits {
            for line in &commit.ledger {
                self.ledger.push(line);
            }
        }
        let item = commit.enqueue.as_ref();
        let HeadColumns {
            status,
            phase,
            type_hash,
            version,
            events,
            attempts,
            updated_at,
            due_at,
            due_queued_at,
            queue,
            queued_at,
            visit,
            attempt,
            cause,
            head: head_json,
            commit_id,
        } = HeadColumns::of(head)?;
        self.heads.push(HeadRow {
            id: order.id().0,
            commit_id,
            expected,
            expect_queued: matches!(commit.expect, Expect::Queued { .. }),
            token_visit: token.map(|token| small(token.visit)),
            token_attempt: token.map(|token| small(token.attempt)),
            token_secret: token.map(|token| token.secret),
            refuse: i16::from(!fits),
            status,
            phase,
            type_hash,
            version,
            events_before: events - signed(commit.events.len() as u64),
            attempts_before: attempts - signed(commit.attempts.len() as u64),
            events,
            attempts,
            updated_at,
            due_at,
            due_queued_at,
            queue,
            queued_at,
            visit,
            attempt,
            cause,
            head: head_json,
            data: (fits && (is_new || commit.data_changed)).then(|| order.data.as_str().to_owned()),
            order_type: text(&accepted.order_type),
            key: new.and_then(|new| maybe(new.key.as_deref())),
            customer: new.and_then(|new| maybe(new.customer.as_deref())),
            group: new.and_then(|new| maybe(new.group.as_deref())),
            accepted_status: new.map(|new| text(&new.status)),
            at: new.map(|new| new.at),
            traceparent: new.and_then(|new| maybe(new.traceparent.as_deref())),
            leave: maybe(leave),
            enter: enter.map(|entry| text(&entry.name)),
            resume: enter.is_some_and(|entry| entry.resume),
            claim,
            take_visit: take.map(|(token, _)| small(token.visit)),
            take_attempt: take.map(|(token, _)| small(token.attempt)),
            take_secret: take.map(|(token, _)| token.secret),
            lease: take.map(|(_, lease)| lease),
            keys_from,
            keys_to: place(self.keys.name.len()),
            lines_from,
            lines_to: place(self.ledger.len()),
            item_queue: item.map(|item| text(&item.queue)),
            item_lane: item.map(|item| text(&item.lane)),
            item_parks: item.map(|item| item.parks),
            item_attempts: item.map(|item| small(item.attempts_max)),
        });
        if fits { self.add_records(commit, number) } else { Ok(()) }
    }

    fn add_records(&mut self, commit: &Commit, number_of_commit: i32) -> Result<(), StoreError> {
        for attempt in &commit.attempts {
            let AttemptColumns {
                number,
                visit,
                attempt,
                step,
                undo,
                started_at,
                ended_at,
                outcome,
                reason,
                result,
            } = AttemptColumns::of(attempt);
            self.attempts.push(AttemptRow {
                commit: number_of_commit,
                number,
                visit,
                attempt,
                step,
                undo,
                started_at,
                ended_at,
                outcome,
                reason,
                result,
            });
        }
        for event in &commit.events {
            let EventColumns {
                number,
                at,
                kind,
                from_status,
                to_status,
                by,
                reason,
                changed,
            } = EventColumns::of(event)?;
            self.events.push(EventRow {
                commit: number_of_commit,
                number,
                at,
                kind,
                from_status,
                to_status,
                by,
                reason,
                changed,
            });
        }
        Ok(())
    }
}

impl Batch {
    /// What one row of the answer says of its commit.
    pub(crate) fn answer(&self, row: &Row, commit: &Commit) -> Result<Receipt, CommitError> {
        let actual = u64::try_from(row.get::<_, i64>("actual")).unwrap_or(0);
        match row.get::<_, i16>("outcome") {
            0 => Ok(Receipt {
                claimed: row.get("claimed"),
                queued: row.get("queued"),
                promoted: row.get::<_, Option<Uuid>>("promoted").map(OrderId),
                position: u64::try_from(row.get::<_, i64>("position")).unwrap_or(0),
            }),
            1 => Err(CommitError::VersionMoved { actual }),
            2 => Err(CommitError::TokenStale),
            3 => Err(key_taken(row)),
            4 => Err(refusal(commit).unwrap_or_else(misnumbered)),
            6 => Err(CommitError::Short(self.ledger.shortages(row.get("short"))?)),
            _ => Err(misnumbered()),
        }
    }
}

fn misnumbered() -> CommitError {
    let cause = std::io::Error::other("its events or attempts are not numbered on from the order's last");
    StoreError::failed("take a commit", cause).into()
}

fn key_taken(row: &Row) -> CommitError {
    let fingerprint: Option<Vec<u8>> = row.get("key_fingerprint");
    let text = |name: &str| crate::text::from_column(row.get::<_, Option<String>>(name).unwrap_or_default());
    CommitError::KeyTaken {
        scope: text("key_scope"),
        key: text("key_name"),
        order: OrderId(row.get::<_, Option<Uuid>>("key_order").unwrap_or_default()),
        fingerprint: fingerprint.and_then(|bytes| bytes.try_into().ok()).unwrap_or_default(),
    }
}
