use std::sync::PoisonError;
use std::time::Duration;

use buttress_core::Clock;
use buttress_core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use buttress_core::sync::{Mutex, MutexGuard};

use super::{Paid, TOKEN};

/// A bucket whose size follows the traffic: a success is one relaxed add, everything else waits until a retry asks, or
/// for every 256th success.
#[derive(Debug)]
pub(super) struct Adaptive {
    successes: AtomicU64,
    clock: Clock,
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Millionths of a token per success.
    share: u64,
    burst: Duration,
    at_least: u64,
    pub(super) tokens: u64,
    /// Successes that have been credited.
    credited: u64,
    /// Successes per second, as an average over the last ten seconds or so, and what it was computed from.
    rate: f64,
    rated: u64,
    rated_at: u64,
    /// Until when time has been turned into tokens.
    trickled_at: u64,
}

/// While fewer are in hand than there should be at least, one token comes in this time.
const TRICKLE_NANOS: u64 = 60_000_000_000;

/// The average forgets with this time constant.
const MEMORY_SECS: f64 = 10.0;

impl Adaptive {
    /// As a new one.
    pub(super) fn begin(&self, share: u64, burst: Duration, at_least: u64) {
        let (credited, now) = (self.successes.load(Relaxed), self.clock.now());
        let begun = Ledger { share, burst, at_least, tokens: at_least, ..Ledger::default() };
        *self.lock() = Ledger { credited, rated: credited, rated_at: now, trickled_at: now, ..begun };
    }

    /// Goes on by another rule. What has succeeded so far is credited by the old one.
    pub(super) fn change(&self, share: u64, burst: Duration, at_least: u64) {
        self.settled(|ledger| (ledger.share, ledger.burst, ledger.at_least) = (share, burst, at_least));
        self.settled(|_| ());
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(super) fn success(&self) {
        if self.successes.fetch_add(1, Relaxed) % 256 == 255 {
            self.settled(|_| ());
        }
    }

    pub(super) fn pay(&self, rehearse: bool) -> Option<Paid> {
        self.settled(|ledger| {
            let left = ledger.tokens.checked_sub(TOKEN)?;
            if !rehearse {
                ledger.tokens = left;
            }
            Some(Paid(TOKEN))
        })
    }

    pub(super) fn tokens(&self) -> f64 {
        self.settled(|ledger| ledger.tokens as f64 / TOKEN as f64)
    }

    /// Turns time into tokens, whole ones, as long as there are fewer than there should be at least.
    fn trickle(ledger: &mut Ledger, now: u64) {
        let periods = now.saturating_sub(ledger.trickled_at) / TRICKLE_NANOS;
        if ledger.tokens < ledger.at_least {
            ledger.tokens = ledger.tokens.saturating_add(periods.saturating_mul(TOKEN)).min(ledger.at_least);
            ledger.trickled_at += periods * TRICKLE_NANOS;
        }
        // Time for which there were enough buys nothing.
        if ledger.tokens >= ledger.at_least {
            ledger.trickled_at = now;
        }
    }

    /// Credits what has succeeded, and cuts the rest to the burst.
    #[cold]
    pub(super) fn settled<T>(&self, f: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.lock();
        let successes = self.successes.load(Relaxed);
        let now = self.clock.now();
        let elapsed = now.saturating_sub(ledger.rated_at) as f64 / 1e9;
        // A shorter interval than this says nothing about a rate.
        if elapsed >= 0.001 {
            let recent = successes.wrapping_sub(ledger.rated) as f64 / elapsed;
            let keep = (-elapsed / MEMORY_SECS).exp();
            ledger.rate = ledger.rate * keep + recent * (1.0 - keep);
            (ledger.rated, ledger.rated_at) = (successes, now);
        }
        let credit = successes.wrapping_sub(ledger.credited).saturating_mul(ledger.share);
        ledger.credited = successes;
        let burst = (ledger.rate * ledger.burst.as_secs_f64() * TOKEN as f64) as u64;
        ledger.tokens = ledger.tokens.saturating_add(credit).min(burst.max(ledger.at_least));
        Self::trickle(&mut ledger, now);
        f(&mut ledger)
    }
}

/// Earns nothing and holds nothing, until it [begins](Adaptive::begin).
impl Default for Adaptive {
    fn default() -> Self {
        let (successes, ledger) = (AtomicU64::new(0), Mutex::new(Ledger::default()));
        Self { successes, clock: Clock::start(), ledger }
    }
}
