use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_circuit_breaker::{CircuitBreakerLayer, KeyedCircuitBreakerLayer};
use buttress_core::{ConfigError, Observe};
use buttress_degrade::{Degrade, DegradeLayer};
use buttress_http::Http;
use tower_layer::Layer;

use crate::explain::Explanation;
use crate::live::StackHandle;
use crate::stack::{HttpBuilder, HttpLayer, HttpService};

type OneCircuit<A, C, W> = HttpLayer<CircuitBreakerLayer<Http, W>, A, C>;
type PerHost<A, C, W> = HttpLayer<KeyedCircuitBreakerLayer<Http, W>, A, C>;

impl<A, C, W> HttpBuilder<A, C, W> {
    /// The stack, and above it what answers when it has failed: the outermost layer of all.
    ///
    /// The layer judges as the stack does, and reports to its observers beside its own. Its patience, unless it has been given one,
    /// is the stack's total and a second, so that the total's own error is what its rungs see; it also bounds how long the client
    /// may take to become ready. Where the stack is one for a vendor, the layer is [foreign](DegradeLayer::foreign).
    ///
    /// ```
    /// use buttress::degrade::{Chain, DegradeLayer, HttpRules, LastGood, Level};
    /// use buttress::http::{Answer, ReplayBody, StoredResponse};
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use hyper::body::Incoming;
    /// use hyper_util::client::legacy::{Client, connect::HttpConnector};
    /// use hyper_util::rt::TokioExecutor;
    /// use tower::{Layer, ServiceExt};
    ///
    /// type Asked = Full<Bytes>;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// // Of requests as the caller makes them, and of the client's answers with `Answer` around their bodies.
    /// let chain = Chain::<Request<Asked>, Response<Answer<Incoming>>>::new().finally(Level::Minimal, "static", |_| {
    ///     StoredResponse::from(Response::new(r#"{"results": []}"#))
    /// });
    /// let degrade = DegradeLayer::new("search", chain)?.last_good(LastGood::new(HttpRules::private()))?;
    /// let layer = buttress::http("search").build_degrading(degrade)?;
    /// println!("{}", layer.explain());
    /// let client: Client<HttpConnector, ReplayBody<Asked>> = Client::builder(TokioExecutor::new()).build_http();
    /// let client = layer.layer(client);
    /// // Nobody listens there. There is no error left to handle.
    /// let Ok(answer) = client.oneshot(Request::get("http://127.0.0.1:1/?q=x").body(Asked::default())?).await;
    /// assert_eq!(answer.headers()["buttress-degradation"], "3; components=\"search\"");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`build`](HttpBuilder::build).
    pub fn build_degrading<Ch>(
        self,
        degrade: DegradeLayer<Ch>,
    ) -> Result<HttpDegradeLayer<Ch, OneCircuit<A, C, W>>, ConfigError>
    where
        Ch: fmt::Display,
        W: Clone,
    {
        let above = Above::of(&self, degrade);
        let stack = self.build()?;
        above.build(stack.handle(), stack)
    }

    /// As [`build_degrading`](HttpBuilder::build_degrading), with one circuit for each host.
    ///
    /// # Errors
    ///
    /// As [`build`](HttpBuilder::build).
    pub fn build_degrading_per_host<Ch>(
        self,
        degrade: DegradeLayer<Ch>,
    ) -> Result<HttpDegradeLayer<Ch, PerHost<A, C, W>>, ConfigError>
    where
        Ch: fmt::Display,
        W: Clone,
    {
        let above = Above::of(&self, degrade);
        let stack = self.build_per_host()?;
        above.build(stack.handle(), stack)
    }
}

/// What goes above a stack, as far as it is known before that is built.
struct Above<Ch> {
    degrade: DegradeLayer<Ch, Http>,
    observer: Option<Arc<dyn Observe>>,
}

impl<Ch: fmt::Display> Above<Ch> {
    fn of<A, C, W>(builder: &HttpBuilder<A, C, W>, degrade: DegradeLayer<Ch>) -> Self {
        let degrade = if builder.is_foreign() { degrade.foreign() } else { degrade };
        Self { degrade: degrade.policy(builder.http()), observer: builder.observer() }
    }

    fn build<T>(self, handle: StackHandle, stack: T) -> Result<HttpDegradeLayer<Ch, T>, ConfigError> {
        let patience = handle.total().limit().saturating_add(Duration::from_secs(1));
        let mut degrade = self.degrade.default_patience(patience)?;
        if let Some(observer) = self.observer {
            degrade = degrade.observe(observer);
        }
        Ok(HttpDegradeLayer { says: degrade.to_string().into(), degrade, stack, handle })
    }
}

/// A stack for one HTTP dependency beneath a chain of fallbacks; made by [`HttpBuilder::build_degrading`].
///
/// The patience of the chain stays as it was built: of a total that is raised later, no more than that counts.
#[derive(Clone, Debug)]
pub struct HttpDegradeLayer<C, T = HttpLayer> {
    degrade: DegradeLayer<C, Http>,
    stack: T,
    says: Arc<str>,
    handle: StackHandle,
}

/// What [`HttpDegradeLayer`] makes of a client `S`.
pub type HttpDegradeService<S, C> = Degrade<HttpService<S>, C, Http>;

impl<C, T> HttpDegradeLayer<C, T> {
    /// What the layers do now, one line each, and what looks wrong about them.
    pub fn explain(&self) -> Explanation {
        self.handle.explain().within(Some(("degrade", self.says.to_string())), None)
    }

    /// Lists and controls the layers of the stack beneath.
    pub fn handle(&self) -> StackHandle {
        self.handle.clone()
    }

    /// As [`DegradeLayer::shutdown`].
    pub async fn shutdown(&self, bound: Duration) -> usize {
        self.degrade.shutdown(bound).await
    }

    /// The stack beneath: its handles.
    pub fn stack(&self) -> &T {
        &self.stack
    }
}

impl<S, C, T> Layer<S> for HttpDegradeLayer<C, T>
where
    C: Clone + 'static,
    T: Layer<S>,
{
    type Service = Degrade<T::Service, C, Http>;

    fn layer(&self, client: S) -> Self::Service {
        self.degrade.layer(self.stack.layer(client))
    }
}
