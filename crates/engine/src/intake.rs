//! Intake: a submission is validated, decided, and committed; only then is it acknowledged.

use std::sync::Arc;
use std::time::Duration;

use comanda_model::bounds::{DATA_BYTES_MAX, KEY_BYTES_MAX};
use comanda_model::decision::{self, Input, Rejection};
use comanda_model::order::Phase;
use comanda_model::{Json, Order, OrderId};
use comanda_order_type::{Definition, Fault};
use comanda_store::{CommitError, Expect, KeyClaim, Place, Receipt, Stored, Ticket};
use jiff::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::commit::{Committing, Kept, Prepared, Taking};
use crate::error::SubmitError;
use crate::service::{Core, Service, key_scope};
use crate::view::Found;
use crate::worker::Ready;

/// An order that someone submits.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The type's name.
    pub order_type: String,
    /// The client's own id, if it stands beside the data.
    pub key: Option<String>,
    /// The data, as sent.
    pub data: Json,
    /// The same, parsed, if the caller has it at hand.
    pub value: Option<Value>,
    /// The status to begin in, where the type leaves that to the submission.
    pub status: Option<String>,
    /// When to begin.
    pub due_at: Option<Timestamp>,
    /// The key under which a repetition is recognised.
    pub idempotency: Option<Idempotency>,
    /// Who submits.
    pub by: Arc<str>,
    /// The W3C trace context of the request.
    pub traceparent: Option<String>,
}

impl Submission {
    /// An order of a type, with nothing else said: submitted by `local`, begun at once.
    pub fn new(order_type: impl Into<String>, data: Json) -> Self {
        Self {
            order_type: order_type.into(),
            key: None,
            data,
            value: None,
            status: None,
            due_at: None,
            idempotency: None,
            by: "local".into(),
            traceparent: None,
        }
    }
}

/// An idempotency key. It is unique within its scope, so that callers cannot see each other's orders.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The caller.
    pub scope: String,
    /// The key.
    pub key: String,
    /// How long it answers with the first order, where that is not as long as [`Options`](crate::Options) say.
    pub kept: Option<Duration>,
}

/// An order that is durable.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The order as it was when it was accepted.
    pub found: Found,
    /// Whether it had been accepted before, under the same key.
    pub repeated: bool,
}

impl Accepted {
    fn first(order: Arc<Order>, definition: Arc<Definition>) -> Self {
        // Who is behind how many is not part of an acceptance: a repetition must answer the same.
        let stored = Stored {
            order,
            claim: None,
            worker: None,
            place: Place::Alone,
        };
        Self {
            found: Found { stored, definition },
            repeated: false,
        }
    }

    /// The order's id.
    pub fn id(&self) -> OrderId {
        self.found.stored.order.id()
    }
}

/// A submission that has been decided and waits for its commit.
struct Pending {
    prepared: Prepared,
    definition: Arc<Definition>,
}

/// A submission whose commit is staged.
enum Staged<'a> {
    Committing {
        committing: Committing<'a>,
        taking: Option<Taking>,
        definition: Arc<Definition>,
        fingerprint: Option<[u8; 32]>,
    },
    /// Nothing is staged by a service that only measures.
    Unstored(Accepted),
}

