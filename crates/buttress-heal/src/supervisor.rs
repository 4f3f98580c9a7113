use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::{BoxError, ConfigError, Mode, NoTimer, Observe, Timer};
use tokio::time::Instant;

use crate::check::{Check, CheckFn, Symptom, check_fn};
use crate::checks::TrafficCheck;
use crate::factory::Factory;
use crate::failback::Failback;
use crate::generations::Retire;
use crate::handle::SupervisorHandle;
use crate::health::Policy;
use crate::intensity::Intensity;
use crate::ladder::{self, Rung};
use crate::pager::{self, Pager};
use crate::service::Heal;
use crate::settings::SwapSettings;
use crate::siblings::Siblings;
use crate::task;

/// Builds a service, watches it, mends it, and calls a human when it cannot.
///
/// | setting | default |
/// |---|---|
/// | [`check`](Self::check), [`ping`](Self::ping) | the calls themselves: [`TrafficCheck`] |
/// | [`rung`](Self::rung) | a new pool three times, the other targets, a restart three times |
/// | [`pager`](Self::pager) | the log |
/// | [`policy`](Self::policy) | the worst severity |
/// | [`stable_for`](Self::stable_for) | 60 s without symptoms, and an incident is over |
/// | [`page_after`](Self::page_after) | 2 min, or at once when nothing that may be tried has helped |
/// | [`page_after_failures`](Self::page_after_failures) | not counted |
/// | [`patience`](Self::patience) | 60 s |
/// | [`intensity`](Self::intensity) | 3 restarts within 5 min |
/// | [`warm_up`](Self::warm_up) | 3 passes of each check that probes |
/// | [`swap`](Self::swap), [`failback`](Self::failback) | see [`SwapSettings`], [`Failback`] |
pub struct Supervisor<F: Factory> {
    pub(crate) name: Arc<str>,
    pub(crate) factory: F,
    /// `None` for one without a name.
    pub(crate) targets: Option<Vec<Arc<str>>>,
    pub(crate) checks: Vec<Arc<dyn Check<F::Service>>>,
    pub(crate) rungs: Vec<Rung>,
    pub(crate) pager: Arc<dyn Pager>,
    pub(crate) policy: Policy,
    pub(crate) stable_for: Duration,
    pub(crate) page_after: Duration,
    pub(crate) page_after_failures: Option<u32>,
    pub(crate) patience: Duration,
    pub(crate) intensity: Intensity,
    pub(crate) warm_up: u32,
    pub(crate) failback: Failback,
    pub(crate) swap: Arc<SwapSettings>,
    pub(crate) retire: Option<Retire<F::Service>>,
    pub(crate) siblings: Option<Siblings>,
    pub(crate) mode: Mode,
    pub(crate) observer: Option<Arc<dyn Observe>>,
}

impl<F: Factory> Supervisor<F> {
    /// A supervisor of what this factory builds; `name` is what events, incidents and errors call it.
    pub fn new(name: impl Into<Arc<str>>, factory: F) -> Self {
        Self {
            name: name.into(),
            factory,
            targets: None,
            checks: Vec::new(),
            rungs: Vec::new(),
            pager: pager::standard(),
            policy: Policy::default(),
            stable_for: Duration::from_secs(60),
            page_after: Duration::from_secs(120),
            page_after_failures: None,
            patience: Duration::from_secs(60),
            intensity: Intensity::default(),
            warm_up: 3,
            failback: Failback::default(),
            swap: SwapSettings::standard(),
            retire: None,
            siblings: None,
            mode: Mode::Enforce,
            observer: None,
        }
    }

    /// Where the factory can connect to, the preferred one first; it is told the index. Default: one target.
    #[must_use]
    pub fn targets<T: Into<Arc<str>>>(self, names: impl IntoIterator<Item = T>) -> Self {
        Self { targets: Some(names.into_iter().map(Into::into).collect()), ..self }
    }

