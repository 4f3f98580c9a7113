use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::entry::{Body, Fault, Kind};
use crate::error::{Mismatch, StepError, StepId, StepKind};
use crate::run::{BoxFuture, Core, Place};
use crate::step;

/// Several futures of which the first counts; made by [`Cx::race`](crate::Cx::race).
#[must_use = "a race does nothing unless it is awaited"]
pub struct Race<'a, T> {
    core: Arc<Core>,
    id: Result<StepId, Place>,
    /// It has a winner, of which the record is there or on its way.
    is_won: bool,
    /// `None` where one has ended.
    futures: Vec<Option<BoxFuture<'a, T>>>,
}

impl<T> Unpin for Race<'_, T> {}

impl<'a, T> Race<'a, T> {
    pub(crate) fn new(core: &Arc<Core>, name: &Arc<str>, futures: Vec<BoxFuture<'a, T>>) -> Self {
        let (id, is_won) = match core.build(StepKind::Race, name) {
            Ok(built) => (Ok(built.id), built.winner.is_some()),
            Err(place) => (Err(place), false),
        };
        let futures = futures.into_iter().map(Some).collect();
        Self { core: Arc::clone(core), id, is_won, futures }
    }

    /// Polls all of them, and gives the first one that has ended.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Option<(usize, T)> {
        let mut first = None;
        for (number, future) in self.futures.iter_mut().enumerate() {
            let Some(running) = future else { continue };
            if let Poll::Ready(value) = running.as_mut().poll(cx) {
                *future = None;
                first.get_or_insert((number, value));
            }
        }
        first
    }
}

impl<T: Serialize + DeserializeOwned> Race<'_, T> {
    fn won(&mut self, id: &StepId, number: usize, value: &T) {
        let winner = Some(u32::try_from(number).unwrap_or(u32::MAX));
        let mut body = Body { n: id.ordinal, winner, ..Body::default() };
        match step::encode(value, self.core.max_value()) {
            Ok((raw, _)) => body.ok = Some(raw),
            Err(reason) => body.fault = Some(Fault::NotStored { reason }),
        }
        self.core.send(Kind::Race, id, body);
        self.is_won = true;
    }
}

impl<T: Serialize + DeserializeOwned> Future for Race<'_, T> {
    type Output = Result<(usize, T), StepError<Infallible>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let id = match &this.id {
            Ok(id) => id.clone(),
            Err(place) => return Poll::Ready(Err((*place).into())),
        };
        if let Some(place) = this.core.misplaced() {
            return Poll::Ready(Err(place.into()));
        }
        // Until the record is handed over they all go on, in a replay as the first time: operations among them have their
        // places in the journal. Who ends second does not count, nor who ends in a replay.
        if let Some((number, value)) = this.poll_all(cx)
            && !this.is_won
        {
            this.won(&id, number, &value);
        }
        let Some(delivery) = this.core.take(id.ordinal, cx.waker()) else { return Poll::Pending };
        this.futures.clear();
        let Body { ok, winner, fault, .. } = delivery.body;
        if let Some(Fault::NotStored { reason }) = fault {
            return Poll::Ready(Err(StepError::NotStored { reason }));
        }
        let value = ok.as_deref().map_or("null", |value| value.get());
        match serde_json::from_str(value) {
            Ok(value) => Poll::Ready(Ok((winner.unwrap_or_default() as usize, value))),
            Err(error) => {
                this.core.mismatch(Mismatch::Undecodable { what: id.to_string(), reason: error.to_string() });
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Race<'_, T> {
    fn drop(&mut self) {
        if let Ok(id) = &self.id {
            self.core.forget(id.ordinal);
        }
    }
}

impl<T> fmt::Debug for Race<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Race").field("id", &self.id).finish_non_exhaustive()
    }
}
