use std::fmt;
use std::sync::Arc;

use buttress_core::{BoxError, Carried, Repeatable, Replay};
use http::{Extensions, HeaderName, HeaderValue, Method, Request, Version};
use http_body::Body;

use crate::call_key::CallKey;
use crate::kept_uri::KeptUri;
use crate::recording::Pool;
use crate::replay_body::ReplayBody;

/// Keeps HTTP requests so that they can be sent again.
///
/// The service inside is called with a [`ReplayBody`], which records the body while it is sent: at most 64 KiB of each
/// request and 16 MiB of all together. A larger one is sent once, unless it is in memory already: what is there as one
/// piece is kept whatever its size, since that costs nothing.
///
/// A request may be repeated although it may have been applied if its method is idempotent (RFC 9110 § 9.2.2: GET, HEAD,
/// OPTIONS, TRACE, PUT, DELETE), or if it has an idempotency key: an `Idempotency-Key` header, or
/// [`Carried::idempotency_key`] in its extensions, which is how a client says that the key is elsewhere, for instance in
/// the body. A client may also say so of a request that only reads ([`Carried::repeatable`], [`Repeatable`]).
///
/// ```
/// use buttress_core::Replay;
/// use buttress_http::{HttpReplay, RequestExt};
/// use bytes::Bytes;
/// use http::Request;
/// use http_body_util::Full;
///
/// let replay = HttpReplay::new();
/// let post = Request::post("https://events.pagerduty.com/v2/enqueue").body(Full::<Bytes>::from("{}")).unwrap();
/// assert!(!replay.is_repeatable(&post));
/// assert!(replay.is_repeatable(&post.with_idempotency_key("incident-42")));
/// ```
#[derive(Clone, Debug)]
pub struct HttpReplay {
    per_request: usize,
    pool: Arc<Pool>,
    methods: Methods,
    /// Whether the attempts of a call share a [`CallKey`].
    keys: bool,
    ahead: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Methods {
    Idempotent,
    Safe,
    All,
}

/// `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl HttpReplay {
    /// Idempotent methods, 64 KiB per request, 16 MiB in all.
    pub fn new() -> Self {
        Self {
            per_request: 64 * 1024,
            pool: Arc::new(Pool::new(16 * 1024 * 1024)),
            methods: Methods::Idempotent,
            keys: true,
            ahead: false,
        }
    }

    /// Records at most so many bytes of each request, and of all requests of this value and its clones together.
    /// Default 64 KiB and 16 MiB.
    #[must_use]
    pub fn limits(self, per_request: usize, total: usize) -> Self {
        Self { per_request, pool: Arc::new(Pool::new(total)), ..self }
    }

    /// Takes only the safe methods (GET, HEAD, OPTIONS, TRACE) for repeatable without a key.
    #[must_use]
    pub fn safe_only(self) -> Self {
        Self { methods: Methods::Safe, ..self }
    }

    /// Takes every request for repeatable: for an API whose requests are all idempotent, or carry a token in their body
    /// (AWS).
    #[must_use]
    pub fn every_method(self) -> Self {
        Self { methods: Methods::All, ..self }
    }

    /// For a protocol that has no `Idempotency-Key` (gRPC): the attempts of a call share no [`CallKey`], so that a layer of
    /// keys inside of the retry would make one for each of them.
    #[must_use]
    pub fn without_keys(self) -> Self {
        Self { keys: false, ..self }
    }

    /// Polls a body whose length is not known once or twice before the request is sent: one that is ready, and ends with its
    /// first frame, is in memory as a whole. Default `false`: whoever sends the request polls it first.
    #[must_use]
    pub fn read_ahead(self, read: bool) -> Self {
        Self { ahead: read, ..self }
    }
}

impl Default for HttpReplay {
    fn default() -> Self {
        Self::new()
    }
}

/// A kept request. Its `Debug` shows no header and no body.
pub struct Saved<B> {
    method: Method,
    uri: KeptUri,
    version: Version,
    /// A list takes less than a map does, and the next attempt is rare.
    headers: Vec<(HeaderName, HeaderValue)>,
    extensions: Extensions,
    body: ReplayBody<B>,
}

impl<B> fmt::Debug for Saved<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Saved({} {:?})", self.method, self.body)
    }
}

impl<B> Replay<Request<B>> for HttpReplay
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Request = Request<ReplayBody<B>>;
    type Saved = Saved<B>;

    fn is_repeatable(&self, request: &Request<B>) -> bool {
        let method = match self.methods {
            Methods::All => true,
            Methods::Safe => is_safe(request.method()),
            Methods::Idempotent => is_idempotent(request.method()),
        };
        method || is_said_to_be_repeatable(request)
    }

    fn once(&self, request: Request<B>) -> Self::Request {
        request.map(ReplayBody::unrecorded)
    }

    fn record(&self, request: Request<B>) -> Self::Request {
        // First of all: a request is large, and moved once more if it is changed before.
        let mut request = if self.ahead {
            request.map(|body| ReplayBody::ahead(body, self.per_request, &self.pool))
        } else {
            request.map(|body| ReplayBody::new(body, self.per_request, &self.pool))
        };
        // A layer inside this retry may make a key: the next attempt has to find it, whatever it is that lets it be made.
        if self.keys && !is_safe(request.method()) && !has_key(&request) {
            request.extensions_mut().get_or_insert_default::<CallKey>();
        }
        request
    }

    fn keep(&self, request: &Self::Request) -> Saved<B> {
        let headers = request.headers();
        let mut kept = Vec::with_capacity(headers.len());
        kept.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        Saved {
            method: request.method().clone(),
            uri: KeptUri::new(request.uri()),
            version: request.version(),
            headers: kept,
            extensions: request.extensions().clone(),
            body: request.body().fork(),
        }
    }

    fn replay(&self, saved: &mut Saved<B>) -> Option<Self::Request> {
        let mut request = Request::new(saved.body.restarted()?);
        *request.method_mut() = saved.method.clone();
        *request.uri_mut() = saved.uri.restored();
        *request.version_mut() = saved.version;
        for (name, value) in &saved.headers {
            request.headers_mut().append(name.clone(), value.clone());
        }
        *request.extensions_mut() = saved.extensions.clone();
        Some(request)
    }
}

