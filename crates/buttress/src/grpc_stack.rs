use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_circuit_breaker::CircuitBreakerLayer;
use buttress_core::{ConfigError, Mode, Observe, Verdict};
use buttress_deadline::DeadlineLayer;
use buttress_grpc::{AttemptLayer, ByMethod, CallLayer, Code, Grpc, GrpcWatch, ServiceConfig};
use buttress_http::HttpReplay;
use buttress_retry::{Budget, HintRule, RetryLayer};
use tower_layer::Layer;

use crate::explain::Explanation;
use crate::stack::{Preset, check_name, observer};

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
#[derive(Clone)]
pub struct GrpcBuilder {
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
}

impl fmt::Debug for GrpcBuilder {
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
        }
    }

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

    /// How requests are kept for a retry: at most 64 KiB of each, [`without_keys`](HttpReplay::without_keys), unless set
    /// otherwise.
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

    fn retry_config(&self) -> buttress_retry::Config {
        if let Some(config) = &self.retry {
            return config.clone();
        }
        let config = if self.methods.has_retries() {
            let background = matches!(self.preset, Preset::Background);
            buttress_retry::Config::grpc().retry_refused(background)
        } else {
            self.preset.retry().hints(PUSHBACK)
        };
        let throttle = self.methods.throttle().map(|(max_tokens, ratio)| {
            Budget::grpc_throttle(max_tokens, ratio).expect("it was checked when it was read")
        });
        // Whoever says how long all of it may take is not told otherwise by the preset.
        let config = if self.total.is_some() { config.max_total_wait(None) } else { config };
        match throttle {
            Some(throttle) => config.budget(throttle),
            None => config,
        }
    }

    fn breaker_config(&self) -> buttress_circuit_breaker::Config {
        self.breaker.clone().unwrap_or_else(|| self.preset.breaker())
    }

    /// The stack.
    ///
    /// # Errors
    ///
    /// If a configuration breaks a rule: the field, its value and the rule.
    pub fn build(self) -> Result<GrpcLayer, ConfigError> {
        check_name(&self.name)?;
        let (retry, breaker) = (self.retry_config(), self.breaker_config());
        let (total, attempt) = self.preset.limits();
        let (total, attempt) = (self.total.unwrap_or(total), self.attempt.unwrap_or(attempt));
        // Who is told of it is told by what lies below; otherwise it costs a call several allocations to carry it.
        let travels = self.attempts.sends_deadline();
        let explanation = Explanation::of(&self.name, (total, travels), attempt, &retry, &breaker)
            .within(Some(("call", self.methods.to_string())), Some(("attempt", self.attempts.to_string())));
        let name = || Arc::clone(&self.name);
        let deadline =
            |layer: DeadlineLayer, grpc| if travels { layer.carry(grpc) } else { layer.obey(grpc) };
        let within = attempt.min(total);
        let total = DeadlineLayer::total(name(), total)?;
        let above = total.clone();
        let mut layer = GrpcLayer {
            call: CallLayer::new(self.methods),
            total: deadline(total, self.grpc.clone()),
            retry: RetryLayer::new(name(), retry)?
                .deadline_above(move || (above.mode() == Mode::Enforce).then(|| above.limit()))
                .policy(ByMethod::new(self.grpc.clone()))
                .replay(self.replay),
            breaker: CircuitBreakerLayer::new(name(), breaker)?
                .policy(self.grpc.clone())
                .watch(GrpcWatch::new(self.grpc.clone())),
            attempt: deadline(DeadlineLayer::attempt(name(), within)?, self.grpc),
            headers: self.attempts.within(within),
            explanation,
        };
        if let Some(observer) = observer(&self.name, self.observers, self.silent) {
            layer.total = layer.total.observe(Arc::clone(&observer));
            layer.retry = layer.retry.observe(Arc::clone(&observer));
            layer.breaker = layer.breaker.observe(Arc::clone(&observer));
            layer.attempt = layer.attempt.observe(observer);
        }
        Ok(layer)
    }
}

