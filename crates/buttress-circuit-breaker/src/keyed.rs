use std::mem;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll};

use buttress_core::{BoxError, Classify, ConfigError, KeyOf, Mode, Now, Observe, Watch};
use tower_layer::Layer;
use tower_service::Service;

use crate::config::Config;
use crate::future::ResponseFuture;
use crate::handle::CircuitBreakerHandle;
use crate::permit::Permit;
use crate::registry::Registry;
use crate::service::{Called, call_with};
use crate::shared::{Holder, Settings};

/// Puts one circuit breaker per key before a service: a host that is ill trips no other.
///
/// The policy names the key of each request; `buttress_http::Http` takes the authority, and
/// [`key_by`](buttress_core::key_by) any other. Requests without a key share one circuit.
///
/// Memory is bounded by [`max_keys`](KeyedCircuitBreakerLayer::max_keys) (default 10,000): a new key takes the place of
/// one whose circuit is closed and that was not used lately (second chance); when no circuit is closed, the one that is
/// open longest goes, and [`Event::Evicted`](buttress_core::Event::Evicted) says so. A key that comes back starts closed.
///
/// ```
/// use buttress_circuit_breaker::{Config, KeyedCircuitBreakerLayer};
/// use buttress_core::{ErrorsAreFailures, Plain, key_by};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// #[derive(Clone)]
/// struct Job { tenant: String }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let tenant = key_by(Plain::<ErrorsAreFailures>::default(), |job: &Job| Some(job.tenant.as_str().into()));
/// let layer = KeyedCircuitBreakerLayer::new("jobs", Config::standard(), tenant)?;
/// let service = ServiceBuilder::new()
///     .layer(layer.clone())
///     .service(service_fn(|_: Job| async { Ok::<_, std::io::Error>("done") }));
/// service.oneshot(Job { tenant: "acme".into() }).await?;
/// assert!(layer.get("acme").is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct KeyedCircuitBreakerLayer<P, W = Now> {
    registry: Arc<Registry>,
    policy: P,
    watch: W,
}

impl<P> KeyedCircuitBreakerLayer<P> {
    /// No circuit yet; each is made, closed, when its key first appears.
    ///
    /// # Errors
    ///
    /// If the configuration breaks a rule; see each setter of [`Config`].
    pub fn new(name: impl Into<Arc<str>>, config: Config, policy: P) -> Result<Self, ConfigError> {
        config.check()?;
        let settings = Arc::new(Settings::new(name.into(), config));
        let max_keys = const { NonZeroUsize::new(10_000).unwrap() };
        Ok(Self { registry: Arc::new(Registry::new(settings, max_keys)), policy, watch: Now })
    }
}

impl<P, W> KeyedCircuitBreakerLayer<P, W> {
    /// Keeps the circuits of at most so many keys. Call it before the layer is used: it starts with no circuits.
    ///
    /// Bytes are bounded by it as well as by the windows: in a [`Window::Calls`](crate::Window::Calls) that holds a failure, each
    /// call takes one, or two while it grows; in one without failures, none.
    #[must_use]
    pub fn max_keys(self, max_keys: NonZeroUsize) -> Self {
        let registry = Arc::new(Registry::new(Arc::clone(&self.registry.settings), max_keys));
        Self { registry, ..self }
    }

    /// Ends calls when this says so: [`Now`], which is the default, or with the response's body.
    #[must_use]
    pub fn watch<V>(self, watch: V) -> KeyedCircuitBreakerLayer<P, V> {
        KeyedCircuitBreakerLayer { registry: self.registry, policy: self.policy, watch }
    }

    /// Reports to this observer. The first one stays; a `Vec` of several is one.
    #[must_use]
    pub fn observe(self, observer: Arc<dyn Observe>) -> Self {
        self.registry.settings.observer.set(observer);
        self
    }

    /// Reads and controls the circuits of all keys.
    pub fn handle(&self) -> KeyedCircuitBreakerHandle {
        KeyedCircuitBreakerHandle { registry: Arc::clone(&self.registry) }
    }

    /// As [`KeyedCircuitBreakerHandle::mode`].
    pub fn mode(&self) -> Mode {
        self.handle().mode()
    }

    /// As [`KeyedCircuitBreakerHandle::set_mode`].
    pub fn set_mode(&self, mode: Mode) {
        self.handle().set_mode(mode);
    }

