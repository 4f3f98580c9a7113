use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::{Event, IdempotencyResult, Observe, observe_fn};
use buttress_http::Answer;
use buttress_idempotency::{Claim, Config, HttpKeys, Idempotency, IdempotencyLayer};
use buttress_store::ClaimStore;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for something that other tasks do.
///
/// # Panics
///
/// If it has not happened within a minute.
pub async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !is() {
        assert!(Instant::now() < limit, "{what}: not within a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Answers 201 with a body that counts its calls; waits before that where it is told to.
#[derive(Clone, Debug)]
pub struct Handler {
    calls: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
    status: Arc<Mutex<Vec<u16>>>,
    claims: Arc<Mutex<Vec<Claim>>>,
    panics: Arc<AtomicBool>,
}

impl Handler {
    /// Answers at once.
    pub fn open() -> Self {
        Self {
            calls: Arc::default(),
            ended: Arc::default(),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            status: Arc::default(),
            claims: Arc::default(),
            panics: Arc::default(),
        }
    }

    /// Waits for [`Handler::release`].
    pub fn shut() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)), ..Self::open() }
    }

    /// Answers with these in turn, and then with 201.
    pub fn answering(status: impl IntoIterator<Item = u16>) -> Self {
        let handler = Self::open();
        handler.answer(status);
        handler
    }

    /// From now on answers with these in turn.
    pub fn answer(&self, status: impl IntoIterator<Item = u16>) {
        *lock(&self.status) = status.into_iter().collect();
        lock(&self.status).reverse();
    }

    /// Counts on from here.
    #[must_use]
    pub fn counting_from(self, calls: usize) -> Self {
        self.calls.store(calls, Ordering::SeqCst);
        self
    }

    /// Lets all calls go on.
    pub fn release(&self) {
        self.gate.add_permits(10_000);
    }

    /// Whether calls panic.
    pub fn panics(&self, panics: bool) {
        self.panics.store(panics, Ordering::SeqCst);
    }

    /// How often it was called.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// How often it has answered.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }

    /// The claims that it was shown.
    pub fn claims(&self) -> Vec<Claim> {
        lock(&self.claims).clone()
    }

    /// Waits until it was called so often.
    pub async fn called(&self, times: usize) {
        until("the handler is called", || self.calls() >= times).await;
    }
}

impl<B: Send + 'static> Service<Request<B>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        lock(&self.claims).extend(request.extensions().get::<Claim>().cloned());
        let status = lock(&self.status).pop().unwrap_or(201);
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let this = self.clone();
        Box::pin(async move {
            this.gate.acquire().await.expect("it is never closed").forget();
            assert!(!this.panics.load(Ordering::SeqCst), "the handler panics");
            this.ended.fetch_add(1, Ordering::SeqCst);
            let response = Response::builder().status(status).header("x-call", number);
            Ok(response.body(Full::from(format!("answer {number}"))).expect("a valid response"))
        })
    }
}

/// What was reported.
#[derive(Clone, Debug, Default)]
pub struct Log(Arc<Mutex<Vec<IdempotencyResult>>>);

impl Log {
    /// Remembers what it observes.
    pub fn observer(&self) -> Arc<dyn Observe> {
        let log = self.clone();
        observe_fn(move |_, event| {
            if let Event::Idempotency(result) = event {
                lock(&log.0).push(*result);
            }
        })
    }

    /// What was reported since this was asked last.
    pub fn take(&self) -> Vec<IdempotencyResult> {
        std::mem::take(&mut lock(&self.0))
    }

    /// Whether this was reported.
    pub fn has(&self, result: IdempotencyResult) -> bool {
        lock(&self.0).contains(&result)
    }
}

/// A server: a handler behind the layer over a store. Two over one store are two processes, as far as that can be in one.
#[derive(Debug)]
pub struct Rig<St> {
    /// What is shared by all calls.
    pub idempotency: Idempotency<St>,
    /// The layer.
    pub layer: IdempotencyLayer<St, HttpKeys>,
    /// What it guards.
    pub handler: Handler,
    /// What it reported.
    pub log: Log,
}

impl<St: ClaimStore> Rig<St> {
    /// With these settings.
    ///
    /// # Panics
    ///
    /// If they are not valid.
    pub fn new(store: &St, config: Config, keys: HttpKeys, handler: Handler) -> Self {
        let log = Log::default();
        let idempotency = Idempotency::new("charges", store.clone(), config).expect("valid settings");
        let idempotency = idempotency.observe(log.observer());
        let layer = idempotency.layer(keys);
        Self { idempotency, layer, handler, log }
    }

    /// A handler that answers at once, and the defaults.
    pub fn open(store: &St) -> Self {
        Self::new(store, Config::new(), HttpKeys::default(), Handler::open())
    }

    /// A handler that waits, with the presets of HTTP.
    pub fn shut(store: &St, config: Config) -> Self {
        Self::new(store, config, HttpKeys::default(), Handler::shut())
    }

    /// A request under way.
    pub fn start(
        &self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = Result<Response<Answer<Full<Bytes>>>, Infallible>> + Send + use<St> {
        self.layer.layer(self.handler.clone()).oneshot(request)
    }

    /// A request under way in a task of its own, which reads its answer.
    pub fn spawn(&self, request: Request<Full<Bytes>>) -> tokio::task::JoinHandle<Got> {
        let call = self.start(request);
        tokio::spawn(async move { Got::of(call.await.expect("it cannot fail")).await })
    }

    /// A request whose caller goes away once the handler is at it.
    pub async fn abandon(&self, request: Request<Full<Bytes>>) {
        let calls = self.handler.calls();
        let call = self.spawn(request);
        self.handler.called(calls + 1).await;
        call.abort();
        call.await.expect_err("it was aborted");
    }

    /// The answer to a request.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Got {
        self.spawn(request).await.expect("it does not panic")
    }

    /// The answer to a [`post`].
    pub async fn post(&self, key: &str, body: &str) -> Got {
        self.send(post(key, body)).await
    }

    /// The first answer to a [`post`] that is no 409.
    pub async fn post_until_free(&self, key: &str, body: &str) -> Got {
        loop {
            let got = self.post(key, body).await;
            if got.status != StatusCode::CONFLICT {
                return got;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// `POST /charges` with a key.
///
/// # Panics
///
/// If the key is not valid as a header.
pub fn post(key: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::post("/charges").header("idempotency-key", key);
    request.body(Full::from(body.to_owned())).expect("a valid request")
}

/// An answer that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Got {
    /// Reads an answer.
    ///
    /// # Panics
    ///
    /// If it breaks off.
    pub async fn of<B>(response: Response<B>) -> Self
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        Self { status: parts.status, headers: parts.headers, body }
    }

    /// Whether it says that it was given before.
    pub fn is_replayed(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }

    /// Its status, and whether it was given before.
    pub fn seen(&self) -> (u16, bool) {
        (self.status.as_u16(), self.is_replayed())
    }

    /// When to come back.
    pub fn retry_after(&self) -> Option<&str> {
        self.headers.get("retry-after")?.to_str().ok()
    }
}
