//! What a stack must not break: URLs, redirects, protocol retries, other middlewares, state, cancellation.

mod common;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress::{BoxError, Exhausted, find};
use buttress_reqwest::{Detached, NextService, RequestBuilderExt, StackMiddleware, attempts};
use common::{client, stack, until};
use futures_util::future::{join_all, select_ok};
use http::Extensions;
use loopback::{Do, Server, status};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tower::buffer::BufferLayer;
use tower::limit::ConcurrencyLimitLayer;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

type Request = http::Request<reqwest::Body>;
type Response = http::Response<reqwest::Body>;
type BoxFuture = Pin<Box<dyn Future<Output = Result<Response, BoxError>> + Send>>;

/// Over a bare client.
fn over<L>(layer: L) -> ClientWithMiddleware
where
    L: Layer<NextService>,
    StackMiddleware<L::Service>: Middleware,
{
    ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::new(layer)).build()
}

#[tokio::test]
async fn the_url_is_that_of_the_last_hop() {
    let redirect = status(302).header("location", "/last");
    let server = Server::start([status(503), redirect]).await;
    let (client, _) = client(&stack());
    let response = client.get(server.at("/first?q=1")).send().await.unwrap();
    assert_eq!(response.url().as_str(), server.at("/last"));
    let response = client.get(server.at("/plain?q=1#part")).send().await.unwrap();
    assert_eq!(response.url().as_str(), server.at("/plain?q=1"));
}

#[tokio::test]
async fn an_answer_that_a_layer_makes_up_has_the_request_s_url() {
    let made_up = tower::layer::layer_fn(|_: NextService| {
        service_fn(|_: Request| async { Ok::<_, BoxError>(http::Response::new(String::from("cached"))) })
    });
    let response = over(made_up).get("http://127.0.0.1:9/x").send().await.unwrap();
    assert_eq!(response.url().as_str(), "http://127.0.0.1:9/x");
    assert_eq!(response.text().await.unwrap(), "cached");
}

#[tokio::test]
async fn a_post_that_is_redirected_keeps_its_method_and_its_body() {
    let redirect = status(308).header("location", "/moved");
    let server = Server::start([status(503), redirect, status(201)]).await;
    let (client, _) = client(&stack());
    let response = client.post(server.at("/x")).body("the body").repeatable().send().await.unwrap();
    assert_eq!((response.status().as_u16(), attempts(&response)), (201, 2), "a redirect is no attempt");
    let seen = server.seen();
    assert_eq!(
        (seen[2].method.as_str(), seen[2].uri.path(), &seen[2].body[..]),
        ("POST", "/moved", &b"the body"[..])
    );
}

#[tokio::test]
async fn what_an_http2_server_has_not_processed_reqwest_repeats_by_itself() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&bodies);
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut refused = false;
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            if !std::mem::replace(&mut refused, true) {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                continue;
            }
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut body = request.into_body();
                let data = body.data().await.unwrap().unwrap();
                seen.lock().unwrap().push(data);
                respond.send_response(http::Response::new(()), true).unwrap();
            });
        }
    });
    let http2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let client = ClientBuilder::new(http2).with(StackMiddleware::new(stack().build().unwrap())).build();
    let response = client.post(url).body("once").with_max_retries(0).send().await.unwrap();
    assert_eq!((response.status().as_u16(), attempts(&response)), (200, 1));
    assert_eq!(*bodies.lock().unwrap(), ["once"]);
}

/// Counts, and leaves its count behind.
#[derive(Clone, Default)]
struct Count(Arc<Mutex<u32>>);

#[derive(Clone, Debug, PartialEq)]
struct Left(u32);

impl Count {
    fn get(&self) -> u32 {
        *self.0.lock().unwrap()
    }
}

#[async_trait::async_trait]
impl Middleware for Count {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let count = {
            let mut count = self.0.lock().unwrap();
            *count += 1;
            *count
        };
        extensions.insert(Left(count));
        next.run(request, extensions).await
    }
}

#[tokio::test]
async fn middlewares_above_see_a_call_and_those_below_each_attempt() {
    let server = Server::start([status(503), status(503)]).await;
    let (above, below) = (Count::default(), Count::default());
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(above.clone())
        .with(StackMiddleware::new(stack().build().unwrap()))
        .with(below.clone())
        .build();
    let mut extensions = Extensions::new();
    let request = client.get(server.url()).build().unwrap();
    let response = client.execute_with_extensions(request, &mut extensions).await.unwrap();
    assert_eq!((response.status().as_u16(), above.get(), below.get()), (200, 1, 3));
    assert_eq!(extensions.get(), Some(&Left(3)), "what the last attempt has left");
}

