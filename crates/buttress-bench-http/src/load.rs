//! Calls a client from many tasks of one thread, and says what that took.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use buttress::BoxError;
use futures_util::future::{LocalBoxFuture, try_join_all};
use rustix::time::{ClockId, clock_gettime};

/// So many calls are under way at a time.
const IN_FLIGHT: usize = 32;

/// How long calls go on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Time(Duration),
    Calls(u64),
}

/// What a slice of calls took.
#[derive(Debug)]
pub(crate) struct Slice {
    pub(crate) calls: u64,
    pub(crate) elapsed: Duration,
    /// Of the client's thread.
    pub(crate) cpu: Duration,
    /// Of each call, in nanoseconds.
    pub(crate) latencies: Vec<u32>,
}

impl Slice {
    pub(crate) fn per_second(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn cpu_per_call(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.calls as f64
    }
}

/// A client under load.
pub(crate) struct Client {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    run: Box<dyn Fn(Until) -> LocalBoxFuture<'static, Result<Slice, BoxError>>>,
}

impl Client {
    /// `call` makes one call and reads its whole answer; it is called from several tasks, each with a copy of its own.
    pub(crate) fn new<C, F>(group: &'static str, name: &'static str, call: C) -> Self
    where
        C: FnMut() -> F + Clone + 'static,
        F: Future<Output = Result<(), BoxError>> + 'static,
    {
        let run = move |until| Box::pin(drive(call.clone(), until)) as LocalBoxFuture<'static, _>;
        Self { group, name, run: Box::new(run) }
    }

    pub(crate) async fn run(&self, until: Until) -> Result<Slice, BoxError> {
        (self.run)(until).await.map_err(|error| format!("{}, {}: {error}", self.group, self.name).into())
    }
}

async fn drive<C, F>(call: C, until: Until) -> Result<Slice, BoxError>
where
    C: FnMut() -> F + Clone + 'static,
    F: Future<Output = Result<(), BoxError>> + 'static,
{
    let left = Rc::new(Cell::new(if let Until::Calls(calls) = until { calls } else { u64::MAX }));
    let (start, cpu) = (now(ClockId::Monotonic), now(ClockId::ThreadCPUTime));
    let end = if let Until::Time(time) = until { start + time } else { Duration::MAX };
    let tasks = (0..IN_FLIGHT).map(|_| {
        let (mut call, left) = (call.clone(), Rc::clone(&left));
        tokio::task::spawn_local(async move {
            let mut latencies = Vec::with_capacity(4096);
            let mut before = now(ClockId::Monotonic);
            while before < end && left.get() > 0 {
                left.set(left.get() - 1);
                call().await?;
                let after = now(ClockId::Monotonic);
                latencies.push(u32::try_from((after - before).as_nanos()).unwrap_or(u32::MAX));
                before = after;
            }
            Ok::<_, BoxError>(latencies)
        })
    });
    let latencies = try_join_all(tasks.collect::<Vec<_>>()).await?;
    let elapsed = now(ClockId::Monotonic) - start;
    let cpu = now(ClockId::ThreadCPUTime) - cpu;
    let latencies = latencies.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    Ok(Slice { calls: latencies.len() as u64, elapsed, cpu, latencies })
}

fn now(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
