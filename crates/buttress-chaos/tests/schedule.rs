//! Chaos in files.
#![cfg(feature = "schedule")]

use std::time::Duration;

use buttress_chaos::{Answer, ChaosSchedule, Cut, Field, Latency, Numbering, Rule, Stream, Toxic, Window};
use buttress_core::Kind;
use proptest::prelude::*;

const EVERYTHING: &str = r#"
version = 1
seed = 7

[[layers.api]]
fault = "status"
status = 429
headers = { retry-after = "3" }
body = "slow down"
from = "1.5s"
until = "2m"
every = "1h"
when = { method = "POST", path_prefix = "/v2/", headers = { X-Chaos = "yes" } }

[[layers.api]]
fault = "grpc"
code = 14
message = "no backend"
numbering = "per_key"
skip = 1
first = 2
every_nth = 3
rate = 0.25

[[layers.api]]
fault = "latency"
latency = 250
jitter = "50ms"

[[layers.api]]
fault = "error"
kind = "throttled"
effect = "not_sent"
delay = "10ms"
delay_jitter = "5ms"

[[layers.db]]
fault = "io_error"
kind = "connection_reset"
[[layers.db]]
fault = "truncate"
after = 512
end = "silent"
[[layers.db]]
fault = "slow_body"
bytes = 10
pause = "1s"
[[layers.db]]
fault = "pass"
when = { key = "a", path = "/", authority = "b" }
[[layers.db]]
fault = "response_latency"
latency = "1s"
[[layers.db]]
fault = "hang"
numbering = "key"
rate = 0.5
[[layers.db]]
fault = "panic"
[[layers.db]]
fault = "lose_answer"
[[layers.db]]
fault = "withhold_answer"

[[proxies.pg]]
name = "far"
type = "latency"
stream = "upstream"
toxicity = 0.5
from = "5s"
until = "6s"
every = "10s"
attributes = { latency = "20ms", jitter = 5 }
[[proxies.pg]]
type = "bandwidth"
attributes = { rate = 64 }
[[proxies.pg]]
type = "slow_close"
attributes = { delay = "1s" }
[[proxies.pg]]
type = "timeout"
[[proxies.pg]]
type = "reset_peer"
attributes = { timeout = "1s" }
[[proxies.pg]]
type = "slicer"
attributes = { average_size = 10, size_variation = 2, delay = 500 }
[[proxies.pg]]
type = "limit_data"
attributes = { bytes = 1000 }
"#;

#[test]
fn a_file_says_what_code_says() {
    let schedule = ChaosSchedule::parse(EVERYTHING).unwrap();
    let (seconds, millis) = (Duration::from_secs, Duration::from_millis);
    let answer = Answer::status(429).header("retry-after", "3").body("slow down");
    let window = Window::always().from(millis(1500)).until(seconds(120)).every(seconds(3600));
    let expected = [
        Rule::respond(answer)
            .within(window)
            .when(Field::Method, "POST")
            .when_begins(Field::Path, "/v2/")
            .when(Field::Header("x-chaos".into()), "yes"),
        Rule::grpc(14, "no backend").numbered(Numbering::PerKey).skip(1).first(2).every_nth(3).rate(0.25),
        Rule::latency(Latency::fixed(millis(250)).jitter(millis(50))),
        Rule::new(buttress_chaos::Fault::Error(buttress_core::Verdict::failure(Kind::Throttled).not_sent()))
            .delayed(Latency::fixed(millis(10)).jitter(millis(5))),
    ];
    assert_eq!(schedule.rules("api"), expected);
    assert_eq!(schedule.rules("db")[1], Rule::truncate(512, Cut::Silent));
    let far = Toxic::latency(Latency::fixed(millis(20)).jitter(millis(5)))
        .named("far")
        .stream(Stream::Upstream)
        .toxicity(0.5)
        .within(Window::always().from(seconds(5)).until(seconds(6)).every(seconds(10)));
    let expected = [
        far,
        Toxic::bandwidth(64),
        Toxic::slow_close(seconds(1)),
        Toxic::black_hole(),
        Toxic::reset_peer(seconds(1)),
        Toxic::slicer(10, 2, Duration::from_micros(500)),
        Toxic::limit_data(1000),
    ];
    assert_eq!(schedule.toxics("pg"), expected);
    assert_eq!((schedule.seed(), schedule.rules("x").len(), schedule.toxics("x").len()), (7, 0, 0));
    assert_eq!(schedule.layers().collect::<Vec<_>>(), ["api", "db"]);
    assert_eq!(schedule.proxies().collect::<Vec<_>>(), ["pg"]);
}

#[test]
fn what_is_written_reads_as_the_same() {
    let schedule = ChaosSchedule::parse(EVERYTHING).unwrap();
    let written = schedule.to_toml();
    let again = ChaosSchedule::parse(&written).unwrap_or_else(|error| panic!("{error}\n{written}"));
    assert_eq!(again, schedule, "{written}");
    assert_eq!(again.to_toml(), written);
}

