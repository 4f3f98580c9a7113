//! Workflows on every store: what the tests share, and the cases, each of which runs on each store.

pub mod cases;
pub mod crowd;
pub mod failing;

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use buttress_checkpoint::{Config, Workflows};
use buttress_cli::AnyStore;
use buttress_store::{JournalStore, Memory, Sqlite};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A store under test, and what has to live as long as it.
#[derive(Debug)]
pub struct Opened<S> {
    /// The store.
    pub store: S,
    _server: Box<dyn Any + Send>,
}

/// Opens an empty store.
pub trait Backend {
    /// The store.
    type Store: JournalStore;
    /// Whether the store's clock is tokio's, and is paused.
    const PAUSED: bool = false;
    /// An empty one.
    fn open(&self) -> impl Future<Output = Opened<Self::Store>>;

    /// The runtime of a case.
    fn runtime(&self) -> Runtime {
        Builder::new_current_thread()
            .enable_all()
            .start_paused(Self::PAUSED)
            .build()
            .expect("a runtime can be built")
    }
}

/// The store in memory, on a paused clock.
#[derive(Debug)]
pub struct InMemory;

impl Backend for InMemory {
    type Store = Memory;
    const PAUSED: bool = true;

    async fn open(&self) -> Opened<Memory> {
        Opened { store: Memory::new(), _server: Box::new(()) }
    }
}

/// A SQLite file of its own.
#[derive(Debug)]
pub struct InSqlite;

impl Backend for InSqlite {
    type Store = Sqlite;

    async fn open(&self) -> Opened<Sqlite> {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let store = Sqlite::open(folder.path().join("runs.db")).await.expect("it opens");
        Opened { store, _server: Box::new(folder) }
    }
}

/// A PostgreSQL server of its own.
#[derive(Debug)]
pub struct InPostgres;

impl Backend for InPostgres {
    type Store = AnyStore;

    async fn open(&self) -> Opened<AnyStore> {
        let server = services::Postgres::start();
        let url = postgres_url(&server);
        Opened { store: AnyStore::open(&url).await.expect("it opens"), _server: Box::new(server) }
    }
}

/// How the command line names a server.
pub fn postgres_url(server: &services::Postgres) -> String {
    format!("postgres://buttress@127.0.0.1:{}/postgres", server.port())
}

/// A Redis server of its own.
#[derive(Debug)]
pub struct InRedis;

impl Backend for InRedis {
    type Store = AnyStore;

    async fn open(&self) -> Opened<AnyStore> {
        let server = services::Redis::start();
        Opened { store: AnyStore::open(&server.url()).await.expect("it opens"), _server: Box::new(server) }
    }
}

/// A number that the environment may give: how much of it, or which one of many.
pub fn number_from(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Runs are held for a second at a time, so that what a crash leaves is taken over after a second.
pub fn short() -> Config {
    quick(Duration::from_secs(1))
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

/// Makes one test of each case, on the backend that the expression gives.
#[macro_export]
macro_rules! behaviours {
    ($backend:expr) => {
        $crate::each_behaviour! { $backend,
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
            workers: a_cancelled_run_stops_before_its_next_step
            workers: a_preemptible_step_is_dropped_by_a_cancellation
            workers: a_run_that_always_panics_is_parked_and_harms_no_other
            workers: a_run_without_code_is_left_alone
            workers: pruning_takes_what_is_over_and_nothing_else
            workers: a_retry_from_a_step_does_the_rest_again
            simple: a_save_whose_answer_was_lost_loses_nothing
            simple: a_cancelled_checkpoint_is_over
            workers: a_retry_from_a_late_step_copies_all_that_was_done_before
            operator: a_run_that_gets_further_after_each_crash_is_not_parked
            operator: a_halted_run_that_is_cancelled_is_undone
            operator: a_cancelled_run_that_cannot_be_undone_waits_for_an_operator
            operator: a_run_without_code_is_ended_by_abandoning_it
            operator: what_was_undone_is_not_taken_for_done
            operator: a_run_that_is_being_undone_is_not_continued
            operator: a_retry_that_is_refused_changes_nothing
            operator: a_retry_keeps_what_began_before_in_whatever_order_it_ended
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! each_behaviour {
    ($backend:expr, $($module:ident: $case:ident)+) => {
        $(
            #[test]
            fn $case() {
                let backend = $backend;
                $crate::Backend::runtime(&backend).block_on(async {
                    let opened = $crate::Backend::open(&backend).await;
                    $crate::cases::$module::$case(opened.store.clone()).await;
                });
            }
        )+
    };
}

#[cfg(doctest)]
#[doc = include_str!("../../../docs/checkpoint.md")]
struct Page;
