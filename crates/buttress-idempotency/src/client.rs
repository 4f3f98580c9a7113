use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use buttress_core::clock::{Seconds, wall};
use buttress_core::{BoxError, ConfigError, Judged, StepKey, Verdict};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;
use uuid::Uuid;

use crate::error::{Error, InvalidKey};
use crate::key::new_key;

/// Where the key of a request of one kind is, and how it gets there.
pub trait Stamp<Req> {
    /// The key that the request has already.
    fn stamped<'a>(&self, request: &'a Req) -> Option<Cow<'a, str>>;

    /// Whether a request without a key is to get one.
    fn wants_key(&self, request: &Req) -> bool;

    /// Gives the request its key: the one that `make` makes, or, at a further attempt, the one that it had.
    ///
    /// # Errors
    ///
    /// If what was made is no key: then the request is not sent.
    fn stamp(&self, request: &mut Req, make: &dyn Fn() -> String) -> Result<(), InvalidKey>;
}

/// Gives each logical call a key, so that the receiver recognises a repetition.
///
/// Put it **outside** of a retry: then all attempts are copies of the stamped request. Inside of a retry for HTTP it finds the
/// key of the first attempt. A key that the caller has set is never overwritten. The default key is a UUID of version 7.
///
/// Keys in a body are set by closures: `dedup_key` for PagerDuty's events, `ClientToken` for AWS.
///
/// ```
/// use buttress_idempotency::{IdempotencyKeyLayer, stamp_fn};
/// use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
///
/// /// An event for PagerDuty, or an input of AWS with a `client_token`: a field of the body.
/// #[derive(Clone, Default)]
/// struct Event { summary: String, dedup_key: Option<String> }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress_core::BoxError> {
/// let keys = IdempotencyKeyLayer::new(stamp_fn(
///     |event: &Event| event.dedup_key.as_deref(),
///     |event, key| event.dedup_key = Some(key.into()),
/// ));
/// let mut service = ServiceBuilder::new()
///     .layer(keys)
///     .service(service_fn(|event: Event| async move { Ok::<_, std::io::Error>(event.dedup_key) }));
/// let key = service.ready().await?.call(Event::default()).await?;
/// assert_eq!(key.unwrap().len(), 36);
/// # Ok(())
/// # }
/// ```
pub struct IdempotencyKeyLayer<St> {
    keys: Keys<St>,
}

struct Keys<St> {
    stamp: St,
    make: Arc<dyn Fn() -> String + Send + Sync>,
    max_age: Option<Duration>,
}

impl<St: Clone> Clone for Keys<St> {
    fn clone(&self) -> Self {
        Self { stamp: self.stamp.clone(), make: Arc::clone(&self.make), max_age: self.max_age }
    }
}

impl<St> IdempotencyKeyLayer<St> {
    /// Keys for requests that are stamped in this way.
    pub fn new(stamp: St) -> Self {
        Self { keys: Keys { stamp, make: Arc::new(new_key), max_age: None } }
    }

    /// Makes keys in another way; each has to be unique, and one that the [`Stamp`] finds to be none fails its call.
    #[must_use]
    pub fn made_by(mut self, make: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.keys.make = Arc::new(make);
        self
    }

    /// Inside of a step of a workflow (`buttress-checkpoint`), takes the step's key, with the number of the call from the step's
    /// second call on ([`StepKey`]): the same at each attempt at the step, after a crash, and on any machine. Elsewhere keys
    /// are made as they are without this.
    #[must_use]
    pub fn from_step(mut self) -> Self {
        let make = self.keys.make;
        self.keys.make = Arc::new(move || StepKey::next_call().map_or_else(|| make(), |key| key.to_string()));
        self
    }

    /// Refuses a call with [`KeyTooOld`] whose own key is older than this, since the receiver may have forgotten it and would
    /// carry the call out again: a little less than what the receiver keeps keys for (24 hours for version 1 of Stripe's
    /// API). The age is known of UUIDs of version 7 only.
    ///
    /// # Errors
    ///
    /// If the age is zero.
    pub fn max_key_age(mut self, age: Duration) -> Result<Self, ConfigError> {
        if age.is_zero() {
            return Err(ConfigError::new("max_key_age", age, "must be longer than zero"));
        }
        self.keys.max_age = Some(age);
        Ok(self)
    }
}

impl<St: Clone> Clone for IdempotencyKeyLayer<St> {
    fn clone(&self) -> Self {
        Self { keys: self.keys.clone() }
    }
}

impl<St> fmt::Debug for IdempotencyKeyLayer<St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyKeyLayer").field("max_key_age", &self.keys.max_age).finish_non_exhaustive()
    }
}

