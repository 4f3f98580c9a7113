//! Slow start: a new generation takes a few calls at once, then twice as many, and so on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use buttress_core::clock::after;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::signals::Signals;

/// So often the limit doubles before it may go: a thousandfold.
const DOUBLINGS: u32 = 10;

/// The places of a generation that starts slowly.
#[derive(Debug)]
pub(crate) struct Ramp {
    places: Arc<Semaphore>,
    /// Somebody found no place since the limit was last raised.
    held_back: AtomicBool,
}

/// What a generation that starts slowly says to a caller.
pub(crate) enum Place {
    Taken(OwnedSemaphorePermit),
    /// It takes all that come by now.
    NotNeeded,
    /// Its places are taken. This resolves when one is free, or when none is needed any more.
    Full(Arc<Semaphore>),
}

impl Ramp {
    pub(crate) fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), held_back: AtomicBool::new(false) }
    }

    pub(crate) fn place(&self) -> Place {
        use tokio::sync::TryAcquireError::{Closed, NoPermits};
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Place::Taken(place),
            Err(Closed) => Place::NotNeeded,
            Err(NoPermits) => {
                self.held_back.store(true, Relaxed);
                Place::Full(Arc::clone(&self.places))
            }
        }
    }

    /// Nobody waits for a place any more.
    pub(crate) fn end(&self, signals: &Signals) {
        signals.end_slow_start();
        self.places.close();
    }

    /// Raises the limit until nobody is held back.
    pub(crate) async fn grow(&self, signals: &Signals, mut limit: usize, slow_start: Duration) {
        let start = Instant::now();
        for step in 1_u32.. {
            tokio::time::sleep_until(after(start, (slow_start / DOUBLINGS).saturating_mul(step))).await;
            let held_back = self.held_back.swap(false, Relaxed);
            let more = limit.min(Semaphore::MAX_PERMITS - limit);
            if step >= DOUBLINGS && !held_back || more == 0 {
                break;
            }
            self.places.add_permits(more);
            limit += more;
        }
        self.end(signals);
    }
}
