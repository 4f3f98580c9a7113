use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use buttress_core::{BoxError, ErrorRef, Kind, Recorded, StepKey, Verdict, error_verdict};
use pin_project_lite::pin_project;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};
use tower_layer::Layer;
use tower_service::Service;

use crate::cx::Cx;
use crate::error::{Failure, StepError};
use crate::run::{BoxFuture, Core};
use crate::step::Semantics;
use crate::verdict::Judged;

/// Journals the calls of a service that is used inside of a workflow: each is a step of this name.
///
/// In a replay the recorded response is given, and the service is neither called nor asked whether it is ready. An error is
/// recorded as text with its causes and with what it [means](Record::judge), and the caller gets that as a [`Recorded`], in
/// the first run as in every replay: a breaker or a degradation above judges both alike.
///
/// **Every outcome is recorded for good**, that of a call which an open circuit refused included. Retries, time limits and
/// breakers therefore belong beneath this layer, where they end before anything is recorded. A retry above it makes a new
/// step of each attempt, and waits anew in each replay; a replay that waits for longer than
/// [`Config::replay_patience`](crate::Config::replay_patience) pauses the run. What the request is compared with is its place
/// in the workflow, and not its content: for that, and to reconcile it, make the call in a [`Step`](crate::Step).
///
/// The workflow is found by the task, when the service is called: outside of a workflow, in a spawned task, behind a
/// `Buffer` and inside of another step the call passes through, and nothing is recorded of it. With
/// [`required`](CheckpointLayer::required) that is an error outside of a step.
///
/// ```
/// use buttress_checkpoint::CheckpointLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tower::BoxError> {
/// let charge = ServiceBuilder::new()
///     .layer(CheckpointLayer::named("charge"))
///     .service(service_fn(async |cents: u32| Ok::<_, std::io::Error>(format!("charged {cents}"))));
/// assert_eq!(charge.oneshot(100).await?, "charged 100");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct CheckpointLayer<P = Json> {
    name: Arc<str>,
    policy: P,
    required: bool,
    semantics: Semantics,
}

/// How responses are recorded.
pub trait Record<Res>: Clone + Send + Sync + 'static {
    /// What the caller gets.
    type Response;

    /// What the caller gets outside of a workflow.
    fn pass(&self, response: Res) -> Self::Response;

    /// What is recorded of a response, once it is complete.
    fn record(&self, response: Res) -> BoxFuture<'static, Result<Box<RawValue>, BoxError>>;

    /// What an error means; by default what [`error_verdict`] says of it.
    fn judge(&self, error: ErrorRef<'_>) -> Verdict {
        error_verdict(error)
    }

    /// The response that a record holds.
    ///
    /// # Errors
    ///
    /// If it holds none.
    fn restore(&self, record: &RawValue) -> Result<Self::Response, BoxError>;
}

/// Records responses that serde can read and write, as JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl<Res: Serialize + DeserializeOwned> Record<Res> for Json {
    type Response = Res;

    fn pass(&self, response: Res) -> Res {
        response
    }

    fn record(&self, response: Res) -> BoxFuture<'static, Result<Box<RawValue>, BoxError>> {
        let record = to_raw_value(&response).map_err(Into::into);
        Box::pin(std::future::ready(record))
    }

    fn restore(&self, record: &RawValue) -> Result<Res, BoxError> {
        Ok(serde_json::from_str(record.get())?)
    }
}

impl CheckpointLayer {
    /// Calls are steps of this name; responses are recorded as [`Json`].
    pub fn named(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), policy: Json, required: false, semantics: Semantics::default() }
    }
}

impl<P> CheckpointLayer<P> {
    /// Records responses in this way; for HTTP that is `HttpRecord`, with the feature `http`.
    #[must_use]
    pub fn record<Q>(self, policy: Q) -> CheckpointLayer<Q> {
        let Self { name, policy: _, required, semantics } = self;
        CheckpointLayer { name, policy, required, semantics }
    }

    /// How often a call may be sent when a worker ends in the middle of it: at least once by default. One that may be sent at most
    /// once ends with a [`Recorded`] error where it is not known whether it was.
    #[must_use]
    pub fn semantics(self, semantics: Semantics) -> Self {
        Self { semantics, ..self }
    }

    /// Refuses calls outside of a workflow, which nothing would be recorded of.
    #[must_use]
    pub fn required(self) -> Self {
        Self { required: true, ..self }
    }
}

impl<S, P: Clone> Layer<S> for CheckpointLayer<P> {
    type Service = Checkpointed<S, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Checkpointed { inner, layer: self.clone() }
    }
}

