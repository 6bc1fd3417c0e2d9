//! A batch of commits as the columns that the function `comanda.commit` takes, and its answers as receipts.

use comanda_model::bounds::{DATA_BYTES_MAX, EVENTS_PER_COMMIT_MAX, RESULT_BYTES_MAX};
use comanda_model::{Json, OrderId, Phase};
use comanda_store::{ClaimMove, Commit, CommitError, Expect, Receipt, StoreError};
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use crate::column::{due_time, kind_number, micros, outcome_number, phase_number};
use crate::server::Parameter;
use crate::text::to_column;

/// Declares the columns once: their names, what is in them, and PostgreSQL's type.
macro_rules! columns {
    ($($name:ident: $element:ty = $kind:ident,)*) => {
        /// The parameters of `comanda.commit`, in its order.
        #[derive(Debug, Default)]
        pub(crate) struct Batch {
            $($name: Vec<$element>,)*
        }

        impl Batch {
            /// The parameters, each with its type.
            pub(crate) fn parameters(&self) -> Vec<Parameter<'_>> {
                vec![$((&self.$name, Type::$kind),)*]
            }
        }
    };
}

columns! {
    id: Uuid = UUID_ARRAY,
    commit_id: Uuid = UUID_ARRAY,
    expected: i64 = INT8_ARRAY,
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
    lanes: String = TEXT_ARRAY,
    key_commit: i32 = INT4_ARRAY,
    key_scope: String = TEXT_ARRAY,
    key_name: String = TEXT_ARRAY,
    key_fingerprint: Vec<u8> = BYTEA_ARRAY,
    key_expires_at: Option<Timestamp> = TIMESTAMPTZ_ARRAY,
    attempt_commit: i32 = INT4_ARRAY,
    attempt_number: i64 = INT8_ARRAY,
    attempt_visit: i32 = INT4_ARRAY,
    attempt_attempt: i32 = INT4_ARRAY,
    attempt_step: String = TEXT_ARRAY,
    attempt_undo: bool = BOOL_ARRAY,
    attempt_started_at: Timestamp = TIMESTAMPTZ_ARRAY,
    attempt_ended_at: Timestamp = TIMESTAMPTZ_ARRAY,
    attempt_outcome: i16 = INT2_ARRAY,
    attempt_reason: Option<String> = TEXT_ARRAY,
    attempt_result: Option<String> = TEXT_ARRAY,
    event_commit: i32 = INT4_ARRAY,
    event_number: i64 = INT8_ARRAY,
    event_at: Timestamp = TIMESTAMPTZ_ARRAY,
    event_kind: i16 = INT2_ARRAY,
    event_from: Option<String> = TEXT_ARRAY,
    event_to: Option<String> = TEXT_ARRAY,
    event_by: String = TEXT_ARRAY,
    event_reason: Option<String> = TEXT_ARRAY,
    event_changed: Option<String> = TEXT_ARRAY,
}

fn text(text: &str) -> String {
    to_column(text).into_owned()
}

fn maybe(option: Option<&str>) -> Option<String> {
    option.map(text)
}

