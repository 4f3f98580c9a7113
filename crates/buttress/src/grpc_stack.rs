mod layer;
mod plan;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_circuit_breaker::{CircuitBreakerLayer, KeyedCircuitBreakerLayer};
use buttress_core::{ConfigError, Mode, Observe, Verdict};
use buttress_deadline::DeadlineLayer;
use buttress_grpc::{AttemptLayer, ByMethod, CallLayer, Code, Grpc, GrpcReplay, GrpcWatch, ServiceConfig};
use buttress_http::HttpReplay;
use buttress_retry::{HintRule, RetryLayer};
use tower_layer::{Identity, Stack};

use crate::live::{Circuits, Layers, StackHandle, Written};
use crate::stack::{Preset, check_name, observer, short_name};

pub use layer::GrpcLayer;
#[cfg(feature = "tonic")]
pub use layer::GrpcService;

/// Builds a stack for one gRPC dependency, always in the order that works: what is known of the method, total deadline, retry,
/// circuit breaker, attempt deadline, what each attempt needs, transport. Starts with [`grpc`](crate::grpc()).
///
/// All calls of gRPC are POSTs. A failed one that may have been applied is sent again only if its method is named
/// [`repeatable`](GrpcBuilder::repeatable) or has a retry policy in a [service config](GrpcBuilder::service_config).
///
/// ```
/// # fn main() -> Result<(), buttress::ConfigError> {
/// let layer = buttress::grpc("greeter")
///     .repeatable("helloworld.Greeter/SayHello")
///     .stream("grpc.health.v1.Health/Watch")
///     .build()?;
/// println!("{}", layer.explain());
/// # Ok(())
/// # }
/// ```
///
/// What is set explicitly counts, whichever comes first; only a [`service_config`](GrpcBuilder::service_config) takes the place
/// of what was said of methods before it.
///
/// `A` are layers of one's own, [for each attempt](GrpcBuilder::per_attempt).
#[derive(Clone)]
pub struct GrpcBuilder<A = Identity> {
    name: Arc<str>,
    grpc: Grpc,
    replay: HttpReplay,
    preset: Preset,
    methods: ServiceConfig,
    attempts: AttemptLayer,
    total: Option<Duration>,
    attempt: Option<Duration>,
    retry: Option<buttress_retry::Config>,
    breaker: Option<buttress_circuit_breaker::Config>,
    observers: Vec<Arc<dyn Observe>>,
    silent: bool,
    mode: Option<Mode>,
    written: Option<Arc<Written>>,
    per_attempt: A,
    /// Their names, from the outside in.
    own: Vec<&'static str>,
}

impl<A> fmt::Debug for GrpcBuilder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, methods, total, attempt, retry, breaker, .. } = self;
        let mut debug = f.debug_struct("GrpcBuilder");
        debug.field("name", name).field("methods", methods).field("total", total).field("attempt", attempt);
        debug.field("retry", retry).field("breaker", breaker).finish_non_exhaustive()
    }
}

/// As A6 has it: exactly what the server says, if it says anything.
const PUSHBACK: HintRule = HintRule::Exact { cap: Duration::from_secs(300) };

impl GrpcBuilder {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            grpc: Grpc::new(),
            replay: HttpReplay::new().without_keys(),
            preset: Preset::UserFacing,
            methods: ServiceConfig::new(),
            attempts: AttemptLayer::new(),
            total: None,
            attempt: None,
            retry: None,
            breaker: None,
            observers: Vec::new(),
            silent: false,
            mode: None,
            written: None,
            per_attempt: Identity::new(),
            own: Vec::new(),
        }
    }
}

impl<A> GrpcBuilder<A> {
    /// Somebody is waiting: 10 s in all, 2.5 s an attempt,
    /// [`retry::Config::user_facing`](buttress_retry::Config::user_facing) with pushback obeyed exactly. The default.
    #[must_use]
    pub fn user_facing(self) -> Self {
        Self { preset: Preset::UserFacing, ..self }
    }

    /// Nobody is waiting: 10 min in all, 30 s an attempt,
    /// [`retry::Config::background`](buttress_retry::Config::background) with pushback obeyed exactly, and an open circuit is
    /// waited for.
    #[must_use]
    pub fn background(self) -> Self {
        Self { preset: Preset::Background, ..self }
    }

    /// What is known of single methods, in place of what was said before. If it has retry policies, the other methods are
    /// retried as [`retry::Config::grpc`](buttress_retry::Config::grpc) says, where nothing else is set, and the budget is its
    /// `retryThrottling`, or, as gRPC has it, none.
    #[must_use]
    pub fn service_config(self, config: ServiceConfig) -> Self {
        Self { methods: config, ..self }
    }

