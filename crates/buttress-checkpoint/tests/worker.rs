//! What a worker holds, and for how long.

mod common;

use std::future::pending;
use std::time::Duration;

use buttress_checkpoint::{Cx, Failure, Workflows};
use buttress_store::{Memory, Status};
use common::{Log, Slow, load};
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn what_a_worker_acquires_while_it_is_told_to_stop_is_given_back() {
    let (store, log) = (Memory::new(), Log::default());
    let workflows = Workflows::open(Slow::acquires(store.clone()));
    let flow = workflows.register("w", 1, async |_, ()| Ok::<_, Failure>(())).unwrap();
    flow.start("run", ()).await.unwrap();
    log.add("stop");
    // Within the acquisition, which takes a second.
    let stop = async {
        while load(&store).await.info.lease.is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    workflows.run_until(stop).await;
    let run = load(&store).await;
    assert_eq!((run.info.status, run.info.lease, run.info.epoch), (Status::Running, None, 1));
}

/// Counts the bodies that are there at once.
struct Body(Log);

impl Drop for Body {
    fn drop(&mut self) {
        self.0.add("dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_given_its_own_run_again_has_one_body_of_it_at_a_time() {
    let (store, log) = (Slow::acquires(Memory::new()), Log::default());
    let workflows = Workflows::open(store.clone());
    let shared = log.clone();
    let code = move |cx: Cx, ()| {
        let log = shared.clone();
        async move {
            let body = async || {
                log.add("entered");
                let _body = Body(log.clone());
                sleep(Duration::from_secs(6)).await;
                Ok::<_, Failure>(())
            };
            cx.step("a", body).await?;
            Ok::<_, Failure>(())
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    let steps = async {
        log.until("entered").await;
        store.end_leases().await;
        handle.result().await.unwrap();
    };
    tokio::select! {
        () = workflows.run_until(pending()) => {}
        () = steps => {}
    }
    assert_eq!(log.all(), ["entered", "dropped", "entered", "dropped"]);
}

/// A store that does not answer to a load, while it answers to renewals.
#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_read_a_journal_stops_all_the_same() {
    let (store, log) = (common::Unreadable(Memory::new()), Log::default());
    let workflows = Workflows::open(store.clone());
    let flow = workflows.register("w", 1, async |_, ()| Ok::<_, Failure>(())).unwrap();
    flow.start("run", ()).await.unwrap();
    let began = Instant::now();
    log.add("begun");
    workflows.run_until(sleep(Duration::from_secs(5))).await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_eq!(load(&store.0).await.info.lease, None, "it was given back");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_gives_no_runs_is_reported() {
    let log = Log::default();
    let heard = log.clone();
    let observer = buttress_core::observe_fn(move |worker, event| {
        if let buttress_core::Event::StoreFailed { error, lasts } = event {
            heard.add(format!("{worker} {lasts} {error}"));
        }
    });
    // No store takes so long a name of a worker.
    let name = "x".repeat(513);
    let workflows = Workflows::with(
        Memory::new(),
        buttress_checkpoint::Config::default().worker(&*name).observe(observer),
    );
    workflows.register::<(), _, _, _, _>("w", 1, async |_, ()| Ok::<_, Failure>(())).unwrap();
    workflows.run_until(sleep(Duration::from_secs(5))).await;
    assert!(log.all().len() > 1 && log.all()[0].starts_with(&format!("{name} true ")), "{:?}", log.all());
}
