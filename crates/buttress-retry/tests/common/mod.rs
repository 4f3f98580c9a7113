#![allow(dead_code, reason = "each test file uses its part")]

use std::time::Duration;

use buttress_core::{Backoff, BoxError, Exhausted, find};
use buttress_retry::{Budget, Config, RetryLayer};

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// So many retries, each after exactly this time, without a budget.
pub(crate) fn every(retries: u32, delay: Duration) -> Config {
    let config = Config::background().max_retries(retries).budget(Budget::unlimited());
    config.backoff(Backoff::constant(delay))
}

pub(crate) fn layer(config: Config) -> RetryLayer {
    RetryLayer::new("test", config).unwrap()
}

pub(crate) fn exhausted(error: &BoxError) -> &Exhausted {
    find(&**error).expect("given up by the retry")
}
