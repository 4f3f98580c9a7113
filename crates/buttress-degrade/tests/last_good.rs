//! The store of last good answers.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use buttress_core::{BoxError, Kind, Level, Verdict, classify_fn};
use buttress_degrade::{ByKey, Cause, Chain, DegradeLayer, Degraded, IntoAnswer, LastGood, Rung};
use buttress_testkit::clock::settle;
use buttress_testkit::{Scripted, err, ok};
use support::kept::{Answer, call, layer, rules, store};
use support::{Heard, ms, secs};
use tokio::time::{Instant, advance};
use tower::{Layer, ServiceExt};

/// HD-47.
#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_served_within_its_window_if_the_service_fails() {
    let (layer, inner) = (layer(&store()), Scripted::new([ok(1), err("down")]));
    let start = Instant::now();
    assert_eq!(call(&layer, &inner).await, 1.into_answer());
    let mut seen = Vec::new();
    for at in [599, 601, 1799, 1801] {
        advance(start + secs(at) - Instant::now()).await;
        let answer = call(&layer, &inner).await;
        seen.push((
            answer.level().as_u8(),
            answer.age().map(|age| age.as_secs()),
            *answer.get_ref(),
            inner.calls(),
        ));
    }
    let expected = [(0, Some(599), 1, 1), (2, Some(601), 1, 2), (2, Some(1799), 1, 3), (3, None, 0, 4)];
    assert_eq!(seen, expected);
}

/// HD-50.
#[tokio::test(start_paused = true)]
async fn a_stale_answer_is_served_while_it_is_refreshed_and_later_waited_for() {
    let (heard, store) = (Heard::default(), store().ttl(secs(1)).while_revalidate(secs(4)).if_error(secs(4)));
    let layer = layer(&store).observe(heard.observer());
    let inner = Scripted::new([ok(1), ok(2).after(ms(100)), ok(3).after(ms(100))]);
    call(&layer, &inner).await;
    advance(secs(2)).await;
    for _ in 0..10 {
        let answer = call(&layer, &inner).await;
        assert_eq!((answer.level(), *answer.get_ref()), (Level::Slight, 1));
        assert_eq!(answer.shortfalls()[0].cause(), Cause::Stale);
    }
    tokio::time::sleep(ms(200)).await;
    assert_eq!(inner.calls(), 2, "one refresh for all");
    let refreshed = heard.take();
    assert_eq!(refreshed.iter().filter(|event| *event == "refreshed: true").count(), 1);
    assert_eq!(refreshed.iter().filter(|event| *event == "1 of last good answer").count(), 10);
    assert_eq!((call(&layer, &inner).await.level(), store.in_flight()), (Level::Full, 0));
    advance(secs(6)).await;
    let start = Instant::now();
    let answer = call(&layer, &inner).await;
    assert_eq!((answer.into_inner(), start.elapsed(), inner.calls()), (3, ms(100), 3));
}

/// HD-57.
#[tokio::test(start_paused = true)]
async fn a_healthy_service_is_ten_seconds_behind_at_most_and_a_sick_one_a_day() {
    let store = store().ttl(secs(60)).while_revalidate(secs(10)).if_error(secs(86_400));
    let (layer, inner) = (layer(&store), Scripted::new([ok(1), ok(2)]));
    call(&layer, &inner).await;
    advance(secs(69)).await;
    assert_eq!(call(&layer, &inner).await.into_inner(), 1);
    settle().await;
    advance(secs(71)).await;
    assert_eq!(call(&layer, &inner).await.into_inner(), 2, "it was asked");
    inner.go_on_with([err("down")]);
    advance(secs(86_000)).await;
    let answer = call(&layer, &inner).await;
    assert_eq!((answer.level(), answer.age(), *answer.get_ref()), (Level::Moderate, Some(secs(86_000)), 2));
}

