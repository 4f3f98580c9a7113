//! The services that a supervisor has built: one that takes calls, and at most one beside it, that comes or goes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::clock::Seconds;
use buttress_core::{Observer, within};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use crate::BoxFuture;
use crate::ending::{Ending, granted};
use crate::factory::{Build, Factory};
use crate::gate::{Entrance, Gate, Hub, Live, Shared};
use crate::lane::Lanes;
use crate::ramp::Ramp;
use crate::service::Heal;
use crate::settings::SwapSettings;
use crate::signals::Signals;
use crate::unavailable::{Cause, Why};
use crate::unwind::{Foreign, Panicked, attempt, caught};
use crate::view::View;

/// Which one is first, the new service or the end of the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SwapOrder {
    MakeBeforeBreak,
    BreakBeforeMake,
}

/// Why there is no new generation.
#[derive(Clone, Debug)]
pub(crate) enum SwapError {
    Failed(Cause),
    TimedOut(Duration),
    Panicked(Panicked),
    /// The checks did not pass on it.
    NotWarm,
}

impl std::fmt::Display for SwapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "{error}"),
            Self::TimedOut(limit) => write!(f, "it was not made within {}", Seconds(*limit)),
            Self::Panicked(panicked) => write!(f, "{panicked}"),
            Self::NotWarm => f.write_str("the new one did not pass the checks"),
        }
    }
}

impl std::error::Error for SwapError {}

impl SwapError {
    fn cause(&self) -> Cause {
        match self {
            Self::Failed(error) => Arc::clone(error),
            other => Arc::new(other.clone()),
        }
    }
}

/// Tries a new service before it takes calls.
pub(crate) trait WarmUp<S>: Send + Sync {
    fn warm(&self, service: Foreign<S>, generation: u64) -> BoxFuture<'_, bool>;
}

/// Closes what a service that is gone has left open.
pub(crate) type Retire<S> = Arc<dyn Fn(S) -> BoxFuture<'static, ()> + Send + Sync>;

/// The factory, and what it has made. Owned by one task.
///
/// Dropping it neither cuts off calls nor ends the generation that takes them: whoever has a clone of the service may go on.
pub(crate) struct Generations<F: Factory> {
    factory: F,
    view: View<F::Service>,
    retire: Option<Retire<F::Service>>,
    current: Option<Current<F::Service>>,
    /// Those that come to their end: one, or two at the end of all.
    old: Vec<Ending>,
    /// The number of the last generation.
    last: u64,
}

struct Current<S> {
    live: Arc<Live<S>>,
    growing: Option<AbortHandle>,
}

impl<F: Factory> Generations<F> {
    pub(crate) fn new(
        name: Arc<str>,
        factory: F,
        settings: impl Into<Arc<SwapSettings>>,
        observer: Observer,
    ) -> (Self, Heal<F::Service>) {
        let hub = Arc::new(Hub { name, settings: settings.into(), observer, ..Hub::default() });
        let entrance = Arc::new(Entrance::new(Gate::Shut(Why::Starting, None)));
        let view = View { hub, entrance };
        let View { hub, entrance } = view.clone();
        let heal = Heal::new(Arc::new(Shared { hub, entrance }));
        (Self { factory, view, retire: None, current: None, old: Vec::new(), last: 0 }, heal)
    }

    /// Calls this with each service when its generation is over.
    pub(crate) fn retire_with(&mut self, retire: Retire<F::Service>) {
        self.retire = Some(retire);
    }

    /// What can be seen of it while it is busy.
    pub(crate) fn view(&self) -> View<F::Service> {
        self.view.clone()
    }

    pub(crate) fn settings(&self) -> &SwapSettings {
        &self.view.hub.settings
    }

    /// Builds the first generation, for the first target; one attempt.
    pub(crate) async fn first(&mut self) -> Result<u64, SwapError> {
        self.replace(0).await
    }