impl Service {
    /// Accepts an order. When this answers `Ok`, the order would survive a crash.
    ///
    /// Validated and staged when called; the future only waits.
    pub fn submit(&self, submission: Submission) -> impl Future<Output = Result<Accepted, SubmitError>> + Send + '_ {
        let core = &self.0;
        let staged = core.prepare_submission(submission).map(|pending| {
            let Pending { prepared, definition } = pending;
            let Prepared { commit, taking } = prepared;
            if core.options.bench_no_store {
                return Staged::Unstored(Accepted::first(commit.order, definition));
            }
            Staged::Committing {
                fingerprint: commit.keys.first().map(|key| key.fingerprint),
                committing: core.commit_one(commit),
                taking,
                definition,
            }
        });
        async move {
            match staged? {
                Staged::Unstored(accepted) => Ok(accepted),
                Staged::Committing {
                    committing,
                    taking,
                    definition,
                    fingerprint,
                } => match committing.await {
                    Ok((receipt, order)) => Ok(core.accepted(order, definition, &receipt, taking)),
                    // On the heap: what is rare must not make the future of every submission large.
                    Err(error) => Box::pin(core.not_accepted(error, fingerprint)).await,
                },
            }
        }
    }

    /// Accepts many orders at once, each for itself: the answers stand in the order of the submissions.
    pub async fn submit_batch(&self, submissions: Vec<Submission>) -> Vec<Result<Accepted, SubmitError>> {
        let core = &self.0;
        let prepared = submissions
            .into_iter()
            .map(|submission| core.prepare_submission(submission));
        if core.options.bench_no_store {
            let accepted = |pending: Pending| Accepted::first(pending.prepared.commit.order, pending.definition);
            return prepared.map(|prepared| prepared.map(accepted)).collect();
        }
        let mut commits = Vec::with_capacity(prepared.len());
        let mut waiting = Vec::with_capacity(prepared.len());
        for prepared in prepared {
            waiting.push(prepared.map(|Pending { prepared, definition }| {
                let Prepared { commit, taking } = prepared;
                let kept = Kept::of(&commit);
                let fingerprint = commit.keys.first().map(|key| key.fingerprint);
                commits.push(commit);
                (kept, taking, definition, fingerprint)
            }));
        }
        // All of them now: the client may go away while the first is waited for.
        let mut tickets = core.store.commit(commits).into_iter();
        let staged: Vec<_> = waiting
            .into_iter()
            .map(|waiting| {
                waiting.map(|(kept, taking, definition, fingerprint)| {
                    // A store answers with a ticket for each commit.
                    let ticket = tickets.next().unwrap_or_else(|| Ticket::failed(CommitError::Closed));
                    (core.committing(ticket, kept), taking, definition, fingerprint)
                })
            })
            .collect();
        let mut answers = Vec::with_capacity(staged.len());
        for staged in staged {
            answers.push(match staged {
                Err(error) => Err(error),
                Ok((committing, taking, definition, fingerprint)) => match committing.await {
                    Ok((receipt, order)) => Ok(core.accepted(order, definition, &receipt, taking)),
                    Err(error) => Box::pin(core.not_accepted(error, fingerprint)).await,
                },
            });
        }
        answers
    }
}

impl Core {
    fn prepare_submission(&self, submission: Submission) -> Result<Pending, SubmitError> {
        let Some(definition) = self.registry.current(&submission.order_type) else {
            let nearest = self.registry.nearest(&submission.order_type);
            return Err(SubmitError::UnknownType {
                name: submission.order_type,
                nearest,
            });
        };
        if submission.data.as_str().len() > DATA_BYTES_MAX {
            return Err(SubmitError::TooLarge {
                what: "the data",
                bytes_max: DATA_BYTES_MAX,
            });
        }
        let value = match submission.value {
            Some(value) => value,
            None => submission.data.value().map_err(|error| {
                SubmitError::Invalid(vec![Fault {
                    pointer: String::new(),
                    code: "json".to_owned(),
                    detail: error.to_string(),
                }])
            })?,
        };
        let faults = definition.validate(&value);
        if !faults.is_empty() {
            return Err(SubmitError::Invalid(faults));
        }
        let now = self.store.now();
        let input = Input {
            now,
            jitter: 0.0,
            wait_scale: self.options.wait_scale,
            by: submission.by.clone(),
        };
        let id = OrderId(self.options.chance.time_ordered_id(now));
        let status = submission.status.clone();
        let change = decision::accept(
            &definition.order_type,
            decision::Submission {
                id,
                key: submission.key.clone(),
                data: submission.data,
                value: &value,
                status: submission.status,
                due_at: submission.due_at,
                traceparent: submission.traceparent,
            },
            &input,
        )?;
        let accepted = &change.order.accepted;
        for (what, text) in [
            ("the key", &accepted.key),
            ("the customer", &accepted.customer),
            ("the group key", &accepted.group),
        ] {
            if text.as_ref().is_some_and(|text| text.len() > KEY_BYTES_MAX) {
                return Err(SubmitError::TooLarge {
                    what,
                    bytes_max: KEY_BYTES_MAX,
                });
            }
        }
        let mut keys = Vec::new();
        if submission.idempotency.is_some() || accepted.key.is_some() {
            let fingerprint = fingerprint(&accepted.order_type, &accepted.key, &status, submission.due_at, &value);
            if let Some(idempotency) = submission.idempotency {
                keys.push(KeyClaim {
                    scope: format!("idempotency:{}", idempotency.scope),
                    key: idempotency.key,
                    fingerprint,
                    expires_at: now
                        .checked_add(idempotency.kept.unwrap_or(self.options.idempotency_kept))
                        .ok(),
                });
            }
            if let Some(key) = &accepted.key {
                let scope = key_scope(&accepted.order_type);
                keys.push(KeyClaim {
                    scope,
                    key: key.clone(),
                    fingerprint,
                    expires_at: None,
                });
            }
        }
        Ok(Pending {
            prepared: self.prepare(change, Expect::Absent, keys, false, None),
            definition,
        })
    }

