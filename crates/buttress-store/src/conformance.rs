//! What every store must do, as tests that anyone can run against a store of their own.
//!
//! ```
//! use std::time::Duration;
//! use buttress_store::{Memory, conformance::Harness};
//!
//! struct InMemory;
//!
//! impl Harness for InMemory {
//!     type Store = Memory;
//!
//!     async fn store(&self) -> Memory {
//!         Memory::new()
//!     }
//!
//!     async fn pass(&self, time: Duration) {
//!         tokio::time::sleep(time).await;
//!     }
//! }
//!
//! mod claims {
//!     buttress_store::claim_conformance!(super::InMemory);
//! }
//!
//! mod journals {
//!     buttress_store::journal_conformance!(super::InMemory);
//! }
//!
//! mod answers {
//!     buttress_store::answer_conformance!(super::InMemory);
//! }
//! ```
//!
//! Each case is a test of its own, with a runtime and a store of its own. A case never counts on a lease that is not over yet
//! because little time has passed: a slow machine makes no test fail.

pub mod answers;
pub mod claims;
pub mod journals;

use std::future::Future;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// A store under test, and its clock.
pub trait Harness: Send + Sync {
    /// The store.
    type Store;

    /// An empty store that nobody else uses.
    fn store(&self) -> impl Future<Output = Self::Store> + Send;

    /// Returns once at least this much time has passed on the store's clock: waits, or moves it.
    fn pass(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// The time after which what is to be over is over. It is waited for some dozens of times.
    fn short(&self) -> Duration {
        Duration::from_millis(50)
    }

    /// Whether what is of no use any more goes by itself, so that nothing is ever swept.
    fn expires_by_itself(&self) -> bool {
        false
    }

    /// The runtime in which a case runs; one with a paused clock, say, where the store follows it.
    fn runtime(&self) -> Runtime {
        Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
    }
}

/// What is not over before any case is.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// Makes one test of each case for [`ClaimStore`](crate::ClaimStore), with the [`Harness`](crate::conformance::Harness) that
/// the expression gives.
#[macro_export]
macro_rules! claim_conformance {
    ($harness:expr) => {
        $crate::conformance_cases! { claims, $harness,
            a_free_key_is_owned
            a_claimed_key_is_in_flight_for_others
            a_completed_key_gives_its_record_byte_for_byte
            another_fingerprint_is_a_mismatch_whatever_the_state
            a_lapsed_claim_is_taken_over_and_the_new_owner_learns_so
            who_lost_a_claim_can_write_nothing
            who_lost_a_claim_gets_the_winners_record
            a_lapsed_claim_that_nobody_took_is_still_its_owners
            a_renewed_claim_outlives_its_first_lease
            a_lease_can_be_made_shorter
            the_same_owner_gets_its_claim_again
            a_completion_can_be_repeated_and_the_first_one_counts
            a_released_key_is_free_at_once
            a_released_claim_can_write_nothing
            what_was_left_unfinished_stays_known_after_a_release
            a_lease_of_zero_is_over_at_once
            time_to_live_counts_from_completion
            an_unfinished_claim_is_forgotten_in_the_end
            scopes_and_keys_are_never_mixed_up
            looking_changes_nothing
            waiting_ends_with_the_completion
            waiting_ends_with_the_release
            waiting_ends_when_the_lease_is_over
            waiting_is_bounded
            a_waiter_that_leaves_harms_nobody
            of_many_that_claim_one_key_one_gets_it
            of_many_that_take_over_one_gets_it
            a_dropped_claim_can_be_asked_for_again
            sweeping_is_bounded_and_takes_only_what_is_over
        }
    };
}

/// Makes one test of each case for [`JournalStore`](crate::JournalStore), with the
/// [`Harness`](crate::conformance::Harness) that the expression gives.
#[macro_export]
macro_rules! journal_conformance {
    ($harness:expr) => {
        $crate::conformance_cases! { journals, $harness,
            a_queued_run_waits_to_be_acquired
            a_run_can_be_begun_and_held_in_one_step
            beginning_a_run_again_says_what_there_is
            beginning_a_run_can_be_repeated
            only_wanted_runs_are_acquired
            the_longest_due_run_comes_first
            a_held_run_is_not_acquired
            an_abandoned_run_is_acquired_and_its_recoveries_counted
            recoveries_are_counted_anew_once_a_run_gets_further
            who_lost_a_run_can_write_nothing
            a_lapsed_run_that_nobody_took_is_still_its_owners
            entries_come_back_as_they_were_written
            a_peek_gives_the_end_of_the_journal_and_nothing_else_of_it
            entries_have_no_gaps_and_none_is_there_twice
            an_append_can_be_repeated
            an_ending_can_be_repeated
            the_last_entry_and_the_end_are_one_write
            a_run_that_is_given_back_is_acquired_at_once
            a_run_sleeps_until_its_time
            a_halted_run_waits_for_an_operator
            a_run_that_is_over_never_changes
            a_holder_learns_that_it_is_to_cancel
            what_is_to_be_cancelled_is_halted_like_any_other
            cancelling_wakes_what_sleeps_or_is_halted_so_that_it_can_clean_up
            what_is_abandoned_is_over_at_once_whatever_it_did
            commands_for_unknown_runs_find_nothing
            listings_are_filtered
            pages_miss_nothing_and_repeat_nothing
            pruning_is_bounded_and_takes_only_what_is_over
            pruning_deletes_long_journals_one_after_another
            the_parents_of_what_is_not_over_stay
            of_many_that_acquire_each_run_goes_to_one
            an_acquired_run_is_never_half_written
        }
    };
}

/// Makes one test of each case for [`AnswerStore`](crate::AnswerStore), with the [`Harness`](crate::conformance::Harness) that
/// the expression gives.
#[macro_export]
macro_rules! answer_conformance {
    ($harness:expr) => {
        $crate::conformance_cases! { answers, $harness,
            what_was_put_comes_back_byte_for_byte
            an_answer_is_as_old_as_its_call
            an_answer_is_there_until_its_time_is_over
            the_newer_answer_stays_whichever_comes_first
            a_put_can_be_repeated
            what_was_forgotten_is_gone_and_a_late_answer_does_not_bring_it_back
            what_was_forgotten_while_an_answer_was_on_its_way_does_not_come_back
            what_was_asked_for_after_it_was_forgotten_is_kept
            a_newer_answer_is_not_forgotten
            a_scope_is_forgotten_as_a_whole_and_others_are_not
            scopes_and_keys_of_answers_are_never_mixed_up
            trimming_keeps_the_newest_within_the_bound
            trimming_is_bounded_and_takes_what_is_of_no_use
            of_many_puts_at_once_the_newest_stays
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    ($suite:ident, $harness:expr, $($case:ident)+) => {
        $(
            #[test]
            fn $case() {
                let harness = $harness;
                let runtime = $crate::conformance::Harness::runtime(&harness);
                runtime.block_on($crate::conformance::$suite::$case(&harness));
            }
        )+
    };
}
