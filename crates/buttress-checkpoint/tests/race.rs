//! What races, and which code is put down.

mod common;

use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use buttress_checkpoint::{Cx, Failure, RunError, StepError};
use buttress_store::Memory;
use common::{Log, crash_at, end, load};
use tokio::time::{Instant, sleep};

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

const HOUR: Duration = Duration::from_secs(3600);

/// A future that is no operation, and ends after so long.
fn answer<'a>(after: Duration) -> Boxed<'a, Option<u32>> {
    Box::pin(async move {
        sleep(after).await;
        Some(42)
    })
}

fn deadline(cx: &Cx) -> Boxed<'_, Option<u32>> {
    let sleep = cx.sleep(HOUR);
    Box::pin(async move {
        sleep.await.ok();
        None
    })
}

#[tokio::test(start_paused = true)]
async fn a_run_that_waits_for_more_than_its_sleeps_is_not_put_down() {
    let (began, log) = (Instant::now(), Log::default());
    let shared = log.clone();
    let code = move |cx: Cx| {
        let log = shared.clone();
        async move {
            let raced = cx.race("answer", vec![answer(Duration::from_secs(120)), deadline(&cx)]).await?;
            log.add(format!("raced after {:?}", began.elapsed()));
            let plain = async {
                sleep(Duration::from_secs(120)).await;
                log.add(format!("plain after {:?}", began.elapsed()));
            };
            // When that is over, the run only sleeps.
            let (slept, ()) = tokio::join!(cx.sleep(HOUR), plain);
            slept?;
            Ok(raced)
        }
    };
    let store = Memory::new();
    assert_eq!(end(&store, code).await.unwrap(), (0, Some(42)));

    assert_eq!(log.all()[..2], ["raced after 120s", "plain after 240s"]);
    assert_eq!(load(&store).await.info.epoch, 2, "it was put down once");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_only_sleeps_is_put_down_whatever_it_sleeps_in() {
    for case in 0..4 {
        let code = move |cx: Cx| async move {
            let nap = async {
                cx.sleep(HOUR).await?;
                Ok::<_, Failure>(())
            };
            let never = async { pending::<Result<(), Failure>>().await };
            match case {
                0 => nap.await?,
                1 => {
                    let (one, other) = tokio::join!(nap, cx.sleep(2 * HOUR));
                    one?;
                    other?;
                }
                2 => tokio::select! { biased; slept = nap => slept?, never = never => never? },
                _ => drop(cx.race("none", vec![Box::pin(pending()), deadline(&cx)]).await?),
            }
            Ok(())
        };
        let store = Memory::new();
        end(&store, code).await.unwrap();
        assert_eq!(load(&store).await.info.epoch, if case == 1 { 3 } else { 2 }, "case {case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_race_is_replayed_with_its_value_though_no_future_ends_again() {
    let (store, log) = (Memory::new(), Log::default());
    let code = |log: &Log, first: bool| {
        let log = log.clone();
        move |cx: Cx| {
            let log = log.clone();
            async move {
                let won = if first { answer(Duration::from_secs(2)) } else { Box::pin(pending()) };
                let raced = cx.race("answer", vec![deadline(&cx), won]).await?;
                let step = cx.step("step", async || {
                    log.add("step");
                    if first { pending().await } else { Ok::<_, Failure>(()) }
                });
                step.await?;
                Ok(raced)
            }
        }
    };
    crash_at(&store, &log, "step", code(&log, true)).await;
    assert_eq!(end(&store, code(&log, false)).await.unwrap(), (1, Some(42)));
}

#[tokio::test(start_paused = true)]
async fn operations_that_lose_a_race_keep_their_places() {
    let (store, log) = (Memory::new(), Log::default());
    let code = |log: &Log, first: bool| {
        let log = log.clone();
        move |cx: Cx| {
            let log = log.clone();
            async move {
                let branch = |name: &'static str, steps: u64| {
                    let (cx, log) = (cx.clone(), log.clone());
                    Box::pin(async move {
                        for step in 0..steps {
                            let body = async || {
                                sleep(Duration::from_millis(10 * (step + steps))).await;
                                log.add(name);
                                Ok::<_, Failure>(())
                            };
                            if cx.step("same name", body).await.is_err() {
                                return "error".to_owned();
                            }
                        }
                        name.to_owned()
                    }) as Boxed<'_, String>
                };
                let raced = cx.race("branches", vec![branch("long", 5), branch("short", 2)]).await?;
                let body = async || {
                    log.add("last");
                    if first { pending().await } else { Ok::<_, Failure>(()) }
                };
                cx.step("same name", body).await?;
                Ok(raced)
            }
        }
    };
    crash_at(&store, &log, "last", code(&log, true)).await;
    let done = log.all().len();
    assert_eq!(end(&store, code(&log, false)).await.unwrap(), (1, "short".to_owned()));
    assert_eq!(log.all()[done..], ["last"], "nothing else was done again");
}

#[tokio::test(start_paused = true)]
async fn a_value_that_cannot_be_stored_ends_the_race_with_an_error() {
    let code = async |cx: Cx| {
        let large: Boxed<'_, String> = Box::pin(async { "x".repeat(2 << 20) });
        Ok(matches!(cx.race("large", vec![large]).await, Err(StepError::NotStored { .. })))
    };
    assert!(end(&Memory::new(), code).await.unwrap());
}

async fn branch(cx: &Cx, name: &'static str, wait: u64) -> Result<String, Failure> {
    let body = async || {
        sleep(Duration::from_millis(wait)).await;
        Ok::<_, Failure>(format!("{name} {}", cx.key("same name")?))
    };
    Ok(cx.step("same name", body).await?)
}

/// `select!` with `biased`, over futures that build their steps themselves: each replay has the same branch and the same key.
#[tokio::test(start_paused = true)]
async fn a_biased_select_is_the_same_in_each_replay() {
    for _ in 0..20 {
        let log = Log::default();
        let shared = log.clone();
        let code = move |cx: Cx| {
            let log = shared.clone();
            async move {
                let first = tokio::select! {
                    biased;
                    slow = branch(&cx, "slow", 50) => format!("first {}", slow?),
                    quick = branch(&cx, "quick", 10) => format!("second {}", quick?),
                };
                log.add(&first);
                cx.sleep(HOUR).await?;
                Ok(first)
            }
        };
        let result = end(&Memory::new(), code).await.unwrap();
        assert!(result.starts_with("second quick"), "{result}");
        assert_eq!(log.all(), [result.clone(), result]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_patch_that_the_code_no_longer_asks_for_is_passed_over() {
    let (store, log) = (Memory::new(), Log::default());
    let step = async |cx: &Cx, log: &Log, name: &'static str, hangs: bool| {
        let body = async || {
            log.add(name);
            if hangs { pending().await } else { Ok::<_, Failure>(()) }
        };
        cx.step(name, body).await
    };
    let shared = log.clone();
    let old = move |cx: Cx| {
        let log = shared.clone();
        async move {
            let both = (cx.patched("one").await?, cx.patched("two").await?);
            step(&cx, &log, "a", false).await?;
            let last = cx.patched("three").await?;
            step(&cx, &log, "b", true).await?;
            Ok((both, last))
        }
    };
    crash_at(&store, &log, "b", old).await;
    let shared = log.clone();
    let new = move |cx: Cx| {
        let log = shared.clone();
        async move {
            let two = cx.patched("two").await?;
            step(&cx, &log, "a", false).await?;
            step(&cx, &log, "b", false).await?;
            Ok(two)
        }
    };
    assert!(end(&store, new).await.unwrap());
    assert_eq!(log.all(), ["a", "b", "b"]);
}

/// CP-12: what was patched is no way to remove a step.
#[tokio::test(start_paused = true)]
async fn a_step_that_is_gone_is_found_beside_a_patch_that_is() {
    let (store, log) = (Memory::new(), Log::default());
    let shared = log.clone();
    let old = move |cx: Cx| {
        let log = shared.clone();
        async move {
            cx.patched("one").await?;
            cx.step("a", async || Ok::<_, Failure>(())).await?;
            log.add("after a");
            cx.sleep(HOUR).await?;
            Ok(())
        }
    };
    crash_at(&store, &log, "after a", old).await;
    let new = async |cx: Cx| Ok(cx.sleep(HOUR).await?);
    let Err(RunError::Halted { reason, .. }) = end(&store, new).await else { panic!("it is paused") };
    assert!(reason.contains("recorded is step `a`"), "{reason}");
}