/// The stack for one gRPC dependency; made by [`GrpcBuilder`].
///
/// All services made by it, and all their clones, share its circuit and its retry budget. With the feature `tonic`,
/// `over` puts it on a transport of tonic's, and its errors are `tonic::Status`.
#[derive(Clone, Debug)]
pub struct GrpcLayer {
    call: CallLayer,
    total: DeadlineLayer<Grpc>,
    retry: RetryLayer<ByMethod, HttpReplay>,
    breaker: CircuitBreakerLayer<Grpc, GrpcWatch>,
    attempt: DeadlineLayer<Grpc>,
    headers: AttemptLayer,
    explanation: Explanation,
}

impl GrpcLayer {
    /// What the stack does, one line a layer, and what looks wrong about it.
    pub fn explain(&self) -> &Explanation {
        &self.explanation
    }

    /// The retry: its budget and its mode.
    pub fn retry(&self) -> &RetryLayer<ByMethod, HttpReplay> {
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
    pub fn circuit_breaker(&self) -> &CircuitBreakerLayer<Grpc, GrpcWatch> {
        &self.breaker
    }

    /// Switches the mode of deadlines, retry and circuit breaker. A `grpc-timeout` that a call or its method brings is the
    /// caller's own and stays: its server is told of it, and the response's body ends with it, in every mode.
    pub fn set_mode(&self, mode: Mode) {
        self.breaker.handle().set_mode(mode);
        self.total.set_mode(mode);
        self.retry.set_mode(mode);
        self.attempt.set_mode(mode);
    }
}

type Below<S> = buttress_circuit_breaker::CircuitBreaker<
    buttress_deadline::Deadline<buttress_grpc::Attempt<S>, Grpc>,
    Grpc,
    GrpcWatch,
>;
type Above<S> = buttress_grpc::Call<
    buttress_deadline::Deadline<buttress_retry::Retry<Below<S>, ByMethod, HttpReplay>, Grpc>,
>;

/// Over any gRPC transport, which is called with `http::Request<ReplayBody<B>>`. Errors are
/// [`BoxError`](buttress_core::BoxError)s.
impl<S: Clone> Layer<S> for GrpcLayer {
    type Service = Above<S>;

    fn layer(&self, transport: S) -> Self::Service {
        let below = self.breaker.layer(self.attempt.layer(self.headers.layer(transport)));
        self.call.layer(self.total.layer(self.retry.layer(below)))
    }
}

#[cfg(feature = "tonic")]
mod over_tonic {
    use super::{Above, GrpcLayer};
    use buttress_core::BoxError;
    use buttress_grpc::{GrpcStack, StatusLayer, StatusService, TonicBody, TonicBodyLayer};
    use bytes::Bytes;
    use http::{Request, Response};
    use tonic::body::Body;
    use tower_layer::Layer;
    use tower_service::Service;

    /// What [`GrpcLayer::service`] makes of a transport `S`: the type to name, unboxed. `GreeterClient<GrpcService<Channel>>`
    /// is a client.
    pub type GrpcService<S> = StatusService<Above<TonicBody<S>>>;

    impl GrpcLayer {
        /// The stack over a transport of tonic's, such as a `Channel`, for a client that tonic generates:
        /// `GreeterClient<GrpcStack>`.
        pub fn over<S, B>(&self, transport: S) -> GrpcStack
        where
            S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
            S::Error: Into<BoxError>,
            S::Future: Send + 'static,
            B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
            B::Error: Into<BoxError>,
        {
            GrpcStack::new(self.service(transport))
        }

        /// As [`over`](GrpcLayer::over), unboxed.
        pub fn service<S: Clone>(&self, transport: S) -> GrpcService<S> {
            StatusLayer.layer(self.layer(TonicBodyLayer.layer(transport)))
        }
    }
}

#[cfg(feature = "tonic")]
pub use over_tonic::GrpcService;
