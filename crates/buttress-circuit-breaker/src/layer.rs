use std::future::Future;
use std::sync::Arc;

use buttress_core::{BoxError, Classify, ConfigError, Now, Observe, Plain};
use tower_layer::Layer;

use crate::config::Config;
use crate::future::ResponseFuture;
use crate::handle::{CircuitBreakerHandle, Control};
use crate::service::CircuitBreaker;
use crate::shared::{Holder, Settings};

/// Puts one circuit breaker before every service that it is applied to.
///
/// The circuit lives in the layer: all services made by it, and all their clones, share it. A
/// [`handle`](CircuitBreakerLayer::handle) reads and controls it.
///
/// ```
/// use buttress_circuit_breaker::CircuitBreakerLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let service = ServiceBuilder::new()
///     .layer(CircuitBreakerLayer::standard("datadog"))
///     .service(service_fn(|query: &'static str| async move { Ok::<_, std::io::Error>(query.len()) }));
/// assert_eq!(service.oneshot("avg:system.load.1{*}").await?, 20);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct CircuitBreakerLayer<P = Plain, W = Now> {
    breaker: Holder,
    policy: P,
    watch: W,
}

impl CircuitBreakerLayer {
    /// A closed circuit. `name` says in errors, events and metrics which dependency it guards.
    ///
    /// Until told otherwise, errors count as failures and every response as a success.
    ///
    /// # Errors
    ///
    /// If the configuration breaks a rule; see each setter of [`Config`].
    pub fn new(name: impl Into<Arc<str>>, config: Config) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self::checked(name.into(), config))
    }

    /// With [`Config::standard`].
    pub fn standard(name: impl Into<Arc<str>>) -> Self {
        Self::checked(name.into(), Config::standard())
    }

    /// With [`Config::high_traffic`].
    pub fn high_traffic(name: impl Into<Arc<str>>) -> Self {
        Self::checked(name.into(), Config::high_traffic())
    }

    /// With [`Config::critical`].
    pub fn critical(name: impl Into<Arc<str>>) -> Self {
        Self::checked(name.into(), Config::critical())
    }

    fn checked(name: Arc<str>, config: Config) -> Self {
        let breaker = Holder::new(Arc::new(Settings::new(name, config)));
        Self { breaker, policy: Plain::default(), watch: Now }
    }
}

impl<P, W> CircuitBreakerLayer<P, W> {
    /// Judges outcomes with this policy; for HTTP that is `buttress_http::Http`.
    #[must_use]
    pub fn policy<Q>(self, policy: Q) -> CircuitBreakerLayer<Q, W> {
        CircuitBreakerLayer { breaker: self.breaker, policy, watch: self.watch }
    }

    /// Ends calls when this says so: [`Now`], which is the default, or with the response's body.
    #[must_use]
    pub fn watch<V>(self, watch: V) -> CircuitBreakerLayer<P, V> {
        CircuitBreakerLayer { breaker: self.breaker, policy: self.policy, watch }
    }

    /// For a layer that lives as long as the process: its circuit is never freed, and neither a clone of a service nor a call counts
    /// references for it. Each use of this method takes a pointer's memory for good, and the first one the circuit's.
    #[must_use]
    pub fn leaked(self) -> Self {
        Self { breaker: self.breaker.leaked(), ..self }
    }

    /// Reports to this observer. The first one stays; a `Vec` of several is one.
    #[must_use]
    pub fn observe(self, observer: Arc<dyn Observe>) -> Self {
        self.breaker.settings.observer.set(observer);
        self
    }

    /// Lets this control act on the circuit.
    #[must_use]
    pub fn control(self, control: &Control) -> Self {
        control.add(&self.handle());
        self
    }

    /// Reads and controls the circuit.
    pub fn handle(&self) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(self.breaker.clone())
    }

    /// Guards one future, without a service: the function form.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress_core::BoxError> {
    /// let breaker = buttress_circuit_breaker::CircuitBreakerLayer::standard("pagerduty");
    /// let answer = breaker.call(async { Ok::<_, std::io::Error>(42) }).await?;
    /// assert_eq!(answer, 42);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The future's own, or [`Refused`](buttress_core::Refused); the future is then dropped unpolled.
    pub async fn call<F, Res, E>(&self, future: F) -> Result<Res, BoxError>
    where
        F: Future<Output = Result<Res, E>>,
        E: Into<BoxError>,
        P: Classify<Res>,
    {
        match self.breaker.admit() {
            Ok(permit) => ResponseFuture::calling(future, permit, ByRef(&self.policy), Now).await,
            Err(refusal) => Err(self.breaker.refuse(refusal)),
        }
    }
}

/// A classifier that is borrowed.
struct ByRef<'a, P>(&'a P);

impl<P: Classify<Res>, Res> Classify<Res> for ByRef<'_, P> {
    fn classify(&self, outcome: Result<&Res, buttress_core::ErrorRef<'_>>) -> buttress_core::Verdict {
        self.0.classify(outcome)
    }
}

impl<S, P: Clone, W: Clone> Layer<S> for CircuitBreakerLayer<P, W> {
    type Service = CircuitBreaker<S, P, W>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreaker::new(inner, self.breaker.clone(), self.policy.clone(), self.watch.clone())
    }
}
