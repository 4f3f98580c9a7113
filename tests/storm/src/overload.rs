//! Processes that call whether they get answers or not, at 70 % of what the server can do, until the server has trouble.
//!
//! The server has ten workers of 10 ms each: 1,000 requests a second. Every attempt has a second; an attempt that has run
//! out of time stays in the server's queue, and is worked on for nobody.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::clock::nanos;
use tokio::time::{Instant, sleep_until};
use tower::ServiceExt;

use crate::draw::Draw;
use crate::server::{Plan, Server, Trouble};
use crate::stack::Strategy;
use crate::tally::Series;

/// What the server can do, in requests a second.
pub const CAPACITY: f64 = 1000.0;

/// A run.
#[derive(Clone, Debug)]
pub struct Overload {
    /// How many processes the traffic is spread over.
    pub processes: usize,
    /// The traffic, as a share of the server's capacity.
    pub load: f64,
    /// What goes wrong.
    pub trouble: Trouble,
    /// For how long.
    pub outage: Duration,
    /// For how long calls are made after that.
    pub tail: Duration,
    /// What draws are made from.
    pub seed: u64,
}

/// Before the trouble, so that budgets know the traffic.
const WARM_UP: Duration = Duration::from_secs(30);
/// After the last call, so that all have ended.
const COOL_DOWN: Duration = Duration::from_secs(12);
/// For how long after the outage amplification is measured.
const AFTERMATH: Duration = Duration::from_secs(60);

impl Overload {
    /// Ten seconds of this trouble, for 100 processes that use 70 % of the server.
    pub fn of(trouble: Trouble) -> Self {
        Self {
            processes: 100,
            load: 0.7,
            trouble,
            outage: Duration::from_secs(10),
            tail: Duration::from_secs(190),
            seed: 1,
        }
    }

    /// The same with other traffic.
    #[must_use]
    pub fn load(self, load: f64) -> Self {
        Self { load, ..self }
    }

    /// The same traffic from another number of processes.
    #[must_use]
    pub fn processes(self, processes: usize) -> Self {
        Self { processes, ..self }
    }

    /// The same, watched for so long after the outage.
    #[must_use]
    pub fn tail(self, tail: Duration) -> Self {
        Self { tail, ..self }
    }

    /// The same with other draws.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Lives through it.
    pub fn run(&self, strategy: &Strategy) -> Overloaded {
        crate::simulate(self.simulation(strategy))
    }

    async fn simulation(&self, strategy: &Strategy) -> Overloaded {
        let during = WARM_UP..WARM_UP + self.outage;
        // A queue that is shorter than the callers' patience does no harm that retries could add to.
        let queue = if self.trouble == Trouble::Reject { 500 } else { 20_000 };
        let plan = Plan {
            workers: 10,
            service: Duration::from_millis(10),
            queue,
            trouble: self.trouble,
            during: during.clone(),
        };
        let server = Server::start(plan, self.seed);
        let processes: Vec<_> = (0..self.processes)
            .map(|process| strategy.process(server.clone(), (self.seed << 32) + process as u64))
            .collect();
        let calls = Arc::new(Mutex::new(Calls::default()));
        let mut draw = Draw::seeded(!self.seed);
        let gap = Duration::from_secs_f64(1.0 / (self.load * CAPACITY));
        let (start, last) = (Instant::now(), during.end + self.tail);
        let mut next = draw.exponential(gap);
        let mut now = Duration::ZERO;
        let mut before = (Duration::ZERO, Duration::ZERO);
        while now < last + COOL_DOWN {
            server.advance();
            if now == during.start {
                before = server.work();
            }
            while next <= now && next < last {
                let process = processes[draw.index(self.processes)].clone();
                tokio::spawn(call(process, Arc::clone(&calls), start, next));
                next += draw.exponential(gap);
            }
            now += Duration::from_millis(1);
            sleep_until(start + now).await;
        }
        let (work, wasted) = server.work();
        let wasted = (wasted - before.1).as_secs_f64() / (work - before.0).as_secs_f64();
        let calls = std::mem::take(&mut *calls.lock().expect("counting does not panic"));
        Overloaded { during, last, load: self.load, attempts: server.attempts(), calls, wasted }
    }
}

async fn call<S>(process: S, calls: Arc<Mutex<Calls>>, start: Instant, began: Duration)
where
    S: tower::Service<()>,
{
    let answered = process.oneshot(()).await.is_ok();
    let took = start.elapsed().saturating_sub(began);
    calls.lock().expect("counting does not panic").count(began, answered, took);
}

/// Calls by the time at which they began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    /// All that have ended.
    pub all: Series,
    /// Answered within a second.
    pub prompt: Series,
    /// Not answered at all.
    pub lost: Series,
}

