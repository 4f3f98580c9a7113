//! The state that all clones of a breaker share: one word that says it all while nothing is wrong, and the state
//! machine behind a lock for the rest.

use std::sync::{Arc, OnceLock, PoisonError, RwLock};

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

use crate::config::{Abandoned, Config};
use crate::state::{Change, Machine, Seen, Tallies};
use crate::window::Tally;

mod holder;
pub(crate) use holder::{Holder, Keyed, Look, Refusal, WeakHolder};

/// What every breaker of one layer has in common.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: Arc<str>,
    config: RwLock<Arc<Config>>,
    /// What a call that waits has to know: after how many nanoseconds it is slow, times two; plus one if it has to know since
    /// when it waits. Zero if neither.
    pub(crate) waits: std::sync::atomic::AtomicU64,
    pub(crate) clock: Clock,
    pub(crate) observer: Observer,
    outbox: Outbox,
    /// Tells whoever waits for a state of any of the circuits to look at it again.
    pub(crate) changed: Notify,
}

impl Settings {
    pub(crate) fn new(name: Arc<str>, config: Config) -> Self {
        let (clock, waits) = (Clock::start(), waits(&config).into());
        let config = RwLock::new(Arc::new(config));
        let (observer, outbox, changed) = (Observer::default(), Outbox::default(), Notify::new());
        Self { name, config, waits, clock, observer, outbox, changed }
    }

    /// What is in force now: for what happens seldom.
    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts this one in force. Each breaker is to be told ([`Holder::configure`]).
    pub(crate) fn set_config(&self, config: Config) {
        let mut current = self.config.write().unwrap_or_else(PoisonError::into_inner);
        self.waits.store(waits(&config), Relaxed);
        *current = Arc::new(config);
    }

    #[inline]
    pub(crate) fn report(&self, result: CallResult) {
        self.observer.emit(&self.name, || Event::Call(result));
    }
}

fn waits(config: &Config) -> u64 {
    let slower_than = config.slow_calls.map_or(0, |(slower_than, _)| nanos(slower_than).min(u64::MAX >> 1));
    slower_than << 1 | u64::from(matches!(config.abandoned, Abandoned::CountAfter(_)))
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
    aside: OnceLock<Box<Aside>>,
    machine: Mutex<Machine>,
}

#[derive(Debug, Default)]
struct Aside {
    failures: Tally,
    slow: Tally,
    waker: Mutex<Waker>,
}

impl Aside {
    /// Has this task, of the generation of this gate, end the open time.
    fn wake_with(&self, gate: u64, task: Option<AbortHandle>) {
        let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
        waker.replace((gate >> 32) as u32, task);
    }
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

impl Breaker {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        let config = settings.config();
        let gate = CLOSED | (config.mode as u64) << MODE_SHIFT;
        let (until, aside, machine) = (AtomicU64::new(0), OnceLock::new(), Mutex::new(Machine::new()));
        let breaker = Self { settings, gate: gate.into(), until, aside, machine };
        breaker.change(&mut LazyNow::new(&breaker.settings.clock), |_, _, _, _| ((), None));
        breaker
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        // No user code runs under this lock; a poisoned one is as good as any.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tallies(&self) -> Tallies<'_> {
        let aside = self.aside.get();
        Tallies { failures: aside.map(|aside| &aside.failures), slow: aside.map(|aside| &aside.slow) }
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
        f: impl FnOnce(&mut Machine, &Config, Tallies<'_>, &mut LazyNow<'_>) -> (R, Option<Change>),
    ) -> (R, Option<Change>, u64) {
        let mut machine = self.lock();
        let config = self.settings.config();
        if config.eager || config.failure_rate.is_some() || config.slow_calls.is_some() {
            self.aside.get_or_init(Box::default);
        }
        // The configuration may have changed since.
        machine.adapt(&config, self.tallies());
        let (result, change) = f(&mut machine, &config, self.tallies(), now);
        let bit = |set, bit| if set { bit } else { 0 };
        let clean = bit(machine.is_clean(&config, self.tallies(), now), CLEAN);
        let flags = clean | bit(machine.is_windowed(), WINDOWED);
        let gate = self.gate.load(Relaxed);
        let Some(change) = change else {
            let wrong = (gate ^ flags) & (CLEAN | WINDOWED);
            if wrong != 0 {
                self.gate.fetch_xor(wrong, Release);
            }
            return (result, None, gate);
        };
        if let Some(open_for) = change.open_for {
            self.until.store(now.get().saturating_add(nanos(open_for)), Relaxed);
        }
        let generation = (gate & GENERATION).wrapping_add(1 << 32);
        let gate = generation | gate & MODE | flags | state_bits(change.to);
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
    fn a_circuit_without_windows_takes_80_bytes_with_its_counts() {
        let counts = 2 * size_of::<usize>();
        assert_eq!(counts + size_of::<Breaker>(), 80);
    }
}
