use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_core::Backoff;

use crate::action::{Action, FailOver, Fixes, Limits, ResetPool, Restart};

/// A step of the ladder: an [`Action`] and how often it may be tried.
pub struct Rung {
    pub(crate) action: Arc<dyn Action>,
    pub(crate) fixes: Fixes,
    pub(crate) limits: Limits,
    pub(crate) restarts: bool,
}

impl Rung {
    /// This action, with its own limits.
    pub fn new(action: impl Action + 'static) -> Self {
        let (fixes, limits) = (action.fixes(), action.limits());
        Self { action: Arc::new(action), fixes, limits, restarts: false }
    }

    /// A new pool: 5 s, verified for 5 s, 10 s apart, three times.
    pub fn reset_pool() -> Self {
        Self::new(ResetPool)
    }

    /// The next target: 5 s, verified for 5 s, 30 s apart, once for each other target.
    pub fn fail_over() -> Self {
        Self::new(FailOver)
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

    /// How long one attempt may take.
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

    /// It counts as a restart: the supervisor's intensity limits it, and a group of siblings may hold it.
    #[must_use]
    pub fn as_restart(self) -> Self {
        Self { restarts: true, ..self }
    }
}

impl fmt::Debug for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Rung");
        debug.field("action", &self.action.name()).field("fixes", &self.fixes);
        debug.field("limits", &self.limits).field("restarts", &self.restarts).finish()
    }
}

impl<A: Action + 'static> From<A> for Rung {
    fn from(action: A) -> Self {
        Self::new(action)
    }
}
