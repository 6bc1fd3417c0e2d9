//! Properties of the decision function: whatever happens to an order, it is never stuck, never moved once final, and its
//! bookkeeping has no gaps.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What may happen to an order.
#[derive(Clone, Debug)]
enum Act {
    Pass(i64),
    Done(Option<bool>),
    Fail,
    Refuse,
    Edit,
    Transition(usize, bool),
    Cancel(bool),
    Redrive(bool, bool),
    Discard,
    Stale,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (1i64..2000).prop_map(Act::Pass),
        6 => proptest::option::of(any::<bool>()).prop_map(Act::Done),
        4 => Just(Act::Fail),
        1 => Just(Act::Refuse),
        1 => Just(Act::Edit),
        1 => (0usize..5, any::<bool>()).prop_map(|(to, flight)| Act::Transition(to, flight)),
        1 => any::<bool>().prop_map(Act::Cancel),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(start, edit)| Act::Redrive(start, edit)),
        1 => Just(Act::Discard),
        1 => Just(Act::Stale),
    ];
    proptest::collection::vec(act, 1..60)
}

/// An order is accounted for: final, dead with a reason, due at some time, or waiting for a named party.
fn accounted_for(order: &Order, order_type: &OrderType) -> bool {
    let head = &order.head;
    match head.phase {
        Phase::Final => head.work.is_none() && head.due_at(true).is_none(),
        Phase::Dead => head.dead.as_ref().is_some_and(|dead| !dead.reason.is_empty()) && head.work.is_some(),
        Phase::Scheduled | Phase::Undoing => head.due_at(true).is_some(),
        Phase::Active => {
            let leads_out = order_type
                .status(&head.status)
                .is_some_and(|status| !status.to.is_empty());
            head.due_at(true).is_some() || (head.work.is_none() && leads_out)
        }
    }
}

fn check(before: &Order, change: &Change, order_type: &OrderType) -> Result<(), TestCaseError> {
    let (old, new) = (&before.head, &change.order.head);
    prop_assert!(accounted_for(&change.order, order_type), "stuck: {new:?}");
    prop_assert!(
        old.phase != Phase::Final || (new.phase == Phase::Final && new.status == old.status),
        "a final order moved"
    );
    prop_assert_eq!(new.version, old.version + 1);
    prop_assert!(change.events.len() <= crate::bounds::EVENTS_PER_COMMIT_MAX);
    for (index, event) in change.events.iter().enumerate() {
        prop_assert_eq!(event.number, old.events + 1 + index as u64);
    }
    prop_assert_eq!(new.events, old.events + change.events.len() as u64);
    prop_assert_eq!(new.attempts, old.attempts + change.attempts.len() as u64);
    let visible = old.status != new.status || change.data_changed;
    prop_assert!(
        !visible || new.etag_version == new.version,
        "a visible change without a new ETag"
    );
    prop_assert!(new.done.len() <= crate::bounds::DONE_MAX);
    // An effect is never forgotten: what stood still stands, is undone, or the order began again after an undo.
    let all_undone = change.events.iter().any(|event| event.kind == EventKind::Undone);
    for done in old.done.iter().filter(|done| done.state != DoneState::Undone) {
        let kept = new.done.iter().any(|kept| kept.visit == done.visit);
        prop_assert!(kept || all_undone, "the effect of visit {} is forgotten", done.visit);
    }
    // Lane bookkeeping agrees with the moves.
    let standing =
        |lane: &Option<crate::order::Lane>| lane.as_ref().filter(|lane| lane.standing).map(|lane| lane.name.clone());
    if let Some(left) = &change.lane.leave {
        prop_assert_eq!(standing(&old.lane), Some(left.clone()));
    }
    prop_assert!(
        new.phase != Phase::Final || standing(&new.lane).is_none(),
        "a final order stands in a lane"
    );
    match &change.lane.enter {
        Some(entry) => prop_assert_eq!(standing(&new.lane), Some(entry.name.clone())),
        None => prop_assert_eq!(
            standing(&new.lane),
            standing(&old.lane).filter(|_| change.lane.leave.is_none())
        ),
    }
    Ok(())
}

