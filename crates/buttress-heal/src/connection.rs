use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::nanos;
use buttress_core::{Backoff, Delays, Jitter};

use crate::check::{Answer, CheckSettings};
use crate::incident::Tried;
use crate::judge::{Change, Judge};

/// What it is called among the checks.
pub(crate) const NAME: &str = "connection";

/// That there is a service at all: each attempt to build one is its check.
#[derive(Default)]
pub(crate) struct Connection {
    failing: Option<Box<Failing>>,
    /// When the next attempt is, if there is no service.
    pub(crate) due: u64,
}

/// From the first attempt that failed to the next that does not.
struct Failing {
    judge: Judge,
    evidence: Arc<str>,
    delays: Delays,
}

impl Connection {
    /// An attempt has ended. What that has changed.
    pub(crate) fn tried(&mut self, result: &Result<(), Tried>, now: u64) -> Option<Change> {
        let evidence: Arc<str> = match result {
            Ok(()) => return self.failing.take()?.judge.answer(&Answer::Pass),
            Err(Tried::Failed(why)) => Arc::clone(why),
            Err(tried) => tried.result().as_str().into(),
        };
        let failing = self.failing.get_or_insert_with(Failing::begin);
        failing.evidence = Arc::clone(&evidence);
        self.due = now.saturating_add(failing.delays.next().map_or(0, nanos));
        failing.judge.answer(&Answer::Fail(evidence))
    }

    /// Whether it has failed often enough to be believed.
    pub(crate) fn is_down(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.judge.is_down())
    }

    /// Whether it has failed, and not often enough.
    pub(crate) fn is_turning(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.judge.is_turning())
    }

    pub(crate) fn failures_in_a_row(&self) -> u32 {
        self.failing.as_ref().map_or(0, |failing| failing.judge.failures_in_a_row())
    }

    /// Why the last attempt failed, if it did.
    pub(crate) fn evidence(&self) -> Option<&Arc<str>> {
        self.failing.as_ref().map(|failing| &failing.evidence)
    }
}

impl Failing {
    /// The next attempt is 100 ms later, then twice as long, up to 10 s.
    fn begin() -> Box<Self> {
        let settings = CheckSettings { fall: 2, rise: 1, ..CheckSettings::default() };
        let [base, cap] = [100, 10_000].map(Duration::from_millis);
        let backoff = Backoff::exponential(base, 2.0, cap).unwrap_or_default();
        let delays = backoff.jitter(Jitter::Equal).delays();
        Box::new(Self { judge: Judge::new(&settings), evidence: Arc::default(), delays })
    }
}
