use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use buttress_core::Backoff;
use buttress_core::clock::{Seconds, nanos};

use crate::action::{Action, FailOver, Fixes, Limits, ResetPool, Restart};
use crate::check::Symptom;
use crate::intensity::{Intensity, Window};

/// A step of the ladder: an [`Action`] and how often it may be tried.
pub struct Rung {
    pub(crate) name: Arc<str>,
    pub(crate) action: Arc<dyn Action>,
    pub(crate) fixes: Fixes,
    pub(crate) limits: Limits,
    pub(crate) kind: Kind,
    pub(crate) keeps_trying: bool,
}

/// The ladder of whoever has none of their own; one for all.
pub(crate) fn standard() -> Arc<[Rung]> {
    static STANDARD: OnceLock<Arc<[Rung]>> = OnceLock::new();
    let standard = || [Rung::reset_pool(), Rung::fail_over(), Rung::restart()].into();
    Arc::clone(STANDARD.get_or_init(standard))
}

/// What limits a rung beside its own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// The intensity, the siblings, and that nobody restarts what a human has been called for.
    Restart,
    /// The number of other targets.
    FailOver,
}

impl Rung {
    /// This action, with its own limits.
    pub fn new(action: impl Action + 'static) -> Self {
        let (name, fixes, limits) = (action.name().into(), action.fixes(), action.limits());
        Self { name, action: Arc::new(action), fixes, limits, kind: Kind::Plain, keeps_trying: false }
    }

    /// A new pool: 5 s, verified for 5 s, 10 s apart, three times, and [on and on](Self::keep_trying).
    pub fn reset_pool() -> Self {
        Self::new(ResetPool).keep_trying()
    }

    /// The next target: 5 s, verified for 5 s, 30 s apart, once for each other target.
    pub fn fail_over() -> Self {
        Self { kind: Kind::FailOver, ..Self::new(FailOver) }
    }

    /// A restart: 30 s, verified for 10 s, 60 s apart, three times, and within the supervisor's
    /// [`intensity`](crate::Supervisor::intensity).
    pub fn restart() -> Self {
        Self::new(Restart).as_restart()
    }

    /// What it can help against, instead of what the action says.
    #[must_use]
    pub fn fixes(self, fixes: Fixes) -> Self {
        Self { fixes, ..self }
    }

    /// How long one attempt may take. Default: as its action says, like the other limits.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.limits.timeout = timeout;
        self
    }

    /// After so long the symptom must be gone, or the attempt has failed.
    #[must_use]
    pub fn verify(mut self, verify: Duration) -> Self {
        self.limits.verify = verify;
        self
    }

    /// At least so long from the start of one attempt to the start of the next.
    #[must_use]
    pub fn cooldown(self, cooldown: Duration) -> Self {
        self.backoff(Backoff::constant(cooldown))
    }

    /// The same, longer each time; the first delay again when an incident is over.
    #[must_use]
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.limits.cooldown = backoff;
        self
    }

    /// So many attempts in one incident.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.limits.max_attempts = attempts;
        self
    }

    /// It counts as a restart: the supervisor's [`intensity`](crate::Supervisor::intensity) limits it, a group of
    /// [siblings](crate::Siblings) may hold it, and it is not tried any more once a human was called because nothing helped.
    #[must_use]
    pub fn as_restart(self) -> Self {
        Self { kind: Kind::Restart, ..self }
    }
}

impl Rung {
    /// Once a human was called because nothing helped, it is tried again each minute, whatever its limits: whoever mends the
    /// dependency need not mend this client as well. For what is harmless; a new pool is built before the old one goes.
    #[must_use]
    pub fn keep_trying(self) -> Self {
        Self { keeps_trying: true, ..self }
    }
}

impl fmt::Debug for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Rung");
        debug.field("action", &self.name).field("fixes", &self.fixes);
        debug.field("limits", &self.limits).field("kind", &self.kind).finish()
    }
}