    /// Runs this check as well.
    #[must_use]
    pub fn check(mut self, check: impl Check<F::Service> + 'static) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// Checks connectivity by this closure over a clone of the service: every 5 s, for 1 s at most, ill after three failures.
    /// [`Monitor`](crate::Monitor) over a [`check_fn`] changes that.
    #[must_use]
    pub fn ping<C, Fut, E>(self, ping: C) -> Self
    where
        C: Fn(F::Service) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
        CheckFn<C>: Check<F::Service>,
    {
        self.check(check_fn("ping", Symptom::Connectivity, ping))
    }

    /// Adds a rung below those that there are. With the first one, the default ladder is gone; [`Rung`] has its rungs too.
    #[must_use]
    pub fn rung(mut self, rung: impl Into<Rung>) -> Self {
        self.rungs.push(rung.into());
        self
    }

    /// Who calls a human.
    #[must_use]
    pub fn pager(self, pager: impl Pager + 'static) -> Self {
        Self { pager: Arc::new(pager), ..self }
    }

    /// How the checks together make one health.
    #[must_use]
    pub fn policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// So long without symptoms, and an incident is over: attempts count anew, and the page is resolved. Nothing else resets a
    /// counter. Default 60 s.
    #[must_use]
    pub fn stable_for(self, time: Duration) -> Self {
        Self { stable_for: time, ..self }
    }

    /// An incident that is open for longer is a human's, whatever the ladder still has to offer (it goes on). Default 2 min.
    #[must_use]
    pub fn page_after(self, time: Duration) -> Self {
        Self { page_after: time, ..self }
    }

    /// A human is called at the latest when a check fails for the `failures`th time in a row, whatever the ladder still has to
    /// offer (it goes on): the bound is a number of answers, and no slow machine and no slow check moves it. For what hardly
    /// mends itself, such as credentials.
    ///
    /// What counts is an answer that failed or timed out, of a check of the service that takes calls; a new generation is no
    /// answer, nor is what was skipped or cut off by a swap, or a probe of a service that takes no calls yet. An attempt to
    /// connect where there is no service counts as a check. A failure counts once it is believed
    /// ([`fall`](crate::CheckSettings::fall)), so that a lower number than that is as good as it. While healing is paused or
    /// restarts are held, nobody is called for it. Default: not counted.
    #[must_use]
    pub fn page_after_failures(self, failures: u32) -> Self {
        Self { page_after_failures: Some(failures), ..self }
    }

    /// If a rung can be tried again so soon, it is waited for before a human is called. Default 60 s. A later rung that can run now
    /// is preferred to waiting longer than 10 s for an earlier one.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// How many restarts are bearable.
    #[must_use]
    pub fn intensity(self, intensity: Intensity) -> Self {
        Self { intensity, ..self }
    }

    /// So many passes in a row of each check that [probes](Check::probes), before a service that is built while another one still
    /// answers takes its place. Default 3.
    #[must_use]
    pub fn warm_up(self, passes: u32) -> Self {
        Self { warm_up: passes, ..self }
    }

    /// When to go back to the first target.
    #[must_use]
    pub fn failback(self, failback: Failback) -> Self {
        Self { failback, ..self }
    }

    /// How one generation takes the place of another.
    #[must_use]
    pub fn swap(self, settings: SwapSettings) -> Self {
        Self { swap: Arc::new(settings), ..self }
    }

    /// Closes a service whose generation is over; without it, it is just dropped.
    #[must_use]
    pub fn retire<R, Fut>(self, retire: R) -> Self
    where
        R: Fn(F::Service) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        Self { retire: Some(Arc::new(move |service| Box::pin(retire(service)))), ..self }
    }

    /// Supervisors of services that depend on the same thing: when more than half of them want to restart, none does.
    #[must_use]
    pub fn siblings(self, siblings: &Siblings) -> Self {
        Self { siblings: Some(siblings.clone()), ..self }
    }