fn has_key<B>(request: &Request<B>) -> bool {
    let carried = request.extensions().get::<Carried>();
    carried.is_some_and(|carried| carried.idempotency_key.is_some())
        || request.headers().get(IDEMPOTENCY_KEY).is_some_and(|key| !key.is_empty())
}

/// By a key, or by the caller.
pub(crate) fn is_said_to_be_repeatable<B>(request: &Request<B>) -> bool {
    let extensions = request.extensions();
    // What a layer has said is found sooner than a header.
    extensions.get::<Repeatable>().is_some()
        || extensions.get::<Carried>().is_some_and(|carried| carried.repeatable)
        || has_key(request)
}

/// RFC 9110 § 9.2.2.
pub(crate) fn is_idempotent(method: &Method) -> bool {
    is_safe(method) || matches!(*method, Method::PUT | Method::DELETE)
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};

    fn request(builder: http::request::Builder) -> Request<Full<Bytes>> {
        builder.uri("/x").body(Full::from("body")).unwrap()
    }

    fn repeatable(replay: &HttpReplay) -> Vec<&'static str> {
        let methods = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "POST", "PATCH", "CONNECT"];
        let is_repeatable =
            |method: &&str| replay.is_repeatable(&request(Request::builder().method(*method)));
        methods.into_iter().filter(is_repeatable).collect()
    }

    /// R-16, methods
    #[test]
    fn only_safe_or_idempotent_methods_may_be_applied_twice() {
        assert_eq!(repeatable(&HttpReplay::new()), ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]);
        assert_eq!(repeatable(&HttpReplay::new().safe_only()), ["GET", "HEAD", "OPTIONS", "TRACE"]);
        assert_eq!(repeatable(&HttpReplay::new().every_method()).len(), 9);
    }

    #[test]
    fn a_key_makes_any_request_repeatable() {
        let replay = HttpReplay::new().safe_only();
        assert!(replay.is_repeatable(&request(Request::post("/x").header("idempotency-key", "k1"))));
        assert!(!replay.is_repeatable(&request(Request::post("/x").header("idempotency-key", ""))), "no key");
        let mut carried = Carried::default();
        carried.idempotency_key = Some("k1".into());
        assert!(replay.is_repeatable(&request(Request::post("/x").extension(carried))));
    }

    #[test]
    fn attempts_share_a_key_where_a_layer_inside_may_make_one() {
        let shared = |replay: HttpReplay, builder: http::request::Builder| {
            replay.save(request(builder)).0.extensions().get::<CallKey>().is_some()
        };
        for replay in [HttpReplay::new(), HttpReplay::new().every_method()] {
            assert!(shared(replay.clone(), Request::post("/x")));
            assert!(shared(replay.clone(), Request::post("/x").extension(Repeatable)));
            assert!(shared(replay.clone(), Request::delete("/x")), "the method does not make it one effect");
            assert!(!shared(replay.clone(), Request::get("/x")));
            assert!(!shared(replay.clone(), Request::post("/x").header("idempotency-key", "k1")));
            assert!(!shared(replay.without_keys(), Request::post("/x")));
        }
    }

    #[tokio::test]
    async fn a_replay_is_the_whole_request_with_its_extensions() {
        #[derive(Clone, Debug, PartialEq)]
        struct Mark(u32);
        let replay = HttpReplay::new();
        let request =
            Request::put("http://x/y?z").version(http::Version::HTTP_2).header("a", "1").header("a", "2");
        let request = request.extension(Mark(7)).body(Full::<Bytes>::from("body")).unwrap();
        let once = replay.once(request.clone());
        let (first, mut saved) = replay.save(request);
        for request in [once, first, replay.replay(&mut saved).unwrap(), replay.replay(&mut saved).unwrap()] {
            assert_eq!(
                (request.method(), request.uri().to_string()),
                (&Method::PUT, "http://x/y?z".to_owned())
            );
            assert_eq!((request.version(), request.headers().len()), (http::Version::HTTP_2, 2));
            assert_eq!(request.extensions().get(), Some(&Mark(7)));
            assert_eq!(request.into_body().collect().await.unwrap().to_bytes(), "body");
        }
    }

    #[test]
    fn what_is_kept_prints_no_secret() {
        let request = request(Request::post("/x?key=secret").header("authorization", "secret"));
        let (_, saved) = HttpReplay::new().save(request);
        assert_eq!(format!("{saved:?}"), "Saved(POST ReplayBody(4 bytes in memory))");
    }
}
