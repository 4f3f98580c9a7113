//! Services whose calls are steps.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use buttress_checkpoint::{
    Checkpoint, CheckpointError, CheckpointLayer, Cx, Failure, OutsideWorkflow, Workflows,
};
use buttress_core::find;
use buttress_idempotency::{IdempotencyKeyLayer, stamp_fn};
use buttress_store::{JournalStore, Memory, RunId};
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

/// With a key, perhaps.
type Request = Option<String>;

#[tokio::test(start_paused = true)]
async fn a_journaled_call_is_not_sent_again_and_carries_the_key_of_its_step() {
    let store = Memory::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let workflows = Workflows::open(store.clone());
    let counted = calls.clone();
    let code = move |cx: Cx, ()| {
        let calls = counted.clone();
        async move {
            let sent = move |request: Request| {
                let number = calls.fetch_add(1, Ordering::SeqCst) + 1;
                async move { if number == 2 { Err(std::io::Error::other("no")) } else { Ok((number, request)) } }
            };
            let keys = stamp_fn(
                |key: &Request| key.as_deref(),
                |key: &mut Request, new| *key = Some(new.to_owned()),
            );
            let service = ServiceBuilder::new()
                .layer(CheckpointLayer::named("charge"))
                .layer(IdempotencyKeyLayer::new(keys).from_step())
                .service(service_fn(sent));
            let call = || service.clone().oneshot(None);
            let (number, key) = call().await.map_err(|error| Failure::of(&*error))?;
            let failed = call().await.unwrap_err().to_string();
            let same = key.as_deref() == Some(&*cx.key_of("charge", 0));
            // Long enough to be put down, and to be replayed.
            cx.sleep(Duration::from_secs(3600)).await?;
            Ok::<_, Failure>((number, same, failed))
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    let result = tokio::select! {
        () = workflows.run_until(std::future::pending()) => unreachable!(),
        result = handle.result() => result.unwrap(),
    };
    assert_eq!(result, (1, true, "no".to_owned()));
    assert_eq!(calls.load(Ordering::SeqCst), 2, "the replay sent nothing");
    let run = store.load(&RunId::try_new("run").unwrap()).await.unwrap().unwrap();
    assert_eq!(run.info.epoch, 2, "it was put down and replayed");
}

#[tokio::test]
async fn outside_of_a_workflow_a_call_passes_through_or_is_refused() {
    let echo = || service_fn(async |text: String| Ok::<_, Infallible>(text));
    let passing = ServiceBuilder::new().layer(CheckpointLayer::named("echo")).service(echo());
    assert_eq!(passing.oneshot("a".into()).await.unwrap(), "a");
    let required = ServiceBuilder::new().layer(CheckpointLayer::named("echo").required()).service(echo());
    let error = required.oneshot("a".into()).await.unwrap_err();
    assert!(find::<OutsideWorkflow>(&*error).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_gives_back_what_readiness_had_reserved() {
    let echo =
        ConcurrencyLimitLayer::new(1).layer(service_fn(async |text: String| Ok::<_, Infallible>(text)));
    let mut required = CheckpointLayer::named("echo").required().layer(echo);
    let mut other = required.clone();
    let refused = required.ready().await.unwrap().call("a".into());
    let ready = tokio::time::timeout(Duration::from_millis(100), other.ready()).await;
    assert!(ready.is_ok(), "still reserved");
    refused.await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_is_one_owners_and_keeps_what_was_saved_last() {
    let store = Memory::new();
    let mut first: Checkpoint<_, u32> = Checkpoint::load(&store, "work").await.unwrap();
    assert_eq!(first.state(), None);
    for step in 1..=3 {
        first.save(&step).await.unwrap();
    }
    let busy = Checkpoint::<_, u32>::load(&store, "work").await.unwrap_err();
    assert!(matches!(busy, CheckpointError::Busy { .. }), "{busy}");
    tokio::time::sleep(Duration::from_secs(120)).await;
    first.save(&4).await.expect("its lease was renewed");
    drop(first);
    tokio::time::sleep(Duration::from_secs(31)).await;

    let mut second: Checkpoint<_, u32> = Checkpoint::load(&store, "work").await.unwrap();
    assert_eq!(second.state(), Some(&4));
    second.save(&5).await.unwrap();
    second.release().await.unwrap();
    let third: Checkpoint<_, u32> = Checkpoint::load(&store, "work").await.unwrap();
    assert_eq!(third.state(), Some(&5));
    third.done().await.unwrap();
    assert!(matches!(Checkpoint::<_, u32>::load(&store, "work").await, Err(CheckpointError::Over)));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_steps_are_replayed_after_a_sleep_that_held_nothing() {
    const STEPS: u32 = 10_000;
    let store = Memory::new();
    let entered = Arc::new(AtomicUsize::new(0));
    let workflows = Workflows::open(store.clone());
    let counted = entered.clone();
    let code = move |cx: Cx, ()| {
        let entered = counted.clone();
        async move {
            let mut sum = 0;
            for number in 0..STEPS {
                let step = async || {
                    entered.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, Failure>(number)
                };
                sum += cx.step("a", step).await?;
            }
            cx.sleep(Duration::from_secs(60)).await?;
            Ok::<_, Failure>(sum)
        }
    };
    let flow = workflows.register("w", 1, code).unwrap();
    let handle = flow.start("run", ()).await.unwrap();
    let sum = tokio::select! {
        () = workflows.run_until(std::future::pending()) => unreachable!(),
        sum = handle.result() => sum.unwrap(),
    };
    assert_eq!(sum, STEPS * (STEPS - 1) / 2);
    assert_eq!(entered.load(Ordering::SeqCst), STEPS as usize);
}
