//! What the outside does to an order that is there: edits, transitions, cancels.
//!
//! Each is decided on the order as it stands and committed on condition that it still stands so; if it has moved in
//! between, it is read and decided again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use comanda_model::bounds::DATA_BYTES_MAX;
use comanda_model::decision::{self, Command, Edit, Input, Rejection};
use comanda_model::json::merge_patch;
use comanda_model::order::WorkKind;
use comanda_model::{Changed, Json, OrderId};
use comanda_order_type::Fault;
use comanda_store::{CommitError, Expect, Place, Stored};
use indexmap::IndexMap;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::commit::Taking;
use crate::error::CommandError;
use crate::service::{Core, Service};
use crate::view::Found;
use crate::worker::Ready;

/// How often a command is decided again because the order had moved.
const ROUNDS_MAX: u32 = 20;

/// Who changes an order, why, and on what condition.
#[derive(Clone, Debug)]
pub struct Change {
    /// Who: `local`, `key:ID`.
    pub by: Arc<str>,
    /// Why.
    pub reason: Option<String>,
    /// On what condition.
    pub precondition: Precondition,
}

impl Change {
    /// A change by someone, without a reason or a condition.
    pub fn by(who: impl Into<Arc<str>>) -> Self {
        Self {
            by: who.into(),
            reason: None,
            precondition: Precondition::None,
        }
    }
}

/// A condition that the order must meet (RFC 9110, If-Match).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// None.
    None,
    /// Its `ETag` names one of these versions.
    EtagIn(Vec<u64>),
}

impl Service {
    /// Changes an order's data by a merge patch (RFC 7396). What the patch does not name keeps its text to the letter.
    pub async fn edit(&self, id: OrderId, patch: Json, change: Change) -> Result<Found, CommandError> {
        self.0
            .command(id, &change, &|_, found| Ok(Command::Edit(edit(found, &patch)?)))
            .await
    }

    /// Moves an order to a status, in any spelling that its type knows, perhaps with a merge patch of its data.
    /// Moving it to where it stands changes only the data.
    pub async fn transition(
        &self,
        id: OrderId,
        to: &str,
        patch: Option<Json>,
        change: Change,
    ) -> Result<Found, CommandError> {
        let reason = change.reason.clone();
        self.0
            .command(id, &change, &|_, found| {
                let order_type = &found.definition.order_type;
                let Some(to) = order_type.resolve_status(to).cloned() else {
                    let known = order_type.statuses.keys().cloned().collect();
                    return Err(Rejection::UnknownStatus {
                        status: to.to_owned(),
                        known,
                    }
                    .into());
                };
                let head = &found.stored.order.head;
                let edit = match &patch {
                    Some(patch) => {
                        let edit = edit(found, patch)?;
                        (!edit.changed.is_empty()).then_some(edit)
                    }
                    None => None,
                };
                if let (true, Some(edit)) = (to == head.status, &edit) {
                    return Ok(Command::Edit(edit.clone()));
                }
                Ok(Command::Transition {
                    to,
                    reason: reason.clone(),
                    edit,
                    begun: may_have_begun(&found.stored),
                })
            })
            .await
    }

    /// Cancels an order: at once, or when the attempt in flight has ended.
    pub async fn cancel(&self, id: OrderId, change: Change) -> Result<Found, CommandError> {
        self.0.cancel(id, &change).await
    }

    /// Says yes to the step that waits for a person.
    pub async fn approve(&self, id: OrderId, change: Change) -> Result<Found, CommandError> {
        let reason = change.reason.clone();
        self.0
            .command(id, &change, &|_, _| Ok(Command::Approve { reason: reason.clone() }))
            .await
    }

    /// Says no to the step that waits for a person, for a reason.
    pub async fn reject(&self, id: OrderId, reason: String, change: Change) -> Result<Found, CommandError> {
        self.0
            .command(id, &change, &|_, _| Ok(Command::Reject { reason: reason.clone() }))
            .await
    }
}

/// Decides what command to give, from the order as it stands.
pub(crate) type Decide<'a> = dyn Fn(&Core, &mut Found) -> Result<Command, CommandError> + Send + Sync + 'a;

