//! A tower stack among reqwest's middlewares.

mod answer;
mod asked;
mod attempt;
mod courier;
mod error;
mod in_place;
mod kept;
mod mailbox;
mod next;
mod request;
mod waiting;

use std::future::{Future, poll_fn, ready};
use std::mem;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use buttress::BoxError;
use bytes::Bytes;
use http::{Extensions, Method};
use http_body::Body;
use reqwest_middleware::{Middleware, Next};
use tower_layer::Layer;
use tower_service::Service;

use crate::body::response_body;
pub use answer::InPlaceBody;
use asked::Asked;
use attempt::{Attempt, Attempts};
use courier::{Job, Jobs};
pub use error::{Detached, StackError};
pub use in_place::{InPlaceFuture, InPlaceService};
use mailbox::{Mailbox, Stack};
pub use next::{NextFuture, NextService};
pub use request::{RequestBuilderExt, attempts, gave_up};

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
/// let client = reqwest_middleware::ClientBuilder::new(reqwest::Client::new()).with(StackMiddleware::in_place(&stack)).build();
///
/// let response = client.get("http://127.0.0.1:8126/api/v1/validate").send().await?;
/// println!("{} {}", response.status(), response.url());
/// # Ok(())
/// # }
/// ```
///
/// A stack whose layers stay in the task that polls the call, as those of Buttress's own do, is applied by
/// [`in_place`](StackMiddleware::in_place); one with a layer that hands calls to other tasks, such as tower's `Buffer`, by
/// [`new`](StackMiddleware::new).
///
/// The stack's service must be `Sync` as well as `Clone` and `Send`, as axum demands it too, since calls of several threads copy
/// it without a lock: those of Buttress are; in place of tower's `BoxCloneService` there is `BoxCloneSyncService`.
///
/// Layers see the middlewares' extensions on the request, so that per-request limits pass
/// ([`RequestBuilderExt`]).
///
/// A panic in a middleware beneath passes through the layers, which count it, and on to the caller.
///
/// # Errors
///
/// reqwest's own error as it came (`Error::Reqwest`), or, when the stack has something to say, a [`StackError`] in
/// `Error::Middleware`. `buttress::find` finds what it holds: `find::<Refused>(&error)`, `find::<Exhausted>(&error)`, and
/// within that the last attempt's `reqwest::Error`.
#[derive(Clone, Debug)]
pub struct StackMiddleware<S> {
    service: S,
    /// Its calls stay in the caller's task: this is what its innermost service knows them by.
    in_place: Option<Stack>,
}

impl<S> StackMiddleware<S> {
    /// Applies this layer to the client beneath: an `HttpLayer`, or any other, wherever its calls go.
    ///
    /// Layers must keep a request's extensions when they copy it, as all of Buttress's do: by them an attempt finds its way back
    /// to the caller's task; without them it fails with [`Detached`].
    pub fn new<L>(layer: L) -> Self
    where
        L: Layer<NextService, Service = S>,
    {
        Self { service: layer.layer(NextService::new()), in_place: None }
    }

    /// Applies this layer, whose calls stay in the task that polls them: an `HttpLayer`, or any other that neither spawns nor
    /// buffers what it passes on. A request that reaches the client from another task is not sent, and fails with
    /// [`Detached`]; so does one whose answer is waited for there.
    ///
    /// Such a call costs less: an attempt needs no way back in the request's extensions, and no lock; and a response that no
    /// layer has read or wrapped goes to the caller as it came. Dropped in another task, an attempt ends no later than its call. An attempt
    /// works on the caller's own extensions: of a call that is dropped in its middle, what the attempt has put there stays, as it does
    /// without a stack. The URL that was called last stays in the thread's memory until another one is, unless it has a user, a password, a query or
    /// a fragment, which may be secrets.
    ///
    /// An innermost service sends by its own stack only, also where it is called within another stack's call.
    pub fn in_place<L>(layer: L) -> Self
    where
        L: Layer<InPlaceService, Service = S>,
    {
        let stack = Stack::new();
        Self { service: layer.layer(InPlaceService::new(stack)), in_place: Some(stack) }
    }
}

