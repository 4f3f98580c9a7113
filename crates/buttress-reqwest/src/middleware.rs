//! A tower stack among reqwest's middlewares.

mod asked;
mod attempt;
mod courier;
mod error;
mod next;
mod request;

use std::future::{Future, poll_fn};
use std::mem;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use buttress::BoxError;
use bytes::Bytes;
use http::Extensions;
use http_body::Body;
use reqwest_middleware::{Middleware, Next};
use tower_layer::Layer;
use tower_service::Service;

use crate::body::response_body;
use asked::Asked;
use attempt::{Attempt, Attempts};
use courier::{Courier, Job, Jobs};
pub use error::{Detached, StackError};
pub use next::{NextFuture, NextService};
pub use request::{RequestBuilderExt, attempts};

/// A tower stack as a middleware: the call sites of a `ClientWithMiddleware` stay as they are, and everything that is
/// built on one (Datadog's client, for instance) gets the stack.
///
/// The stack is built once, so that its state is kept, and driven by the caller's own task: nothing is spawned, and
/// dropping the caller's future drops the attempt under way. An attempt that a layer gives up (a time-out, the loser of a
/// hedge) is dropped at once, and so is its exchange. Middlewares that were added *before* this one see a call once;
/// those added *after* it see every attempt.
///
/// ```
/// use buttress_reqwest::StackMiddleware;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let stack = buttress::http("datadog").datadog().build()?;
/// let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::new(&stack)).build();
///
/// let response = client.get("http://127.0.0.1:8126/api/v1/validate").send().await?;
/// println!("{} {}", response.status(), response.url());
/// # Ok(())
/// # }
/// ```
///
/// Layers see the middlewares' extensions on the request, so that per-request limits pass
/// ([`RequestBuilderExt`]). They must keep a request's extensions when they copy it, as all of Buttress's do: by them an
/// attempt finds its way back to the caller's task; without them it fails with [`Detached`].
///
/// A panic in a middleware beneath passes through the layers, which count it, and on to the caller.
///
/// # Errors
///
/// reqwest's own error as it came (`Error::Reqwest`), or, when the stack has something to say, a [`StackError`] in
/// `Error::Middleware`. `buttress::find` finds what it holds: `find::<Refused>(&error)`, `find::<Exhausted>(&error)`, and
/// within that the last attempt's `reqwest::Error`.
#[derive(Debug)]
pub struct StackMiddleware<S> {
    /// Behind a lock, since a service need not be `Sync`.
    service: Mutex<S>,
}

impl<S> StackMiddleware<S> {
    /// Applies this layer to the client beneath: an `HttpLayer`, or any other.
    pub fn new<L>(layer: L) -> Self
    where
        L: Layer<NextService, Service = S>,
    {
        Self { service: Mutex::new(layer.layer(NextService::new())) }
    }
}

impl<S: Clone> Clone for StackMiddleware<S> {
    fn clone(&self) -> Self {
        Self { service: Mutex::new(self.service()) }
    }
}

impl<S: Clone> StackMiddleware<S> {
    fn service(&self) -> S {
        self.service.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait::async_trait]
impl<S, B> Middleware for StackMiddleware<S>
where
    S: Service<http::Request<reqwest::Body>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Send + Sync + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    async fn handle(
        &self,
        request: reqwest::Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let asked = Asked::new(request.url().clone());
        let (courier, jobs) = courier::channel();
        let request = prepare(request, extensions, courier)?;
        let mut service = self.service();
        // One function, since the arguments of another would lie beside the future that they become.
        let ready = |error: S::Error| error::to_middleware(error.into());
        poll_fn(|cx| service.poll_ready(cx).map_err(ready)).await?;
        let call = pin!(service.call(request));
        let response = drive(call, &jobs, &asked, extensions, &next)
            .await
            .map_err(|error| error::to_middleware(error.into()))?;
        Ok(asked.answered(response.map(response_body)).into())
    }
}

/// The request for the stack, with the way back from it.
fn prepare(
    request: reqwest::Request,
    extensions: &Extensions,
    courier: Courier,
) -> reqwest_middleware::Result<http::Request<reqwest::Body>> {
    let mut request: http::Request<reqwest::Body> = request.try_into()?;
    if !extensions.is_empty() {
        // What a stack further out has put on the request is newer than what the caller brought.
        let mut carried = extensions.clone();
        carried.extend(mem::take(request.extensions_mut()));
        *request.extensions_mut() = carried;
    }
    request.extensions_mut().insert(courier);
    Ok(request)
}

/// Polls a call, and the attempts that it asks for beside it.
async fn drive<T>(
    mut call: Pin<&mut impl Future<Output = T>>,
    jobs: &Jobs,
    asked: &Asked,
    extensions: &mut Extensions,
    next: &Next<'_>,
) -> T {
    let mut attempts = Attempts::default();
    poll_fn(|cx| {
        attempts.retain(|number, attempt| goes_on(number, attempt, jobs, extensions, cx));
        loop {
            if let Poll::Ready(outcome) = call.as_mut().poll(cx) {
                return Poll::Ready(outcome);
            }
            let mut answered = false;
            while let Poll::Ready(job) = jobs.poll_next(cx) {
                match job {
                    Job::Make(number, request) => {
                        let mut attempt = Attempt::new(request, next.clone(), extensions.clone(), asked);
                        if goes_on(number, &mut attempt, jobs, extensions, cx) {
                            attempts.push(number, attempt);
                        } else {
                            answered = true;
                        }
                    }
                    Job::Drop(number) => attempts.retain(|other, _| other != number),
                }
            }
            if !answered {
                return Poll::Pending;
            }
        }
    })
    .await
}

/// Polls an attempt and hands on what has become of it, if it is over.
fn goes_on(
    number: usize,
    attempt: &mut Attempt<'_>,
    jobs: &Jobs,
    extensions: &mut Extensions,
    cx: &mut Context<'_>,
) -> bool {
    let Poll::Ready((reply, left)) = attempt.poll(cx) else { return true };
    left.into_iter().for_each(|left| *extensions = left);
    jobs.answer(number, reply, cx);
    false
}
