//! The check that every layer has to pass.

use std::fmt::Debug;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use buttress_core::BoxError;
use tower_layer::Layer;
use tower_service::Service;

use crate::clock::settle;
use crate::probe::ReadinessProbe;
use crate::script::{Scripted, Step, err, hang, ok, panics};

/// The service that a layer is checked around.
pub type Subject = ReadinessProbe<Scripted<u64>>;

/// Checks that a layer keeps tower's contract and Buttress's rules. Every layer crate runs it.
///
/// `layer` makes a fresh layer for each check; it should neither refuse nor act in the few calls that a check makes
/// (a breaker that opens on the fifth failure, a deadline of a minute). Run it on a paused clock.
///
/// * The instance that was made ready is the one that is called; a clone starts unready.
/// * Readiness that is pending stays pending, and wakes.
/// * Answers and errors pass through; an error is found in the chain.
/// * A future dropped before its first poll, or later, drops the call inside, and the next call is answered.
/// * A panic passes through, and the next call is answered.
/// * Services and futures are `Send`, services are `Clone`.
///
/// # Panics
///
/// If any of these is violated.
pub async fn check<L>(layer: impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug, Future: Send> + Clone + Send,
{
    check_local(layer).await;
}

/// [`check`] for a layer whose services and futures need not be `Send`.
///
/// # Panics
///
/// If any of these rules is violated.
pub async fn check_local<L>(layer: impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug> + Clone,
{
    what_has_nothing_to_do_with_drops(&layer).await;
    a_dropped_future_drops_the_call(&layer, &[0, 1, 3]).await;
}

/// [`check`] for a layer that carries a call on, in a task of its own, once it has begun: only a future that is dropped before
/// its first poll drops the call, and one that is dropped later ends it in the background.
///
/// # Panics
///
/// If any of these rules is violated.
pub async fn check_detaching<L>(layer: impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug, Future: Send> + Clone + Send,
{
    what_has_nothing_to_do_with_drops(&layer).await;
    a_dropped_future_drops_the_call(&layer, &[0]).await;
    a_dropped_future_leaves_the_call_to_itself(&layer).await;
}

/// [`check`] for a layer at which backpressure ends: it is always ready, and the call waits until the service inside is.
///
/// # Panics
///
/// If any of these rules is violated.
pub async fn check_always_ready<L>(layer: impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug, Future: Send> + Clone + Send,
{
    answers_and_errors_pass_through(&layer).await;
    readiness_is_waited_for_in_the_call(&layer).await;
    a_panic_passes_through(&layer).await;
    ready_instances_and_their_clones_mix(&layer).await;
    a_dropped_future_drops_the_call(&layer, &[0, 1, 3]).await;
}

/// [`check_always_ready`] for a layer that makes one call for several callers, in a task of its own, as
/// [`check_detaching`] has it: there a panic is an error.
///
/// # Panics
///
/// If any of these rules is violated.
pub async fn check_shared<L>(layer: impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug, Future: Send> + Clone + Send,
{
    answers_and_errors_pass_through(&layer).await;
    readiness_is_waited_for_in_the_call(&layer).await;
    a_panic_is_an_error(&layer).await;
    ready_instances_and_their_clones_mix(&layer).await;
    a_dropped_future_drops_the_call(&layer, &[0]).await;
    a_dropped_future_leaves_the_call_to_itself(&layer).await;
}

async fn what_has_nothing_to_do_with_drops<L>(layer: &impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug> + Clone,
{
    answers_and_errors_pass_through(layer).await;
    readiness_is_that_of_the_service_inside(layer).await;
    a_panic_passes_through(layer).await;
    ready_instances_and_their_clones_mix(layer).await;
}

fn stage<L: Layer<Subject>>(
    layer: &L,
    steps: impl IntoIterator<Item = Step<u64>>,
) -> (L::Service, Scripted<u64>) {
    let script = Scripted::new(steps);
    (layer.layer(ReadinessProbe::new(script.clone())), script)
}

async fn call<S: Service<u64>>(service: &mut S, request: u64) -> Result<S::Response, S::Error> {
    std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(request).await
}

async fn answers_and_errors_pass_through<L>(layer: &impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug>,
{
    let (mut service, _) = stage(&layer(), [ok(7)]);
    assert_eq!(call(&mut service, 1).await.expect("an answer passes through"), 7);
    let (mut service, _) = stage(&layer(), [err("scripted")]);
    let error: BoxError = call(&mut service, 1).await.expect_err("an error passes through").into();
    assert!(
        buttress_core::find::<crate::ScriptError>(&*error).is_some(),
        "the error of the service inside must be found in the chain of {error:?}"
    );
}

async fn readiness_is_that_of_the_service_inside<L>(layer: &impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug>,
{
    let (mut service, _) = stage(&layer(), [ok(7).ready_after(Duration::from_millis(50))]);
    assert!(poll_ready_once(&mut service).is_pending(), "readiness that is pending must stay so");
    let started = tokio::time::Instant::now();
    assert_eq!(call(&mut service, 1).await.expect("ready in the end"), 7);
    assert_eq!(started.elapsed().as_millis(), 50, "and must wake as soon as the service inside is ready");
}

async fn readiness_is_waited_for_in_the_call<L>(layer: &impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug>,
{
    let (mut service, _) = stage(&layer(), [ok(7).ready_after(Duration::from_millis(50))]);
    assert!(poll_ready_once(&mut service).is_ready(), "backpressure must end here");
    let started = tokio::time::Instant::now();
    assert_eq!(service.call(1).await.expect("ready in the end"), 7);
    assert_eq!(started.elapsed().as_millis(), 50, "as soon as the service inside is ready");
}

async fn a_dropped_future_drops_the_call<L>(layer: &impl Fn() -> L, after: &[usize])
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug>,
{
    for &polls in after {
        let (mut service, script) = stage(&layer(), [hang(), ok(7)]);
        std::future::poll_fn(|cx| service.poll_ready(cx)).await.expect("ready");
        {
            let mut future = pin!(service.call(1));
            for _ in 0..polls {
                assert!(poll(future.as_mut()).is_pending());
            }
        }
        settle().await;
        let counts = script.counts();
        assert_eq!(counts.in_flight, 0, "a call dropped after {polls} polls must not go on inside");
        script.go_on_with([ok(7)]);
        assert_eq!(call(&mut service, 1).await.expect("answered after a drop"), 7);
    }
}

async fn a_dropped_future_leaves_the_call_to_itself<L>(layer: &impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug>,
{
    for polls in [1, 3] {
        let (mut service, script) = stage(&layer(), [ok(7).after(Duration::from_millis(50)), ok(8)]);
        std::future::poll_fn(|cx| service.poll_ready(cx)).await.expect("ready");
        {
            let mut future = pin!(service.call(1));
            for _ in 0..polls {
                assert!(poll(future.as_mut()).is_pending());
            }
        }
        settle().await;
        assert_eq!(script.counts().in_flight, 1, "a call dropped after {polls} polls must go on inside");
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(script.counts().in_flight, 0, "and must end");
        assert_eq!(call(&mut service, 1).await.expect("answered after a drop"), 8);
    }
}

async fn a_panic_passes_through<L>(layer: &impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug>,
{
    let (mut service, _) = stage(&layer(), [panics(), ok(7)]);
    std::future::poll_fn(|cx| service.poll_ready(cx)).await.expect("ready");
    let mut future = Box::pin(service.call(1));
    let outcome = catch_unwind(AssertUnwindSafe(|| poll(future.as_mut()).is_ready()));
    assert!(outcome.is_err(), "a panic must pass through");
    drop(future);
    assert_eq!(call(&mut service, 1).await.expect("answered after a panic"), 7);
}

async fn a_panic_is_an_error<L>(layer: &impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug>,
{
    let (mut service, _) = stage(&layer(), [panics(), ok(7)]);
    assert!(call(&mut service, 1).await.is_err(), "a panic must be an error");
    assert_eq!(call(&mut service, 1).await.expect("answered after a panic"), 7);
}

async fn ready_instances_and_their_clones_mix<L>(layer: &impl Fn() -> L)
where
    L: Layer<Subject>,
    L::Service: Service<u64, Response = u64, Error: Into<BoxError> + Debug> + Clone,
{
    // The readiness probe inside fails the test if any of this calls the wrong instance.
    let (mut service, script) = stage(&layer(), [ok(7)]);
    for round in 0..4 {
        std::future::poll_fn(|cx| service.poll_ready(cx)).await.expect("ready");
        let mut clone = service.clone();
        let first = service.call(round);
        assert_eq!(call(&mut clone, round).await.expect("a clone, made ready by itself"), 7);
        assert_eq!(first.await.expect("the instance that was made ready"), 7);
        let mut later = clone.clone();
        drop(clone);
        assert_eq!(call(&mut later, round).await.expect("a clone of a clone"), 7);
    }
    assert_eq!(script.counts().in_flight, 0);
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn poll_ready_once<S: Service<u64>>(service: &mut S) -> Poll<Result<(), S::Error>> {
    service.poll_ready(&mut Context::from_waker(Waker::noop()))
}
