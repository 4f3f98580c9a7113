//! What calls hold, and what panics leave behind, through a stack applied either way.

mod common;

use std::future::{pending, poll_fn};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use buttress_reqwest::{InPlaceService, NextService, StackMiddleware};
use common::in_place::Request;
use futures_util::future::{BoxFuture, FutureExt};
use http::Extensions;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tower::limit::ConcurrencyLimit;
use tower::{Service, layer::layer_fn};

type Outcome = reqwest_middleware::Result<reqwest::Response>;

fn answer(url: &reqwest::Url) -> reqwest::Response {
    let builder = reqwest::ResponseBuilderExt::url(http::Response::builder(), url.clone());
    builder.body(String::new()).unwrap().into()
}

/// Makes two services ready, and calls the first.
#[derive(Clone)]
struct Two<S>(ConcurrencyLimit<S>, ConcurrencyLimit<S>);

impl<S: Clone> Two<S> {
    fn of(service: S) -> Self {
        Self(ConcurrencyLimit::new(service.clone(), 2), ConcurrencyLimit::new(service, 1))
    }
}

impl<S: Service<Request>> Service<Request> for Two<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = tower::limit::concurrency::future::ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        ready!(self.0.poll_ready(cx))?;
        self.1.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        self.0.call(request)
    }
}

struct HangsAtTimes;

#[async_trait::async_trait]
impl Middleware for HangsAtTimes {
    async fn handle(&self, request: reqwest::Request, _: &mut Extensions, _: Next<'_>) -> Outcome {
        if request.url().path() == "/hang" {
            pending::<()>().await;
        }
        Ok(answer(request.url()))
    }
}

async fn reserves_no_longer_than_it_is_called(stack: impl Middleware) {
    let client = ClientBuilder::new(reqwest::Client::new()).with(stack).with(HangsAtTimes).build();
    let mut hangs = Box::pin(client.get("http://api/hang").send());
    assert!(poll_fn(|cx| Poll::Ready(hangs.poll_unpin(cx).is_pending())).await);
    // The second place of the first service is free, and the only one of the second, too.
    let answered = client.get("http://api/ok").send().now_or_never();
    assert!(answered.is_some_and(|answer| answer.is_ok()), "it waits for what the other call has not used");
}

#[tokio::test]
async fn what_a_call_has_reserved_and_not_used_is_free_while_it_goes_on() {
    let in_place = StackMiddleware::in_place(layer_fn(Two::<InPlaceService>::of));
    reserves_no_longer_than_it_is_called(in_place).await;
    reserves_no_longer_than_it_is_called(StackMiddleware::new(layer_fn(Two::<NextService>::of))).await;
}

/// Which attempt put it there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Left(usize);

/// Panics in its first attempt; notes what each finds in the extensions, and leaves more.
struct PanicsFirst(Arc<Mutex<Vec<Option<Left>>>>);

#[async_trait::async_trait]
impl Middleware for PanicsFirst {
    async fn handle(&self, request: reqwest::Request, left: &mut Extensions, _: Next<'_>) -> Outcome {
        let found = left.get::<Left>().copied();
        let number = {
            let mut seen = self.0.lock().unwrap();
            seen.push(found);
            seen.len()
        };
        left.insert(Left(number));
        tokio::task::yield_now().await;
        assert!(number > 1, "the first attempt panics");
        Ok(answer(request.url()))
    }
}

/// Catches a panic of its first attempt and makes another.
#[derive(Clone)]
struct Twice<S>(S);

impl<S> Service<Request> for Twice<S>
where
    S: Service<Request, Future: Send> + Clone + Send + 'static,
    S::Response: Send,
    S::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut inner = self.0.clone();
        let (parts, _) = request.into_parts();
        Box::pin(async move {
            let copy = || Request::from_parts(parts.clone(), reqwest::Body::default());
            let first = AssertUnwindSafe(inner.call(copy())).catch_unwind().await;
            match first {
                Ok(answer) => answer,
                Err(_panic) => inner.call(copy()).await,
            }
        })
    }
}

async fn found_by_each_attempt(stack: impl Middleware) -> Vec<Option<Left>> {
    let seen: Arc<Mutex<Vec<Option<Left>>>> = Arc::default();
    let client: ClientWithMiddleware =
        ClientBuilder::new(reqwest::Client::new()).with(stack).with(PanicsFirst(Arc::clone(&seen))).build();
    client.get("http://api/x").with_extension(Left(0)).send().await.unwrap();
    let seen = seen.lock().unwrap();
    seen.clone()
}

#[tokio::test]
async fn what_an_attempt_has_left_that_panicked_reaches_no_other() {
    let in_place = StackMiddleware::in_place(layer_fn(Twice::<InPlaceService>));
    assert_eq!(found_by_each_attempt(in_place).await, [Some(Left(0)); 2]);
    let by_courier = StackMiddleware::new(layer_fn(Twice::<NextService>));
    assert_eq!(found_by_each_attempt(by_courier).await, [Some(Left(0)); 2]);
}

/// Panics in its first call, in the middle of it or before it has begun.
#[derive(Clone)]
struct Panics {
    at_once: bool,
    calls: Arc<AtomicU32>,
}

impl Middleware for Panics {
    fn handle<'s, 'e, 'n, 'a>(
        &'s self,
        request: reqwest::Request,
        _: &'e mut Extensions,
        _: Next<'n>,
    ) -> BoxFuture<'a, Outcome>
    where
        's: 'a,
        'e: 'a,
        'n: 'a,
    {
        let first = self.calls.fetch_add(1, Relaxed) == 0;
        assert!(!(first && self.at_once), "beneath the stack");
        Box::pin(async move {
            tokio::task::yield_now().await;
            assert!(!first, "beneath the stack");
            Ok(answer(request.url()))
        })
    }
}

async fn a_panic_counts_and_is_over(stack: impl Middleware, failures: impl Fn() -> u32, at_once: bool) {
    let panics = Panics { at_once, calls: Arc::default() };
    let client = ClientBuilder::new(reqwest::Client::new()).with(stack).with(panics).build();
    let call = AssertUnwindSafe(client.get("http://api/x").send()).catch_unwind().await;
    assert_eq!(call.unwrap_err().downcast_ref(), Some(&"beneath the stack"));
    assert_eq!(failures(), 1);
    let answer = client.get("http://api/x").send().await.unwrap();
    assert_eq!((answer.url().as_str(), failures()), ("http://api/x", 0));
}

/// A middleware that is no `async fn` may panic before it gives a future.
#[tokio::test]
async fn a_panic_beneath_counts_as_a_failure_and_passes_on_and_the_next_call_is_as_any_other() {
    for at_once in [false, true] {
        let layer = common::stack().build().unwrap();
        let failures = || layer.circuit_breaker().handle().metrics().consecutive_failures;
        a_panic_counts_and_is_over(StackMiddleware::in_place(&layer), failures, at_once).await;
        a_panic_counts_and_is_over(StackMiddleware::new(&layer), failures, at_once).await;
    }
}
