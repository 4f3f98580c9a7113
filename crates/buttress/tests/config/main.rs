//! Stacks from files, and files that are read again.
#![cfg(feature = "config")]

use std::time::Duration;

use buttress::circuit_breaker::{CircuitState, Trip};
use buttress::config::{Config, ReloadError};
use buttress::retry::Budget;
use buttress::{HttpLayer, Mode, StackHandle, Stacks};

const PAGE: &str = include_str!("../../../docs/configuration.md");

/// The files on the page, without Cargo's.
fn files() -> Vec<&'static str> {
    PAGE.split("```toml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .filter(|file| !file.contains("[dependencies]"))
        .collect()
}

fn built(text: &str) -> HttpLayer {
    Config::parse(text).unwrap_or_else(|error| panic!("{error}")).http("x").unwrap().build().unwrap()
}

fn refused(text: &str) -> String {
    Config::parse(text).map(|config| config.names()).unwrap_err().to_string()
}

/// All that is in force. Of the budget, its rule in words.
fn in_force(stack: &StackHandle) -> String {
    let retry = stack.retry().config();
    let (budget, words) = (thread_budget(), retry.to_string());
    let limits = (stack.total().limit(), stack.attempt().limit());
    let retry = retry.budget(budget);
    format!(
        "{limits:?} {words} {retry:?} {:?} {:?} {}",
        stack.circuits().config(),
        stack.modes(),
        stack.explain()
    )
}

/// One for all of a test, so that configurations differ in nothing by it. Its `Debug` says whether another thread holds its lock.
fn thread_budget() -> Budget {
    thread_local!(static ONE: Budget = Budget::unlimited());
    ONE.with(Budget::clone)
}

#[test]
fn the_page_shows_every_key_with_its_default() {
    let [http, grpc] = files()[..] else { panic!("{} files", files().len()) };
    let config = Config::parse(http).unwrap_or_else(|error| panic!("{error}"));
    let (page, plain) = (config.http("example").unwrap(), buttress::http("example"));
    // Who says the total says nothing of a limit beside it.
    let plain = plain.map_retry(|retry| retry.max_total_wait(None));
    assert_eq!(in_force(&page.build().unwrap().handle()), in_force(&plain.build().unwrap().handle()));
    // What is shown as a comment is right, too.
    let all: String = http.lines().map(|line| format!("{}\n", shown(line))).collect();
    Config::parse(&all).unwrap_or_else(|error| panic!("{error}\n{all}"));
    #[cfg(feature = "grpc")]
    {
        let (page, plain) =
            (Config::parse(grpc).unwrap().grpc("billing").unwrap(), buttress::grpc("billing"));
        let plain = plain.repeatable("billing.Invoices/Get").stream("grpc.health.v1.Health/Watch");
        let plain = plain.map_retry(|retry| retry.max_total_wait(None));
        assert_eq!(in_force(&page.build().unwrap().handle()), in_force(&plain.build().unwrap().handle()));
        let all: String = grpc.lines().map(|line| format!("{}\n", shown(line))).collect();
        Config::parse(&all).unwrap_or_else(|error| panic!("{error}\n{all}"));
    }
    let _ = grpc;
}

/// A line that is a key in a comment, without the comment's sign.
fn shown(line: &str) -> &str {
    let key = line.strip_prefix("# ").filter(|rest| {
        rest.split_once(" = ")
            .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    });
    key.unwrap_or(line)
}

