//! The whole breaker beside a naive model of it: random calls, drops, waits and operators, under random configurations.

#[path = "../common/mod.rs"]
mod common;
mod naive;

use std::pin::Pin;
use std::task::Poll;

use buttress_circuit_breaker::{
    Abandoned, CircuitState, Config, Mode, ProbeExpiry, Ratio, Recovery, Refused, Trip, Window,
};
use buttress_core::{Backoff, BoxError, Jitter, find};
use common::*;
use naive::{Mark, Model, State, Ticket, count};
use proptest::prelude::*;
use proptest::{option, sample};
use tokio::sync::oneshot;
use tower::{Layer, ServiceExt};

/// A configuration; times are in milliseconds, shares in percent.
#[derive(Clone, Debug)]
struct Plan {
    consecutive: u32,
    rate: Option<Rule>,
    slow: Option<(u64, Rule)>,
    /// The first open time; doubles up to eight times of it.
    open: u64,
    probes: u32,
    /// So many successes, or so many results of which less than a share fails.
    recovery: (u32, Option<u8>),
    lease: u64,
    expiry: ProbeExpiry,
    abandoned: Abandoned,
}

#[derive(Clone, Copy, Debug)]
struct Rule {
    window: Window,
    percent: u8,
    minimum_calls: u32,
}

