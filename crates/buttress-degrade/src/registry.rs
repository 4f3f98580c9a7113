use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use buttress_core::clock::{after, nanos};
use buttress_core::observe::Outbox;
use buttress_core::{Clock, ConfigError, Event, Level, NoTimer, Observe, Observer, Timer};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::declared::Declared;
use crate::lately::Lately;
use crate::score::{Need, level};

/// The components of a system and how good their answers are: one level for all.
///
/// The *instant* level is the truth: it follows from the components' answers by their weights, as that of a
/// [`Partial`](crate::Partial) does. Of each component the worst answer of the last quarter of a window (2.5 s) counts, or else the last
/// one: where some calls fail and others do not, the level does not go up and down with each. The *declared* one is for people: it moves one step in each window (10 s), and up only
/// after three windows in which the truth was better throughout. It moves when a level is reported or read; [`run`](Self::run)
/// moves it while nothing happens.
///
/// ```
/// use buttress_core::Level;
/// use buttress_degrade::{DegradationRegistry, Need};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let registry = DegradationRegistry::new("checkout").max_acceptable(Level::Moderate);
/// let prices = registry.component("prices", Need::Required);
/// let reviews = registry.component("reviews", Need::Weight(1));
/// reviews.report(Level::Failed); // what `DegradeLayer::report_to(reviews)` does with each answer
/// assert_eq!(registry.levels().instant, Level::Moderate);
/// assert!(registry.check().is_ok());
/// prices.report(Level::Failed);
/// assert_eq!(registry.check().unwrap_err().level(), Level::Failed);
/// # }
/// ```
#[derive(Clone)]
pub struct DegradationRegistry {
    inner: Arc<Inner>,
    max: Level,
}

struct Inner {
    name: Arc<str>,
    clock: Clock,
    window: Duration,
    state: Mutex<State>,
    levels: watch::Sender<SystemLevel>,
    observer: Observer,
    outbox: Outbox,
}

struct State {
    components: BTreeMap<Arc<str>, Component>,
    declared: Declared,
    forced: Option<Level>,
}

/// The level of a whole system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemLevel {
    /// What is true now, or what a drill has forced.
    pub instant: Level,
    /// What is declared.
    pub declared: Level,
}

/// One component of a system: what its calls report to.
#[derive(Clone)]
pub struct Component {
    shared: Arc<Reported>,
}

struct Reported {
    name: Arc<str>,
    need: Need,
    lately: Mutex<Lately>,
    /// So that good answers of a component that is well cost a load.
    well: AtomicBool,
    drill: AtomicU8,
    clock: Clock,
    /// For so long an answer counts.
    counts: u64,
    registry: Weak<Inner>,
}

impl fmt::Debug for DegradationRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("DegradationRegistry");
        debug.field("name", &self.inner.name).field("levels", &self.levels()).field("max", &self.max).finish()
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Component");
        debug.field("name", &self.name()).field("level", &self.level()).field("drill", &self.drill()).finish()
    }
}

impl Component {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The worst level of its answers in the last quarter of a window of the registry (2.5 s), or else that of the last one; full
    /// before the first.
    pub fn level(&self) -> Level {
        self.lately().level(self.shared.clock.now())
    }

    /// Tells how good an answer was. A good one of a component that is well costs a load.
    #[inline]
    pub fn report(&self, level: Level) {
        if level.is_degraded() || !self.shared.well.load(Ordering::Relaxed) {
            self.change(level);
        }
    }

    #[cold]
    fn change(&self, level: Level) {
        let (now, counts) = (self.shared.clock.now(), self.shared.counts);
        let mut lately = self.lately();
        let changed = lately.report(now, level, now.saturating_add(counts));
        // Under the lock: the last to say so is the last that was told.
        self.shared.well.store(lately.is_well(now), Ordering::Relaxed);
        drop(lately);
        if changed {
            if let Some(registry) = self.shared.registry.upgrade() {
                registry.refresh();
            }
        }
    }

    fn lately(&self) -> MutexGuard<'_, Lately> {
        self.shared.lately.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A drill: its layers answer from rungs of this level or worse, as if the service had failed, until it is
    /// [`Level::Full`] again. An open chain without such a rung fails.
    pub fn set_drill(&self, level: Level) {
        self.shared.drill.store(level.as_u8(), Ordering::Relaxed);
    }

    /// The level of the drill under way; full without one.
    #[inline]
    pub fn drill(&self) -> Level {
        Level::from_u8(self.shared.drill.load(Ordering::Relaxed)).unwrap_or(Level::Failed)
    }
}

