use buttress_circuit_breaker::{CircuitBreaker, CircuitBreakerLayer, KeyedCircuitBreaker};
use buttress_core::Mode;
use buttress_deadline::{Deadline, DeadlineLayer};
use buttress_http::{Http, HttpReplay};
use buttress_retry::{Retry, RetryLayer};
use tower_layer::{Identity, Layer};

use crate::explain::Explanation;
use crate::live::StackHandle;

/// The stack for one HTTP dependency; made by [`HttpBuilder`](crate::HttpBuilder).
///
/// All services made by it, and all their clones, share its circuit and its retry budget. Errors are
/// [`BoxError`](buttress_core::BoxError)s; [`find`](crate::find) finds what is in them.
///
/// `B` is the circuit breaker; `A` and `C` are layers of one's own, for [each attempt](crate::HttpBuilder::per_attempt) and
/// [each call](crate::HttpBuilder::per_call).
#[derive(Clone, Debug)]
pub struct HttpLayer<B = CircuitBreakerLayer<Http>, A = Identity, C = Identity> {
    pub(super) per_call: C,
    pub(super) total: DeadlineLayer<Http>,
    /// Whether nothing of the caller's own stands between the deadlines.
    pub(super) bare: bool,
    pub(super) retry: RetryLayer<Http, HttpReplay>,
    pub(super) per_attempt: A,
    pub(super) breaker: B,
    pub(super) attempt: DeadlineLayer<Http>,
    pub(super) handle: StackHandle,
}

/// What [`HttpLayer`] makes of a client `S`: the type to name in a struct.
///
/// `S` is called with `http::Request<ReplayBody<B>>`; for hyper-util that is
/// `Client<HttpConnector, ReplayBody<Full<Bytes>>>`, which the compiler infers.
pub type HttpService<S> = Deadline<Retry<CircuitBreaker<Deadline<S, Http>, Http>, Http, HttpReplay>, Http>;

/// What [`HttpLayer`] makes of a client `S` with one circuit for each host.
pub type HttpServicePerHost<S> =
    Deadline<Retry<KeyedCircuitBreaker<Deadline<S, Http>, Http>, Http, HttpReplay>, Http>;

impl<B, A, C> HttpLayer<B, A, C> {
    /// What the stack does now, one line a layer, and what looks wrong about it.
    pub fn explain(&self) -> Explanation {
        self.handle.explain()
    }

    /// Lists and controls the layers of the stack.
    pub fn handle(&self) -> StackHandle {
        self.handle.clone()
    }

    /// The retry: its budget and its mode.
    pub fn retry(&self) -> &RetryLayer<Http, HttpReplay> {
        &self.retry
    }

    /// The total deadline.
    pub fn total(&self) -> &DeadlineLayer<Http> {
        &self.total
    }

    /// The attempt deadline.
    pub fn attempt(&self) -> &DeadlineLayer<Http> {
        &self.attempt
    }

    /// The circuit breaker; its `handle()` reads and controls the circuit.
    pub fn circuit_breaker(&self) -> &B {
        &self.breaker
    }
}

impl<B, A, C> HttpLayer<B, A, C> {
    /// Switches the mode of all four layers; with one circuit for each host, of all hosts, those to come included.
    pub fn set_mode(&self, mode: Mode) {
        self.handle.set_mode(mode);
    }
}

impl<W, A, C> HttpLayer<CircuitBreakerLayer<Http, W>, A, C> {
    /// For a stack that lives as long as the process: what its deadlines and its circuit share is never freed, and neither a clone of
    /// a service nor a call counts references for it, which saves each call twelve locked operations. Each use of this method takes
    /// some hundred bytes for good.
    ///
    /// ```
    /// # fn main() -> Result<(), buttress::ConfigError> {
    /// let layer = buttress::http("datadog").datadog().build()?.leaked();
    /// # let _ = layer;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn leaked(self) -> Self {
        let (total, attempt) = (self.total.leaked(), self.attempt.leaked());
        Self { total, attempt, breaker: self.breaker.leaked(), ..self }
    }
}

impl<S, B, A, C> Layer<S> for HttpLayer<B, A, C>
where
    B: Layer<Deadline<S, Http>>,
    A: Layer<B::Service>,
    A::Service: Clone,
    C: Layer<Deadline<Retry<A::Service, Http, HttpReplay>, Http>>,
{
    type Service = C::Service;

    fn layer(&self, client: S) -> Self::Service {
        let attempt = self.per_attempt.layer(self.breaker.layer(self.attempt.layer(client)));
        let total = self.total.clone();
        let total = if self.bare { total.lean() } else { total };
        self.per_call.layer(total.layer(self.retry.layer(attempt)))
    }
}
