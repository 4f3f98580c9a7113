//! The state that all clones of a breaker share: one word that says it all while nothing is wrong, and the state
//! machine behind a lock for the rest.

use std::sync::{Arc, PoisonError};

use buttress_core::Mode;
use buttress_core::clock::{Clock, LazyNow, nanos};
use buttress_core::observe::{CallResult, CircuitState, Event, Observer, Outbox};
use buttress_core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, Release},
};
use buttress_core::sync::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::config::Config;
use crate::state::{Change, Machine, Seen, Tallies};

mod holder;
pub(crate) use holder::{Holder, Keyed, Look, Refusal, WeakHolder};

/// What every breaker of one layer has in common.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: Arc<str>,
    pub(crate) config: Config,
    pub(crate) clock: Clock,
    pub(crate) observer: Observer,
    outbox: Outbox,
    /// Tells whoever waits for a state of any of the circuits to look at it again.
    pub(crate) changed: Notify,
}

impl Settings {
    pub(crate) fn new(name: Arc<str>, config: Config) -> Self {
        let clock = Clock::start();
        let (observer, outbox, changed) = (Observer::default(), Outbox::default(), Notify::new());
        Self { name, config, clock, observer, outbox, changed }
    }

    #[inline]
    pub(crate) fn report(&self, result: CallResult) {
        self.observer.emit(&self.name, || Event::Call(result));
    }
}

/// One circuit.
#[derive(Debug)]
pub(crate) struct Breaker {
    pub(crate) settings: Arc<Settings>,
    /// `generation << 32 | refused << 8 | WINDOWED | CLEAN | mode << 2 | state`. Written under the lock of `machine`, except that
    /// refusals count without it.
    gate: AtomicU64,
    /// Until when an open circuit refuses; written before `gate` says that it is open.
    until: AtomicU64,
    /// Kept aside, because most circuits need none of it.
    aside: Option<Box<Aside>>,
    machine: Mutex<Machine>,
}

#[derive(Debug)]
struct Aside {
    tallies: Tallies,
    waker: Mutex<Waker>,
}

/// Ends the open time of an eager circuit.
#[derive(Debug, Default)]
struct Waker {
    /// Of which the task is, or would be.
    generation: u32,
    task: Option<AbortHandle>,
}

impl Waker {
    /// Takes the task of this generation, unless that of a later one came first.
    fn replace(&mut self, generation: u32, task: Option<AbortHandle>) {
        let is_late = generation.wrapping_sub(self.generation) > u32::MAX / 2;
        let old = if is_late { task } else { std::mem::replace(&mut self.task, task) };
        self.generation = if is_late { self.generation } else { generation };
        if let Some(old) = old {
            old.abort();
        }
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        self.replace(self.generation, None);
    }
}

const STATE: u64 = 0b11;
const MODE_SHIFT: u32 = 2;
const MODE: u64 = 0b11 << MODE_SHIFT;
const OFF: u64 = (Mode::Off as u64) << MODE_SHIFT;
/// A good call changes nothing that is kept under the lock.
const CLEAN: u64 = 1 << 4;
/// There are windows, which want to hear of every call.
const WINDOWED: u64 = 1 << 5;
const REFUSED_SHIFT: u32 = 8;
const REFUSED: u64 = 0xFF_FFFF << REFUSED_SHIFT;
const GENERATION: u64 = 0xFFFF_FFFF << 32;

const fn state_bits(state: CircuitState) -> u64 {
    match state {
        CircuitState::Closed => 0,
        CircuitState::Open => 1,
        CircuitState::HalfOpen => 2,
        CircuitState::Isolated => 3,
    }
}

const CLOSED: u64 = state_bits(CircuitState::Closed);
const OPEN: u64 = state_bits(CircuitState::Open);
const HALF_OPEN: u64 = state_bits(CircuitState::HalfOpen);

const NO_TALLIES: &Tallies = &Tallies { failures: None, slow: None };

impl Breaker {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let (machine, tallies) = Machine::new(&settings.config);
        let mut now = LazyNow::new(&settings.clock);
        let clean = machine.is_clean(&settings.config, &tallies, &mut now);
        let windowed = tallies.failures.is_some() || tallies.slow.is_some();
        let bit = |set, bit| if set { bit } else { 0 };
        let mode = (settings.config.mode as u64) << MODE_SHIFT;
        let gate = CLOSED | mode | bit(clean, CLEAN) | bit(windowed, WINDOWED);
        let needed = windowed || settings.config.eager;
        let aside = needed.then(|| Box::new(Aside { tallies, waker: Mutex::default() }));
        Self { settings, gate: gate.into(), until: AtomicU64::new(0), aside, machine: Mutex::new(machine) }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // No user code runs under this lock; a poisoned one is as good as any.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tallies(&self) -> &Tallies {
        self.aside.as_ref().map_or(NO_TALLIES, |aside| &aside.tallies)
    }

    pub(crate) fn mode(&self) -> Mode {
        Mode::from_u8(((self.gate.load(Relaxed) & MODE) >> MODE_SHIFT) as u8)
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        let _machine = self.lock();
        let set = |gate| Some(gate & !MODE | (mode as u64) << MODE_SHIFT);
        let _ = self.gate.fetch_update(Release, Relaxed, set);
    }

    /// How many calls were refused since the circuit last changed its state, up to 16 million.
    pub(crate) fn refused(&self) -> u64 {
        (self.gate.load(Relaxed) & REFUSED) >> REFUSED_SHIFT
    }

    /// Changes the machine and publishes what came of it. Also returns the gate as it was published.
    fn change<R>(
        &self,
        now: &mut LazyNow<'_>,
        f: impl FnOnce(&mut Machine, &Tallies, &mut LazyNow<'_>) -> (R, Option<Change>),
    ) -> (R, Option<Change>, u64) {
        let mut machine = self.lock();
        let (result, change) = f(&mut machine, self.tallies(), now);
        let clean = machine.is_clean(&self.settings.config, self.tallies(), now);
        let clean = if clean { CLEAN } else { 0 };
        let gate = self.gate.load(Relaxed);
        let Some(change) = change else {
            if gate & CLEAN != clean {
                self.gate.fetch_xor(CLEAN, Release);
            }
            return (result, None, gate);
        };
        if let Some(open_for) = change.open_for {
            self.until.store(now.get().saturating_add(nanos(open_for)), Relaxed);
        }
        let generation = (gate & GENERATION).wrapping_add(1 << 32);
        let gate = generation | gate & (MODE | WINDOWED) | clean | state_bits(change.to);
        // Not a store: loom has no total order of stores and what other threads add meanwhile.
        self.gate.swap(gate, Release);
        (result, Some(change), gate)
    }

    /// `now` has reached the end of the open time.
    fn due(&self, now: u64) -> bool {
        now >= self.until.load(Relaxed)
    }

    pub(crate) fn seen(&self) -> Seen {
        self.lock().seen(self.tallies(), &mut LazyNow::new(&self.settings.clock))
    }

    /// The state, how often probes have failed, and until when it is open, all of one moment.
    pub(crate) fn state(&self) -> (CircuitState, u32, Option<u64>) {
        let machine = self.lock();
        let state = machine.state();
        (state, machine.reopens(), (state == CircuitState::Open).then(|| self.until.load(Relaxed)))
    }
}

#[cfg(all(test, buttress_loom))]
mod loom_models;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_without_windows_takes_72_bytes_with_its_counts() {
        let counts = 2 * size_of::<usize>();
        assert_eq!(counts + size_of::<Breaker>(), 72);
    }
}
