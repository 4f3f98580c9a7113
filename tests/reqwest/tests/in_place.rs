//! A stack that works in place does what any other does, and gives back what came from beneath as it came.

#[path = "middleware.rs"]
mod middleware;

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use buttress::find;
use buttress_reqwest::{Detached, InPlaceService, RequestBuilderExt, StackMiddleware, attempts};
use futures_util::StreamExt;
use futures_util::future::select_ok;
use futures_util::stream::FuturesUnordered;
use http::StatusCode;
use http_body_util::BodyExt;
use loopback::{Do, Server, status};
use middleware::common::in_place::{BoxFuture, By, Request, Response, over};
use middleware::common::{client, stack, until};
use reqwest_middleware::ClientBuilder;
use tower::buffer::BufferLayer;
use tower::util::MapResponseLayer;
use tower::{Service, ServiceExt};

#[tokio::test]
async fn an_answer_that_nobody_has_touched_is_the_one_from_beneath() {
    let redirect = status(302).header("location", "/last");
    let server =
        Server::start([status(503), redirect, status(200).header("x-from", "beneath").body("the body")])
            .await;
    let (client, _) = client(&stack());
    let response = client.get(server.at("/first?q=1")).send().await.unwrap();
    assert_eq!((response.url().as_str(), attempts(&response)), (&*server.at("/last"), 2));
    assert_eq!(
        (response.headers()["x-from"].as_bytes(), response.content_length()),
        (&b"beneath"[..], Some(8))
    );
    assert!(response.remote_addr().is_some(), "reqwest's own extensions are there");
    assert_eq!(response.text().await.unwrap(), "the body");
    let response = client.get(server.at("/plain?q=1#part")).send().await.unwrap();
    assert_eq!(response.url().as_str(), server.at("/plain?q=1"));
}

#[tokio::test]
async fn an_answer_that_a_layer_has_changed_keeps_its_url_and_its_body() {
    let answers = || [status(302).header("location", "/last"), status(200).body("the body")];
    let server = Server::start(answers().into_iter().chain(answers()).chain(answers())).await;

    let changed = over(MapResponseLayer::new(|mut response: Response| {
        *response.status_mut() = StatusCode::CREATED;
        response
    }));
    let response = changed.get(server.at("/first")).send().await.unwrap();
    assert_eq!((response.status(), response.url().as_str()), (StatusCode::CREATED, &*server.at("/last")));
    assert_eq!(response.text().await.unwrap(), "the body");

    let wrapped = over(MapResponseLayer::new(|response: Response| response.map(BodyExt::boxed)));
    let response = wrapped.get(server.at("/first")).send().await.unwrap();
    assert_eq!((response.status(), response.url().as_str()), (StatusCode::OK, &*server.at("/last")));
    assert_eq!(response.text().await.unwrap(), "the body");

    let read = over(By(|mut inner: InPlaceService, request| -> BoxFuture<_> {
        Box::pin(async move {
            let mut response: Response = inner.call(request).await?;
            let frame = response.body_mut().frame().await.expect("there is a body")?;
            assert_eq!(frame.into_data().unwrap(), "the body");
            Ok(response)
        })
    }));
    let response = read.get(server.at("/first")).send().await.unwrap();
    assert_eq!(response.url().as_str(), server.at("/last"));
    assert_eq!(response.text().await.unwrap(), "", "it has been read");
}

#[tokio::test]
async fn an_answer_that_a_layer_makes_up_has_the_request_s_url() {
    let made_up = over(By(|_, _| -> BoxFuture<_> {
        Box::pin(async { Ok(http::Response::new(String::from("cached"))) })
    }));
    let response = made_up.get("http://127.0.0.1:9/x").send().await.unwrap();
    assert_eq!(response.url().as_str(), "http://127.0.0.1:9/x");
    assert_eq!(response.text().await.unwrap(), "cached");
}