    /// Whether it acts from the beginning. Default [`Mode::Enforce`].
    #[must_use]
    pub fn mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Reports to this observer; a `Vec` of several is one.
    #[must_use]
    pub fn observe(self, observer: Arc<dyn Observe>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Starts the supervisor's one task, and gives the service and the handle. The first service is built by the task: calls wait
    /// for it. The supervisor ends when the last clone of the service is gone, or by [`SupervisorHandle::shutdown`].
    ///
    /// # Errors
    ///
    /// If a setting breaks a rule, or if there is no tokio runtime with a timer here.
    pub fn spawn(mut self) -> Result<(Heal<F::Service>, SupervisorHandle), SpawnError> {
        if self.checks.is_empty() {
            self.checks.push(Arc::new(TrafficCheck::default()));
        }
        let rungs = std::mem::take(&mut self.rungs);
        let rungs = if rungs.is_empty() { ladder::standard() } else { rungs.into() };
        self.validate(&rungs).map_err(SpawnError::Config)?;
        Timer::at(Instant::now()).map_err(SpawnError::NoRuntime)?;
        Ok(task::spawn(self, rungs))
    }

    fn validate(&self, rungs: &[Rung]) -> Result<(), ConfigError> {
        self.swap.check()?;
        let not_zero = |field, time: Duration| {
            if time.is_zero() {
                Err(ConfigError::new(field, time, "must be longer than zero"))
            } else {
                Ok(())
            }
        };
        if self.targets.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfigError::new(
                "targets",
                self.targets.as_deref().unwrap_or_default(),
                "must name at least one",
            ));
        }
        if self.failback.rise == 0 {
            return Err(ConfigError::new("rise", 0, "must be at least 1, or calls go back at once"));
        }
        not_zero("failback.every", self.failback.every)?;
        let Failback { min_dwell, max_dwell, .. } = self.failback;
        if min_dwell > max_dwell {
            let rule = format!("must be at most `max_dwell`, which is {max_dwell:?}");
            return Err(ConfigError::new("failback.min_dwell", min_dwell, rule));
        }
        not_zero("stable_for", self.stable_for)?;
        not_zero("page_after", self.page_after)?;
        if self.page_after_failures == Some(0) {
            return Err(ConfigError::new("page_after_failures", 0, "must be at least 1"));
        }
        for check in &self.checks {
            let settings = check.settings();
            not_zero("every", settings.every)?;
            not_zero("in_doubt_every", settings.in_doubt_every)?;
            not_zero("timeout", settings.timeout)?;
            if settings.jitter_percent > 100 {
                let rule = format!("must be at most 100, for `{}`", check.name());
                return Err(ConfigError::new("jitter_percent", settings.jitter_percent, rule));
            }
            let counts = [settings.fall, settings.rise, settings.unknown_is_failure_after];
            if counts.contains(&0) {
                let rule = format!("must each be at least 1, for `{}`", check.name());
                return Err(ConfigError::new("fall, rise, unknown_is_failure_after", counts, rule));
            }
            let seen = settings.in_doubt_every.saturating_mul(settings.rise);
            let mut helping = rungs.iter().filter(|rung| rung.fixes.helps(&check.symptom()));
            if let Some(rung) = helping.find(|rung| rung.limits.verify < seen) {
                let rule = format!(
                    "must be at least {seen:?}, or `{}` cannot rise while `{}` is verified",
                    check.name(),
                    rung.name
                );
                return Err(ConfigError::new("verify", rung.limits.verify, rule));
            }
        }
        rungs.iter().try_for_each(|rung| not_zero("timeout", rung.limits.timeout))
    }
}

impl<F: Factory> fmt::Debug for Supervisor<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Supervisor");
        debug.field("name", &self.name).field("targets", &self.targets).field("rungs", &self.rungs);
        debug.finish_non_exhaustive()
    }
}

/// A supervisor that could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum SpawnError {
    /// A setting breaks a rule.
    Config(ConfigError),
    /// There is no tokio runtime here, or it has no timer.
    NoRuntime(NoTimer),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the supervisor was not started")
    }
}

impl std::error::Error for SpawnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(error) => Some(error),
            Self::NoRuntime(error) => Some(error),
        }
    }
}
