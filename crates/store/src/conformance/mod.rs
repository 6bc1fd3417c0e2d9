//! What every store is held to: one check per promise of the port, written against [`Store`] alone.
//!
//! Orders are made and moved by the model's own decisions (see [`sample`]), so that a check asks a store for what the
//! engine asks it for. A check takes a store of its own, empty and open, and panics with what is wrong.
//!
//! A store's tests hold it to all of them with [`conformance_tests!`](crate::conformance_tests), one test per check:
//!
//! ```
//! use std::sync::Arc;
//! use comanda_store::{Store, memory::MemoryStore};
//!
//! async fn make() -> Arc<dyn Store> {
//!     Arc::new(MemoryStore::default())
//! }
//!
//! comanda_store::conformance_tests!(make);
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a check's panic is its finding"
)]

pub mod claims;
pub mod commits;
pub mod counts;
pub mod erasure;
pub mod feed;
pub mod history;
pub mod items;
pub mod keys;
pub mod lanes;
pub mod leases;
pub mod ledger;
pub mod lists;
pub mod notices;
pub mod oracle;
pub mod rates;
pub mod retention;
pub mod sample;
pub mod subscriptions;
pub mod work;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::Store;

/// How long one check may take: a store that never answers fails its check instead of holding up everything.
pub const CHECK_TIME_MAX: Duration = Duration::from_secs(120);

/// What a store's tests make for a check: a store, and with it whatever must outlive it (such as its directory).
pub trait Made {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;
}

impl Made for Arc<dyn Store> {
    fn store(&self) -> Arc<dyn Store> {
        self.clone()
    }
}

impl<G> Made for (Arc<dyn Store>, G) {
    fn store(&self) -> Arc<dyn Store> {
        self.0.clone()
    }
}

/// Holds one store to one check, then closes it.
pub async fn hold<M, C>(made: impl Future<Output = M>, check: impl FnOnce(Arc<dyn Store>) -> C)
where
    M: Made,
    C: Future<Output = ()>,
{
    let made = made.await;
    let store = made.store();
    let held = tokio::time::timeout(CHECK_TIME_MAX, check(store.clone())).await;
    held.expect("the check ends in time");
    store.close().await.expect("the store closes");
}

