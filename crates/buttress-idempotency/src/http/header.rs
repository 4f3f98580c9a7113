use std::borrow::Cow;

use buttress_core::Carried;
use buttress_http::{CallKey, Origin};
use http::{HeaderName, HeaderValue, Method, Request};

use super::keys::IDEMPOTENCY_KEY;
use crate::client::{IdempotencyKeyLayer, Stamp};
use crate::error::InvalidKey;
use crate::key::{derive, parse_key};

/// Clients: a key in the `Idempotency-Key` header of `POST` and `PATCH` requests.
///
/// A request that says that its key is elsewhere (`RequestExt::with_idempotency_key`) is left alone. A key never leaves the
/// [origin](buttress_http::Origin) that it was made for, or that the caller set it for: where the request comes through again
/// for another one, after a redirect that an outer layer follows or at a fallback's endpoint, it gets a key that is derived for
/// that, the same at every attempt; back at its own it has its own again. A client that follows redirects below this layer
/// sends the header on; let it follow none, or only those within the origin.
///
/// A key that was [made](IdempotencyKeyLayer::made_by) and is none for [`parse_key`](crate::parse_key) fails the call with
/// [`Error::KeyInvalid`](crate::Error::KeyInvalid), and nothing is sent.
#[derive(Clone, Debug)]
pub struct HeaderKey {
    name: HeaderName,
    methods: Vec<Method>,
}

impl Default for HeaderKey {
    fn default() -> Self {
        Self { name: IDEMPOTENCY_KEY, methods: vec![Method::POST, Method::PATCH] }
    }
}

impl HeaderKey {
    /// `Idempotency-Key` for `POST` and `PATCH`.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same key in a header of another name.
    #[must_use]
    pub fn named(mut self, name: HeaderName) -> Self {
        self.name = name;
        self
    }

    /// The methods that get a key.
    #[must_use]
    pub fn methods(mut self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.methods = methods.into_iter().collect();
        self
    }
}

impl IdempotencyKeyLayer<HeaderKey> {
    /// `Idempotency-Key` for `POST` and `PATCH`, a UUID of version 7.
    ///
    /// ```
    /// use buttress_idempotency::IdempotencyKeyLayer;
    /// use http::Request;
    /// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), buttress_core::BoxError> {
    /// let mut client = ServiceBuilder::new()
    ///     .layer(IdempotencyKeyLayer::http())
    ///     // a retry, a circuit breaker, …
    ///     .service(service_fn(|request: Request<()>| async move {
    ///         Ok::<_, std::io::Error>(request.headers()["idempotency-key"].clone())
    ///     }));
    /// let request = Request::post("https://api.example.com/charges").body(())?;
    /// assert_eq!(client.ready().await?.call(request).await?.len(), 36);
    /// # Ok(())
    /// # }
    /// ```
    pub fn http() -> Self {
        Self::new(HeaderKey::new())
    }
}

/// The key of the call, and what of it was put into the header; in the extensions of the request, so that its copies know.
#[derive(Clone)]
struct Stamped {
    call: CallKey,
    sent: HeaderValue,
}

impl<B> Stamp<Request<B>> for HeaderKey {
    fn stamped<'a>(&self, request: &'a Request<B>) -> Option<Cow<'a, str>> {
        let key = request.headers().get(&self.name)?;
        // What is no key is the caller's own affair, and is sent as it is.
        Some(parse_key(key.as_bytes()).map_or(Cow::Borrowed(""), Cow::Owned))
    }

    fn wants_key(&self, request: &Request<B>) -> bool {
        let elsewhere =
            request.extensions().get::<Carried>().is_some_and(|carried| carried.idempotency_key.is_some());
        self.methods.contains(request.method()) && !elsewhere && !request.headers().contains_key(&self.name)
    }

    fn stamp(&self, request: &mut Request<B>, make: &dyn Fn() -> String) -> Result<(), InvalidKey> {
        let here = Origin::of(request.uri());
        let there = request.headers().get(&self.name);
        let call = match (request.extensions().get::<Stamped>(), there) {
            // Whoever follows redirects may have taken it off.
            (Some(stamped), None) => stamped.call.clone(),
            (Some(stamped), Some(there)) if *there == stamped.sent => stamped.call.clone(),
            (_, Some(_)) => CallKey::default(),
            (None, None) => request.extensions().get().cloned().unwrap_or_default(),
        };
        let (key, origin) = match (call.get(), there) {
            (Some(known), _) => known,
            (None, Some(own)) => call.get_or_set(own.clone(), here.clone()),
            (None, None) => call.get_or_set(header_value(make())?, here.clone()),
        };
        let sent = if *origin == here {
            key.clone()
        } else {
            let mut derived = header_value(derive(&[here.to_string().as_bytes(), key.as_bytes()]))?;
            derived.set_sensitive(true);
            derived
        };
        request.headers_mut().insert(&self.name, sent.clone());
        request.extensions_mut().insert(Stamped { call, sent });
        Ok(())
    }
}

fn header_value(key: String) -> Result<HeaderValue, InvalidKey> {
    parse_key(key.as_bytes())?;
    HeaderValue::try_from(key).map_err(|_| InvalidKey::Malformed)
}