impl Core {
    pub(crate) async fn cancel(&self, id: OrderId, change: &Change) -> Result<Found, CommandError> {
        self.command(id, change, &|_, found| {
            Ok(Command::Cancel {
                reason: change.reason.clone(),
                in_flight: in_flight(&found.stored),
                begun: may_have_begun(&found.stored),
            })
        })
        .await
    }

    /// Gives a command to an order and answers with the order afterwards. `decide` may put another version of the type
    /// in the place of the one that the order lives on.
    pub(crate) async fn command(
        &self,
        id: OrderId,
        change: &Change,
        decide: &Decide<'_>,
    ) -> Result<Found, CommandError> {
        for _ in 0..ROUNDS_MAX {
            let Some(stored) = self.store.order(id).await? else {
                return Err(CommandError::UnknownOrder(id));
            };
            let definition = self.definition(&stored.order).await?;
            let mut found = Found { stored, definition };
            let etag_version = found.stored.order.head.etag_version;
            if let Precondition::EtagIn(versions) = &change.precondition
                && !versions.contains(&etag_version)
            {
                return Err(CommandError::PreconditionFailed { etag_version });
            }
            let command = decide(self, &mut found)?;
            let input = Input {
                now: self.store.now(),
                jitter: self.options.chance.fraction(),
                wait_scale: self.options.wait_scale,
                by: change.by.clone(),
            };
            // Whoever may claim the order meanwhile, here or from a queue, must not lose it to a change that leaves its
            // work as it is.
            let head = &found.stored.order.head;
            let may_be_claimed = head.due_at(true).is_some() || head.queued_at(true).is_some();
            let claimed = found.stored.claim.is_some() || may_be_claimed;
            let version = head.version;
            // What was decided of an order that queues counts only while it does: in the next moment it can be called.
            let expect = match &command {
                Command::Transition { begun: false, .. } | Command::Cancel { begun: false, .. } => {
                    Expect::Queued { version }
                }
                _ => Expect::At { version, token: None },
            };
            let decided = decision::decide(&found.stored.order, &found.definition.order_type, command, &input)?;
            let ends_claim = decided.ends_claim;
            let prepared = self.prepare(decided, expect, Vec::new(), claimed, None);
            match self.commit_one(prepared.commit).await {
                Ok((receipt, order)) => {
                    self.committed(&order, &receipt);
                    let mut claim = found.stored.claim.filter(|_| !ends_claim);
                    if let (true, Some(Taking { token, permit })) = (receipt.claimed, prepared.taking) {
                        claim = Some((token, order.head.updated_at));
                        let definition = found.definition.clone();
                        self.hand_on(Ready {
                            order: order.clone(),
                            token,
                            definition,
                            permit,
                            reclaimed: false,
                        });
                    }
                    let place = if receipt.queued { Place::Behind(1) } else { Place::Alone };
                    let worker = found.stored.worker.filter(|_| claim.is_some());
                    let stored = Stored {
                        order,
                        claim,
                        worker,
                        place,
                    };
                    return Ok(Found {
                        stored,
                        definition: found.definition,
                    });
                }
                Err(CommitError::VersionMoved { .. }) => {}
                Err(CommitError::TooLarge { what, bytes_max }) => {
                    return Err(CommandError::TooLarge { what, bytes_max });
                }
                Err(CommitError::Busy { after }) => return Err(CommandError::Busy { after }),
                Err(CommitError::Store(error)) => return Err(error.into()),
                Err(
                    CommitError::TokenStale
                    | CommitError::KeyTaken { .. }
                    | CommitError::Short(_)
                    | CommitError::Unknown
                    | CommitError::Closed,
                ) => {
                    return Err(CommandError::Busy {
                        after: Duration::from_secs(1),
                    });
                }
            }
        }
        Err(CommandError::Busy {
            after: Duration::from_secs(1),
        })
    }
}

