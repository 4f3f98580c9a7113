use std::future::Future;

use buttress_core::BoxError;
use tower_service::Service;

use crate::rung::BoxFuture;

/// A call of the service below that waits until that is ready: it resolves to the call. Seldom, hence boxed.
pub(crate) type Made<F> = BoxFuture<Result<F, BoxError>>;

/// How a call of the service below ended.
pub(crate) enum Ended<T> {
    Outcome(Result<T, BoxError>),
    /// Before there was one.
    NotReady(BoxError),
}

/// Calls a service that has not been ready yet: it is driven by the call itself, and a fresh clone takes its place.
#[cold]
pub(crate) fn start<S, Req>(inner: &mut S, request: Req) -> Made<S::Future>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    Req: Send + 'static,
{
    let fresh = inner.clone();
    let mut waiting = std::mem::replace(inner, fresh);
    Box::pin(async move {
        std::future::poll_fn(|cx| waiting.poll_ready(cx)).await.map_err(Into::into)?;
        Ok(waiting.call(request))
    })
}

pub(crate) async fn run<F, T, E>(made: Made<F>) -> Ended<T>
where
    F: Future<Output = Result<T, E>>,
    E: Into<BoxError>,
{
    match made.await {
        Ok(inner) => Ended::Outcome(inner.await.map_err(Into::into)),
        Err(error) => Ended::NotReady(error),
    }
}