    /// A service for this target that takes no calls. Unless it is to take some, it is retired.
    pub(crate) async fn candidate(&mut self, target: usize) -> Result<Candidate<F::Service>, SwapError> {
        let (build, limit) = (Build { generation: self.last + 1, target }, self.settings().make_within);
        let retire = self.retire();
        let factory = &mut self.factory;
        match within(limit, caught(|| factory.make(build))).await {
            None => Err(SwapError::TimedOut(limit)),
            Some(Err(panicked)) => Err(SwapError::Panicked(panicked)),
            Some(Ok(Err(error))) => Err(SwapError::Failed(error.into().into())),
            Some(Ok(Ok(service))) => Ok(Candidate { service: Some(Foreign::new(service)), retire }),
        }
    }

    fn retire(&self) -> Option<(Retire<F::Service>, Duration)> {
        self.retire.clone().map(|retire| (retire, self.settings().retire_within))
    }

    /// Puts a new generation in the place of the current one, if there is one, and says which it is.
    ///
    /// If it fails, or is dropped before its end, calls go on with the service that there was, unless that had to go first
    /// ([`SwapSettings::exclusive`]).
    pub(crate) async fn swap(
        &mut self,
        order: SwapOrder,
        target: usize,
        warm: &dyn WarmUp<F::Service>,
    ) -> Result<u64, SwapError> {
        self.end_old().await;
        if self.current.is_none() || order == SwapOrder::BreakBeforeMake || self.settings().exclusive {
            return self.replace(target).await;
        }
        let candidate = self.candidate(target).await?;
        let Some(service) = candidate.service() else { return Err(SwapError::NotWarm) };
        if !warm.warm(service, self.last + 1).await {
            return Err(SwapError::NotWarm);
        }
        let Some(service) = candidate.take() else { return Err(SwapError::NotWarm) };
        let old = self.current.take();
        let busy = old.as_ref().map_or(0, |old| old.live.signals.outcomes().in_flight as usize);
        let generation = self.publish(service, target, busy.max(1));
        if let Some(old) = old {
            let old = self.end(old, self.settings().drain, granted());
            self.old.push(old);
        }
        Ok(generation)
    }

    /// Lets go of the current generation, if there is one, and then builds another.
    async fn replace(&mut self, target: usize) -> Result<u64, SwapError> {
        let mut breaking = Breaking::begin(self);
        if breaking.spare.is_none() {
            breaking.generations.old_gone().await;
        }
        match breaking.generations.candidate(target).await {
            Ok(candidate) => match candidate.take() {
                Some(service) => Ok(breaking.succeed(service, target)),
                None => Err(SwapError::NotWarm),
            },
            Err(error) => {
                breaking.cause = Some(error.cause());
                Err(error)
            }
        }
    }

    /// Lets calls into a new generation: the first one all, any other one so many at once to begin with.
    fn publish(&mut self, service: F::Service, target: usize, places: usize) -> u64 {
        let slow_start = self.settings().slow_start;
        let slowly = self.last > 0 && !slow_start.is_zero();
        self.last += 1;
        let live = Arc::new(Live {
            signals: Arc::new(Signals::new(self.last, &self.view.hub, slowly)),
            target,
            service: Mutex::new(Some(service)),
            ramp: slowly.then(|| Ramp::new(places)),
            lanes: Lanes::new(),
        });
        // Without a runtime, everything is being dropped.
        let growing = Handle::try_current().ok().filter(|_| slowly).map(|runtime| {
            let live = Arc::clone(&live);
            let grow = async move {
                if let Some(ramp) = &live.ramp {
                    ramp.grow(&live.signals, places, slow_start).await;
                }
            };
            runtime.spawn(grow).abort_handle()
        });
        self.view.entrance.set(Gate::Open(Arc::clone(&live)));
        self.current = Some(Current { live, growing });
        self.last
    }

    /// Lets a generation come to its end, aside.
    fn end(&self, old: Current<F::Service>, limit: Duration, permission: oneshot::Receiver<()>) -> Ending {
        old.live.supersede();
        if let Some(growing) = &old.growing {
            growing.abort();
        }
        Ending::begin(old.live, limit, permission, self.retire())
    }

    /// Waits for the end of those that come to it.
    async fn old_gone(&mut self) {
        // Each stays where it is until it is over: this may be dropped.
        while let Some(old) = self.old.last_mut() {
            old.over().await;
            self.old.pop();
        }
    }

    /// Cuts that end short.
    async fn end_old(&mut self) {
        self.old.iter_mut().for_each(Ending::hurry);
        self.old_gone().await;
    }