impl DegradationRegistry {
    /// Nothing yet: level 0. `name` is shown in events.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self::checked(name.into(), Duration::from_secs(10), 3)
    }

    /// With other windows: how long each is, and how many clean ones a step up takes.
    ///
    /// # Errors
    ///
    /// If the window is shorter than a millisecond, or if no clean one is asked for.
    pub fn with_windows(
        name: impl Into<Arc<str>>,
        window: Duration,
        clean_windows: u32,
    ) -> Result<Self, ConfigError> {
        if window < Duration::from_millis(1) {
            return Err(ConfigError::new("window", window, "must be at least 1 ms"));
        }
        if clean_windows == 0 {
            return Err(ConfigError::new("clean_windows", 0, "must be at least 1, or the level flaps"));
        }
        Ok(Self::checked(name.into(), window, clean_windows))
    }

    fn checked(name: Arc<str>, window: Duration, clean_windows: u32) -> Self {
        let declared = Declared::new(window, clean_windows);
        let state = Mutex::new(State { components: BTreeMap::new(), declared, forced: None });
        let (levels, _) = watch::channel(SystemLevel::default());
        let (clock, observer) = (Clock::start(), Observer::default());
        let outbox = Outbox::default();
        let inner = Inner { name, clock, window, state, levels, observer, outbox };
        Self { inner: Arc::new(inner), max: Level::Minimal }
    }

    /// The worst level at which [`check`](Self::check) still succeeds. Default minimal: all but failed.
    #[must_use]
    pub fn max_acceptable(self, max: Level) -> Self {
        Self { max, ..self }
    }

    /// Reports changes to this observer. The first one stays; a `Vec` of several is one.
    #[must_use]
    pub fn observe(self, observer: Arc<dyn Observe>) -> Self {
        self.inner.observer.set(observer);
        self
    }

    /// The component of this name; made now, with this need, if there is none yet. The need of one that is there stays what it is: to
    /// give it another one, make the registry anew.
    pub fn component(&self, name: impl Into<Arc<str>>, need: Need) -> Component {
        let name = name.into();
        let make = || {
            let (name, registry) = (Arc::clone(&name), Arc::downgrade(&self.inner));
            let (lately, well, drill) = (Mutex::default(), AtomicBool::new(true), AtomicU8::default());
            let (clock, counts) = (self.inner.clock, nanos(self.inner.window / 4));
            Component {
                shared: Arc::new(Reported { name, need, lately, well, drill, clock, counts, registry }),
            }
        };
        self.inner.lock().components.entry(Arc::clone(&name)).or_insert_with(make).clone()
    }

    /// All components, sorted by name.
    pub fn components(&self) -> Vec<Component> {
        self.inner.lock().components.values().cloned().collect()
    }

    /// The level now.
    pub fn levels(&self) -> SystemLevel {
        self.inner.refresh()
    }

    /// Shows each change of the level.
    pub fn watch(&self) -> watch::Receiver<SystemLevel> {
        self.inner.levels.subscribe()
    }

    /// Says that the level is this, whatever is true, for a drill; `None` ends it. No call is answered otherwise for it:
    /// [`Component::set_drill`] does that.
    pub fn force(&self, level: Option<Level>) {
        self.inner.lock().forced = level;
        self.inner.refresh();
    }

    /// Whether the system is good enough to be used.
    ///
    /// # Errors
    ///
    /// If the instant level is worse than the maximum acceptable one.
    pub fn check(&self) -> Result<Level, ServiceDegraded> {
        let level = self.levels().instant;
        if level <= self.max {
            return Ok(level);
        }
        let degraded = |component: &Component| component.level().is_degraded();
        let components = self.components().into_iter().filter(degraded);
        let components = components.map(|component| Arc::clone(&component.shared.name)).collect();
        Err(ServiceDegraded { name: Arc::clone(&self.inner.name), level, max: self.max, components })
    }

    /// Moves the declared level while nothing is reported: to be spawned, and to be aborted at the end.
    ///
    /// # Errors
    ///
    /// Without tokio's timer; else it never ends.
    pub async fn run(&self) -> Result<std::convert::Infallible, NoTimer> {
        loop {
            self.inner.refresh();
            Timer::at(after(Instant::now(), self.inner.window / 4))?.await;
        }
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refresh(&self) -> SystemLevel {
        let mut state = self.lock();
        let parts = state.components.values().map(|component| (component.shared.need, component.level()));
        let truth = level(parts).0;
        let instant = state.forced.unwrap_or(truth);
        state.declared.advance(self.clock.now(), instant);
        let now = SystemLevel { instant, declared: state.declared.level() };
        // Under the lock, so that the last to be told is the last that was found.
        let changed = self.levels.send_if_modified(|seen| std::mem::replace(seen, now) != now);
        if changed && self.observer.is_set() {
            let SystemLevel { instant, declared } = now;
            self.outbox.push(Event::SystemLevel { instant, declared });
        }
        drop(state);
        if changed {
            self.outbox.deliver(&self.observer, &self.name);
        }
        now
    }
}

/// A system is more degraded than is acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDegraded {
    name: Arc<str>,
    level: Level,
    max: Level,
    components: Vec<Arc<str>>,
}

impl ServiceDegraded {
    /// The level that it has.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The degraded components, sorted by name.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.components.iter().map(|name| &**name)
    }
}

impl fmt::Display for ServiceDegraded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, level, max, components } = self;
        write!(f, "`{name}` is degraded to level {level}, and {max} is the worst that is acceptable")?;
        for (n, component) in components.iter().enumerate() {
            write!(f, "{} `{component}`", if n == 0 { "; degraded:" } else { "," })?;
        }
        Ok(())
    }
}

impl std::error::Error for ServiceDegraded {}
