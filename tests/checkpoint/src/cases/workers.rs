use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::failing::Failing;
use crate::{SHORT, Worker, long, quick, short};
use buttress_checkpoint::{Cx, Timeline, Workflow, Workflows, retry_from};
use buttress_core::Backoff;
use buttress_store::{Appended, Created, Fingerprint, NewRun, Next, Owner, Query};
use bytes::Bytes;

/// A workflow of one step, which hangs while `hangs`.
fn one<S: JournalStore>(
    workflows: &Workflows<S>,
    effects: &Effects,
    hangs: bool,
) -> Workflow<S, (), usize, Failure> {
    let effects = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = effects.clone();
        async move {
            let name = cx.run_id().to_string();
            let body = async || if hangs { effects.hang(&name).await } else { effects.done(&name) };
            Ok(cx.step("a", body).await?)
        }
    };
    workflows.register("w", 1, code).unwrap()
}

/// CP-6: two workers ask a thousand times each, at every moment for one run that is due.
pub async fn each_run_has_one_owner<S: JournalStore>(store: S) {
    const POLLS: u32 = 1000;
    let effects = Effects::default();
    let stores = [Failing::new(store.clone()), Failing::new(store)];
    let often = long().poll_interval(Duration::from_millis(1)).unwrap();
    let owners = stores.clone().map(|store| Workflows::with(store, often.clone()));
    let flows = [0, 1].map(|owner: usize| one(&owners[owner], &effects, false));
    let workers = owners.each_ref().map(Worker::start);
    let mut runs = 0;
    while stores.iter().any(|store| store.acquires() < POLLS) {
        let handle = flows[runs % 2].start(format!("run {runs}"), ()).await.unwrap();
        handle.result().await.unwrap();
        assert_eq!(handle.info().await.unwrap().unwrap().epoch, 1);
        runs += 1;
    }
    assert_eq!(effects.names().len(), runs);
    for worker in workers {
        worker.stop().await;
    }
}

struct Dropped(Effects, String);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.add(&format!("{} is dropped", self.1));
    }
}