    /// The commit is durable: hands the order's first work on, and answers.
    fn accepted(
        &self,
        order: Arc<Order>,
        definition: Arc<Definition>,
        receipt: &Receipt,
        taking: Option<Taking>,
    ) -> Accepted {
        self.committed(&order, receipt);
        self.meters.accepted(&order.accepted.order_type);
        if let (true, Some(Taking { token, permit })) = (receipt.claimed, taking) {
            self.hand_on(Ready {
                order: order.clone(),
                token,
                definition: definition.clone(),
                permit,
                reclaimed: false,
            });
        }
        Accepted::first(order, definition)
    }

    async fn not_accepted(&self, error: CommitError, ours: Option<[u8; 32]>) -> Result<Accepted, SubmitError> {
        match error {
            CommitError::KeyTaken {
                scope,
                key,
                order,
                fingerprint,
            } => {
                if ours != Some(fingerprint) {
                    return Err(if scope.starts_with("idempotency:") {
                        SubmitError::IdempotencyKeyReused { order }
                    } else {
                        SubmitError::KeyTaken { key, order }
                    });
                }
                self.repeat(order).await
            }
            CommitError::TooLarge { what, bytes_max } => Err(SubmitError::TooLarge { what, bytes_max }),
            CommitError::Busy { after } => Err(SubmitError::Busy { after }),
            CommitError::Store(error) => Err(SubmitError::Store(error)),
            CommitError::VersionMoved { .. }
            | CommitError::TokenStale
            | CommitError::Short(_)
            | CommitError::Unknown
            | CommitError::Closed => {
                // The client is asked to come again; with an idempotency key that is safe in every case.
                Err(SubmitError::Busy {
                    after: Duration::from_secs(1),
                })
            }
        }
    }

    /// Answers a repetition with what the acceptance was answered with.
    async fn repeat(&self, id: OrderId) -> Result<Accepted, SubmitError> {
        let busy = || SubmitError::Busy {
            after: Duration::from_secs(1),
        };
        let mut stored = self.store.order(id).await?.ok_or_else(busy)?;
        let definition = self.definition(&stored.order).await.map_err(|_| busy())?;
        let accepted = stored.order.accepted.clone();
        let value = stored.order.data.value().unwrap_or(Value::Null);
        let input = Input {
            now: accepted.at,
            jitter: 0.0,
            wait_scale: 1.0,
            by: "engine".into(),
        };
        // When it was to begin is kept only until it does.
        let scheduled = stored.order.head.phase == Phase::Scheduled;
        let due_at = stored.order.head.work.as_ref().and_then(|work| work.due_at);
        let submission = decision::Submission {
            id,
            key: accepted.key.clone(),
            data: stored.order.data.clone(),
            value: &value,
            status: Some(accepted.status.to_string()),
            due_at: due_at.filter(|_| scheduled),
            traceparent: None,
        };
        let as_accepted: Result<_, Rejection> = decision::accept(&definition.order_type, submission, &input);
        if let Ok(change) = as_accepted {
            let order = Arc::make_mut(&mut stored.order);
            order.head = change.order.head;
            order.results.clear();
        }
        stored.claim = None;
        stored.place = Place::Alone;
        Ok(Accepted {
            found: Found { stored, definition },
            repeated: true,
        })
    }
}

/// The SHA-256 of what was submitted, whatever its white space and the order of its members.
fn fingerprint(
    order_type: &str,
    key: &Option<String>,
    status: &Option<String>,
    due_at: Option<Timestamp>,
    value: &Value,
) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [Some(order_type), key.as_deref(), status.as_deref()] {
        hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
        hash.update(part.unwrap_or_default());
    }
    hash.update(due_at.map_or(0, Timestamp::as_microsecond).to_be_bytes());
    hash_value(&mut hash, value);
    hash.finalize().into()
}

fn hash_value(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Array(items) => {
            hash.update([b'[']);
            hash.update((items.len() as u64).to_be_bytes());
            items.iter().for_each(|item| hash_value(hash, item));
        }
        Value::Object(members) => {
            hash.update([b'{']);
            hash.update((members.len() as u64).to_be_bytes());
            let mut names: Vec<&String> = members.keys().collect();
            names.sort();
            for name in names {
                hash.update((name.len() as u64).to_be_bytes());
                hash.update(name);
                hash_value(hash, &members[name]);
            }
        }
        scalar => {
            let text = scalar.to_string();
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
    }
}
