use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use buttress_core::{BoxError, Capture};
use buttress_http::{Answer, HttpCapture, Problem, StoredResponse};
use buttress_store::Record;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body;

use super::body::RequestBody;
use super::identify::Identified;
use super::outcome::Preset;
use super::recording::Recording;
use crate::error::Error;
use crate::key::{Claim, Hash};
use crate::outcome::{Outcome, Reconciled};
use crate::protocol::{Identify, Protocol};
use crate::tasks::BoxFuture;

/// `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header).
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// On an answer that was given before, as Stripe has it.
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// On an answer that will not be given again, because the store failed.
const UNPROTECTED: HeaderName = HeaderName::from_static("idempotent-unprotected");

/// Servers: `POST` and `PATCH` requests with an `Idempotency-Key` are carried out once.
///
/// | | status, as RFC 9457 problem details |
/// |---|---|
/// | the key is missing where it is [required](HttpKeys::required), empty, over 255 bytes, has characters other than printable ASCII, or comes twice | 400 |
/// | the same request is under way | 409, with `Retry-After` |
/// | an earlier attempt is unknown and must not be repeated; its answer could not be kept | 409, without |
/// | the request's body is over the [cap](HttpKeys::max_request_body) | 413 |
/// | the key was used for another method, path or body | 422 |
/// | the store failed, or too much is under way | 503, with `Retry-After` |
///
/// A stored answer is given again with its status, its headers (but hop-by-hop ones and `Date`), its body and
/// `Idempotent-Replayed: true`. The first answer streams; only its end waits until it is stored.
///
/// What is compared is the method, the path and query, and the body; other headers do not count. Which answers are stored
/// is the preset's: [`http_default`](HttpKeys::http_default), [`stripe_v1`](HttpKeys::stripe_v1) or
/// [`success_only`](HttpKeys::success_only).
///
/// **Set a [scope](HttpKeys::scope)** where callers do not trust each other: without one, whoever guesses a key and repeats its
/// request gets the answer of another. Put the layer inside of authentication and rate limits, so that what those refuse
/// claims nothing.
#[derive(Clone)]
pub struct HttpKeys {
    pub(super) shared: Arc<Shared>,
}

#[derive(Clone)]
pub(super) struct Shared {
    methods: Vec<Method>,
    required: bool,
    pub(super) scope: Option<ScopeFn>,
    pub(super) fingerprint: Option<FingerprintFn>,
    pub(super) canonical_json: bool,
    pub(super) max_request_body: usize,
    pub(super) pass_larger: bool,
    pub(super) capture: HttpCapture,
    preset: Preset,
    judge: Option<JudgeFn>,
    mismatch: StatusCode,
    reconcile: Option<ReconcileFn>,
}

type ScopeFn = Arc<dyn for<'a> Fn(&'a Parts) -> Cow<'a, str> + Send + Sync>;
type FingerprintFn = Arc<dyn Fn(&Parts, &[u8], Hash) -> Hash + Send + Sync>;
type JudgeFn = Arc<dyn Fn(StatusCode, &HeaderMap) -> Option<Outcome> + Send + Sync>;
type ReconcileFn =
    Arc<dyn Fn(Claim) -> BoxFuture<Result<Reconciled<Response<Bytes>>, BoxError>> + Send + Sync>;

impl fmt::Debug for HttpKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { methods, required, preset, max_request_body, .. } = &*self.shared;
        f.debug_struct("HttpKeys")
            .field("methods", methods)
            .field("required", required)
            .field("preset", preset)
            .field("max_request_body", max_request_body)
            .finish_non_exhaustive()
    }
}

impl Default for HttpKeys {
    fn default() -> Self {
        Self::http_default()
    }
}

impl HttpKeys {
    fn new(preset: Preset) -> Self {
        let shared = Shared {
            methods: vec![Method::POST, Method::PATCH],
            required: false,
            scope: None,
            fingerprint: None,
            canonical_json: false,
            max_request_body: 1024 * 1024,
            pass_larger: false,
            capture: HttpCapture::default(),
            preset,
            judge: None,
            mismatch: StatusCode::UNPROCESSABLE_ENTITY,
            reconcile: None,
        };
        Self { shared: Arc::new(shared) }
    }