/// Whether an attempt is running whose effect outside is not known yet.
fn in_flight(stored: &Stored) -> bool {
    let step = stored.order.head.work.as_ref().map(|work| &work.kind);
    // A worker from outside whose lease has ended may have done its work all the same.
    let claimed = stored.claim.is_some() || stored.worker.is_some();
    claimed && matches!(step, Some(WorkKind::Step(_)))
}

/// Whether the attempt that is due may have reached the outside. That nobody holds the order does not tell: the process
/// that did may have died, or the lease may be over. Only what queues behind others was never taken up.
fn may_have_begun(stored: &Stored) -> bool {
    !matches!(stored.place, Place::Behind(_))
}

/// Applies a merge patch to an order's data and validates what comes out.
pub(crate) fn edit(found: &Found, patch: &Json) -> Result<Edit, CommandError> {
    let order = &found.stored.order;
    let malformed = |error: serde_json::Error| {
        let detail = error.to_string();
        CommandError::Invalid(vec![Fault {
            pointer: String::new(),
            code: "json".to_owned(),
            detail,
        }])
    };
    let patched = patch_text(order.data.as_str(), patch.as_str()).map_err(malformed)?;
    let Some((text, changed)) = patched else {
        let detail = "a merge patch of an order's data is an object".to_owned();
        return Err(CommandError::Invalid(vec![Fault {
            pointer: String::new(),
            code: "type".to_owned(),
            detail,
        }]));
    };
    if text.len() > DATA_BYTES_MAX {
        return Err(CommandError::TooLarge {
            what: "the data",
            bytes_max: DATA_BYTES_MAX,
        });
    }
    let data = Json::parse(&text).map_err(malformed)?;
    let value = data.value().map_err(malformed)?;
    let faults = found.definition.validate(&value);
    if !faults.is_empty() {
        return Err(CommandError::Invalid(faults));
    }
    Ok(Edit { data, changed })
}

/// Merges a patch into the text of an object and tells which members changed. Members that the patch does not name keep
/// their text to the letter. `None` if either is no object.
fn patch_text(text: &str, patch: &str) -> Result<Option<(String, Vec<Changed>)>, serde_json::Error> {
    if !text.trim_start().starts_with('{') || !patch.trim_start().starts_with('{') {
        return Ok(None);
    }
    let mut members: IndexMap<String, Box<RawValue>> = serde_json::from_str(text)?;
    let patches: BTreeMap<String, Box<RawValue>> = serde_json::from_str(patch)?;
    let mut changed = Vec::new();
    for (name, patch) in patches {
        let before = members.get(&name).map(|raw| raw.get().to_owned());
        if patch.get() == "null" {
            members.shift_remove(&name);
        } else if patch.get().starts_with('{') {
            // The patch of an object: merged, so that its nulls take members away.
            let mut target = match &before {
                Some(text) => serde_json::from_str(text)?,
                None => Value::Null,
            };
            merge_patch(&mut target, &serde_json::from_str(patch.get())?);
            members.insert(name.clone(), RawValue::from_string(target.to_string())?);
        } else {
            members.insert(name.clone(), patch);
        }
        let after = members.get(&name).map(|raw| raw.get());
        if before.as_deref() != after {
            let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            let after = after.map(Json::from_valid);
            changed.push(Changed::new(pointer, before.map(Json::from_valid), after));
        }
    }
    Changed::bound(&mut changed);
    Ok(Some((serde_json::to_string(&members)?, changed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_leaves_the_rest_to_the_letter() {
        let (text, changed) = patch_text(
            r#"{"b": 1E5, "a": {"x": 1.10, "y": 2}, "c": 3}"#,
            r#"{"a": {"y": null}, "c": 4.0, "d": null}"#,
        )
        .unwrap()
        .unwrap();
        assert_eq!(text, r#"{"b":1E5,"a":{"x":1.10},"c":4.0}"#);
        let json = |text: &str| Some(Json::from_valid(text));
        assert_eq!(
            changed,
            [
                Changed::new("/a", json(r#"{"x": 1.10, "y": 2}"#), json(r#"{"x":1.10}"#)),
                Changed::new("/c", json("3"), json("4.0")),
            ]
        );
        assert!(patch_text("{}", "[1]").unwrap().is_none());
    }
}
