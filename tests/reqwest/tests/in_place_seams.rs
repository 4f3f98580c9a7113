//! What passes between a stack that works in place and what lies above and beneath it: extensions, URLs, and calls that end early.

mod common;

use std::collections::VecDeque;
use std::future::{pending, poll_fn};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;
use std::time::Duration;

use buttress_reqwest::{Detached, InPlaceFuture, InPlaceService, StackMiddleware};
use common::in_place::{BoxFuture, By, Request, Response};
use futures_util::FutureExt;
use futures_util::future::select_ok;
use http::Extensions;
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next};
use tower::layer::layer_fn;
use tower::layer::util::Identity;
use tower::{Layer, Service};

type Outcome = reqwest_middleware::Result<reqwest::Response>;

/// In the extensions, by the attempt with this number.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Left(usize);

/// Beneath a stack: answers in place of a server, or never, as it is told for each attempt, and leaves its number behind.
#[derive(Clone, Default)]
struct Beneath {
    answers: Arc<Mutex<VecDeque<bool>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Of an attempt.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    url: String,
    timeout: Option<Duration>,
    found: Option<Left>,
}

#[async_trait::async_trait]
impl Middleware for Beneath {
    async fn handle(&self, request: reqwest::Request, extensions: &mut Extensions, _: Next<'_>) -> Outcome {
        let number = {
            let mut seen = self.seen.lock().unwrap();
            let (url, timeout) = (request.url().to_string(), request.timeout().copied());
            seen.push(Seen { url, timeout, found: extensions.get().copied() });
            seen.len()
        };
        extensions.insert(Left(number));
        let answers = self.answers.lock().unwrap().pop_front().unwrap_or(true);
        tokio::task::yield_now().await;
        if !answers {
            pending::<()>().await;
        }
        let url = reqwest::ResponseBuilderExt::url(http::Response::builder(), request.url().clone());
        Ok(url.body("from beneath").expect("it is one").into())
    }
}

/// Above a stack: keeps what is found in the extensions when a call is over.
#[derive(Clone, Default)]
struct Above(Arc<Mutex<Option<Left>>>);

#[async_trait::async_trait]
impl Middleware for Above {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Outcome {
        extensions.insert(Left(0));
        let outcome = next.run(request, extensions).await;
        *self.0.lock().unwrap() = extensions.get().copied();
        outcome
    }
}

/// What each attempt found, and what was left at the end.
async fn found<L>(layer: L, answers: &[bool]) -> (Vec<Option<Left>>, Option<Left>)
where
    L: Layer<InPlaceService>,
    StackMiddleware<L::Service>: Middleware,
{
    let (above, beneath) = (Above::default(), Beneath::default());
    beneath.answers.lock().unwrap().extend(answers);
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(above.clone())
        .with(StackMiddleware::in_place(layer))
        .with(beneath.clone())
        .build();
    let response = client.get("http://api/x").send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "from beneath");
    let found = beneath.seen.lock().unwrap().iter().map(|seen| seen.found).collect();
    let left = *above.0.lock().unwrap();
    (found, left)
}

/// What one poll says.
async fn polled<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.poll_unpin(cx))).await
}

/// Several requests of one.
fn copies(request: Request) -> impl FnMut() -> Request {
    let (parts, _) = request.into_parts();
    move || Request::from_parts(parts.clone(), reqwest::Body::default())
}

#[tokio::test]
async fn what_an_attempt_leaves_in_the_extensions_reaches_the_next_one_and_the_caller() {
    let twice = By(|mut inner: InPlaceService, request: Request| -> BoxFuture<Response> {
        let mut copy = copies(request);
        Box::pin(async move {
            inner.call(copy()).await?;
            inner.call(copy()).await
        })
    });
    assert_eq!(found(twice, &[true, true]).await, (vec![Some(Left(0)), Some(Left(1))], Some(Left(2))));
}

#[tokio::test]
async fn what_an_attempt_leaves_that_is_given_up_reaches_nobody() {
    let gives_up = By(|mut inner: InPlaceService, request: Request| -> BoxFuture<Response> {
        let mut copy = copies(request);
        Box::pin(async move {
            let mut first = inner.call(copy());
            for _ in 0..4 {
                assert!(polled(&mut first).await.is_pending());
                tokio::task::yield_now().await;
            }
            drop(first);
            inner.call(copy()).await
        })
    });
    assert_eq!(found(gives_up, &[false, true]).await, (vec![Some(Left(0)); 2], Some(Left(2))));
}