fn signed(number: u64) -> i64 {
    // Counters of one order; they cannot pass 2^63.
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn small(number: u32) -> i32 {
    // Visits and attempts of one order; the engine's bounds are far below.
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A bound that a commit exceeds, or 4 if its own numbers do not go on without a gap; 0 if all is well. The store tells
/// of it only after it has checked what the commit expects.
fn refusal(commit: &Commit) -> i16 {
    let head = &commit.order.head;
    let results = commit.attempts.iter().filter_map(|attempt| attempt.result.as_ref());
    let results_fit = results.map(Json::as_str).all(|result| result.len() <= RESULT_BYTES_MAX);
    let follow = |after: u64, numbers: &mut dyn Iterator<Item = u64>, count: usize| {
        let before = after.checked_sub(count as u64);
        before.is_some_and(|before| numbers.zip(before + 1..).all(|(number, expected)| number == expected))
    };
    if commit.order.data.as_str().len() > DATA_BYTES_MAX {
        1
    } else if commit.events.len() > EVENTS_PER_COMMIT_MAX {
        2
    } else if !results_fit {
        3
    } else if !follow(
        head.events,
        &mut commit.events.iter().map(|event| event.number),
        commit.events.len(),
    ) || !follow(
        head.attempts,
        &mut commit.attempts.iter().map(|attempt| attempt.number),
        commit.attempts.len(),
    ) {
        4
    } else {
        0
    }
}

impl Batch {
    /// The columns of some commits.
    pub(crate) fn of<'a>(commits: impl Iterator<Item = &'a Commit>) -> Result<Self, StoreError> {
        let mut batch = Self::default();
        for commit in commits {
            batch.add(commit)?;
        }
        Ok(batch)
    }

    /// The statement that takes the parameters, and after them the node's id.
    pub(crate) fn statement() -> String {
        let count = Self::default().parameters().len() + 1;
        let places: Vec<String> = (1..=count).map(|place| format!("${place}")).collect();
        format!("SELECT * FROM comanda.commit({})", places.join(", "))
    }

    fn add(&mut self, commit: &Commit) -> Result<(), StoreError> {
        let (order, head) = (&commit.order, &commit.order.head);
        let number = i32::try_from(self.id.len() + 1).unwrap_or(i32::MAX);
        let refuse = refusal(commit);
        let fits = refuse == 0;
        self.id.push(order.id().0);
        self.commit_id.push(head.commit_id.0);
        let (expected, token, is_new) = match commit.expect {
            Expect::Absent => (0, None, true),
            // Version 0 is that of no order; nothing is ever at it.
            Expect::At { version, token } => (if version == 0 { -1 } else { signed(version) }, token, false),
        };
        self.expected.push(expected);
        self.token_visit.push(token.map(|token| small(token.visit)));
        self.token_attempt.push(token.map(|token| small(token.attempt)));
        self.token_secret.push(token.map(|token| token.secret));
        self.refuse.push(refuse);
        self.status.push(text(&head.status));
        self.phase.push(phase_number(head.phase));
        self.type_hash.push(head.type_hash.0.to_vec());
        self.version.push(signed(head.version));
        self.events_before
            .push(signed(head.events) - signed(commit.events.len() as u64));
        self.attempts_before
            .push(signed(head.attempts) - signed(commit.attempts.len() as u64));
        self.events.push(signed(head.events));
        self.attempts.push(signed(head.attempts));
        self.updated_at.push(head.updated_at);
        self.due_at.push(head.due_at(true).map(due_time));
        self.due_queued_at.push(head.due_at(false).map(due_time));
        let queued = head.queued_at(true);
        self.queue.push(queued.map(|(queue, _)| text(queue)));
        self.queued_at.push(queued.map(|(_, at)| due_time(at)));
        let work = head.work.as_ref();
        self.visit.push(work.map_or(0, |work| small(work.visit)));
        self.attempt.push(work.map_or(0, |work| small(work.attempt)));
        let dead = head.dead.as_ref().filter(|_| head.phase == Phase::Dead);
        self.cause.push(dead.map(|dead| text(&dead.cause)));
        self.head.push(
            serde_json::to_string(head).map_err(|error| StoreError::failed("write the order's head as JSON", error))?,
        );
        let data = (fits && (is_new || commit.data_changed)).then(|| order.data.as_str().to_owned());
        self.data.push(data);
        let accepted = &order.accepted;
        self.order_type.push(text(&accepted.order_type));
        let new = is_new.then_some(accepted);
        self.key.push(new.and_then(|new| maybe(new.key.as_deref())));
        self.customer.push(new.and_then(|new| maybe(new.customer.as_deref())));
        self.group.push(new.and_then(|new| maybe(new.group.as_deref())));
        self.accepted_status.push(new.map(|new| text(&new.status)));
        self.at.push(new.map(|new| new.at));
        self.traceparent
            .push(new.and_then(|new| maybe(new.traceparent.as_deref())));
        let (leave, enter) = (commit.lane.leave.as_deref(), commit.lane.enter.as_ref());
        self.leave.push(maybe(leave));
        self.enter.push(enter.map(|entry| text(&entry.name)));
        self.resume.push(enter.is_some_and(|entry| entry.resume));
        // Every lane that the order stands in or moves to is locked, in which the head decides whose turn it is.
        let standing = head.lane.as_ref().map(|lane| lane.name.as_str());
        let lanes = [leave, enter.map(|entry| entry.name.as_str()), standing];
        self.lanes.extend(lanes.into_iter().flatten().map(text));
        let (claim, take) = match commit.claim {
            ClaimMove::Keep => (0, None),
            ClaimMove::End => (1, None),
            ClaimMove::Take { token, lease } => (2, Some((token, micros(lease)))),
        };
        self.claim.push(claim);
        self.take_visit.push(take.map(|(token, _)| small(token.visit)));
        self.take_attempt.push(take.map(|(token, _)| small(token.attempt)));
        self.take_secret.push(take.map(|(token, _)| token.secret));
        self.lease.push(take.map(|(_, lease)| lease));
        self.keys_from
            .push(i32::try_from(self.key_name.len() + 1).unwrap_or(i32::MAX));
        for key in &commit.keys {
            self.key_commit.push(number);
            self.key_scope.push(text(&key.scope));
            self.key_name.push(text(&key.key));
            self.key_fingerprint.push(key.fingerprint.to_vec());
            self.key_expires_at.push(key.expires_at.map(due_time));
        }
        self.keys_to
            .push(i32::try_from(self.key_name.len()).unwrap_or(i32::MAX));
        if fits {
            self.add_records(commit, number)?;
        }
        Ok(())
    }

    fn add_records(&mut self, commit: &Commit, number: i32) -> Result<(), StoreError> {
        for attempt in &commit.attempts {
            self.attempt_commit.push(number);
            self.attempt_number.push(signed(attempt.number));
            self.attempt_visit.push(small(attempt.visit));
            self.attempt_attempt.push(small(attempt.attempt));
            self.attempt_step.push(text(&attempt.step));
            self.attempt_undo.push(attempt.undo);
            self.attempt_started_at.push(attempt.started_at);
            self.attempt_ended_at.push(attempt.ended_at);
            self.attempt_outcome.push(outcome_number(attempt.outcome));
            self.attempt_reason.push(maybe(attempt.reason.as_deref()));
            self.attempt_result
                .push(attempt.result.as_ref().map(|result| result.as_str().to_owned()));
        }
        for event in &commit.events {
            self.event_commit.push(number);
            self.event_number.push(signed(event.number));
            self.event_at.push(event.at);
            self.event_kind.push(kind_number(event.kind));
            self.event_from.push(maybe(event.from.as_deref()));
            self.event_to.push(maybe(event.to.as_deref()));
            self.event_by.push(text(&event.by));
            self.event_reason.push(maybe(event.reason.as_deref()));
            let changed = (!event.changed.is_empty()).then(|| serde_json::to_string(&event.changed));
            self.event_changed.push(
                changed
                    .transpose()
                    .map_err(|error| StoreError::failed("write an event as JSON", error))?,
            );
        }
        Ok(())
    }
}

/// What one row of the answer says of its commit.
pub(crate) fn answer(row: &Row, commit: &Commit) -> Result<Receipt, CommitError> {
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
        4 => Err(match refusal(commit) {
            1 => CommitError::TooLarge {
                what: "the data",
                bytes_max: DATA_BYTES_MAX,
            },
            2 => CommitError::TooLarge {
                what: "the commit's list of events",
                bytes_max: EVENTS_PER_COMMIT_MAX,
            },
            3 => CommitError::TooLarge {
                what: "a step's result",
                bytes_max: RESULT_BYTES_MAX,
            },
            _ => misnumbered(),
        }),
        _ => Err(misnumbered()),
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
