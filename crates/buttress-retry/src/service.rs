use std::fmt;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use buttress_core::{BoxError, Carry, Classify, CloneReplay, Discard, KeyOf, Plain, Replay};
use tower_service::Service;

use crate::future::ResponseFuture;
use crate::shared::{Core, Settings};

/// Retries failed calls; made by [`RetryLayer`](crate::RetryLayer).
///
/// `P` judges outcomes and reads what travels with requests, `R` keeps requests so that they can be sent again. The
/// first attempt goes to the instance that was made ready; each further one to a clone that is driven ready again.
pub struct Retry<S, P = Plain, R = CloneReplay> {
    core: Arc<Core<S, P, R>>,
    inner: S,
}

impl<S: Clone, P, R> Retry<S, P, R> {
    pub(crate) fn new(inner: S, settings: Arc<Settings>, policy: P, replay: R) -> Self {
        let template = Mutex::new(inner.clone());
        Self { core: Arc::new(Core { settings, template, policy, replay }), inner }
    }
}

impl<S, P, R> Retry<S, P, R> {
    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone, P, R> Clone for Retry<S, P, R> {
    fn clone(&self) -> Self {
        // The large one last, where it is to stay.
        Self { core: Arc::clone(&self.core), inner: self.inner.clone() }
    }
}

impl<S: fmt::Debug, P, R> fmt::Debug for Retry<S, P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry").field("inner", &self.inner).field("settings", &self.core.settings).finish()
    }
}

impl<S, P, R, Req> Service<Req> for Retry<S, P, R>
where
    R: Replay<Req>,
    S: Service<R::Request> + Clone,
    S::Error: Into<BoxError>,
    P: Classify<S::Response>
        + Carry<Req>
        + Carry<R::Request>
        + Carry<S::Response>
        + Discard<S::Response>
        + KeyOf<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = ResponseFuture<S, P, R, Req>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        ResponseFuture::call(&self.core, &mut self.inner, request)
    }
}