impl<P> fmt::Debug for CheckpointLayer<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointLayer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A service of which the calls are journaled; made by [`CheckpointLayer`].
#[derive(Clone, Debug)]
pub struct Checkpointed<S, P = Json> {
    inner: S,
    layer: CheckpointLayer<P>,
}

/// A call outside of a workflow, of a service that is to be called inside of one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutsideWorkflow;

impl fmt::Display for OutsideWorkflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a call that is to be journaled was made outside of a workflow, or in a spawned task; it was not sent")
    }
}

impl std::error::Error for OutsideWorkflow {}

impl<S, P, Req> Service<Req> for Checkpointed<S, P>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    P: Record<S::Response>,
    Req: Send + 'static,
    S::Response: Send,
{
    type Response = P::Response;
    type Error = BoxError;
    type Future = CheckpointFuture<S::Future, S::Response, P>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // A recorded call needs no service, and another one waits for it in its step.
        if Core::is_in_run() {
            return Poll::Ready(Ok(()));
        }
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    /// Where a call is refused, a fresh clone takes the place of the instance that was made ready for it.
    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        match Cx::here() {
            Some(cx) => self.step(&cx, request),
            None if self.layer.required && StepKey::current().is_none() => {
                self.inner = self.inner.clone();
                CheckpointFuture::step(Box::pin(async { Err(OutsideWorkflow.into()) }))
            }
            None => CheckpointFuture::outside(self.inner.call(request), self.layer.policy.clone()),
        }
    }
}

impl<S, P> Checkpointed<S, P> {
    #[cold]
    fn step<Req>(&mut self, cx: &Cx, request: Req) -> CheckpointFuture<S::Future, S::Response, P>
    where
        S: Service<Req> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        P: Record<S::Response>,
        Req: Send + 'static,
        S::Response: Send,
    {
        let mut taken = Some((self.inner.clone(), request));
        let policy = self.layer.policy.clone();
        let recorded = policy.clone();
        let step = cx.step(Arc::clone(&self.layer.name), move || {
            // A step without retries runs once in a process.
            let (taken, policy) = (taken.take(), recorded.clone());
            async move {
                let recorded: Result<Box<RawValue>, BoxError> = async {
                    let (mut inner, request) = taken.ok_or("the call was made already")?;
                    poll_fn(|cx| inner.poll_ready(cx)).await.map_err(Into::into)?;
                    let response = inner.call(request).await.map_err(Into::into)?;
                    policy.record(response).await
                }
                .await;
                recorded.map_err(|error| Judged {
                    failure: Failure::of(&*error),
                    verdict: policy.judge(&*error).into(),
                })
            }
        });
        let step = step.semantics(self.layer.semantics);
        CheckpointFuture::step(Box::pin(async move {
            match step.await {
                Ok(record) => policy.restore(&record),
                Err(StepError::Failed(Judged { failure, verdict })) => {
                    Err(Recorded::new(verdict.into(), failure.to_string()).into())
                }
                // It may have been done, and doing it again gives no better record.
                Err(other) => {
                    let verdict = Verdict::failure(Kind::Permanent);
                    Err(Recorded::new(verdict, other.to_string()).into())
                }
            }
        }))
    }
}

pin_project! {
    /// The response of a [`Checkpointed`] service.
    pub struct CheckpointFuture<F, Res, P: Record<Res>> {
        #[pin]
        state: State<F, BoxFuture<'static, Result<P::Response, BoxError>>, P>,
        response: PhantomData<fn() -> Res>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, B, P> {
        Outside { #[pin] inner: F, policy: P },
        Step { step: B },
    }
}

impl<F, Res, P: Record<Res>> CheckpointFuture<F, Res, P> {
    #[inline]
    fn outside(inner: F, policy: P) -> Self {
        Self { state: State::Outside { inner, policy }, response: PhantomData }
    }

    fn step(step: BoxFuture<'static, Result<P::Response, BoxError>>) -> Self {
        Self { state: State::Step { step }, response: PhantomData }
    }
}

impl<F, Res, E, P> Future for CheckpointFuture<F, Res, P>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
    P: Record<Res>,
{
    type Output = Result<P::Response, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Outside { inner, policy } => inner
                .poll(cx)
                .map(|outcome| outcome.map(|response| policy.pass(response)).map_err(Into::into)),
            StateProj::Step { step } => step.as_mut().poll(cx),
        }
    }
}

impl<F, Res, P: Record<Res>> fmt::Debug for CheckpointFuture<F, Res, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointFuture").finish_non_exhaustive()
    }
}
