//! What a run's code and its driver share while it runs.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use buttress_core::clock::after;
use buttress_core::observe::StepResult;
use buttress_core::{Event, Observer};
use buttress_store::{NewEntry, RunId};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::entry::{self, Body, Kind};
use crate::error::{Mismatch, StepId, StepKind};
use crate::key;
use crate::replay::{Built, Delivery, Patched, Replay};

mod scope;
mod turns;

pub(crate) use scope::Place;
pub(crate) use turns::Quiet;

pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Undoes a step, from the result that is recorded of it.
pub(crate) type Undo =
    Box<dyn FnMut(&RawValue) -> Result<BoxFuture<'static, Result<(), String>>, String> + Send>;

/// A step that can be undone.
pub(crate) struct Compensation {
    pub(crate) id: StepId,
    pub(crate) value: Box<RawValue>,
    pub(crate) undo: Undo,
}

/// Whether operations begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Gate {
    Open,
    /// The worker shuts down.
    Shutdown,
    /// The run is cancelled, or is being undone.
    Cancel,
}

pub(crate) struct Core {
    pub(crate) id: RunId,
    pub(crate) name: Arc<str>,
    /// What the keys of its steps are derived from.
    root: String,
    max_value: usize,
    observer: Arc<Observer>,
    state: Mutex<State>,
}

pub(crate) struct State {
    pub(crate) replay: Replay,
    slots: BTreeMap<u32, Slot>,
    /// Handed over out of turn, to operations that nobody awaited when it was theirs.
    ready: BTreeMap<u32, Delivery>,
    pub(crate) outbox: Vec<Outgoing>,
    /// Of the entries that are being stored: whose they are, and what is handed over once they are.
    in_flight: Vec<(u32, Option<Body>)>,
    pub(crate) running: usize,
    /// The step whose body is being polled.
    current: Option<StepId>,
    /// The step in whose body a panic began.
    panicking: Option<StepId>,
    pub(crate) gate: Gate,
    pub(crate) fault: Option<Mismatch>,
    /// A moment on the store's clock and on ours.
    pub(crate) clock: (SystemTime, Instant),
    /// Whose turn it is.
    nudged: Option<u32>,
    /// By the place of the step's record among all that is handed over.
    pub(crate) compensations: BTreeMap<u64, Compensation>,
    /// The place of the next one that is recorded.
    place: u64,
    /// Operations do nothing, so that it is seen what else the code waits for.
    probed: bool,
    driver: Option<Waker>,
}

/// An operation that the code holds.
struct Slot {
    id: StepId,
    waker: Option<Waker>,
    /// When its mark was stored.
    acked: Option<SystemTime>,
    sleeping: Option<Instant>,
}

pub(crate) struct Outgoing {
    ordinal: u32,
    delivered: Option<Body>,
    pub(crate) entry: NewEntry,
}

