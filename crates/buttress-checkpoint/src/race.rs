use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::entry::{Body, Kind};
use crate::error::{Misplaced, StepId, StepKind};
use crate::run::{BoxFuture, Core};

/// Several futures of which the first counts; made by [`Cx::race`](crate::Cx::race).
#[must_use = "a race does nothing unless it is awaited"]
pub struct Race<'a, T> {
    core: Arc<Core>,
    id: Option<StepId>,
    /// The recorded winner.
    recorded: Option<usize>,
    /// `None` where one ended that has not won.
    futures: Vec<Option<BoxFuture<'a, T>>>,
    winner: Option<(usize, T)>,
}

impl<T> Unpin for Race<'_, T> {}

impl<'a, T> Race<'a, T> {
    pub(crate) fn new(core: &Arc<Core>, name: &Arc<str>, futures: Vec<BoxFuture<'a, T>>) -> Self {
        let built = core.build(StepKind::Race, name);
        let (id, winner) = built.map_or((None, None), |built| (Some(built.id), built.winner));
        let recorded = winner.map(|winner| winner as usize);
        let futures = futures.into_iter().map(Some).collect();
        Self { core: Arc::clone(core), id, recorded, futures, winner: None }
    }

    fn poll_all(&mut self, cx: &mut Context<'_>) -> Option<(usize, T)> {
        for (number, future) in self.futures.iter_mut().enumerate() {
            let Some(running) = future else { continue };
            let Poll::Ready(value) = running.as_mut().poll(cx) else { continue };
            *future = None;
            if self.recorded.is_none_or(|recorded| recorded == number) {
                return Some((number, value));
            }
        }
        None
    }
}

impl<T> Future for Race<'_, T> {
    type Output = Result<(usize, T), Misplaced>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(id) = this.id.clone().filter(|_| this.core.is_here() && !this.core.is_in_step()) else {
            return Poll::Ready(Err(Misplaced));
        };
        if this.winner.is_none() {
            let Some((number, value)) = this.poll_all(cx) else { return Poll::Pending };
            if this.recorded.is_none() {
                let winner = Some(u32::try_from(number).unwrap_or(u32::MAX));
                this.core.send(Kind::Race, &id, Body { n: id.ordinal, winner, ..Body::default() });
            }
            this.winner = Some((number, value));
        }
        if this.core.take(id.ordinal, cx.waker()).is_none() {
            return Poll::Pending;
        }
        this.futures.clear();
        this.winner.take().map_or(Poll::Pending, |winner| Poll::Ready(Ok(winner)))
    }
}

impl<T> Drop for Race<'_, T> {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.core.forget(id.ordinal);
        }
    }
}

impl<T> fmt::Debug for Race<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Race").field("id", &self.id).finish_non_exhaustive()
    }
}
