//! Steps of which it is not known whether they were done, and results that must not be lost.

mod common;

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use buttress_checkpoint::{CheckpointLayer, Config, Cx, Failure, RunError, Semantics, StepError, Workflows};
use buttress_core::Backoff;
use buttress_store::Memory;
use common::{Log, crash_at, end, end_with, id, names};
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt, service_fn};

/// A step whose first body hangs, and whose reconciliations come to these results in turn: 'e' fails, 'h' hangs, 'n' says
/// that it was not done, 'd' that it was.
async fn tracked(cx: &Cx, log: &Log, lookups: &'static str) -> Result<u32, StepError<Failure>> {
    let body = async || {
        log.add("body");
        if log.count("body") == 1 {
            return pending().await;
        }
        Ok(1)
    };
    let lookup = async || {
        log.add("lookup");
        match lookups.as_bytes()[log.count("lookup") - 1] {
            b'e' => Err(Failure::new("the bank is down")),
            b'h' => pending().await,
            b'n' => Ok(None),
            _ => Ok(Some(2)),
        }
    };
    let step = cx.step("charge", body).semantics(Semantics::AtMostOnce).reconcile(lookup);
    step.timeout(Duration::from_secs(5)).retry(Backoff::constant(Duration::from_secs(1)), 3).await
}

async fn interrupted(lookups: &'static str) -> (Result<u32, String>, Vec<String>) {
    let (store, log) = (Memory::new(), Log::default());
    let shared = log.clone();
    let code = move |cx: Cx| {
        let log = shared.clone();
        async move { tracked(&cx, &log, lookups).await.map_err(|error| Failure::new(error.to_string())) }
    };
    crash_at(&store, &log, "body", code.clone()).await;
    (end(&store, code).await.map_err(|error| error.to_string()), log.all())
}