    /// As [`KeyedCircuitBreakerHandle::get`].
    pub fn get(&self, key: &str) -> Option<CircuitBreakerHandle> {
        self.handle().get(key)
    }

    /// As [`KeyedCircuitBreakerHandle::handles`].
    pub fn handles(&self) -> Vec<(Arc<str>, CircuitBreakerHandle)> {
        self.handle().handles()
    }
}

/// Reads and controls the circuits of all keys of one layer. Clones act on the same circuits.
#[derive(Clone, Debug)]
pub struct KeyedCircuitBreakerHandle {
    registry: Arc<Registry>,
}

impl KeyedCircuitBreakerHandle {
    /// The mode that breakers of new keys start in.
    pub fn mode(&self) -> Mode {
        self.registry.mode()
    }

    /// Switches the mode of all keys, those to come included.
    pub fn set_mode(&self, mode: Mode) {
        self.registry.set_mode(mode);
    }

    /// The configuration in force. Its mode is the one to start in; [`mode`](KeyedCircuitBreakerHandle::mode) says the present
    /// one.
    pub fn config(&self) -> Config {
        Config::clone(&self.registry.settings.config())
    }

    /// Puts another configuration in force for all keys, those to come included, without losing their states: to each
    /// circuit it means what [`CircuitBreakerHandle::set_config`] says. The number of keys that are kept stays.
    ///
    /// # Errors
    ///
    /// If the configuration breaks a rule; the old one then stays.
    pub fn set_config(&self, config: Config) -> Result<(), ConfigError> {
        config.check()?;
        self.registry.set_config(config);
        Ok(())
    }

    /// The circuit of this key, if it is known.
    pub fn get(&self, key: &str) -> Option<CircuitBreakerHandle> {
        self.registry.known(key).map(|keyed| CircuitBreakerHandle::new(Holder::Keyed(keyed)))
    }

    /// All known keys and their circuits, in no order.
    pub fn handles(&self) -> Vec<(Arc<str>, CircuitBreakerHandle)> {
        let handle = |keyed: Arc<crate::shared::Keyed>| {
            (Arc::clone(&keyed.key), CircuitBreakerHandle::new(Holder::Keyed(keyed)))
        };
        self.registry.all().into_iter().map(handle).collect()
    }
}

impl<S, P: Clone, W: Clone> Layer<S> for KeyedCircuitBreakerLayer<P, W> {
    type Service = KeyedCircuitBreaker<S, P, W>;

    fn layer(&self, inner: S) -> Self::Service {
        let registry = Arc::clone(&self.registry);
        KeyedCircuitBreaker { inner, registry, policy: self.policy.clone(), watch: self.watch.clone() }
    }
}

/// Refuses calls for keys whose circuit is open; made by [`KeyedCircuitBreakerLayer`].
///
/// The key is known only in `call`, so readiness is that of the service inside. A refused call puts a fresh clone in the
/// place of the service that was made ready, so that whatever it had reserved is free again.
#[derive(Clone, Debug)]
pub struct KeyedCircuitBreaker<S, P, W = Now> {
    inner: S,
    registry: Arc<Registry>,
    policy: P,
    watch: W,
}

impl<S, P, W, Req> Service<Req> for KeyedCircuitBreaker<S, P, W>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    P: Classify<S::Response> + KeyOf<Req> + Clone,
    W: Watch<S::Response> + Clone,
{
    type Response = W::Response<Permit>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, P, W>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let keyed = match self.policy.key(&request) {
            Some(key) => self.registry.get(&key),
            None => self.registry.get(""),
        };
        let breaker = Holder::Keyed(keyed);
        if let Some(token) = breaker.flow() {
            let called = Called(&breaker, token);
            let inner = self.inner.call(request);
            called.returned();
            let permit = Permit::new(breaker, token, None);
            return ResponseFuture::calling(inner, permit, self.policy.clone(), self.watch.clone());
        }
        match breaker.admit() {
            Ok(permit) => {
                let (inner, permit) = call_with(&mut self.inner, request, permit);
                ResponseFuture::calling(inner, permit, self.policy.clone(), self.watch.clone())
            }
            Err(refusal) => {
                let fresh = self.inner.clone();
                drop(mem::replace(&mut self.inner, fresh));
                ResponseFuture::refused(breaker.refuse(refusal))
            }
        }
    }
}