impl Core {
    pub(crate) fn new(
        id: RunId,
        name: Arc<str>,
        root: String,
        max_value: usize,
        observer: Arc<Observer>,
        replay: Replay,
        clock: (SystemTime, Instant),
    ) -> Self {
        let place = replay.recorded_results();
        let state = State {
            replay,
            slots: BTreeMap::new(),
            ready: BTreeMap::new(),
            outbox: Vec::new(),
            in_flight: Vec::new(),
            running: 0,
            current: None,
            panicking: None,
            gate: Gate::Open,
            fault: None,
            clock,
            nudged: None,
            compensations: BTreeMap::new(),
            place,
            probed: false,
            driver: None,
        };
        Self { id, name, root, max_value, observer, state: Mutex::new(state) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing of a user's runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next operation of the code. Whatever is built elsewhere is none of the run's.
    pub(crate) fn build(self: &Arc<Self>, kind: StepKind, name: &Arc<str>) -> Result<Built, Place> {
        if let Some(place) = self.misplaced() {
            return Err(place);
        }
        let mut state = self.lock();
        let built = match check_name(name).and_then(|()| state.replay.build(kind, name)) {
            Ok(built) => built,
            Err(mismatch) => return Ok(state.fail(mismatch, kind, name)),
        };
        state.slots.insert(built.id.ordinal, Slot::new(built.id.clone()));
        Ok(built)
    }

    /// `None` where no operation can be built.
    pub(crate) fn patched(self: &Arc<Self>, name: &Arc<str>) -> Option<Patched> {
        if self.misplaced().is_some() {
            return None;
        }
        let mut state = self.lock();
        let patched = match check_name(name).and_then(|()| state.replay.patched(name)) {
            Ok(patched) => patched,
            Err(mismatch) => Patched::New(state.fail(mismatch, StepKind::Patch, name).id),
        };
        if let Patched::New(id) | Patched::Recorded(id) = &patched {
            state.slots.insert(id.ordinal, Slot::new(id.clone()));
        }
        Some(patched)
    }

    pub(crate) fn check_input(&self, id: &StepId, input: &str) {
        let mut state = self.lock();
        if let Err(mismatch) = state.replay.check_input(id, input) {
            state.fault.get_or_insert(mismatch);
        }
    }

    /// What is recorded does not fit: the run stops here.
    pub(crate) fn mismatch(&self, mismatch: Mismatch) {
        self.lock().fault.get_or_insert(mismatch);
    }

    /// The result of an operation, if it is its turn; else whoever polls is woken when it may be.
    pub(crate) fn take(&self, ordinal: u32, waker: &Waker) -> Option<Delivery> {
        let mut state = self.lock();
        let State { replay, slots, ready, fault, nudged, probed, .. } = &mut *state;
        if fault.is_some() || *probed {
            return None;
        }
        let was_live = replay.is_live();
        if let Some(delivery) = ready.remove(&ordinal) {
            return Some(delivery);
        }
        let turn = *nudged == Some(ordinal);
        let Some(delivery) = turn.then(|| replay.take(ordinal)).flatten() else {
            if let Some(slot) = slots.get_mut(&ordinal) {
                match &mut slot.waker {
                    Some(old) => old.clone_from(waker),
                    none => *none = Some(waker.clone()),
                }
            }
            return None;
        };
        state.handed_over(was_live);
        Some(delivery)
    }

    /// Whether an operation may begin to do something: everything that is recorded was handed over, and nothing stops the run.
    pub(crate) fn may_start(&self) -> bool {
        let state = self.lock();
        state.replay.is_live() && state.gate == Gate::Open && state.fault.is_none()
    }

    pub(crate) fn gate(&self) -> Gate {
        self.lock().gate
    }

    pub(crate) fn running(&self, change: isize) {
        let mut state = self.lock();
        state.running = state.running.saturating_add_signed(change);
    }

    pub(crate) fn sleeping(&self, ordinal: u32, until: Option<Instant>) {
        if let Some(slot) = self.lock().slots.get_mut(&ordinal) {
            slot.sleeping = until;
        }
    }

    /// When the store's clock will read this.
    pub(crate) fn instant(&self, time: SystemTime) -> Instant {
        let (at, instant) = self.lock().clock;
        after(instant, time.duration_since(at).unwrap_or(Duration::ZERO))
    }

    /// What the store's clock will read then.
    pub(crate) fn system(&self, time: Instant) -> SystemTime {
        let (at, instant) = self.lock().clock;
        at.checked_add(time.saturating_duration_since(instant)).unwrap_or(at)
    }

    /// Puts an entry on its way to the journal.
    pub(crate) fn send(&self, kind: Kind, id: &StepId, body: Body) {
        let entry = entry::write(kind, &id.name, id.occurrence, &body);
        let delivered = kind.is_delivered().then_some(body);
        let mut state = self.lock();
        if let Some(slot) = state.slots.get_mut(&id.ordinal) {
            slot.acked = None;
        }
        state.outbox.push(Outgoing { ordinal: id.ordinal, delivered, entry });
    }

    /// When the operation's mark was stored, if it was.
    pub(crate) fn acked(&self, ordinal: u32) -> Option<SystemTime> {
        self.lock().slots.get(&ordinal)?.acked
    }

    /// The code no longer holds the operation.
    pub(crate) fn forget(&self, ordinal: u32) {
        let mut state = self.lock();
        state.slots.remove(&ordinal);
        state.ready.remove(&ordinal);
    }

    /// A step can be undone, of which the record has this place, or is on its way.
    pub(crate) fn compensate(&self, place: Option<u64>, compensation: Compensation) {
        let mut state = self.lock();
        let place = place.unwrap_or_else(|| {
            state.place += 1;
            state.place - 1
        });
        state.compensations.insert(place, compensation);
    }

    /// Nobody awaits the step any more, and it can be undone all the same if its result is recorded.
    pub(crate) fn compensate_recorded(&self, id: &StepId, undo: Undo) {
        let mut state = self.lock();
        let State { replay, ready, compensations, .. } = &mut *state;
        let recorded = ready.get(&id.ordinal).or_else(|| replay.result_of(id.ordinal));
        if let Some(Delivery { body: Body { ok: Some(value), .. }, at, .. }) = recorded {
            compensations.insert(*at, Compensation { id: id.clone(), value: value.clone(), undo });
        }
    }

    /// No value may be longer than this when it is encoded.
    pub(crate) fn max_value(&self) -> usize {
        self.max_value
    }

    pub(crate) fn key_of(&self, name: &str, occurrence: u32) -> Arc<str> {
        key::derive(&self.root, name, occurrence)
    }

    /// The key of the step of this name that is being run, or else is built next.
    pub(crate) fn key(&self, name: &str) -> Arc<str> {
        let state = self.lock();
        let occurrence = match state.current.as_ref().filter(|id| *id.name == *name) {
            Some(id) => id.occurrence,
            None => state.replay.occurrences(name),
        };
        drop(state);
        self.key_of(name, occurrence)
    }

    pub(crate) fn emit(&self, event: impl FnOnce() -> Event) {
        self.observer.emit(&self.name, event);
    }

    pub(crate) fn emit_step(&self, id: &StepId, result: StepResult, elapsed: Duration) {
        let run = || self.id.as_str().into();
        let (step, occurrence) = (&id.name, id.occurrence);
        self.emit(|| Event::Step { run: run(), step: step.clone(), occurrence, result, elapsed });
    }
}

/// What no store takes stops the run before anything is done under that name.
fn check_name(name: &str) -> Result<(), Mismatch> {
    if name.len() <= buttress_store::MAX_NAME && !name.contains('\0') {
        return Ok(());
    }
    Err(Mismatch::Name { name: name.chars().take(40).collect() })
}

impl State {
    /// Something was handed over.
    fn handed_over(&mut self, was_live: bool) {
        self.nudged = None;
        if !was_live && self.replay.is_live() {
            self.wake_all();
        }
    }

    fn wake_head(&mut self) {
        let head = self.replay.head().map(|head| head.ordinal);
        if let Some(slot) = head.and_then(|head| self.slots.get_mut(&head)) {
            slot.wake();
        }
    }

    fn wake_all(&mut self) {
        self.slots.values_mut().for_each(Slot::wake);
    }

    /// An operation that is never polled to its end, since the run stops.
    fn fail(&mut self, mismatch: Mismatch, kind: StepKind, name: &Arc<str>) -> Built {
        self.fault.get_or_insert(mismatch);
        let id = StepId { kind, name: name.clone(), occurrence: 0, ordinal: u32::MAX };
        Built { id, marks: crate::replay::Marks::default(), winner: None }
    }
}

impl Slot {
    fn new(id: StepId) -> Self {
        Self { id, waker: None, acked: None, sleeping: None }
    }

    fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}
