use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use buttress_core::clock::{Clock, after, nanos};
use buttress_core::{BoxError, ConfigError, Event, Observe, Observer, Reason, Refused};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::BoxFuture;
use crate::action::{Action, Attempt, Fixes, Limits, Then};
use crate::check::Symptom;

/// How many calls may be under way at once: a layer, and the action that sheds load by halving it.
///
/// As long as nothing is shed it lets through up to its maximum. [`halve`](Self::halve) lowers what it lets through, and
/// from then on it rises again, evenly, to the maximum within [`restore_within`](Self::restore_within). A call beyond the
/// limit is refused at once ([`Refused`], [`Reason::Overloaded`]); none waits. Calls that are under way go on: after
/// halving it takes until so many have ended.
///
/// Give it a maximum that the service really reaches: half of a limit that nothing comes near sheds nothing. A limit that
/// callers wait for is `tower::limit`'s.
///
/// Clones, and the services made by them, share the limit. A call counts until its future has ended or is dropped; of a
/// response that is a stream, until its head.
///
/// As an action it helps against [`Symptom::ResponseTime`] and [`Symptom::Queue`]; 0.1 s, verified for 5 s, 10 s apart,
/// three times.
///
/// | setting | default |
/// |---|---|
/// | `at_least` | 1 |
/// | `restore_within` | 60 s |
///
/// ```
/// use buttress_heal::LoadLimit;
/// # use tower::{Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), buttress_core::BoxError> {
/// let limit = LoadLimit::new("search", 100)?;
/// let service = limit.layer(service_fn(|query: &'static str| async move { Ok::<_, std::io::Error>(query.len()) }));
/// assert_eq!(limit.halve(), 50);
/// # service.oneshot("x").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct LoadLimit {
    at_least: usize,
    restore_within: Duration,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    max: usize,
    observer: Observer,
    clock: Clock,
    under_way: AtomicUsize,
    /// Whether there is something in `lowered`: the path of a service at full load looks at this only.
    is_lowered: AtomicBool,
    lowered: Mutex<Option<Lowered>>,
}

/// What the limit was lowered to, and when; pure.
#[derive(Clone, Copy, Debug)]
struct Lowered {
    to: usize,
    at: u64,
    within: u64,
}

impl Lowered {
    /// What it is now; `None` once it is the maximum again.
    fn limit(&self, max: usize, now: u64) -> Option<usize> {
        let passed = u128::from(now.saturating_sub(self.at));
        let room = (max - self.to) as u128;
        let risen = usize::try_from(room * passed / u128::from(self.within.max(1))).unwrap_or(usize::MAX);
        (risen < max - self.to).then(|| self.to + risen)
    }

    /// How long until there is room for one more.
    fn next(&self, max: usize, limit: usize, now: u64) -> Duration {
        let room = (max - self.to).max(1) as u128;
        let needed = ((limit + 1).saturating_sub(self.to) as u128 * u128::from(self.within)).div_ceil(room);
        let passed = u128::from(now.saturating_sub(self.at));
        Duration::from_nanos(u64::try_from(needed.saturating_sub(passed)).unwrap_or(u64::MAX))
    }
}

impl LoadLimit {
    /// At most so many calls at once to the service of this name.
    ///
    /// # Errors
    ///
    /// If `max` is zero.
    pub fn new(name: impl Into<Arc<str>>, max: usize) -> Result<Self, ConfigError> {
        if max == 0 {
            return Err(ConfigError::new("max", max, "must be at least 1, or nothing is ever let through"));
        }
        let shared = Shared {
            name: name.into(),
            max,
            observer: Observer::default(),
            clock: Clock::start(),
            under_way: AtomicUsize::new(0),
            is_lowered: AtomicBool::new(false),
            lowered: Mutex::new(None),
        };
        Ok(Self { at_least: 1, restore_within: Duration::from_secs(60), shared: Arc::new(shared) })
    }

    /// Never lets through less than this, however often it is halved. Default 1.
    ///
    /// # Errors
    ///
    /// If it is zero or above the maximum.
    pub fn at_least(self, at_least: usize) -> Result<Self, ConfigError> {
        if !(1..=self.shared.max).contains(&at_least) {
            let rule = format!("must be 1 to the maximum of {}", self.shared.max);
            return Err(ConfigError::new("at_least", at_least, rule));
        }
        Ok(Self { at_least, ..self })
    }

    /// How long it takes from the last halving until all is let through again. Default 60 s.
    #[must_use]
    pub fn restore_within(self, restore_within: Duration) -> Self {
        Self { restore_within, ..self }
    }

    /// Reports refusals to this observer. The first one stays.
    #[must_use]
    pub fn observe(self, observer: Arc<dyn Observe>) -> Self {
        self.shared.observer.set(observer);
        self
    }

    /// Lets through half of what it lets through now, and begins to rise anew; returns that.
    pub fn halve(&self) -> usize {
        let shared = &*self.shared;
        let at = shared.clock.now();
        let mut lowered = shared.lock();
        let limit = lowered.and_then(|lowered| lowered.limit(shared.max, at)).unwrap_or(shared.max);
        let to = (limit / 2).max(self.at_least);
        let within = nanos(self.restore_within);
        *lowered = Some(Lowered { to, at, within });
        shared.is_lowered.store(true, Ordering::Relaxed);
        to
    }

