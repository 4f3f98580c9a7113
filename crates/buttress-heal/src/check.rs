use std::sync::Arc;
use std::time::Duration;

use buttress_core::BoxError;
use buttress_core::observe::Health;

use crate::BoxFuture;
use crate::signals::Signals;

/// Finds out whether something is well.
///
/// A check may hang, fail or panic: it is run within [`CheckSettings::timeout`], never twice at once, and its panic counts as
/// an answer that nobody knows. It is first run when there is a service. It must not block its thread. It is dropped where it stands when its time is over.
pub trait Check<S>: Send + Sync {
    /// What it is called in events, incidents and pages.
    fn name(&self) -> &str;

    /// What is wrong when it fails: decides which actions can help, and how bad it is.
    fn symptom(&self) -> Symptom;

    /// How often it is run, and how often it must fail to be believed.
    fn settings(&self) -> CheckSettings {
        CheckSettings::default()
    }

    /// Whether it says anything about a service that takes no calls yet: then it is asked before a new generation takes calls, and
    /// whether the first target is well again. Default: for [`Symptom::Connectivity`] and [`Symptom::Credentials`].
    fn probes(&self) -> bool {
        matches!(self.symptom(), Symptom::Connectivity | Symptom::Credentials)
    }

    /// Looks once.
    fn run<'a>(&'a self, subject: Subject<'a, S>) -> BoxFuture<'a, Answer>;
}

/// What a check looks at.
#[derive(Debug)]
pub struct Subject<'a, S> {
    /// The service as calls see it, or a new one that is to take its place; `None` while there is none.
    pub service: Option<&'a S>,
    /// Its generation: 1 for the first service that was built.
    pub generation: u64,
    /// Which target it talks to, from 0 on.
    pub target: usize,
    /// What the calls of this generation met; empty for a service that has had none yet.
    pub traffic: &'a Signals,
}

impl<S> Clone for Subject<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Subject<'_, S> {}

/// The five answers of a check.
///
/// A check itself answers with `Pass`, `Fail` or `Skipped`; the other two are what the supervisor makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// All is well.
    Pass,
    /// It is not, for this reason. The text is shown in pages: no secrets.
    Fail(Arc<str>),
    /// There was no answer in time, which is a failure.
    TimedOut,
    /// The check panicked: nobody knows. Several of these in a row are a failure
    /// ([`CheckSettings::unknown_is_failure_after`]).
    Panicked,
    /// There was nothing to look at (no traffic, no service yet): as if it had not been run.
    Skipped,
}

impl Answer {
    /// A failure for this reason.
    pub fn fail(reason: impl Into<Arc<str>>) -> Self {
        Self::Fail(reason.into())
    }

    /// The answer in a few words.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pass => "passed",
            Self::Fail(_) => "failed",
            Self::TimedOut => "timed out",
            Self::Panicked => "panicked",
            Self::Skipped => "skipped",
        }
    }
}

/// What is wrong, in the terms in which actions say what they help against.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Symptom {
    /// The dependency cannot be reached, or does not answer.
    Connectivity,
    /// Answers take too long.
    ResponseTime,
    /// Work piles up.
    Queue,
    /// The process needs too much memory.
    Memory,
    /// The pool of connections is exhausted, or its connections are dead.
    Pool,
    /// Credentials are refused.
    Credentials,
    /// The circuit breaker is open.
    CircuitBreaker,
    /// Anything else, by name.
    Other(Arc<str>),
}

impl Symptom {
    /// How bad it is by itself, unless [`CheckSettings::severity`] says otherwise: connectivity, pool and credentials are
    /// critical, memory and the circuit breaker unhealthy, all else degraded.
    pub fn severity(&self) -> Health {
        match self {
            Self::Connectivity | Self::Pool | Self::Credentials => Health::Critical,
            Self::Memory | Self::CircuitBreaker => Health::Unhealthy,
            Self::ResponseTime | Self::Queue | Self::Other(_) => Health::Degraded,
        }
    }

    /// The symptom in a few words.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Connectivity => "connectivity",
            Self::ResponseTime => "response time",
            Self::Queue => "queue",
            Self::Memory => "memory",
            Self::Pool => "pool",
            Self::Credentials => "credentials",
            Self::CircuitBreaker => "circuit breaker",
            Self::Other(name) => name,
        }
    }
}

/// How often a check is run, for how long, and how many answers it takes to believe it.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSettings {
    /// From the start of one run to the start of the next while all is well. Default 5 s.
    pub every: Duration,
    /// The same while it is not clear how things are: after a first failure, while an action is verified, while calls fail
    /// (HAProxy's `fastinter`). Default 250 ms; never more than `every`.
    pub in_doubt_every: Duration,
    /// Spreads the intervals by so many percent up and down, so that the checks of a fleet do not fall together; at most 100.
    /// Default 10.
    pub jitter_percent: u8,
    /// How long one run may take. Default 1 s.
    pub timeout: Duration,
    /// How many failures in a row it takes to believe that something is wrong. Default 3 (Kubernetes `failureThreshold`).
    pub fall: u32,
    /// How many passes in a row it takes to believe that it is over. Default 2.
    pub rise: u32,
    /// How many panics in a row are a failure. Default 3.
    pub unknown_is_failure_after: u32,
    /// How ill the whole is when this check alone fails. Default: the symptom's own, [`Symptom::severity`].
    pub severity: Option<Health>,
}

