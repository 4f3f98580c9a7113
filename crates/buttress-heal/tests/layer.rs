//! The service among others: as a layer of a stack, and when its callers have gone.

use std::future::ready;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use buttress_core::{Kind, Refused, Verdict, classify_fn, find, own_verdict};
use buttress_heal::{Build, HealLayer, Health, Supervisor, SwapSettings, Unavailable, Why};
use buttress_testkit::clock::{advance, settle};
use buttress_testkit::contract::{self, Subject};
use buttress_testkit::{Scripted, ok};
use tower::{Layer, ServiceBuilder, ServiceExt};

/// Generations are clones of the service that the layer is applied to.
#[tokio::test(start_paused = true)]
async fn the_layer_keeps_the_contract_of_towers_layers() {
    contract::check(|| {
        HealLayer::new(|inner: Subject| {
            Supervisor::new("db", move |_: Build| ready(Ok::<_, io::Error>(inner.clone())))
        })
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_layer_builds_the_service_anew_when_its_calls_fail_and_keeps_the_handle() {
    let builds = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&builds);
    let heal = HealLayer::new(move |first: Scripted<u64>| {
        let count = Arc::clone(&count);
        Supervisor::new("search", move |build: Build| {
            count.fetch_add(1, SeqCst);
            let service =
                if build.generation == 1 { first.clone() } else { Scripted::new([ok(build.generation)]) };
            ready(Ok::<_, io::Error>(service))
        })
    });
    // A response that says that the connection is bad.
    let policy = classify_fn(|outcome: Result<&u64, _>| match outcome {
        Ok(0) => Verdict::failure(Kind::Transient),
        Ok(_) => Verdict::Success,
        Err(error) => buttress_core::error_verdict(error),
    });
    let heal = heal.policy(policy);
    let service = ServiceBuilder::new().layer(heal.clone()).service(Scripted::new([ok(0)]));
    let mut answer = 0;
    for _ in 0..1000 {
        answer = service.clone().oneshot(0).await.unwrap_or_default();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(answer >= 2 && builds.load(SeqCst) >= 2, "{answer}");
    let handles = heal.handles();
    assert_eq!(handles.len(), 1);
    assert_eq!(handles[0].status().generation, answer);
    drop(service);
    settle().await;
    advance(Duration::from_secs(2)).await;
    assert!(heal.handles().is_empty(), "its supervisor has ended with it");
}

#[test]
fn where_no_supervisor_can_be_started_calls_are_refused_and_say_why() {
    let heal = HealLayer::new(|inner: Scripted<u64>| {
        Supervisor::new("db", move |_: Build| ready(Ok::<_, io::Error>(inner.clone())))
    });
    let service = heal.layer(Scripted::new([ok(1)]));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let error = runtime.block_on(service.oneshot(0)).unwrap_err();
    let unavailable = find::<Unavailable>(&*error).unwrap();
    assert_eq!(unavailable.why(), Why::NoService);
    assert!(unavailable.to_string().contains("the supervisor was not started"), "{unavailable}");
    assert!(find::<Refused>(&*error).is_some() && own_verdict(&*error).is_some());
    assert!(heal.handles().is_empty());
}

fn slow_calls(time: Duration) -> impl Fn(Build) -> std::future::Ready<io::Result<Scripted<u64>>> + Clone {
    move |_| ready(Ok(Scripted::new([ok(1).after(time)])))
}

/// `oneshot` lets go of its service as soon as it has made the call.
#[tokio::test(start_paused = true)]
async fn the_last_calls_of_a_service_that_nobody_has_any_more_may_take_their_time() {
    let (service, handle) = Supervisor::new("db", slow_calls(Duration::from_secs(120))).spawn().unwrap();
    assert_eq!(service.oneshot(0).await.unwrap(), 1);
    settle().await;
    let mut status = handle.watch();
    while status.changed().await.is_ok() {}
    assert_eq!(handle.status().health, Health::Healthy);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_ends_at_once_when_nobody_has_its_service_and_no_call_is_under_way() {
    let retired = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&retired);
    let supervisor = Supervisor::new("db", slow_calls(Duration::ZERO)).retire(move |client| {
        drop(client);
        count.fetch_add(1, SeqCst);
        ready(())
    });
    let (service, handle) = supervisor.spawn().unwrap();
    service.clone().oneshot(0).await.unwrap();
    let clone = service.clone();
    drop(service);
    settle().await;
    assert_eq!(retired.load(SeqCst), 0);
    drop(clone);
    let start = tokio::time::Instant::now();
    let mut status = handle.watch();
    while status.changed().await.is_ok() {}
    assert_eq!((start.elapsed(), retired.load(SeqCst)), (Duration::ZERO, 1));
}

#[tokio::test(start_paused = true)]
async fn settings_of_the_swap_are_checked_when_the_supervisor_is_started() {
    let settings = SwapSettings::default().make_within(Duration::ZERO);
    let error = Supervisor::new("db", slow_calls(Duration::ZERO)).swap(settings).spawn().err().unwrap();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("`make_within` is 0ns"), "{source}");
}

/// A database that takes eight seconds to open.
#[tokio::test(start_paused = true)]
async fn a_factory_that_needs_longer_than_the_default_can_have_it() {
    let slow = |_: Build| async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        Ok::<_, io::Error>(Scripted::new([ok(1)]))
    };
    for (settings, comes_up) in [
        (SwapSettings::default(), false),
        (SwapSettings::default().connect_within(Duration::from_secs(20)), true),
    ] {
        let (service, handle) = Supervisor::new("db", slow).swap(settings).spawn().unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(service.oneshot(0).await.is_ok(), comes_up);
        assert_eq!(
            handle.status().generation > 0,
            comes_up,
            "a restart may take longer, but that comes later"
        );
        handle.shutdown(Duration::ZERO).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_call_of_a_service_that_nobody_has_any_more_is_cut_off_by_a_shutdown() {
    let retired = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&retired);
    let supervisor = Supervisor::new("db", slow_calls(Duration::MAX)).retire(move |_| {
        count.fetch_add(1, SeqCst);
        ready(())
    });
    let (service, handle) = supervisor.spawn().unwrap();
    let hung = tokio::spawn(service.oneshot(0));
    advance(Duration::from_secs(10)).await;
    let start = tokio::time::Instant::now();
    assert!(handle.shutdown(Duration::from_secs(5)).await);
    assert_eq!((start.elapsed(), retired.load(SeqCst)), (Duration::from_secs(5), 1));
    assert!(hung.await.unwrap().unwrap_err().to_string().contains("cut off"));
}

#[tokio::test(start_paused = true)]
async fn of_two_shutdowns_the_one_that_leaves_less_time_counts_whichever_comes_first() {
    for limits in [[60, 5], [5, 60]] {
        let retired = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&retired);
        let supervisor = Supervisor::new("db", slow_calls(Duration::MAX)).retire(move |_| {
            count.fetch_add(1, SeqCst);
            ready(())
        });
        let (service, handle) = supervisor.spawn().unwrap();
        let hung = tokio::spawn(service.clone().oneshot(0));
        settle().await;
        let start = tokio::time::Instant::now();
        let [first, second] = limits.map(|limit| {
            let handle = handle.clone();
            async move { handle.shutdown(Duration::from_secs(limit)).await }
        });
        let first = tokio::spawn(first);
        settle().await;
        assert!(second.await && first.await.unwrap(), "{limits:?}");
        assert_eq!((start.elapsed(), retired.load(SeqCst)), (Duration::from_secs(5), 1), "{limits:?}");
        assert!(hung.await.unwrap().unwrap_err().to_string().contains("cut off"));
    }
}
