#![allow(dead_code, reason = "each test binary needs a part")]

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use buttress_core::observe::PageKind;
use buttress_core::{BoxError, Event, Observe, observe_fn};
use buttress_heal::{
    Action, Answer, Attempt, BoxFuture, Build, Check, CheckSettings, Factory, Fixes, Health, Incident, Pager,
    Subject, Supervisor, SupervisorHandle, Symptom, Then,
};
use tokio::time::Instant;
use tower::Service;

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// What the supervised clients of a test talk to.
pub(crate) struct World {
    pub(crate) start: Instant,
    targets: Vec<AtomicBool>,
    /// Clients up to this generation are dead, however well their target is.
    poisoned: AtomicU64,
    /// Each client that was built: when, its generation, its target.
    builds: Mutex<Vec<(Duration, u64, usize)>>,
    pub(crate) pings: AtomicUsize,
    /// How many seconds it takes to connect.
    pub(crate) connect: AtomicU64,
}

/// A client of one of its targets.
#[derive(Clone)]
pub(crate) struct Client {
    world: Arc<World>,
    pub(crate) generation: u64,
    pub(crate) target: usize,
}

impl World {
    pub(crate) fn new(targets: usize) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            targets: (0..targets).map(|_| AtomicBool::new(true)).collect(),
            poisoned: AtomicU64::new(0),
            builds: Mutex::default(),
            pings: AtomicUsize::new(0),
            connect: AtomicU64::new(0),
        })
    }

    pub(crate) fn set(&self, target: usize, is_well: bool) {
        self.targets[target].store(is_well, SeqCst);
    }

    /// All clients that exist are dead; new ones work.
    pub(crate) fn poison(&self) {
        let last = self.builds.lock().unwrap().iter().map(|build| build.1).max();
        self.poisoned.store(last.unwrap_or(0), SeqCst);
    }

    pub(crate) fn builds(&self) -> Vec<(Duration, u64, usize)> {
        self.builds.lock().unwrap().clone()
    }

    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn factory(self: &Arc<Self>) -> impl Factory<Service = Client> + use<> {
        let world = Arc::clone(self);
        move |build: Build| {
            let world = Arc::clone(&world);
            async move {
                let Build { generation, target, .. } = build;
                tokio::time::sleep(secs(world.connect.load(SeqCst))).await;
                if !world.targets[target].load(SeqCst) {
                    return Err("connection refused");
                }
                world.builds.lock().unwrap().push((world.now(), generation, target));
                Ok(Client { world, generation, target })
            }
        }
    }
}

impl Client {
    pub(crate) fn works(&self) -> Result<(), &'static str> {
        let is_poisoned = self.generation != 0 && self.generation <= self.world.poisoned.load(SeqCst);
        match self.world.targets[self.target].load(SeqCst) && !is_poisoned {
            true => Ok(()),
            false => Err("broken pipe"),
        }
    }

    pub(crate) async fn ping(self) -> Result<(), &'static str> {
        self.world.pings.fetch_add(1, SeqCst);
        self.works()
    }
}

impl Service<()> for Client {
    type Response = usize;
    type Error = BoxError;
    type Future = std::future::Ready<Result<usize, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(self.works().map(|()| self.target).map_err(Into::into))
    }
}

/// A supervisor of the clients of this world that pings them, with a pager and an observer that keep records.
pub(crate) fn supervise(
    world: &Arc<World>,
) -> (Supervisor<impl Factory<Service = Client> + use<>>, Arc<Pages>, Arc<Events>) {
    let (pages, events) = (Pages::new(), Events::new());
    let supervisor = Supervisor::new("db", world.factory()).ping(Client::ping);
    let supervisor = supervisor.pager(Arc::clone(&pages)).observe(events.observer());
    (supervisor, pages, events)
}

/// One thing that a pager was told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Told {
    pub(crate) at: Duration,
    pub(crate) kind: PageKind,
    pub(crate) key: String,
    pub(crate) health: Health,
    pub(crate) text: String,
}

/// A pager that remembers.
pub(crate) struct Pages {
    start: Instant,
    told: Mutex<Vec<Told>>,
    /// So many of the next sendings fail.
    pub(crate) failures: AtomicUsize,
    pub(crate) attempts: AtomicUsize,
}

impl Pages {
    pub(crate) fn new() -> Arc<Self> {
        let (told, failures, attempts) = (Mutex::default(), AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { start: Instant::now(), told, failures, attempts })
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    pub(crate) fn kinds(&self) -> Vec<PageKind> {
        self.told().iter().map(|told| told.kind).collect()
    }

    fn tell(&self, kind: PageKind, incident: &Incident) -> BoxFuture<'static, Result<(), BoxError>> {
        self.attempts.fetch_add(1, SeqCst);
        let fails = self.failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
        if fails {
            return Box::pin(std::future::ready(Err("HTTP 500".into())));
        }
        let (key, health, text) = (incident.key().to_owned(), incident.worst(), incident.to_string());
        self.told.lock().unwrap().push(Told { at: self.start.elapsed(), kind, key, health, text });
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Pager for Pages {
    fn trigger<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        self.tell(PageKind::Trigger, incident)
    }

    fn update<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        self.tell(PageKind::Update, incident)
    }

    fn resolve<'a>(&'a self, incident: &'a Incident) -> BoxFuture<'a, Result<(), BoxError>> {
        self.tell(PageKind::Resolve, incident)
    }
}

/// An observer that remembers.
pub(crate) struct Events {
    start: Instant,
    seen: Mutex<Vec<(Duration, Event)>>,
}