impl Calls {
    fn count(&mut self, began: Duration, answered: bool, took: Duration) {
        let at = nanos(began);
        self.all.count(at);
        if !answered {
            self.lost.count(at);
        } else if took <= Duration::from_secs(1) {
            self.prompt.count(at);
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Overloaded {
    /// When the server was in trouble.
    pub during: Range<Duration>,
    /// When the last call was made.
    pub last: Duration,
    load: f64,
    /// What was sent to the server.
    pub attempts: Series,
    /// What the callers saw.
    pub calls: Calls,
    /// The share of the server's work since the trouble began that nobody waited for.
    pub wasted: f64,
}

impl Overloaded {
    /// Calls a second in ordinary times.
    pub fn rate(&self) -> f64 {
        self.load * CAPACITY
    }

    /// The busiest second, beside ordinary traffic.
    pub fn peak(&self) -> f64 {
        f64::from(self.attempts.peak_second(&(self.during.start..self.last))) / self.rate()
    }

    /// Attempts per call, from the beginning of the trouble to a minute after its end.
    pub fn amplification(&self) -> f64 {
        let window = self.during.start..(self.during.end + AFTERMATH).min(self.last);
        self.attempts.sum(&window) as f64 / self.calls.all.sum(&window) as f64
    }

    /// Seconds after the end of the trouble until 99 % of calls were answered within a second again; `None` if that has
    /// not come to pass.
    pub fn recovery(&self) -> Option<f64> {
        let seconds = (self.during.start.as_secs()..self.last.as_secs()).map(|second| {
            let window = Duration::from_secs(second)..Duration::from_secs(second + 1);
            (second + 1, self.calls.prompt.sum(&window) as f64 / self.calls.all.sum(&window) as f64)
        });
        // A run without a bad second has nothing to recover from.
        let bad = seconds.filter(|(_, prompt)| *prompt < 0.99).map(|(end, _)| end).next_back().unwrap_or(0);
        (bad + 5 < self.last.as_secs()).then(|| bad.saturating_sub(self.during.end.as_secs()) as f64)
    }

    /// Calls that failed, in seconds of ordinary traffic.
    pub fn lost(&self) -> f64 {
        self.calls.lost.sum(&(self.during.start..self.last)) as f64 / self.rate()
    }
}

/// The figures of a run, or their means over many.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// The busiest second, beside ordinary traffic.
    pub peak: f64,
    /// Attempts per call.
    pub amplification: f64,
    /// Seconds after the outage; `None` if any run did not recover.
    pub recovery: Option<f64>,
    /// Seconds of ordinary traffic.
    pub lost: f64,
    /// Share of the server's work.
    pub wasted: f64,
}

impl Figures {
    /// Those of one run.
    pub fn of(run: &Overloaded) -> Self {
        Self {
            peak: run.peak(),
            amplification: run.amplification(),
            recovery: run.recovery(),
            lost: run.lost(),
            wasted: run.wasted,
        }
    }

    /// The recovery as a number: infinite if there was none.
    pub fn seconds_to_recovery(&self) -> f64 {
        self.recovery.unwrap_or(f64::INFINITY)
    }

    /// The means.
    pub fn mean(all: &[Self]) -> Self {
        let mean = |figure: fn(&Self) -> f64| all.iter().map(figure).sum::<f64>() / all.len() as f64;
        let recovered = all.iter().all(|figures| figures.recovery.is_some());
        Self {
            peak: mean(|figures| figures.peak),
            amplification: mean(|figures| figures.amplification),
            recovery: recovered.then(|| mean(Self::seconds_to_recovery)),
            lost: mean(|figures| figures.lost),
            wasted: mean(|figures| figures.wasted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten calls a second for a minute, with an outage from second 10 to 20; these are not answered in time.
    fn run(bad: impl Fn(u64) -> bool) -> Overloaded {
        let secs = Duration::from_secs;
        let mut calls = Calls::default();
        for tenth in 0..600 {
            let began = secs(tenth) / 10;
            calls.count(began, true, secs(if bad(began.as_secs()) { 2 } else { 1 }));
        }
        let attempts = Series::default();
        Overloaded { during: secs(10)..secs(20), last: secs(60), load: 0.01, attempts, calls, wasted: 0.0 }
    }

    #[test]
    fn recovery_is_the_end_of_the_last_bad_second_after_the_outage() {
        assert_eq!(run(|_| false).recovery(), Some(0.0), "nothing to recover from");
        assert_eq!(run(|second| (10..20).contains(&second)).recovery(), Some(0.0));
        assert_eq!(run(|second| (10..33).contains(&second)).recovery(), Some(13.0));
        assert_eq!(run(|second| second == 10 || second == 41).recovery(), Some(22.0), "a relapse counts");
        assert_eq!(run(|second| second >= 10).recovery(), None);
        assert_eq!(run(|second| second == 57).recovery(), None, "too late to tell");
    }
}
