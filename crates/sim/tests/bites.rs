//! The simulation bites: each planted bug is found, within so many seeds that a short run finds it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    reason = "a test's panic is its failure"
)]

use comanda_sim::{Plan, Plant, run, shrink};

/// Each bug must show within so many seeds.
const SEEDS_MAX: u64 = 300;

/// The first seed that finds a bug, and what is said of it.
fn found(plant: Plant) -> (Plan, String) {
    for seed in 0..SEEDS_MAX {
        let plan = Plan::of(seed).planted(plant);
        if let Some(failure) = run(&plan, false).failure {
            return (plan, failure);
        }
    }
    panic!("{plant:?} was not found within {SEEDS_MAX} seeds");
}

/// A planted bug is found, and what is said of it names the promise that it breaks.
fn bites(plant: Plant, promises: &[&str]) {
    let (plan, failure) = found(plant);
    println!("{plant:?}: seed {}: {failure}", plan.seed);
    assert!(
        promises.iter().any(|promise| failure.contains(promise)),
        "{plant:?} was found by seed {}, but as: {failure}",
        plan.seed
    );
}

#[test]
fn a_result_dropped_after_an_edit() {
    bites(Plant::ResultDroppedAfterEdit, &["a result is never dropped"]);
}

#[test]
fn the_own_lost_commit_taken_for_stale() {
    bites(Plant::OwnCommitTakenForStale, &["a result is never dropped"]);
}

#[test]
fn a_step_before_its_commit_is_durable() {
    bites(
        Plant::StepBeforeDurable,
        &["durable before visible", "accepted is durable"],
    );
}

#[test]
fn a_token_issued_again_after_a_restart() {
    bites(Plant::TokensRepeat, &["never issued twice", "given twice"]);
}

#[test]
fn two_heads_in_one_lane() {
    bites(Plant::TwoHeads, &["lanes", "first in, first out"]);
}

#[test]
fn no_head_in_a_lane() {
    bites(Plant::NoHead, &["lanes", "silently stuck"]);
}

#[test]
fn the_key_of_an_earlier_visit() {
    bites(Plant::OldVisitKey, &["carries the key"]);
}

#[test]
fn a_wake_up_that_only_the_queue_knew() {
    bites(Plant::WakeOnlyInQueue, &["silently stuck"]);
}

#[test]
fn an_acceptance_that_is_not_durable() {
    bites(Plant::AcceptedNotDurable, &["accepted is durable"]);
}

#[test]
fn a_key_that_leads_to_two_orders() {
    bites(Plant::KeyUnchecked, &["same key", "exists once"]);
}

#[test]
fn a_lease_that_is_ignored() {
    bites(
        Plant::LeaseIgnored,
        &["one at a time", "stale", "was written down as late"],
    );
}

#[test]
fn an_effect_that_is_forgotten() {
    bites(
        Plant::EffectForgotten,
        &[
            "is not remembered",
            "was forgotten",
            "refused is undone",
            "undone in reverse",
        ],
    );
}

#[test]
fn a_workers_lease_that_is_ignored() {
    bites(Plant::WorkerLeaseIgnored, &["one at a time", "and it holds the work"]);
}

#[test]
fn a_stale_answer_that_counts() {
    bites(Plant::StaleAnswerCounts, &["a stale token's result"]);
}

#[test]
fn an_item_that_is_missing() {
    bites(Plant::ItemMissing, &["silently stuck"]);
}

#[test]
fn items_side_by_side() {
    bites(Plant::ItemsUnordered, &["first in, first out: an item"]);
}

#[test]
fn an_item_that_comes_again() {
    bites(Plant::ItemRepeats, &["an item of"]);
}

#[test]
fn a_question_that_is_not_asked() {
    bites(Plant::QuestionNotAsked, &["as if it were known"]);
}

#[test]
fn a_callback_that_is_turned_away() {
    bites(Plant::CallbackTurnedAway, &["turned away while it is waited for"]);
}

#[test]
fn an_approval_that_is_skipped() {
    bites(Plant::ApprovalSkipped, &["nobody has said yes"]);
}

#[test]
fn a_hold_that_is_released_twice() {
    bites(Plant::HoldReleasedTwice, &["stock: the store says"]);
}

#[test]
fn stock_that_is_not_taken() {
    bites(Plant::StockNotTaken, &["stock: the store says"]);
}

#[test]
fn a_posting_that_is_repeated_and_applied_again() {
    bites(Plant::PostingRepeats, &["was applied a second time"]);
}

#[test]
fn a_payment_that_was_given_up_and_stands() {
    bites(Plant::VoidForgotten, &["money:"]);
}

#[test]
fn a_cursor_that_passes_events_before_they_are_sent() {
    bites(Plant::CursorBeforeDelivery, &["subscriptions:"]);
}

#[test]
fn what_could_not_be_sent_is_forgotten_at_a_restart() {
    bites(Plant::ExceptionDropped, &["subscriptions:"]);
}

#[test]
fn events_the_wrong_way_round() {
    bites(Plant::FeedSwaps, &["subscriptions:"]);
}

#[test]
fn an_event_that_never_comes_up() {
    bites(Plant::FeedSkips, &["subscriptions:"]);
}

#[test]
fn a_pause_that_is_forgotten() {
    bites(Plant::PauseForgotten, &["and is paused"]);
}

#[test]
fn a_lane_that_is_announced_out_of_order() {
    bites(Plant::LaneForgotten, &["of its lane"]);
}

#[test]
fn a_failing_plan_is_shrunk_and_still_fails() {
    let (plan, _) = found(Plant::NoHead);
    let small = shrink(&plan, 300);
    assert!(
        small.actions.len() <= plan.actions.len() && small.actions.len() <= 8,
        "{small}"
    );
    assert!(run(&small, false).failure.is_some());
}
