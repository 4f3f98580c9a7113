//! Undoes one step.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Duration;

use buttress_core::{Backoff, StepKey};
use tokio::time::{Instant, sleep};

use crate::run::{Compensation, Core};

pub(crate) enum Undone {
    Yes(Duration),
    /// So often that somebody has to look.
    Failed(String),
    Panicked,
}

/// After 1, 2, 4, 8 and 16 seconds.
const RETRIES: usize = 5;

pub(crate) async fn undo(core: &Core, step: &mut Compensation) -> Undone {
    let backoff =
        Backoff::exponential(Duration::from_secs(1), 2.0, Duration::from_secs(60)).unwrap_or_default();
    let mut delays = backoff.delays().take(RETRIES);
    // A key of its own: it is another call than the one that it takes back.
    let key = core.key_of(&format!("compensate {}", step.id.name), step.id.occurrence);
    loop {
        let began = Instant::now();
        let Ok(called) = catch_unwind(AssertUnwindSafe(|| (step.undo)(&step.value))) else {
            return Undone::Panicked;
        };
        let mut future = match called {
            Ok(future) => Box::pin(StepKey::scope(key.clone(), future)),
            Err(error) => return Undone::Failed(error),
        };
        let ended = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Some),
            Err(_) => Poll::Ready(None),
        });
        let error = match ended.await {
            None => return Undone::Panicked,
            Some(Ok(())) => return Undone::Yes(began.elapsed()),
            Some(Err(error)) => error,
        };
        match delays.next() {
            Some(delay) => sleep(delay).await,
            None => return Undone::Failed(error),
        }
    }
}