    /// 2xx, 3xx, 4xx and 500 are stored; 408, 409, 425 and 429 free the key; 502, 503, 504 and errors are unknown.
    pub fn http_default() -> Self {
        Self::new(Preset::HttpDefault)
    }

    /// Every answer is stored, 500 and 503 included, as version 1 of Stripe's API does once execution has begun; errors are
    /// unknown.
    pub fn stripe_v1() -> Self {
        Self::new(Preset::StripeV1)
    }

    /// 2xx and 3xx are stored; all else frees the key, so that the next request tries again: for handlers that can be
    /// repeated until they succeed.
    pub fn success_only() -> Self {
        Self::new(Preset::SuccessOnly)
    }

    fn with(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        change(Arc::make_mut(&mut self.shared));
        self
    }

    /// The methods that are guarded. `POST` and `PATCH` by default: the others are idempotent by themselves.
    #[must_use]
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        self.with(|shared| shared.methods = methods.into_iter().collect())
    }

    /// Refuses guarded requests without a key with 400; by default they are carried out as they are.
    #[must_use]
    pub fn required(self) -> Self {
        self.with(|shared| shared.required = true)
    }

    /// Within what a key is unique: the tenant or account that an outer layer has authenticated and put into the extensions.
    #[must_use]
    pub fn scope(self, scope: impl for<'a> Fn(&'a Parts) -> Cow<'a, str> + Send + Sync + 'static) -> Self {
        self.with(|shared| shared.scope = Some(Arc::new(scope)))
    }

    /// Compares JSON bodies by what they say: without spaces, the order of keys and the escapes of strings.
    #[must_use]
    pub fn canonical_json(self) -> Self {
        self.with(|shared| shared.canonical_json = true)
    }

    /// Compares this instead of method, path, query and body.
    #[must_use]
    pub fn fingerprint(self, hash: impl Fn(&Parts, &[u8], Hash) -> Hash + Send + Sync + 'static) -> Self {
        self.with(|shared| shared.fingerprint = Some(Arc::new(hash)))
    }

    /// The largest request body, in bytes; 1 MiB by default. It is read as a whole before anything is claimed.
    #[must_use]
    pub fn max_request_body(self, bytes: usize) -> Self {
        self.with(|shared| shared.max_request_body = bytes)
    }

    /// Carries requests over the cap out, unclaimed and as they stream, instead of refusing them with 413: a repetition of such
    /// a one is carried out again. Their responses say so (`Idempotent-Unprotected: true`).
    #[must_use]
    pub fn pass_larger(self) -> Self {
        self.with(|shared| shared.pass_larger = true)
    }

    /// The largest response body that is stored, in bytes; 1 MiB by default. A larger one is delivered, and whoever asks
    /// again gets 409.
    #[must_use]
    pub fn max_response_body(self, bytes: usize) -> Self {
        self.with(|shared| shared.capture = HttpCapture::up_to(bytes))
    }

    /// What a response says about the effect, where it differs from the preset.
    #[must_use]
    pub fn judge(
        self,
        judge: impl Fn(StatusCode, &HeaderMap) -> Option<Outcome> + Send + Sync + 'static,
    ) -> Self {
        self.with(|shared| shared.judge = Some(Arc::new(judge)))
    }

    /// The status for a key that was used for another request: 422 by default, 400 as Stripe has it, or 409.
    #[must_use]
    pub fn mismatch(self, status: StatusCode) -> Self {
        self.with(|shared| shared.mismatch = status)
    }

    /// Looks whether a request was carried out whose earlier attempt left that unknown.
    #[must_use]
    pub fn reconcile<F>(self, look: impl Fn(Claim) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Reconciled<Response<Bytes>>, BoxError>> + Send + 'static,
    {
        self.with(|shared| shared.reconcile = Some(Arc::new(move |claim| Box::pin(look(claim)))))
    }

    fn outcome(&self, status: StatusCode, headers: &HeaderMap) -> Outcome {
        let judged = self.shared.judge.as_ref().and_then(|judge| judge(status, headers));
        judged.unwrap_or_else(|| self.shared.preset.of(status))
    }
}