/// Calls the macro that is named first with `(make)` and the path of every check. New checks are entered here.
#[doc(hidden)]
#[macro_export]
macro_rules! each_conformance_check {
    ([$($each:tt)*] $make:expr) => {
        $($each)*! {
            ($make)
            commits::an_accepted_order_reads_back_to_the_letter
            commits::an_order_is_accepted_once
            commits::a_repeated_commit_answers_again
            commits::a_change_of_another_version_is_not_applied
            commits::data_is_written_only_where_it_changed
            commits::a_bad_commit_in_a_batch_fails_alone
            commits::commits_of_one_batch_stack
            commits::what_is_too_large_is_not_applied
            commits::what_is_resolved_can_be_read
            commits::reads_never_go_back
            commits::a_closed_store_takes_nothing
            commits::the_clock_never_goes_back
            keys::a_key_leads_to_its_order
            keys::a_taken_key_is_told_and_nothing_applied
            keys::an_expired_key_is_free
            keys::one_of_many_submitters_gets_the_key
            claims::each_due_order_is_claimed_once
            claims::what_is_due_first_is_claimed_first
            claims::what_is_due_later_is_not_claimed
            claims::more_than_was_asked_for_is_told
            claims::a_claim_changes_no_version
            claims::a_committer_takes_the_next_work
            claims::a_take_of_nothing_due_is_not_granted
            claims::a_take_ends_any_other_claim
            claims::a_dead_letter_is_not_due
            leases::an_ended_claim_is_stale
            leases::a_foreign_token_is_stale
            leases::the_token_is_checked_before_the_version
            leases::a_released_order_can_be_claimed
            leases::an_expired_claim_can_be_taken
            leases::an_expired_claim_that_nobody_took_counts
            leases::a_renewed_claim_holds
            work::work_in_a_queue_is_for_its_workers
            work::workers_who_race_get_different_orders
            work::a_lost_worker_is_told_of
            work::a_workers_claim_changes_no_version
            work::a_queue_has_the_head_of_a_lane
            work::a_cancel_that_waits_is_the_engines
            items::entering_a_status_is_told
            items::items_of_a_lane_come_in_order
            items::a_dead_item_that_leaves_is_passed
            items::an_item_of_a_lost_worker_comes_again
            items::an_order_stays_while_a_queue_has_it
            lanes::only_the_head_is_claimed
            lanes::a_cancelled_order_in_the_queue_goes
            lanes::what_was_decided_of_one_that_queues
            lanes::a_parked_dead_letter_holds_its_lane
            lanes::a_passed_dead_letter_returns_to_its_position
            lanes::a_redriven_order_heads_an_empty_lane
            lanes::a_commit_moves_between_lanes
            lanes::a_scheduled_order_enters_when_due
            lanes::a_queued_order_keeps_its_deadline
            lanes::who_is_promoted_too_early_is_not_told_of
            lanes::a_lane_is_worked_in_the_order_of_acceptance
            history::events_and_attempts_come_in_pages
            history::results_are_those_that_stand
            erasure::an_erased_order_tells_nothing
            notices::notices_stand_in_the_feed
            feed::the_feed_is_in_commit_order
            feed::a_reader_gets_every_event_once
            feed::a_foreign_cursor_is_reset
            feed::the_newest_is_where_the_feed_ends
            feed::the_position_is_announced
            lists::each_filter_lists_its_orders
            lists::pages_hold_every_order_once
            counts::counts_are_true_after_a_random_walk
            counts::causes_come_and_go
            counts::the_oldest_due_is_told
            counts::a_type_is_kept_once
            retention::what_is_old_goes_in_bites
            retention::keys_go_with_their_order
            retention::a_cursor_that_was_passed_is_reset
            rates::a_burst_is_granted_once
            rates::a_lease_is_of_use_or_takes_nothing
            rates::a_rate_comes_back_and_can_be_changed
            subscriptions::a_subscription_is_kept_whole
            subscriptions::progress_moves_in_one_act
            subscriptions::the_log_of_deliveries_is_bounded
            ledger::lines_move_with_their_commit
            ledger::all_lines_or_none
            ledger::lines_are_summed_per_account
            ledger::a_shortage_fails_alone
            ledger::a_line_moves_once
            ledger::the_ledger_is_judged_last
            ledger::a_race_for_the_last_units
            ledger::a_posting_happens_once
            ledger::accounts_come_in_pages
            ledger::balances_outlive_their_orders
            ledger::records_are_versioned
            oracle::it_does_as_the_memory_store_does
            oracle::it_does_as_the_memory_store_does_again
        }
    };
}

/// Makes one `#[tokio::test]` of every check. `$make` is an async function that makes an empty store:
/// `async fn make() -> Arc<dyn Store>`, or `-> (Arc<dyn Store>, Guard)` where something must live as long as the store.
/// The crate that uses it needs tokio with `macros`, `rt-multi-thread` and `time`.
#[macro_export]
macro_rules! conformance_tests {
    ($make:expr) => {
        $crate::each_conformance_check!([$crate::conformance_test] $make);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_test {
    (($make:expr) $($group:ident::$check:ident)*) => {
        $(
            #[::tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $check() {
                $crate::conformance::hold($make(), $crate::conformance::$group::$check).await;
            }
        )*
    };
}

/// Holds a store to every check, one after another, each with a store of its own.
pub async fn run_all<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future,
    Fut::Output: Made,
{
    macro_rules! one_after_another {
        (($make:expr) $($group:ident::$check:ident)*) => {
            $( hold($make(), $group::$check).await; )*
        };
    }
    each_conformance_check!([one_after_another] make);
}
