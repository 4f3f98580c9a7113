//! Services that are not ready, and how long they are waited for.

mod support;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};

use buttress_core::{BoxError, Level, find};
use buttress_degrade::{Cause, DegradeLayer, Shortfall};
use buttress_testkit::{ReadinessProbe, ScriptError, Scripted, err, hang, ok};
use support::numbers::{Open, fixed};
use support::{ms, secs};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

/// A service that is never ready, or cannot become so.
#[derive(Clone)]
struct Unready {
    fails: bool,
}

impl Service<u64> for Unready {
    type Response = u32;
    type Error = ScriptError;
    type Future = std::future::Ready<Result<u32, ScriptError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ScriptError>> {
        if self.fails { Poll::Ready(Err(ScriptError("closed"))) } else { Poll::Pending }
    }

    fn call(&mut self, _: u64) -> Self::Future {
        panic!("called although it was not ready")
    }
}

/// HD-58.
#[tokio::test(start_paused = true)]
async fn a_readiness_that_fails_or_hangs_is_degraded_too() {
    let layer = DegradeLayer::new("prices", Open::new().rung(fixed(7))).unwrap().patience(ms(50)).unwrap();
    for (fails, cause, after) in [(true, Cause::NotReady, 0), (false, Cause::Elapsed, 50)] {
        for layer in [layer.clone(), layer.clone().leaked()] {
            let start = Instant::now();
            let answer = layer.layer(Unready { fails }).oneshot(1).await.unwrap();
            assert_eq!(start.elapsed(), ms(after));
            assert_eq!((answer.shortfalls()[0].cause(), answer.into_inner()), (cause, 7));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_becomes_ready_in_time_is_called_and_it_is_the_one_that_was_asked() {
    let inner = ReadinessProbe::new(Scripted::new([ok(1).ready_after(ms(40)), ok(2).after(ms(20))]));
    let layer = DegradeLayer::new("prices", Open::new().rung(fixed(7))).unwrap().budget(ms(50)).unwrap();
    let mut service = layer.layer(inner);
    let start = Instant::now();
    assert_eq!(service.ready().await.unwrap().call(1).await.unwrap().into_inner(), 1);
    assert_eq!(start.elapsed(), ms(40));
    // Clones and instances mix.
    for _ in 0..4 {
        service.ready().await.unwrap();
        let mut clone = service.clone();
        let first = service.call(1);
        assert_eq!(clone.ready().await.unwrap().call(1).await.unwrap().into_inner(), 2);
        assert_eq!(first.await.unwrap().into_inner(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn patience_is_for_readiness_and_a_budget_for_the_whole_call() {
    let inner = || Scripted::new([ok(1).ready_after(ms(40)).after(ms(500))]);
    let layer = DegradeLayer::new("prices", Open::new().rung(fixed(7))).unwrap();
    for layer in [layer.clone(), layer.leaked()] {
        let start = Instant::now();
        let patient = layer.clone().patience(ms(50)).unwrap().layer(inner());
        assert_eq!((patient.oneshot(1).await.unwrap().into_inner(), start.elapsed()), (1, ms(540)));
        let start = Instant::now();
        let hasty = layer.budget(ms(50)).unwrap().layer(inner());
        assert_eq!((hasty.oneshot(1).await.unwrap().into_inner(), start.elapsed()), (7, ms(50)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_service_failed_of_before_is_not_what_a_later_call_falls_of() {
    let layer = DegradeLayer::new("prices", Open::new().rung(fixed(7))).unwrap().patience(ms(50)).unwrap();
    let readiness = Arc::new(AtomicUsize::new(0));
    let mut service = layer.layer(Turns(Arc::clone(&readiness)));
    let mut cx = Context::from_waker(std::task::Waker::noop());
    for (said, cause) in [
        // It fails, and is ready; it fails, and hangs.
        ([1, 0], None),
        ([1, 2], Some(Cause::Elapsed)),
        ([2, 1], Some(Cause::NotReady)),
        ([0, 1], Some(Cause::NotReady)),
    ] {
        for said in said {
            readiness.store(said, Relaxed);
            assert!(service.poll_ready(&mut cx).is_ready());
        }
        let answer = service.call(1).await.unwrap();
        assert_eq!(answer.shortfalls().first().map(Shortfall::cause), cause, "{said:?}");
    }
    // One that is called without having been asked is asked by the call.
    readiness.store(0, Relaxed);
    assert_eq!(service.call(1).await.unwrap().into_inner(), 1);
}

/// Ready (0), failing (1) or neither (2).
#[derive(Clone)]
struct Turns(Arc<AtomicUsize>);

impl Service<u64> for Turns {
    type Response = u32;
    type Error = BoxError;
    type Future = std::future::Ready<Result<u32, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.0.load(Relaxed) {
            0 => Poll::Ready(Ok(())),
            1 => Poll::Ready(Err("no connection".into())),
            _ => Poll::Pending,
        }
    }

    fn call(&mut self, _: u64) -> Self::Future {
        assert_eq!(self.0.load(Relaxed), 0, "called although it was not ready");
        std::future::ready(Ok(1))
    }
}

#[test]
fn without_a_runtime_what_has_to_wait_is_an_error_and_what_has_not_works() {
    let layer = DegradeLayer::new("prices", Open::new().rung(fixed(7))).unwrap().budget(secs(1)).unwrap();
    let poll = |steps| {
        let mut service = layer.layer(Scripted::<u32>::new([steps]));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        pin!(service.call(1)).poll(&mut cx)
    };
    let Poll::Ready(Ok(answer)) = poll(err("down")) else { panic!("answered at once") };
    assert_eq!(answer.into_inner(), 7);
    let Poll::Ready(Err(error)) = poll(hang()) else { panic!("an error") };
    assert!(find::<buttress_core::NoTimer>(&*error).is_some());
    // A closed chain has to answer, and knows that it is not the caller's fault.
    let closed = Open::new().finally(Level::Minimal, "static", |fallen| match fallen.cause() {
        Cause::NoTimer => 500,
        _ => 503,
    });
    let layer = DegradeLayer::new("prices", closed).unwrap().budget(secs(1)).unwrap();
    let mut call = tokio_test::task::spawn(layer.layer(Scripted::<u32>::new([hang()])).oneshot(1));
    let Poll::Ready(Ok(answer)) = call.poll() else { panic!("answered at once") };
    assert_eq!(answer.into_inner(), 500);
    // A layer below that has none is no fault of the caller's either.
    let below = DegradeLayer::new("below", Open::new()).unwrap().budget(secs(1)).unwrap();
    let layer = DegradeLayer::new("prices", Open::new().keep_requests().rung(fixed(7))).unwrap();
    let mut call =
        tokio_test::task::spawn(layer.layer(below.layer(Scripted::<u32>::new([hang()]))).oneshot(1));
    let Poll::Ready(Err(error)) = call.poll() else { panic!("an error") };
    assert!(find::<buttress_core::NoTimer>(&*error).is_some());
}
