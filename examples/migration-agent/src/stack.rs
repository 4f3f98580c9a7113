//! What every call to the database goes through: a retry by what the failure means, a circuit breaker, a deadline for each
//! attempt. The function forms of the layers share their state between all calls.

use std::time::Duration;

use buttress::circuit_breaker::{self, CircuitBreakerLayer, Trip};
use buttress::core::{Backoff, Observe};
use buttress::deadline::DeadlineLayer;
use buttress::retry::{self, Budget, RetryLayer};
use buttress::{BoxError, ConfigError};
use std::sync::Arc;

use crate::database::Database;
use crate::fault::{ByFault, Fault};

/// A database, protected. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub(crate) database: Database,
    retry: RetryLayer<ByFault>,
    breaker: CircuitBreakerLayer<ByFault>,
}

const NAME: &str = "database";

impl Stack {
    pub(crate) fn new(
        database: Database,
        retries: u32,
        observer: &Arc<dyn Observe>,
    ) -> Result<Self, ConfigError> {
        let backoff = Backoff::exponential(Duration::from_millis(200), 2.0, Duration::from_secs(10))?;
        // One caller, whose calls are few: what bounds the retries is their number.
        let config = retry::Config::background()
            .max_retries(retries)
            .backoff(backoff)
            .budget(Budget::unlimited())
            .retry_refused(true);
        let retry = RetryLayer::new(NAME, config)?.policy(ByFault).observe(Arc::clone(observer));
        let config = circuit_breaker::Config::standard()
            .trip(Trip::ConsecutiveFailures(4))
            .open_backoff(Backoff::exponential(Duration::from_secs(1), 2.0, Duration::from_secs(30))?)
            .success_threshold(1);
        let breaker = CircuitBreakerLayer::new(NAME, config)?.policy(ByFault).observe(Arc::clone(observer));
        Ok(Self { database, retry, breaker })
    }

    /// Asks the database, each attempt for no longer than this. What is asked for may be asked for again, whatever became
    /// of it before.
    pub(crate) async fn ask<T, F>(
        &self,
        limit: Duration,
        mut ask: impl FnMut(Database) -> F,
    ) -> Result<T, BoxError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let deadline = DeadlineLayer::attempt(NAME, limit)?;
        let (breaker, database, deadline) = (&self.breaker, &self.database, &deadline);
        let attempt = || {
            let asked = ask(database.clone());
            async move { breaker.call(deadline.run(asked)).await }
        };
        self.retry.run(attempt).await
    }
}