impl Default for CheckSettings {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(5),
            in_doubt_every: Duration::from_millis(250),
            jitter_percent: 10,
            timeout: Duration::from_secs(1),
            fall: 3,
            rise: 2,
            unknown_is_failure_after: 3,
            severity: None,
        }
    }
}

/// A [`Check`] with other [`CheckSettings`].
///
/// ```
/// use std::time::Duration;
/// use buttress_heal::{Monitor, Symptom, check_fn};
/// # #[derive(Clone)] struct Client;
/// # impl Client { async fn ping(&mut self) -> Result<(), std::io::Error> { Ok(()) } }
///
/// let ping = check_fn("ping", Symptom::Connectivity, |mut client: Client| async move { client.ping().await });
/// let ping = Monitor::new(ping).every(Duration::from_secs(1)).timeout(Duration::from_millis(500));
/// ```
#[derive(Clone, Debug)]
pub struct Monitor<C> {
    check: C,
    settings: CheckSettings,
}

impl<C> Monitor<C> {
    /// This check, with the default settings.
    pub fn new(check: C) -> Self {
        Self { check, settings: CheckSettings::default() }
    }

    /// All settings at once.
    #[must_use]
    pub fn settings(self, settings: CheckSettings) -> Self {
        Self { settings, ..self }
    }

    /// See [`CheckSettings::every`].
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.settings.every = every;
        self
    }

    /// See [`CheckSettings::in_doubt_every`].
    #[must_use]
    pub fn in_doubt_every(mut self, every: Duration) -> Self {
        self.settings.in_doubt_every = every;
        self
    }

    /// See [`CheckSettings::jitter_percent`].
    #[must_use]
    pub fn jitter(mut self, percent: u8) -> Self {
        self.settings.jitter_percent = percent;
        self
    }

    /// See [`CheckSettings::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// See [`CheckSettings::fall`].
    #[must_use]
    pub fn fall(mut self, failures: u32) -> Self {
        self.settings.fall = failures;
        self
    }

    /// See [`CheckSettings::rise`].
    #[must_use]
    pub fn rise(mut self, passes: u32) -> Self {
        self.settings.rise = passes;
        self
    }

    /// See [`CheckSettings::unknown_is_failure_after`].
    #[must_use]
    pub fn unknown_is_failure_after(mut self, panics: u32) -> Self {
        self.settings.unknown_is_failure_after = panics;
        self
    }

    /// See [`CheckSettings::severity`].
    #[must_use]
    pub fn severity(mut self, severity: Health) -> Self {
        self.settings.severity = Some(severity);
        self
    }
}

impl<S, C: Check<S>> Check<S> for Monitor<C> {
    fn name(&self) -> &str {
        self.check.name()
    }

    fn symptom(&self) -> Symptom {
        self.check.symptom()
    }

    fn settings(&self) -> CheckSettings {
        self.settings.clone()
    }

    fn probes(&self) -> bool {
        self.check.probes()
    }

    fn run<'a>(&'a self, subject: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        self.check.run(subject)
    }
}

/// A check from a closure over a clone of the service: `Ok` passes, an error fails with its text.
///
/// While there is no service, it fails without being asked.
///
/// ```
/// use buttress_heal::{Symptom, check_fn};
/// # #[derive(Clone)] struct Client;
/// # impl Client { async fn ping(&mut self) -> Result<(), std::io::Error> { Ok(()) } }
///
/// check_fn("ping", Symptom::Connectivity, |mut client: Client| async move { client.ping().await });
/// ```
pub fn check_fn<S, F, Fut, E>(name: impl Into<Arc<str>>, symptom: Symptom, run: F) -> CheckFn<F>
where
    F: Fn(S) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Into<BoxError>,
{
    CheckFn { name: name.into(), symptom, run }
}

/// What [`check_fn`] makes.
#[derive(Clone)]
pub struct CheckFn<F> {
    name: Arc<str>,
    symptom: Symptom,
    run: F,
}

impl<F> std::fmt::Debug for CheckFn<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckFn").field("name", &self.name).field("symptom", &self.symptom).finish()
    }
}

impl<S, F, Fut, E> Check<S> for CheckFn<F>
where
    S: Clone,
    F: Fn(S) -> Fut + Send + Sync,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError>,
{
    fn name(&self) -> &str {
        &self.name
    }

    fn symptom(&self) -> Symptom {
        self.symptom.clone()
    }

    fn run<'a>(&'a self, subject: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        let Some(service) = subject.service else {
            return Box::pin(std::future::ready(Answer::fail("there is no connection")));
        };
        let asked = (self.run)(service.clone());
        Box::pin(async move {
            match asked.await {
                Ok(()) => Answer::Pass,
                Err(error) => Answer::error(&*error.into()),
            }
        })
    }
}
