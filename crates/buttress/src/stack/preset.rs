use std::time::Duration;

use buttress_core::Backoff;
use buttress_http::HttpReplay;
use buttress_retry::Budget;

/// The figures that a stack has where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Preset {
    UserFacing,
    Background,
    Datadog,
    PagerDuty,
    Aws,
    AwsSdk,
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Preset {
    /// Total and attempt.
    pub(crate) fn limits(self) -> (Duration, Duration) {
        match self {
            Self::UserFacing => (millis(10_000), millis(2500)),
            Self::Background => (millis(600_000), millis(30_000)),
            Self::Datadog => (millis(30_000), millis(8000)),
            Self::PagerDuty => (millis(300_000), millis(10_000)),
            Self::Aws | Self::AwsSdk => (millis(60_000), millis(15_000)),
        }
    }

    pub(crate) fn retry(self) -> buttress_retry::Config {
        use buttress_retry::Config;
        match self {
            Self::UserFacing => Config::user_facing(),
            // Nobody waits, so an open circuit is waited for.
            Self::Background => Config::background().retry_refused(true),
            Self::Datadog => Config::user_facing().max_total_wait(None),
            Self::PagerDuty => {
                let backoff =
                    Backoff::exponential(millis(1000), 2.0, millis(30_000)).expect("a valid schedule");
                let budget = Budget::adaptive(0.1, millis(500), 20).expect("a tenth is a share");
                Config::background().max_retries(20).backoff(backoff).budget(budget).retry_refused(true)
            }
            Self::Aws => Config::aws_standard(),
            Self::AwsSdk => Config::aws_standard().max_retries(0),
        }
    }

    pub(super) fn replay(self) -> HttpReplay {
        match self {
            Self::Aws | Self::AwsSdk => HttpReplay::new().every_method(),
            _ => HttpReplay::new(),
        }
    }

    pub(crate) fn breaker(self) -> buttress_circuit_breaker::Config {
        use buttress_circuit_breaker::Config;
        match self {
            Self::UserFacing | Self::Datadog | Self::Aws | Self::AwsSdk => Config::standard(),
            // The attempts of one call must not open it.
            Self::Background => Config::high_traffic(),
            Self::PagerDuty => Config::high_traffic().open_for(millis(15_000)).success_threshold(1),
        }
    }
}
