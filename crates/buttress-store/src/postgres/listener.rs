//! The connection on which the server tells of changes that other processes make.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use buttress_core::Rng;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{AsyncMessage, Config, Socket};

use crate::waiters::Waiters;

/// What it waits at first, and at most, before it connects anew.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Connects once somebody waits, and anew whenever it has to. Ends when it is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    task: JoinHandle<()>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    wanted: Notify,
    listens: AtomicBool,
}

impl Listener {
    pub(super) fn new<T>(config: Config, tls: T, limit: Duration, waiters: Arc<Waiters>) -> Self
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let state = Arc::new(State::default());
        let task = tokio::spawn(run(config, tls, limit, waiters, state.clone()));
        Self { task, state }
    }

    /// Whether it hears of changes from now on; if not it soon does.
    pub(super) fn listens(&self) -> bool {
        let listens = self.state.listens.load(Ordering::Acquire);
        if !listens {
            self.state.wanted.notify_one();
        }
        listens
    }

    pub(super) fn close(&self) {
        self.task.abort();
        self.state.listens.store(false, Ordering::Release);
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run<T>(config: Config, tls: T, limit: Duration, waiters: Arc<Waiters>, state: Arc<State>)
where
    T: MakeTlsConnect<Socket> + Clone,
{
    let mut rng = Rng::from_system();
    let mut pause = PAUSES.0;
    loop {
        state.wanted.notified().await;
        listen(&config, tls.clone(), limit, &waiters, &state).await;
        if state.listens.swap(false, Ordering::AcqRel) {
            pause = PAUSES.0;
            // They rely on it no more, and those who still wait want it again.
            waiters.wake_all();
        }
        sleep(rng.up_to(pause)).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Until the connection breaks.
async fn listen<T>(config: &Config, tls: T, limit: Duration, waiters: &Waiters, state: &State)
where
    T: MakeTlsConnect<Socket>,
{
    let Ok(Ok((client, mut connection))) = timeout(limit, config.connect(tls)).await else { return };
    let mut asking = pin!(timeout(limit, client.batch_execute("LISTEN buttress_claims")));
    let mut listens = false;
    poll_fn(|cx| {
        if !listens && let Poll::Ready(asked) = asking.as_mut().poll(cx) {
            listens = matches!(asked, Ok(Ok(())));
            if !listens {
                return Poll::Ready(());
            }
            state.listens.store(true, Ordering::Release);
            // What changed before is heard of by nobody.
            waiters.wake_all();
        }
        loop {
            match ready!(connection.poll_message(cx)) {
                Some(Ok(AsyncMessage::Notification(told))) => {
                    if let Ok(tag) = told.payload().parse() {
                        waiters.wake_tag(tag);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(()),
            }
        }
    })
    .await;
}
