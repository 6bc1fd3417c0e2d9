//! Statuses: which change may follow which, and which lane an order belongs in.

use comanda_model::order::AfterUndo;
use comanda_model::order_type::{DeadLetterInLane, FifoScope};
use comanda_model::{EventKind, Order, OrderType, Phase};
use comanda_store::Commit;
use jiff::Timestamp;

use super::{Known, Verdict, hold};

/// Whether the changes of status in a commit are legal, each for whoever made it.
pub fn follows(before: Option<&Order>, commit: &Commit, order_type: &OrderType, now: Timestamp) -> Verdict {
    let id = commit.order.id();
    let mut at = before.map(|before| before.head.status.clone());
    let mut changes = 0;
    for event in commit.events.iter() {
        hold!(event.at <= now, "{id}: an event is from the future");
        match event.kind {
            EventKind::Accepted => at.clone_from(&event.to),
            EventKind::StatusChanged => {
                changes += 1;
                hold!(
                    event.from == at,
                    "{id}: a change from {:?}, but it stood in {at:?}",
                    event.from
                );
                let (Some(from), Some(to)) = (&event.from, &event.to) else {
                    return Err(format!("{id}: a change of status does not say from where to where"));
                };
                legal(before, commit, order_type, (from, to, &event.by))?;
                if &*event.by == "deadline" {
                    let until = before.and_then(|before| before.head.status_until);
                    hold!(
                        until.is_some_and(|until| until <= now),
                        "{id}: a deadline that has not passed moved it"
                    );
                }
                at.clone_from(&event.to);
            }
            _ => {}
        }
    }
    hold!(changes <= 1, "one status per commit: {id} entered {changes}");
    hold!(
        at.as_ref() == Some(&commit.order.head.status),
        "{id} stands in {} and its events lead to {at:?}",
        commit.order.head.status
    );
    intent(before, commit)
}

fn legal(before: Option<&Order>, commit: &Commit, order_type: &OrderType, change: (&str, &str, &str)) -> Verdict {
    let (from, to, by) = change;
    let id = commit.order.id();
    let Some(status) = order_type.status(from) else {
        return Err(format!("{id} stood in {from}, which its type does not have"));
    };
    let is = |target: Option<&std::sync::Arc<str>>| target.is_some_and(|target| **target == *to);
    let next = status.next.iter().any(|branch| *branch.to == *to);
    let by_hand = status.to.iter().any(|target| **target == *to);
    let intended = is(before
        .and_then(|before| before.head.intent.as_ref())
        .map(|intent| &intent.to));
    let discarded = commit.events.iter().any(|event| event.kind == EventKind::Discarded);
    let given_up = discarded && (is(order_type.cancel.as_ref()) || is(order_type.refused_from(from)));
    let again = *commit.order.accepted.status == *to
        && before.is_some_and(|before| matches!(before.head.phase, Phase::Dead | Phase::Undoing));
    let legal = match by {
        "deadline" => is(status.deadline.as_ref().map(|deadline| &deadline.to)),
        "engine" => next || again,
        by if by.starts_with("step:") => next || is(order_type.refused_from(from)),
        _ => by_hand || intended || given_up || again,
    };
    hold!(
        legal,
        "{id}: {by} moved it from {from} to {to}, which its type does not allow"
    );
    Ok(())
}

/// What a cancel wants stands until it is done, or someone moves the order elsewhere.
fn intent(before: Option<&Order>, commit: &Commit) -> Verdict {
    let Some(wanted) = before.and_then(|before| before.head.intent.as_ref()) else {
        return Ok(());
    };
    let after = &commit.order.head;
    let kept = after.intent.as_ref().is_some_and(|intent| intent.to == wanted.to);
    let moved = commit
        .events
        .iter()
        .find(|event| event.kind == EventKind::StatusChanged);
    let fulfilled = moved.is_some_and(|event| event.to.as_ref() == Some(&wanted.to));
    let elsewhere = moved.is_some_and(|event| !event.by.starts_with("step:") && &*event.by != "engine");
    let discarded = commit.events.iter().any(|event| event.kind == EventKind::Discarded);
    hold!(
        kept || fulfilled || elsewhere || discarded,
        "a cancel of {} was forgotten: it was to go to {}, and is in {}",
        commit.order.id(),
        wanted.to,
        after.status
    );
    Ok(())
}

/// A dead letter of a type that says so leaves its lane, until it is redriven. So does whoever enters a status that
/// releases it.
pub fn note_left_lane(known: &mut Known, before: Option<&Order>, order_type: &OrderType) {
    let Some(fifo) = &order_type.fifo else { return };
    let head = &known.order.head;
    let died = head.phase == Phase::Dead && before.is_none_or(|before| before.head.phase != Phase::Dead);
    let released = order_type
        .status(&head.status)
        .is_some_and(|status| status.releases_lane);
    if (died && fifo.dead_letter == DeadLetterInLane::Leave) || released {
        known.left_lane = true;
    }
    // Who begins again stands in the lane again from the moment that this is decided.
    let parked = head.phase == Phase::Dead && fifo.dead_letter == DeadLetterInLane::Park;
    let again = head.after_undo == Some(AfterUndo::Restart);
    known.left_lane &= !(again && (parked || head.phase == Phase::Undoing));
}

/// The lane that an order should stand in.
pub fn lane_wanted(known: &Known, order_type: &OrderType) -> Option<String> {
    let order = &known.order;
    let fifo = order_type.fifo.as_ref()?;
    let group = order.accepted.group.as_ref()?;
    let head = &order.head;
    if known.left_lane || matches!(head.phase, Phase::Scheduled | Phase::Final) {
        return None;
    }
    let name = format!("{}\u{1f}{group}", order.accepted.order_type);
    match fifo.scope {
        FifoScope::Life => Some(name),
        FifoScope::Status => head.work.is_some().then(|| format!("{name}\u{1f}{}", head.status)),
    }
}
