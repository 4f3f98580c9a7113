use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use buttress_core::{Now, Plain};
use tower_layer::Layer;

use crate::factory::Factory;
use crate::handle::SupervisorHandle;
use crate::service::Heal;
use crate::supervisor::Supervisor;

/// Supervises the service that it is applied to, for stacks in which that is the client itself, or what makes one.
///
/// The closure says how: it gets the service, and returns the [`Supervisor`] whose factory builds it anew. Each application starts
/// a supervisor of its own; the [handles](HealLayer::handles) are in the layer. Where no supervisor can be started (no tokio
/// runtime, a setting that breaks a rule), the calls are refused, and the errors say why.
///
/// ```
/// use buttress_heal::{Build, HealLayer, Supervisor};
/// use tower::{Service, ServiceBuilder, ServiceExt};
/// # use std::task::{Context, Poll};
///
/// #[derive(Clone)]
/// struct Client;
///
/// impl Client {
///     async fn connect() -> std::io::Result<Self> {
///         Ok(Self)
///     }
/// }
/// # impl Service<u32> for Client {
/// #     type Response = u32;
/// #     type Error = std::io::Error;
/// #     type Future = std::future::Ready<std::io::Result<u32>>;
/// #     fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> { Poll::Ready(Ok(())) }
/// #     fn call(&mut self, request: u32) -> Self::Future { std::future::ready(Ok(request)) }
/// # }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), tower::BoxError> {
/// let heal = HealLayer::new(|client: Client| {
///     Supervisor::new("search", move |build: Build| {
///         let first = client.clone();
///         async move { if build.generation == 1 { Ok(first) } else { Client::connect().await } }
///     })
/// });
/// let service = ServiceBuilder::new().layer(heal.clone()).service(Client);
/// assert_eq!(service.oneshot(7).await?, 7);
/// assert_eq!(heal.handles()[0].status().generation, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HealLayer<B, P = Plain, W = Now> {
    supervise: B,
    policy: P,
    watch: W,
    handles: Arc<Mutex<Vec<SupervisorHandle>>>,
}

impl<B> HealLayer<B> {
    /// A layer that supervises as this closure says.
    pub fn new<S, F>(supervise: B) -> Self
    where
        B: Fn(S) -> Supervisor<F>,
        F: Factory,
    {
        Self { supervise, policy: Plain::default(), watch: Now, handles: Arc::default() }
    }
}

impl<B, P, W> HealLayer<B, P, W> {
    /// Judges outcomes with this policy; see [`Heal::policy`].
    #[must_use]
    pub fn policy<Q>(self, policy: Q) -> HealLayer<B, Q, W> {
        HealLayer { supervise: self.supervise, policy, watch: self.watch, handles: self.handles }
    }

    /// Ends calls when this says so; see [`Heal::watch`].
    #[must_use]
    pub fn watch<V>(self, watch: V) -> HealLayer<B, P, V> {
        HealLayer { supervise: self.supervise, policy: self.policy, watch, handles: self.handles }
    }

    /// The supervisors that it has started and that have not ended, in the order in which they were started.
    pub fn handles(&self) -> Vec<SupervisorHandle> {
        let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
        handles.retain(|handle| !handle.has_ended());
        handles.clone()
    }
}

impl<B, P, W> fmt::Debug for HealLayer<B, P, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealLayer").field("handles", &self.handles()).finish_non_exhaustive()
    }
}

impl<S, B, F, P, W> Layer<S> for HealLayer<B, P, W>
where
    B: Fn(S) -> Supervisor<F>,
    F: Factory,
    P: Clone,
    W: Clone,
{
    type Service = Heal<F::Service, P, W>;

    fn layer(&self, inner: S) -> Self::Service {
        let supervisor = (self.supervise)(inner);
        let name = Arc::clone(&supervisor.name);
        let heal = match supervisor.spawn() {
            Ok((heal, handle)) => {
                let mut handles = self.handles.lock().unwrap_or_else(PoisonError::into_inner);
                // Whoever applies it for ever does not fill the memory.
                handles.retain(|handle| !handle.has_ended());
                handles.push(handle);
                heal
            }
            Err(error) => Heal::not_started(name, Arc::new(error)),
        };
        heal.policy(self.policy.clone()).watch(self.watch.clone())
    }
}