impl Plan {
    fn config(&self) -> Config {
        let parts = |rule: Rule| (rule.window, Ratio::percent(rule.percent), rule.minimum_calls);
        let rate = self.rate.map(parts).map(|(window, at_least, minimum_calls)| Trip::FailureRate {
            window,
            at_least,
            minimum_calls,
        });
        let slow = self.slow.map(|(limit, rule)| {
            let (window, at_least, minimum_calls) = parts(rule);
            Trip::SlowCalls { slower_than: ms(limit), window, at_least, minimum_calls }
        });
        let open = Backoff::exponential(ms(self.open), 2.0, ms(self.open * 8)).unwrap().jitter(Jitter::None);
        let recovery = match self.recovery {
            (n, None) => Recovery::Successes(n),
            (calls, Some(percent)) => Recovery::Ratio { calls, at_least: Ratio::percent(percent) },
        };
        let trips = rate.into_iter().chain(slow);
        trips
            .fold(consecutive(self.consecutive), Config::trip)
            .open_backoff(open)
            .probes(self.probes)
            .recovery(recovery)
            .probe_lease(ms(self.lease))
            .on_probe_expiry(self.expiry)
            .abandoned(self.abandoned)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Through the service or in the function form; ends at once with this code, or stays under way.
    Call {
        service: bool,
        code: Option<u16>,
    },
    End {
        which: sample::Index,
        code: u16,
    },
    Drop {
        which: sample::Index,
    },
    Wait(u64),
    OpenFor(u64),
    HalfOpen,
    Close,
    Isolate,
    Mode(Mode),
    /// Not after every step: whether somebody looks must not change what follows.
    Look,
}

fn any_step() -> impl Strategy<Value = Step> {
    let code = || sample::select(vec![200, 200, 200, 500, 500, 500, 499]);
    let which = any::<sample::Index>;
    let mode = sample::select(vec![Mode::Enforce, Mode::Enforce, Mode::Observe, Mode::Off]);
    prop_oneof![
        30 => (any::<bool>(), option::of(code())).prop_map(|(service, code)| Step::Call { service, code }),
        15 => (which(), code()).prop_map(|(which, code)| Step::End { which, code }),
        6 => which().prop_map(|which| Step::Drop { which }),
        10 => (1..40_u64).prop_map(Step::Wait),
        2 => (1..5000_u64).prop_map(Step::Wait),
        1 => (0..100_u64).prop_map(Step::OpenFor),
        1 => Just(Step::HalfOpen),
        1 => Just(Step::Close),
        1 => Just(Step::Isolate),
        1 => mode.prop_map(Step::Mode),
        20 => Just(Step::Look),
    ]
}

fn any_plan() -> impl Strategy<Value = Plan> {
    let rule = || {
        let window = prop_oneof![
            (1..8_u32).prop_map(Window::Calls),
            sample::select(vec![10, 100, 1000]).prop_map(|time| Window::Time(ms(time))),
        ];
        (window, 1..=100_u8, 1..6_u32).prop_map(|(window, percent, minimum)| {
            let minimum_calls = if let Window::Calls(n) = window { minimum.min(n) } else { minimum };
            Rule { window, percent, minimum_calls }
        })
    };
    let trips = (prop_oneof![1..5_u32, Just(1000)], option::of(rule()), option::of((1..50_u64, rule())));
    let recovery = (1..5_u32, option::of(1..=100_u8));
    let expiry = sample::select(vec![ProbeExpiry::Replace, ProbeExpiry::Reopen, ProbeExpiry::Close]);
    let abandoned = sample::select(vec![
        Abandoned::Ignore,
        Abandoned::CountAsFailure,
        Abandoned::CountAfter(ms(20)),
        Abandoned::CountUnlessAnySuccess,
    ]);
    (trips, 1..60_u64, 1..4_u32, recovery, 1..60_u64, expiry, abandoned).prop_map(
        |((consecutive, rate, slow), open, probes, recovery, lease, expiry, abandoned)| Plan {
            consecutive,
            rate,
            slow,
            open,
            probes,
            recovery,
            lease,
            expiry,
            abandoned,
        },
    )
}

type Running = tokio_test::task::Spawn<Pin<Box<dyn Future<Output = Result<u16, BoxError>>>>>;

async fn compare(plan: Plan, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let rig = Rig::new(plan.config());
    let service = rig.layer.layer(tower::service_fn(|answer: oneshot::Receiver<u16>| answer));
    let mut model = Model::new(plan);
    let mut running: Vec<(Ticket, oneshot::Sender<u16>, Running)> = Vec::new();
    let mut now = 0;
    let mark = |code| (code != 499).then_some(if code < 500 { Mark::Good } else { Mark::Bad });

    for step in steps {
        match step {
            Step::Call { service: through, code } => {
                let (answer, answered) = oneshot::channel();
                let (layer, service) = (rig.layer.clone(), service.clone());
                let mut call: Running = tokio_test::task::spawn(match through {
                    true => Box::pin(service.oneshot(answered)),
                    false => Box::pin(async move { layer.call(answered).await }),
                });
                match (call.poll(), model.call(now), code) {
                    (Poll::Pending, Ok(ticket), None) => running.push((ticket, answer, call)),
                    (Poll::Pending, Ok(ticket), Some(code)) => {
                        answer.send(code).unwrap();
                        prop_assert!(call.poll().is_ready());
                        model.ends(&ticket, mark(code), now);
                    }
                    (Poll::Ready(Err(error)), Err((reason, left)), _) => {
                        let refused = find::<Refused>(&*error).expect("refused");
                        prop_assert_eq!((refused.reason(), refused.retry_after()), (reason, left.map(ms)));
                    }
                    (polled, expected, _) => prop_assert!(false, "{polled:?}, but expected {expected:?}"),
                }
            }
            Step::End { which, code } if !running.is_empty() => {
                let (ticket, answer, mut call) = running.swap_remove(which.index(running.len()));
                answer.send(code).unwrap();
                prop_assert!(call.poll().is_ready());
                model.ends(&ticket, mark(code), now);
            }
            Step::Drop { which } if !running.is_empty() => {
                let (ticket, _answer, call) = running.swap_remove(which.index(running.len()));
                drop(call);
                model.ends(&ticket, model.abandoned(&ticket, now), now);
            }
            Step::End { .. } | Step::Drop { .. } => {}
            Step::Wait(time) => {
                advance(ms(time)).await;
                now += time;
                let limit = model.plan.slow.map_or(u64::MAX, |slow| slow.0);
                for (ticket, _, call) in &mut running {
                    prop_assert!(call.poll().is_pending());
                    if !ticket.slow && now - ticket.since >= limit {
                        model.becomes_slow(ticket, now);
                    }
                }
            }
            Step::OpenFor(time) => {
                rig.handle.open_for(ms(time));
                model.go(State::Open { until: now + time, reopens: model.reopens().unwrap_or(0) });
            }
            Step::HalfOpen => {
                prop_assert_eq!(rig.handle.half_open().is_ok(), model.reopens().is_some());
                if let State::Open { reopens, .. } = model.state {
                    model.go(State::HalfOpen { reopens });
                }
            }
            Step::Close => {
                rig.handle.close();
                model.go(State::Closed);
            }
            Step::Isolate => {
                rig.handle.isolate();
                model.go(State::Isolated);
            }
            Step::Mode(mode) => {
                rig.handle.set_mode(mode);
                model.mode = mode;
            }
            Step::Look => look(&rig, &mut model, now)?,
        }
    }
    // Checks that each transition began where the one before it ended.
    rig.transitions();
    Ok(())
}

fn look(rig: &Rig, model: &mut Model, now: u64) -> Result<(), TestCaseError> {
    model.expire(now);
    let (state, left) = match model.state {
        State::Closed => (CircuitState::Closed, None),
        State::Open { until, .. } => (CircuitState::Open, Some(ms(until.saturating_sub(now)))),
        State::HalfOpen { .. } => (CircuitState::HalfOpen, None),
        State::Isolated => (CircuitState::Isolated, None),
    };
    prop_assert_eq!((rig.state(), rig.handle.retry_after()), (state, left));
    let seen = rig.handle.metrics();
    prop_assert_eq!(seen.stale, model.stale);
    if state == CircuitState::Closed {
        let count = |rule: Option<Rule>, marks| rule.map_or((0, 0), |rule| count(marks, rule.window, now));
        prop_assert_eq!(seen.consecutive_failures, model.streak);
        prop_assert_eq!((seen.calls, seen.failures), count(model.plan.rate, &model.marks));
        let slow_rule = model.plan.slow.map(|slow| slow.1);
        prop_assert_eq!((seen.timed_calls, seen.slow), count(slow_rule, &model.slow_marks));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_breaker_does_what_a_naive_model_does(plan in any_plan(), steps in prop::collection::vec(any_step(), 0..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(compare(plan, steps))?;
    }
}
