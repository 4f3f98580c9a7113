//! The contract check finds what it is for.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_testkit::{Scripted, contract, ok};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};

async fn violation(check: impl Future<Output = ()>) -> String {
    let mut check = std::pin::pin!(check);
    let panic = std::future::poll_fn(|cx| {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| check.as_mut().poll(cx)));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => Poll::Ready(None),
            Err(panic) => Poll::Ready(Some(panic)),
        }
    });
    let panic = panic.await.expect("the check must fail");
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).expect("a message")
}

#[tokio::test(start_paused = true)]
async fn towers_own_layers_pass() {
    contract::check(|| ServiceBuilder::new().timeout(Duration::from_secs(60))).await;
    contract::check(|| ServiceBuilder::new().concurrency_limit(8)).await;
}

/// The classic mistake: the clone is called, the instance that was made ready is kept.
#[derive(Clone)]
struct CallsTheClone<S>(S);

impl<S: Service<u64> + Clone> Service<u64> for CallsTheClone<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: u64) -> S::Future {
        self.0.clone().call(request)
    }
}

#[tokio::test(start_paused = true)]
async fn calling_a_clone_that_was_not_made_ready_is_found() {
    let message = violation(contract::check(|| tower::layer::layer_fn(CallsTheClone))).await;
    assert!(message.contains("not made ready"), "{message}");
}

/// Always ready, which swallows the backpressure of what is inside.
#[derive(Clone)]
struct AlwaysReady<S>(S);

impl<S: Service<u64> + Clone + Send + 'static> Service<u64> for AlwaysReady<S>
where
    S::Future: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        Box::pin(self.0.clone().oneshot(request))
    }
}

#[tokio::test(start_paused = true)]
async fn swallowed_backpressure_is_found() {
    let message = violation(contract::check(|| tower::layer::layer_fn(AlwaysReady))).await;
    assert!(message.contains("readiness that is pending must stay so"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn the_last_step_of_a_script_repeats() {
    let script = Scripted::new([ok(1), ok(2)]);
    let service = tower::layer::util::Identity::new().layer(script.clone());
    for expected in [1, 2, 2] {
        assert_eq!(service.clone().oneshot(()).await, Ok(expected));
    }
    assert_eq!(script.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_that_was_to_be_carried_on_is_found() {
    let message =
        violation(contract::check_detaching(|| ServiceBuilder::new().timeout(Duration::from_secs(60)))).await;
    assert!(message.contains("must go on inside"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn backpressure_that_does_not_end_where_it_has_to_is_found() {
    let identity = tower::layer::util::Identity::new;
    let message = violation(contract::check_always_ready(identity)).await;
    assert!(message.contains("backpressure must end here"), "{message}");
    contract::check_always_ready(|| tower::layer::layer_fn(AlwaysReady)).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_that_is_no_error_where_a_call_is_shared_is_found() {
    let layer = || tower::layer::layer_fn(AlwaysReady);
    let message = violation(contract::check_shared(layer)).await;
    assert!(message.contains("scripted panic"), "{message}");
}