fn random_walk(order_type: &OrderType, acts: Vec<Act>) -> Result<(), TestCaseError> {
    let statuses: Vec<Arc<str>> = order_type.statuses.keys().cloned().collect();
    let mut order = accepted(order_type, CARRIED);
    let mut seconds = 1;
    // Effects as a receiver would know them: visit → done, taken back.
    let mut effects: BTreeMap<u32, bool> = BTreeMap::new();
    for act in acts {
        let now = input(seconds);
        let running = match due(&order, order_type, &now) {
            Due::Run(run) => Some((run.visit, run.undo, run.step.undo.is_some())),
            Due::Change(change) => {
                check(&order, &change, order_type)?;
                order = change.order;
                continue;
            }
            Due::Nothing => None,
        };
        let outcome = |outcome| {
            report(
                &order,
                order_type,
                Report {
                    started_at: now.now,
                    ended_at: now.now,
                    outcome,
                },
                &now,
            )
        };
        let edit = Edit {
            data: Json::parse(r#"{"customer":"c1","carrier":"air"}"#).unwrap(),
            changed: vec![Changed::new("/carrier", None, None)],
        };
        let command = |command| decide(&order, order_type, command, &now).ok();
        let change = match act {
            Act::Pass(more) => {
                seconds += more;
                None
            }
            Act::Done(short) if running.is_some() => {
                let (visit, undo, undoable) = running.unwrap();
                if undo {
                    effects.insert(visit, false);
                } else if undoable {
                    effects.insert(visit, true);
                }
                Some(outcome(done(short.map(|short| {
                    if short {
                        r#"{"short":true}"#
                    } else {
                        r#"{"short":false}"#
                    }
                }))))
            }
            Act::Fail if running.is_some() => Some(outcome(failed())),
            Act::Refuse if running.is_some() => Some(outcome(StepOutcome::Refused { reason: "no".into() })),
            Act::Done(_) | Act::Fail | Act::Refuse => None,
            Act::Edit => command(Command::Edit(edit)),
            Act::Transition(to, in_flight) => command(Command::Transition {
                to: statuses[to % statuses.len()].clone(),
                reason: None,
                edit: None,
                begun: in_flight && running.is_some_and(|(_, undo, _)| !undo),
            }),
            Act::Cancel(in_flight) => command(Command::Cancel {
                reason: None,
                in_flight: in_flight && running.is_some_and(|(_, undo, _)| !undo),
                begun: in_flight,
            }),
            Act::Redrive(start, edited) => command(Command::Redrive {
                from: if start {
                    RedriveFrom::Start
                } else {
                    RedriveFrom::FailedStep
                },
                edit: edited.then_some(edit),
            }),
            Act::Discard => command(Command::Discard {
                reason: "given up".into(),
            }),
            Act::Stale => command(Command::RecordStale(Box::new(Attempt {
                number: 0,
                visit: 1,
                attempt: 1,
                step: "reserve".into(),
                undo: false,
                started_at: now.now,
                ended_at: now.now,
                outcome: Outcome::Stale,
                reason: None,
                result: None,
            }))),
        };
        if let Some(change) = change {
            check(&order, &change, order_type)?;
            if change.events.iter().any(|event| event.kind == EventKind::Undone) {
                effects.clear();
            }
            order = change.order;
        }
    }
    // Left alone, with every step succeeding, it comes to rest; discarded if it is dead, it ends with nothing held.
    let mut order = work_off(order, order_type, seconds + 100_000);
    if order.head.phase == Phase::Dead {
        let change = decide(
            &order,
            order_type,
            Command::Discard { reason: "end".into() },
            &input(seconds + 9_000_000),
        )
        .unwrap();
        check(&order, &change, order_type)?;
        order = work_off(change.order, order_type, seconds + 9_000_001);
        prop_assert_eq!(order.head.phase, Phase::Final);
    }
    if &*order.head.status == "canceled" && order.head.phase == Phase::Final {
        let held: Vec<_> = order
            .head
            .done
            .iter()
            .filter(|done| done.state != DoneState::Undone)
            .collect();
        prop_assert!(held.is_empty(), "canceled, and still holds {held:?}");
        let taken_back = |visit| {
            order
                .head
                .done
                .iter()
                .any(|done| done.visit == visit && done.state == DoneState::Undone)
        };
        for visit in effects.iter().filter(|(_, stands)| **stands).map(|(visit, _)| *visit) {
            prop_assert!(
                taken_back(visit),
                "canceled, and the effect of visit {visit} was never taken back"
            );
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_leaves_an_order_stuck_in_a_life_lane(acts in acts()) {
        random_walk(&sample(FifoScope::Life, DeadLetterInLane::Park), acts)?;
    }

    #[test]
    fn no_sequence_leaves_an_order_stuck_in_a_lane_that_is_left(acts in acts()) {
        random_walk(&sample(FifoScope::Life, DeadLetterInLane::Leave), acts)?;
    }

    #[test]
    fn no_sequence_leaves_an_order_stuck_in_status_lanes(acts in acts()) {
        random_walk(&sample(FifoScope::Status, DeadLetterInLane::Leave), acts)?;
    }
}
