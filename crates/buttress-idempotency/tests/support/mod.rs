//! A handler that is counted and can be made to wait, a store that can be made to fail, and an observer that remembers.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    reason = "each test file uses a part of it"
)]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::{Event, IdempotencyResult, Observe, observe_fn};
use buttress_idempotency::{Claim, Config, HttpKeys, Idempotency, IdempotencyLayer};
use buttress_store::{
    ClaimRequest, ClaimStore, Claimed, Fault, Fingerprint, Memory, Record, ScopedKey, StoreError, Waited,
    Written,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::Semaphore;
use tower::{Layer, Service, ServiceExt};

pub type Made = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send>>;

/// Answers 201 with a body that counts its calls; waits before that where it is told to.
#[derive(Clone)]
pub struct Handler {
    pub calls: Arc<AtomicUsize>,
    pub ended: Arc<AtomicUsize>,
    pub gate: Arc<Semaphore>,
    pub status: Arc<Mutex<Vec<u16>>>,
    pub claims: Arc<Mutex<Vec<Claim>>>,
    pub panics: Arc<AtomicBool>,
}

impl Handler {
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

    pub fn shut() -> Self {
        Self { gate: Arc::new(Semaphore::new(0)), ..Self::open() }
    }

    /// Answers with these in turn, and then with 201.
    pub fn answering(status: impl IntoIterator<Item = u16>) -> Self {
        let mut status: Vec<u16> = status.into_iter().collect();
        status.reverse();
        Self { status: Arc::new(Mutex::new(status)), ..Self::open() }
    }

    pub fn release(&self) {
        self.gate.add_permits(10_000);
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::SeqCst)
    }
}

impl<B: Send + 'static> Service<Request<B>> for Handler {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Made;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Made {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if let Some(claim) = request.extensions().get::<Claim>() {
            self.claims.lock().unwrap().push(claim.clone());
        }
        let status = self.status.lock().unwrap().pop().unwrap_or(201);
        let this = self.clone();
        Box::pin(async move {
            this.gate.acquire().await.unwrap().forget();
            assert!(!this.panics.load(Ordering::SeqCst), "the handler panics");
            this.ended.fetch_add(1, Ordering::SeqCst);
            let response = Response::builder().status(status).header("x-call", number);
            Ok(response.body(Full::from(format!("answer {number}"))).unwrap())
        })
    }
}

/// The store in memory, which fails or hangs where it is told to.
#[derive(Clone, Default)]
pub struct Faulty {
    pub inner: Memory,
    pub switch: Arc<Switch>,
}

#[derive(Default)]
pub struct Switch {
    pub claims_fail: AtomicBool,
    pub claims_hang: AtomicBool,
    pub completions_fail: AtomicBool,
    pub claims: AtomicUsize,
    pub renewals: AtomicUsize,
    pub completions: AtomicUsize,
}

fn down(verb: &'static str) -> StoreError {
    StoreError::new("faulty", verb, Fault::Unavailable)
}

impl ClaimStore for Faulty {
    async fn claim(&self, request: &ClaimRequest) -> Result<Claimed, StoreError> {
        self.switch.claims.fetch_add(1, Ordering::SeqCst);
        if self.switch.claims_fail.load(Ordering::SeqCst) {
            return Err(down("claim"));
        }
        let claimed = self.inner.claim(request).await;
        // It is applied, and the answer is late.
        if self.switch.claims_hang.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_secs(3600)).await;
        }
        claimed
    }

    async fn renew(&self, claim: &buttress_store::Claim, lease: Duration) -> Result<Written, StoreError> {
        self.switch.renewals.fetch_add(1, Ordering::SeqCst);
        self.inner.renew(claim, lease).await
    }

    async fn complete(
        &self,
        claim: &buttress_store::Claim,
        record: &Record,
        ttl: Duration,
    ) -> Result<Written, StoreError> {
        self.switch.completions.fetch_add(1, Ordering::SeqCst);
        if self.switch.completions_fail.load(Ordering::SeqCst) {
            return Err(down("complete"));
        }
        self.inner.complete(claim, record, ttl).await
    }

    async fn release(&self, claim: &buttress_store::Claim) -> Result<Written, StoreError> {
        self.inner.release(claim).await
    }

    async fn wait(
        &self,
        key: &ScopedKey,
        fingerprint: &Fingerprint,
        max: Duration,
    ) -> Result<Waited, StoreError> {
        self.inner.wait(key, fingerprint, max).await
    }

    async fn sweep(&self, max: u32) -> Result<u64, StoreError> {
        self.inner.sweep(max).await
    }
}

/// What was reported.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<IdempotencyResult>>>);

impl Log {
    pub fn observer(&self) -> Arc<dyn Observe> {
        let log = self.clone();
        observe_fn(move |_, event| {
            if let Event::Idempotency(result) = event {
                log.0.lock().unwrap().push(*result);
            }
        })
    }

    pub fn take(&self) -> Vec<IdempotencyResult> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub struct Rig<St> {
    pub idempotency: Idempotency<St>,
    pub layer: IdempotencyLayer<St, HttpKeys>,
    pub handler: Handler,
    pub log: Log,
}

impl<St: ClaimStore> Rig<St> {
    pub fn new(store: St, config: Config, keys: HttpKeys, handler: Handler) -> Self {
        let log = Log::default();
        let idempotency = Idempotency::new("charges", store, config).unwrap().observe(log.observer());
        let layer = idempotency.layer(keys);
        Self { idempotency, layer, handler, log }
    }

    /// Another process over the same store, as far as one can be in this one.
    pub fn beside(&self, store: St, config: Config, handler: Handler) -> Self {
        Self::new(store, config, HttpKeys::default(), handler)
    }

    pub fn start(
        &self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = Result<Response<buttress_http::Answer<Full<Bytes>>>, Infallible>> + Send + use<St>
    {
        self.layer.layer(self.handler.clone()).oneshot(request)
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Got {
        Got::of(self.start(request).await.unwrap()).await
    }

    pub async fn post(&self, key: &str, body: &str) -> Got {
        self.send(post(key, body)).await
    }
}

pub fn rig() -> Rig<Memory> {
    Rig::new(Memory::new(), Config::new(), HttpKeys::default(), Handler::open())
}

pub fn post(key: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::post("/charges").header("idempotency-key", key);
    request.body(Full::from(body.to_owned())).unwrap()
}

/// An answer that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Got {
    pub async fn of<B>(response: Response<B>) -> Self
    where
        B: http_body::Body<Data = Bytes>,
        B::Error: std::fmt::Debug,
    {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Self { status: parts.status, headers: parts.headers, body }
    }

    pub fn is_replayed(&self) -> bool {
        self.headers.get("idempotent-replayed").is_some_and(|value| value == "true")
    }

    pub fn seen(&self) -> (u16, bool) {
        (self.status.as_u16(), self.is_replayed())
    }

    pub fn retry_after(&self) -> Option<&str> {
        self.headers.get("retry-after")?.to_str().ok()
    }
}
