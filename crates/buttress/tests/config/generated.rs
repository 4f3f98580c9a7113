//! A file as text, and the same by code.

use super::*;
use buttress::circuit_breaker::{Abandoned, ProbeExpiry, Ratio, Recovery, Trip, Window};
use buttress::core::{Backoff, Jitter};
use buttress::retry::HintRule;
use proptest::prelude::*;

type Breaker = buttress::circuit_breaker::Config;
type Retry = buttress::retry::Config;

/// A line of a table and what it does.
struct Line<C>(String, Box<dyn Fn(C) -> C>);

impl<C> std::fmt::Debug for Line<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

fn time() -> impl Strategy<Value = (String, Duration)> {
    prop_oneof![
        (1..100_000_u64).prop_map(|ms| (format!("\"{ms}ms\""), Duration::from_millis(ms))),
        (1..10_000_u64).prop_map(|s| (format!("\"{s}s\""), Duration::from_secs(s))),
        (1..60_u64, 1..60_u64).prop_map(|(m, s)| (format!("\"{m}m {s}s\""), Duration::from_secs(60 * m + s))),
    ]
}

fn backoff() -> impl Strategy<Value = (String, Backoff)> {
    let jitters = prop_oneof![
        Just((r#""none""#.to_owned(), Jitter::None)),
        Just((r#""equal""#.to_owned(), Jitter::Equal)),
        (0..=50_u8)
            .prop_map(|percent| (format!("{{ spread = \"{percent}%\" }}"), Jitter::Spread { percent })),
    ];
    (time(), 0..1000_u64, 10..50_u32, 0..4, jitters).prop_map(
        |((text, base), more, tenths, kind, (spread, jitter))| {
            let (cap, factor) = (base + Duration::from_secs(more), f64::from(tenths) / 10.0);
            let cap_text = format!("\"{}ms\"", cap.as_millis());
            match kind {
                0 => (text, Backoff::constant(base)),
                1 => (
                    format!("{{ base = {text}, growth = \"linear\", cap = {cap_text}, jitter = {spread} }}"),
                    Backoff::linear(base, cap).unwrap().jitter(jitter),
                ),
                2 => (
                    format!("{{ base = {text}, growth = \"constant\", jitter = {spread} }}"),
                    Backoff::constant(base).jitter(jitter),
                ),
                _ => (
                    format!("{{ base = {text}, factor = {factor:?}, cap = {cap_text}, jitter = {spread} }}"),
                    Backoff::exponential(base, factor, cap).unwrap().jitter(jitter),
                ),
            }
        },
    )
}

fn rate(slow: bool) -> impl Strategy<Value = Line<Breaker>> {
    let window = prop_oneof![
        (100..1000_u32).prop_map(|n| (n.to_string(), Window::Calls(n))),
        (10..100_u64).prop_map(|s| (format!("\"{s}s\""), Window::Time(Duration::from_secs(s)))),
    ];
    (window, 1..=100_u8, 1..100_u32, time()).prop_map(
        move |((text, window), percent, minimum_calls, slower)| {
            let at_least = Ratio::percent(percent);
            let rest = format!("window = {text}, at_least = \"{percent}%\", minimum_calls = {minimum_calls}");
            let (text, slower_than) = slower;
            let (line, trip) = if slow {
                let trip = Trip::SlowCalls { slower_than, window, at_least, minimum_calls };
                (format!("slow_calls = {{ slower_than = {text}, {rest} }}"), trip)
            } else {
                (
                    format!("failure_rate = {{ {rest} }}"),
                    Trip::FailureRate { window, at_least, minimum_calls },
                )
            };
            boxed(line, move |config: Breaker| config.trip(trip))
        },
    )
}

fn boxed<C>(line: String, change: impl Fn(C) -> C + 'static) -> Line<C> {
    Line(line, Box::new(change))
}

fn breaker() -> impl Strategy<Value = Vec<Line<Breaker>>> {
    let flags = (any::<bool>(), any::<bool>(), 0..3_usize, 0..4_usize);
    let open = backoff().prop_map(|(text, open)| {
        boxed(format!("open_for = {text}"), move |config: Breaker| config.open_backoff(open.clone()))
    });
    let parts = (rate(false), rate(true), open, 1..9_u32, 1..9_u32, time(), flags);
    parts.prop_map(|(failures, slow, open, probes, successes, (text, time), (eager, count, expiry, left))| {
        let expiries = [
            ("replace", ProbeExpiry::Replace),
            ("reopen", ProbeExpiry::Reopen),
            ("close", ProbeExpiry::Close),
        ];
        let (expiry_text, expiry) = expiries[expiry];
        let abandoned = [
            ("\"ignore\"".to_owned(), Abandoned::Ignore),
            ("\"count_as_failure\"".to_owned(), Abandoned::CountAsFailure),
            ("\"count_unless_any_success\"".to_owned(), Abandoned::CountUnlessAnySuccess),
            (format!("{{ count_after = {text} }}"), Abandoned::CountAfter(time)),
        ];
        let (left_text, left) = abandoned[left].clone();
        let recovery = if eager {
            let at_least = Ratio::percent(40);
            boxed(format!("recovery = {{ calls = {successes}, at_least = 0.4 }}"), move |config: Breaker| {
                config.recovery(Recovery::Ratio { calls: successes, at_least })
            })
        } else {
            boxed(format!("success_threshold = {successes}"), move |config: Breaker| {
                config.success_threshold(successes)
            })
        };
        vec![
            failures,
            slow,
            open,
            boxed(format!("probes = {probes}"), move |config: Breaker| config.probes(probes)),
            recovery,
            boxed(format!("probe_lease = {text}"), move |config: Breaker| config.probe_lease(time)),
            boxed(format!("on_probe_expiry = \"{expiry_text}\""), move |config: Breaker| {
                config.on_probe_expiry(expiry)
            }),
            boxed(format!("abandoned = {left_text}"), move |config: Breaker| config.abandoned(left)),
            boxed(format!("eager = {eager}"), move |config: Breaker| config.eager(eager)),
            boxed(format!("count_throttling = {count}"), move |config: Breaker| {
                config.count_throttling(count)
            }),
            boxed(format!("hint_cap = {text}"), move |config: Breaker| config.hint_cap(time)),
        ]
    })
}

fn retry() -> impl Strategy<Value = Vec<Line<Retry>>> {
    let parts = (0..30_u32, backoff(), backoff(), time(), 0..4_usize, any::<(bool, bool)>(), 1..100_u32);
    parts.prop_map(
        |(max, (usual, backoff), (other, throttled), (text, time), hint, (refused, gate), size)| {
            let hints = [
                ("\"ignore\"".to_owned(), HintRule::Ignore),
                (format!("{{ floor = {text} }}"), HintRule::Floor { cap: time }),
                (format!("{{ clamp = {text} }}"), HintRule::Clamp { extra: time }),
                (format!("{{ exact = {text} }}"), HintRule::Exact { cap: time }),
            ];
            let (hint_text, hint) = hints[hint].clone();
            let budget = move || Budget::ratio(f64::from(size) / 100.0, size).unwrap();
            vec![
                boxed(format!("max_retries = {max}"), move |config: Retry| config.max_retries(max)),
                boxed(format!("backoff = {usual}"), move |config: Retry| config.backoff(backoff.clone())),
                boxed(format!("throttled_backoff = {other}"), move |config: Retry| {
                    config.throttled_backoff(throttled.clone())
                }),
                boxed(format!("max_total_wait = {text}"), move |config: Retry| config.max_total_wait(time)),
                boxed(format!("hints = {hint_text}"), move |config: Retry| config.hints(hint)),
                boxed(
                    format!("budget = {{ share = \"{size}%\", capacity = {size} }}"),
                    move |config: Retry| config.budget(budget()),
                ),
                boxed(format!("retry_refused = {refused}"), move |config: Retry| {
                    config.retry_refused(refused)
                }),
                boxed(format!("rate_gate = {gate}"), move |config: Retry| config.rate_gate(gate)),
            ]
        },
    )
}

/// Some of these lines, and all of what they do.
fn pick<C>(lines: &[Line<C>], which: u16, config: C) -> (String, C) {
    let picked = lines.iter().enumerate().filter(|(n, _)| which >> n & 1 == 1);
    picked.fold((String::new(), config), |(text, config), (_, Line(line, change))| {
        (text + line + "\n", change(config))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Built from the file, and put in force by it in a stack that was built from another.
    #[test]
    fn any_file_comes_to_the_same_as_the_builder(
        (retries, breakers) in (retry(), breaker()),
        which in any::<(u16, u16)>(),
        (total, attempt) in (time(), time()),
    ) {
        let (retry_text, retry) = pick(&retries, which.0, Retry::background());
        let (breaker_text, breaker) = pick(&breakers, which.1, Breaker::high_traffic());
        let text = format!(
            "[http.x]\ntotal = {}\nattempt = {}\n[http.x.retry]\npreset = \"background\"\n{retry_text}[http.x.breaker]\n\
             preset = \"high_traffic\"\n{breaker_text}",
            total.0, attempt.0
        );
        let by_code = buttress::http("x").total(total.1).attempt(attempt.1).retry(retry).circuit_breaker(breaker);
        let expected = in_force(&by_code.build().unwrap().handle());
        prop_assert_eq!(in_force(&built(&text).handle()), &*expected, "{}", text);

        let running = built("[http.x]\npreset = \"background\"\n[http.x.breaker]\nfailure_rate = { window = 7, at_least = 1.0, minimum_calls = 1 }");
        running.handle().reload(&Config::parse(&text).unwrap()).unwrap();
        prop_assert_eq!(in_force(&running.handle()), &*expected, "{}", text);
    }
}
