//! Workers that crash, stop and lose their store at random, on a paused clock: each seed is one history, which can be had
//! again. `BUTTRESS_SEEDS=10000` tries more, from `BUTTRESS_SEED` on.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_checkpoint::{Cx, Failure, Workflows};
use buttress_store::{JournalStore, Memory, StatusKind};
use checkpoint_tests::cases::{Effects, id};
use checkpoint_tests::failing::Failing;
use checkpoint_tests::{Worker, number_from, quick};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

const RUNS: usize = 4;
const STEPS: usize = 5;

/// Gives all that was done, and when.
async fn history(seed: u64) -> Vec<(Duration, String)> {
    let (mut rng, began) = (StdRng::seed_from_u64(seed), Instant::now());
    let told = Arc::<Mutex<Vec<(Duration, String)>>>::default();
    let (store, effects) = (Memory::new(), Effects::default());
    let start = || {
        let failing = Failing::new(store.clone());
        let config = quick(Duration::from_secs(2)).max_recoveries(1000).seed(seed);
        let workflows = Workflows::with(failing.clone(), config);
        let (body, told) = (effects.clone(), told.clone());
        let code = move |cx: Cx, ()| {
            let (effects, told) = (body.clone(), told.clone());
            async move {
                for step in 0..STEPS {
                    let name = format!("{} {step}", cx.run_id());
                    let body = async || {
                        sleep(Duration::from_millis(300)).await;
                        told.lock().unwrap().push((began.elapsed(), name.clone()));
                        effects.done(&name)
                    };
                    cx.step("step", body).await?;
                    // What follows a step is entered by its record only.
                    assert!(effects.count(&name) > 0);
                }
                Ok::<_, Failure>(STEPS)
            }
        };
        let flow = workflows.register("w", 1, code).unwrap();
        (Worker::start(&workflows), failing, flow)
    };
    let mut workers = vec![start(), start()];
    for run in 0..RUNS {
        workers[0].2.start(format!("run {run}"), ()).await.unwrap();
    }
    for _ in 0..20 {
        sleep(Duration::from_millis(rng.random_range(0..1500))).await;
        let at = rng.random_range(0..workers.len());
        match rng.random_range(0..4) {
            0 => workers.swap_remove(at).0.crash().await,
            1 => workers.swap_remove(at).0.stop().await,
            2 => workers[at].1.fail_every(rng.random_range(1..4)),
            _ => workers[at].1.fail_every(0),
        }
        while workers.len() < 2 {
            workers.push(start());
        }
    }
    workers.iter().for_each(|(_, failing, _)| failing.fail_every(0));
    for run in 0..RUNS {
        let handle = workers[0].2.handle(id(&format!("run {run}")));
        assert_eq!(handle.result().await.unwrap(), STEPS, "seed {seed}");
        let run = store.load(handle.id()).await.unwrap().unwrap();
        assert_eq!(run.info.status.kind(), StatusKind::Done);
        assert_eq!(run.entries.len(), STEPS + 1, "each step is recorded once, seed {seed}");
    }
    for (name, keys) in effects.keys() {
        assert!(keys.iter().all(|key| *key == keys[0]), "{name} of seed {seed}: {keys:?}");
    }
    told.lock().unwrap().push((began.elapsed(), "over".to_owned()));
    std::mem::take(&mut *told.lock().unwrap())
}

/// On a clock of its own.
fn run(seed: u64) -> Vec<(Duration, String)> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let ended = runtime.block_on(async { tokio::spawn(history(seed)).await });
    ended.unwrap_or_else(|error| panic!("seed {seed}: {error:?}"))
}

#[test]
fn whatever_workers_and_stores_do_each_run_ends_and_each_step_is_recorded_once() {
    let (first, seeds) = (number_from("BUTTRESS_SEED", 0), number_from("BUTTRESS_SEEDS", 200));
    let began = Instant::now();
    for seed in first..first + seeds {
        run(seed);
    }
    let took = began.elapsed();
    println!("simulation: seeds {first} to {} in {took:.0?}, failures 0", first + seeds - 1);
}

#[test]
fn a_seed_gives_the_same_history_again() {
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