#[tokio::test]
async fn what_a_layer_keeps_is_kept_over_calls() {
    let server = Server::start([]).await;
    let limited = over(ConcurrencyLimitLayer::new(1));
    let calls = (0..6).map(|_| limited.get(server.url()).send());
    assert!(join_all(calls).await.into_iter().all(|response| response.is_ok()));
    assert_eq!((server.calls(), server.most_under_way()), (6, 1));
}

#[tokio::test]
async fn a_layer_may_hand_calls_to_a_task_of_its_own() {
    let server = Server::start([]).await;
    let buffered = ServiceBuilder::new().layer(BufferLayer::new(4)).layer(ConcurrencyLimitLayer::new(2));
    let client = over(buffered.into_inner());
    let calls = (0..6).map(|_| client.get(server.url()).send());
    assert!(join_all(calls).await.into_iter().all(|response| response.is_ok()));
    assert_eq!(server.calls(), 6);
}

/// Sends every request twice, and takes the first answer.
#[derive(Clone)]
struct Hedge<S>(S);

impl<S> Service<Request> for Hedge<S>
where
    S: Service<Request, Response = Response, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = BoxError;
    type Future = BoxFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> BoxFuture {
        let (parts, _) = request.into_parts();
        let copy = || self.0.clone().oneshot(Request::from_parts(parts.clone(), reqwest::Body::default()));
        let both = [Box::pin(copy()), Box::pin(copy())];
        Box::pin(async move { Ok(select_ok(both).await?.0) })
    }
}

#[tokio::test]
async fn of_two_attempts_at_once_the_loser_is_dropped() {
    let server = Server::start([Do::Hang]).await;
    let client = over(tower::layer::layer_fn(Hedge));
    assert_eq!(client.get(server.url()).send().await.unwrap().status(), 200);
    until(|| server.abandoned() == 1).await;
    assert_eq!(server.calls(), 2);
}

/// Hangs the first time, and counts what is under way.
#[derive(Clone, Default)]
struct HangsOnce {
    calls: Count,
    under_way: Arc<()>,
    most: Arc<Mutex<usize>>,
}

#[async_trait::async_trait]
impl Middleware for HangsOnce {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let _guard = Arc::clone(&self.under_way);
        {
            let mut most = self.most.lock().unwrap();
            *most = (*most).max(Arc::strong_count(&self.under_way) - IDLE);
        }
        let response = self.calls.handle(request, extensions, next).await;
        if self.calls.get() == 1 {
            std::future::pending::<()>().await;
        }
        response
    }
}

/// The test's own and the client's.
const IDLE: usize = 2;

#[tokio::test]
async fn an_attempt_that_is_given_up_is_gone_before_the_next_one_begins() {
    let server = Server::start([]).await;
    let beneath = HangsOnce::default();
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(StackMiddleware::new(stack().build().unwrap()))
        .with(beneath.clone())
        .build();
    let response = client.get(server.url()).send().await.unwrap();
    assert_eq!((attempts(&response), *beneath.most.lock().unwrap()), (2, 1));
    assert_eq!(Arc::strong_count(&beneath.under_way), IDLE);
}

#[tokio::test]
async fn a_request_that_has_lost_its_extensions_is_not_sent_and_says_so() {
    let forgetful = tower::util::MapRequestLayer::new(|mut request: Request| {
        request.extensions_mut().clear();
        request
    });
    let error = over(forgetful).get("http://127.0.0.1:9/").send().await.unwrap_err();
    assert!(find::<Detached>(&error).is_some(), "{error:?}");
}

#[tokio::test]
async fn a_deadline_travels_from_one_stack_to_the_next() {
    let server = Server::start_then([], Do::Hang).await;
    let outer = stack().total(Duration::from_secs(2)).attempt(Duration::from_secs(60)).deadline_travels();
    let inner = stack().total(Duration::from_secs(60)).attempt(Duration::from_secs(60));
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(StackMiddleware::new(outer.build().unwrap()))
        .with(StackMiddleware::new(inner.build().unwrap()))
        .build();
    client.get(server.url()).with_max_retries(0).send().await.unwrap_err();
    until(|| server.abandoned() == 1).await;
}

#[tokio::test]
async fn an_inner_stack_that_gave_up_is_understood_by_an_outer_one() {
    let server = Server::start_then([], Do::Reset).await;
    let outer = stack().retry(common::fast().max_retries(2)).build().unwrap();
    let inner = stack().retry(common::fast().max_retries(0)).build().unwrap();
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(StackMiddleware::new(outer))
        .with(StackMiddleware::new(inner))
        .build();
    let error = client.get(server.url()).send().await.unwrap_err();
    let exhausted = find::<Exhausted>(&error).unwrap();
    assert_eq!((exhausted.attempts, server.calls()), (3, 3));
    assert!(find::<reqwest::Error>(&error).is_some());
}
