use std::time::{Duration, SystemTime};

use buttress_core::ConfigError;
use buttress_core::clock::wall;
use buttress_core::observe::{CircuitCause, CircuitState};

use crate::handle::CircuitBreakerHandle;
use crate::state::Change;

/// A circuit's state as data, to survive a restart.
///
/// What was counted while closed is not kept: an old window says nothing about the dependency of today. Wall-clock
/// time is used for the end of the open time, because the monotonic clock does not survive the process.
///
/// ```
/// # #[cfg(feature = "serde")] {
/// use std::time::Duration;
/// use buttress_circuit_breaker::{CircuitBreakerLayer, Snapshot};
///
/// let before = CircuitBreakerLayer::standard("datadog").handle();
/// before.open_for(Duration::from_secs(40));
/// let stored = serde_json::to_string(&before.snapshot()).unwrap();
///
/// let after = CircuitBreakerLayer::standard("datadog").handle();
/// after.restore(&serde_json::from_str::<Snapshot>(&stored).unwrap()).unwrap();
/// assert!(after.retry_after().unwrap() > Duration::from_secs(39));
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Snapshot {
    /// The format; this is 1.
    pub version: u32,
    /// The state. A half-open circuit is stored as an open one whose time is over.
    pub state: SnapshotState,
    /// How often probes have failed since the circuit was last closed.
    #[cfg_attr(feature = "serde", serde(default))]
    pub reopens: u32,
}

/// The state in a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum SnapshotState {
    /// Calls flow.
    Closed,
    /// Calls are refused until so many milliseconds after 1970-01-01 UTC.
    OpenUntil(u64),
    /// Calls are refused until an operator says otherwise.
    Isolated,
}

impl CircuitBreakerHandle {
    /// The state, as data.
    pub fn snapshot(&self) -> Snapshot {
        let (state, reopens, _) = self.breaker().state();
        let state = match state {
            CircuitState::Closed => SnapshotState::Closed,
            CircuitState::Isolated => SnapshotState::Isolated,
            CircuitState::Open | CircuitState::HalfOpen => {
                let left = self.retry_after().unwrap_or_default();
                SnapshotState::OpenUntil(since_1970(wall() + left))
            }
        };
        Snapshot { version: 1, state, reopens }
    }

    /// Takes over a stored state. An open time is cut to the longest that the configuration allows, so that a wrong
    /// clock cannot keep the circuit open; one that has passed means that the next call probes.
    ///
    /// # Errors
    ///
    /// If the snapshot has another version than 1; the circuit then stays as it is.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<(), ConfigError> {
        if snapshot.version != 1 {
            let rule = "must be 1: the snapshot was written by another version of this crate";
            return Err(ConfigError::new("version", snapshot.version, rule));
        }
        let longest = {
            let config = self.breaker().settings.config();
            config.open.cap().max(config.hint_cap.unwrap_or_default())
        };
        match snapshot.state {
            SnapshotState::Closed => self.close(),
            SnapshotState::Isolated => self.isolate(),
            SnapshotState::OpenUntil(until) => {
                let left = Duration::from_millis(until.saturating_sub(since_1970(wall()))).min(longest);
                let mut now = buttress_core::clock::LazyNow::new(&self.breaker().settings.clock);
                self.breaker().apply(&mut now, |machine, _, _, _| -> ((), Option<Change>) {
                    ((), Some(machine.open_for(left, snapshot.reopens, CircuitCause::Operator)))
                });
            }
        }
        Ok(())
    }
}

fn since_1970(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
