//! Places in a stack for layers of one's own.

use std::any::type_name;

use buttress_http::HttpWatch;
use tower_layer::Stack;

use super::HttpBuilder;

/// What a stack has beside its own layers.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots<A, C, W> {
    pub(super) per_attempt: A,
    pub(super) per_call: C,
    pub(super) watch: W,
    /// Their names, from the outside in.
    pub(super) attempts: Vec<&'static str>,
    pub(super) calls: Vec<&'static str>,
}

/// The last part of a type's name, without its parameters.
pub(crate) fn short_name<T>() -> &'static str {
    let name = type_name::<T>();
    let name = name.split('<').next().unwrap_or(name);
    name.rsplit("::").next().unwrap_or(name)
}

impl<A, C, W> HttpBuilder<A, C, W> {
    /// Puts this layer around each attempt: below the retry, above the circuit breaker, outermost first as in a `ServiceBuilder`.
    ///
    /// It is the place for what each attempt does anew or takes for itself: a signature or a token, a
    /// `tower::limit::ConcurrencyLimitLayer`, a span. What it refuses or fails in opens no circuit, and is retried as its error is
    /// judged: [`Judged`](buttress_core::Judged) says of an error of one's own what it means. Each attempt drives a clone of it
    /// ready; time that it needs for that, or in its `call` above the service inside, is no attempt's but the total's, and the
    /// first readiness of a call is nobody's. From the second attempt on, the request's
    /// [`Carried`](buttress_core::Carried) says which one it is.
    ///
    /// Requests are `http::Request<ReplayBody<B>>` here, and the service has to be `Clone`. What belongs below the attempt's
    /// deadline is put around the client itself.
    ///
    /// ```
    /// use buttress::http::ReplayBody;
    /// use bytes::Bytes;
    /// use http::{HeaderValue, Request, Response};
    /// use http_body_util::Full;
    /// use tower::limit::ConcurrencyLimitLayer;
    /// use tower::util::{BoxCloneSyncService, MapRequestLayer};
    /// use tower::{Layer, ServiceExt, service_fn};
    ///
    /// type Body = Full<Bytes>;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress::BoxError> {
    /// let sign = MapRequestLayer::new(|mut request: Request<ReplayBody<Body>>| {
    ///     request.headers_mut().insert("authorization", HeaderValue::from_static("signed just now"));
    ///     request
    /// });
    /// let layer = buttress::http("billing").per_attempt(ConcurrencyLimitLayer::new(64)).per_attempt(sign).build()?;
    /// println!("{}", layer.explain());
    /// # let client = service_fn(|request: Request<ReplayBody<Body>>| async move {
    /// #     assert_eq!(request.headers()["authorization"], "signed just now");
    /// #     Ok::<_, std::io::Error>(Response::new(Body::default()))
    /// # });
    /// // Unboxed, its type is `<HttpLayer<_, _> as Layer<_>>::Service`; boxed, it can be written down.
    /// let client: BoxCloneSyncService<Request<Body>, Response<Body>, buttress::BoxError> =
    ///     BoxCloneSyncService::new(layer.layer(client));
    /// client.oneshot(Request::get("http://billing.example/").body(Body::default())?).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn per_attempt<T>(mut self, layer: T) -> HttpBuilder<Stack<T, A>, C, W> {
        self.slots.attempts.push(short_name::<T>());
        self.with_slots(|Slots { per_attempt, per_call, watch, attempts, calls }| Slots {
            per_attempt: Stack::new(layer, per_attempt),
            per_call,
            watch,
            attempts,
            calls,
        })
    }

    /// Puts this layer around each call: above the total deadline, below a chain of fallbacks, outermost first.
    ///
    /// It is the place for what all attempts share: a key, a span, a deadline for bodies
    /// ([`BodyDeadlineLayer`](buttress_http::BodyDeadlineLayer)).
    ///
    /// ```
    /// use std::time::Duration;
    /// use buttress::http::BodyDeadlineLayer;
    ///
    /// # fn main() -> Result<(), buttress::ConfigError> {
    /// let bodies = BodyDeadlineLayer::new("reports", Duration::from_secs(60))?;
    /// let layer = buttress::http("reports").watch_bodies().per_call(bodies).build()?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn per_call<T>(mut self, layer: T) -> HttpBuilder<A, Stack<T, C>, W> {
        self.slots.calls.push(short_name::<T>());
        self.with_slots(|Slots { per_attempt, per_call, watch, attempts, calls }| Slots {
            per_attempt,
            per_call: Stack::new(layer, per_call),
            watch,
            attempts,
            calls,
        })
    }

    /// Gives each `POST` and `PATCH` an `Idempotency-Key` that all its attempts have, so that it is retried where the outcome is
    /// unknown, and the receiver knows a repetition: only for receivers that do. A key that the caller has set stays. Other methods,
    /// headers and keys: [`per_call`](HttpBuilder::per_call) with an
    /// [`IdempotencyKeyLayer`](buttress_idempotency::IdempotencyKeyLayer) of one's own.
    #[cfg(feature = "idempotency")]
    #[must_use]
    pub fn idempotency_key(
        self,
    ) -> HttpBuilder<A, Stack<buttress_idempotency::IdempotencyKeyLayer<buttress_idempotency::HeaderKey>, C>, W>
    {
        self.per_call(buttress_idempotency::IdempotencyKeyLayer::http())
    }

    /// Lets the circuit learn from bodies, too: a call is over with its body, and one that breaks off has failed; see [`HttpWatch`].
    /// Otherwise a call is over with its head. Bodies become [`WatchBody`](buttress_http::WatchBody)s.
    #[must_use]
    pub fn watch_bodies(self) -> HttpBuilder<A, C, HttpWatch> {
        self.with_slots(|Slots { per_attempt, per_call, attempts, calls, .. }| Slots {
            per_attempt,
            per_call,
            watch: HttpWatch,
            attempts,
            calls,
        })
    }

    fn with_slots<A2, C2, W2>(
        self,
        change: impl FnOnce(Slots<A, C, W>) -> Slots<A2, C2, W2>,
    ) -> HttpBuilder<A2, C2, W2> {
        let Self { name, http, vendor, replay, preset, total, attempt, retry, breaker, .. } = self;
        let Self { observers, silent, travels, mode, written, slots, .. } = self;
        let slots = change(slots);
        HttpBuilder {
            name,
            http,
            vendor,
            replay,
            preset,
            total,
            attempt,
            retry,
            breaker,
            observers,
            silent,
            travels,
            mode,
            written,
            slots,
        }
    }
}
