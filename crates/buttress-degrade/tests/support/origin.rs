//! A server that is told what to answer, and a layer with a store over it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::BoxError;
use buttress_degrade::{Chain, DegradeLayer, Grade, HttpRules, LastGood, Open, Recalling};
use buttress_http::{Answer, Http};
use buttress_testkit::clock::settle;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::support::secs;

pub(crate) type Body = Full<Bytes>;
pub(crate) type Asked = Request<Body>;
pub(crate) type Given = Response<Answer<Body>>;
pub(crate) type Layered = DegradeLayer<Recalling<Chain<Asked, Given, Open>, HttpRules>, Http>;

type Answering = dyn FnMut(&Asked) -> Result<Response<Body>, BoxError> + Send;

/// A server that answers by a function, and remembers what it was asked.
#[derive(Clone)]
pub(crate) struct Origin {
    answer: Arc<Mutex<Box<Answering>>>,
    pub(crate) asked: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Origin {
    pub(crate) fn new(
        answer: impl FnMut(&Asked) -> Result<Response<Body>, BoxError> + Send + 'static,
    ) -> Self {
        Self { answer: Arc::new(Mutex::new(Box::new(answer))), asked: Arc::default() }
    }

    /// Always the same status and header fields; the body counts the answers.
    pub(crate) fn of(status: u16, headers: &'static [(&'static str, &'static str)]) -> Self {
        let mut count = 0;
        Self::new(move |_| {
            count += 1;
            Ok(response(status, headers, &count.to_string()))
        })
    }

    pub(crate) fn then(
        &self,
        answer: impl FnMut(&Asked) -> Result<Response<Body>, BoxError> + Send + 'static,
    ) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    pub(crate) fn down(&self) {
        self.then(|_| Err("connection reset".into()));
    }

    pub(crate) fn calls(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    pub(crate) fn service(
        &self,
    ) -> impl Service<Asked, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send + use<>
    {
        let origin = self.clone();
        service_fn(move |request: Asked| {
            origin.asked.lock().unwrap().push(request.headers().clone());
            let answer = (origin.answer.lock().unwrap())(&request);
            async {
                tokio::task::yield_now().await;
                answer
            }
        })
    }
}

/// Answers after this time, and counts its calls.
pub(crate) fn slow(
    time: Duration,
    answer: impl Fn(&Asked) -> Response<Body> + Clone + Send + 'static,
) -> (
    impl Service<Asked, Response = Response<Body>, Error = BoxError, Future: Send> + Clone + Send + 'static,
    Arc<AtomicUsize>,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let service = service_fn(move |request: Asked| {
        count.fetch_add(1, Relaxed);
        let answer = answer(&request);
        async move {
            sleep(time).await;
            Ok::<_, BoxError>(answer)
        }
    });
    (service, calls)
}

pub(crate) fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::from(body.to_owned())).unwrap()
}

/// Nothing is fresh unless the answer says so.
pub(crate) fn store(rules: HttpRules) -> LastGood<HttpRules> {
    LastGood::new(rules).ttl(secs(0)).while_revalidate(secs(0)).negative_ttl(secs(0)).refresh_jitter(0)
}

pub(crate) fn layer(store: &LastGood<HttpRules>) -> Layered {
    let layer = DegradeLayer::new("search", Chain::new()).unwrap().policy(Http::new());
    layer.last_good(store.clone()).unwrap()
}

pub(crate) fn get(headers: &[(&str, &str)]) -> Asked {
    let mut request = Request::get("http://search.example/q?x=1");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::default()).unwrap()
}

/// Status, level, body, and what a few header fields say.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    pub(crate) level: u8,
    pub(crate) body: String,
    pub(crate) age: Option<String>,
    pub(crate) cache: Option<String>,
}

pub(crate) async fn seen(layer: &Layered, origin: &Origin, request: Asked) -> Result<Seen, BoxError> {
    let answer = layer.layer(origin.service()).oneshot(request).await?;
    let field = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (age, cache, level) = (field("age"), field("cache-status"), answer.level().as_u8());
    let status = answer.status().as_u16();
    let body = String::from_utf8(answer.into_body().collect().await?.to_bytes().to_vec())?;
    settle().await;
    Ok(Seen { status, level, body, age, cache })
}

pub(crate) async fn body(layer: &Layered, origin: &Origin, headers: &[(&str, &str)]) -> String {
    seen(layer, origin, get(headers)).await.map_or_else(|_| "failed".to_owned(), |seen| seen.body)
}
