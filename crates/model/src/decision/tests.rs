//! The rules of the decision function, one by one; its properties stand beside.

mod properties;

use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use jiff::Timestamp;
use uuid::Uuid;

use super::*;
use crate::event::{EventKind, Outcome};
use crate::expression::Expression;
use crate::id::{OrderId, TypeHash};
use crate::order::{DoneState, Phase};
use crate::order_type::*;

fn input(seconds: i64) -> Input {
    Input {
        now: Timestamp::from_second(1_700_000_000 + seconds).unwrap(),
        jitter: 0.5,
        wait_scale: 1.0,
        by: "local".into(),
    }
}

fn step(action: Action, attempts: u32) -> Step {
    Step {
        action,
        when: None,
        timeout: Duration::from_secs(1),
        timeout_total: None,
        unknown: None,
        retry: Retry {
            attempts,
            ..Retry::default()
        },
        exhausted: Exhausted::DeadLetter,
        archive: None,
        notifies_customer: false,
        undo: None,
        batch: 1,
        shows: None,
    }
}

fn undoable(attempts: u32) -> Step {
    Step {
        undo: Some(Box::new(step(Action::Noop, 2))),
        ..step(Action::Noop, attempts)
    }
}

/// received(reserve, charge) → packing(pack) → shipped; canceled takes back.
fn sample(scope: FifoScope, dead_letter: DeadLetterInLane) -> OrderType {
    let status = |status: Status| status;
    let to = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect::<Vec<Arc<str>>>();
    let next = |name: &str| {
        vec![Branch {
            when: None,
            to: name.into(),
        }]
    };
    let mut statuses = IndexMap::new();
    statuses.insert(
        "received".into(),
        status(Status {
            steps: to(&["reserve", "charge"]),
            next: vec![
                Branch {
                    when: Some(Expression::compile("steps.reserve.short").unwrap()),
                    to: "backordered".into(),
                },
                Branch {
                    when: None,
                    to: "packing".into(),
                },
            ],
            to: to(&["canceled"]),
            refused: Some("canceled".into()),
            ..Status::default()
        }),
    );
    statuses.insert(
        "backordered".into(),
        Status {
            to: to(&["packing", "canceled"]),
            deadline: Some(Deadline {
                after: Duration::from_secs(1000),
                to: "canceled".into(),
            }),
            ..Status::default()
        },
    );
    statuses.insert(
        "packing".into(),
        Status {
            steps: to(&["pack"]),
            next: next("shipped"),
            to: to(&["canceled"]),
            ..Status::default()
        },
    );
    statuses.insert(
        "shipped".into(),
        Status {
            is_final: true,
            require_steps: Vec::new(),
            require: vec![Require {
                field: "/carrier".into(),
                message: None,
            }],
            ..Status::default()
        },
    );
    statuses.insert(
        "canceled".into(),
        Status {
            is_final: true,
            undo: true,
            ..Status::default()
        },
    );
    let mut steps = IndexMap::new();
    steps.insert("reserve".into(), undoable(3));
    steps.insert(
        "charge".into(),
        Step {
            when: Some(Expression::compile("data.free != true").unwrap()),
            ..undoable(2)
        },
    );
    steps.insert("pack".into(), step(Action::Noop, 1));
    OrderType {
        name: "sample".into(),
        hash: TypeHash([1; 32]),
        language: "en".into(),
        initial: Initial::Status("received".into()),
        key: None,
        customer: Some("/customer".into()),
        fifo: Some(Fifo {
            key: Some("/customer".into()),
            scope,
            dead_letter,
        }),
        refused: None,
        cancel: Some("canceled".into()),
        statuses,
        steps,
        rules: Vec::new(),
        notify: None,
        erase_keep: vec!["/amount".into()],
    }
}

fn accepted(order_type: &OrderType, data: &str) -> Order {
    let value = serde_json::from_str(data).unwrap();
    let submission = Submission {
        id: OrderId(Uuid::now_v7()),
        key: None,
        data: Json::parse(data).unwrap(),
        value: &value,
        status: None,
        due_at: None,
        traceparent: None,
    };
    accept(order_type, submission, &input(0)).unwrap().order
}

fn done(result: Option<&str>) -> StepOutcome {
    StepOutcome::Done {
        result: result.map(|text| Json::parse(text).unwrap()),
    }
}

fn failed() -> StepOutcome {
    StepOutcome::Failed {
        reason: "connection to 10.0.0.7 refused".into(),
        retry_after: None,
    }
}

fn answer(order: &Order, order_type: &OrderType, outcome: StepOutcome, seconds: i64) -> Change {
    let input = input(seconds);
    assert!(
        matches!(due(order, order_type, &input), Due::Run(_)),
        "a step is due: {:?}",
        order.head
    );
    report(
        order,
        order_type,
        Report {
            started_at: input.now,
            ended_at: input.now,
            outcome,
        },
        &input,
    )
}

