//! How a store is set up.

use std::sync::Arc;
use std::time::Duration;

use buttress_core::{ConfigError, Level};

#[cfg(feature = "store")]
use super::Behind;
use super::{Config, LastGood, Shared};
use crate::recall::Kept;

impl<R: Kept> LastGood<R> {
    /// How long an answer is fresh; zero asks the service first, each time, whatever `while_revalidate` is. Default
    /// 60 s.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.config.lifetime.fresh = ttl;
        self
    }

    /// For how long after that it is served while it is refreshed. Default 10 s.
    #[must_use]
    pub fn while_revalidate(mut self, time: Duration) -> Self {
        self.config.lifetime.while_revalidate = time;
        self
    }

    /// For how long after it was fresh it is served if the service fails. Default 24 h.
    #[must_use]
    pub fn if_error(mut self, time: Duration) -> Self {
        self.config.lifetime.if_error = time;
        self
    }

    /// For how long after a failure the service is not asked again, while a stale answer can be served; zero asks it each time.
    /// Default 1 s.
    #[must_use]
    pub fn negative_ttl(mut self, time: Duration) -> Self {
        self.config.negative_ttl = time;
        self
    }

    /// Refreshes an answer that is still fresh by up to so many percent of its lifetime before the end, so that what was stored
    /// together is not refreshed together. Default 10.
    #[must_use]
    pub fn refresh_jitter(mut self, percent: u8) -> Self {
        self.config.jitter = percent;
        self
    }

    /// How good a stale answer is that is served because the service has failed; rungs of a better level are asked before.
    /// Default [`Level::Moderate`].
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.config.level = level;
        self
    }

    /// How many refreshes may be made at once in the background; beyond that, stale answers are served unrefreshed.
    /// Default 64.
    #[must_use]
    pub fn max_refreshes(mut self, refreshes: usize) -> Self {
        self.config.max_refreshes = refreshes;
        self
    }

    /// How many calls may go on for the store alone because all who waited for them have gone, those included that are answered and
    /// still read; a further one is dropped with its last caller. Default 64.
    #[must_use]
    pub fn max_abandoned(mut self, calls: usize) -> Self {
        self.config.max_abandoned = calls;
        self
    }

    /// An empty store of at most so many bytes: keys, records and what holds them together. A store of 8 MiB or more is
    /// divided into up to 16 shards, and what is larger than one is not kept.
    #[must_use]
    pub fn max_bytes(self, bytes: usize) -> Self {
        Self { shared: Arc::new(Shared::new(bytes)), ..self }
    }

    /// Puts a store behind the memory, in which good answers outlive the process and which other processes may share.
    #[cfg(feature = "store")]
    #[must_use]
    pub fn backed_by(self, backing: crate::backing::Backing) -> Self
    where
        R: crate::backing::Writes,
    {
        let behind = Some(Arc::new(Behind::new(backing, self.rules.clone())));
        Self { behind, ..self }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let Config { jitter, level, .. } = self.config;
        if jitter > 50 {
            return Err(ConfigError::new("refresh_jitter", jitter, "must be at most 50 percent"));
        }
        if matches!(level, Level::Full | Level::Failed) {
            return Err(ConfigError::new("level", level, "must be 1 to 3"));
        }
        Ok(())
    }
}
