use std::fmt;

use tower_layer::Layer;

use crate::handle::Idempotency;
use crate::inline::InlineLayer;
use crate::service::Idempotent;

/// Carries out each call through the services that it is applied to once; made by [`Idempotency::layer`].
pub struct IdempotencyLayer<St, P> {
    idempotency: Idempotency<St>,
    protocol: P,
}

impl<St, P> IdempotencyLayer<St, P> {
    /// A layer over this store for the calls of this protocol: [`Keyed`](crate::Keyed), or `HttpKeys`.
    pub fn new(idempotency: &Idempotency<St>, protocol: P) -> Self {
        Self { idempotency: idempotency.clone(), protocol }
    }

    /// The same without a task and without its bounds: see [`Inline`](crate::Inline).
    pub fn inline<'a>(self) -> InlineLayer<'a, St, P> {
        InlineLayer::new(self)
    }
}

impl<St, P: Clone> Clone for IdempotencyLayer<St, P> {
    fn clone(&self) -> Self {
        Self { idempotency: self.idempotency.clone(), protocol: self.protocol.clone() }
    }
}

impl<St, P: fmt::Debug> fmt::Debug for IdempotencyLayer<St, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("idempotency", &self.idempotency)
            .field("protocol", &self.protocol)
            .finish()
    }
}

impl<S, St, P: Clone> Layer<S> for IdempotencyLayer<St, P> {
    type Service = Idempotent<S, P, St>;

    fn layer(&self, inner: S) -> Self::Service {
        Idempotent::new(inner, self.protocol.clone(), self.idempotency.clone())
    }
}
