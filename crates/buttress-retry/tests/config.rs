//! Configurations that are changed while calls flow.

mod common;

use std::time::Duration;

use buttress_core::{Backoff, Exhausted, Mode, Stop, find};
use buttress_retry::{Budget, Config, RetryLayer};
use buttress_testkit::{Scripted, err, ok};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn config(max_retries: u32, delay: u64) -> Config {
    let delay = Backoff::constant(secs(delay));
    Config::background().max_retries(max_retries).backoff(delay).budget(Budget::unlimited())
}

#[tokio::test(start_paused = true)]
async fn a_call_keeps_the_configuration_of_its_first_failure_and_clones_obey_the_new_one() {
    let layer = RetryLayer::new("test", config(3, 10)).unwrap();
    let script = Scripted::<u32>::new([err("1"), err("1"), err("2"), err("2"), err("1"), err("1")]);
    let service = layer.layer(script.clone());
    let clone = service.clone();
    let started = Instant::now();
    let mut old = tokio_test::task::spawn(service.oneshot(()));
    tokio_test::assert_pending!(old.poll());
    tokio::time::advance(secs(10)).await;
    tokio_test::assert_pending!(old.poll());
    assert_eq!(script.counts().calls, 2);

    layer.set_config(config(1, 2)).unwrap();
    let error = clone.oneshot(()).await.unwrap_err();
    assert_eq!((find::<Exhausted>(&*error).unwrap().attempts, started.elapsed()), (2, secs(12)));
    let error = old.await.unwrap_err();
    assert_eq!((find::<Exhausted>(&*error).unwrap().attempts, started.elapsed()), (4, secs(30)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_began_while_none_was_retried_is_not_retried() {
    let layer = RetryLayer::new("test", config(0, 1)).unwrap();
    let service = layer.layer(Scripted::<u32>::new([err("down").after(secs(1)), err("down"), ok(1)]));
    let mut old = tokio_test::task::spawn(service.clone().oneshot(()));
    tokio_test::assert_pending!(old.poll());
    layer.set_config(config(1, 1)).unwrap();
    let error = old.await.unwrap_err();
    assert_eq!(find::<Exhausted>(&*error).unwrap().stop, Stop::MaxRetries);
    assert_eq!(service.oneshot(()).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_configuration_is_an_error_and_changes_nothing() {
    let layer = RetryLayer::new("test", config(2, 1)).unwrap();
    let budget = Budget::ratio(0.1, 3).unwrap();
    let error = layer.set_config(config(9, 1).budget(budget).max_total_wait(Duration::ZERO)).unwrap_err();
    assert_eq!(error.field(), "max_total_wait");
    assert_eq!(layer.config().to_string(), config(2, 1).to_string());
    assert!(layer.budget().tokens().is_infinite());
}

#[tokio::test(start_paused = true)]
async fn the_budget_keeps_its_tokens_as_far_as_the_new_size_goes() {
    let bucket = |share, size| Budget::ratio(share, size).unwrap();
    let layer = RetryLayer::new("test", config(5, 1).budget(bucket(0.5, 20))).unwrap();
    let spend = async |retries: usize| {
        let script = std::iter::repeat_with(|| err("down")).take(retries).chain([ok(1)]);
        layer.layer(Scripted::new(script)).oneshot(()).await.unwrap();
    };
    spend(5).await;
    assert_eq!(layer.budget().tokens(), 15.5);
    layer.set_config(layer.config().budget(bucket(0.0, 30))).unwrap();
    assert_eq!(layer.budget().tokens(), 15.5, "a larger one is not filled");
    spend(5).await;
    assert_eq!(layer.budget().tokens(), 10.5, "and by the new rule a success earns nothing");
    layer.set_config(layer.config().max_retries(2)).unwrap();
    assert_eq!(layer.budget().tokens(), 10.5, "what is not changed is left alone");
    layer.set_config(layer.config().budget(bucket(0.0, 3))).unwrap();
    assert_eq!(layer.budget().tokens(), 3.0);
    layer.set_config(layer.config().budget(Budget::unlimited())).unwrap();
    assert!(layer.budget().tokens().is_infinite());
    layer.set_config(layer.config().budget(Budget::aws_2_1())).unwrap();
    assert_eq!(layer.budget().tokens(), 500.0, "one of another kind begins as a new one");
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_budget_goes_on_with_what_it_has_earned() {
    let adaptive = |share, at_least| Budget::adaptive(share, secs(1), at_least).unwrap();
    let layer = RetryLayer::new("test", config(50, 1).budget(adaptive(0.1, 1))).unwrap();
    let service = layer.layer(Scripted::new((0..3000).map(ok)));
    for _ in 0..3000 {
        service.clone().oneshot(()).await.unwrap();
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    let earned = layer.budget().tokens();
    assert!(earned > 80.0, "a second of a hundred calls: {earned}");
    layer.set_config(layer.config().budget(adaptive(0.2, 5))).unwrap();
    assert_eq!(layer.budget().tokens(), earned);
    assert_eq!(layer.budget().to_string(), "20 % of successes, at least 5 in hand");
    let shorter = Budget::adaptive(0.2, Duration::from_millis(100), 5).unwrap();
    layer.set_config(layer.config().budget(shorter)).unwrap();
    assert!(layer.budget().tokens() <= 10.0, "cut to the new burst: {}", layer.budget().tokens());
}

#[tokio::test(start_paused = true)]
async fn the_mode_stays_and_so_does_what_the_rate_gate_holds_unless_it_is_switched_off() {
    let layer = RetryLayer::new("test", config(1, 1)).unwrap();
    layer.set_mode(Mode::Observe);
    layer.set_config(config(2, 1).rate_gate(true)).unwrap();
    assert_eq!(layer.mode(), Mode::Observe);
    assert!(layer.config().to_string().contains("holds back"), "{}", layer.config());
}

#[tokio::test(start_paused = true)]
async fn retries_are_switched_on_for_services_that_were_built_without_them() {
    let layer = RetryLayer::new("test", config(0, 1)).unwrap();
    let service =
        layer.layer(Scripted::<u32>::new([err("down"), err("down"), ok(1), err("down"), err("down")]));
    service.clone().oneshot(()).await.unwrap_err();
    layer.set_config(config(1, 1)).unwrap();
    assert_eq!(service.clone().oneshot(()).await.unwrap(), 1);
    let error = service.oneshot(()).await.unwrap_err();
    assert_eq!(find::<Exhausted>(&*error).unwrap().stop, Stop::MaxRetries);
}

#[tokio::test(start_paused = true)]
async fn who_hears_of_retries_goes_on_hearing_of_them() {
    let heard = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = std::sync::Arc::clone(&heard);
    let hook = move |_, _, _| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    };
    let layer = RetryLayer::new("test", config(1, 1).on_retry(hook)).unwrap();
    layer.set_config(config(2, 1)).unwrap();
    let service = layer.layer(Scripted::<u32>::new([err("down"), err("down"), ok(1)]));
    assert_eq!(service.oneshot(()).await.unwrap(), 1);
    assert_eq!(heard.load(std::sync::atomic::Ordering::Relaxed), 2);
}
