//! What every call to the database goes through: a retry by what the failure means, a circuit breaker, a deadline for each
//! attempt. The function forms of the layers share their state between all calls.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use buttress::circuit_breaker::{self, CircuitBreakerLayer, Trip};
use buttress::core::{Backoff, Observe};
use buttress::deadline::DeadlineLayer;
use buttress::retry::{self, Budget, RetryLayer};
use buttress::{BoxError, ConfigError};

use crate::database::Database;
use crate::fault::{self, ByFault, Fault};
use crate::problem::Problem;

/// A database, protected. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub(crate) database: Database,
    retry: RetryLayer<ByFault>,
    breaker: CircuitBreakerLayer<ByFault>,
    /// What the database itself said last: it is of more use than that a circuit is open.
    last: Arc<Mutex<Option<Problem>>>,
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
        Ok(Self { database, retry, breaker, last: Arc::default() })
    }

    /// Asks the database, each attempt for no longer than this. What is asked for may be asked for again, whatever became
    /// of it before.
    pub(crate) async fn ask<T, F>(
        &self,
        limit: Duration,
        mut ask: impl FnMut(Database) -> F,
    ) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let deadline =
            DeadlineLayer::attempt(NAME, limit).map_err(|error| Problem::input(error.to_string()))?;
        let (stack, deadline) = (self, &deadline);
        *self.last() = None;
        let attempt = || {
            let asked = ask(stack.database.clone());
            let asked = async move {
                let answer = asked.await;
                *stack.last() = answer.as_ref().err().map(|fault| fault.problem.clone());
                answer
            };
            async move { stack.breaker.call(deadline.run(asked)).await }
        };
        let answer: Result<T, BoxError> = self.retry.run(attempt).await;
        answer.map_err(|error| fault::problem(&error, self.last().take()))
    }

    fn last(&self) -> MutexGuard<'_, Option<Problem>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