#[test]
fn an_error_names_the_line_the_key_the_value_and_the_rule() {
    for (text, says) in [
        ("[http.x]\ntotal = 10", "configuration:2: `http.x.total` is 10, but must be a time with its unit"),
        (
            "[http.x]\ntotal = \"0s\"",
            "configuration:2: `http.x.total` is \"0s\", but must be longer than zero",
        ),
        (
            "[http.x]\ntotl = \"1s\"",
            "configuration:2: `http.x.totl` is no key that is known here; did you mean `total`?",
        ),
        ("[htp.x]", "configuration:1: `htp` is no key that is known here; did you mean `http`?"),
        (
            "[http.x]\npreset = \"dog\"",
            "configuration:2: `http.x.preset` is \"dog\", but must be one of \"user_facing\"",
        ),
        (
            "[http.x.retry]\nmax-retries = 1",
            "configuration:2: `http.x.retry.max-retries` is no key that is known here; did you mean `max_retries`?",
        ),
        (
            "[http.x.retry]\nmax_retries = -1",
            "configuration:2: `http.x.retry.max_retries` is -1, but must be a whole number",
        ),
        (
            "[http.x.retry]\nbackoff = { base = \"2s\", cap = \"1s\" }",
            "configuration:2: `http.x.retry.backoff.cap` is \"1s\", but must be at least the base of 2s",
        ),
        (
            "[http.x.retry]\nbackoff = { base = \"2s\" }",
            "configuration:2: `http.x.retry.backoff` needs the key `cap`",
        ),
        (
            "[http.x.retry]\nbudget = { share = \"110%\" }",
            "configuration:2: `http.x.retry.budget.share` is \"110%\", but must be between 0 and 1",
        ),
        (
            "[http.x.retry]\nhints = { floor = \"1s\", exact = \"1s\" }",
            "configuration:2: `http.x.retry.hints` must have one of `floor`",
        ),
        (
            "[http.x.breaker]\n\n# none\nprobes = 0",
            "configuration:4: `http.x.breaker.probes` is 0, but must be at least 1",
        ),
        (
            "[http.x.breaker]\nfailure_rate = { window = 10, at_least = \"50%\", minimum_calls = 11 }",
            "configuration:2: `http.x.breaker.failure_rate.minimum_calls` is 11, but must be at most the window's 10 calls",
        ),
        (
            "[http.x.breaker]\nfailure_rate = { window = 10, at_least = 50, minimum_calls = 1 }",
            "configuration:2: `http.x.breaker.failure_rate.at_least` is 50, but must be above 0 and at most 1",
        ),
        (
            "[http.x.breaker]\nopen_for = \"0s\"",
            "configuration:2: `http.x.breaker.open_for` is \"0s\", but must be longer than zero",
        ),
        (
            "[http.x.statuses]\n4004 = \"transient\"",
            "configuration:2: `http.x.statuses.4004` is \"transient\", but must be the verdict on a status",
        ),
        (
            "[http.x]\napi_key = \"very secret\"",
            "configuration:2: `http.x.api_key` is no key that is known here; those are `preset`,",
        ),
        ("[http.x]\ntotal = ", "configuration:2: is not TOML"),
        ("[http]\nx = 1", "configuration:2: `http.x` is 1, but must be a table"),
    ] {
        let error = refused(text);
        assert!(error.starts_with(says), "{error}\n{says}");
        assert!(!error.contains("secret"), "{error}");
    }
    let error = Config::parse("[http.x]").unwrap().http("y").unwrap_err();
    assert_eq!(error.to_string(), "configuration: `http.y` is not there; the stacks are http.x");
    let error = Config::load("no/such/file.toml").unwrap_err();
    assert_eq!(error.to_string(), "no/such/file.toml: cannot be read");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn a_reload_says_what_has_changed_and_leaves_the_rest() {
    let layer = built("[http.x]\ntotal = \"20s\"\n[http.x.retry]\nmax_retries = 1");
    let stacks = Stacks::new();
    stacks.add(layer.handle()).unwrap();
    stacks.set_mode(Mode::Observe);
    layer.circuit_breaker().handle().isolate();
    let config = Config::parse(
        "[http.x]\nattempt = \"15s\"\ntotal = \"20s\"\n[http.x.retry]\nmax_retries = 3\n[http.y]",
    )
    .unwrap();
    let reload = stacks.apply(&config).unwrap();
    assert_eq!(
        reload.to_string(),
        "http.x.attempt: \"15s\", was the default\nhttp.x.retry.max_retries: 3, was 1\nwarning http.x: B002: after an attempt \
         of 15 s and a wait, no other fits into 20 s\nhttp.y is not built"
    );
    assert_eq!(layer.attempt().limit(), Duration::from_secs(15));
    assert_eq!(layer.retry().config().attempts(), 4);
    assert!(layer.explain().to_string().contains("3 retries"));
    assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Isolated);
    assert_eq!(layer.retry().mode(), Mode::Observe, "an operator's word stays");
    assert_eq!(stacks.apply(&config).unwrap().changes, []);

    let config = Config::parse("[http.x]\nmode = \"off\"").unwrap();
    assert_eq!(stacks.apply(&config).unwrap().changes.len(), 4);
    assert_eq!((layer.retry().mode(), layer.total().limit()), (Mode::Off, Duration::from_secs(10)));
    assert_eq!(layer.retry().config().attempts(), 3, "what is not there any more is the default again");
}