    /// Lets through all again, at once.
    pub fn restore(&self) {
        let mut lowered = self.shared.lock();
        *lowered = None;
        self.shared.is_lowered.store(false, Ordering::Relaxed);
    }

    /// How many calls it lets through now.
    pub fn limit(&self) -> usize {
        self.shared.limit().0
    }

    /// How many calls are under way.
    pub fn under_way(&self) -> usize {
        self.shared.under_way.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Lowered>> {
        self.lowered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The limit, and how long it stays below the next one; reads the clock only while load is shed.
    fn limit(&self) -> (usize, Option<Duration>) {
        if !self.is_lowered.load(Ordering::Relaxed) {
            return (self.max, None);
        }
        let mut lowered = self.lock();
        let Some(low) = *lowered else { return (self.max, None) };
        let now = self.clock.now();
        match low.limit(self.max, now) {
            Some(limit) => (limit, Some(low.next(self.max, limit, now))),
            None => {
                *lowered = None;
                self.is_lowered.store(false, Ordering::Relaxed);
                (self.max, None)
            }
        }
    }

    fn admit(self: &Arc<Self>) -> Result<Place, Refused> {
        let (limit, next) = self.limit();
        let one_more = |calls| (calls < limit).then_some(calls + 1);
        if self.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok() {
            return Ok(Place(Arc::clone(self)));
        }
        self.observer.emit(&self.name, || Event::Refused(Reason::Overloaded));
        let refused = Refused::new("load limit", Arc::clone(&self.name), Reason::Overloaded);
        Err(match next {
            Some(next) => refused.until(after(Instant::now(), next)),
            None => refused,
        })
    }
}

/// A call that is under way.
#[derive(Debug)]
struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<S> Layer<S> for LoadLimit {
    type Service = LoadLimited<S>;

    fn layer(&self, inner: S) -> LoadLimited<S> {
        LoadLimited { inner, shared: Arc::clone(&self.shared) }
    }
}

/// Refuses calls beyond a [`LoadLimit`], which makes it.
#[derive(Clone, Debug)]
pub struct LoadLimited<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, Req> Service<Req> for LoadLimited<S>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = LoadLimitedFuture<S::Future>;

    /// That of the service inside.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    /// Where a call is refused, a fresh clone takes the place of the instance that was made ready for it.
    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let state = match self.shared.admit() {
            Ok(place) => State::Calling { inner: self.inner.call(request), _place: place },
            Err(refused) => {
                self.inner = self.inner.clone();
                State::Refused { error: Some(refused) }
            }
        };
        LoadLimitedFuture { state }
    }
}

impl Action for LoadLimit {
    fn name(&self) -> &str {
        "shed load"
    }

    fn fixes(&self) -> Fixes {
        Fixes::Only(Cow::Borrowed(&[Symptom::ResponseTime, Symptom::Queue]))
    }

    fn limits(&self) -> Limits {
        Limits { timeout: Duration::from_millis(100), ..Limits::default() }
    }

    fn heal<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>> {
        Box::pin(async move {
            if self.limit() == self.at_least {
                return Err(
                    format!("it lets through {} already, the least that it may", self.at_least).into()
                );
            }
            self.halve();
            Ok(Then::Nothing)
        })
    }
}

pin_project! {
    /// The response of [`LoadLimited`].
    #[derive(Debug)]
    pub struct LoadLimitedFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Calling { #[pin] inner: F, _place: Place },
        Refused { error: Option<Refused> },
    }
}

impl<F, Res, E> Future for LoadLimitedFuture<F>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        let outcome = match state.as_mut().project() {
            StateProj::Refused { error } => {
                return Poll::Ready(Err(error.take().expect("polled after it was ready").into()));
            }
            StateProj::Calling { inner, .. } => ready!(inner.poll(cx)).map_err(Into::into),
        };
        // The call is over now, and not only when this future is dropped.
        state.set(State::Refused { error: None });
        Poll::Ready(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever it was lowered to and however long it takes: it rises evenly to the maximum, and says truly when there
        /// is room for one more.
        #[test]
        fn a_limit_rises_from_what_it_was_lowered_to_up_to_the_maximum(
            (to, max) in (1_usize..1_000_000).prop_flat_map(|max| (1..=max, Just(max))),
            (at, within, after) in (0..u64::MAX / 4, 0..u64::MAX / 4, 0..u64::MAX / 2),
        ) {
            let lowered = Lowered { to, at, within };
            let now = at + after;
            match lowered.limit(max, now) {
                None => prop_assert!(after >= within || to == max),
                Some(limit) => {
                    prop_assert!((to..max).contains(&limit) && after < within.max(1));
                    let next = nanos(lowered.next(max, limit, now));
                    let then = |time: u64| lowered.limit(max, time).unwrap_or(max);
                    prop_assert!(next > 0 && then(now + next) > limit);
                    prop_assert_eq!(then(now + next - 1), limit);
                }
            }
        }
    }
}