/// CP-8: the store is down while a step runs, and while the result of another one is on its way.
pub async fn a_body_is_dropped_before_its_lease_ends_and_records_nothing<S: JournalStore>(store: S) {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let failing = Failing::new(store.clone());
    let (lease, margin) = (Duration::from_secs(10), Duration::from_secs(2));
    let workflows = Workflows::with(failing.clone(), quick(lease));
    let (body, opened) = (effects.clone(), gate.clone());
    let code = move |cx: Cx, ()| {
        let (effects, gate) = (body.clone(), opened.clone());
        async move {
            let name = cx.run_id().to_string();
            let _dropped = Dropped(effects.clone(), name.clone());
            let step = async || {
                effects.add(&name);
                if name == "hangs" {
                    return std::future::pending().await;
                }
                gate.notified().await;
                Ok::<_, Failure>(())
            };
            Ok::<_, Failure>(cx.step("a", step).await?)
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let worker = Worker::start(&workflows);
    for run in ["hangs", "ends"] {
        flow.start(run, ()).await.unwrap();
        effects.until(run, 1).await;
    }
    failing.fail_every(1);
    gate.notify_one();
    for run in ["hangs", "ends"] {
        effects.until(&format!("{run} is dropped"), 1).await;
        let lease = info(&store, run).await.lease.unwrap();
        // As much as the margin, and the time that the grant took: a slow machine may take most of it until here.
        assert!(lease > Duration::ZERO && lease < margin * 2, "{run}: {lease:?}");
    }
    failing.fail_every(0);
    sleep(margin / 10).await;
    for run in ["hangs", "ends"] {
        let run = info(&store, run).await;
        assert_eq!((run.status.kind(), run.entries), (StatusKind::Running, 0), "{run:?}");
    }
    worker.crash().await;

    let second = Workflows::with(store, long());
    let code = async |cx: Cx, ()| Ok::<_, Failure>(cx.step("a", async || Ok::<_, Failure>(())).await?);
    let flow = second.register::<(), (), _, _, _>("w", 1, code).unwrap();
    let worker = Worker::start(&second);
    for run in ["hangs", "ends"] {
        flow.handle(id(run)).result().await.unwrap();
    }
    worker.stop().await;
}

/// CP-8: the store is down for whole leases, again and again, while a step runs. That says nothing against the run.
pub async fn a_run_whose_leases_the_store_did_not_renew_is_not_parked<S: JournalStore>(store: S) {
    const OUTAGES: usize = 3;
    let effects = Effects::default();
    let failing = Failing::new(store.clone());
    let workflows = Workflows::with(failing.clone(), short().max_recoveries(1));
    let body = effects.clone();
    let code = move |cx: Cx, ()| {
        let effects = body.clone();
        async move {
            let _dropped = Dropped(effects.clone(), "run".to_owned());
            let step = async || {
                effects.add("a");
                if effects.count("a") <= OUTAGES {
                    return std::future::pending().await;
                }
                Ok::<_, Failure>(())
            };
            Ok::<_, Failure>(cx.step("a", step).await?)
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    let worker = Worker::start(&workflows);
    for outage in 1..=OUTAGES {
        let runs = tokio::time::timeout(Duration::from_secs(300), effects.until("a", outage)).await;
        runs.unwrap_or_else(|_| panic!("it is not run again after {} outages", outage - 1));
        failing.fail_every(1);
        effects.until("run is dropped", outage).await;
        // Until the lease is over for everybody.
        sleep(SHORT).await;
        failing.fail_every(0);
    }
    handle.result().await.unwrap();
    assert_eq!(effects.count("a"), OUTAGES + 1);
    worker.stop().await;
}

/// CP-9
pub async fn a_worker_that_drains_strands_nothing<S: JournalStore>(store: S) {
    let (effects, gate) = (Effects::default(), Arc::new(Notify::new()));
    let register = |same: &Workflows<S>| {
        let (effects, gate) = (effects.clone(), gate.clone());
        let code = move |cx: Cx, ()| {
            let (effects, gate) = (effects.clone(), gate.clone());
            async move {
                let first = async || {
                    effects.add("first");
                    gate.notified().await;
                    Ok::<_, Failure>(())
                };
                cx.step("first", first).await?;
                Ok::<_, Failure>(cx.step("second", async || effects.done("second")).await?)
            }
        };
        same.register("w", 1, code).unwrap()
    };
    let old = Workflows::with(store.clone(), long().worker("same"));
    let flow = register(&old);
    flow.start("run", ()).await.unwrap();
    let draining = Worker::start(&old);
    effects.until("first", 1).await;
    let stopped = tokio::spawn(draining.stop());
    tokio::task::yield_now().await;
    let new = Workflows::with(store.clone(), long().worker("same"));
    let flow = register(&new);
    let worker = Worker::start(&new);
    gate.notify_one();
    stopped.await.unwrap();
    flow.handle(id("run")).result().await.unwrap();
    assert_eq!(
        effects.names(),
        ["first", "second"],
        "what was under way was ended, and what follows done elsewhere"
    );
    worker.stop().await;
}

/// CP-10, with a store that fails now and then; `tests/restart.rs` has one that is restarted.
pub async fn a_store_that_fails_in_the_sweep_loses_nothing<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let crashing = Workflows::with(store.clone(), short());
    let flow = one(&crashing, &effects, true);
    for run in 0..10 {
        flow.start(format!("run {run}"), ()).await.unwrap();
    }
    let worker = Worker::start(&crashing);
    for run in 0..10 {
        effects.until(&format!("run {run}"), 1).await;
    }
    worker.crash().await;

    let failing = Failing::new(store.clone());
    failing.fail_every(3);
    // Runs that were acquired in a call whose answer was lost are had again when their lease is over.
    let second = Workflows::with(failing, quick(Duration::from_secs(2)).max_recoveries(100));
    one(&second, &effects, false);
    let worker = Worker::start(&second);
    for run in 0..10 {
        until(&store, &format!("run {run}"), StatusKind::Done).await;
    }
    worker.stop().await;
}

/// CP-29: each panic is recorded, and its run given back, so that none of them takes a lease.
pub async fn a_run_that_always_panics_is_parked_and_harms_no_other<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let config = long().max_recoveries(2).panic_delays(Backoff::constant(Duration::from_millis(50)));
    let workflows = Workflows::with(store.clone(), config);
    let body = effects.clone();
    let code = move |cx: Cx, poison: bool| {
        let effects = body.clone();
        async move {
            if poison {
                let step = async || {
                    effects.add("poison");
                    std::panic::resume_unwind(Box::new("not a number\0"));
                };
                cx.step::<(), Failure, _, _>("parse", step).await?;
            }
            Ok::<_, Failure>(())
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let poison = flow.start("poison", true).await.unwrap();
    let worker = Worker::start(&workflows);
    for run in 0..5 {
        flow.start(format!("run {run}"), false).await.unwrap().result().await.unwrap();
    }
    until(&store, "poison", StatusKind::Parked).await;
    let reason = halted(poison.result().await);
    assert!(
        reason.contains("3 times") && reason.contains("step `parse` as operation 1: not a number"),
        "{reason}"
    );
    assert_eq!(effects.count("poison"), 3);
    let parked = store.list(&Query { statuses: vec![StatusKind::Parked], ..Query::default() }).await.unwrap();
    assert_eq!(parked.runs.len(), 1);
    let run = store.load(&id("poison")).await.unwrap().unwrap();
    let timeline = Timeline::of(&run).unwrap();
    assert_eq!(timeline.panic.unwrap(), "step `parse` as operation 1: not a number\0");
    assert!(timeline.steps.is_empty(), "a panic is no result");

    workflows.resume(&id("poison")).await.unwrap();
    effects.until("poison", 6).await;
    until(&store, "poison", StatusKind::Parked).await;
    assert_eq!(effects.count("poison"), 6, "whoever resumes it lets it begin anew");
    worker.stop().await;
}

/// CP-30
pub async fn a_run_without_code_is_left_alone<S: JournalStore>(store: S) {
    let effects = Effects::default();
    let complete = Workflows::with(store.clone(), long());
    let gone = complete.register("gone", 1, async |_, ()| Ok::<_, Failure>(())).unwrap();
    gone.start("without code", ()).await.unwrap();
    one(&complete, &effects, false).start("run", ()).await.unwrap();

    let warned = Arc::new(AtomicUsize::new(0));
    let heard = warned.clone();
    let observer = buttress_core::observe_fn(move |service, event| {
        let unknown = buttress_core::observe::RunChange::Unknown;
        if service == "gone"
            && matches!(event, buttress_core::Event::Run { change, .. } if *change == unknown)
        {
            heard.fetch_add(1, Ordering::SeqCst);
        }
    });
    let partial = Workflows::with(store.clone(), long().observe(observer));
    let flow = one(&partial, &effects, false);
    let worker = Worker::start(&partial);
    flow.handle(id("run")).result().await.unwrap();
    worker.stop().await;
    let left = info(&store, "without code").await;
    assert_eq!((left.status.kind(), left.epoch), (StatusKind::Running, 0));
    assert_eq!(warned.load(Ordering::SeqCst), 1);
}

/// CP-36: 100,000 runs in memory, which with the others is what that store holds. Elsewhere each is two writes that have to be
/// durable, or two round trips: there they are 3,000, and `tests/scan.rs` prunes 100,000 that are copied within the store.
pub async fn pruning_takes_what_is_over_and_nothing_else<S: JournalStore>(store: S) {
    let over: u64 = if std::any::type_name::<S>().ends_with("Memory") { 99_990 } else { 3_000 };
    let effects = Effects::default();
    let workflows = Workflows::with(store.clone(), long());
    let flow = one(&workflows, &effects, false);
    for run in ["run 0", "done"] {
        flow.start(run, ()).await.unwrap();
    }
    let worker = Worker::start(&workflows);
    for run in ["run 0", "done"] {
        flow.handle(id(run)).result().await.unwrap();
    }
    worker.stop().await;
    // The others end as a worker ends them, and without one, which is quicker.
    let end = async |run: u64| {
        let owner = Owner::random();
        let run = NewRun {
            id: id(&format!("run {run}")),
            name: "w".into(),
            version: 1,
            fingerprint: Fingerprint::new([0; 32]),
            input: Bytes::new(),
            parent: None,
            owner,
            worker: "".into(),
        };
        let Created::Held(hold) = store.create(&run, Some(Duration::from_secs(3600))).await.unwrap() else {
            panic!("it is new")
        };
        let ended = store.append(&hold, 0, &[], &Next::Done).await.unwrap();
        assert!(matches!(ended, Appended::Applied { .. }));
    };
    let numbers: Vec<u64> = (1..over).collect();
    for chunk in numbers.chunks(64) {
        futures_util::future::join_all(chunk.iter().map(|run| end(*run))).await;
    }
    flow.start("open", ()).await.unwrap();
    retry_from(&store, &id("run 0"), ("a", 0), &id("again"), false).await.unwrap();
    assert_eq!(workflows.prune(Duration::from_secs(3600)).await.unwrap(), 0);

    // It is cut off after some batches, and goes on later.
    let failing = Failing::new(store.clone());
    failing.fail_every(10);
    let cut_off = buttress_checkpoint::prune(&failing, Duration::ZERO).await;
    assert!(cut_off.is_err());
    let rest = workflows.prune(Duration::ZERO).await.unwrap();
    assert!(rest > 0 && rest <= over - 900, "{rest}");
    // The one that the open one continues stays.
    let left = store.list(&Query::default()).await.unwrap();
    let mut left: Vec<_> = left.runs.iter().map(|run| run.id.to_string()).collect();
    left.sort();
    assert_eq!(left, ["again", "open", "run 0"]);
    assert_eq!(workflows.prune(Duration::ZERO).await.unwrap(), 0);
}
