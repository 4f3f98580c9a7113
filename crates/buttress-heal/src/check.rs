use std::sync::Arc;
use std::time::Duration;

use buttress_core::BoxError;
use buttress_core::observe::Health;

use crate::BoxFuture;
use crate::signals::Signals;

/// Finds out whether something is well.
///
/// A check may hang, fail or panic: it is run within [`Monitor::timeout`], never twice at once, and its panic counts as
/// an answer that nobody knows. It must not block its thread. It is dropped where it stands when its time is over.
pub trait Check<S>: Send + Sync {
    /// What it is called in events, incidents and pages.
    fn name(&self) -> &str;

    /// What is wrong when it fails: decides which actions can help, and how bad it is.
    fn symptom(&self) -> Symptom;

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
    /// ([`Monitor::unknown_is_failure_after`]).
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
    /// How bad it is by itself, unless [`Monitor::severity`] says otherwise: connectivity, pool and credentials are
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

/// A [`Check`] and how often it is run, for how long, and how many answers it takes to believe it.
///
/// | setting | default |
/// |---|---|
/// | [`every`](Self::every) | 5 s ± 10 % ([`jitter`](Self::jitter)) |
/// | [`in_doubt_every`](Self::in_doubt_every) | 250 ms, at most a tenth of `every` if that is longer |
/// | [`timeout`](Self::timeout) | 1 s |
/// | [`fall`](Self::fall) | 3 failures in a row |
/// | [`rise`](Self::rise) | 2 passes in a row |
/// | [`unknown_is_failure_after`](Self::unknown_is_failure_after) | 3 panics in a row |
/// | [`severity`](Self::severity) | the symptom's own |
pub struct Monitor<S> {
    pub(crate) check: Arc<dyn Check<S>>,
    pub(crate) every: Duration,
    pub(crate) in_doubt_every: Option<Duration>,
    pub(crate) jitter_percent: u8,
    pub(crate) timeout: Duration,
    pub(crate) fall: u32,
    pub(crate) rise: u32,
    pub(crate) unknown_is_failure_after: u32,
    pub(crate) severity: Health,
}

impl<S> Monitor<S> {
    /// This check, with the defaults.
    pub fn new(check: impl Check<S> + 'static) -> Self {
        let severity = check.symptom().severity();
        Self {
            check: Arc::new(check),
            every: Duration::from_secs(5),
            in_doubt_every: None,
            jitter_percent: 10,
            timeout: Duration::from_secs(1),
            fall: 3,
            rise: 2,
            unknown_is_failure_after: 3,
            severity,
        }
    }

    /// From the start of one run to the start of the next while all is well. Default 5 s.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Self { every, ..self }
    }

    /// The same while it is not clear how things are: after a first failure until [`fall`](Self::fall), while an action is
    /// verified, while calls fail. HAProxy's `fastinter`.
    #[must_use]
    pub fn in_doubt_every(self, every: Duration) -> Self {
        Self { in_doubt_every: Some(every), ..self }
    }

    /// Spreads the intervals by so many percent up and down, so that the checks of a fleet do not fall together. Default 10.
    #[must_use]
    pub fn jitter(self, percent: u8) -> Self {
        Self { jitter_percent: percent, ..self }
    }

    /// How long one run may take. Default 1 s.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// How many failures in a row it takes to believe that something is wrong. Default 3 (Kubernetes `failureThreshold`).
    #[must_use]
    pub fn fall(self, failures: u32) -> Self {
        Self { fall: failures, ..self }
    }

    /// How many passes in a row it takes to believe that it is over. Default 2.
    #[must_use]
    pub fn rise(self, passes: u32) -> Self {
        Self { rise: passes, ..self }
    }

    /// How many panics in a row are one failure. Default 3.
    #[must_use]
    pub fn unknown_is_failure_after(self, panics: u32) -> Self {
        Self { unknown_is_failure_after: panics, ..self }
    }

    /// How ill the whole is when this check alone fails. Default: [`Symptom::severity`].
    #[must_use]
    pub fn severity(self, severity: Health) -> Self {
        Self { severity, ..self }
    }
}

impl<S> std::fmt::Debug for Monitor<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("Monitor");
        debug.field("check", &self.check.name()).field("every", &self.every).field("timeout", &self.timeout);
        debug.field("fall", &self.fall).field("rise", &self.rise).field("severity", &self.severity).finish()
    }
}

impl<S, C: Check<S> + 'static> From<C> for Monitor<S> {
    fn from(check: C) -> Self {
        Self::new(check)
    }
}

/// A check from a closure over a clone of the service: `Ok` passes, an error fails with its text.
///
/// While there is no service, it fails without being asked.
///
/// ```
/// use buttress_heal::{Monitor, Symptom, check_fn};
/// # #[derive(Clone)] struct Client;
/// # impl Client { async fn ping(&mut self) -> Result<(), std::io::Error> { Ok(()) } }
///
/// let check = check_fn("ping", Symptom::Connectivity, |mut client: Client| async move { client.ping().await });
/// let monitor = Monitor::new(check).every(std::time::Duration::from_secs(1));
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
                Err(error) => Answer::fail(error.into().to_string()),
            }
        })
    }
}
