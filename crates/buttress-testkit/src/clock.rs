//! Helpers for the paused clock.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Lets every other task run until it waits, without moving the clock.
pub async fn settle() {
    // The runtime looks at the present task again after some sixty others: enough for tens of thousands.
    for _ in 0..512 {
        tokio::task::yield_now().await;
    }
}

/// Moves the paused clock, and lets every task run that this woke.
pub async fn advance(duration: Duration) {
    settle().await;
    tokio::time::advance(duration).await;
    settle().await;
}

/// Polls a future once, without a waker; for what must happen, or must not, before the clock moves.
pub fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Polls a future once in the present task, so that it is woken as it would be if it were awaited.
pub async fn poll_in_task<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx))).await
}
