//! A circuit under every interleaving of its callers: `cargo xtask loom`.

mod operator;

use std::time::Duration;

use buttress_core::observe::{CircuitState::*, observe_fn};
use buttress_core::sync::model;
use buttress_core::sync::thread::{self, JoinHandle};
use buttress_core::{Kind, Reason, Verdict};

use super::*;
use crate::config::Abandoned;
use crate::handle::CircuitBreakerHandle;
use crate::permit::Permit;
use crate::ratio::Ratio;
use crate::trip::{Trip, Window};

const FAILURE: Verdict = Verdict::failure(Kind::Transient);

fn settle(mut permit: Permit, verdict: Verdict) {
    permit.settle(verdict);
}

/// A circuit, and what its observer heard of.
#[derive(Clone)]
struct Circuit {
    holder: Holder,
    seen: Arc<std::sync::Mutex<Vec<Event>>>,
}

impl Circuit {
    fn new(config: Config) -> Self {
        let settings = Settings::new("x".into(), config);
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        settings.observer.set(observe_fn(move |_, event| record.lock().unwrap().push(event.clone())));
        Self { holder: Holder::new(Arc::new(settings)), seen }
    }

    /// One that opens after so many failures in a row, and forgets who gives up.
    fn opens_after(failures: u32) -> Self {
        Self::new(Config::only(Trip::ConsecutiveFailures(failures)).abandoned(Abandoned::Ignore))
    }

    /// One that no share of failures opens before the hundredth call.
    fn with_window(window: Window) -> Self {
        Self::new(Config::only(Trip::FailureRate { window, at_least: Ratio::percent(1), minimum_calls: 100 }))
    }

    /// An open one, whose time is over, which lets in so many probes and wants as many successes.
    fn due(probes: u32) -> Self {
        let config = Config::only(Trip::ConsecutiveFailures(1)).probes(probes).success_threshold(probes);
        let circuit = Self::new(config.abandoned(Abandoned::Ignore));
        circuit.handle().open_for(Duration::ZERO);
        circuit
    }

    fn handle(&self) -> CircuitBreakerHandle {
        CircuitBreakerHandle::new(self.holder.clone())
    }

    fn admit(&self) -> Permit {
        self.holder.admit().expect("lets calls in")
    }

    fn call(&self, verdict: Verdict) {
        settle(self.admit(), verdict);
    }

    /// Does this in another thread.
    fn spawn<T: 'static>(&self, f: impl FnOnce(Self) -> T + 'static) -> JoinHandle<T> {
        let circuit = self.clone();
        thread::spawn(move || f(circuit))
    }

    fn refuse(&self) {
        self.holder.refuse(Refusal { reason: Reason::CircuitOpen, until: None });
    }

    /// What the observer was told, which must be one story that ends where the circuit is.
    fn transitions(&self) -> Vec<CircuitState> {
        let seen = self.seen.lock().unwrap();
        let steps = seen.iter().filter_map(|event| match event {
            Event::Circuit { from, to, .. } => Some((*from, *to)),
            _ => None,
        });
        steps.fold(vec![Closed], |mut story, (from, to)| {
            assert_eq!(story.last(), Some(&from), "told out of order: {seen:?}");
            story.push(to);
            story
        })
    }

    /// All that is published is what is kept under the lock. The state and the generation.
    fn settled(&self) -> (CircuitState, u64) {
        let (machine, gate) = (self.holder.lock(), self.holder.gate.load(Relaxed));
        let settings = &self.holder.settings;
        let clean =
            machine.is_clean(&settings.config(), self.holder.tallies(), &mut LazyNow::new(&settings.clock));
        assert_eq!(gate & STATE, state_bits(machine.state()), "{gate:x}");
        assert_eq!(gate & CLEAN != 0, clean, "{gate:x}");
        drop(machine);
        let state = self.holder.state().0;
        assert_eq!(self.transitions().last(), Some(&state), "all is told");
        (state, gate >> 32)
    }
}

#[test]
fn failures_at_once_open_the_circuit_once() {
    model(|| {
        let circuit = Circuit::opens_after(3);
        let others = [(); 2].map(|()| circuit.spawn(|circuit| circuit.call(FAILURE)));
        circuit.call(FAILURE);
        others.into_iter().for_each(|other| other.join().unwrap());
        assert_eq!(circuit.settled(), (Open, 1));
        assert_eq!(circuit.transitions(), [Closed, Open]);
    });
}

#[test]
fn a_failure_that_comes_second_to_the_one_that_opened_the_circuit_does_not_vote() {
    model(|| {
        let circuit = Circuit::opens_after(1);
        let permits = [circuit.admit(), circuit.admit()];
        let [one, other] = permits.map(|permit| circuit.spawn(|_| settle(permit, FAILURE)));
        one.join().unwrap();
        other.join().unwrap();
        assert_eq!(circuit.settled(), (Open, 1));
        assert_eq!(circuit.transitions(), [Closed, Open]);
        assert_eq!(circuit.handle().metrics().stale, 1);
    });
}

#[test]
fn a_success_beside_another_ends_the_row_of_failures_before_it() {
    model(|| {
        let circuit = Circuit::opens_after(3);
        let other = circuit.spawn(|circuit| circuit.call(Verdict::Success));
        let admitted_before = circuit.admit();
        circuit.call(FAILURE);
        settle(admitted_before, Verdict::Success);
        other.join().unwrap();
        assert_eq!(circuit.handle().metrics().consecutive_failures, 0);
        assert_eq!(circuit.settled(), (Closed, 0));
    });
}

