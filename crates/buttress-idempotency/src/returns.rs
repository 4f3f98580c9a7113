//! Claims that are given back although nobody waits for that.

use std::sync::Arc;
use std::time::Duration;

use buttress_core::clock::after;
use buttress_core::{Backoff, Delays, Jitter, Timer, within};
use buttress_store::{Claim, ClaimRequest, ClaimStore, Claimed, Written};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::engine::Engine;

/// So many claims of which nobody knows whether they were had are given back at a time. The others end with their leases: a store
/// that fails under its load is not helped by being asked again for all that it did not answer.
const MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Returns(Arc<Semaphore>);

impl Default for Returns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX)))
    }
}

/// The pauses between tries at a store that fails.
pub(crate) fn pauses() -> Delays {
    let backoff = Backoff::exponential(Duration::from_millis(200), 2.0, Duration::from_secs(5));
    backoff.expect("a fixed backoff").jitter(Jitter::Equal).delays()
}

/// The next pause; `false` if there is no timer for it.
pub(crate) async fn pause(pauses: &mut Delays) -> bool {
    let until = after(Instant::now(), pauses.next().unwrap_or_default());
    match Timer::at(until) {
        Ok(timer) => {
            timer.await;
            true
        }
        Err(_) => false,
    }
}

impl<St: ClaimStore> Engine<St> {
    /// Gives back what a request for a claim may have got whose answer nobody heard, as long as that could block the key: for a
    /// lease. A shutdown does not wait for it.
    pub(crate) fn give_back(self: &Arc<Self>, runtime: &Handle, request: ClaimRequest) {
        let Ok(slot) = Arc::clone(&self.returns.0).try_acquire_owned() else { return };
        let engine = Arc::clone(self);
        runtime.spawn(async move {
            let _slot = slot;
            let end = after(Instant::now(), engine.config.lease);
            let mut pauses = pauses();
            loop {
                // The same owner asks again, which gives the claim that it may have got.
                match within(engine.config.store_timeout, engine.store.claim(&request)).await {
                    Some(Ok(Claimed::Owned(claim))) => {
                        engine.release_until(&claim, end).await;
                        return;
                    }
                    Some(Ok(_)) => return,
                    Some(Err(_)) | None => {}
                }
                if !engine.goes_on(&mut pauses, end).await {
                    return;
                }
            }
        });
    }

    /// Frees a key whose effect has not begun; `false` if it is not free for sure.
    pub(crate) async fn release_until(&self, claim: &Claim, end: Instant) -> bool {
        let mut pauses = pauses();
        loop {
            match within(self.config.store_timeout, self.store.release(claim)).await {
                Some(Ok(Written::Applied)) => return true,
                Some(Ok(Written::Fenced { .. })) => return false,
                Some(Err(_)) | None => {}
            }
            if !self.goes_on(&mut pauses, end).await {
                return false;
            }
        }
    }

    async fn goes_on(&self, pauses: &mut Delays, end: Instant) -> bool {
        pause(pauses).await && Instant::now() < end && !self.tasks.is_closed()
    }
}
