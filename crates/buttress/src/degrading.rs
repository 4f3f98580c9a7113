use std::fmt;
use std::time::Duration;

use buttress_circuit_breaker::CircuitBreakerLayer;
use buttress_core::ConfigError;
use buttress_degrade::{Degrade, DegradeLayer};
use buttress_http::Http;
use tower_layer::Layer;

use crate::explain::Explanation;
use crate::stack::{HttpBuilder, HttpLayer, HttpService};

impl HttpBuilder {
    /// The stack, and above it what answers when it has failed: the outermost layer of all.
    ///
    /// The layer judges as the stack does, and reports to its observers beside its own. Its patience, unless it has been given one,
    /// is the stack's total and a second, so that the total's own error is what its rungs see; it also bounds how long the client
    /// may take to become ready. Where the stack is one for a vendor, the layer is [foreign](DegradeLayer::foreign).
    ///
    /// ```
    /// use buttress::degrade::{Chain, DegradeLayer, HttpRules, LastGood, Level};
    /// use buttress::http::{Answer, StoredResponse};
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// # use tower::{Layer, ServiceExt, service_fn};
    ///
    /// type Body = Full<Bytes>;
    ///
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// let chain = Chain::<Request<Body>, Response<Answer<Body>>>::new().finally(Level::Minimal, "static", |_| {
    ///     StoredResponse::from(Response::new(r#"{"results": []}"#))
    /// });
    /// let degrade = DegradeLayer::new("search", chain)?.last_good(LastGood::new(HttpRules::private()))?;
    /// let layer = buttress::http("search").build_degrading(degrade)?;
    /// println!("{}", layer.explain());
    /// # let client = service_fn(|_: Request<buttress::http::ReplayBody<Body>>| async {
    /// #     Err::<Response<Body>, _>(std::io::Error::other("down"))
    /// # });
    /// let client = layer.layer(client);
    /// // There is no error left to handle.
    /// let Ok(answer) = client.oneshot(Request::get("http://search.example/").body(Body::default())?).await;
    /// assert_eq!(answer.headers()["buttress-degradation"], "3; components=\"search\"");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`build`](HttpBuilder::build).
    pub fn build_degrading<C>(self, degrade: DegradeLayer<C>) -> Result<HttpDegradeLayer<C>, ConfigError>
    where
        C: fmt::Display,
    {
        let (http, observer, foreign) = (self.http(), self.observer(), self.is_foreign());
        let stack = self.build()?;
        let patience = stack.total().limit().saturating_add(Duration::from_secs(1));
        let degrade = if foreign { degrade.foreign() } else { degrade };
        let mut degrade = degrade.policy(http).default_patience(patience)?;
        if let Some(observer) = observer {
            degrade = degrade.observe(observer);
        }
        let explanation = stack.explain().clone().within(Some(("degrade", degrade.to_string())), None);
        Ok(HttpDegradeLayer { degrade, stack, explanation })
    }
}

/// A stack for one HTTP dependency beneath a chain of fallbacks; made by [`HttpBuilder::build_degrading`].
#[derive(Clone, Debug)]
pub struct HttpDegradeLayer<C> {
    degrade: DegradeLayer<C, Http>,
    stack: HttpLayer<CircuitBreakerLayer<Http>>,
    explanation: Explanation,
}

/// What [`HttpDegradeLayer`] makes of a client `S`.
pub type HttpDegradeService<S, C> = Degrade<HttpService<S>, C, Http>;

impl<C> HttpDegradeLayer<C> {
    /// What the layers do, one line each, and what looks wrong about them.
    pub fn explain(&self) -> &Explanation {
        &self.explanation
    }

    /// As [`DegradeLayer::shutdown`].
    pub async fn shutdown(&self, bound: Duration) -> usize {
        self.degrade.shutdown(bound).await
    }

    /// The stack beneath: its handles.
    pub fn stack(&self) -> &HttpLayer {
        &self.stack
    }
}

impl<S: Clone, C: Clone + 'static> Layer<S> for HttpDegradeLayer<C> {
    type Service = HttpDegradeService<S, C>;

    fn layer(&self, client: S) -> Self::Service {
        self.degrade.layer(self.stack.layer(client))
    }
}
