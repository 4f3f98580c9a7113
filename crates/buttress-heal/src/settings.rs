use std::sync::{Arc, OnceLock};
use std::time::Duration;

use buttress_core::ConfigError;

/// How one generation takes the place of another, and what becomes of calls meanwhile.
///
/// ```
/// use std::time::Duration;
/// use buttress_heal::SwapSettings;
///
/// let settings = SwapSettings::default().wait_for_swap(200, Duration::from_secs(1)).drain(Duration::from_secs(30));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SwapSettings {
    pub(crate) at_start: Waiting,
    pub(crate) for_swap: Waiting,
    pub(crate) patience: Duration,
    pub(crate) make_within: Duration,
    pub(crate) connect_within: Duration,
    pub(crate) drain: Duration,
    pub(crate) drain_critical: Duration,
    pub(crate) retire_within: Duration,
    pub(crate) slow_start: Duration,
    pub(crate) exclusive: bool,
    pub(crate) suspect_after: u32,
}

/// How many callers wait, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) callers: usize,
    pub(crate) within: Duration,
}

impl Default for SwapSettings {
    fn default() -> Self {
        Self {
            at_start: Waiting { callers: 1024, within: Duration::from_secs(5) },
            for_swap: Waiting { callers: 64, within: Duration::from_millis(250) },
            patience: Duration::from_secs(5),
            make_within: Duration::from_secs(30),
            connect_within: Duration::from_secs(5),
            drain: Duration::from_secs(10),
            drain_critical: Duration::from_secs(1),
            retire_within: Duration::from_secs(1),
            slow_start: Duration::from_secs(10),
            exclusive: false,
            suspect_after: 5,
        }
    }
}

impl SwapSettings {
    /// Those of whoever has none of their own; one for all.
    pub(crate) fn standard() -> Arc<Self> {
        static STANDARD: OnceLock<Arc<SwapSettings>> = OnceLock::new();
        Arc::clone(STANDARD.get_or_init(Arc::default))
    }

    /// While the first service is built, so many callers wait, each no longer than this; all others are refused at once. Default
    /// 1024 and 5 s. With no callers, nobody waits.
    #[must_use]
    pub fn wait_at_start(self, callers: usize, within: Duration) -> Self {
        Self { at_start: Waiting { callers, within }, ..self }
    }

    /// The same while there is no service because another one is built, and while a new one takes only so many calls at once.
    /// Default 64 and 250 ms.
    #[must_use]
    pub fn wait_for_swap(self, callers: usize, within: Duration) -> Self {
        Self { for_swap: Waiting { callers, within }, ..self }
    }

    /// How long a caller waits for the readiness of the service itself before it is refused. Default 5 s.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// How long the factory may take. Default 30 s; an action's own time may be shorter.
    #[must_use]
    pub fn make_within(self, within: Duration) -> Self {
        Self { make_within: within, ..self }
    }

    /// How long one attempt to build a service may take while there is none: at the start, and when the old one had to go first.
    /// Then the next one begins, after a pause that grows from 0.1 s to 10 s. Default 5 s, because an attempt that hangs (packets are
    /// lost) is slower than a new one; longer if the factory needs longer.
    #[must_use]
    pub fn connect_within(self, within: Duration) -> Self {
        Self { connect_within: within, ..self }
    }

    /// How long calls may go on in a generation that has been replaced by one that was made before it went; what still runs then is
    /// cut off. Default 10 s.
    #[must_use]
    pub fn drain(self, drain: Duration) -> Self {
        Self { drain, ..self }
    }

    /// The same for a generation that went before there was another. Default 1 s.
    #[must_use]
    pub fn drain_critical(self, drain: Duration) -> Self {
        Self { drain_critical: drain, ..self }
    }

    /// How long it may take to retire a service. Default 1 s.
    #[must_use]
    pub fn retire_within(self, within: Duration) -> Self {
        Self { retire_within: within, ..self }
    }

    /// After a swap a generation takes only so many calls at once: as many as the one before it had under way, or one if that had
    /// to go first; twice as many after each tenth of this time, and without limit when it is over and nobody had to wait for a place
    /// any more. Default 10 s, which doubles each second; zero takes all at once. The first generation takes all.
    #[must_use]
    pub fn slow_start(self, slow_start: Duration) -> Self {
        Self { slow_start, ..self }
    }

    /// The dependency allows no second set of connections (a connection limit, a lock): a service is always let go of, and
    /// retired, before another one is built. Otherwise two exist for the time of a swap.
    #[must_use]
    pub fn exclusive(self) -> Self {
        Self { exclusive: true, ..self }
    }

    /// After so many calls in a row that failed or were given up, the checks are run at once. Default 5 (Envoy's
    /// `consecutive_5xx`).
    #[must_use]
    pub fn suspect_after(self, failures: u32) -> Self {
        Self { suspect_after: failures, ..self }
    }

    /// # Errors
    ///
    /// If a time is zero in which nothing can be done, or if nothing can ever raise suspicion.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let times = [
            ("patience", self.patience),
            ("make_within", self.make_within),
            ("connect_within", self.connect_within),
        ];
        for (field, time) in times {
            if time.is_zero() {
                return Err(ConfigError::new(
                    field,
                    time,
                    "must be longer than zero, or no service can be built or used",
                ));
            }
        }
        for (field, Waiting { callers, within }) in
            [("wait_at_start", self.at_start), ("wait_for_swap", self.for_swap)]
        {
            if callers > 0 && within.is_zero() {
                return Err(ConfigError::new(field, within, "must be longer than zero, or for no callers"));
            }
        }
        if self.suspect_after == 0 {
            return Err(ConfigError::new("suspect_after", 0, "must be at least 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_work_is_an_error() {
        let default = SwapSettings::default();
        assert_eq!(default.check(), Ok(()));
        assert_eq!(default.clone().wait_for_swap(0, Duration::ZERO).check(), Ok(()));
        let field = |settings: SwapSettings| settings.check().unwrap_err().field();
        assert_eq!(field(default.clone().patience(Duration::ZERO)), "patience");
        assert_eq!(field(default.clone().make_within(Duration::ZERO)), "make_within");
        assert_eq!(field(default.clone().connect_within(Duration::ZERO)), "connect_within");
        assert_eq!(field(default.clone().wait_at_start(1, Duration::ZERO)), "wait_at_start");
        assert_eq!(field(default.suspect_after(0)), "suspect_after");
    }
}
