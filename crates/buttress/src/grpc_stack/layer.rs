#[cfg(feature = "tonic")]
use buttress_circuit_breaker::CircuitBreaker;
use buttress_circuit_breaker::CircuitBreakerLayer;
use buttress_core::Mode;
use buttress_deadline::{Deadline, DeadlineLayer};
use buttress_grpc::{Attempt, AttemptLayer, ByMethod, Call, CallLayer, Grpc, GrpcReplay, GrpcWatch};
use buttress_retry::{Retry, RetryLayer};
use tower_layer::{Identity, Layer};

use crate::explain::Explanation;
use crate::live::StackHandle;

/// The stack for one gRPC dependency; made by [`GrpcBuilder`](crate::GrpcBuilder).
///
/// All services made by it, and all their clones, share its circuit and its retry budget. With the feature `tonic`,
/// `over` puts it on a transport of tonic's, and its errors are `tonic::Status`.
///
/// `B` is the circuit breaker; `A` are layers of one's own, for [each attempt](crate::GrpcBuilder::per_attempt).
#[derive(Clone, Debug)]
pub struct GrpcLayer<B = CircuitBreakerLayer<Grpc, GrpcWatch>, A = Identity> {
    pub(super) call: CallLayer,
    pub(super) total: DeadlineLayer<Grpc>,
    /// Whether nothing of the caller's own stands between the deadlines.
    pub(super) bare: bool,
    pub(super) retry: RetryLayer<ByMethod, GrpcReplay>,
    pub(super) per_attempt: A,
    pub(super) breaker: B,
    pub(super) attempt: DeadlineLayer<Grpc>,
    pub(super) headers: AttemptLayer,
    pub(super) handle: StackHandle,
}

impl<B, A> GrpcLayer<B, A> {
    /// What the stack does now, one line a layer, and what looks wrong about it.
    pub fn explain(&self) -> Explanation {
        self.handle.explain()
    }

    /// Lists and controls the layers of the stack.
    pub fn handle(&self) -> StackHandle {
        self.handle.clone()
    }

    /// The retry: its budget and its mode.
    pub fn retry(&self) -> &RetryLayer<ByMethod, GrpcReplay> {
        &self.retry
    }

    /// The total deadline.
    pub fn total(&self) -> &DeadlineLayer<Grpc> {
        &self.total
    }

    /// The attempt deadline.
    pub fn attempt(&self) -> &DeadlineLayer<Grpc> {
        &self.attempt
    }

    /// The circuit breaker; its `handle()` reads and controls the circuit.
    pub fn circuit_breaker(&self) -> &B {
        &self.breaker
    }

    /// Switches the mode of deadlines, retry and circuit breaker, with one circuit for each host of all hosts, those to come
    /// included. A `grpc-timeout` that a call or its method brings is the caller's own and stays: its server is told of it, and
    /// the response's body ends with it, in every mode.
    pub fn set_mode(&self, mode: Mode) {
        self.handle.set_mode(mode);
    }
}

impl<A> GrpcLayer<CircuitBreakerLayer<Grpc, GrpcWatch>, A> {
    /// For a stack that lives as long as the process: what its layers share is never freed, the retry's part aside, and neither a clone
    /// of a service nor a call counts references for it, which saves a call with a clone of its own sixteen locked operations. Each use of this
    /// method takes some hundred bytes for good, and the memory of the service config.
    #[must_use]
    pub fn leaked(self) -> Self {
        let (call, headers) = (self.call.leaked(), self.headers.leaked());
        let (total, attempt) = (self.total.leaked(), self.attempt.leaked());
        Self { call, total, breaker: self.breaker.leaked(), attempt, headers, ..self }
    }
}

/// What the circuit breaker stands above.
type Below<S> = Deadline<Attempt<S>, Grpc>;
/// What stands above the attempts.
type Above<S> = Call<Deadline<Retry<S, ByMethod, GrpcReplay>, Grpc>>;

/// Over any gRPC transport, which is called with `http::Request<ReplayBody<B>>`. Errors are
/// [`BoxError`](buttress_core::BoxError)s.
impl<S, B, A> Layer<S> for GrpcLayer<B, A>
where
    B: Layer<Below<S>>,
    A: Layer<B::Service>,
    A::Service: Clone,
{
    type Service = Above<A::Service>;

    fn layer(&self, transport: S) -> Self::Service {
        let below = self.breaker.layer(self.attempt.layer(self.headers.layer(transport)));
        let total = self.total.clone();
        let total = if self.bare { total.lean() } else { total };
        self.call.layer(total.layer(self.retry.layer(self.per_attempt.layer(below))))
    }
}

#[cfg(feature = "tonic")]
mod over_tonic {
    use super::{Above, Below, CircuitBreaker, GrpcLayer};
    use buttress_core::BoxError;
    use buttress_grpc::{Grpc, GrpcStack, GrpcWatch, StatusLayer, StatusService, TonicBody, TonicBodyLayer};
    use bytes::Bytes;
    use http::{Request, Response};
    use tonic::body::Body;
    use tower_layer::Layer;
    use tower_service::Service;

    /// What [`GrpcLayer::service`] makes of a transport `S`: the type to name, unboxed. `GreeterClient<GrpcService<Channel>>`
    /// is a client.
    pub type GrpcService<S> = StatusService<Above<CircuitBreaker<Below<TonicBody<S>>, Grpc, GrpcWatch>>>;

    impl<B, A> GrpcLayer<B, A> {
        /// The stack over a transport of tonic's, such as a `Channel`, for a client that tonic generates:
        /// `GreeterClient<GrpcStack>`.
        pub fn over<S, R>(&self, transport: S) -> GrpcStack
        where
            Self: Layer<TonicBody<S>>,
            <Self as Layer<TonicBody<S>>>::Service: Service<Request<Body>, Response = Response<R>, Error: Into<BoxError>, Future: Send + 'static>
                + Clone
                + Send
                + Sync
                + 'static,
            R: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
        {
            GrpcStack::new(self.service(transport))
        }

        /// As [`over`](GrpcLayer::over), unboxed.
        pub fn service<S>(&self, transport: S) -> StatusService<<Self as Layer<TonicBody<S>>>::Service>
        where
            Self: Layer<TonicBody<S>>,
        {
            StatusLayer.layer(self.layer(TonicBodyLayer.layer(transport)))
        }
    }
}

#[cfg(feature = "tonic")]
pub use over_tonic::GrpcService;
