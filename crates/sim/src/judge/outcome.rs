//! What an attempt's outcome may lead to. Refused and exhausted are never mixed.

use comanda_model::order::DoneState;
use comanda_model::order_type::{Action, Exhausted};
use comanda_model::{Attempt, Order, Outcome, Phase};
use comanda_store::Commit;

use super::{Judge, Verdict, hold};

/// Whether a commit draws the right conclusion from an attempt that counts.
pub fn follows(before: &Order, commit: &Commit, attempt: &Attempt) -> Verdict {
    let after = &commit.order.head;
    let id = before.id();
    let Some(work) = before.head.work.as_ref() else {
        return Err(format!("{id}: an attempt was recorded, and there was no work"));
    };
    hold!(
        attempt.attempt == work.attempt,
        "{id}: attempt {} was recorded where {} was due",
        attempt.attempt,
        work.attempt
    );
    let order_type = Judge::type_of(before)?;
    let step = order_type.steps.get(&attempt.step);
    let remembers = step.is_some_and(|step| step.undo.is_some());
    let state = after
        .done
        .iter()
        .find(|done| done.visit == attempt.visit)
        .map(|done| done.state);
    let tries = work.attempt - work.round_start + 1;
    let rule = if attempt.undo {
        step.and_then(|step| step.undo.as_deref())
    } else {
        step
    };
    // A person is asked once.
    let asks = step.is_some_and(|step| matches!(step.action, Action::Approval { .. }));
    let last = asks || rule.is_none_or(|rule| tries >= rule.retry.attempts);
    let intent = before.head.intent.is_some();
    let moved = after.status != before.head.status;
    let outcome = match attempt.outcome {
        // Nobody knows whether it happened; it is tried again like one that failed.
        Outcome::Unknown | Outcome::Lost => Outcome::Failed,
        known => known,
    };
    match (outcome, attempt.undo) {
        (Outcome::Done, false) => hold!(
            !remembers || state == Some(DoneState::Stands) || state == Some(DoneState::Unknown),
            "{id}: `{}` was done in visit {} and is not remembered",
            attempt.step,
            attempt.visit
        ),
        (Outcome::Failed, _) if !last && (attempt.undo || !intent) => {
            let next = after.work.as_ref();
            hold!(
                !moved && next.is_some_and(|next| next.visit == work.visit && next.attempt == work.attempt + 1),
                "{id}: `{}` failed for the {tries}. time and is not tried again",
                attempt.step
            );
        }
        (Outcome::Failed, false) if intent => {}
        (Outcome::Failed, false) if rule.is_some_and(|rule| rule.exhausted == Exhausted::Undo) => {}
        (Outcome::Failed, _) => {
            hold!(
                after.phase == Phase::Dead && !moved,
                "exhausted: {id} should stand as a dead letter in {}, and is {:?} in {}",
                before.head.status,
                after.phase,
                after.status
            );
            let standing = |order: &[comanda_model::order::Done]| {
                order.iter().filter(|done| done.state != DoneState::Undone).count()
            };
            hold!(
                standing(&after.done) >= standing(&before.head.done),
                "exhausted: something of {id} was taken back"
            );
        }
        (Outcome::Refused, false) => {
            let to = before
                .head
                .intent
                .as_ref()
                .map(|intent| &intent.to)
                .or_else(|| order_type.refused_from(&before.head.status));
            match to {
                Some(to) => hold!(
                    after.status == *to || after.phase == Phase::Dead,
                    "refused: {id} should go to {to}, and is in {}",
                    after.status
                ),
                None => hold!(
                    after.phase == Phase::Dead,
                    "refused: {id} has nowhere to go, and is {:?}",
                    after.phase
                ),
            }
            let stands = after.done.iter().any(|done| done.state != DoneState::Undone);
            hold!(
                !stands || matches!(after.phase, Phase::Undoing | Phase::Dead),
                "refused: what {id} did stands, and it is {:?}",
                after.phase
            );
        }
        (Outcome::Refused, true) => hold!(after.phase == Phase::Dead, "{id}: an undo was refused, and it went on"),
        (Outcome::Done, true) | (Outcome::Stale | Outcome::Unknown | Outcome::Lost, _) => {}
    }
    Ok(())
}