#[test]
fn a_success_beside_a_failure_is_in_both_kinds_of_window_exactly_once() {
    for window in [Window::Calls(100), Window::Time(Duration::from_secs(10))] {
        model(move || {
            let circuit = Circuit::with_window(window);
            let other = circuit.spawn(|circuit| circuit.call(Verdict::Success));
            circuit.call(FAILURE);
            circuit.call(Verdict::Success);
            other.join().unwrap();
            let metrics = circuit.handle().metrics();
            assert_eq!((metrics.calls, metrics.failures), (3, 1));
            assert_eq!(circuit.settled(), (Closed, 0));
        });
    }
}

#[test]
fn of_two_callers_at_the_end_of_the_open_time_one_probes() {
    model(|| {
        let circuit = Circuit::due(1);
        let _ = circuit.spawn(|circuit| circuit.handle().state());
        let other = circuit.spawn(|circuit| circuit.holder.admit());
        let one = circuit.holder.admit();
        let other = other.join().unwrap();
        let (Ok(permit), Err(refusal)) = (if one.is_ok() { (one, other) } else { (other, one) }) else {
            panic!("exactly one is let in");
        };
        assert_eq!(refusal.reason, Reason::ProbesInFlight);
        assert_eq!(circuit.settled(), (HalfOpen, 2));
        settle(permit, Verdict::Success);
        assert_eq!(circuit.transitions(), [Closed, Open, HalfOpen, Closed]);
    });
}

#[test]
fn a_dropped_probe_beside_one_that_succeeds_frees_its_slot() {
    model(|| {
        let circuit = Circuit::due(2);
        let (dropped, good) = (circuit.admit(), circuit.admit());
        let other = circuit.spawn(|_| drop(dropped));
        settle(good, Verdict::Success);
        other.join().unwrap();
        assert_eq!(circuit.settled(), (HalfOpen, 2));
        let probes = [circuit.admit(), circuit.admit()];
        assert!(circuit.holder.admit().is_err(), "no more than two at once");
        let [last, _] = probes;
        settle(last, Verdict::Success);
        assert_eq!(circuit.settled(), (Closed, 3));
    });
}

#[test]
fn a_dropped_probe_beside_one_that_fails_holds_no_slot_of_the_next_ones() {
    model(|| {
        let circuit = Circuit::due(2);
        let (dropped, bad) = (circuit.admit(), circuit.admit());
        let other = circuit.spawn(|_| drop(dropped));
        settle(bad, FAILURE);
        other.join().unwrap();
        assert_eq!(circuit.settled(), (Open, 3));
        circuit.handle().open_for(Duration::ZERO);
        let _probes = [circuit.admit(), circuit.admit()];
        assert!(circuit.holder.admit().is_err(), "no more than two at once");
    });
}

#[test]
fn a_caller_beside_a_probe_that_is_dropped_finds_the_slot_taken_or_free_but_never_lost() {
    model(|| {
        let circuit = Circuit::due(1);
        let dropped = circuit.admit();
        let other = circuit.spawn(|_| drop(dropped));
        let next = circuit.holder.admit();
        other.join().unwrap();
        let next = next.or_else(|_| circuit.holder.admit()).expect("the slot is free");
        assert!(circuit.holder.admit().is_err(), "there is but one");
        settle(next, Verdict::Success);
        assert_eq!(circuit.settled(), (Closed, 3));
    });
}

#[test]
fn a_probe_of_an_earlier_half_open_state_does_not_vote_in_this_one() {
    model(|| {
        let circuit = Circuit::due(1);
        let probe = circuit.admit();
        let other = circuit.spawn(|_| settle(probe, Verdict::Success));
        circuit.handle().open_for(Duration::ZERO);
        let next = circuit.admit();
        other.join().unwrap();
        assert_eq!(circuit.settled().0, HalfOpen);
        assert!(circuit.holder.admit().is_err(), "there is but one");
        settle(next, FAILURE);
        assert_eq!(circuit.settled().0, Open);
    });
}

#[test]
fn refusals_beside_a_transition_are_counted_before_or_after_and_touch_nothing_else() {
    model(|| {
        let circuit = Circuit::opens_after(1);
        let other = circuit.spawn(|circuit| (0..2).for_each(|_| circuit.refuse()));
        circuit.call(FAILURE);
        other.join().unwrap();
        assert_eq!(circuit.settled(), (Open, 1));
        assert_eq!(circuit.handle().mode(), Mode::Enforce);
        assert!(circuit.holder.refused() <= 2);
        circuit.handle().close();
        assert_eq!((circuit.settled(), circuit.holder.refused()), ((Closed, 2), 0));
    });
}

#[test]
fn whoever_finds_the_circuit_open_knows_until_when() {
    model(|| {
        let circuit = Circuit::opens_after(1);
        let minute = nanos(Duration::from_secs(60));
        let other = circuit.spawn(|circuit| circuit.call(FAILURE));
        match circuit.holder.look() {
            Look::Flow => {}
            Look::Probe(_) => panic!("it is open for a minute"),
            Look::Refuse(refusal) => assert_eq!(refusal.until, Some(minute)),
        }
        if let Err(refusal) = circuit.holder.admit() {
            assert_eq!((refusal.reason, refusal.until), (Reason::CircuitOpen, Some(minute)));
        }
        other.join().unwrap();
    });
}