#[test]
fn a_file_that_cannot_be_put_in_force_as_a_whole_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("buttress.toml");
    let write = |text: &str| std::fs::write(&path, text).unwrap();
    write("[http.a]\ntotal = \"20s\"\n[http.b]\ntotal = \"20s\"\npreset = \"background\"");
    let config = Config::load(&path).unwrap();
    let (stacks, by_hand) = (Stacks::new(), buttress::http("c").build().unwrap());
    let [a, b] = ["a", "b"].map(|name| config.http(name).unwrap().build().unwrap());
    for stack in [a.handle(), b.handle(), by_hand.handle()] {
        stacks.add(stack).unwrap();
    }
    assert_eq!(stacks.add(b.handle()).unwrap_err().field(), "name");
    assert_eq!(stacks.list().iter().filter(|stack| stack.is_from_file()).count(), 2);
    let before: Vec<String> = stacks.list().iter().map(in_force).collect();
    let same = || assert_eq!(stacks.list().iter().map(in_force).collect::<Vec<_>>(), before);

    write("[http.a]\ntotal = \"5s\"\n[http.b]\ntotal = \"5s\"\nattempt = \"soon\"");
    let error = stacks.reload(&path).unwrap_err();
    assert!(error.to_string().ends_with("buttress.toml:5: `http.b.attempt` is \"soon\", but must be a time with its unit, such as \"500ms\", \"10s\" or \"1m 30s\""), "{error}");
    same();
    write(
        "[http.a]\ntotal = \"5s\"\nvendor = \"github\"\n[http.b]\npreset = \"datadog\"\n[http.b.statuses]\n409 = \"transient\"",
    );
    let ReloadError::Rebuild { keys } = stacks.reload(&path).unwrap_err() else { panic!("refused") };
    assert_eq!(keys, ["http.a.vendor", "http.b.preset", "http.b.statuses.409"]);
    same();
    write("[http.a]\ntotal = \"5s\"");
    assert_eq!(
        stacks.reload(&path).unwrap_err().to_string(),
        "the file has no table [http.b], and the stack is running: write the table again, or `Stacks::remove` it first"
    );
    same();
    write("[http.a]\ntotal = \"5s\"\n[http.b]\npreset = \"user_facing\"\n[http.c]\ntotal = \"1s\"");
    let changes = stacks.reload(&path).unwrap().changes;
    assert_eq!(
        changes.iter().map(|change| &*change.key).collect::<Vec<_>>(),
        ["http.a.total", "http.b.preset", "http.b.total"]
    );
    assert_eq!(
        (a.total().limit(), by_hand.total().limit()),
        (Duration::from_secs(5), Duration::from_secs(10))
    );
}

#[test]
fn code_may_override_a_file_and_says_so_itself_while_it_runs() {
    let config = Config::parse("[http.x]\ntotal = \"20s\"").unwrap();
    let layer = config.http("x").unwrap().total(Duration::from_secs(30)).build_per_host().unwrap();
    assert_eq!(layer.total().limit(), Duration::from_secs(30));
    let bad = buttress::http("x").map_circuit_breaker(|breaker| breaker.probes(0));
    assert_eq!(bad.apply_to(&layer.handle()).unwrap_err().field(), "probes");
    let trip = Trip::ConsecutiveFailures(9);
    let good =
        buttress::http("x").total(Duration::from_secs(40)).map_circuit_breaker(|breaker| breaker.trip(trip));
    good.apply_to(&layer.handle()).unwrap();
    assert_eq!(layer.total().limit(), Duration::from_secs(40));
    assert_eq!(layer.circuit_breaker().handle().config().trips(), [trip]);
    let reload = layer.handle().reload(&Config::parse("[http.x]\ntotal = \"25s\"").unwrap()).unwrap();
    assert_eq!((reload.changes.len(), layer.total().limit()), (1, Duration::from_secs(25)));
}

#[cfg(feature = "grpc")]
#[test]
fn of_grpc_the_time_of_an_attempt_belongs_to_how_a_stack_is_built() {
    let parse = |text: &str| Config::parse(text).unwrap();
    let layer = parse("[grpc.x]\ntotal = \"20s\"").grpc("x").unwrap().build_per_host().unwrap();
    let stacks = Stacks::new();
    stacks.add(layer.handle()).unwrap();
    let error = stacks.apply(&parse("[grpc.x]\nattempt = \"1s\"\nstreams = [\"a.B/C\"]")).unwrap_err();
    let says = "grpc.x.attempt, grpc.x.streams: belongs to how a stack is built, and is not changed in place; restart the process";
    assert_eq!((error.to_string(), layer.total().limit()), (says.to_owned(), Duration::from_secs(20)));
    stacks.apply(&parse("[grpc.x]\n[grpc.x.breaker]\nconsecutive_failures = 9")).unwrap();
    assert_eq!(layer.circuit_breaker().handle().config().trips(), [Trip::ConsecutiveFailures(9)]);
    assert_eq!(stacks.get("grpc.x").unwrap().total().limit(), Duration::from_secs(10));
    let states = layer.handle().circuits().states();
    assert_eq!((states.len(), layer.handle().to_string().contains("9 failures")), (0, true));
}

