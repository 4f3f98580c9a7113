use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use buttress_core::{BoxError, Classify, Judged, Now, Plain, Watch, error_verdict};
use tokio::sync::OwnedSemaphorePermit;
use tower_service::Service;

use crate::BoxFuture;
use crate::future::ResponseFuture;
use crate::gate::{Admission, Admitted, Entrance, Gate, Hub, Live, Shared};
use crate::lane::Lane;
use crate::permit::Permit;
use crate::unavailable::{Cause, Unavailable, Why};

/// A supervised service: calls go to the generation that its supervisor has built last.
///
/// `P` judges outcomes, which tells the supervisor how the generation fares; `W` says when a call is over. Clones share the
/// supervisor, which ends when the last of them is gone.
///
/// # Readiness
///
/// That of the service inside. While there is none to make a call with, so many callers wait for it for a bounded time
/// ([`SwapSettings`](crate::SwapSettings)); the others, and those that have waited in vain, are ready at once, and their call is
/// refused with [`Unavailable`]. An instance of a generation that has been replaced is replaced too, and asked anew. One that fails to
/// become ready is let go of: the call gets its error, and the supervisor looks at once what is wrong.
///
/// An instance that is neither called nor asked holds on to the service that it was made ready with last.
pub struct Heal<S, P = Plain, W = Now> {
    shared: Arc<Shared<S>>,
    attached: Option<Attached<S>>,
    /// Where it starts slowly.
    place: Option<Arc<OwnedSemaphorePermit>>,
    /// It is ready for a call.
    lane: Option<Arc<Lane>>,
    /// The next call is refused.
    refusal: Option<BoxError>,
    waiting: Waiting<S>,
    policy: P,
    watch: W,
}

/// An instance of a generation.
struct Attached<S> {
    live: Arc<Live<S>>,
    service: S,
}

/// What a caller waits for beside the service inside.
enum Waiting<S> {
    Nothing,
    Admission(Locked<Result<Admitted<S>, Unavailable>>),
    /// Another generation (`true`), or that its patience is over.
    Change(Locked<bool>),
}

/// By nobody: it makes the service `Sync`.
type Locked<T> = Mutex<BoxFuture<'static, T>>;

impl<S> Heal<S> {
    pub(crate) fn new(shared: Arc<Shared<S>>) -> Self {
        Self::with(shared, Plain::default(), Now)
    }

    /// One that was never started, for this reason.
    pub(crate) fn not_started(name: Arc<str>, cause: Cause) -> Self {
        let entrance = Arc::new(Entrance::new(Gate::Shut(Why::NoService, Some(cause))));
        let hub = Arc::new(Hub { name, ..Hub::default() });
        Self::new(Arc::new(Shared { hub, entrance }))
    }
}

impl<S, P, W> Heal<S, P, W> {
    fn with(shared: Arc<Shared<S>>, policy: P, watch: W) -> Self {
        let (attached, place, lane, refusal, waiting) = (None, None, None, None, Waiting::Nothing);
        Self { shared, attached, place, lane, refusal, waiting, policy, watch }
    }

    /// Judges outcomes with this policy; for HTTP that is `buttress_http::Http`.
    #[must_use]
    pub fn policy<Q>(self, policy: Q) -> Heal<S, Q, W> {
        Heal::with(self.shared, policy, self.watch)
    }

    /// Ends calls when this says so: [`Now`], which is the default, or with the response's body.
    #[must_use]
    pub fn watch<V>(self, watch: V) -> Heal<S, P, V> {
        Heal::with(self.shared, self.policy, watch)
    }

    /// Lets go of the generation, and of whatever was reserved in it.
    fn detach(&mut self) {
        (self.attached, self.place, self.lane) = (None, None, None);
        self.waiting = Waiting::Nothing;
    }

    fn refuse(&mut self, error: BoxError) -> Poll<()> {
        self.detach();
        self.refusal = Some(error);
        Poll::Ready(())
    }

    /// Whether an instance is attached of a generation that takes a call.
    fn is_admitted(&self) -> bool {
        self.attached.as_ref().is_some_and(|attached| {
            let state = &attached.live.signals;
            !state.is_superseded() && (self.place.is_some() || !state.starts_slowly())
        })
    }

    /// It was ready, but its generation is over.
    #[cold]
    fn gone(&mut self) {
        self.detach();
        self.refusal = Some(self.unavailable(Why::Gone));
    }

    /// Why the call is not made.
    #[cold]
    fn refusal(&mut self) -> BoxError {
        self.refusal.take().unwrap_or_else(|| self.unavailable(Why::NotAsked))
    }

    fn unavailable(&self, why: Why) -> BoxError {
        self.shared.hub.unavailable(why, None).into()
    }
}

