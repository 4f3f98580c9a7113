//! What a builder comes to, all things considered.

use buttress_core::ConfigError;

use super::HttpBuilder;
use crate::live::{Plan, StackHandle};

impl<A, C, W> HttpBuilder<A, C, W> {
    /// Puts what this builder says of deadlines, retry and circuit breaker, and of their mode if it says one, in force in a
    /// stack that is running, without losing its state: all of it or, with an error, nothing. What belongs to how a stack is
    /// built is left as it is.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # fn main() -> Result<(), buttress::ConfigError> {
    /// let layer = buttress::http("datadog").datadog().build()?;
    /// buttress::http("datadog").datadog().total(Duration::from_secs(15)).apply_to(&layer.handle())?;
    /// assert_eq!(layer.total().limit(), Duration::from_secs(15));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If a configuration breaks a rule; everything then stays as it was.
    pub fn apply_to(&self, stack: &StackHandle) -> Result<(), ConfigError> {
        stack.apply(&self.plan())
    }

    pub(crate) fn plan(&self) -> Plan {
        let (total, attempt) = self.preset.limits();
        Plan {
            total: self.total.unwrap_or(total),
            attempt: self.attempt.unwrap_or(attempt),
            travels: self.travels,
            retry: self.retry_config(),
            breaker: self.breaker_config(),
            mode: self.mode,
            written: self.written.clone(),
        }
    }

    pub(crate) fn retry_config(&self) -> buttress_retry::Config {
        let retry = self.retry.clone().unwrap_or_else(|| self.preset.retry());
        // Whoever says how long all of it may take is not told otherwise by a preset.
        if self.total.is_some() { retry.default_max_total_wait(None) } else { retry }
    }

    /// This is what a file says of it.
    #[cfg(feature = "config")]
    pub(crate) fn written(self, written: std::sync::Arc<crate::live::Written>) -> Self {
        Self { written: Some(written), ..self }
    }
}
