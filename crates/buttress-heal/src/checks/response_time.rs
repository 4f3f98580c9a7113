use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use buttress_core::ConfigError;
use buttress_core::clock::{Seconds, after};
use tokio::time::Instant;

use crate::BoxFuture;
use crate::check::{Answer, Check, Subject, Symptom};

/// Whether the calls that are made anyway take too long. It makes none itself.
///
/// It fails while at least [so many per cent](Self::percent) of the calls that have ended within the [window](Self::window)
/// took longer than the limit; a call that its caller gave up counts with the time it was given. With [fewer
/// calls](Self::minimum_calls) slow ones say nothing ([`Answer::Skipped`]): one request in the night is no sign; if none of
/// them is slow, or if there is none at all, it passes. A call that still hangs has not ended: give calls a deadline.
///
/// The symptom is [`Symptom::ResponseTime`]. Calls are timed from the first time that such a check is run.
///
/// | setting | default |
/// |---|---|
/// | `percent` | 50 |
/// | `window` | 3 s |
/// | `minimum_calls` | 20 |
///
/// ```
/// use std::time::Duration;
/// use buttress_heal::{Monitor, ResponseTimeCheck};
///
/// # fn main() -> Result<(), buttress_core::ConfigError> {
/// let check = ResponseTimeCheck::new(Duration::from_millis(500)).percent(20)?.minimum_calls(100);
/// let check = Monitor::new(check).every(Duration::from_secs(2));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ResponseTimeCheck {
    limit: Duration,
    percent: u8,
    window: Duration,
    minimum_calls: u64,
    seen: Mutex<Seen>,
}

/// What was counted when; pure.
#[derive(Debug, Default)]
struct Seen {
    generation: u64,
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    slow: u64,
    calls: u64,
}

/// However often it is run.
const MOST_SAMPLES: usize = 256;

impl Seen {
    /// How many calls were slow, and how many there were, since the sample that the window begins with.
    fn since(&mut self, generation: u64, now: Sample, window: Duration) -> (u64, u64) {
        if self.generation != generation {
            *self = Self { generation, samples: VecDeque::new() };
        }
        // The one that is just older than the window is where it begins.
        while self.samples.get(1).is_some_and(|second| after(second.at, window) <= now.at) {
            self.samples.pop_front();
        }
        let first = self.samples.front().copied().unwrap_or(Sample { slow: 0, calls: 0, ..now });
        if self.samples.len() == MOST_SAMPLES {
            // The one before the last: the window begins where it did.
            self.samples.pop_back();
        }
        self.samples.push_back(now);
        (now.slow.saturating_sub(first.slow), now.calls.saturating_sub(first.calls))
    }
}

impl ResponseTimeCheck {
    /// Calls that take longer than this are slow.
    pub fn new(limit: Duration) -> Self {
        let (window, seen) = (Duration::from_secs(3), Mutex::default());
        Self { limit, percent: 50, window, minimum_calls: 20, seen }
    }

    /// The share of slow calls, in percent, from which on it fails. Default 50.
    ///
    /// # Errors
    ///
    /// If it is not 1 to 100.
    pub fn percent(self, percent: u8) -> Result<Self, ConfigError> {
        if !(1..=100).contains(&percent) {
            return Err(ConfigError::new("percent", percent, "must be 1 to 100"));
        }
        Ok(Self { percent, ..self })
    }

    /// Which calls are looked at: those that ended within so long, or since it was run last if that is longer ago. Default 3 s. Let it
    /// be shorter than the time that actions have to show their effect ([`Rung::verify`](crate::Rung::verify)), or none ever has one.
    #[must_use]
    pub fn window(self, window: Duration) -> Self {
        Self { window, ..self }
    }

    /// With fewer calls, slow ones say nothing. Default 20.
    #[must_use]
    pub fn minimum_calls(self, minimum_calls: u64) -> Self {
        Self { minimum_calls, ..self }
    }

    /// `waiting` says that there are calls which have not ended yet.
    fn judge(&self, (slow, calls): (u64, u64), waiting: bool) -> Answer {
        if calls < self.minimum_calls.max(1) {
            let well = slow == 0 && (calls > 0 || !waiting);
            return if well { Answer::Pass } else { Answer::Skipped };
        }
        if u128::from(slow) * 100 < u128::from(calls) * u128::from(self.percent) {
            return Answer::Pass;
        }
        Answer::fail(format!("{slow} of {calls} calls took longer than {}", Seconds(self.limit)))
    }
}

impl<S> Check<S> for ResponseTimeCheck {
    fn name(&self) -> &str {
        "response time"
    }

    fn symptom(&self) -> Symptom {
        Symptom::ResponseTime
    }

    fn run<'a>(&'a self, subject: Subject<'a, S>) -> BoxFuture<'a, Answer> {
        let (slow, calls) = subject.traffic.slower_than(self.limit);
        let now = Sample { at: Instant::now(), slow, calls };
        // A service that takes no calls yet does not interrupt what is known of the one that does.
        let answer = if subject.traffic.generation() == 0 {
            Answer::Skipped
        } else {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = subject.traffic.outcomes().in_flight > 0;
            self.judge(seen.since(subject.generation, now, self.window), waiting)
        };
        Box::pin(std::future::ready(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_counted_within_the_window_and_of_one_generation() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let mut since = |generation, at, slow, calls| {
            seen.since(generation, Sample { at: start + secs(at), slow, calls }, secs(5))
        };
        assert_eq!(since(1, 0, 0, 0), (0, 0));
        assert_eq!(since(1, 2, 10, 100), (10, 100));
        assert_eq!(since(1, 5, 30, 150), (30, 150));
        assert_eq!(since(1, 6, 30, 200), (30, 200), "since the start, which is a little more than 5 s ago");
        assert_eq!(since(1, 7, 30, 300), (20, 200), "since 2 s");
        assert_eq!(since(1, 12, 30, 300), (0, 0), "since 7 s: nothing happened");
        assert_eq!(since(1, 60, 30, 400), (0, 100), "since it was run last");
        assert_eq!(since(2, 61, 1, 2), (1, 2), "all of the new generation");
    }

    #[tokio::test(start_paused = true)]
    async fn however_often_it_is_run_it_remembers_a_bounded_number_of_samples() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        for at in 0..100_000 {
            let sample = Sample { at: start + Duration::from_micros(at), slow: at, calls: at };
            assert_eq!(seen.since(1, sample, secs(5)), (at, at));
        }
        assert_eq!(seen.samples.len(), MOST_SAMPLES);
    }

    #[test]
    fn the_share_is_exact_and_few_calls_say_nothing() {
        let check = ResponseTimeCheck::new(Duration::from_millis(500)).percent(20).unwrap();
        let judged = |slow, calls| check.judge((slow, calls), true);
        assert_eq!(judged(19, 19), Answer::Skipped);
        assert_eq!((judged(0, 1), judged(0, 0)), (Answer::Pass, Answer::Skipped));
        assert_eq!(check.judge((0, 0), false), Answer::Pass, "there is no traffic");
        assert_eq!(judged(3, 20), Answer::Pass);
        assert_eq!(judged(4, 20), Answer::fail("4 of 20 calls took longer than 500 ms"));
        let never = ResponseTimeCheck::new(Duration::ZERO).minimum_calls(0);
        assert_eq!(never.judge((0, 0), true), Answer::Skipped);
        assert!(ResponseTimeCheck::new(Duration::ZERO).percent(0).is_err());
    }
}