/// Works an order until nothing is due, with every step succeeding.
fn work_off(mut order: Order, order_type: &OrderType, mut seconds: i64) -> Order {
    for _ in 0..100 {
        seconds += 10_000;
        order = match due(&order, order_type, &input(seconds)) {
            Due::Nothing => return order,
            Due::Change(change) => change.order,
            Due::Run(_) => answer(&order, order_type, done(None), seconds).order,
        };
    }
    panic!("the order never comes to rest: {:?}", order.head);
}

const CARRIED: &str = r#"{"customer":"c1","carrier":"post"}"#;

#[test]
fn an_order_goes_through_its_statuses_one_commit_each() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let order = accepted(&order_type, CARRIED);
    assert_eq!(order.accepted.group.as_deref(), Some("c1"));
    let order = answer(&order, &order_type, done(Some(r#"{"held":2}"#)), 1).order;
    let change = answer(&order, &order_type, done(None), 2);
    assert_eq!(&*change.order.head.status, "packing");
    assert_eq!(change.events.len(), 1);
    let change = answer(&change.order, &order_type, done(None), 3);
    assert_eq!(
        (&*change.order.head.status, change.order.head.phase),
        ("shipped", Phase::Final)
    );
    assert_eq!(change.lane.leave.as_deref(), Some("sample\u{1f}c1"));
    assert!(matches!(due(&change.order, &order_type, &input(99)), Due::Nothing));
}

#[test]
fn a_condition_skips_a_step_and_chooses_the_next_status() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let order = accepted(&order_type, r#"{"customer":"c1","free":true}"#);
    let order = answer(&order, &order_type, done(Some(r#"{"short":true}"#)), 1).order;
    let Due::Change(change) = due(&order, &order_type, &input(2)) else {
        panic!("the skipped step is decided")
    };
    assert_eq!(&*change.order.head.status, "backordered");
    // It waits, and the deadline takes it out, taking back what it holds.
    let order = change.order;
    assert!(order.head.work.is_none());
    assert!(matches!(due(&order, &order_type, &input(900)), Due::Nothing));
    let order = work_off(order, &order_type, 1100);
    assert_eq!((&*order.head.status, order.head.phase), ("canceled", Phase::Final));
    assert!(order.head.done.iter().all(|done| done.state == DoneState::Undone));
}

#[test]
fn failures_wait_longer_each_time_and_then_die_with_nothing_undone() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let order = accepted(&order_type, CARRIED);
    let order = answer(&order, &order_type, done(None), 1).order;
    let order = answer(&order, &order_type, failed(), 2).order;
    let work = order.head.work.clone().unwrap();
    assert_eq!(
        (work.attempt, work.due_at),
        (2, Some(input(2).now + SignedDuration::from_millis(750)))
    );
    assert!(matches!(due(&order, &order_type, &input(2)), Due::Nothing));
    let change = answer(&order, &order_type, failed(), 3);
    let dead = change.order.head.dead.clone().unwrap();
    assert_eq!(change.order.head.phase, Phase::Dead);
    assert_eq!(dead.cause, "charge: connection to # refused");
    assert!(change.lane.leave.is_none(), "the lane is parked");
    assert!(
        change
            .order
            .head
            .done
            .iter()
            .all(|done| done.state == DoneState::Stands)
    );
    // The redrive goes on in the same visit, so the outbound key is the same.
    let redrive = Command::Redrive {
        from: RedriveFrom::FailedStep,
        edit: None,
    };
    let redriven = decide(&change.order, &order_type, redrive, &input(4)).unwrap().order;
    let again = redriven.head.work.clone().unwrap();
    assert_eq!((again.visit, again.attempt, again.round_start), (work.visit, 3, 3));
    assert_eq!(&*work_off(redriven, &order_type, 5).head.status, "shipped");
}

#[test]
fn an_edited_dead_letter_gets_a_new_visit() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Leave);
    let order = accepted(&order_type, CARRIED);
    let mut order = order;
    for seconds in [1, 10, 20] {
        order = answer(&order, &order_type, failed(), seconds).order;
    }
    assert_eq!(order.head.phase, Phase::Dead);
    let visit = order.head.work.clone().unwrap().visit;
    let edit = Edit {
        data: Json::parse(r#"{"customer":"c1","carrier":"rail"}"#).unwrap(),
        changed: vec![Changed::new("/carrier", None, None)],
    };
    let change = decide(
        &order,
        &order_type,
        Command::Redrive {
            from: RedriveFrom::FailedStep,
            edit: Some(edit),
        },
        &input(30),
    )
    .unwrap();
    assert_eq!(change.order.head.work.clone().unwrap().visit, visit + 1);
    assert_eq!(
        change.lane.enter,
        Some(LaneEntry {
            name: "sample\u{1f}c1".into(),
            resume: true
        })
    );
    // What the first visit may have done is not forgotten.
    assert_eq!(change.order.head.done[0].state, DoneState::Unknown);
}

#[test]
fn a_refusal_takes_back_in_reverse() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let order = accepted(&order_type, CARRIED);
    let order = answer(&order, &order_type, done(None), 1).order;
    let change = answer(
        &order,
        &order_type,
        StepOutcome::Refused {
            reason: "card declined".into(),
        },
        2,
    );
    assert_eq!(
        (&*change.order.head.status, change.order.head.phase),
        ("canceled", Phase::Undoing)
    );
    assert_eq!(change.events[0].reason.as_deref(), Some("card declined"));
    let Due::Run(run) = due(&change.order, &order_type, &input(3)) else {
        panic!("the undo runs")
    };
    assert!(run.undo && &*run.name == "reserve" && run.visit == 1);
    let change = answer(&change.order, &order_type, done(None), 4);
    assert_eq!(change.order.head.phase, Phase::Final);
}

#[test]
fn a_cancel_waits_for_the_attempt_in_flight() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let order = accepted(&order_type, CARRIED);
    let cancel = Command::Cancel {
        reason: Some("changed my mind".into()),
        in_flight: true,
        begun: true,
    };
    let change = decide(&order, &order_type, cancel, &input(1)).unwrap();
    assert_eq!(change.events[0].kind, EventKind::CancelRequested);
    assert!(!change.ends_claim);
    let change = answer_anyhow(&change.order, &order_type, done(None), 2);
    assert_eq!(
        (&*change.order.head.status, change.order.head.phase),
        ("canceled", Phase::Undoing)
    );
    assert_eq!(work_off(change.order, &order_type, 3).head.phase, Phase::Final);
}

/// The outcome of an attempt that began before the command came.
fn answer_anyhow(order: &Order, order_type: &OrderType, outcome: StepOutcome, seconds: i64) -> Change {
    let input = input(seconds);
    report(
        order,
        order_type,
        Report {
            started_at: input.now,
            ended_at: input.now,
            outcome,
        },
        &input,
    )
}

#[test]
fn transitions_follow_the_type() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let order = accepted(&order_type, CARRIED);
    let to = |name: &str| Command::Transition {
        to: name.into(),
        reason: None,
        edit: None,
        begun: false,
    };
    let illegal = decide(&order, &order_type, to("shipped"), &input(1)).unwrap_err();
    assert!(matches!(illegal, Rejection::IllegalTransition { allowed, .. } if allowed == ["canceled".into()]));
    let order = decide(&order, &order_type, to("canceled"), &input(1)).unwrap().order;
    let illegal = decide(&order, &order_type, to("packing"), &input(2)).unwrap_err();
    assert!(matches!(illegal, Rejection::IllegalTransition { allowed, .. } if allowed.is_empty()));
    let edit = Edit {
        data: Json::parse("{}").unwrap(),
        changed: vec![],
    };
    assert!(matches!(
        decide(&order, &order_type, Command::Edit(edit), &input(3)),
        Err(Rejection::Final { .. })
    ));
}