impl Events {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), seen: Mutex::default() })
    }

    pub(crate) fn observer(self: &Arc<Self>) -> Arc<dyn Observe> {
        let events = Arc::clone(self);
        observe_fn(move |_, event| {
            let at = events.start.elapsed();
            events.seen.lock().unwrap().push((at, event.clone()));
        })
    }

    pub(crate) fn all(&self) -> Vec<(Duration, Event)> {
        self.seen.lock().unwrap().clone()
    }
}

/// When each action was started, by the timelines of all incidents.
pub(crate) fn actions(handle: &SupervisorHandle) -> Vec<String> {
    let incidents = handle.incidents();
    let timeline = incidents.iter().flat_map(Incident::timeline);
    timeline
        .filter_map(|(_, happened)| match happened {
            buttress_heal::Happened::Acted { action } => Some(action.to_string()),
            _ => None,
        })
        .collect()
}

/// A check that fails while it is switched off, and counts.
pub(crate) struct Switch {
    name: &'static str,
    symptom: Symptom,
    settings: CheckSettings,
    pub(crate) fails: AtomicBool,
    pub(crate) runs: AtomicUsize,
}

impl Switch {
    /// Looked at every second, believed at once.
    pub(crate) fn new(name: &'static str, symptom: Symptom) -> Arc<Self> {
        let settings =
            CheckSettings { every: SECOND, fall: 1, rise: 1, jitter_percent: 0, ..CheckSettings::default() };
        Self::with(name, symptom, settings)
    }

    pub(crate) fn with(name: &'static str, symptom: Symptom, settings: CheckSettings) -> Arc<Self> {
        let (fails, runs) = (AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Self { name, symptom, settings, fails, runs })
    }

    pub(crate) fn set(&self, is_well: bool) {
        self.fails.store(!is_well, SeqCst);
    }
}

/// A handle of a check or an action, which the supervisor has as well.
pub(crate) struct Of<T>(pub(crate) Arc<T>);

impl<S> Check<S> for Of<Switch> {
    fn name(&self) -> &str {
        self.0.name
    }

    fn symptom(&self) -> Symptom {
        self.0.symptom.clone()
    }

    fn settings(&self) -> CheckSettings {
        self.0.settings.clone()
    }

    fn run<'a>(&'a self, _: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        self.0.runs.fetch_add(1, SeqCst);
        let answer = if self.0.fails.load(SeqCst) { Answer::fail("off") } else { Answer::Pass };
        Box::pin(std::future::ready(answer))
    }
}

/// An action that remembers when it was started, and does what the test says.
pub(crate) struct Remedy {
    name: &'static str,
    fixes: Fixes,
    start: Instant,
    started: Mutex<Vec<Duration>>,
    running: AtomicUsize,
    pub(crate) most_at_once: AtomicUsize,
    act: Box<dyn Fn() -> BoxFuture<'static, Result<Then, BoxError>> + Send + Sync>,
}

impl Remedy {
    pub(crate) fn new(
        name: &'static str,
        act: impl Fn() -> BoxFuture<'static, Result<Then, BoxError>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Self::against(name, Fixes::Any, act)
    }

    pub(crate) fn against(
        name: &'static str,
        fixes: Fixes,
        act: impl Fn() -> BoxFuture<'static, Result<Then, BoxError>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (start, started, running) = (Instant::now(), Mutex::default(), AtomicUsize::new(0));
        let (most_at_once, act) = (AtomicUsize::new(0), Box::new(act));
        Arc::new(Self { name, fixes, start, started, running, most_at_once, act })
    }

    /// It ends well at once, and changes nothing.
    pub(crate) fn useless(name: &'static str) -> Arc<Self> {
        Self::new(name, || Box::pin(std::future::ready(Ok(Then::Nothing))))
    }

    /// It switches these on.
    pub(crate) fn cure(name: &'static str, switch: &Arc<Switch>) -> Arc<Self> {
        let switch = Arc::clone(switch);
        Self::new(name, move || {
            switch.set(true);
            Box::pin(std::future::ready(Ok(Then::Nothing)))
        })
    }

    pub(crate) fn started(&self) -> Vec<Duration> {
        self.started.lock().unwrap().clone()
    }
}

impl Action for Of<Remedy> {
    fn name(&self) -> &str {
        self.0.name
    }

    fn fixes(&self) -> Fixes {
        self.0.fixes.clone()
    }

    fn heal<'a>(&'a self, _: &'a Attempt) -> BoxFuture<'a, Result<Then, BoxError>> {
        self.0.started.lock().unwrap().push(self.0.start.elapsed());
        let running = Running::of(&self.0);
        let act = (self.0.act)();
        Box::pin(async move {
            let _running = running;
            act.await
        })
    }
}

struct Running(Arc<Remedy>);

impl Running {
    fn of(remedy: &Arc<Remedy>) -> Self {
        let now = remedy.running.fetch_add(1, SeqCst) + 1;
        remedy.most_at_once.fetch_max(now, SeqCst);
        Self(Arc::clone(remedy))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// A supervisor of clients that always work, with this check.
pub(crate) fn watched(
    world: &Arc<World>,
    switch: &Arc<Switch>,
) -> (Supervisor<impl Factory<Service = Client> + use<>>, Arc<Pages>, Arc<Events>) {
    let (pages, events) = (Pages::new(), Events::new());
    let supervisor = Supervisor::new("db", world.factory()).check(Of(Arc::clone(switch)));
    let supervisor = supervisor.pager(Arc::clone(&pages)).observe(events.observer());
    (supervisor, pages, events)
}

pub(crate) fn seconds(times: &[Duration]) -> Vec<u64> {
    times.iter().map(|time| time.as_secs_f64().round() as u64).collect()
}
