use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{Carried, Repeatable, Shared};
use http::Request;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::code::Codes;
use crate::grpc::field;
use crate::service_config::{Name, ServiceConfig};
use crate::timeout::{GRPC_TIMEOUT, parse_timeout};

/// Says to the layers below what is known of a call's method. Put it above all of them.
///
/// * The call's `grpc-timeout`, or the method's `timeout` if that is shorter, becomes its total time, in place of the total
///   deadline's own; as gRPC has it, it bounds the response's body, too.
/// * The method's retry policy becomes the call's: how often, after what delays, for which codes
///   ([`ByMethod`](crate::ByMethod) reads the list).
/// * A method with a retry policy, or one that [is named](ServiceConfig::repeatable), may be repeated.
///
/// What the request itself asks for ([`Carried`]) counts before that. It adds nothing to the cost of a call about whose method
/// nothing is known, and waits for nothing.
///
/// ```
/// use buttress_grpc::{CallLayer, ServiceConfig};
///
/// let layer = CallLayer::new(ServiceConfig::new().repeatable("helloworld.Greeter"));
/// # tower::ServiceBuilder::new().layer(layer);
/// ```
#[derive(Clone, Debug)]
pub struct CallLayer {
    config: Shared<ServiceConfig>,
}

impl CallLayer {
    /// With what this says of single methods.
    pub fn new(config: ServiceConfig) -> Self {
        Self { config: config.into() }
    }

    /// For a layer that lives as long as the process: what its services share is never freed, and their clones count no references
    /// for it. Each use of this method takes the memory of the configuration for good.
    #[must_use]
    pub fn leaked(self) -> Self {
        Self { config: self.config.leaked() }
    }
}

/// Knows no method.
impl Default for CallLayer {
    fn default() -> Self {
        Self::new(ServiceConfig::default())
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = Call<S>;

    fn layer(&self, inner: S) -> Call<S> {
        Call { inner, config: self.config.clone() }
    }
}

/// Says what is known of a call's method; made by [`CallLayer`].
#[derive(Clone, Debug)]
pub struct Call<S> {
    config: Shared<ServiceConfig>,
    // Cloned last, where it is to stay.
    inner: S,
}

/// What an attempt has to know of its call, in the request's extensions; nothing is noted where there is nothing to say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Known {
    /// The codes that are retried.
    pub(crate) codes: Option<Codes>,
    pub(crate) stream: bool,
    /// It is answered with one message.
    pub(crate) unary: bool,
    /// When the call, its response's body included, has to be over, and how long that was from its beginning.
    pub(crate) time: Option<(Instant, Duration)>,
}

impl<S> Call<S> {
    fn prepare<B>(&self, request: &mut Request<B>) {
        let path = request.uri().path();
        let (method, stream, unary, repeatable) = if self.config.is_only_repeatable(path) {
            (None, false, false, true)
        } else {
            let (config, name) = (&self.config, Name::of(path));
            (config.method(name), config.is_stream(name), config.is_unary(name), config.is_repeatable(name))
        };
        let asked = field(request.headers(), &GRPC_TIMEOUT).and_then(parse_timeout);
        let timeout = asked.into_iter().chain(method.and_then(|method| method.timeout)).min();
        let policy = method.and_then(|method| method.retry.as_ref());

        let known = Known {
            codes: policy.map(|policy| policy.codes),
            stream,
            unary,
            time: timeout.map(|timeout| (after(Instant::now(), timeout), timeout)),
        };
        if known != Known::default() {
            request.extensions_mut().insert(known);
        }
        if repeatable || policy.is_some() {
            request.extensions_mut().insert(Repeatable);
        }
        // Servers are told of the deadlines of a call that is answered with one message: let them travel.
        if timeout.is_none() && policy.is_none() && !known.unary {
            return;
        }
        let carried: &mut Carried = request.extensions_mut().get_or_insert_default();
        carried.time_limit = shorter(carried.time_limit, timeout);
        if let Some(policy) = policy {
            carried.max_retries.get_or_insert(policy.max_retries);
            carried.backoff.get_or_insert_with(|| Arc::clone(&policy.backoff));
        }
    }
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

impl<S, B> Service<Request<B>> for Call<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> S::Future {
        self.prepare(&mut request);
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{ "methodConfig": [{
        "name": [{ "service": "a.B", "method": "Put" }],
        "timeout": "5s",
        "retryPolicy": { "maxAttempts": 3, "initialBackoff": "1s", "maxBackoff": "9s", "backoffMultiplier": 2,
                         "retryableStatusCodes": ["UNAVAILABLE"] }
    }]}"#;

