use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use buttress_core::within;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::gate::Live;
use crate::generations::Retire;
use crate::unwind::caught;

/// A generation that comes to its end: its calls end, those that do not in time are cut off, and its service is retired.
///
/// If the permission to retire it is withdrawn, its service has been put back: then its calls may take their time. Left to itself,
/// all of that takes its course.
pub(crate) struct Ending {
    hurry: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Ending {
    pub(crate) fn begin<S: Send + 'static>(
        live: Arc<Live<S>>,
        limit: Duration,
        mut permission: oneshot::Receiver<()>,
        retire: Option<(Retire<S>, Duration)>,
    ) -> Self {
        let (hurry, hurried) = oneshot::channel();
        let task = tokio::spawn(async move {
            live.lanes.drain(&live.signals);
            let granted = wait(live.signals.drained(), hurried, limit, &mut permission).await;
            live.signals.close();
            let may_retire = match granted {
                Some(granted) => granted,
                None => permission.await.is_ok(),
            };
            let service = live.service.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let (Some(service), Some((retire, limit)), true) = (service, retire, may_retire) {
                // If it panics or hangs, there is nobody whom that concerns.
                let _ = within(limit, caught(|| retire(service))).await;
            }
        });
        Self { hurry: Some(hurry), task }
    }

    /// Waits no longer for calls.
    pub(crate) fn hurry(&mut self) {
        if let Some(hurry) = self.hurry.take() {
            let _ = hurry.send(());
        }
    }

    /// Resolves when it is over.
    pub(crate) async fn over(&mut self) {
        let _ = (&mut self.task).await;
    }
}

/// A permission that was given before it was asked for.
pub(crate) fn granted() -> oneshot::Receiver<()> {
    let (sender, receiver) = oneshot::channel();
    let _ = sender.send(());
    receiver
}

/// Resolves when all calls have ended, or the others are not to be waited for: to the permission, if that is known by then.
async fn wait(
    drained: impl Future<Output = ()>,
    hurried: oneshot::Receiver<()>,
    limit: Duration,
    permission: &mut oneshot::Receiver<()>,
) -> Option<bool> {
    let mut ended = pin!(either(drained, hurried));
    let mut granted = None;
    {
        let mut in_time = pin!(within(limit, ended.as_mut()));
        std::future::poll_fn(|cx| {
            if granted.is_none() {
                if let Poll::Ready(permission) = Pin::new(&mut *permission).poll(cx) {
                    granted = Some(permission.is_ok());
                }
            }
            if granted == Some(false) { Poll::Ready(()) } else { in_time.as_mut().poll(cx).map(drop) }
        })
        .await;
    }
    if granted == Some(false) {
        ended.await;
    }
    granted
}

/// All calls have ended, or somebody is in a hurry.
async fn either(drained: impl Future<Output = ()>, hurried: oneshot::Receiver<()>) {
    let (mut drained, mut hurried) = (pin!(drained), Some(hurried));
    std::future::poll_fn(|cx| {
        if drained.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let Some(hurry) = hurried.as_mut() else { return Poll::Pending };
        match ready!(Pin::new(hurry).poll(cx)) {
            Ok(()) => Poll::Ready(()),
            // Whoever could be in a hurry has gone.
            Err(_) => {
                hurried = None;
                Poll::Pending
            }
        }
    })
    .await;
}