#[test]
fn a_status_that_lacks_its_fields_is_refused_or_dies() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let order = accepted(&order_type, r#"{"customer":"c1"}"#);
    let order = work_off(order, &order_type, 1);
    assert_eq!((&*order.head.status, order.head.phase), ("packing", Phase::Dead));
    assert!(order.head.dead.clone().unwrap().reason.contains("/carrier"));
    let edit = Edit {
        data: Json::parse(CARRIED).unwrap(),
        changed: vec![Changed::new("/carrier", None, None)],
    };
    let order = decide(
        &order,
        &order_type,
        Command::Redrive {
            from: RedriveFrom::FailedStep,
            edit: Some(edit),
        },
        &input(9),
    )
    .unwrap()
    .order;
    assert_eq!(&*work_off(order, &order_type, 10).head.status, "shipped");
}

#[test]
fn what_is_fixed_at_acceptance_cannot_be_edited() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let order = accepted(&order_type, CARRIED);
    let edit = Edit {
        data: Json::parse(r#"{"customer":"c2","carrier":"post"}"#).unwrap(),
        changed: vec![Changed::new("/customer", None, None)],
    };
    assert!(matches!(
        decide(&order, &order_type, Command::Edit(edit), &input(1)),
        Err(Rejection::Fixed { .. })
    ));
}

