//! The layers under test, as a client would stack them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use buttress_circuit_breaker::{self as breaker, CircuitBreakerLayer, Ratio, Trip, Window};
use buttress_core::{Backoff, BoxError, Jitter};
use buttress_deadline::DeadlineLayer;
use buttress_retry::{self as retry, Budget, RetryLayer};
use tower::{Service, ServiceBuilder};

use crate::server::Server;

/// What a client does against failures: the configurations of the layers of one process, jitter drawn from a seed.
#[derive(Clone)]
pub struct Strategy {
    name: String,
    retry: Arc<dyn Fn() -> retry::Config + Send + Sync>,
    breaker: Option<fn(u64) -> breaker::Config>,
}

impl Strategy {
    /// Retries as configured. Each process makes a configuration of its own, and so has a budget of its own.
    pub fn new(name: impl Into<String>, retry: impl Fn() -> retry::Config + Send + Sync + 'static) -> Self {
        Self { name: name.into(), retry: Arc::new(retry), breaker: None }
    }

    /// Each call is made once.
    pub fn no_retry() -> Self {
        Self::new("no retry", || retry::Config::default().max_retries(0))
    }

    /// What `buttress-retry` does when nothing is configured.
    pub fn default_policy() -> Self {
        Self::new("default", retry::Config::default)
    }

    /// The delays of the default policy and its number of retries, and nothing that limits them.
    pub fn without_budget() -> Self {
        Self::new("default without budget", || retry::Config::default().budget(Budget::unlimited()))
    }

    /// Three retries at these delays, and nothing that limits them.
    pub fn three_retries(name: &str, backoff: &Backoff) -> Self {
        let backoff = backoff.clone();
        Self::new(name, move || {
            let config = retry::Config::default().max_retries(3).max_total_wait(None);
            config.backoff(backoff.clone()).budget(Budget::unlimited())
        })
    }

    /// As the default, with another budget.
    pub fn with_budget(name: &str, budget: impl Fn() -> Budget + Send + Sync + 'static) -> Self {
        Self::new(name, move || retry::Config::default().budget(budget()))
    }

    /// With a circuit breaker inside of the retry: 50 % failures of at least 10 calls in 10 s open it, for 5 s ± 50 %.
    #[must_use]
    pub fn and_breaker(self) -> Self {
        Self { name: format!("{} and breaker", self.name), breaker: Some(short), ..self }
    }

    /// With the circuit breaker of [`breaker::Config::standard`], which stays open for a minute.
    #[must_use]
    pub fn and_standard_breaker(self) -> Self {
        let name = format!("{} and standard breaker", self.name);
        Self { name, breaker: Some(|_| breaker::Config::standard()), ..self }
    }

    /// What it is called in tables and pictures.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The layers of one process, over the server: retry, circuit breaker, a second for each attempt.
    pub(crate) fn process(
        &self,
        server: Server,
        seed: u64,
    ) -> impl Service<(), Response = (), Error = BoxError, Future: Send> + Clone + Send + 'static {
        let config = (self.retry)().seed(seed);
        let breaker = self
            .breaker
            .map(|config| CircuitBreakerLayer::new("server", config(seed)).expect("a valid configuration"));
        ServiceBuilder::new()
            .layer(RetryLayer::new("server", config).expect("a valid configuration"))
            .option_layer(breaker)
            .layer(DeadlineLayer::attempt("server", Duration::from_secs(1)).expect("a valid limit"))
            .service(server)
    }
}

/// 50 % failures of at least 10 calls in 10 s open it, for 5 s ± 50 %.
fn short(seed: u64) -> breaker::Config {
    let rule = Trip::FailureRate {
        window: Window::Time(Duration::from_secs(10)),
        at_least: Ratio::percent(50),
        minimum_calls: 10,
    };
    let open = Backoff::constant(Duration::from_secs(5)).jitter(Jitter::Spread { percent: 50 });
    breaker::Config::only(rule).open_backoff(open.seed(seed))
}

impl fmt::Debug for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Strategy").field("name", &self.name).finish_non_exhaustive()
    }
}
