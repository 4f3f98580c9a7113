//! A thousand clients that wait for each answer before they call again, and are cut off all at once.
//!
//! Each thinks a second between calls, so that together they make some 980 calls a second; the server can do 1,250 and
//! lets a tenth of a second's worth wait. It rejects everything for a while, then recovers. The clients retry until they
//! are answered: what is compared is how well the delays spread them.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use buttress_core::{Backoff, BoxError};
use buttress_retry::{Budget, Config, RetryLayer};
use tokio::time::{Instant, sleep, sleep_until};
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::draw::Draw;
use crate::server::{Plan, Server, Trouble};
use crate::tally::Series;

/// A run.
#[derive(Clone, Debug)]
pub struct Herd {
    /// How many clients.
    pub clients: usize,
    /// For how long the server rejects.
    pub outage: Duration,
    /// For how long they are watched after that.
    pub tail: Duration,
    /// What draws are made from.
    pub seed: u64,
}

const THINKING: Duration = Duration::from_secs(1);
const SERVICE: Duration = Duration::from_millis(8);
/// Two ways over the network and the server's time.
const ANSWER: Duration = Duration::from_millis(18);

impl Herd {
    /// A thousand clients, for which the server is away for so long.
    pub fn after(outage: Duration) -> Self {
        Self { clients: 1000, outage, tail: Duration::from_secs(60), seed: 1 }
    }

    /// The same with other draws.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The same, watched for so long after the outage.
    #[must_use]
    pub fn tail(self, tail: Duration) -> Self {
        Self { tail, ..self }
    }

    /// Lives through it, with these delays.
    pub fn run(&self, backoff: &Backoff) -> Herded {
        crate::simulate(self.simulation(backoff))
    }

    async fn simulation(&self, backoff: &Backoff) -> Herded {
        let plan = Plan {
            workers: self.clients / 100,
            service: SERVICE,
            queue: self.clients / 8,
            trouble: Trouble::Reject,
            during: Duration::ZERO..self.outage,
        };
        let server = Server::start(plan, self.seed);
        let config = Config::background()
            .backoff(backoff.clone().seed(self.seed))
            .max_retries(u32::MAX)
            .budget(Budget::unlimited());
        let retry = RetryLayer::new("server", config).expect("a valid configuration");
        let client = ServiceBuilder::new().layer(retry).service(server.clone());
        let (start, last) = (Instant::now(), self.outage + self.tail);
        let draw = Arc::new(Mutex::new(Draw::seeded(!self.seed)));
        let served = Arc::new(Mutex::new(Vec::new()));
        for _ in 0..self.clients {
            tokio::spawn(live(client.clone(), Arc::clone(&draw), Arc::clone(&served), start));
        }
        let mut now = Duration::ZERO;
        while now < last {
            server.advance();
            now += Duration::from_millis(1);
            sleep_until(start + now).await;
        }
        let served = served.lock().expect("counting does not panic");
        let all_served = (served.len() == self.clients).then(|| served.iter().max().copied()).flatten();
        Herded {
            outage: self.outage,
            last,
            baseline: self.clients as f64 / (THINKING + ANSWER).as_secs_f64(),
            attempts: server.attempts(),
            all_served: all_served.map(|at| at.saturating_sub(self.outage)),
        }
    }
}

/// One client's life.
async fn live<S>(client: S, draw: Arc<Mutex<Draw>>, served: Arc<Mutex<Vec<Duration>>>, start: Instant)
where
    S: Service<(), Error = BoxError> + Clone,
{
    let cut = draw.lock().expect("no draw panics").uniform();
    sleep(Duration::from_millis(5).mul_f64(cut)).await;
    for answers in 0_u64.. {
        // It retries for ever.
        if client.clone().oneshot(()).await.is_err() {
            return;
        }
        if answers == 0 {
            served.lock().expect("counting does not panic").push(start.elapsed());
        }
        let thinks = draw.lock().expect("no draw panics").exponential(THINKING);
        sleep(thinks).await;
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Herded {
    /// For how long the server was away.
    pub outage: Duration,
    /// When it ended.
    pub last: Duration,
    /// Calls a second in ordinary times.
    pub baseline: f64,
    /// What was sent to the server.
    pub attempts: Series,
    /// How long after the outage the last client had its first answer; `None` if some never had one.
    pub all_served: Option<Duration>,
}

impl Herded {
    /// The busiest tenth of a second of the outage beside ordinary traffic, without the first one, in which everybody
    /// was cut off.
    pub fn peak_during(&self) -> f64 {
        self.tenth(&(Duration::from_millis(100)..self.outage))
    }

    /// The busiest tenth of a second after the outage, beside ordinary traffic.
    pub fn peak_after(&self) -> f64 {
        self.tenth(&(self.outage..self.last))
    }

    /// The busiest second after the outage, beside ordinary traffic.
    pub fn peak_second_after(&self) -> f64 {
        f64::from(self.attempts.peak_second(&(self.outage..self.last))) / self.baseline
    }

    /// Seconds after the outage until the last client had its first answer; infinite if some never had one.
    pub fn seconds_until_all_were_served(&self) -> f64 {
        self.all_served.map_or(f64::INFINITY, |served| served.as_secs_f64())
    }

    fn tenth(&self, during: &Range<Duration>) -> f64 {
        f64::from(self.attempts.peak(during)) * 10.0 / self.baseline
    }
}
