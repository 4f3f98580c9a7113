//! Workflows on every store: what the tests share, and the cases, each of which runs on each store.

pub mod cases;
pub mod crowd;
pub mod failing;

use std::time::Duration;

use buttress_checkpoint::{Config, Cx, Failure, Workflows};
use buttress_core::Backoff;
use buttress_store::{JournalStore, Memory};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A number that the environment may give: how much of it, or which one of many.
pub fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Long enough for a machine on which all is slow, and short enough to be waited for.
pub const SHORT: Duration = Duration::from_secs(3);

/// Runs are held for three seconds at a time, so that what a crash leaves is taken over after that.
pub fn short() -> Config {
    quick(SHORT)
}

/// Runs are held for an hour at a time: nothing is lost because a machine is slow.
pub fn long() -> Config {
    quick(Duration::from_secs(3600))
}

/// With a lease of this length, of which a fifth is the margin.
pub fn quick(lease: Duration) -> Config {
    let config = Config::default().replay_patience(Duration::from_millis(200)).lease(lease, lease / 5);
    config
        .and_then(|config| config.poll_interval(Duration::from_millis(20)))
        .expect("it is within its bounds")
}

/// A worker that runs in the background.
#[derive(Debug)]
pub struct Worker {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Worker {
    /// Begins to run what is due.
    pub fn start<S: JournalStore>(workflows: &Workflows<S>) -> Self {
        let (stop, stopped) = oneshot::channel();
        let workflows = workflows.clone();
        let task = tokio::spawn(async move {
            workflows
                .run_until(async {
                    let _ = stopped.await;
                })
                .await;
        });
        Self { stop, task }
    }

    /// Shuts it down, and waits until it has given back what it held.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.expect("a worker does not panic");
    }

    /// Ends it in the middle of whatever it does: as a crash would, it gives nothing back.
    pub async fn crash(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// Two steps, of which the second one fails once, and a sleep for which the run is put down: `order-42`, on a paused clock.
///
/// # Panics
///
/// If it fails.
pub fn order(config: Config) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime can be built").block_on(async {
        let workflows = Workflows::with(Memory::new(), config);
        let code = async |cx: Cx, ()| {
            cx.step("reserve", async || Ok::<_, Failure>(())).await?;
            let mut first = true;
            let charge = move || {
                let fails = std::mem::take(&mut first);
                std::future::ready(if fails { Err(Failure::new("no")) } else { Ok(7) })
            };
            let paid =
                cx.step("charge", charge).retry(Backoff::constant(Duration::from_millis(1)), 1).await?;
            cx.sleep(Duration::from_secs(3600)).await?;
            Ok::<_, Failure>(paid)
        };
        let flow = workflows.register("order", 1, code).expect("it is the first");
        let worker = Worker::start(&workflows);
        let handle = flow.start("order-42", ()).await.expect("it begins");
        assert_eq!(handle.result().await.ok(), Some(7));
        worker.stop().await;
    });
}

/// Makes one test of each case, on the backend that the expression gives.
#[macro_export]
macro_rules! behaviours {
    ($backend:expr) => {
        services::each_case! { $backend, $crate,
            start: a_run_is_stored_before_its_body_starts
            start: another_input_or_workflow_under_one_identity_is_a_conflict
            start: a_version_is_registered_once
            start: recovery_and_a_start_of_the_same_run_race_and_the_body_runs_once
            crash: a_recorded_step_never_runs_again_and_an_open_one_has_the_same_key
            crash: a_step_that_runs_at_most_once_is_not_run_again
            crash: an_interrupted_step_is_reconciled
            crash: joined_steps_keep_their_identities
            crash: a_step_that_was_built_and_dropped_spends_its_number
            crash: attempts_and_delays_survive
            crash: a_sleep_keeps_its_first_wake_time
            crash: a_child_is_not_started_twice
            crash: a_race_has_the_same_winner
            crash: compensations_run_in_reverse_and_each_is_recorded_once
            undo: attempts_at_undoing_survive_and_come_to_an_end
            undo: a_shutdown_waits_for_no_compensation_for_ever
            undo: a_compensation_that_hangs_or_panics_is_tried_again
            change: a_renamed_step_pauses_the_run_and_the_old_code_goes_on
            change: a_result_of_another_shape_is_an_error_that_names_the_step
            change: a_step_with_another_input_pauses_the_run
            change: a_mismatch_fails_the_run_where_that_is_wanted
            change: a_patch_is_for_runs_that_come_to_it_later
            errors: a_recorded_error_is_the_same_error_without_running_again
            errors: a_step_elsewhere_is_an_error_and_writes_nothing
            errors: a_step_inside_of_a_step_is_an_error_and_shifts_nothing
            errors: a_result_that_is_too_large_is_an_error_and_the_journal_readable
            errors: a_body_that_takes_too_long_is_dropped
            workers: each_run_has_one_owner
            workers: a_body_is_dropped_before_its_lease_ends_and_records_nothing
            workers: a_run_whose_leases_the_store_did_not_renew_is_not_parked
            workers: a_worker_that_drains_strands_nothing
            workers: a_store_that_fails_in_the_sweep_loses_nothing
            workers: a_run_that_always_panics_is_parked_and_harms_no_other
            workers: a_run_without_code_is_left_alone
            workers: pruning_takes_what_is_over_and_nothing_else
            operator: a_cancelled_run_stops_before_its_next_step
            operator: a_preemptible_step_is_dropped_by_a_cancellation
            operator: a_run_that_gets_further_after_each_crash_is_not_parked
            operator: a_halted_run_that_is_cancelled_is_undone
            operator: a_cancelled_run_that_cannot_be_undone_waits_for_an_operator
            operator: a_run_without_code_is_ended_by_abandoning_it
            simple: a_save_whose_answer_was_lost_loses_nothing
            simple: a_cancelled_checkpoint_is_over
            forks: a_retry_from_a_step_does_the_rest_again
            forks: a_retry_from_a_late_step_copies_all_that_was_done_before
            forks: what_was_undone_is_not_taken_for_done
            forks: a_run_that_is_being_undone_is_not_continued
            forks: a_retry_that_is_refused_changes_nothing
            forks: a_retry_keeps_what_began_before_in_whatever_order_it_ended
        }
    };
}

#[cfg(doctest)]
#[doc = include_str!("../../../docs/checkpoint.md")]
struct Page;
