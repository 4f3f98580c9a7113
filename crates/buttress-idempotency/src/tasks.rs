//! What goes on in the background, and how it ends.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use buttress_core::within;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Debug, Default)]
pub(crate) struct Tasks {
    /// Claims that are held, and tasks.
    running: AtomicUsize,
    detached: AtomicUsize,
    closed: AtomicBool,
    killed: AtomicBool,
    idle: Notify,
    kill: Notify,
}

impl Tasks {
    pub(crate) fn begin(self: &Arc<Self>) -> Running {
        // In one order with `closed`: see `shutdown`.
        self.running.fetch_add(1, Ordering::SeqCst);
        Running(Arc::clone(self))
    }

    pub(crate) fn detached(&self) -> usize {
        self.detached.load(Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Goes on with something that nobody waits for, until it ends, for `limit` at most, or until [`Tasks::shutdown`] has had
    /// enough.
    pub(crate) fn spawn(
        self: &Arc<Self>,
        runtime: &Handle,
        limit: Duration,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let running = self.begin();
        runtime.spawn(async move {
            let tasks = &running.0;
            let mut killed = pin!(tasks.kill.notified());
            killed.as_mut().enable();
            if tasks.killed.load(Ordering::Acquire) {
                return;
            }
            let _ = within(limit, race(work, killed)).await;
        });
    }

    /// The same for an effect whose caller went away.
    pub(crate) fn detach(self: &Arc<Self>, runtime: &Handle, limit: Duration, work: BoxFuture<()>) {
        let detached = self.count_detached();
        self.spawn(runtime, limit, async move {
            let _detached = detached;
            work.await;
        });
    }

    /// Counts something as detached for as long as this is held.
    pub(crate) fn count_detached(self: &Arc<Self>) -> Detached {
        self.detached.fetch_add(1, Ordering::Relaxed);
        Detached(Arc::clone(self))
    }

    /// Lets nothing begin any more and waits for what has begun; says how much was left, and is now dropped.
    pub(crate) async fn shutdown(&self, bound: Duration) -> usize {
        self.closed.store(true, Ordering::SeqCst);
        let all = async {
            loop {
                let mut idle = pin!(self.idle.notified());
                idle.as_mut().enable();
                if self.running.load(Ordering::SeqCst) == 0 {
                    return;
                }
                idle.await;
            }
        };
        if within(bound, all).await.is_some() {
            return 0;
        }
        self.killed.store(true, Ordering::Release);
        self.kill.notify_waiters();
        self.running.load(Ordering::Acquire)
    }
}

/// Something that a shutdown waits for.
#[derive(Debug)]
pub(crate) struct Running(Arc<Tasks>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[derive(Debug)]
pub(crate) struct Detached(Arc<Tasks>);

impl Drop for Detached {
    fn drop(&mut self) {
        self.0.detached.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What `work` replies, which may be there before it ends, where the store has to be tried again: the rest of it is dropped.
pub(crate) async fn answered<R>(work: impl Future<Output = ()>, mut reply: oneshot::Receiver<R>) -> R {
    let mut answer = None;
    race(work, async { answer = (&mut reply).await.ok() }).await;
    answer.or_else(|| reply.try_recv().ok()).expect("a call ends with a reply")
}

/// Ends with the first of the two, and looks at `work` first.
pub(crate) async fn race<T>(work: impl Future<Output = T>, other: impl Future<Output = ()>) -> Option<T> {
    let (mut work, mut other) = (pin!(work), pin!(other));
    let mut ended = false;
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        if !ended {
            ended = other.as_mut().poll(cx).is_ready();
        }
        if ended { Poll::Ready(None) } else { Poll::Pending }
    })
    .await
}