impl<S: Clone + Send + 'static, P, W> Heal<S, P, W> {
    #[cold]
    fn poll_slowly<Req>(
        &mut self,
        cx: &mut Context<'_>,
        mut polled: Option<Poll<Result<(), S::Error>>>,
    ) -> Poll<()>
    where
        S: Service<Req>,
        S::Error: Into<BoxError>,
    {
        self.refusal = None;
        loop {
            if !self.is_admitted() {
                (self.lane, polled) = (None, None);
                match ready!(self.poll_admission(cx)) {
                    Ok(admitted) => self.attach(admitted),
                    Err(unavailable) => return self.refuse(unavailable.into()),
                }
            }
            let Some(Attached { live, service }) = &mut self.attached else { continue };
            match polled.take().unwrap_or_else(|| service.poll_ready(cx)) {
                Poll::Ready(Ok(())) => {
                    self.waiting = Waiting::Nothing;
                    match live.enter() {
                        Some(lane) => {
                            self.lane = Some(lane);
                            return Poll::Ready(());
                        }
                        None => self.detach(),
                    }
                }
                Poll::Ready(Err(error)) => {
                    live.signals.is_broken();
                    let error = error.into();
                    let verdict = error_verdict(&*error).not_sent();
                    return self.refuse(Judged::transparent(verdict, error).into());
                }
                Poll::Pending => {
                    self.lane = None;
                    match ready!(self.poll_change(cx)) {
                        true => self.detach(),
                        false => {
                            if let Some(attached) = &self.attached {
                                attached.live.signals.did_not_succeed();
                            }
                            let error = self.unavailable(Why::NotReady);
                            return self.refuse(error);
                        }
                    }
                }
            }
        }
    }

    fn poll_admission(&mut self, cx: &mut Context<'_>) -> Poll<Result<Admitted<S>, Unavailable>> {
        if !matches!(self.waiting, Waiting::Admission(_)) {
            match self.shared.admit() {
                Admission::Now(admitted) => return Poll::Ready(Ok(admitted)),
                Admission::Refused(unavailable) => return Poll::Ready(Err(unavailable)),
                Admission::Wait(ticket) => {
                    let wait = Arc::clone(&self.shared).wait(ticket);
                    self.waiting = Waiting::Admission(Mutex::new(Box::pin(wait)));
                }
            }
        }
        match &mut self.waiting {
            Waiting::Admission(wait) => poll_locked(wait, cx),
            _ => unreachable!("it was just set"),
        }
    }

    fn attach(&mut self, Admitted { live, place }: Admitted<S>) {
        (self.place, self.waiting) = (place.map(Arc::new), Waiting::Nothing);
        if !self.attached.as_ref().is_some_and(|attached| Arc::ptr_eq(&attached.live, &live)) {
            // None if another one has taken over since.
            self.attached = live.service().map(|service| Attached { live, service });
        }
    }

    fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if let (false, Some(attached)) = (matches!(self.waiting, Waiting::Change(_)), &self.attached) {
            let change = Arc::clone(&self.shared).change(attached.live.signals.generation());
            self.waiting = Waiting::Change(Mutex::new(Box::pin(change)));
        }
        match &mut self.waiting {
            Waiting::Change(change) => poll_locked(change, cx),
            _ => unreachable!("it was just set"),
        }
    }
}

fn poll_locked<T>(future: &mut Locked<T>, cx: &mut Context<'_>) -> Poll<T> {
    future.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
}

impl<S: Clone, P: Clone, W: Clone> Clone for Heal<S, P, W> {
    fn clone(&self) -> Self {
        let mut clone = Self::with(Arc::clone(&self.shared), self.policy.clone(), self.watch.clone());
        // A clone starts unready; what the instance has found out is its own.
        let attached = self.attached.as_ref().filter(|attached| !attached.live.signals.is_superseded());
        clone.attached = attached
            .map(|attached| Attached { live: Arc::clone(&attached.live), service: attached.service.clone() });
        clone
    }
}

impl<S, P, W> fmt::Debug for Heal<S, P, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let generation = self.attached.as_ref().map(|attached| attached.live.signals.generation());
        f.debug_struct("Heal")
            .field("name", &self.shared.hub.name)
            .field("generation", &generation)
            .finish_non_exhaustive()
    }
}

impl<S, P, W, Req> Service<Req> for Heal<S, P, W>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    P: Classify<S::Response> + Clone,
    W: Watch<S::Response> + Clone,
{
    type Response = W::Response<Permit>;
    type Error = BoxError;
    type Future = ResponseFuture<S::Future, P, W>;

    /// Never an error, and never pending for longer than the settings say.
    #[inline(always)]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut polled = None;
        if let (Waiting::Nothing, Some(Attached { live, service })) = (&self.waiting, &mut self.attached) {
            if live.signals.flows() {
                let answer = service.poll_ready(cx);
                if let Poll::Ready(Ok(())) = answer {
                    if self.lane.is_none() {
                        self.lane = live.enter();
                    }
                    if self.lane.is_some() {
                        return Poll::Ready(Ok(()));
                    }
                }
                polled = Some(answer);
            }
        }
        self.poll_slowly(cx, polled).map(Ok)
    }

    #[inline(always)]
    fn call(&mut self, request: Req) -> Self::Future {
        if let (Some(lane), Some(attached)) = (self.lane.take(), &mut self.attached) {
            if let Some(timed) = lane.signals.takes_a_call() {
                let panicked = OnPanic(&lane);
                let inner = attached.service.call(request);
                mem::forget(panicked);
                // Made only now, where it stays.
                let permit = Permit::new(lane, self.place.take(), timed);
                return ResponseFuture::calling(inner, permit, self.policy.clone(), self.watch.clone());
            }
            self.gone();
        }
        ResponseFuture::refused(self.refusal())
    }
}

/// A panic in `call` itself is a failed call.
struct OnPanic<'a>(&'a Lane);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        self.0.failed();
    }
}
