//! Several worker processes, some of which are killed or stopped, or lose their store, in the middle of what they do.

use std::time::Duration;

use checkpoint_tests::crowd::{Crowd, Process};
use checkpoint_tests::number_from;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

const WORKER: &str = env!("CARGO_BIN_EXE_crowd");

/// CP-1, CP-6. `BUTTRESS_CHAOS_SECONDS` says for how long, `BUTTRESS_SEED` whom it hits when.
#[tokio::test]
async fn postgres_workers_are_killed_and_stopped_each_second_and_each_effect_is_had_once() {
    let (seconds, seed) = (number_from("BUTTRESS_CHAOS_SECONDS", 20), number_from("BUTTRESS_SEED", 1));
    let began = Instant::now();
    let server = services::Postgres::start();
    let mut crowd = Crowd::open(&server.url(), WORKER).await;
    let mut workers: Vec<(Process, Option<u64>)> = (0..4).map(|_| (crowd.worker(), None)).collect();
    // As long as it takes, if nothing happened.
    crowd.begin("run", 20, (u32::try_from(seconds).unwrap() * 2, 500)).await;
    let (mut rng, mut killed, mut stopped) = (StdRng::seed_from_u64(seed), 0, 0);
    for second in 1..=seconds {
        sleep(Duration::from_secs(1)).await;
        let at = rng.random_range(0..workers.len());
        if rng.random_bool(0.5) {
            workers[at] = (crowd.worker(), None);
            killed += 1;
        } else {
            workers[at].0.freeze(true);
            workers[at].1 = Some(second + rng.random_range(1..4));
            stopped += 1;
        }
        for (worker, until) in &mut workers {
            if until.take_if(|until| *until <= second).is_some() {
                worker.freeze(false);
            }
        }
    }
    workers.iter().for_each(|(worker, _)| worker.freeze(false));
    let (effects, repeated) = crowd.over().await;
    assert!(workers.iter_mut().all(|(worker, _)| worker.is_alive()), "seed {seed}");
    println!(
        "chaos on PostgreSQL: 20 workflows on 4 worker processes, {killed} killed and {stopped} stopped in {seconds} s (seed \
         {seed}): {effects} effects, each once, {repeated} of them asked for again; {:.0?} in all, failures 0",
        began.elapsed()
    );
}

/// A worker that is stopped for longer than its leases, and then goes on.
async fn zombie(url: &str, is_free: impl Fn() -> bool) {
    let mut crowd = Crowd::open(url, WORKER).await;
    let mut zombie = crowd.worker();
    crowd.begin("run", 8, (6, 50)).await;
    crowd.requests(12).await;
    zombie.freeze(true);
    // Whoever is stopped while it writes keeps a file locked.
    while !is_free() {
        zombie.freeze(false);
        sleep(Duration::from_millis(3)).await;
        zombie.freeze(true);
    }
    let other = crowd.worker();
    crowd.over().await;
    let before = crowd.journals().await;
    zombie.freeze(false);
    // It ends what it was in the middle of: effects, which have their keys, but no record.
    sleep(Duration::from_secs(1)).await;
    assert_eq!(crowd.journals().await, before, "it recorded something");
    assert!(zombie.is_alive());
    crowd.over().await;
    drop(other);
    crowd.begin("later", 2, (2, 10)).await;
    crowd.over().await;
}

/// CP-8
#[tokio::test]
async fn sqlite_a_stopped_worker_records_nothing_once_it_lost_its_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("runs.db");
    let is_free = || {
        let other = rusqlite::Connection::open(&path).unwrap();
        other.busy_timeout(Duration::ZERO).unwrap();
        other.execute_batch("BEGIN IMMEDIATE; ROLLBACK").is_ok()
    };
    zombie(&format!("sqlite:{}", path.display()), is_free).await;
}

/// CP-8
#[tokio::test]
async fn postgres_a_stopped_worker_records_nothing_once_it_lost_its_runs() {
    let server = services::Postgres::start();
    zombie(&server.url(), || true).await;
}

/// CP-8
#[tokio::test]
async fn redis_a_stopped_worker_records_nothing_once_it_lost_its_runs() {
    let server = services::Redis::start();
    zombie(&server.url(), || true).await;
}

/// A store that is gone, three times, for longer than a lease.
async fn restarts(url: &str, mut up: impl FnMut(bool)) {
    let mut crowd = Crowd::open(url, WORKER).await;
    let mut workers = [crowd.worker(), crowd.worker()];
    crowd.begin("run", 8, (12, 250)).await;
    for requests in [10, 40, 70] {
        crowd.requests(requests).await;
        up(false);
        sleep(Duration::from_millis(1200)).await;
        up(true);
    }
    let (_, repeated) = crowd.over().await;
    assert!(repeated > 0, "steps lost their leases while they ran");
    assert!(workers.iter_mut().all(Process::is_alive));
}

/// CP-8, CP-10
#[tokio::test]
async fn postgres_is_killed_and_restarted_and_no_run_loses_or_repeats_a_step() {
    let mut server = services::Postgres::start();
    let url = server.url();
    restarts(&url, |up| if up { server.restart() } else { server.kill() }).await;
}

/// CP-8, CP-10
#[tokio::test]
async fn redis_is_killed_and_restarted_and_no_run_loses_or_repeats_a_step() {
    let mut server = services::Redis::start();
    let url = server.url();
    restarts(&url, |up| if up { server.restart() } else { server.kill() }).await;
}

/// CP-8, CP-10
#[tokio::test]
async fn redis_is_stopped_for_longer_than_a_lease_and_no_run_loses_or_repeats_a_step() {
    let mut server = services::Redis::start();
    let url = server.url();
    restarts(&url, |up| server.freeze(!up)).await;
}
