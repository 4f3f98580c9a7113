use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use buttress_core::clock::nanos;
use buttress_core::{BoxError, ConfigError, Mode, ModeCell, Observe, Observer, Shared};
use tower_layer::Layer;

use crate::future::{Limit, ResponseFuture};
use crate::service::Deadline;

/// Bounds the time of every call through the services that it is applied to.
///
/// ```
/// use std::time::Duration;
/// use buttress_core::{Elapsed, find};
/// use buttress_deadline::DeadlineLayer;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let service = ServiceBuilder::new()
///     .layer(DeadlineLayer::total("datadog", Duration::from_secs(10))?)
///     .service(service_fn(|()| std::future::pending::<Result<(), std::io::Error>>()));
/// let error = service.oneshot(()).await.unwrap_err();
/// assert_eq!(find::<Elapsed>(&*error).unwrap().limit(), Duration::from_secs(10));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DeadlineLayer<K = ()> {
    pub(crate) settings: Shared<Settings>,
    pub(crate) carry: K,
    pub(crate) travels: bool,
    pub(crate) leans: bool,
}

#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: Arc<str>,
    /// In nanoseconds.
    limit: AtomicU64,
    /// Bounds the whole call, so that the request's own limit takes the place of this one.
    pub(crate) total: bool,
    pub(crate) mode: ModeCell,
    pub(crate) observer: Observer,
}

impl Settings {
    /// The limit of calls whose time begins now.
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_nanos(self.limit.load(Relaxed))
    }
}

impl DeadlineLayer {
    /// Bounds a whole call, with all that lies below: put it outside of a retry. A request may bring a limit of its own
    /// ([`Carried::time_limit`](buttress_core::Carried::time_limit)).
    ///
    /// # Errors
    ///
    /// If the limit is zero.
    pub fn total(name: impl Into<Arc<str>>, limit: Duration) -> Result<Self, ConfigError> {
        Self::new(name.into(), limit, true)
    }

    /// Bounds one attempt: put it inside of a retry. A request may bring a limit of its own
    /// ([`Carried::attempt_limit`](buttress_core::Carried::attempt_limit)).
    ///
    /// # Errors
    ///
    /// If the limit is zero.
    pub fn attempt(name: impl Into<Arc<str>>, limit: Duration) -> Result<Self, ConfigError> {
        Self::new(name.into(), limit, false)
    }

    fn new(name: Arc<str>, limit: Duration, total: bool) -> Result<Self, ConfigError> {
        let limit = AtomicU64::new(checked(limit)?);
        let (mode, observer) = (ModeCell::default(), Observer::default());
        let settings = Settings { name, limit, total, mode, observer }.into();
        Ok(Self { settings, carry: (), travels: false, leans: false })
    }
}

impl<K> DeadlineLayer<K> {
    /// Obeys the deadline that travels with a request, and lets its own travel on; for HTTP that is
    /// `buttress_http::Http`. The default, `()`, carries nothing and costs nothing.
    #[must_use]
    pub fn carry<L>(self, carry: L) -> DeadlineLayer<L> {
        DeadlineLayer { settings: self.settings, carry, travels: true, leans: self.leans }
    }

    /// Obeys what a request brings along, as [`carry`](DeadlineLayer::carry) does, and lets the deadline travel on with
    /// such a request only. One that brings nothing gets nothing to carry, which spares it the memory for that; its time
    /// starts when it first has to wait.
    #[must_use]
    pub fn obey<L>(self, carry: L) -> DeadlineLayer<L> {
        DeadlineLayer { settings: self.settings, carry, travels: false, leans: self.leans }
    }

    /// Sets no timer of its own as long as the attempt's deadline below is the sooner one and wakes the task: a call then has
    /// one timer, where it had two. The stacks of the `buttress` crate do so.
    ///
    /// Only above this workspace's retry and circuit breaker, with a [`DeadlineLayer`] directly below those: not where a layer in between
    /// polls its calls in another task or with another waker, or races them. There this deadline would be missed. Default: off.
    #[must_use]
    pub fn lean(self) -> Self {
        Self { leans: true, ..self }
    }

    /// For a layer that lives as long as the process: what its services share is never freed, and neither a clone of one nor a call
    /// counts references for it. Each use of this method takes some hundred bytes for good.
    #[must_use]
    pub fn leaked(self) -> Self {
        Self { settings: self.settings.leaked(), ..self }
    }

    /// Reports to this observer. The first one stays; a `Vec` of several is one.
    #[must_use]
    pub fn observe(self, observer: Arc<dyn Observe>) -> Self {
        self.settings.observer.set(observer);
        self
    }

    /// The limit; 584 years where it was set to more.
    pub fn limit(&self) -> Duration {
        self.settings.limit()
    }

    /// Changes the limit, for all services made by this layer and all their clones.
    ///
    /// A call whose time is running keeps the limit that it began with.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), buttress_core::ConfigError> {
    /// let deadline = buttress_deadline::DeadlineLayer::total("datadog", Duration::from_secs(10))?;
    /// deadline.set_limit(Duration::from_secs(20))?;
    /// assert!(deadline.set_limit(Duration::ZERO).is_err());
    /// assert_eq!(deadline.limit(), Duration::from_secs(20));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the limit is zero; the old one then stays.
    pub fn set_limit(&self, limit: Duration) -> Result<(), ConfigError> {
        self.settings.limit.store(checked(limit)?, Relaxed);
        Ok(())
    }

    /// The mode that calls obey.
    pub fn mode(&self) -> Mode {
        self.settings.mode.get()
    }

    /// Switches the mode. A call whose time is running obeys it when the time is over.
    pub fn set_mode(&self, mode: Mode) {
        self.settings.mode.set(mode);
    }

    /// Bounds the time of one future, without a service: the function form.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), buttress_core::BoxError> {
    /// # use std::time::Duration;
    /// let deadline = buttress_deadline::DeadlineLayer::attempt("pagerduty", Duration::from_secs(2))?;
    /// let answer = deadline.run(async { Ok::<_, std::io::Error>(42) }).await?;
    /// assert_eq!(answer, 42);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The future's own, or [`Elapsed`](buttress_core::Elapsed); the future is then dropped.
    pub async fn run<F, Res, E>(&self, future: F) -> Result<Res, BoxError>
    where
        F: Future<Output = Result<Res, E>>,
        E: Into<BoxError>,
    {
        ResponseFuture::new(future, Limit::of(&self.settings, false)).await
    }
}

fn checked(limit: Duration) -> Result<u64, ConfigError> {
    if limit.is_zero() {
        return Err(ConfigError::new("limit", limit, "must be longer than zero, or no call can succeed"));
    }
    Ok(nanos(limit))
}

impl<S, K: Clone> Layer<S> for DeadlineLayer<K> {
    type Service = Deadline<S, K>;

    fn layer(&self, inner: S) -> Self::Service {
        Deadline::new(inner, self.clone())
    }
}
