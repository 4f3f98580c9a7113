use std::borrow::Cow;
use std::sync::Arc;

use buttress_core::{CallKey, Carried};
use http::uri::Authority;
use http::{HeaderName, HeaderValue, Method, Request};

use super::keys::IDEMPOTENCY_KEY;
use crate::client::{IdempotencyKeyLayer, Stamp};
use crate::key::{derive, parse_key};

/// Clients: a key in the `Idempotency-Key` header of `POST` and `PATCH` requests.
///
/// A request that says that its key is elsewhere (`RequestExt::with_idempotency_key`) is left alone. Where a stamped request
/// comes through again for another authority, after a redirect that an outer layer follows or at a fallback's endpoint, it
/// gets a key that is derived for that one: a key never leaves the origin that it was made for. A client that follows
/// redirects below this layer sends the header on; let it follow none, or only those within the origin.
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

/// What was stamped, and for whom; in the extensions of the request, so that its copies know.
#[derive(Clone)]
struct Stamped {
    key: Arc<str>,
    authority: Option<Authority>,
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

    fn stamp(&self, request: &mut Request<B>, make: &dyn Fn() -> Arc<str>) {
        let authority = request.uri().authority().cloned();
        let has_key = request.headers().contains_key(&self.name);
        let key: Arc<str> = match request.extensions().get::<Stamped>() {
            Some(stamped) if has_key && stamped.authority == authority => return,
            Some(stamped) if has_key => {
                let place = authority.as_ref().map_or("", Authority::as_str);
                derive(&[place, &stamped.key]).into()
            }
            _ if has_key => return,
            _ => match request.extensions().get::<CallKey>() {
                Some(call) => call.get_or_make(make),
                None => make(),
            },
        };
        let Ok(mut value) = HeaderValue::from_str(&key) else { return };
        value.set_sensitive(true);
        request.headers_mut().insert(&self.name, value);
        let first = request.extensions().get::<Stamped>().is_none();
        if first {
            request.extensions_mut().insert(Stamped { key, authority });
        }
    }
}