#[tokio::test(start_paused = true)]
async fn a_reconciliation_that_fails_is_asked_again_and_the_body_is_not_entered() {
    let (ended, log) = interrupted("ehd").await;
    assert_eq!((ended, log), (Ok(2), ["body", "lookup", "lookup", "lookup"].map(String::from).to_vec()));
    let (ended, log) = interrupted("eeee").await;
    assert!(ended.unwrap_err().contains("the bank is down"));
    assert_eq!(log.iter().filter(|done| *done == "body").count(), 1);
    let (ended, log) = interrupted("en").await;
    assert_eq!((ended, log), (Ok(1), ["body", "lookup", "lookup", "body"].map(String::from).to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_failed_reconciliation_is_remembered_over_a_crash() {
    let (store, log) = (Memory::new(), Log::default());
    let shared = log.clone();
    let code = move |cx: Cx| {
        let log = shared.clone();
        async move { Ok(tracked(&cx, &log, "ed").await?) }
    };
    crash_at(&store, &log, "body", code.clone()).await;
    crash_at(&store, &log, "lookup", code.clone()).await;
    assert_eq!(end(&store, code).await.unwrap(), 2);
    assert_eq!(log.count("body"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_tracked_step_whose_time_is_over_is_reconciled_and_not_run_again() {
    let (store, log) = (Memory::new(), Log::default());
    let shared = log.clone();
    let code = move |cx: Cx| {
        let log = shared.clone();
        async move { Ok(tracked(&cx, &log, "d").await?) }
    };
    assert_eq!(end(&store, code).await.unwrap(), 2);
    assert_eq!(log.all(), ["body", "lookup"]);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_runs_at_most_once_is_not_retried_after_a_time_out() {
    let log = Log::default();
    let shared = log.clone();
    let code = move |cx: Cx| {
        let log = shared.clone();
        async move {
            let body = async || {
                log.add("body");
                pending::<Result<(), Failure>>().await
            };
            let step = cx.step("charge", body).semantics(Semantics::AtMostOnce);
            let step = step.timeout(Duration::from_secs(1)).retry(Backoff::default(), 3);
            Ok(matches!(step.await, Err(StepError::TimedOut { .. })))
        }
    };
    assert!(end(&Memory::new(), code).await.unwrap());
    assert_eq!(log.all(), ["body"]);
}

#[tokio::test(start_paused = true)]
async fn a_step_of_which_only_the_mark_is_stored_when_its_worker_stops_was_not_interrupted() {
    let (store, log) = (Memory::new(), Log::default());
    let code = |log: &Log, cancels: bool| {
        let log = log.clone();
        move |cx: Cx, ()| {
            let log = log.clone();
            async move {
                let marked = cx.step("charge", async || {
                    log.add("body");
                    Ok::<_, Failure>(())
                });
                log.add("marking");
                let done = marked.semantics(Semantics::AtMostOnce).await;
                if cancels { Ok(false) } else { Ok::<_, Failure>(done.is_ok()) }
            }
        }
    };
    // The shutdown is known before the mark is stored.
    let slow = common::Slow::appends(store.clone());
    let workflows = Workflows::open(slow.clone());
    let flow = workflows.register("w", 1, code(&log, false)).unwrap();
    flow.start("run", ()).await.unwrap();
    workflows.run_until(log.until("marking")).await;
    assert_eq!(log.all(), ["marking"]);
    let workflows = Workflows::open(store.clone());
    let flow = workflows.register("w", 1, code(&log, false)).unwrap();
    let handle = flow.handle(id());
    tokio::select! {
        () = workflows.run_until(pending()) => {}
        done = handle.result() => assert!(done.unwrap()),
    }
    assert_eq!(log.count("body"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_that_the_mark_brings_stops_the_step() {
    let (store, log) = (Memory::new(), Log::default());
    let slow = common::Slow::appends(store.clone());
    let workflows = Workflows::open(slow);
    let shared = log.clone();
    let code = move |cx: Cx, ()| {
        let log = shared.clone();
        async move {
            let marked = cx.step("charge", async || {
                log.add("body");
                Ok::<_, Failure>(())
            });
            log.add("marking");
            Ok::<_, Failure>(marked.semantics(Semantics::AtMostOnce).await?)
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    let cancelled = async {
        log.until("marking").await;
        handle.cancel().await.unwrap();
        handle.result().await
    };
    tokio::select! {
        () = workflows.run_until(pending()) => {}
        result = cancelled => assert!(matches!(result, Err(RunError::Cancelled)), "{result:?}"),
    }
    assert_eq!(log.all(), ["marking"]);
}

#[tokio::test(start_paused = true)]
async fn a_result_that_cannot_be_read_again_is_not_recorded() {
    let code = async |cx: Cx| {
        let none = cx.step("ratio", async || Ok::<_, Failure>(f64::NAN)).await;
        let Err(StepError::NotStored { reason }) = none else { return Err(Failure::new("it was stored")) };
        Ok(reason)
    };
    let reason = end(&Memory::new(), code).await.unwrap();
    assert!(reason.contains("cannot be read again"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn what_was_done_beside_a_panic_is_recorded() {
    let (store, log, panics) = (Memory::new(), Log::default(), Arc::new(AtomicUsize::new(0)));
    let shared = log.clone();
    let code = move |cx: Cx| {
        let (log, panics) = (shared.clone(), panics.clone());
        async move {
            let charge = cx.step("charge", async || {
                log.add("charge");
                Ok::<_, Failure>(7)
            });
            // In the same poll in which the charge has ended, and before it is stored.
            let beside = poll_fn(|_| match log.count("charge") {
                0 => Poll::Pending,
                _ if panics.fetch_add(1, Ordering::SeqCst) == 0 => {
                    std::panic::resume_unwind(Box::new("a bug"))
                }
                _ => Poll::Ready(()),
            });
            let (charged, ()) = tokio::join!(charge.semantics(Semantics::AtMostOnce), beside);
            Ok(charged?)
        }
    };
    assert_eq!(end(&store, code).await.unwrap(), 7);
    assert_eq!(log.all(), ["charge"]);
}

/// What counts are the panics at one place: a step that is recorded in between begins the count anew.
#[tokio::test(start_paused = true)]
async fn a_run_that_gets_further_between_panics_is_not_parked() {
    let (store, log) = (Memory::new(), Log::default());
    let shared = log.clone();
    let code = move |cx: Cx| {
        let log = shared.clone();
        async move {
            for step in 0..4 {
                let name = format!("step {step}");
                cx.step(name.clone(), async || Ok::<_, Failure>(())).await?;
                if log.count(&name) == 0 {
                    log.add(name);
                    std::panic::resume_unwind(Box::new("a bug"));
                }
            }
            Ok(())
        }
    };
    end_with(&store, Config::default().max_recoveries(1), code).await.unwrap();
    assert_eq!(log.all().len(), 4);
}

/// Names that no store takes stop a run before anything is done under them, and not after.
#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_stored_pauses_the_run_before_its_body() {
    for name in ["x".repeat(513), "a\0b".to_owned()] {
        let (store, log) = (Memory::new(), Log::default());
        let shared = log.clone();
        let code = move |cx: Cx| {
            let (log, name) = (shared.clone(), name.clone());
            async move {
                log.add("begun");
                cx.step(name, async || {
                    log.add("body");
                    Ok::<_, Failure>(())
                })
                .await?;
                Ok(())
            }
        };
        let Err(RunError::Halted { reason, .. }) = end(&store, code).await else { panic!("it is paused") };
        assert!(reason.contains("give the step another"), "{reason}");
        assert_eq!(log.all(), ["begun"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_in_a_replay_that_waits_gives_the_run_back() {
    let (store, log) = (Memory::new(), Log::default());
    let code = |log: &Log, wait: Duration| {
        let log = log.clone();
        move |cx: Cx, ()| {
            let log = log.clone();
            async move {
                log.add("begun");
                sleep(wait).await;
                cx.step("a", async || Ok::<_, Failure>(())).await?;
                log.add("after a");
                cx.step("b", async || pending::<Result<(), Failure>>().await).await?;
                Ok::<_, Failure>(())
            }
        }
    };
    let first = Workflows::open(store.clone());
    first.register("w", 1, code(&log, Duration::ZERO)).unwrap().start("run", ()).await.unwrap();
    tokio::select! {
        () = first.run_until(pending()) => {}
        () = log.until("after a") => {}
    }
    sleep(Duration::from_secs(31)).await;
    let slow = Log::default();
    let second = Workflows::with(store.clone(), Config::default().replay_patience(Duration::from_secs(5)));
    second.register("w", 1, code(&slow, Duration::from_secs(60))).unwrap();
    second.run_until(slow.until("begun")).await;
    let run = common::load(&store).await;
    assert_eq!((run.info.status, run.info.lease), (buttress_store::Status::Running, None));
    assert_eq!(names(&store).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_store_will_never_take_pauses_the_run_and_is_not_done_again() {
    let (store, log) = (Memory::new(), Log::default());
    let workflows = Workflows::open(common::Slow::refuses(store.clone(), Some("charge")));
    let shared = log.clone();
    let code = move |cx: Cx, ()| {
        let log = shared.clone();
        async move {
            let body = async || {
                log.add("body");
                Ok::<_, Failure>(())
            };
            Ok::<_, Failure>(cx.step("charge", body).await?)
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    tokio::select! {
        () = workflows.run_until(pending()) => {}
        result = handle.result() => {
            let Err(RunError::Halted { reason, .. }) = result else { panic!("{result:?}") };
            assert!(reason.contains("no right to write"), "{reason}");
        }
    }
    assert_eq!(log.all(), ["body"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_may_be_sent_once_is_not_sent_again_after_a_crash() {
    let (store, log) = (Memory::new(), Log::default());
    let code = |log: &Log| {
        let log = log.clone();
        move |_: Cx| {
            let log = log.clone();
            let send = move |()| {
                log.add("sent");
                pending::<Result<u32, std::io::Error>>()
            };
            let layer = CheckpointLayer::named("charge").semantics(Semantics::AtMostOnce);
            let service = ServiceBuilder::new().layer(layer).service(service_fn(send));
            async move { service.oneshot(()).await.map_err(|error| Failure::of(&*error)) }
        }
    };
    crash_at(&store, &log, "sent", code(&log)).await;
    let Err(RunError::Failed(failure)) = end(&store, code(&log)).await else { panic!("it failed") };
    assert!(failure.message().contains("whether it was done is not known"), "{failure}");
    assert_eq!(log.all(), ["sent"]);
}
