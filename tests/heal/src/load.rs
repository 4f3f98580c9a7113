//! Calls at fixed times, whether or not they are answered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};
use tower::ServiceExt;

use crate::Client;

/// How long a call may take, from the time for which it was meant.
pub const LIMIT: Duration = Duration::from_secs(1);

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When, after the start of the load.
    pub at: Duration,
    /// Which target answered; `None` if the call failed.
    pub by: Option<usize>,
}

/// The calls so far, by number: call `n` was meant for `n` periods after the start. `None` is still under way.
pub type Calls = Vec<Option<Ended>>;

/// Calls a client until it is dropped.
#[derive(Debug)]
pub struct Load {
    start: Instant,
    every: Duration,
    calls: Arc<Mutex<Calls>>,
    calling: JoinHandle<()>,
}

impl Load {
    /// Begins now, with a call in each period; each is made with the client of its moment.
    pub fn begin(every: Duration, client: impl Fn() -> Client + Send + 'static) -> Self {
        let (start, calls) = (Instant::now(), Arc::new(Mutex::new(Calls::new())));
        let calling = tokio::spawn(call(client, every, start, Arc::clone(&calls)));
        Self { start, every, calls, calling }
    }

    /// When it began.
    pub fn start(&self) -> Instant {
        self.start
    }

    /// The time between two calls.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// The calls so far.
    pub fn calls(&self) -> Calls {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.calling.abort();
    }
}

async fn call(client: impl Fn() -> Client, every: Duration, start: Instant, calls: Arc<Mutex<Calls>>) {
    let mut under_way = JoinSet::new();
    for number in 0.. {
        let meant_for = start + every * number;
        sleep_until(meant_for).await;
        calls.lock().unwrap_or_else(PoisonError::into_inner).push(None);
        let (client, calls) = (client(), Arc::clone(&calls));
        under_way.spawn(async move {
            let answer = timeout_at(meant_for + LIMIT, client.oneshot(())).await;
            let ended = Ended { at: start.elapsed(), by: answer.ok().and_then(Result::ok) };
            calls.lock().unwrap_or_else(PoisonError::into_inner)[number as usize] = Some(ended);
        });
        while under_way.try_join_next().is_some() {}
    }
}
