use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::{Discard, Event, Level, Observe};

use crate::registry::Component;
use crate::tasks::Tasks;

/// So many failed responses are read at once; the connections of further ones are closed.
const DISCARDED: usize = 256;

/// Everything that the services of a layer and their calls have in common.
#[derive(Debug)]
pub(crate) struct Shared<P, C> {
    pub(crate) told: Told,
    pub(crate) limits: Limits,
    pub(crate) policy: P,
    pub(crate) chain: C,
    pub(crate) needs: Needs,
    /// Failed responses that are still read.
    pub(crate) discarded: Arc<Tasks>,
}

impl<P, C> Shared<P, C> {
    /// Disposes of a failed response in whose place another one was given, so that its connection can be used again. The policy
    /// bounds how long that takes.
    pub(crate) fn discard<A>(&self, response: Option<A>)
    where
        P: Discard<A, Future: Send + 'static>,
    {
        if let Some(response) = response {
            self.discarded.spawn_among(DISCARDED, self.policy.discard(response));
        }
    }
}

/// What a call needs beyond the service: mostly nothing, which each of its steps then sees at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    /// A component hears of the answers, and may be in a drill.
    pub(crate) reports: bool,
    /// What the service says of itself is not believed.
    pub(crate) foreign: bool,
    /// There is a budget.
    pub(crate) budget: bool,
    /// A rung wants the request.
    pub(crate) request: bool,
}

/// How long the service has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For becoming ready, and for a call that is made for the store.
    pub(crate) patience: Option<Duration>,
    /// For a whole call.
    pub(crate) budget: Option<Duration>,
}

impl Limits {
    /// For what has to be bounded in any case, of a request that may bring a limit of its own.
    pub(crate) fn bound(&self, own: Option<Duration>) -> Duration {
        let patience = own.unwrap_or(self.patience());
        self.budget.map_or(patience, |budget| budget.min(patience))
    }

    /// For what is done for several, one of whom may have more time than the others.
    pub(crate) fn bound_for_all(&self, own: Option<Duration>) -> Duration {
        self.budget.unwrap_or(self.patience().max(own.unwrap_or_default()))
    }

    pub(crate) fn patience(&self) -> Duration {
        self.patience.unwrap_or(Duration::from_secs(10))
    }
}

/// Who hears of the answers.
#[derive(Clone)]
pub(crate) struct Told {
    pub(crate) name: Arc<str>,
    pub(crate) observer: Option<Arc<dyn Observe>>,
    pub(crate) component: Option<Component>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Told").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Told {
    /// An answer was given, or (level 4) none.
    #[inline]
    pub(crate) fn answered(&self, level: Level, source: impl FnOnce() -> Arc<str>) {
        if let Some(component) = &self.component {
            component.report(level);
        }
        if level.is_degraded() {
            self.emit(|| Event::Degraded { level, source: source() });
        }
    }

    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        if let Some(observer) = &self.observer {
            buttress_core::Observer::from(Arc::clone(observer)).emit(&self.name, event);
        }
    }

    /// From which level on an operator wants answers: those that are better are left out.
    #[inline]
    pub(crate) fn drill(&self) -> Level {
        self.component.as_ref().map_or(Level::Full, Component::drill)
    }
}

/// Counted; or never freed, so that calls need not count.
#[derive(Debug)]
pub(crate) enum Holder<P: 'static, C: 'static> {
    Counted(Arc<Shared<P, C>>),
    Leaked(&'static Shared<P, C>),
    /// The same, and a call that does not fall [needs](Needs) nothing of it.
    Idle(&'static Shared<P, C>),
}

impl<P, C> Holder<P, C> {
    pub(crate) fn new(shared: Shared<P, C>, leaked: bool) -> Self {
        if !leaked {
            return Self::Counted(Arc::new(shared));
        }
        let shared = Box::leak(Box::new(shared));
        if shared.needs == Needs::default() { Self::Idle(shared) } else { Self::Leaked(shared) }
    }

    /// A call that does not fall needs nothing of it.
    #[inline(always)]
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle(_))
    }

    /// For a call that needs something all the same.
    #[inline]
    pub(crate) fn busy(&self) -> Self {
        match self {
            Self::Counted(shared) => Self::Counted(Arc::clone(shared)),
            Self::Leaked(shared) | Self::Idle(shared) => Self::Leaked(shared),
        }
    }
}

impl<P, C> Clone for Holder<P, C> {
    #[inline]
    fn clone(&self) -> Self {
        match self {
            Self::Counted(shared) => Self::Counted(Arc::clone(shared)),
            Self::Leaked(shared) => Self::Leaked(shared),
            Self::Idle(shared) => Self::Idle(shared),
        }
    }
}

impl<P, C> Deref for Holder<P, C> {
    type Target = Shared<P, C>;

    #[inline]
    fn deref(&self) -> &Shared<P, C> {
        match self {
            Self::Counted(shared) => shared,
            Self::Leaked(shared) | Self::Idle(shared) => shared,
        }
    }
}