#[tokio::test]
async fn of_attempts_at_the_same_time_each_has_extensions_of_its_own_and_the_last_to_end_leaves_them() {
    let both = By(|mut inner: InPlaceService, request: Request| -> BoxFuture<Response> {
        let mut copy = copies(request);
        let both = [inner.call(copy()), inner.call(copy())];
        Box::pin(async move { Ok(select_ok(both).await?.0) })
    });
    let brought = vec![Some(Left(0)); 2];
    assert_eq!(found(both.clone(), &[false, true]).await, (brought.clone(), Some(Left(2))));
    assert_eq!(found(both, &[true, false]).await, (brought, Some(Left(1))));
}

/// Both ways of applying a stack, over what records its attempts.
fn both_ways() -> [(ClientWithMiddleware, Beneath); 2] {
    let beneath = [Beneath::default(), Beneath::default()];
    let client = |stack: ClientBuilder, beneath: &Beneath| stack.with(beneath.clone()).build();
    let bare = || ClientBuilder::new(reqwest::Client::new());
    let in_place = client(bare().with(StackMiddleware::in_place(Identity::new())), &beneath[0]);
    let by_courier = client(bare().with(StackMiddleware::new(Identity::new())), &beneath[1]);
    let [one, other] = beneath;
    [(in_place, one), (by_courier, other)]
}

const ODD: [&str; 12] = [
    "http://user:p%40ss@api:8080/x",
    "http://[::1]:8080/x?y",
    "http://b\u{fc}cher.example/\u{e4}?q=\u{fc}",
    "http://api",
    "http://api?y",
    "HTTP://API:80//x/../y;v=1",
    "http://api/x?u=http://other/@:#part",
    "http://api/x#",
    "http://api/a b?c d\"<>'",
    "http://api/x?q={[a|b]}",
    "http://api/x?q=`^",
    "http://api/%ff%00?%zz",
];

/// Whatever reqwest itself would send: no URL that is not a URI.
async fn odd_urls_stay_as_they_are(timeout: Option<Duration>) {
    let urls = ODD.map(|url| reqwest::Url::parse(url).unwrap());
    // What a call before asked for makes no difference.
    for url in urls.iter().flat_map(|url| [url, url, &urls[0], url]) {
        for (client, beneath) in both_ways() {
            // Not by `get`, which makes a header of what is before the host.
            let mut request = reqwest::Request::new(reqwest::Method::GET, url.clone());
            *request.timeout_mut() = timeout;
            let outcome = client.execute(request).await;
            if url.as_str().parse::<http::Uri>().is_err() {
                let reqwest_middleware::Error::Reqwest(error) = outcome.unwrap_err() else { panic!("{url}") };
                assert!(error.is_builder(), "{url}");
                assert_eq!(*beneath.seen.lock().unwrap(), []);
                continue;
            }
            assert_eq!(outcome.unwrap().url(), url);
            let seen = Seen { url: url.to_string(), timeout, found: None };
            assert_eq!(*beneath.seen.lock().unwrap(), [seen]);
        }
    }
}

/// In the extensions of a request that was made of one of `http`'s.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Brought;

#[tokio::test]
async fn layers_see_what_a_request_has_brought_in_every_attempt() {
    let seen: Arc<Mutex<Vec<Option<Brought>>>> = Arc::default();
    let sees = seen.clone();
    let twice = By(move |mut inner: InPlaceService, request: Request| -> BoxFuture<Response> {
        sees.lock().unwrap().push(request.extensions().get().copied());
        let mut copy = copies(request);
        Box::pin(async move {
            inner.call(copy()).await?;
            inner.call(copy()).await
        })
    });
    let again = seen.clone();
    let again = By(move |mut inner: InPlaceService, request: Request| -> BoxFuture<Response> {
        again.lock().unwrap().push(request.extensions().get().copied());
        Box::pin(async move { inner.call(request).await })
    });
    let client = ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::in_place(twice));
    let client = client.with(StackMiddleware::in_place(again)).with(Beneath::default()).build();
    for _ in 0..2 {
        let request = http::Request::get("http://api/x").extension(Brought).body("").unwrap();
        client.execute(request.try_into().unwrap()).await.unwrap();
        assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), [Some(Brought); 3]);
        client.get("http://api/x").send().await.unwrap();
        assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), [None; 3]);
    }
}