#[test]
fn a_mistake_is_named_with_its_line_and_its_field() {
    let mut wrong = Vec::new();
    for (text, line, part) in [
        ("seed = 1", Some(1), "missing field `version`"),
        ("version = 2", Some(1), "`version` is 2, but this build reads version 1"),
        ("version = 1\nlayer = 3", Some(2), "unknown field `layer`"),
        ("version = 1\n[[layers.a]]\nfault = \"hang\"\nrat = 1", Some(4), "unknown field `rat`"),
        ("version = 1\n[[layers.a]]\nfault = \"hang\"\nrate = \"x\"", Some(4), "invalid type: string \"x\""),
        ("version = 1\n[[layers.a]]\nfault = \"hang\"\nfrom = 1.5", Some(4), "a time such as"),
        ("version = 1\n[[layers.a]]\nfault = \"hang\"\nfrom = -1", Some(4), "a time such as"),
        ("version = 1\nseed = ", Some(2), ""),
        (
            "version = 1\n\n[[layers.a]]\nfault = \"hang\"\nrate = 1.5",
            Some(5),
            "in `layers.a[0]`, `rate` is 1.5, but a probability",
        ),
        (
            "version = 1\n[[layers.a]]\nfault = \"hang\"\n[[layers.a]]\nfault = \"fog\"",
            Some(5),
            "in `layers.a[1]`, `fault` is \"fog\", but it must be one of \"pass\"",
        ),
        ("version = 1\n[[layers.a]]\nrate = 1", Some(2), "`fault` is \"\", but it must be one of pass"),
        (
            "version = 1\n[[layers.a]]\nfault = \"status\"",
            Some(2),
            "`status` is None, but \"status\" needs it",
        ),
        (
            "version = 1\n[[layers.a]]\nfault = \"hang\"\nstatus = 5",
            Some(4),
            "fault \"hang\" has no field of its own",
        ),
        (
            "version = 1\n[[layers.a]]\nfault = \"error\"\nkind = \"transient\"\nstatus = 5",
            Some(5),
            "fault \"error\" has only kind, effect",
        ),
        (
            "version = 1\n[[layers.a]]\nfault = \"hang\"\nuntil = \"5 parsecs\"",
            Some(4),
            "`until` is \"5 parsecs\", but it must be a time",
        ),
        (
            "version = 1\n[[layers.a]]\nfault = \"hang\"\nfrom = \"5s\"\nuntil = \"4s\"",
            Some(5),
            "it must be after `from`, 5s",
        ),
        ("version = 1\n[[layers.a]]\nfault = \"hang\"\ndelay_jitter = \"4s\"", Some(2), "`delay` is None"),
        ("version = 1\n[[proxies.a]]\ntype = \"fog\"", Some(3), "in `proxies.a[0]`, `type` is \"fog\""),
        ("version = 1\n[[proxies.a]]\nstream = \"upstream\"", Some(2), "missing field `type`"),
        (
            "version = 1\n[[proxies.a]]\ntype = \"bandwidth\"\nattributes = { rate = 0 }",
            Some(2),
            "`rate` is 0, but it must be at least 1 KB/s",
        ),
    ] {
        let error = ChaosSchedule::parse(text).unwrap_err();
        if error.line() != line || !error.to_string().contains(part) {
            wrong.push(format!("{text:?}: {:?} {error}", error.line()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_file_is_named() {
    let error = ChaosSchedule::load("no/such.toml").unwrap_err().to_string();
    assert!(error.starts_with("no/such.toml: cannot be read: "), "{error}");
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos.toml");
    std::fs::write(&file, "version = 1\n\n[[layers.a]]\nfault = \"fog\"").unwrap();
    let error = ChaosSchedule::load(&file).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}, line 4: in `layers.a[0]`", file.display())), "{error}");
    std::fs::write(&file, EVERYTHING).unwrap();
    assert_eq!(ChaosSchedule::load(&file).unwrap(), ChaosSchedule::parse(EVERYTHING).unwrap());
}

proptest! {
    /// Parts of a schedule in disorder.
    #[test]
    fn nothing_that_is_written_makes_it_panic(
        lines in proptest::collection::vec(0..200_usize, 0..30),
        noise in "\\PC{0,12}",
        at in 0..30_usize,
    ) {
        let known: Vec<&str> = EVERYTHING.lines().collect();
        let mut text: Vec<&str> = lines.iter().map(|line| known[line % known.len()]).collect();
        text.insert(0, "version = 1");
        text.insert(at.min(text.len()), &noise);
        if let Ok(schedule) = ChaosSchedule::parse(&text.join("\n")) {
            prop_assert_eq!(ChaosSchedule::parse(&schedule.to_toml()).unwrap(), schedule);
        }
    }
}
