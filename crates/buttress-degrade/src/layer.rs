use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::Seconds;
use buttress_core::{ConfigError, Observe, Plain};
use tower_layer::Layer;

use crate::chain::{Chain, Last};
use crate::recall::Kept;
use crate::registry::Component;
use crate::service::Degrade;
use crate::shared::{Holder, Limits, Needs, Shared, Told};
use crate::store::{LastGood, Lifetime};
use crate::tasks::Tasks;

/// Answers by a chain of rungs where the services that it is applied to fail.
///
/// What rungs count and the store keeps lives in the layer: all services made by it, and all their clones, share it.
///
/// ```
/// use buttress_core::Level;
/// use buttress_degrade::{Chain, DegradeLayer, Degraded};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), buttress_core::ConfigError> {
/// let chain = Chain::<&str, Degraded<u32>>::new().finally(Level::Minimal, "an estimate", |_| 100);
/// let service = ServiceBuilder::new()
///     .layer(DegradeLayer::new("prices", chain)?)
///     .service(service_fn(|_: &str| async { Err::<u32, _>("connection refused") }));
/// // The chain is closed: there is no error to handle.
/// let Ok(price) = service.oneshot("umbrella").await;
/// assert_eq!((price.level(), *price.get_ref()), (Level::Minimal, 100));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct DegradeLayer<C, P = Plain> {
    told: Told,
    limits: Limits,
    policy: P,
    chain: C,
    leaked: bool,
    needs: Needs,
    discarded: Arc<Tasks>,
}

impl<C: fmt::Debug, P: fmt::Debug> fmt::Debug for DegradeLayer<C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { told, limits, policy, chain, leaked, needs, .. } = self;
        let mut debug = f.debug_struct("DegradeLayer");
        debug.field("name", &told.name).field("limits", limits).field("policy", policy);
        debug
            .field("chain", chain)
            .field("leaked", leaked)
            .field("foreign", &needs.foreign)
            .finish_non_exhaustive()
    }
}

impl<Req: 'static, A: Send + 'static, L: Last<Req, A>> DegradeLayer<Chain<Req, A, L>> {
    /// `name` says in answers, errors, events and metrics which service falls short.
    ///
    /// Until told otherwise, errors are failures and every response is a success.
    ///
    /// # Errors
    ///
    /// If a rung's configuration breaks a rule; see its setters.
    pub fn new(name: impl Into<Arc<str>>, chain: Chain<Req, A, L>) -> Result<Self, ConfigError> {
        chain.check()?;
        let told = Told { name: name.into(), observer: None, component: None };
        let limits = Limits { patience: None, budget: None };
        let (policy, discarded) = (Plain::default(), Arc::default());
        let needs = Needs { request: chain.copy.is_some(), ..Needs::default() };
        Ok(Self { told, limits, policy, chain, leaked: false, needs, discarded })
    }
}

impl<Req, A, L, P> DegradeLayer<Chain<Req, A, L>, P> {
    /// Serves good answers again: fresh ones at once, stale ones while they are refreshed or when the service fails.
    ///
    /// # Errors
    ///
    /// If the store's configuration breaks a rule; see its setters.
    #[allow(clippy::type_complexity, reason = "the chain's own type is what varies")]
    pub fn last_good<R: Kept>(
        self,
        store: LastGood<R>,
    ) -> Result<DegradeLayer<Recalling<Chain<Req, A, L>, R>, P>, ConfigError> {
        store.check()?;
        let Self { told, limits, policy, chain, leaked, needs, discarded } = self;
        let chain = Recalling { chain, store };
        Ok(DegradeLayer { chain, told, limits, policy, leaked, needs, discarded })
    }
}

impl<C, P> DegradeLayer<C, P> {
    /// Judges outcomes with this policy, which also says what travels with a request; for HTTP that is `buttress_http::Http`.
    #[must_use]
    pub fn policy<Q>(self, policy: Q) -> DegradeLayer<C, Q> {
        let Self { told, limits, chain, leaked, needs, discarded, .. } = self;
        DegradeLayer { policy, told, limits, chain, leaked, needs, discarded }
    }