/// HD-54.
#[tokio::test(start_paused = true)]
async fn neither_failures_nor_degraded_answers_nor_rejections_are_kept() {
    let policy = classify_fn(|outcome: Result<&u32, _>| match outcome {
        Ok(500..) => Verdict::failure(Kind::Transient),
        Ok(400..500) => Verdict::Rejected,
        Ok(_) => Verdict::Success,
        Err(error) => buttress_core::error_verdict(error),
    });
    let store = store();
    let layer = layer(&store).policy(policy);
    let inner = Scripted::new([ok(1), ok(500), ok(404), err("down")]);
    let call = || layer.layer(inner.clone()).oneshot("a".to_owned());
    call().await.unwrap();
    advance(secs(601)).await;
    let answer = call().await.unwrap();
    assert_eq!((answer.level(), *answer.get_ref()), (Level::Moderate, 1), "not the 500");
    assert_eq!(call().await.unwrap(), 404.into_answer(), "passed through");
    assert_eq!(call().await.unwrap().into_inner(), 1, "and not kept");
    assert_eq!((store.len(), inner.calls()), (1, 4));

    // What lies below is degraded, and says so.
    let below =
        Chain::<String, Answer>::new().rung(Rung::answer("estimate", |_| Some(2)).level(Level::Moderate));
    let below = DegradeLayer::new("below", below).unwrap();
    let above = DegradeLayer::new("prices", Chain::<String, Answer>::new()).unwrap();
    let above = above.last_good(store.clone()).unwrap();
    advance(secs(1)).await;
    let service = above.layer(below.layer(Scripted::<u32>::new([err("down")])));
    let answer = service.oneshot("a".into()).await.unwrap();
    assert_eq!((answer.level(), answer.into_inner()), (Level::Moderate, 2));
    assert_eq!(call().await.unwrap().into_inner(), 1, "the good one is still there");
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_service_is_left_alone_for_a_moment_while_there_is_a_stale_answer() {
    let (layer, inner) = (layer(&store().negative_ttl(secs(1))), Scripted::new([ok(1), err("down")]));
    call(&layer, &inner).await;
    advance(secs(601)).await;
    let mut causes = Vec::new();
    for wait in [0, 999, 1] {
        advance(ms(wait)).await;
        let answer = call(&layer, &inner).await;
        causes.push((answer.shortfalls()[0].cause(), answer.level(), inner.calls()));
    }
    let failed = Cause::Failed(Kind::Transient);
    let expected = [
        (failed, Level::Moderate, 2),
        (Cause::FailedBefore, Level::Moderate, 2),
        (failed, Level::Moderate, 3),
    ];
    assert_eq!(causes, expected);
}

#[tokio::test(start_paused = true)]
async fn refreshes_are_spread_and_what_was_kept_can_be_forgotten() {
    let store = store().refresh_jitter(10).max_refreshes(200);
    let (layer, inner) = (layer(&store), Scripted::new([ok(1)]));
    for key in 0..200 {
        layer.layer(inner.clone()).oneshot(key.to_string()).await.unwrap();
    }
    let fresh = async |at: u64| {
        advance(secs(at)).await;
        let before = inner.calls();
        inner.go_on_with([err("down")]);
        for key in 0..200 {
            layer.layer(inner.clone()).oneshot(key.to_string()).await.unwrap();
        }
        settle().await;
        200 - (inner.calls() - before)
    };
    assert_eq!(fresh(539).await, 200);
    let left = fresh(31).await;
    assert!((60..140).contains(&left), "about half of them at 570 s: {left}");
    assert_eq!(fresh(30).await, 0);
    assert!(store.invalidate("7") && !store.invalidate("7"));
    assert_eq!(store.len(), 199);
    store.clear();
    assert_eq!((store.len(), store.bytes()), (0, 0));
}

/// HD-67.
#[tokio::test(start_paused = true)]
async fn memory_is_freed_of_what_can_no_longer_be_served_and_then_of_what_was_used_least() {
    let store = store().max_bytes(1024 * 1024);
    let (layer, inner) = (layer(&store), Scripted::new([ok(1)]));
    let ask = async |key: &str| layer.layer(inner.clone()).oneshot(key.to_owned()).await.unwrap();
    for key in ["past if_error", "stale 1", "stale 2"] {
        ask(key).await;
        advance(secs(100)).await;
    }
    advance(secs(1510)).await;
    let each = store.bytes() / 3;
    assert_eq!((store.purge(), store.len()), (1, 2), "an outage needs the others");
    inner.go_on_with([err("down")]);
    assert_eq!(ask("stale 1").await.into_inner(), 1);
    store.shrink_to(each + each / 2);
    assert_eq!(store.len(), 1);
    assert_eq!((ask("stale 1").await.into_inner(), ask("stale 2").await.into_inner()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn alternates_that_are_better_than_a_stale_answer_come_before_it() {
    let replica = Scripted::new([ok(5), err("down")]);
    let chain = Chain::<String, Answer>::new()
        .rung(Rung::answer("fixed", |_| Some(0)))
        .rung(Rung::alternate("replica", replica, buttress_core::ErrorsAreFailures));
    let layer = DegradeLayer::new("prices", chain).unwrap().last_good(store()).unwrap();
    let inner = Scripted::new([ok(1), err("down")]);
    let call = || layer.layer(inner.clone()).oneshot("a".to_owned());
    call().await.unwrap();
    advance(secs(601)).await;
    let answers = [call().await.unwrap(), call().await.unwrap()];
    assert_eq!(
        answers.map(|answer| (answer.level(), answer.into_inner())),
        [(Level::Slight, 5), (Level::Moderate, 1)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_key_is_neither_kept_nor_looked_for() {
    let store = store();
    let (layer, inner) = (layer(&store), Scripted::new([ok(1), err("down")]));
    let call = || layer.layer(inner.clone()).oneshot("unkeyed".to_owned());
    assert_eq!(call().await.unwrap(), 1.into_answer());
    assert_eq!((call().await.unwrap().into_inner(), store.len(), inner.calls()), (0, 0, 2));
}

#[test]
fn a_bad_configuration_is_an_error_that_names_the_field() {
    let error = |store| {
        let chain = Chain::<String, Answer>::new();
        DegradeLayer::new("prices", chain).unwrap().last_good(store).unwrap_err().to_string()
    };
    assert_eq!(error(store().refresh_jitter(51)), "`refresh_jitter` is 51, but must be at most 50 percent");
    assert!(error(store().level(Level::Full)).starts_with("`level` is Full"));
}

#[tokio::test(start_paused = true)]
async fn a_store_holds_its_bound_whatever_is_asked_for() {
    let rules =
        ByKey::new(|key: &u32| Some(key.to_string().into())).weighing(|value: &Arc<[u8]>| value.len());
    let store = LastGood::new(rules).max_bytes(1024 * 1024);
    let chain = Chain::<u32, Degraded<Arc<[u8]>>>::new();
    let layer = DegradeLayer::new("prices", chain).unwrap().last_good(store.clone()).unwrap();
    let service =
        layer.layer(tower::service_fn(|_: u32| async { Ok::<Arc<[u8]>, BoxError>([0; 1024].into()) }));
    for key in 0..10_000 {
        service.clone().oneshot(key).await.unwrap();
        assert!(store.bytes() <= 1024 * 1024);
    }
    settle().await;
    // Some 2 % are for finding them.
    assert!(store.bytes() > 1000 * 1024 && store.len() > 700, "{} of {}", store.bytes(), store.len());
}

/// What is dropped runs code of others, which may look at the store.
#[tokio::test(start_paused = true)]
async fn what_goes_for_another_answer_may_ask_the_store_while_it_is_dropped() {
    struct Looks(Arc<dyn Fn() + Send + Sync>);
    impl Drop for Looks {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    let rules = ByKey::new(|key: &u32| Some(key.to_string().into())).weighing(|_: &Arc<Looks>| 60_000);
    let store = LastGood::new(rules).max_bytes(100_000);
    let dropped = Arc::new(AtomicUsize::new(0));
    let (of, count) = (store.clone(), Arc::clone(&dropped));
    let look: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
        count.fetch_add(1 + of.in_flight() + of.len(), Relaxed);
    });
    let chain = Chain::<u32, Degraded<Arc<Looks>>>::new();
    let layer = DegradeLayer::new("prices", chain).unwrap().last_good(store.clone()).unwrap();
    let service = layer.layer(tower::service_fn(move |_: u32| {
        let answer = Arc::new(Looks(Arc::clone(&look)));
        async { Ok::<_, BoxError>(answer) }
    }));
    for key in 0..10 {
        service.clone().oneshot(key).await.unwrap();
        settle().await;
    }
    assert!(dropped.load(Relaxed) >= 9 && store.len() == 1);
    store.clear();
}

/// One store over another.
#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_from_another_store_is_as_old_as_it_is() {
    let below = layer(&store().ttl(secs(60)));
    let above = {
        let chain = Chain::<String, Answer>::new();
        let store = LastGood::new(rules()).ttl(secs(60)).while_revalidate(secs(0)).refresh_jitter(0);
        DegradeLayer::new("shop", chain).unwrap().last_good(store.negative_ttl(secs(0))).unwrap()
    };
    let inner = Scripted::new([ok(1), ok(2), err("down")]);
    let service = above.layer(below.layer(inner.clone()));
    below.layer(inner.clone()).oneshot("a".into()).await.unwrap();
    let ask = async || {
        let answer = service.clone().oneshot("a".into()).await.unwrap();
        (answer.level(), answer.age(), answer.into_inner())
    };
    advance(secs(40)).await;
    assert_eq!(ask().await, (Level::Full, Some(secs(40)), 1));
    advance(secs(19)).await;
    assert_eq!(ask().await, (Level::Full, Some(secs(59)), 1));
    advance(secs(1)).await;
    assert_eq!((ask().await, inner.calls()), ((Level::Full, None, 2), 2), "both are out of date");
    advance(secs(61)).await;
    assert_eq!(ask().await, (Level::Moderate, Some(secs(61)), 2));
}
