use std::fmt;
use std::future::ready;

use buttress_core::ConfigError;
use buttress_core::observe::Health;

use super::reading::lasting;
use crate::BoxFuture;
use crate::check::{Answer, Check, CheckSettings, Subject, Symptom};

/// Fails while at least so many per cent of the connections of a pool are in use; [`Symptom::Pool`]. The service is the
/// pool, or has one: the closure says how many are in use, and how many there can be.
///
/// A pool at its limit may just be busy, so that this is [`Degraded`](Health::Degraded) by itself, is run each second in
/// doubt, and believed after five failures. A new pool helps against connections that were never given back. It needs as
/// many connections again while the old one is drained; where the server does not have them, set
/// [`SwapSettings::exclusive`](crate::SwapSettings::exclusive).
///
/// ```
/// use buttress_heal::pool_use;
/// # #[derive(Clone)] struct Pool; struct State { size: usize, idle: usize, max: usize }
/// # impl Pool { fn state(&self) -> State { State { size: 4, idle: 1, max: 16 } } }
///
/// # fn main() -> Result<(), buttress_core::ConfigError> {
/// let check = pool_use(95, |pool: &Pool| {
///     let state = pool.state();
///     (state.size - state.idle, state.max)
/// })?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// If `percent` is not 1 to 100.
pub fn pool_use<S, F>(percent: u8, used_of: F) -> Result<PoolUse<F>, ConfigError>
where
    F: Fn(&S) -> (usize, usize),
{
    if !(1..=100).contains(&percent) {
        return Err(ConfigError::new("percent", percent, "must be 1 to 100"));
    }
    Ok(PoolUse { percent, used_of })
}

/// What [`pool_use`] makes.
#[derive(Clone)]
pub struct PoolUse<F> {
    percent: u8,
    used_of: F,
}

impl<F> fmt::Debug for PoolUse<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolUse").field("percent", &self.percent).finish_non_exhaustive()
    }
}

impl<S, F> Check<S> for PoolUse<F>
where
    F: Fn(&S) -> (usize, usize) + Send + Sync,
{
    fn name(&self) -> &str {
        "pool use"
    }

    fn symptom(&self) -> Symptom {
        Symptom::Pool
    }

    fn settings(&self) -> CheckSettings {
        CheckSettings { severity: Some(Health::Degraded), ..lasting() }
    }

    fn run<'a>(&'a self, subject: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        let Some(pool) = subject.service else { return Box::pin(ready(Answer::Skipped)) };
        let (used, of) = (self.used_of)(pool);
        let reached = of > 0 && used as u128 * 100 >= of as u128 * u128::from(self.percent);
        let answer = if reached {
            Answer::fail(format!("{used} of {of} connections are in use"))
        } else {
            Answer::Pass
        };
        Box::pin(ready(answer))
    }
}