    fn prepared(request: http::request::Builder) -> Request<()> {
        let config = ServiceConfig::from_json(CONFIG).unwrap().repeatable("a.B/Get").stream("a.B/Watch");
        let call = CallLayer::new(config).layer(());
        let mut request = request.body(()).unwrap();
        call.prepare(&mut request);
        request
    }

    fn is_repeatable(request: &Request<()>) -> bool {
        request.extensions().get::<Repeatable>().is_some()
    }

    fn carried_by(request: &Request<()>) -> Carried {
        request.extensions().get().cloned().unwrap_or_default()
    }

    #[tokio::test(start_paused = true)]
    async fn a_methods_policy_becomes_the_calls() {
        let request = prepared(Request::post("/a.B/Put"));
        let carried = carried_by(&request);
        let backoff = carried.backoff.as_ref().unwrap().to_string();
        assert_eq!(backoff, "1 s × 2 up to 9 s, ± 20 %");
        assert_eq!((is_repeatable(&request), carried.max_retries), (true, Some(2)));
        assert_eq!(carried.time_limit, Some(Duration::from_secs(5)));
        let known = request.extensions().get::<Known>().unwrap();
        assert_eq!(known.time, Some((Instant::now() + Duration::from_secs(5), Duration::from_secs(5))));
        assert_eq!(format!("{:?}", known.codes.unwrap()), "{Unavailable}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_shorter_timeout_counts_and_what_the_request_asks_for() {
        let limit =
            |timeout: &str| carried_by(&prepared(Request::post("/a.B/Put").header("grpc-timeout", timeout)));
        assert_eq!(limit("2S").time_limit, Some(Duration::from_secs(2)));
        assert_eq!(limit("20S").time_limit, Some(Duration::from_secs(5)));
        assert_eq!(limit("soon").time_limit, Some(Duration::from_secs(5)));
        let mut own = Carried::default();
        own.max_retries = Some(0);
        own.time_limit = Some(Duration::from_secs(1));
        let carried = carried_by(&prepared(Request::post("/a.B/Put").extension(own)));
        assert_eq!((carried.max_retries, carried.time_limit), (Some(0), Some(Duration::from_secs(1))));
        let other = carried_by(&prepared(Request::post("/a.B/Other").header("grpc-timeout", "3S")));
        assert_eq!(other.time_limit, Some(Duration::from_secs(3)));
    }

    #[test]
    fn of_a_method_that_is_not_named_nothing_is_noted() {
        let request = prepared(Request::post("/a.B/Other"));
        assert!(request.extensions().is_empty());
        assert!(!is_repeatable(&request));
        let get = prepared(Request::post("/a.B/Get"));
        assert!(is_repeatable(&get) && get.extensions().get::<Carried>().is_none());
        let watch = prepared(Request::post("/a.B/Watch"));
        assert!(watch.extensions().get::<Known>().unwrap().stream && !is_repeatable(&watch));
    }

    #[test]
    fn deadlines_travel_with_a_call_that_is_answered_with_one_message() {
        let call = CallLayer::new(ServiceConfig::new().unary("a.B/Get")).layer(());
        let mut request = Request::post("/a.B/Get").body(()).unwrap();
        call.prepare(&mut request);
        assert_eq!(request.extensions().get(), Some(&Carried::default()));
    }
}