    /// How long a call waits for the service to become ready, and how long a call that is made for the store may take, until
    /// the chain answers. Default 10 s.
    ///
    /// A call that is under way is not bounded by it: a deadline below is what does that, and a second timer would be for
    /// nothing. With a store it is, and a time limit that a request brings along
    /// ([`Carried::time_limit`](buttress_core::Carried::time_limit)) takes its place for that request.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn patience(mut self, patience: Duration) -> Result<Self, ConfigError> {
        if patience.is_zero() {
            return Err(ConfigError::new("patience", patience, "must be longer than zero"));
        }
        self.limits.patience = Some(patience);
        Ok(self)
    }

    /// The [`patience`](Self::patience) where none has been set, for whoever knows a better default.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn default_patience(self, patience: Duration) -> Result<Self, ConfigError> {
        if self.limits.patience.is_some() { Ok(self) } else { self.patience(patience) }
    }

    /// How long the service has for the whole call, readiness included, until the chain answers. It takes the place of
    /// [`patience`](Self::patience). Not set by default; for services with no deadline of their own, or a longer one.
    ///
    /// It travels with the request, if the policy lets it (that for HTTP does): a deadline below then ends by it, and the circuit breaker
    /// beneath hears of a time-out. Where nothing below knows of deadlines the call is dropped, which looks to a circuit breaker
    /// as if the caller had gone.
    ///
    /// The deadline that travels with a request bounds the call in any case; a time limit that a request brings along does not make
    /// the budget longer.
    ///
    /// # Errors
    ///
    /// If it is zero.
    pub fn budget(mut self, budget: Duration) -> Result<Self, ConfigError> {
        if budget.is_zero() {
            return Err(ConfigError::new(
                "budget",
                budget,
                "must be longer than zero, or the service never answers",
            ));
        }
        self.limits.budget = Some(budget);
        self.needs.budget = true;
        Ok(self)
    }

    /// Reports to this observer, and to those that it has been given before.
    #[must_use]
    pub fn observe(mut self, observer: Arc<dyn Observe>) -> Self {
        self.told.observer = Some(match self.told.observer.take() {
            Some(before) => Arc::new(vec![before, observer]),
            None => observer,
        });
        self
    }

    /// Reports the level of each answer to a registry, whose drills it obeys.
    #[must_use]
    pub fn report_to(mut self, component: Component) -> Self {
        self.told.component = Some(component);
        self.needs.reports = true;
        self
    }

    /// The service is somebody else's: what it says of the level of its answers
    /// (of HTTP the field `Buttress-Degradation`) is neither believed nor passed on. Else whoever answers can have nothing
    /// kept and the system shown as degraded.
    #[must_use]
    pub fn foreign(mut self) -> Self {
        self.needs.foreign = true;
        self
    }

    /// For layers that live as long as the process: what their services share is never freed, and a call whose service
    /// answers well counts no references. Each application of the layer then takes memory for good.
    #[must_use]
    pub fn leaked(self) -> Self {
        Self { leaked: true, ..self }
    }

    /// Waits, for so long at most, until the failed responses are read in whose place others were given, and drops what is left;
    /// says how many those were. From then on they are dropped at once, and their connections with them; nothing else changes.
    ///
    /// Reading them is all that a chain does in the background; a store has a [shutdown of its own](LastGood::shutdown).
    pub async fn shutdown(&self, bound: Duration) -> usize {
        self.discarded.shutdown(bound).await
    }
}

/// A chain with a store of last good answers; see [`DegradeLayer::last_good`].
#[derive(Clone, Debug)]
pub struct Recalling<C, R: Kept> {
    pub(crate) chain: C,
    pub(crate) store: LastGood<R>,
}

/// When the store answers, and what the chain does.
impl<C: fmt::Display, R: Kept> fmt::Display for Recalling<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lifetime { fresh, while_revalidate, if_error, .. } = self.store.lifetime();
        let (fresh, while_revalidate) = (Seconds(fresh), Seconds(while_revalidate));
        let (if_error, level) = (Seconds(if_error), self.store.if_error_level().as_u8());
        write!(
            f,
            "answers are fresh for {fresh}, served for {while_revalidate} more while they are refreshed, and for "
        )?;
        write!(f, "{if_error} at level {level} if that fails; {}", self.chain)
    }
}

impl<C: fmt::Display, P> fmt::Display for DegradeLayer<C, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(budget) = self.limits.budget {
            write!(f, "after {}, or ", Seconds(budget))?;
        }
        write!(f, "on failure: {}", self.chain)
    }
}

impl<S, C: Clone + 'static, P: Clone + 'static> Layer<S> for DegradeLayer<C, P> {
    type Service = Degrade<S, C, P>;

    fn layer(&self, inner: S) -> Self::Service {
        let Self { told, limits, policy, chain, leaked, needs, discarded } = self.clone();
        let shared = Shared { told, limits, policy, chain, needs, discarded };
        Degrade::new(inner, Holder::new(shared, leaked))
    }
}