#[test]
fn a_scheduled_order_enters_its_lane_when_it_is_due() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let value = serde_json::from_str(CARRIED).unwrap();
    let submission = Submission {
        id: OrderId(Uuid::now_v7()),
        key: None,
        data: Json::parse(CARRIED).unwrap(),
        value: &value,
        status: None,
        due_at: Some(input(100).now),
        traceparent: None,
    };
    let change = accept(&order_type, submission, &input(0)).unwrap();
    assert_eq!((change.order.head.phase, &change.lane.enter), (Phase::Scheduled, &None));
    assert!(matches!(due(&change.order, &order_type, &input(50)), Due::Nothing));
    let Due::Change(change) = due(&change.order, &order_type, &input(100)) else {
        panic!("it begins")
    };
    assert!(change.lane.enter.is_some() && change.order.head.phase == Phase::Active);
}

fn oversized() -> StepOutcome {
    let text = format!("\"{}\"", "x".repeat(crate::bounds::RESULT_BYTES_MAX));
    done(Some(&text))
}

fn cancel(in_flight: bool, begun: bool) -> Command {
    Command::Cancel {
        reason: None,
        in_flight,
        begun,
    }
}

fn discard() -> Command {
    Command::Discard {
        reason: "given up".into(),
    }
}

#[test]
fn a_visit_that_ends_twice_is_remembered_and_taken_back_once() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let dead = answer(&accepted(&order_type, CARRIED), &order_type, oversized(), 1).order;
    assert_eq!(dead.head.phase, Phase::Dead);
    let undoing = decide(&dead, &order_type, discard(), &input(2)).unwrap().order;
    assert_eq!((undoing.head.phase, undoing.head.done.len()), (Phase::Undoing, 1));
    // What the undo answers is not kept, so it may be of any size.
    let change = answer(&undoing, &order_type, oversized(), 3);
    assert_eq!(change.order.head.phase, Phase::Final);
    assert_eq!(change.order.head.done[0].state, DoneState::Undone);
}

#[test]
fn what_a_lost_worker_may_have_done_is_taken_back() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let order = accepted(&order_type, CARRIED);
    let begun = decide(&order, &order_type, cancel(false, true), &input(1))
        .unwrap()
        .order;
    assert_eq!(
        (begun.head.phase, begun.head.done[0].state),
        (Phase::Undoing, DoneState::Unknown)
    );
    let queued = decide(&order, &order_type, cancel(false, false), &input(1))
        .unwrap()
        .order;
    assert_eq!((queued.head.phase, queued.head.done.len()), (Phase::Final, 0));
}

#[test]
fn a_cancel_outlives_a_death_and_a_restart() {
    let order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    let waiting = decide(
        &accepted(&order_type, CARRIED),
        &order_type,
        cancel(true, true),
        &input(1),
    )
    .unwrap();
    // A result that is too large kills no order that is to be cancelled.
    let late = Report {
        started_at: input(1).now,
        ended_at: input(2).now,
        outcome: oversized(),
    };
    let undoing = report(&waiting.order, &order_type, late, &input(2)).order;
    assert_eq!(
        (&*undoing.head.status, undoing.head.phase),
        ("canceled", Phase::Undoing)
    );
    let mut dead = answer(&accepted(&order_type, CARRIED), &order_type, oversized(), 1).order;
    dead.head.intent = waiting.order.head.intent;
    let redrive = Command::Redrive {
        from: RedriveFrom::Start,
        edit: None,
    };
    let undoing = decide(&dead, &order_type, redrive, &input(3)).unwrap().order;
    let ended = answer(&undoing, &order_type, done(None), 4).order;
    assert_eq!((&*ended.head.status, ended.head.phase), ("canceled", Phase::Final));
}

#[test]
fn a_status_that_has_released_the_lane_does_not_take_it_again() {
    let mut order_type = sample(FifoScope::Life, DeadLetterInLane::Park);
    order_type.statuses["packing"].releases_lane = true;
    let mut order = accepted(&order_type, CARRIED);
    for second in 1..=2 {
        order = answer(&order, &order_type, done(None), second).order;
    }
    assert_eq!(&*order.head.status, "packing");
    let dead = answer(&order, &order_type, failed(), 3).order;
    assert_eq!(dead.head.phase, Phase::Dead);
    let redrive = Command::Redrive {
        from: RedriveFrom::FailedStep,
        edit: None,
    };
    let change = decide(&dead, &order_type, redrive, &input(4)).unwrap();
    assert_eq!(change.lane, LaneMove::default());
    // Who begins again does, and keeps its place while all is taken back.
    let redrive = Command::Redrive {
        from: RedriveFrom::Start,
        edit: None,
    };
    let mut change = decide(&dead, &order_type, redrive, &input(4)).unwrap();
    assert!(change.lane.enter.is_some_and(|entry| entry.resume));
    for second in 5..=6 {
        change = answer(&change.order, &order_type, done(None), second);
        assert_eq!(change.lane, LaneMove::default());
    }
    assert_eq!(
        (&*change.order.head.status, change.order.head.phase),
        ("received", Phase::Active)
    );
}