    /// This method (`package.Service/Method`), or all of this service's (`package.Service`), may be repeated; see
    /// [`ServiceConfig::repeatable`].
    #[must_use]
    pub fn repeatable(self, name: &str) -> Self {
        Self { methods: self.methods.repeatable(name), ..self }
    }

    /// This method, or all of this service's, answers with a stream that may go on for long; see [`ServiceConfig::stream`].
    #[must_use]
    pub fn stream(self, name: &str) -> Self {
        Self { methods: self.methods.stream(name), ..self }
    }

    /// This method, or all of this service's, answers with one message; see [`ServiceConfig::unary`].
    #[must_use]
    pub fn unary(self, name: &str) -> Self {
        Self { methods: self.methods.unary(name), ..self }
    }

    /// Judges this code in this way; see [`Grpc::code`].
    #[must_use]
    pub fn code(self, code: Code, verdict: Verdict) -> Self {
        Self { grpc: self.grpc.code(code, verdict), ..self }
    }

    /// The time for the whole call, all attempts and waits included, until the response's head; a call's own `grpc-timeout`
    /// takes its place. Default 10 s.
    #[must_use]
    pub fn total(self, limit: Duration) -> Self {
        Self { total: Some(limit), ..self }
    }

    /// The time for each attempt, until the response's head and what is looked at of its body. Default 2.5 s.
    #[must_use]
    pub fn attempt(self, limit: Duration) -> Self {
        Self { attempt: Some(limit), ..self }
    }