impl<A: Action + 'static> From<A> for Rung {
    fn from(action: A) -> Self {
        Self::new(action)
    }
}

/// Why a rung would run now, or is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fit {
    /// It can run.
    Runs,
    /// It does not help against what is wrong.
    OtherSymptom,
    /// It has had all its attempts in this incident.
    Spent,
    /// It cools down, for so long.
    Cooling(Duration),
    /// There were too many restarts lately.
    TooManyRestarts,
    /// A human was called because nothing helped, and it is a restart.
    LeftToHumans,
    /// Its siblings want to restart as well: the dependency is ill.
    Held,
    /// There is no other target.
    NoTarget,
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs => f.write_str("can run"),
            Self::OtherSymptom => f.write_str("does not help against what is wrong"),
            Self::Spent => f.write_str("has had all its attempts"),
            Self::Cooling(left) => write!(f, "cools down for {}", Seconds(*left)),
            Self::TooManyRestarts => f.write_str("would be one restart too many"),
            Self::LeftToHumans => f.write_str("is left to the human who was called"),
            Self::Held => f.write_str("is held, since most siblings are in trouble too"),
            Self::NoTarget => f.write_str("has no other target"),
        }
    }
}

/// A later rung need not wait longer than this for an earlier one to cool down.
const OVERTAKE: u64 = 10_000_000_000;

/// How often what [keeps trying](Rung::keep_trying) is tried.
const SLOWLY: u64 = 60_000_000_000;

/// The rungs and how often each was tried: the pure choice of what is done next.
#[derive(Debug)]
pub(crate) struct Ladder {
    rungs: Arc<[Rung]>,
    /// Nothing until something is tried.
    tried: Option<Box<Tries>>,
    intensity: Intensity,
    patience: u64,
    other_targets: u32,
    exhausted: bool,
}

/// What was tried of each rung, and the restarts of the last while.
#[derive(Debug)]
struct Tries {
    climbed: Box<[Climbed]>,
    window: Window,
}

#[derive(Clone, Copy, Debug, Default)]
struct Climbed {
    attempts: u32,
    ready_at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Run(usize),
    /// Until then.
    Wait(u64),
    Held,
    /// Nothing can be done; perhaps again from then on.
    Nothing(Option<u64>),
}

impl Ladder {
    /// `patience`: if a rung can run again so soon, no human is called.
    pub(crate) fn new(rungs: Arc<[Rung]>, intensity: Intensity, patience: Duration, targets: usize) -> Self {
        let other_targets = u32::try_from(targets.saturating_sub(1)).unwrap_or(u32::MAX);
        Self { rungs, tried: None, intensity, patience: nanos(patience), other_targets, exhausted: false }
    }

    pub(crate) fn rung(&self, at: usize) -> &Rung {
        &self.rungs[at]
    }