/// One stack's innermost service, in the hands of another's layer.
#[tokio::test]
async fn a_service_sends_by_its_own_stack_within_whatever_call_it_is_used() {
    let (of_one, of_other) = (Beneath::default(), Beneath::default());
    let bare = || ClientBuilder::new(reqwest::Client::new());
    let own: Arc<OnceLock<InPlaceService>> = Arc::default();
    let foreign = own.clone();
    let other = By(move |_, request: Request| -> BoxFuture<Response> {
        let mut foreign = *foreign.get().expect("the other stack has been made");
        Box::pin(foreign.call(request))
    });
    let other = bare().with(StackMiddleware::in_place(other)).with(of_other.clone()).build();
    let within = other.clone();
    let asks_other = By(move |_, _: Request| -> BoxFuture<http::Response<reqwest::Body>> {
        let within = within.get("http://api/within").send();
        Box::pin(async move { Ok(within.await?.into()) })
    });
    let one = layer_fn(move |service: InPlaceService| {
        own.set(service).expect("there is one stack");
        asks_other.layer(service)
    });
    let one = bare().with(StackMiddleware::in_place(one)).with(of_one.clone()).build();

    let answer = one.get("http://api/x").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "from beneath");
    let urls = |beneath: &Beneath| -> Vec<String> {
        beneath.seen.lock().unwrap().drain(..).map(|seen| seen.url).collect()
    };
    assert_eq!((urls(&of_one), urls(&of_other)), (vec!["http://api/within".to_owned()], vec![]));

    let error = other.get("http://api/alone").send().await.unwrap_err();
    assert!(buttress::find::<Detached>(&error).is_some(), "{error:?}");
    assert_eq!((urls(&of_one), urls(&of_other)), (vec![], vec![]));
}

/// Layers see the URI that was asked for, and the request goes where they have sent it, also when the call before asked for
/// the same.
#[tokio::test]
async fn a_layer_that_sends_a_call_elsewhere_sends_the_next_one_there_too() {
    let elsewhere = By(|mut inner: InPlaceService, request: Request| -> BoxFuture<Response> {
        assert_eq!(*request.uri(), "http://api/x?y");
        let mut copy = copies(request);
        Box::pin(async move {
            let mut moved = copy();
            *moved.uri_mut() = "http://elsewhere/z".parse()?;
            inner.call(moved).await?;
            inner.call(copy()).await?;
            inner.call(copy()).await
        })
    });
    let beneath = Beneath::default();
    let client = ClientBuilder::new(reqwest::Client::new());
    let client = client.with(StackMiddleware::in_place(elsewhere)).with(beneath.clone()).build();
    for _ in 0..3 {
        let response = client.get("http://api/x?y#z").send().await.unwrap();
        assert_eq!(response.url().as_str(), "http://api/x?y#z");
        let seen = std::mem::take(&mut *beneath.seen.lock().unwrap());
        let urls: Vec<&str> = seen.iter().map(|seen| &*seen.url).collect();
        assert_eq!(urls, ["http://elsewhere/z", "http://api/x?y#z", "http://api/x?y#z"]);
    }
}

#[tokio::test]
async fn an_odd_url_stays_as_it_is() {
    odd_urls_stay_as_they_are(None).await;
}

/// Settings are in the extensions of reqwest's request.
#[tokio::test]
async fn settings_of_a_request_s_own_reach_reqwest_and_an_odd_url_stays_as_it_is() {
    odd_urls_stay_as_they_are(Some(Duration::from_secs(60))).await;
}

/// Above a stack: makes a call of it that it does not poll.
struct NeverPolls;

#[async_trait::async_trait]
impl Middleware for NeverPolls {
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Outcome {
        if request.url().path() == "/never-polled" {
            drop(next.run(request, extensions));
            return Ok(http::Response::new("").into());
        }
        next.run(request, extensions).await
    }
}

#[tokio::test]
async fn what_is_left_of_a_call_that_ended_early_is_none_of_the_next_one_s() {
    let kept: Arc<Mutex<Option<InPlaceFuture>>> = Arc::default();
    let beneath = Beneath::default();
    beneath.answers.lock().unwrap().extend([false, true]);
    let keeps = kept.clone();
    let layer = By(move |mut inner: InPlaceService, request: Request| -> BoxFuture<Response> {
        let mut copy = copies(request);
        let before = keeps.lock().unwrap().replace(inner.call(copy()));
        Box::pin(async move {
            if let Some(before) = before {
                let error = before.await.unwrap_err();
                assert!(buttress::find::<Detached>(&*error).is_some(), "{error:?}");
            }
            inner.call(copy()).await
        })
    });
    let client = ClientBuilder::new(reqwest::Client::new()).with(NeverPolls);
    let client = client.with(StackMiddleware::in_place(layer)).with(beneath.clone()).build();

    client.get("http://api/never-polled").send().await.unwrap();
    let mut ended_early = Box::pin(client.get("http://api/ended-early").send());
    assert!(polled(&mut ended_early).await.is_pending());
    drop(ended_early);
    let response = client.get("http://api/next").send().await.unwrap();
    assert_eq!(response.url().path(), "/next");
    let seen = beneath.seen.lock().unwrap();
    let urls: Vec<&str> = seen.iter().map(|seen| &*seen.url).collect();
    assert_eq!(
        urls,
        ["http://api/ended-early", "http://api/ended-early", "http://api/next", "http://api/next"]
    );
}
