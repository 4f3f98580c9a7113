//! Which steps are undone, and under which keys.

mod common;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use buttress_checkpoint::{Cx, Failure, RunError, StepKey, Workflows};
use buttress_store::Memory;
use common::{Log, crash_at, end};
use tokio::time::sleep;

fn failed<T: std::fmt::Debug>(result: Result<T, RunError<Failure>>, text: &str) {
    match result {
        Err(RunError::Failed(error)) => assert_eq!(error.message(), text),
        other => panic!("{other:?}"),
    }
}

/// Two steps side by side, of which the first one fails and the second one is done: nobody awaits what that one gives.
async fn beside(cx: Cx, log: Log, hangs: bool) -> Result<(), Failure> {
    let (undoing, tried) = (log.clone(), log.clone());
    let undo = move |cents: u32| {
        undoing.add(format!("refund {cents}"));
        let log = undoing.clone();
        async move {
            if hangs && log.count("refund 7") == 1 {
                return pending().await;
            }
            Ok::<_, Failure>(())
        }
    };
    let charge = cx.step("charge", async || {
        log.add("charge");
        Ok::<_, Failure>(7)
    });
    let fails = cx.step("fails", async || {
        tried.add("fails");
        Err::<(), _>(Failure::new("out of stock"))
    });
    tokio::try_join!(fails, charge.compensate(undo))?;
    Ok(())
}

/// CP-27
#[tokio::test(start_paused = true)]
async fn a_step_that_is_recorded_is_undone_though_nobody_awaits_it() {
    let log = Log::default();
    let shared = log.clone();
    let result = end(&Memory::new(), move |cx| beside(cx, shared.clone(), false)).await;
    failed(result, "out of stock");
    assert_eq!(log.count("refund 7"), 1);
}

/// CP-27
#[tokio::test(start_paused = true)]
async fn a_replay_undoes_what_nobody_awaits_too() {
    let (store, log) = (Memory::new(), Log::default());
    let shared = log.clone();
    let code = move |cx| beside(cx, shared.clone(), true);
    crash_at(&store, &log, "refund 7", code.clone()).await;
    failed(end(&store, code).await, "out of stock");
    assert_eq!((log.count("charge"), log.count("refund 7")), (1, 2));
}

/// CP-27
#[tokio::test(start_paused = true)]
async fn each_compensation_has_the_key_of_its_step_and_one_of_its_own() {
    let log = Log::default();
    let shared = log.clone();
    let code = move |cx: Cx| {
        let log = shared.clone();
        async move {
            for number in 0..3 {
                let (undoing, within) = (log.clone(), cx.clone());
                let undo = move |()| {
                    let key = within.key("charge").map(|key| key.to_string());
                    let (log, cx) = (undoing.clone(), within.clone());
                    async move {
                        let own = StepKey::current().unwrap();
                        assert_eq!(key, cx.key("charge").map(|key| key.to_string()));
                        log.add(format!("undo {number} {}", key?));
                        log.add(format!("own {own}"));
                        Ok::<_, Failure>(())
                    }
                };
                let next = cx.key("charge")?;
                let step = cx.step("charge", async || {
                    let key = cx.key("charge")?;
                    assert!(key == next && StepKey::current() == Some(key.clone()));
                    log.add(format!("do {number} {key}"));
                    Ok::<_, Failure>(())
                });
                assert_eq!(step.key()?, next);
                step.compensate(undo).await?;
            }
            // A name that is no other's.
            let other = cx.step("compensate charge", async || {
                log.add(format!("own {}", StepKey::current().unwrap()));
                Ok::<_, Failure>(())
            });
            other.await?;
            Err::<(), _>(Failure::new("out of stock"))
        }
    };
    failed(end(&Memory::new(), code).await, "out of stock");
    let all = log.all();
    let keys = |what: &str, number: usize| {
        all.iter().find_map(|line| line.strip_prefix(&format!("{what} {number} "))).unwrap().to_owned()
    };
    for number in 0..3 {
        assert_eq!(keys("do", number), keys("undo", number));
        assert_ne!(keys("do", number), keys("do", (number + 1) % 3));
    }
    let mut own: Vec<_> = all.iter().filter(|line| line.starts_with("own")).collect();
    own.sort();
    own.dedup();
    assert_eq!(own.len(), 4, "{own:?}");
}

#[tokio::test(start_paused = true)]
async fn a_run_lets_go_of_everything_when_it_ends_sleeps_or_is_lost() {
    let held = Arc::new(());
    let workflows = Workflows::open(Memory::new());
    let shared = held.clone();
    let code = move |cx: Cx, ()| {
        let held = shared.clone();
        async move {
            let (kept, within) = (held.clone(), cx.clone());
            let undo = move |()| {
                let _ = (&kept, &within);
                std::future::ready(Ok::<_, Failure>(()))
            };
            cx.step("a", async || Ok::<_, Failure>(())).compensate(undo).await?;
            cx.sleep(Duration::from_secs(3600)).await?;
            Ok::<_, Failure>(())
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let (first, second) = (flow.start("first", ()).await.unwrap(), flow.start("second", ()).await.unwrap());
    let ended = async {
        sleep(Duration::from_secs(60)).await;
        // This one and that of the code.
        assert_eq!(Arc::strong_count(&held), 2, "both runs are asleep");
        first.result().await.unwrap();
        second.result().await.unwrap();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(Arc::strong_count(&held), 2, "both runs are over");
    };
    tokio::select! {
        () = workflows.run_until(pending()) => {}
        () = ended => {}
    }
}

/// CP-21
#[tokio::test(start_paused = true)]
async fn what_is_built_in_a_spawned_task_is_an_error_and_takes_no_place() {
    let (store, log) = (Memory::new(), Log::default());
    let shared = log.clone();
    let code = move |cx: Cx| {
        let log = shared.clone();
        async move {
            let (within, inner) = (cx.clone(), cx.clone());
            let task = tokio::spawn(async move {
                let step = within.step("note", async || Ok::<_, Failure>(()));
                let no_key = step.key().is_err() && within.key("note").is_err();
                (step.await.is_err(), within.sleep(Duration::ZERO).await.is_err(), no_key)
            });
            let refused = task.await.unwrap();
            let body = async || {
                let within = inner.clone();
                let task = async move { within.step("inner", async || Ok::<_, Failure>(())).await.is_err() };
                Ok::<_, Failure>(tokio::spawn(task).await.unwrap())
            };
            let inside = cx.step("a", body).await?;
            log.add("after a");
            cx.sleep(Duration::from_secs(3600)).await?;
            Ok((refused, inside))
        }
    };
    assert_eq!(end(&store, code).await.unwrap(), ((true, true, true), true));
    let places: Vec<String> = common::names(&store).await;
    assert_eq!(places, ["a", "sleep", "sleep", ""]);
    assert_eq!(log.count("after a"), 2, "it was replayed");
}