    /// The mode that deadlines, retry and circuit breaker start in. Default [`Mode::Enforce`].
    #[must_use]
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode: Some(mode), ..self }
    }

    /// What each attempt needs: how long to look for a status in trailers, whether servers are told of the stack's deadline.
    #[must_use]
    pub fn attempts(self, attempts: AttemptLayer) -> Self {
        Self { attempts, ..self }
    }

    /// How failed attempts are retried, where a method has no policy of its own. The budget is that of all methods.
    #[must_use]
    pub fn retry(self, config: buttress_retry::Config) -> Self {
        Self { retry: Some(config), ..self }
    }

    /// Changes the retry in some respect. Choose the preset and the service config first: those that follow keep what was
    /// changed here.
    #[must_use]
    pub fn map_retry(self, change: impl FnOnce(buttress_retry::Config) -> buttress_retry::Config) -> Self {
        let config = self.retry_config();
        self.retry(change(config))
    }

    /// When the circuit opens.
    #[must_use]
    pub fn circuit_breaker(self, config: buttress_circuit_breaker::Config) -> Self {
        Self { breaker: Some(config), ..self }
    }

    /// Changes the preset's circuit breaker, or the one that was set, in some respect.
    #[must_use]
    pub fn map_circuit_breaker(
        self,
        change: impl FnOnce(buttress_circuit_breaker::Config) -> buttress_circuit_breaker::Config,
    ) -> Self {
        let config = self.breaker_config();
        self.circuit_breaker(change(config))
    }

    /// Puts this layer around each attempt: below the retry, above the circuit breaker, outermost first; see
    /// [`HttpBuilder::per_attempt`](crate::HttpBuilder::per_attempt). What belongs around whole calls is put around the stack.
    ///
    /// ```
    /// use buttress::http::ReplayBody;
    /// use http::{HeaderValue, Request};
    /// use tower::limit::ConcurrencyLimitLayer;
    /// use tower::util::MapRequestLayer;
    /// # type Body = http_body_util::Full<bytes::Bytes>;
    ///
    /// /// A token of this minute. In a client of tonic's, `Body` is `tonic::body::Body`.
    /// fn token(mut request: Request<ReplayBody<Body>>) -> Request<ReplayBody<Body>> {
    ///     request.headers_mut().insert("authorization", HeaderValue::from_static("Bearer of this minute"));
    ///     request
    /// }
    ///
    /// # fn main() -> Result<(), buttress::ConfigError> {
    /// let layer = buttress::grpc("greeter")
    ///     .per_attempt(ConcurrencyLimitLayer::new(64))
    ///     .per_attempt(MapRequestLayer::new(token))
    ///     .build()?;
    /// // `layer.over(channel)` is a `GrpcStack`, boxed; `layer.service(channel)` is the same with a type of its own.
    /// # let _ = layer;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn per_attempt<T>(self, layer: T) -> GrpcBuilder<Stack<T, A>> {
        let Self { name, grpc, replay, preset, methods, attempts, total, attempt, retry, breaker, .. } = self;
        let Self { observers, silent, mode, written, per_attempt, mut own, .. } = self;
        own.push(short_name::<T>());
        let per_attempt = Stack::new(layer, per_attempt);
        GrpcBuilder {
            name,
            grpc,
            replay,
            preset,
            methods,
            attempts,
            total,
            attempt,
            retry,
            breaker,
            observers,
            silent,
            mode,
            written,
            per_attempt,
            own,
        }
    }

    /// How requests are kept for a retry (see [`GrpcReplay`]): at most 64 KiB of each, unless it is one message,
    /// [`without_keys`](HttpReplay::without_keys), unless set otherwise.
    #[must_use]
    pub fn replay(self, replay: HttpReplay) -> Self {
        Self { replay, ..self }
    }

    /// Reports to this observer too.
    #[must_use]
    pub fn observe(mut self, observer: Arc<dyn Observe>) -> Self {
        self.observers.push(observer);
        self
    }

    /// Reports nothing to `tracing` and `metrics`, which otherwise hear of everything if their features are on.
    #[must_use]
    pub fn silent(self) -> Self {
        Self { silent: true, ..self }
    }

    /// The stack, with one circuit.
    ///
    /// # Errors
    ///
    /// If a configuration breaks a rule: the field, its value and the rule.
    pub fn build(self) -> Result<GrpcLayer<CircuitBreakerLayer<Grpc, GrpcWatch>, A>, ConfigError> {
        let breaker = CircuitBreakerLayer::new(Arc::clone(&self.name), self.breaker_config())?;
        let breaker = breaker.policy(self.grpc.clone()).watch(GrpcWatch::new(self.grpc.clone()));
        let observer = observer(&self.name, self.observers.clone(), self.silent);
        let breaker =
            observer.iter().fold(breaker, |breaker, observer| breaker.observe(Arc::clone(observer)));
        let circuits = Circuits::One(breaker.handle());
        self.finish(observer, breaker, circuits)
    }

    /// The stack, with one circuit for each host, for a transport that goes to many: a host is the authority of a request's URI,
    /// which clients that tonic generates have by `with_origin`. Requests without one share a circuit.
    ///
    /// # Errors
    ///
    /// As [`build`](GrpcBuilder::build).
    pub fn build_per_host(
        self,
    ) -> Result<GrpcLayer<KeyedCircuitBreakerLayer<Grpc, GrpcWatch>, A>, ConfigError> {
        let (name, config) = (Arc::clone(&self.name), self.breaker_config());
        let breaker = KeyedCircuitBreakerLayer::new(name, config, self.grpc.clone())?;
        let breaker = breaker.watch(GrpcWatch::new(self.grpc.clone()));
        let observer = observer(&self.name, self.observers.clone(), self.silent);
        let breaker =
            observer.iter().fold(breaker, |breaker, observer| breaker.observe(Arc::clone(observer)));
        let circuits = Circuits::PerHost(breaker.handle());
        self.finish(observer, breaker, circuits)
    }

    fn finish<B>(
        self,
        observer: Option<Arc<dyn Observe>>,
        breaker: B,
        circuits: Circuits,
    ) -> Result<GrpcLayer<B, A>, ConfigError> {
        check_name(&self.name)?;
        let plan = self.plan();
        let name = || Arc::clone(&self.name);
        // Who is told of it is told by what lies below; otherwise it costs a call several allocations to carry it.
        let travels = plan.travels;
        let deadline =
            |layer: DeadlineLayer, grpc| if travels { layer.carry(grpc) } else { layer.obey(grpc) };
        let total = DeadlineLayer::total(name(), plan.total)?;
        let above = total.clone();
        let retry = RetryLayer::new(name(), plan.retry.clone())?
            .deadline_above(move || (above.mode() == Mode::Enforce).then(|| above.limit()));
        let attempt = DeadlineLayer::attempt(name(), plan.attempt.min(plan.total))?;
        let (below, over) = (attempt.clone(), total.clone());
        let layers = Layers::new(&total, &retry, circuits, &attempt);
        let (methods, headers, own) = (self.methods.to_string(), self.attempts.to_string(), self.own);
        let bare = own.is_empty();
        let handle = StackHandle::new(("grpc", name()), layers, &plan, move |layers| {
            let layers = layers.with_slots(&[], &own);
            layers.within(Some(("call", methods.clone())), Some(("attempt", headers.clone())))
        });
        let mut layer = GrpcLayer {
            call: CallLayer::new(self.methods),
            total: deadline(total, self.grpc.clone()),
            bare,
            retry: retry.policy(ByMethod::new(self.grpc.clone())).replay(GrpcReplay::new(self.replay)),
            per_attempt: self.per_attempt,
            breaker,
            attempt: deadline(attempt, self.grpc),
            // Where attempts are not bounded, the call is.
            headers: self.attempts.deadline_above(move || {
                [&below, &over].into_iter().find(|it| it.mode() == Mode::Enforce).map(DeadlineLayer::limit)
            }),
            handle,
        };
        if let Some(observer) = observer {
            layer.total = layer.total.observe(Arc::clone(&observer));
            layer.retry = layer.retry.observe(Arc::clone(&observer));
            layer.attempt = layer.attempt.observe(observer);
        }
        Ok(layer)
    }
}
