use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use buttress_core::{ConfigError, Mode};
use tokio::time::Instant;

use crate::config::check;
use crate::fault::FaultKind;
use crate::layer::Shared;
use crate::plan::Plan;
use crate::rule::Rule;

/// Reads and controls the chaos of one layer.
///
/// Clones act on the same layer. Calls that are under way keep the fault that they met.
#[derive(Clone, Debug)]
pub struct ChaosHandle {
    shared: Arc<Shared>,
}

/// How many faults were injected, by kind.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    by_kind: [AtomicU64; FaultKind::ALL.len()],
}

impl Counters {
    pub(crate) fn add(&self, kind: FaultKind) {
        self.by_kind[kind as usize].fetch_add(1, Relaxed);
    }
}

impl ChaosHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The name of the layer.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The mode that calls obey.
    pub fn mode(&self) -> Mode {
        self.shared.mode.get()
    }

    /// Switches chaos off and on ([`Mode::Off`], [`Mode::Enforce`]) for calls that start from now on, or lets it be counted
    /// and reported without any effect ([`Mode::Observe`]). While it is off, calls are not numbered.
    pub fn set_mode(&self, mode: Mode) {
        self.shared.mode.set(mode);
    }

    /// Follows these rules from now on: numbers and windows start anew, windows with the next call. The seed and the
    /// counters stay.
    ///
    /// # Errors
    ///
    /// If a rule cannot be followed; the old ones then stay.
    pub fn set_rules(&self, rules: impl IntoIterator<Item = Rule>) -> Result<(), ConfigError> {
        let rules: Vec<Rule> = rules.into_iter().collect();
        check(&rules, self.shared.check)?;
        self.shared.set_plan(|_, seed| Plan::new(seed, rules, None));
        Ok(())
    }

    /// Follows the same rules from their beginning: numbers start anew, and windows are counted from now.
    pub fn restart(&self) {
        let start = Instant::now();
        self.shared.set_plan(|plan, _| plan.again(Some(start)));
    }

    /// How many faults of this kind calls have met, those that were only observed included. Counted when the call starts.
    pub fn injected(&self, kind: FaultKind) -> u64 {
        self.shared.counters.by_kind[kind as usize].load(Relaxed)
    }

    /// How many faults of all kinds calls have met.
    pub fn injected_total(&self) -> u64 {
        FaultKind::ALL.into_iter().map(|kind| self.injected(kind)).sum()
    }
}