impl<S, B> Middleware for StackMiddleware<S>
where
    S: Service<http::Request<reqwest::Body>, Response = http::Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Body + Send + Sync + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    fn handle<'s, 'e, 'n, 'a>(
        &'s self,
        request: reqwest::Request,
        extensions: &'e mut Extensions,
        next: Next<'n>,
    ) -> Pin<Box<dyn Future<Output = reqwest_middleware::Result<reqwest::Response>> + Send + 'a>>
    where
        's: 'a,
        'e: 'a,
        'n: 'a,
    {
        let service = self.service.clone();
        let failed = |error: reqwest::Error| Box::pin(ready(Err(error.into())));
        if let Some(stack) = self.in_place {
            let mut mailbox = Mailbox::new(stack);
            return match mailbox.request(request, extensions) {
                Ok(request) => in_place::call(service, request, mailbox, extensions, next),
                Err(error) => failed(error),
            };
        }
        let asked = Asked::new(request.url().clone());
        match http::Request::try_from(request) {
            Ok(request) => Box::pin(by_courier(service, request, asked, extensions, next)),
            Err(error) => failed(error),
        }
    }
}

/// A call through a stack whose layers may hand it to other tasks.
async fn by_courier<S, B>(
    mut service: S,
    mut request: http::Request<reqwest::Body>,
    asked: Asked,
    extensions: &mut Extensions,
    next: Next<'_>,
) -> reqwest_middleware::Result<reqwest::Response>
where
    S: Service<http::Request<reqwest::Body>, Response = http::Response<B>>,
    S::Error: Into<BoxError>,
    B: Body + Send + Sync + 'static,
    B::Data: Into<Bytes>,
    B::Error: Into<BoxError>,
{
    let (courier, jobs) = courier::channel();
    extend(&mut request, extensions);
    request.extensions_mut().insert(courier);
    // One function, since the arguments of another would lie beside the future that they become.
    let failed = |error: S::Error| error::to_middleware(error.into());
    poll_fn(|cx| service.poll_ready(cx).map_err(failed)).await?;
    let call = pin!({
        // It ends with this block: what its layers have reserved and not used is free again.
        let mut service = service;
        service.call(request)
    });
    let response = drive(call, &jobs, &asked, extensions, &next).await.map_err(failed)?;
    Ok(asked.answered(response.map(response_body)).into())
}

/// Layers see what middlewares say of a request.
#[inline]
fn extend(request: &mut http::Request<reqwest::Body>, extensions: &Extensions) {
    if !extensions.is_empty() {
        // What a stack further out has put on the request is newer than what the caller brought.
        let mut carried = extensions.clone();
        carried.extend(mem::take(request.extensions_mut()));
        *request.extensions_mut() = carried;
    }
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
        attempts.retain(|number, attempt| goes_on(number, attempt, jobs, asked, extensions, cx));
        loop {
            if let Poll::Ready(outcome) = call.as_mut().poll(cx) {
                return Poll::Ready(outcome);
            }
            let mut answered = false;
            while let Poll::Ready(job) = jobs.poll_next(cx) {
                match job {
                    Job::Make(number, mut request) => {
                        let request = if asked.is_of(&request) {
                            let mut whole = reqwest::Request::new(Method::GET, asked.url().clone());
                            asked::fill(&mut whole, &mut request);
                            Ok(whole)
                        } else {
                            asked.converted(request)
                        };
                        let mut attempt = Attempt::new(request, next.clone(), extensions.clone());
                        if goes_on(number, &mut attempt, jobs, asked, extensions, cx) {
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
    asked: &Asked,
    extensions: &mut Extensions,
    cx: &mut Context<'_>,
) -> bool {
    let Poll::Ready(ended) = attempt.poll(cx) else { return true };
    let reply = ended.map(|(outcome, left)| {
        *extensions = left;
        outcome.map(|response| asked.to_http(response)).map_err(error::from_middleware)
    });
    jobs.answer(number, reply, cx);
    false
}
