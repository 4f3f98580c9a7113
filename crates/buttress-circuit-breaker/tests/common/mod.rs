#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_circuit_breaker::{
    CircuitBreakerHandle, CircuitBreakerLayer, CircuitState, Config, Ratio, Reason, Refused, Trip, Window,
};
use buttress_core::{BoxError, Event, Kind, Plain, Verdict, classify_fn, error_verdict, find};
pub(crate) use buttress_testkit::recorder;

pub(crate) type Calls = CircuitBreakerLayer<Plain<buttress_core::ClassifyFn<fn(Judged<'_>) -> Verdict>>>;
type Judged<'a> = Result<&'a u16, buttress_core::ErrorRef<'a>>;

/// A breaker and the handle on it, called with outcomes instead of services.
pub(crate) struct Rig {
    pub(crate) layer: Calls,
    pub(crate) handle: CircuitBreakerHandle,
    pub(crate) events: Arc<Mutex<Vec<Event>>>,
}

/// Codes as HTTP has them: below 500 a success, 409 a conflict, 425 not processed, 429 throttled, 499 neutral.
fn judge(outcome: Judged<'_>) -> Verdict {
    match outcome {
        Ok(409) => Verdict::failure(Kind::Conflict),
        Ok(425) => Verdict::failure(Kind::Unprocessed),
        Ok(429) => Verdict::failure(Kind::Throttled),
        Ok(499) => Verdict::Ignored,
        Ok(code) if *code < 500 => Verdict::Success,
        Ok(_) => Verdict::failure(Kind::Transient),
        Err(error) => error_verdict(error),
    }
}

impl Rig {
    pub(crate) fn new(config: Config) -> Self {
        let (observer, events) = recorder();
        let policy = classify_fn::<u16, fn(Judged<'_>) -> Verdict>(judge);
        let layer = CircuitBreakerLayer::new("test", config).unwrap().policy(policy).observe(observer);
        Self { handle: layer.handle(), layer, events }
    }

    /// Calls; the answer is this code, after this time.
    pub(crate) async fn call_for(&self, code: u16, time: Duration) -> Result<u16, BoxError> {
        let call = async {
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
            Ok::<_, BoxError>(code)
        };
        self.layer.call(call).await
    }

    pub(crate) async fn call(&self, code: u16) -> Result<u16, BoxError> {
        self.call_for(code, Duration::ZERO).await
    }

    /// Calls that all have to be admitted.
    pub(crate) async fn calls(&self, codes: &[u16]) {
        for &code in codes {
            assert_eq!(self.call(code).await.expect("admitted"), code);
        }
    }

    /// A call that has to be refused.
    pub(crate) async fn refused(&self) -> Refused {
        let error = self.call(200).await.expect_err("refused");
        find::<Refused>(&*error).expect("by the breaker").clone()
    }

    pub(crate) fn state(&self) -> CircuitState {
        self.handle.state()
    }

    /// The transitions so far, as they were observed: each begins where the one before ended, unless events were lost to a
    /// slow observer in between.
    pub(crate) fn transitions(&self) -> Vec<CircuitState> {
        let mut last = Some(CircuitState::Closed);
        let mut transitions = Vec::new();
        for event in &*self.events.lock().unwrap() {
            match event {
                Event::Circuit { from, to, .. } => {
                    assert_eq!(*from, last.unwrap_or(*from), "transitions follow each other");
                    assert_ne!(from, to);
                    last = Some(*to);
                    transitions.push(*to);
                }
                Event::Lost(_) => last = None,
                _ => {}
            }
        }
        transitions
    }

    pub(crate) fn entered(&self, state: CircuitState) -> usize {
        self.transitions().iter().filter(|&&to| to == state).count()
    }
}

pub(crate) fn circuit_open(refused: &Refused) -> Duration {
    assert_eq!(refused.reason(), Reason::CircuitOpen);
    refused.retry_after().expect("an open circuit knows until when")
}

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(crate) fn rate(window: Window, percent: u8, minimum_calls: u32) -> Config {
    Config::only(Trip::FailureRate { window, at_least: Ratio::percent(percent), minimum_calls })
}

pub(crate) fn consecutive(failures: u32) -> Config {
    Config::only(Trip::ConsecutiveFailures(failures))
}

#[allow(unused_imports, reason = "each test file uses its part")]
pub(crate) use tokio::time::advance;
