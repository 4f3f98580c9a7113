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
pub(crate) struct Connection {
    pub(crate) judge: Judge,
    pub(crate) evidence: Option<Arc<str>>,
    /// While it fails.
    delays: Option<Box<Delays>>,
    /// When the next attempt is, if there is no service.
    pub(crate) due: u64,
}

impl Connection {
    pub(crate) fn new() -> Self {
        let settings = CheckSettings { fall: 2, rise: 1, ..CheckSettings::default() };
        Self { judge: Judge::new(&settings), evidence: None, delays: None, due: 0 }
    }

    /// An attempt has ended. What that has changed.
    pub(crate) fn tried(&mut self, result: &Result<(), Tried>, now: u64) -> Option<Change> {
        let evidence: Arc<str> = match result {
            Ok(()) => {
                self.delays = None;
                return self.judge.answer(&Answer::Pass);
            }
            Err(Tried::Failed(why)) => Arc::clone(why),
            Err(tried) => tried.result().as_str().into(),
        };
        self.evidence = Some(Arc::clone(&evidence));
        self.due = now.saturating_add(self.delay());
        self.judge.answer(&Answer::Fail(evidence))
    }

    /// 100 ms, doubled up to 10 s.
    fn delay(&mut self) -> u64 {
        let delays = self.delays.get_or_insert_with(|| {
            let [base, cap] = [100, 10_000].map(Duration::from_millis);
            let backoff = Backoff::exponential(base, 2.0, cap).unwrap_or_default();
            Box::new(backoff.jitter(Jitter::Equal).delays())
        });
        delays.next().map_or(0, nanos)
    }
}
