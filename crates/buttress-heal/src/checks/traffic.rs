use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::BoxFuture;
use crate::check::{Answer, Check, CheckSettings, Subject, Symptom};

/// Looks at the calls themselves: fails while the last ones all failed or were given up by their callers (default: 5, Envoy's
/// `consecutive_5xx`). What a supervisor has if it is given no other check.
///
/// It says nothing while there are no calls, and has nothing against a new generation that has had none. But once it has failed, the
/// incident is not over before a call has succeeded, and one failed call is enough to fail again where none has.
#[derive(Debug)]
pub struct TrafficCheck {
    failures: u32,
    seen: AtomicU64,
    /// It has failed, and since then no call is known to have succeeded.
    doubt: AtomicBool,
}

impl TrafficCheck {
    /// Fails after so many failures in a row, 1 at least.
    pub fn new(failures: u32) -> Self {
        Self { failures: failures.max(1), seen: 0.into(), doubt: false.into() }
    }
}

impl Default for TrafficCheck {
    fn default() -> Self {
        Self::new(5)
    }
}

impl<S> Check<S> for TrafficCheck {
    fn name(&self) -> &str {
        "calls"
    }

    fn symptom(&self) -> Symptom {
        Symptom::Connectivity
    }

    /// One look is enough: it is at several calls.
    fn settings(&self) -> CheckSettings {
        CheckSettings { every: Duration::from_secs(1), fall: 1, rise: 1, ..CheckSettings::default() }
    }

    fn probes(&self) -> bool {
        false
    }

    fn run<'a>(&'a self, subject: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        let (outcomes, failures) = (subject.traffic.outcomes(), subject.traffic.failures_in_a_row());
        let calls = outcomes.succeeded + outcomes.failed + outcomes.abandoned;
        let before = self.seen.swap(calls, Relaxed);
        let limit = if self.doubt.load(Relaxed) && outcomes.succeeded == 0 { 1 } else { self.failures };
        let answer = match failures {
            failures if failures >= limit => {
                self.doubt.store(true, Relaxed);
                Answer::fail(format!("the last {failures} calls failed"))
            }
            // Some that failed, and too few to tell, are no success.
            failures if failures > 0 || calls == 0 || calls == before => Answer::Skipped,
            _ => {
                self.doubt.store(false, Relaxed);
                Answer::Pass
            }
        };
        Box::pin(std::future::ready(answer))
    }
}
