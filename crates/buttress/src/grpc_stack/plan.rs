//! What a builder comes to, all things considered.

use buttress_core::ConfigError;
use buttress_retry::Budget;

use super::{GrpcBuilder, PUSHBACK};
use crate::live::{Plan, StackHandle};
use crate::stack::Preset;

impl<A> GrpcBuilder<A> {
    /// This is what a file says of it.
    #[cfg(feature = "config")]
    pub(crate) fn written(self, written: std::sync::Arc<crate::live::Written>) -> Self {
        Self { written: Some(written), ..self }
    }

    /// Puts what this builder says of deadlines, retry and circuit breaker, and of their mode if it says one, in force in a
    /// stack that is running, without losing its state: all of it or, with an error, nothing. What belongs to how a stack is
    /// built is left as it is.
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
            travels: self.attempts.sends_deadline(),
            retry: self.retry_config(),
            breaker: self.breaker_config(),
            mode: self.mode,
            written: self.written.clone(),
        }
    }

    pub(crate) fn retry_config(&self) -> buttress_retry::Config {
        let retry = self.retry.clone().unwrap_or_else(|| self.retry_of_preset());
        // Whoever says how long all of it may take is not told otherwise by a preset.
        if self.total.is_some() { retry.default_max_total_wait(None) } else { retry }
    }

    fn retry_of_preset(&self) -> buttress_retry::Config {
        let config = if self.methods.has_retries() {
            let background = matches!(self.preset, Preset::Background);
            buttress_retry::Config::grpc().retry_refused(background)
        } else {
            self.preset.retry().hints(PUSHBACK)
        };
        let throttle = self.methods.throttle().map(|(max_tokens, ratio)| {
            Budget::grpc_throttle(max_tokens, ratio).expect("it was checked when it was read")
        });
        match throttle {
            Some(throttle) => config.budget(throttle),
            None => config,
        }
    }

    pub(crate) fn breaker_config(&self) -> buttress_circuit_breaker::Config {
        self.breaker.clone().unwrap_or_else(|| self.preset.breaker())
    }
}