impl<S, St: Clone> Layer<S> for IdempotencyKeyLayer<St> {
    type Service = IdempotencyKey<S, St>;

    fn layer(&self, inner: S) -> Self::Service {
        IdempotencyKey { inner, keys: self.keys.clone() }
    }
}

/// Gives each call a key; made by [`IdempotencyKeyLayer`].
pub struct IdempotencyKey<S, St> {
    inner: S,
    keys: Keys<St>,
}

impl<S: Clone, St: Clone> Clone for IdempotencyKey<S, St> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), keys: self.keys.clone() }
    }
}

impl<S: fmt::Debug, St> fmt::Debug for IdempotencyKey<S, St> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyKey").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, St, Req> Service<Req> for IdempotencyKey<S, St>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    St: Stamp<Req>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = KeyFuture<S::Future>;

    /// That of the service inside.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    /// Where a call is refused, a fresh clone takes the place of the instance that was made ready for it.
    fn call(&mut self, mut request: Req) -> Self::Future {
        let Keys { stamp, make, max_age } = &self.keys;
        let own = stamp.stamped(&request);
        let age = max_age.zip(own.as_deref().and_then(age)).filter(|(max, age)| age > max);
        let has_key = own.is_some();
        drop(own);
        if let Some((max, age)) = age {
            self.inner = self.inner.clone();
            return KeyFuture::refused(Judged::transparent(Verdict::Rejected, KeyTooOld { age, max }));
        }
        // A stamp looks after a key that has come to a place that it was not made for.
        if (has_key || stamp.wants_key(&request))
            && let Err(why) = stamp.stamp(&mut request, &**make)
        {
            self.inner = self.inner.clone();
            return KeyFuture::refused(Error::KeyInvalid(why).into_boxed());
        }
        KeyFuture { state: State::Calling { inner: self.inner.call(request) } }
    }
}

/// How long ago a UUID of version 7 was made.
fn age(key: &str) -> Option<Duration> {
    let uuid = Uuid::parse_str(key).ok().filter(|uuid| uuid.get_version_num() == 7)?;
    let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
    let made: SystemTime = UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))?;
    wall().duration_since(made).ok()
}

/// The receiver may have forgotten the key of this call, so that it would be carried out again. It was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyTooOld {
    /// How old the key is.
    pub age: Duration,
    /// How old it may be.
    pub max: Duration,
}

impl fmt::Display for KeyTooOld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the idempotency key is {} old and the receiver may have forgotten it after {}; look whether the call was carried \
             out before making it with a new key",
            Seconds(self.age),
            Seconds(self.max)
        )
    }
}

impl std::error::Error for KeyTooOld {}

pin_project! {
    /// The response of an [`IdempotencyKey`] service.
    #[derive(Debug)]
    pub struct KeyFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Calling { #[pin] inner: F },
        Refused { error: Option<BoxError> },
    }
}

impl<F> KeyFuture<F> {
    fn refused(error: impl Into<BoxError>) -> Self {
        Self { state: State::Refused { error: Some(error.into()) } }
    }
}

impl<F, Res, E> Future for KeyFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Calling { inner } => Poll::Ready(ready!(inner.poll(cx)).map_err(Into::into)),
            StateProj::Refused { error } => {
                let error = error.take().expect("a future is not polled again after it was ready");
                Poll::Ready(Err(error))
            }
        }
    }
}

/// A key in a field of the request: read by the first closure, written by the second.
pub fn stamp_fn<Req, G, W>(get: G, set: W) -> StampFn<G, W>
where
    G: for<'a> Fn(&'a Req) -> Option<&'a str>,
    W: Fn(&mut Req, &str),
{
    StampFn { get, set }
}

/// A [`Stamp`] of two closures; see [`stamp_fn`].
#[derive(Clone, Copy)]
pub struct StampFn<G, W> {
    get: G,
    set: W,
}

impl<G, W> fmt::Debug for StampFn<G, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StampFn")
    }
}

impl<G, W, Req> Stamp<Req> for StampFn<G, W>
where
    G: for<'a> Fn(&'a Req) -> Option<&'a str>,
    W: Fn(&mut Req, &str),
{
    fn stamped<'a>(&self, request: &'a Req) -> Option<Cow<'a, str>> {
        (self.get)(request).map(Cow::Borrowed)
    }

    fn wants_key(&self, request: &Req) -> bool {
        (self.get)(request).is_none()
    }

    fn stamp(&self, request: &mut Req, make: &dyn Fn() -> String) -> Result<(), InvalidKey> {
        if (self.get)(request).is_none() {
            (self.set)(request, &make());
        }
        Ok(())
    }
}
