//! What the driver of a run does with it between two polls of its code.

use std::task::Waker;
use std::time::SystemTime;

use buttress_store::NewEntry;
use tokio::time::Instant;

use super::{Core, Gate, Outgoing, State};
use crate::error::{Mismatch, StepKind};

/// What the driver does after the code can go no further.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Quiet {
    /// Something was handed over: poll the code again.
    Again,
    /// The code has to be polled no further.
    Stopped,
    /// All that it waits for is this moment.
    Sleeping(Instant),
    /// It does not get to what is recorded next.
    Stuck,
    /// It runs steps, or waits for something else.
    Busy,
}

impl Core {
    /// Stops the run from the outside.
    pub(crate) fn close(&self, gate: Gate) {
        let mut state = self.lock();
        if state.gate < gate {
            state.gate = gate;
            state.wake_all();
        }
        if let Some(driver) = &state.driver {
            driver.wake_by_ref();
        }
    }

    /// Lets go of everything that holds the run's code, or that it holds: a compensation may hold the run in turn.
    pub(crate) fn clear(&self) {
        let mut state = self.lock();
        let compensations = std::mem::take(&mut state.compensations);
        let (slots, ready) = (std::mem::take(&mut state.slots), std::mem::take(&mut state.ready));
        let driver = state.driver.take();
        drop(state);
        // What a user's values do when they are dropped, they do outside of the lock.
        drop((compensations, slots, ready, driver));
    }

    /// While it is probed, operations neither do anything nor ask to be woken. Gives what changes if the code gets further: how
    /// many operations it has built and holds, and what is to be stored.
    pub(crate) fn probe(&self, probed: bool) -> (u32, usize, usize) {
        let mut state = self.lock();
        state.probed = probed;
        (state.replay.built(), state.slots.len(), state.outbox.len())
    }

    pub(crate) fn is_probed(&self) -> bool {
        self.lock().probed
    }

    pub(crate) fn driven_by(&self, waker: &Waker) {
        let mut state = self.lock();
        match &mut state.driver {
            Some(old) => old.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// The entries that are to be stored next.
    pub(crate) fn dispatch(&self) -> Vec<NewEntry> {
        let mut state = self.lock();
        let State { outbox, in_flight, .. } = &mut *state;
        let sent = outbox.drain(..).map(|Outgoing { ordinal, delivered, entry }| {
            in_flight.push((ordinal, delivered));
            entry
        });
        sent.collect()
    }

    /// They are stored.
    pub(crate) fn applied(&self, at: SystemTime) {
        let mut state = self.lock();
        state.clock = (at, Instant::now());
        let State { replay, slots, in_flight, .. } = &mut *state;
        replay.panics = 0;
        for (ordinal, delivered) in in_flight.drain(..) {
            match delivered {
                Some(body) => replay.push(ordinal, body),
                None => {
                    if let Some(slot) = slots.get_mut(&ordinal) {
                        slot.acked = Some(at);
                        slot.wake();
                    }
                }
            }
        }
    }

    /// The code was polled, and waits: the next result is handed over. Only here, one for each time that the code is polled:
    /// an operation of which the result is recorded makes the code wait as one that has to run does, so that what runs
    /// beside it gets as far as it did then.
    pub(crate) fn quiet(&self, in_flight: bool, now: Instant) -> Quiet {
        let mut state = self.lock();
        if let Some(head) = state.replay.head().map(|head| head.ordinal) {
            let was_live = state.replay.is_live();
            if !state.replay.is_built(head) {
                // Whoever goes on with it may get there.
                return if state.gate == Gate::Shutdown { Quiet::Stopped } else { Quiet::Stuck };
            }
            if !state.slots.contains_key(&head) {
                state.replay.pop();
            } else if state.nudged == Some(head) {
                // Nobody awaits it now: it is there when somebody does.
                if let Some(delivery) = state.replay.pop() {
                    state.ready.insert(head, delivery);
                }
            } else {
                state.nudged = Some(head);
                state.wake_head();
                return Quiet::Again;
            }
            state.handed_over(was_live);
            return Quiet::Again;
        }
        let idle = state.running == 0 && !in_flight && state.outbox.is_empty();
        if !idle {
            return Quiet::Busy;
        }
        if state.gate != Gate::Open {
            return Quiet::Stopped;
        }
        state.asleep().filter(|until| *until > now).map_or(Quiet::Busy, Quiet::Sleeping)
    }

    /// The code does not do what is recorded next.
    pub(crate) fn stuck(&self) -> Option<Mismatch> {
        let state = self.lock();
        let waiting =
            state.slots.values().filter(|slot| slot.sleeping.is_none() && slot.id.kind != StepKind::Race);
        let expected = waiting.map(|slot| &slot.id).min_by_key(|id| id.ordinal).cloned();
        state.replay.stuck(expected)
    }
}

impl State {
    /// The earliest moment at which an operation goes on, if all of them sleep.
    fn asleep(&self) -> Option<Instant> {
        let mut earliest = None;
        for slot in self.slots.values().filter(|slot| slot.id.kind != StepKind::Race && slot.waker.is_some())
        {
            let until = slot.sleeping?;
            earliest = Some(earliest.map_or(until, |earliest: Instant| earliest.min(until)));
        }
        earliest
    }
}