    fn end_current(&mut self, limit: Duration) {
        if let Some(current) = self.current.take() {
            let current = self.end(current, limit, granted());
            self.old.push(current);
        }
    }

    /// Lets the calls end in their own time, and retires what there is; for a service that nobody has any more. May be dropped in
    /// favour of [`shutdown`](Self::shutdown).
    pub(crate) async fn finish(&mut self) {
        self.end_current(Duration::MAX);
        self.old_gone().await;
    }

    /// Refuses calls from now on, gives those under way this time to end, cuts off the rest, and retires what there is. May be
    /// dropped, and called again with less time.
    pub(crate) async fn shutdown(&mut self, limit: Duration) {
        self.view.entrance.set(Gate::Shut(Why::ShutDown, None));
        self.end_current(limit);
        if within(limit, self.old_gone()).await.is_none() {
            self.end_old().await;
        }
    }
}

impl<F: Factory> Drop for Generations<F> {
    fn drop(&mut self) {
        let nobody_opens_it = matches!(&*self.view.entrance.gate(), Gate::Shut(..));
        if nobody_opens_it {
            self.view.entrance.set(Gate::Shut(Why::ShutDown, None));
        }
    }
}

/// A service that takes no calls yet, and is retired if it never does.
pub(crate) struct Candidate<S: Send + 'static> {
    service: Option<Foreign<S>>,
    retire: Option<(Retire<S>, Duration)>,
}

impl<S: Clone + Send + 'static> Candidate<S> {
    /// A clone of it, to look at.
    pub(crate) fn service(&self) -> Option<Foreign<S>> {
        self.service.clone()
    }

    /// It is to take calls.
    fn take(mut self) -> Option<S> {
        self.service.take().map(Foreign::into_inner)
    }
}

impl<S: Send + 'static> Drop for Candidate<S> {
    fn drop(&mut self) {
        let (Some(service), Some((retire, limit))) = (self.service.take(), self.retire.take()) else {
            return;
        };
        // Without a runtime, everything is being dropped.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(async move { within(limit, caught(|| retire(service.into_inner()))).await });
        }
    }
}

/// The gate is shut until there is another generation. If there will be none, the service that there was is put back.
struct Breaking<'a, F: Factory> {
    generations: &'a mut Generations<F>,
    /// With its target, and how many calls it had under way.
    spare: Option<(Foreign<F::Service>, usize, usize)>,
    retire_old: Option<oneshot::Sender<()>>,
    cause: Option<Cause>,
}

impl<'a, F: Factory> Breaking<'a, F> {
    fn begin(generations: &'a mut Generations<F>) -> Self {
        let why = if generations.last == 0 { Why::Starting } else { Why::Replacing };
        generations.view.entrance.set(Gate::Shut(why, None));
        let mut breaking = Self { generations, spare: None, retire_old: None, cause: None };
        let generations = &mut *breaking.generations;
        if let Some(old) = generations.current.take() {
            let limit = generations.settings().drain_critical;
            let (retire, may_retire) = oneshot::channel();
            let exclusive = generations.settings().exclusive;
            // One that cannot be cloned cannot be put back.
            match attempt(|| old.live.service().filter(|_| !exclusive)) {
                Ok(Some(service)) => {
                    let busy = old.live.signals.outcomes().in_flight as usize;
                    breaking.spare = Some((Foreign::new(service), old.live.target, busy));
                    breaking.retire_old = Some(retire);
                }
                _ => drop(retire.send(())),
            }
            let old = generations.end(old, limit, may_retire);
            generations.old.push(old);
        }
        breaking
    }

    fn succeed(mut self, service: F::Service, target: usize) -> u64 {
        self.spare = None;
        if let Some(retire) = self.retire_old.take() {
            let _ = retire.send(());
        }
        self.generations.publish(service, target, 1)
    }
}

impl<F: Factory> Drop for Breaking<'_, F> {
    fn drop(&mut self) {
        if self.generations.current.is_some() {
            return;
        }
        if let Some((service, target, busy)) = self.spare.take() {
            self.generations.publish(service.into_inner(), target, busy.max(1));
        } else {
            self.generations.view.entrance.set(Gate::Shut(Why::NoService, self.cause.take()));
        }
    }
}

#[cfg(test)]
mod tests;