impl<B> Identify<Request<B>> for HttpKeys
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Request = Request<RequestBody<B>>;
    type Identified = Identified<B>;

    fn is_guarded(&self, request: &Request<B>) -> bool {
        let Shared { methods, required, .. } = &*self.shared;
        methods.contains(request.method()) && (*required || request.headers().contains_key(IDEMPOTENCY_KEY))
    }

    fn pass(&self, request: Request<B>) -> Self::Request {
        request.map(RequestBody::passing)
    }

    fn identify(&self, request: Request<B>) -> Identified<B> {
        Identified::new(self.clone(), request)
    }

    fn attach(&self, request: &mut Self::Request, claim: Claim) {
        request.extensions_mut().insert(claim);
    }
}

impl<B, E> Protocol<Response<B>, E> for HttpKeys
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answer<B>>;
    type Error = E;
    type Recording = Recording<B>;

    fn judge(&self, answer: Result<Response<B>, E>) -> (Outcome, Result<Response<B>, E>) {
        let outcome = match &answer {
            Ok(response) => self.outcome(response.status(), response.headers()),
            Err(_) => self.shared.preset.of_error(),
        };
        (outcome, answer)
    }

    fn fail(&self, error: E) -> E {
        error
    }

    fn capture(&self, response: Response<B>) -> (Self::Response, Recording<B>) {
        let (live, recording) = self.shared.capture.capture(response);
        (live, Recording::new(recording))
    }

    fn is_abandoned(&self, recording: &Recording<B>) -> bool {
        recording.is_abandoned()
    }

    fn unstored(&self, response: Response<B>, unprotected: bool) -> Self::Response {
        let mut response = HttpCapture::pass(response);
        if unprotected {
            response.headers_mut().insert(UNPROTECTED, HeaderValue::from_static("true"));
        }
        response
    }

    fn restore(&self, record: &Record) -> Result<Self::Response, Error> {
        let stored = match record {
            Record::Value(bytes) => StoredResponse::decode(bytes.clone()),
            Record::TooLarge => return Err(Error::AnswerTooLarge),
            _ => return Err(Error::Unknown),
        };
        let stored = stored.map_err(|error| Error::Unreadable(error.into()))?;
        let mut response = self.shared.capture.restore(&stored).map_err(Error::Unreadable)?;
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        Ok(response)
    }

    fn refuse(&self, error: Error) -> Result<Self::Response, E> {
        let status = match &error {
            Error::KeyMissing | Error::KeyInvalid(_) | Error::RequestFailed(_) => StatusCode::BAD_REQUEST,
            Error::InFlight { .. } | Error::Lost { .. } | Error::Unknown | Error::AnswerTooLarge => {
                StatusCode::CONFLICT
            }
            Error::Mismatch => self.shared.mismatch,
            Error::RequestTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Error::Store(_) | Error::Overloaded | Error::ShuttingDown | Error::Unreconciled(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::Unreadable(_) | Error::NoRuntime => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let problem = Problem::new(status, error.to_string()).with_retry_after(error.retry_after());
        let stored = StoredResponse::from(problem.into_response::<String>());
        Ok(self.shared.capture.restore(&stored).expect("a whole response"))
    }

    fn reconcile(&self, claim: &Claim) -> Option<BoxFuture<Result<Reconciled<Record>, BoxError>>> {
        let (looking, keys) = (self.shared.reconcile.as_ref()?(claim.clone()), self.clone());
        Some(Box::pin(async move {
            Ok(match looking.await? {
                Reconciled::Done(response) => Reconciled::Done(keys.record(&response)),
                Reconciled::NotDone => Reconciled::NotDone,
                Reconciled::Unknown => Reconciled::Unknown,
            })
        }))
    }
}
