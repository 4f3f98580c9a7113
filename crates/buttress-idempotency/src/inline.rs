use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use buttress_core::{BoxError, Captured};
use buttress_store::{ClaimStore, Record};
use tokio::sync::oneshot;
use tower_layer::Layer;
use tower_service::Service;

use crate::future::ResponseFuture;
use crate::layer::IdempotencyLayer;
use crate::protocol::{Identify, Protocol};
use crate::service::Idempotent;
use crate::tasks::answered;

/// Carries out each call once, in the caller's own task; made by [`IdempotencyLayer::inline`].
pub struct InlineLayer<'a, St, P> {
    layer: IdempotencyLayer<St, P>,
    lifetime: PhantomData<&'a ()>,
}

impl<St, P> InlineLayer<'_, St, P> {
    pub(crate) fn new(layer: IdempotencyLayer<St, P>) -> Self {
        Self { layer, lifetime: PhantomData }
    }
}

impl<St, P: Clone> Clone for InlineLayer<'_, St, P> {
    fn clone(&self) -> Self {
        Self::new(self.layer.clone())
    }
}

impl<St, P: fmt::Debug> fmt::Debug for InlineLayer<'_, St, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InlineLayer").field(&self.layer).finish()
    }
}

impl<'a, S, St, P: Clone> Layer<S> for InlineLayer<'a, St, P> {
    type Service = Inline<'a, S, P, St>;

    fn layer(&self, inner: S) -> Self::Service {
        Inline { service: self.layer.layer(inner), lifetime: PhantomData }
    }
}

/// Carries out each call once, in the caller's own task; made by [`IdempotencyLayer::inline`].
///
/// Neither the service inside nor its requests and futures have to be `Send`, or `'static`, and its own futures are not `Send`. Dropping the future of a
/// call drops its effect, which then counts as unknown: the key stays claimed until its lease ends. So it does if the store
/// fails to record the answer, which the caller gets nevertheless.
///
/// It is for protocols whose answers are whole at once, such as [`Keyed`](crate::Keyed): what records an HTTP response while it
/// streams has to outlive the call.
///
/// ```
/// use std::{cell::Cell, rc::Rc};
/// use buttress_idempotency::{Config, Hash, Idempotency, Keyed};
/// use buttress_store::Memory;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress_core::BoxError> {
/// let paid = Rc::new(Cell::new(0));
/// let keyed = Keyed::new(|amount: &u64| Some(amount.to_string().into()), |_, hash: Hash| hash);
/// let idempotency = Idempotency::new("transfers", Memory::new(), Config::new())?;
/// let service = ServiceBuilder::new()
///     .layer(idempotency.layer(keyed).inline())
///     .service(service_fn(|amount: u64| {
///         let paid = Rc::clone(&paid);
///         async move { Ok::<u64, std::io::Error>(paid.replace(paid.get() + amount)) }
///     }));
/// for _ in 0..2 {
///     service.clone().oneshot(100).await?;
/// }
/// assert_eq!(paid.get(), 100);
/// # Ok(())
/// # }
/// ```
pub struct Inline<'a, S, P, St> {
    service: Idempotent<S, P, St>,
    lifetime: PhantomData<&'a ()>,
}

impl<S, P, St> Inline<'_, S, P, St> {
    /// The service inside.
    pub fn get_ref(&self) -> &S {
        self.service.get_ref()
    }

    /// The service inside.
    pub fn into_inner(self) -> S {
        self.service.into_inner()
    }
}

impl<S: Clone, P: Clone, St> Clone for Inline<'_, S, P, St> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), lifetime: PhantomData }
    }
}

impl<S: fmt::Debug, P: fmt::Debug, St> fmt::Debug for Inline<'_, S, P, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Inline").field(&self.service).finish()
    }
}

impl<'a, S, P, St, Req> Service<Req> for Inline<'a, S, P, St>
where
    S: Service<<P as Identify<Req>>::Request> + Clone + 'a,
    P: Identify<Req> + Protocol<S::Response, S::Error, Recording = Whole> + Clone + 'a,
    St: ClaimStore,
    Req: 'a,
{
    type Response = P::Response;
    type Error = P::Error;
    type Future = ResponseFuture<S::Future, P, InlineCall<'a, Result<P::Response, P::Error>>>;

    /// That of the service inside.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), P::Error>> {
        self.service.poll_inner_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let (call, request, runtime) = match self.service.begin(request) {
            Ok(begun) => begun,
            Err(future) => return future,
        };
        let (reply, answer) = oneshot::channel();
        let work = call.carry_out(request, runtime, Arc::default(), reply);
        ResponseFuture::guarded(InlineCall { work: Box::pin(answered(work, answer)) })
    }
}

/// The recording of an answer that is whole at once.
type Whole = std::future::Ready<Result<Captured<Record>, BoxError>>;

/// A call that ends with its future.
pub struct InlineCall<'a, R> {
    work: Pin<Box<dyn Future<Output = R> + 'a>>,
}

impl<R> fmt::Debug for InlineCall<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InlineCall")
    }
}

impl<R> Future for InlineCall<'_, R> {
    type Output = R;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<R> {
        self.get_mut().work.as_mut().poll(cx)
    }
}