/// The second of them waits with a waker of its own.
#[tokio::test]
async fn of_two_attempts_at_once_the_loser_is_dropped() {
    let server = Server::start([Do::Hang, Do::Hang]).await;
    let client = over(By(|mut inner: InPlaceService, request: Request| -> BoxFuture<_> {
        let (parts, _) = request.into_parts();
        let copy = || Request::from_parts(parts.clone(), reqwest::Body::default());
        let mut others: FuturesUnordered<_> = [inner.call(copy()), inner.call(copy())].into_iter().collect();
        let third = inner.oneshot(copy());
        let others = async move { others.next().await.expect("two of them are under way") };
        let all: [BoxFuture<Response>; 2] = [Box::pin(others), Box::pin(third)];
        Box::pin(async move { Ok(select_ok(all).await?.0) })
    }));
    assert_eq!(client.get(server.url()).send().await.unwrap().status(), 200);
    until(|| server.abandoned() == 2).await;
    assert_eq!(server.calls(), 3);

    let server = Server::start([]).await;
    let client = over(By(|mut inner: InPlaceService, request: Request| -> BoxFuture<_> {
        let mut only: FuturesUnordered<_> = [inner.call(request)].into_iter().collect();
        Box::pin(async move { only.next().await.expect("it is under way") })
    }));
    assert_eq!(client.get(server.url()).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_call_from_another_task_is_not_sent_and_says_so() {
    let server = Server::start([]).await;
    let error = over(BufferLayer::new(4)).get(server.url()).send().await.unwrap_err();
    assert!(find::<Detached>(&error).is_some(), "{error:?}");

    // Called here, and waited for elsewhere.
    let elsewhere = over(By(|mut inner: InPlaceService, request| -> BoxFuture<_> {
        let call = tokio::spawn(inner.call(request));
        Box::pin(async move { call.await.expect("it does not panic") })
    }));
    let error = elsewhere.get(server.url()).send().await.unwrap_err();
    assert!(find::<Detached>(&error).is_some(), "{error:?}");
    let by_hand = kept().await.oneshot(Request::default()).await.unwrap_err();
    assert!(find::<Detached>(&*by_hand).is_some(), "{by_hand:?}");
}

/// It waited where the call was polled first, with a waker of its own.
#[tokio::test]
async fn whoever_waits_elsewhere_hears_of_the_end_of_a_call() {
    let server = Server::start([Do::Hang]).await;
    let (send, mut outcome) = tokio::sync::mpsc::channel(1);
    let client = over(By(move |mut inner: InPlaceService, request: Request| -> BoxFuture<Response> {
        let mut only: FuturesUnordered<_> = [inner.call(request)].into_iter().collect();
        let send = send.clone();
        Box::pin(async move {
            assert!(first_poll(&mut only).await.is_pending());
            tokio::spawn(async move { send.send(only.next().await.expect("it is under way")).await });
            std::future::pending().await
        })
    }));
    assert!(tokio::time::timeout(Duration::from_millis(50), client.get(server.url()).send()).await.is_err());
    let error = outcome.recv().await.expect("it is told").unwrap_err();
    assert!(find::<Detached>(&*error).is_some(), "{error:?}");
}

async fn first_poll<F: Future>(futures: &mut FuturesUnordered<F>) -> Poll<Option<F::Output>> {
    std::future::poll_fn(|cx| Poll::Ready(futures.poll_next_unpin(cx))).await
}

/// The innermost service, outside of any call.
async fn kept() -> InPlaceService {
    let (send, receive) = std::sync::mpsc::channel();
    let _stack = over(tower::layer::layer_fn(move |inner: InPlaceService| {
        send.send(inner).expect("it is waited for");
        inner
    }));
    receive.recv().expect("the layer has been applied")
}

/// Of each call the other's attempts are none of its business.
#[tokio::test]
async fn calls_within_calls_and_beside_each_other_keep_to_themselves() {
    let server = Server::start([]).await;
    let (inner, _) = client(&stack());
    let url = server.at("/inner");
    let outer = over(By(move |mut service: InPlaceService, request: Request| -> BoxFuture<_> {
        let first = service.call(request);
        let within = inner.get(&url).send();
        Box::pin(async move {
            let (within, first) = futures_util::future::join(within, first).await;
            assert_eq!(within?.url().path(), "/inner");
            first
        })
    }));
    let calls = (0..8).map(|_| outer.get(server.at("/outer")).send());
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.unwrap().url().path(), "/outer");
    }
    assert_eq!(server.calls(), 16);
}

#[tokio::test]
async fn a_deadline_travels_from_one_stack_to_the_next() {
    let server = Server::start_then([], Do::Hang).await;
    let outer = stack().total(Duration::from_secs(2)).attempt(Duration::from_secs(60)).deadline_travels();
    let inner = stack().total(Duration::from_secs(60)).attempt(Duration::from_secs(60));
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(StackMiddleware::in_place(outer.build().unwrap()))
        .with(StackMiddleware::in_place(inner.build().unwrap()))
        .build();
    client.get(server.url()).with_max_retries(0).send().await.unwrap_err();
    until(|| server.abandoned() == 1).await;
}