/// A file as text, and the same by code.
mod generated {
    use super::*;
    use buttress::circuit_breaker::{Abandoned, ProbeExpiry, Ratio, Recovery, Window};
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
            (1..60_u64, 1..60_u64)
                .prop_map(|(m, s)| (format!("\"{m}m {s}s\""), Duration::from_secs(60 * m + s))),
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
                        format!(
                            "{{ base = {text}, growth = \"linear\", cap = {cap_text}, jitter = {spread} }}"
                        ),
                        Backoff::linear(base, cap).unwrap().jitter(jitter),
                    ),
                    2 => (
                        format!("{{ base = {text}, growth = \"constant\", jitter = {spread} }}"),
                        Backoff::constant(base).jitter(jitter),
                    ),
                    _ => (
                        format!(
                            "{{ base = {text}, factor = {factor:?}, cap = {cap_text}, jitter = {spread} }}"
                        ),
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
                let rest =
                    format!("window = {text}, at_least = \"{percent}%\", minimum_calls = {minimum_calls}");
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
        parts.prop_map(
            |(failures, slow, open, probes, successes, (text, time), (eager, count, expiry, left))| {
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
                    boxed(
                        format!("recovery = {{ calls = {successes}, at_least = 0.4 }}"),
                        move |config: Breaker| {
                            config.recovery(Recovery::Ratio { calls: successes, at_least })
                        },
                    )
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
            },
        )
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
                    boxed(format!("max_total_wait = {text}"), move |config: Retry| {
                        config.max_total_wait(time)
                    }),
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
}

/// Files that come one after the other while a real client calls a real server.
mod traffic {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    use buttress::http::ReplayBody;
    use buttress::{Refused, find};
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Full;
    use hyper_util::client::legacy::{Client, connect::HttpConnector};
    use hyper_util::rt::TokioExecutor;
    use loopback::{Server, status};
    use tower::{Layer, ServiceExt};

    type Body = Full<Bytes>;

    fn client() -> Client<HttpConnector, ReplayBody<Body>> {
        Client::builder(TokioExecutor::new()).build_http()
    }

    fn file(n: u64) -> Config {
        let window = ["100", "\"10s\"", "20", "\"1m\""][n as usize % 4];
        let text = format!(
            "[http.x]\ntotal = \"{}s\"\nattempt = \"{}s\"\n[http.x.retry]\nmax_retries = {}\nrate_gate = {}\n[http.x.breaker]\n\
             failure_rate = {{ window = {window}, at_least = \"100%\", minimum_calls = 20 }}\neager = {}\n",
            60 + n % 7,
            30 + n % 5,
            n % 3,
            n % 2 == 0,
            n % 2 == 1,
        );
        Config::parse(&text).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_call_is_lost_while_files_come_and_go_and_the_circuit_stays_as_it_is() {
        let server = Server::start([]).await;
        let layer = file(0).http("x").unwrap().silent().build().unwrap();
        let stacks = Stacks::new();
        stacks.add(layer.handle()).unwrap();
        let service = layer.layer(client());
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let (service, over, answered) = (service.clone(), Arc::clone(&over), Arc::clone(&answered));
                let url = server.url().to_owned();
                tokio::spawn(async move {
                    while !over.load(Relaxed) {
                        let request = Request::get(&url).body(Body::default()).unwrap();
                        let response = service.clone().oneshot(request).await.expect("no call is lost");
                        assert_eq!(response.status(), 200);
                        answered.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        let mut changes = 0;
        for n in 1..60 {
            changes += stacks.apply(&file(n)).unwrap().changes.len();
            // Some calls by each.
            let before = answered.load(Relaxed);
            while answered.load(Relaxed) < before + 3 {
                tokio::task::yield_now().await;
            }
        }
        over.store(true, Relaxed);
        for caller in callers {
            caller.await.unwrap();
        }
        assert!(changes > 59, "{changes}");
        assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Closed);
        drop(server);

        let down = Server::start_then([], status(503)).await;
        // A client of its own: the other one's idle connections may lead to the same port.
        let service = layer.layer(client());
        let call = async || {
            let request = Request::get(down.url()).body(Body::default()).unwrap();
            service.clone().oneshot(request).await
        };
        stacks.apply(&Config::parse("[http.x.retry]\nmax_retries = 0").unwrap()).unwrap();
        for _ in 0..5 {
            assert_eq!(call().await.unwrap().status(), 503);
        }
        assert_eq!(layer.circuit_breaker().handle().state(), CircuitState::Open);
        for n in 0..20 {
            stacks.apply(&file(n)).unwrap();
            let error = call().await.unwrap_err();
            let refused = find::<Refused>(&*error).unwrap();
            // Of the sixty seconds that it opened for.
            assert!(refused.retry_after().unwrap() > Duration::from_secs(5), "{refused}");
        }
        assert_eq!(down.seen().len(), 5);
    }
}
