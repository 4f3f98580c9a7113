//! Calls carried out once: the cases, each of which runs on each store, and what the tests across processes share.

pub mod cases;
mod faulty;
mod rig;

pub use faulty::{Faulty, Switch};
pub use rig::{Got, Handler, Log, Rig, post, until};

/// The page on idempotency; its examples are compiled.
#[doc = include_str!("../../../docs/idempotency.md")]
#[cfg(doctest)]
pub struct Page;

/// Makes one test of each case, on the backend that the expression gives.
#[macro_export]
macro_rules! behaviours {
    ($backend:expr) => {
        services::each_case! { $backend, $crate,
            replay: the_second_call_gets_the_answer_of_the_first
            replay: a_key_is_good_for_one_request
            replay: a_call_under_way_has_its_key_for_itself
            replay: json_in_another_order_and_other_headers_are_the_same_request
            replay: a_quoted_key_is_the_same_as_a_bare_one
            replay: what_is_no_key_is_refused_and_a_missing_one_where_it_is_required
            replay: headers_are_replayed_but_for_those_of_the_connection_and_the_date
            replay: tenants_do_not_see_each_others_keys
            replay: two_that_share_a_store_do_not_share_keys
            replay: a_stripped_path_can_be_compared_as_it_came
            replay: a_request_that_breaks_off_is_never_taken_for_a_whole_one
            replay: switched_off_a_function_runs_each_time
            replay: a_request_over_the_cap_is_refused_or_passes_with_and_without_a_length
            replay: nothing_of_a_request_that_passes_is_lost
            replay: an_answer_over_the_cap_is_delivered_and_never_made_again
            replay: observing_carries_everything_out_and_counts_the_duplicates
            contention: a_duplicate_of_a_call_under_way_is_refused
            contention: a_hundred_duplicates_wait_for_one_run_and_ask_the_store_once
            contention: a_wait_ends_in_time
            contention: a_duplicate_at_another_process_waits_in_the_store
            contention: a_call_that_waits_holds_no_permit_of_the_service_inside
            contention: whoever_waited_in_vain_gets_a_permit_before_it_goes_on
            contention: of_two_that_claim_the_same_keys_each_has_one_winner
            leases: what_a_crashed_owner_left_is_taken_over_after_its_lease
            leases: a_zombie_is_fenced_and_its_caller_gets_the_answer_of_the_new_owner
            leases: a_zombie_whose_heir_is_still_at_it_says_so
            leases: a_call_that_outlived_its_lease_unnoticed_is_recorded
            leases: a_zombie_that_fails_leaves_the_new_owners_record_alone
            leases: a_zombie_that_fails_frees_nothing_of_the_new_owners
            leases: a_slow_call_keeps_its_key_up_to_the_ceiling
            leases: a_lease_of_nothing_is_over_at_once
            leases: the_time_to_live_begins_with_the_completion
            leases: what_is_over_is_swept_in_bounded_batches_and_what_is_alive_is_replayed
            leases: an_answer_that_cannot_be_read_is_an_error_and_not_a_rerun
            outcomes: each_preset_stores_what_its_table_says
            outcomes: an_unknown_answer_is_made_again_once_the_lease_is_over
            outcomes: a_closure_decides_where_the_preset_is_wrong
            outcomes: a_stream_that_is_not_to_be_recorded_passes
            outcomes: a_panic_is_never_stored
            outcomes: an_unknown_effect_is_repeated_or_rejected
            outcomes: an_unknown_effect_is_looked_up
            going_away: a_call_whose_caller_went_away_is_carried_on_and_replayed
            going_away: a_call_that_was_dropped_before_it_began_never_begins
            going_away: a_timeout_outside_does_not_stop_the_effect_and_a_limit_inside_still_counts_it
            going_away: an_answer_streams_while_it_is_recorded
            going_away: a_stream_that_outlives_its_caller_is_counted
            going_away: whoever_saw_the_end_of_an_answer_gets_it_again
            going_away: a_shutdown_waits_for_what_has_begun_and_lets_nothing_begin
            going_away: a_shutdown_ends_in_time_and_says_what_was_left
            going_away: too_many_detached_calls_let_no_more_begin
            going_away: a_detached_call_that_hangs_ends_at_the_ceiling
            store_failures: without_the_store_nothing_is_done_unless_it_is_to_fail_open
            store_failures: an_answer_that_cannot_be_stored_is_given_and_stored_later
            store_failures: inline_an_answer_that_cannot_be_stored_is_given_and_its_key_lapses
            store_failures: a_claim_that_comes_too_late_is_refused_and_given_back
            store_failures: an_answer_that_the_store_has_no_room_for_is_never_made_again
            keyed: a_request_of_any_type_is_carried_out_once
            keyed: a_request_without_a_key_passes_unless_one_is_required
            keyed: the_handler_is_shown_its_claim
            keyed: an_error_frees_the_key_only_where_nothing_was_sent
            keyed: a_closure_judges_answers_and_errors
            keyed: an_unknown_transfer_is_looked_up
        }
    };
}