    pub(crate) fn attempts(&self, at: usize) -> u32 {
        self.climbed(at).attempts
    }

    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.rungs.iter().map(|rung| Arc::clone(&rung.name)).collect()
    }

    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.rungs.iter().position(|rung| *rung.name == *name)
    }

    /// Each rung's name and whether it can run.
    pub(crate) fn explain(&self, now: u64, failing: &[Symptom], held: bool) -> Vec<(Arc<str>, Fit)> {
        self.names().into_iter().zip(self.fits(now, failing, held)).collect()
    }

    fn fits(&self, now: u64, failing: &[Symptom], held: bool) -> impl Iterator<Item = Fit> {
        let rungs = self.rungs.iter().enumerate();
        rungs.map(move |(at, rung)| self.fit(rung, self.climbed(at), now, failing, held))
    }

    /// What is done next: the first rung that fits, or one that soon will.
    pub(crate) fn choose(&self, now: u64, failing: &[Symptom], held: bool) -> Choice {
        let (mut is_held, mut next) = (false, None::<u64>);
        for (at, fit) in self.fits(now, failing, held).enumerate() {
            let climbed = self.climbed(at);
            match fit {
                Fit::Runs => return Choice::Run(at),
                Fit::Cooling(_) if climbed.ready_at - now <= OVERTAKE => {
                    return Choice::Wait(climbed.ready_at);
                }
                Fit::Cooling(_) => {
                    next = Some(next.map_or(climbed.ready_at, |next| next.min(climbed.ready_at)))
                }
                Fit::Held => is_held = true,
                _ => {}
            }
        }
        match next {
            Some(next) if next - now <= self.patience => Choice::Wait(next),
            _ if is_held => Choice::Held,
            next => Choice::Nothing(next),
        }
    }

    /// An attempt begins.
    pub(crate) fn begin(&mut self, at: usize, now: u64) {
        let exhausted = self.exhausted;
        let (rungs, tries) = self.tries();
        let (rung, climbed) = (&rungs[at], &mut tries.climbed[at]);
        let cooldown = rung.limits.cooldown.delays().nth(climbed.attempts as usize).map_or(0, nanos);
        climbed.attempts = climbed.attempts.saturating_add(1);
        let cooldown = if exhausted { cooldown.max(SLOWLY) } else { cooldown };
        climbed.ready_at = now.saturating_add(cooldown);
        if rung.kind == Kind::Restart {
            tries.window.record(now);
        }
    }

    /// A human is called because nothing helped. Whether that is news.
    pub(crate) fn give_up(&mut self, now: u64) -> bool {
        if self.exhausted {
            return false;
        }
        self.exhausted = true;
        for climbed in &mut self.tries().1.climbed {
            climbed.ready_at = climbed.ready_at.max(now.saturating_add(SLOWLY));
        }
        true
    }

    /// The incident is over: all attempts count anew. How many restarts there were does not.
    pub(crate) fn reset(&mut self) {
        self.exhausted = false;
        for climbed in self.tried.iter_mut().flat_map(|tries| &mut tries.climbed) {
            climbed.attempts = 0;
        }
    }

    fn climbed(&self, at: usize) -> Climbed {
        self.tried.as_ref().map_or_else(Climbed::default, |tries| tries.climbed[at])
    }

    /// Whether one more restart is bearable.
    fn bears_restart(&self, now: u64) -> bool {
        let new = || Window::new(self.intensity).free_at();
        let free_at = self.tried.as_ref().map_or_else(new, |tries| tries.window.free_at());
        free_at.is_some_and(|free| free <= now)
    }

    fn tries(&mut self) -> (&[Rung], &mut Tries) {
        let tries = self.tried.get_or_insert_with(|| {
            let climbed = vec![Climbed::default(); self.rungs.len()].into();
            Box::new(Tries { climbed, window: Window::new(self.intensity) })
        });
        (&self.rungs, tries)
    }

    fn fit(&self, rung: &Rung, climbed: Climbed, now: u64, failing: &[Symptom], held: bool) -> Fit {
        let Climbed { attempts, ready_at } = climbed;
        let max = match rung.kind {
            Kind::FailOver => rung.limits.max_attempts.min(self.other_targets),
            Kind::Plain | Kind::Restart => rung.limits.max_attempts,
        };
        let restarts = rung.kind == Kind::Restart;
        if !failing.iter().any(|symptom| rung.fixes.helps(symptom)) {
            Fit::OtherSymptom
        } else if rung.kind == Kind::FailOver && self.other_targets == 0 {
            Fit::NoTarget
        } else if restarts && self.exhausted {
            Fit::LeftToHumans
        } else if attempts >= max && !(self.exhausted && rung.keeps_trying) {
            Fit::Spent
        } else if restarts && !self.bears_restart(now) {
            Fit::TooManyRestarts
        } else if restarts && held {
            Fit::Held
        } else if ready_at > now {
            Fit::Cooling(Duration::from_nanos(ready_at - now))
        } else {
            Fit::Runs
        }
    }
}
